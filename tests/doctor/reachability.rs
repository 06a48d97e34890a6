//! Servers that cannot be connected to, each for a reason of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::{Domain, Socket, Type};

use crate::run::{Doctor, Report, SECRET};
use crate::support::server::{StartError, poll};
use crate::support::{
    Auth, Resp, SEVEN, TestServer, Transport, VendorScript, VendorServer, lacks, skip,
};

fn with_password() -> TestServer {
    crate::server().password(SECRET).start().unwrap()
}

#[test]
fn a_wrong_password() {
    let server = with_password();
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::Password("not-it-either"), 0);
    let ended = Doctor::of(&[&url]).run();
    assert!(!format!("{ended:?}").contains("not-it-either"), "{ended:#?}");
    let report = ended.report();
    let seen = report.is(3, "auth_failed");
    seen.level("failed", &["reachability.auth"]).level("ok", &["reachability.connect"]);
    assert!(seen.says("auth_failed").contains("WRONGPASS"), "the server's words: {report}");
}

#[test]
fn no_password_where_one_is_needed() {
    let server = with_password();
    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    let seen = report.is(3, "auth_failed");
    seen.level("failed", &["reachability.auth"]);
    assert!(seen.says("auth_failed").contains("NOAUTH"), "the server's words: {report}");
    assert!(seen.advice().contains("REDISCLI_AUTH"), "where it comes from: {report}");
}

#[test]
fn the_password_comes_from_the_environment() {
    let server = with_password();
    let report = Doctor::of(&[&server.url()]).env("REDISCLI_AUTH", SECRET).report_of(&[&server]);
    report.is(0, "nothing_wrong").level("ok", &["reachability.auth"]);
}

#[test]
fn a_password_in_the_url_is_used_and_never_shown() {
    let server = with_password();
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::Password(SECRET), 0);
    for output in ["json", "text"] {
        // `run` looks for it, in both streams.
        let ended =
            Doctor::words(&["doctor", &url, "-vv", "--sample", "100ms", "--output", output]);
        let ended = ended.env("RUST_LOG", "trace").run();
        assert_eq!(ended.code, 0, "{ended:#?}");
    }
}

#[test]
fn a_user_who_does_not_exist() {
    let server = with_password();
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::User("nobody", SECRET), 0);
    Doctor::of(&[&url]).report().is(3, "auth_failed");
}

#[test]
fn a_password_for_a_server_that_has_none() {
    let server = crate::server().start().unwrap();
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::Password(SECRET), 0);
    let report = Doctor::of(&[&url]).report();
    let seen = report.is(3, "auth_failed");
    assert!(seen.says("auth_failed").contains("without any password"), "{report}");
}

#[test]
fn a_database_that_does_not_exist() {
    let server = crate::server().start().unwrap();
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::None, 99);
    Doctor::of(&[&url]).report().is(3, "misconfigured");
}

#[test]
fn a_port_that_nobody_listens_on() {
    let server = crate::server().start().unwrap();
    server.stop();
    let report = Doctor::of(&[&server.url()]).report();
    let seen = report.is(3, "refused");
    seen.level("failed", &["reachability.connect"]);
    assert!(seen.says("refused").contains("refused"), "the system's words: {report}");
    assert!(seen.json["server"].as_str().unwrap().contains(&server.port().to_string()));
}

#[test]
fn a_unix_socket_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("redis+unix://{}/redis.sock", dir.path().display());
    let report = Doctor::of(&[&url]).report();
    assert_eq!(report.code, 3, "{report}");
    assert!(["refused", "unreachable"].contains(&report.server(0).verdict()), "{report}");
}

#[test]
fn a_name_that_does_not_resolve() {
    let report = Doctor::of(&["redis://no-such-host.invalid:6379", "--timeout", "20s"]).report();
    let seen = report.is(3, "dns");
    seen.level("failed", &["reachability.dns"]);
    assert!(seen.json["server"].as_str().unwrap().contains("no-such-host.invalid"), "{report}");
}

