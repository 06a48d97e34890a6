//! A name of two addresses, one of which drops packets.
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use redis_guard::AsyncCommands;
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use crate::support::{TestServer, dials, skip, unhurried};
use crate::waiting::soon;

/// Set in the process that has a name of two addresses, which is this test once more.
const PORT: &str = "REDIS_GUARD_TEST_TWO_ADDRESSES";

/// One address's share of the connect timeout, which each dial would wait for a silent one, is half a
/// minute here.
const FAR_LESS: Duration = Duration::from_secs(25);

/// A listener that nobody accepts from, with its backlog full: the kernel drops every further SYN.
struct Silent {
    address: SocketAddr,
    _listener: Socket,
    _waiting: Vec<TcpStream>,
}

impl Silent {
    fn at(address: SocketAddr) -> std::io::Result<Self> {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address.is_ipv6() {
            listener.set_only_v6(true)?;
        }
        listener.bind(&address.into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            waiting.push(stream);
        }
        Ok(Self { address, _listener: listener, _waiting: waiting })
    }
}

#[tokio::test]
async fn the_first_timeout_of_a_silent_host_names_it_and_the_stage() {
    let silent = Silent::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = silent.address;
    let builder =
        unhurried(format!("redis://{address}")).acquire_timeout(Duration::from_millis(20));
    let pool = builder.build().unwrap();

    let told = soon("the timeout", pool.acquire("test")).await.unwrap_err().to_string();

    let stage = format!("redis at {address} [timeout]: nothing has answered the connect yet");
    assert!(told.contains(&stage), "{told}");
}

#[tokio::test]
async fn an_ipv6_address_is_shown_in_brackets() {
    let server = TestServer::builder().arg("bind", "127.0.0.1 -::1").start().unwrap();
    let shown = format!("[::1]:{}", server.port());
    let pool = unhurried(format!("redis://{shown}")).build().unwrap();
    if TcpStream::connect(&shown).is_err() {
        return skip("this machine has no IPv6");
    }
    soon("a lease", pool.acquire("test")).await.unwrap();
    assert_eq!(&*pool.status().server, shown.as_str());
    server.stop();
    let failed = unhurried(format!("redis://{shown}")).own_gate(true).build().unwrap();
    let told = soon("a failure", failed.warm_up(1)).await.unwrap_err().to_string();
    assert!(told.contains(&format!("redis at {shown} [refused]")), "{told}");
}

#[tokio::test]
async fn a_silent_address_costs_one_head_start_and_no_slot() {
    if let Ok(port) = std::env::var(PORT) {
        return dial_two_addresses(&port).await;
    }
    let server = TestServer::start().unwrap();
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, server.port()));
    let silent = Silent::at(address);
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "::1 two.test\n127.0.0.1 two.test\n").unwrap();
    let script =
        "mount --bind \"$1\" /etc/hosts || exit 77; exec \"$0\" --exact \"$2\" --nocapture";
    let in_namespace = |flags: &str| {
        let test = "addresses::a_silent_address_costs_one_head_start_and_no_slot";
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-c", script]).arg(std::env::current_exe().unwrap());
        command.arg(&hosts).arg(test).env(PORT, server.port().to_string()).output()
    };
    let before = server.admin().info_u64("total_connections_received");

    // A user that is not root has a mount namespace only in a user namespace.
    let run = in_namespace("-m").ok().filter(|run| run.status.code() != Some(1));
    let run = run.or_else(|| in_namespace("-rm").ok());

    let (Ok(_silent), Some(run)) = (silent, run) else {
        return skip("this machine has no IPv6, or lets nobody rename its addresses");
    };
    let said = [run.stdout, run.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if run.status.code() == Some(77) || said.contains("unshare failed") {
        return skip(&format!("no mount namespace here: {said}"));
    }
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
    let dialed = server.admin().info_u64("total_connections_received") - before;
    assert!(said.contains(&format!("{dialed} dials\n")), "{dialed} connections, but {said}");
}

async fn dial_two_addresses(port: &str) {
    let url = format!("redis://two.test:{port}");
    let begun = Instant::now();
    let pool = unhurried(url.as_str()).max_connections(10).build().unwrap();
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    let first = begun.elapsed();
    lease.set::<_, _, ()>("key", "value").await.unwrap();
    pool.warm_up(8).await.unwrap();
    let warm = begun.elapsed();
    let _subscriber = soon("a subscriber", pool.pubsub("test")).await.unwrap();
    let value: String = soon("a shared GET", pool.shared("test").get("key")).await.unwrap();

    println!("the first lease took {first:?}, 8 connections {warm:?}");
    assert_eq!(value, "value");
    let connected = dials(&pool);
    assert_eq!(connected.keys().collect::<Vec<_>>(), [&"connected"]);
    assert!(begun.elapsed() < FAR_LESS, "{:?}", begun.elapsed());
    println!("{} dials", connected["connected"] + doctor_dials(&url).await);
}

/// The doctor names the address that is silent.
#[cfg(feature = "doctor")]
async fn doctor_dials(url: &str) -> u64 {
    use redis_guard::doctor::{Doctor, Level};

    let report = Doctor::new([url]).sample(Duration::from_millis(1)).examine().await;
    let check = report.servers[0].check("reachability.connect").unwrap();
    assert_eq!(check.level, Level::Warning, "{report}");
    assert!(check.evidence.contains("not to [::1]:"), "{report}");
    1
}

#[cfg(not(feature = "doctor"))]
async fn doctor_dials(_url: &str) -> u64 {
    0
}
