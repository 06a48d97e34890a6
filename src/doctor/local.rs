//! What this machine knows of a server, without asking it. Linux only; elsewhere nothing is known.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::sizing::wide;

const ESTABLISHED: &str = "01";
const TIME_WAIT: &str = "06";

/// Sockets of this machine towards a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sockets {
    pub(super) established: u64,
    pub(super) time_wait: u64,
}

impl Sockets {
    /// Reads the kernel's tables, milliseconds for tens of thousands of sockets: not for an async
    /// task.
    pub(super) fn towards(addresses: &[SocketAddr]) -> Option<Self> {
        let v4 = fs::read_to_string("/proc/net/tcp").ok()?;
        let v6 = fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
        Some(Self::in_tables(&[&v4, &v6], addresses))
    }

    fn in_tables(tables: &[&str], addresses: &[SocketAddr]) -> Self {
        let mut sockets = Self::default();
        for line in tables.iter().flat_map(|table| table.lines()) {
            let mut fields = line.split_ascii_whitespace().skip(2);
            let (Some(remote), Some(state)) = (fields.next(), fields.next()) else { continue };
            let count = match state {
                ESTABLISHED => &mut sockets.established,
                TIME_WAIT => &mut sockets.time_wait,
                _ => continue,
            };
            if parse_socket(remote).is_some_and(|remote| addresses.contains(&remote)) {
                *count += 1;
            }
        }
        sockets
    }
}

/// `0100007F:18EB`: each 32-bit word of the address in the machine's byte order.
fn parse_socket(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(8 * at..8 * at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.copy_from_slice(words.as_flattened());
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The soft limit of open files of the process `pid`, if it is a server of the family on this
/// machine.
pub(super) fn open_files_limit(pid: u64) -> Option<u64> {
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    // A number from another machine, or another container, may be anybody here.
    let known = ["redis", "valkey", "keydb", "dragonfly", "garnet", "pika", "kvrocks"];
    if !known.iter().any(|name| command.to_ascii_lowercase().contains(name)) {
        return None;
    }
    soft_limit(&pid.to_string())
}

/// Open files of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnFiles {
    pub(super) open: u64,
    /// The soft limit.
    pub(super) limit: u64,
    /// What its pool may still open.
    pub(super) wanted: u64,
}

impl OwnFiles {
    pub(super) fn of_this_process(wanted: u64) -> Option<Self> {
        let limit = soft_limit("self")?;
        // Less the one that reads the directory.
        let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
        Some(Self { open: wide(open), limit, wanted })
    }
}

/// The soft limit of open files of a process; `None` where it has none, too.
fn soft_limit(process: &str) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The longest queue of connections to be accepted that the kernel allows.
pub(super) fn somaxconn() -> Option<u64> {
    fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_counted_by_where_they_lead_and_their_state() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 0100007F:1234 0100007F:18EB 01 00000000:00000000 00:00000000\n\
            1: 0100007F:1235 0100007F:18EB 06 00000000:00000000 00:00000000\n\
            2: 0100007F:1236 0100007F:18EC 06 00000000:00000000 00:00000000\n\
            3: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000\n\
            nonsense\n";
        let v6 =
            "0: 00000000000000000000000001000000:1 0000000000000000FFFF00000100007F:18EB 06 x\n";
        let server = ["127.0.0.1:6379".parse().expect("an address")];
        let sockets = Sockets::in_tables(&[v4, v6], &server);
        assert_eq!(sockets, Sockets { established: 1, time_wait: 2 });
    }
}