/// A listener whose backlog is full: further SYNs are dropped, as a firewall does.
#[test]
fn an_address_that_swallows_everything() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&address.into());
            client
        })
        .collect();

    let report = Doctor::of(&[&format!("redis://{address}"), "--timeout", "400ms"]).report();
    let seen = report.is(3, "timed_out");
    seen.level("failed", &["reachability.connect"]);
    drop(waiting);
}

/// An address of this machine that is not loopback, if it has one.
fn outside() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent; the kernel chooses the address it would send from.
    socket.connect(("203.0.113.1", 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) if !address.ip().is_loopback() => Some(*address.ip()),
        _ => None,
    }
}

#[test]
fn protected_mode() -> Result<(), StartError> {
    if lacks("protected mode beside a bind", SEVEN) {
        return Ok(());
    }
    let Some(address) = outside() else {
        skip("this machine has only a loopback address; the vendors' script tells the same below");
        return Ok(());
    };
    let server = TestServer::builder().arg("bind", &format!("127.0.0.1 {address}")).start()?;
    let report = Doctor::of(&[&format!("redis://{address}:{}", server.port())]);
    let report = report.report_of(&[&server]);
    let seen = report.is(3, "protected_mode");
    assert_eq!(server.admin().info_u64("rejected_connections"), 1, "one dial, and no more");
    assert!(
        seen.advice().contains("password") || seen.advice().contains("requirepass"),
        "{report}"
    );
    Ok(())
}

