//! The sockets of this machine, as Linux lists them.

use std::fs;
use std::time::Duration;

/// Of each open connection to this port: after how long its kernel asks whether the other side is there;
/// `None` while something is on its way. Of all processes.
pub(crate) fn keepalives_to(port: u16) -> Vec<Option<Duration>> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!("0100007F:{port:04X}");
    let open = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Established, and not the other end's.
        let is_open = fields[2] == remote && fields[3] == "01";
        is_open.then(|| {
            let (timer, ticks) = fields[5].split_once(':').unwrap();
            let ticks = u64::from_str_radix(ticks, 16).unwrap();
            (timer == "02").then(|| Duration::from_millis(ticks * 10))
        })
    });
    open.collect()
}

/// How many open connections to this port are asked only after longer than this, which nothing of Redis's
/// own is.
pub(crate) fn asked_after(port: u16, time: Duration) -> usize {
    keepalives_to(port).into_iter().flatten().filter(|keepalive| *keepalive > time).count()
}
