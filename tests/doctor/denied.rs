//! Users and services that may not ask everything.

use crate::fake::Fake;
use crate::run::{Doctor, SECRET};
use crate::support::{Auth, Crowd, Resp, SEVEN, TestServer, Transport, lacks};

/// A server with a user who may do everything but this.
fn server(maxclients: u32, denied: &str) -> (TestServer, String) {
    let rights = format!("watcher on >{SECRET} ~* &* +@all {denied}");
    let server = crate::server().maxclients(maxclients).arg("user", &rights);
    let server = server.start().unwrap();
    let auth = Auth::User("watcher", SECRET);
    let url = server.url_with(Transport::Tcp, Resp::Resp2, auth, 0);
    (server, url)
}

#[test]
fn without_config_a_healthy_server_is_healthy() {
    let (server, url) = server(50, "-config");
    let report = Doctor::of(&[&url, "--strict"]).report_of(&[&server]);
    let seen = report.is(0, "nothing_wrong");
    assert_eq!(seen.number("/capacity/maxclients"), 50, "INFO tells");
    seen.level("skipped", &["server.timeout"]);
    let why = seen.check("server.timeout").evidence;
    assert!(why.contains("CONFIG") || why.contains("NOPERM"), "{why}");
}

#[test]
fn without_config_nobody_is_told_to_use_it() {
    let (server, url) = server(24, "-config");
    let _busy = [2, 3, 4, 5, 6, 7, 8].map(|host| Crowd::from(&server, host).open(3).busy());
    let report = Doctor::of(&[&url, "--idle-after", "30s"]).report_of(&[&server]);
    let seen = report.is(2, "ceiling_too_low");
    seen.level("failed", &["capacity.saturation"]);
    assert!(!seen.advice().contains("CONFIG SET"), "{report}");
}

#[test]
fn a_service_that_does_not_know_config() {
    let real = crate::server().maxclients(50).start().unwrap();
    let fake = Fake::builder().info(real.admin().text(&["INFO"]));
    let fake = fake.client_list(real.admin().text(&["CLIENT", "LIST"]));
    let fake = fake.reply("CONFIG", "-ERR unknown command 'CONFIG'\r\n").start();
    let report = Doctor::of(&[&fake.url(), "--strict"]).report();
    report.is(0, "nothing_wrong").level("skipped", &["server.timeout"]);
    assert_eq!(fake.accepted(), 1);
}

#[test]
fn without_client_list_the_rest_is_examined() {
    if lacks("rules on subcommands", SEVEN) {
        return;
    }
    let (server, url) = server(24, "-client|list");
    let _busy = [2, 3, 4, 5, 6, 7, 8].map(|host| Crowd::from(&server, host).open(3).busy());
    let report = Doctor::of(&[&url]).report_of(&[&server]);
    let seen = report.server(0);
    assert_eq!(report.code, 2, "{report}");
    seen.level("failed", &["capacity.saturation"]);
    seen.level("skipped", &["holders.sources"]);
    assert!(seen.check("holders.sources").evidence.contains("NOPERM"), "{report}");
    assert!(seen.json["holders"].is_null(), "{report}");
    assert_ne!(seen.verdict(), "nothing_wrong");
    assert_ne!(seen.verdict(), "ceiling_too_low", "nobody knows whether they work: {report}");
}

#[test]
fn without_client_at_all_the_doctor_still_gets_in() {
    let (server, url) = server(50, "-client");
    let report = Doctor::of(&[&url, "--strict"]).report_of(&[&server]);
    assert_eq!(report.code, 0, "{report}");
    report.server(0).level("skipped", &["holders.sources"]);
}

#[test]
fn without_info_nobody_says_that_all_is_well() {
    let (server, url) = server(50, "-info");
    let report = Doctor::of(&[&url]).report_of(&[&server]);
    let seen = report.server(0);
    assert_ne!(seen.check("capacity.saturation").level, "ok", "{report}");
    seen.level("skipped", &["server.memory", "replication.role"]);
    seen.level("ok", &["reachability.auth", "reachability.ping"]);
    assert_ne!(seen.verdict(), "nothing_wrong", "nothing was seen: {report}");
    assert_eq!(seen.number("/holders/clients"), 1, "CLIENT LIST may be asked: {report}");
}

#[test]
fn without_slowlog_and_ping_the_rest_is_examined() {
    let (server, url) = server(50, "-slowlog -ping -time -memory -latency");
    let report = Doctor::of(&[&url]).report_of(&[&server]);
    assert_ne!(report.code, 64, "{report}");
    report.server(0).level("skipped", &["server.slowlog"]);
}