async fn vendor(script: VendorScript) -> Report {
    let server = VendorServer::start(script).await.unwrap();
    // Only those who say nothing have to be waited for.
    let timeout = if script == VendorScript::Nothing { "400ms" } else { "10s" };
    let report = Doctor::of(&[&server.url(), "--timeout", timeout]).report();
    assert_eq!(report.code, 3, "{report}");
    assert_eq!(server.accepted(), 1, "one dial, whatever it says");
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn protected_mode_in_a_vendors_words() {
    vendor(VendorScript::Denied).await.is(3, "protected_mode");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_web_server() {
    let report = vendor(VendorScript::HttpServer).await;
    let seen = report.is(3, "not_redis");
    assert!(seen.says("not_redis").contains("HTTP"), "{report}");
}

/// Over plain TCP a full server says so: whoever closes without a word is probably something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_port_that_accepts_and_closes() {
    for script in [VendorScript::SilentClose, VendorScript::SilentReset] {
        let report = vendor(script).await;
        let seen = report.server(0);
        let (kind, words) = (seen.verdict(), seen.says(seen.verdict()).to_lowercase());
        assert!(["full", "other", "not_redis"].contains(&kind), "{report}");
        let hedges = ["probably", "likely", "suspect", "seems", "may be", "looks like", "or "];
        assert!(hedges.iter().any(|hedge| words.contains(hedge)), "nobody said so: {words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn garbage() {
    vendor(VendorScript::Garbage).await.is(3, "not_redis");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_without_a_backend() {
    vendor(VendorScript::EnvoyNoUpstream).await.is(3, "unreachable");
}

/// With fewer and fewer files the doctor's own machinery fails, too, but never the server's name.
#[cfg(unix)]
#[test]
fn a_doctor_without_a_file_left_says_so() {
    let server = crate::server().start().unwrap();
    let url = format!("redis://localhost:{}", server.port());
    let mut verdicts = std::collections::BTreeSet::new();
    for files in 6..24 {
        let doctor = std::process::Command::new("sh")
            .args([
                "-c",
                "ulimit -n \"$1\" && exec \"$0\" doctor --output json --sample 1ms \"$2\"",
            ])
            .args([env!("CARGO_BIN_EXE_redis-guard"), &files.to_string(), &url])
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap_or_default();
        let verdict = &report["servers"][0]["verdict"]["kind"];
        verdicts.insert(verdict.as_str().unwrap_or("none").to_owned());
    }
    assert!(verdicts.contains("local_limit") && !verdicts.contains("dns"), "{verdicts:?}");
}

/// Before the first reply, or after that to AUTH.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_that_knows_no_client() {
    let server = VendorServer::start(VendorScript::Twemproxy).await.unwrap();
    for url in [server.url(), server.url_with(":secret", "")] {
        let report = Doctor::of(&[&url, "--timeout", "10s"]).report();
        report.is(3, "other");
        assert!(report.to_string().contains("plain_handshake"), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_port_that_says_nothing() {
    vendor(VendorScript::Nothing).await.is(3, "unresponsive");
}

/// Not one of the scripts makes it panic, hang, show a password, or claim that all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whatever_answers_there_is_a_report() {
    let mut running = Vec::new();
    for script in VendorScript::ALL {
        let server = VendorServer::start(script).await.unwrap();
        // Some of them repeat what they are told: `end` looks for the password.
        let told = server.url_with(&format!("app:{SECRET}"), "protocol=resp3");
        let doctor = |url: &str| Doctor::of(&[url, "--timeout", "400ms"]).spawn();
        let doctors = [doctor(&told), doctor(&server.url())];
        running.push((script, server, doctors));
    }
    for (script, _server, doctors) in running {
        for doctor in doctors {
            let report = doctor.end().report();
            assert_ne!(report.code, 0, "{script:?}: {report}");
            assert_ne!(report.server(0).verdict(), "nothing_wrong", "{script:?}: {report}");
        }
    }
}

/// An SSH server speaks first.
#[test]
fn a_server_that_speaks_first_and_is_no_redis() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let ssh = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let report = Doctor::of(&[&format!("redis://{address}"), "--timeout", "10s"]).report();
    let seen = report.is(3, "not_redis");
    assert!(seen.says("not_redis").contains("SSH-2.0"), "what it said: {report}");
    ssh.join().unwrap();
}

#[test]
fn waiting_does_not_mend_a_password() {
    let server = with_password();
    let began = tokio::time::Instant::now();
    let report = Doctor::of(&[&server.url(), "--wait", "60s"]).report();
    report.is(3, "auth_failed");
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    assert_eq!(report.server(0).number("/reachability/dials"), 1);
}

#[test]
fn waiting_for_a_server_that_is_being_restarted() {
    let server = crate::server().start().unwrap();
    server.stop();
    let doctor = Doctor::of(&[&server.url(), "--wait", "20s"]).spawn();
    server.restart().unwrap();
    let report = doctor.end().report();
    report.is(0, "nothing_wrong");
}

#[test]
fn a_wait_that_is_over_ends_with_what_the_last_dial_heard() {
    let server = crate::server().start().unwrap();
    server.stop();
    let report = Doctor::of(&[&server.url(), "--wait", "800ms"]).report();
    let seen = report.is(3, "refused");
    assert!(seen.number("/reachability/dials") > 1, "{report}");
}

/// Ends the threads of a scope, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// There is always more for the server to do, however the threads are scheduled: it takes 16 KiB of
/// commands at a time, and a PING waits for them.
#[test]
fn a_server_that_is_slow_to_answer() {
    let server = crate::server().start().unwrap();
    let over = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        let _stop = Stop(&over);
        scope.spawn(|| {
            // With blanks to the end of the line: four of them are 16 KiB.
            let commands = format!("{:4094}\r\n", "DEBUG SLEEP 0.005").repeat(16);
            let mut client = UnixStream::connect(server.socket_path()).unwrap();
            while !over.load(Ordering::SeqCst) {
                client.write_all(commands.as_bytes()).unwrap();
            }
        });
        let busy = || (server.admin().info_u64("total_commands_processed") > 20).then_some(());
        poll(crate::IDLE_LIMIT, busy).expect("it should be at work");
        Doctor::of(&[&server.url()]).report()
    });
    report.server(0).level("warning", &["reachability.ping"]);
    let p50 = report.server(0).json["reachability"]["ping"]["p50_seconds"].as_f64().unwrap();
    assert!(p50 > 0.01, "{p50}");
}

#[test]
fn a_service_on_this_machine_that_dials_for_every_request() {
    let server = crate::server().start().unwrap();
    // Whoever closes first keeps the socket in TIME_WAIT.
    for _ in 0..1_100 {
        let _request = crate::support::Crowd::from(&server, 2).open(1);
    }
    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    let seen = report.server(0);
    assert_eq!(report.code, 0, "{report}");
    seen.level("warning", &["reachability.time_wait"]);
    assert!(seen.number("/reachability/time_wait") >= 1_000, "{report}");
}
