//! What the server itself is set to, and suffers from.

use std::net::{Ipv4Addr, SocketAddr};

use crate::run::Doctor;
use crate::support::server::{Connection, poll};
use crate::support::{SEVEN, TestServer, lacks};

fn report_of(server: &TestServer) -> crate::run::Report {
    Doctor::of(&[&server.url()]).report_of(&[server])
}

#[test]
fn a_subscriber_who_does_not_read() {
    let server = crate::server().start().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let stream = crate::support::crowd::connect(Ipv4Addr::new(127, 0, 0, 7), address).unwrap();
    let mut subscriber = Connection::over(stream);
    subscriber.expect(&["CLIENT", "SETNAME", "slow"]).unwrap();
    subscriber.send(&["SUBSCRIBE", "prices"]).unwrap();
    let message = "x".repeat(1 << 18);
    let swollen = || {
        server.admin().text(&["PUBLISH", "prices", &message]);
        let clients = server.admin().client_list();
        let slow = clients.iter().find(|client| client["name"] == "slow")?;
        (slow["omem"].parse::<u64>().ok()? > 2 << 20).then_some(())
    };
    poll(crate::IDLE_LIMIT, swollen).expect("its replies should pile up");

    let report = report_of(&server);
    let seen = report.server(0);
    let level = seen.check("holders.output_buffers").level;
    assert!(["warning", "failed"].contains(&level), "{report}");
    assert!(seen.check("holders.output_buffers").evidence.contains("slow"), "who: {report}");
    assert_eq!(seen.json["holders"]["slow_consumers"][0]["name"], "slow");
    assert!(seen.number("/holders/output_bytes") > 2 << 20);
}

/// The memory of a data set that is far larger than what the connections need.
fn populated(server: &TestServer) -> u64 {
    server.admin().text(&["DEBUG", "POPULATE", "100000", "key", "64"]);
    server.admin().info_u64("used_memory")
}

#[test]
fn memory_near_its_limit_where_nothing_is_evicted() {
    let server = crate::server().start().unwrap();
    let limit = populated(&server) * 102 / 100;
    server.admin().text(&["CONFIG", "SET", "maxmemory", &limit.to_string()]);
    server.admin().text(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);

    let report = report_of(&server);
    let seen = report.server(0);
    let check = seen.check("server.memory");
    assert!(["warning", "failed"].contains(&check.level), "{report}");
    assert!(check.evidence.contains("noeviction"), "{check:?}");
}

#[test]
fn memory_at_its_limit_where_keys_are_evicted_is_a_cache_at_work() {
    let server = crate::server().start().unwrap();
    let limit = populated(&server) * 102 / 100;
    server.admin().text(&["CONFIG", "SET", "maxmemory", &limit.to_string()]);
    server.admin().text(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let level = report_of(&server).server(0).check("server.memory").level.to_owned();
    assert!(["ok", "note"].contains(&&*level), "{level}");
}

#[test]
fn slow_commands() {
    let server = crate::server().arg("slowlog-log-slower-than", "10000").start().unwrap();
    for _ in 0..3 {
        server.admin().text(&["DEBUG", "SLEEP", "0.02"]);
    }
    let report = report_of(&server);
    let seen = report.server(0);
    seen.shows("server.slowlog", 3);
    assert_ne!(seen.check("server.slowlog").level, "ok", "{report}");
    assert_ne!(seen.check("server.slowlog").level, "failed", "nobody is refused: {report}");
    assert_eq!(server.admin().text(&["SLOWLOG", "LEN"]), "3", "it is not reset");
}

#[test]
fn no_keepalive_keeps_the_slots_of_the_dead() {
    let server = crate::server().arg("tcp-keepalive", "0").start().unwrap();
    let report = report_of(&server);
    let seen = report.is(0, "nothing_wrong");
    assert_eq!(seen.of_level("warning"), ["server.tcp_keepalive"], "{report}");
    let fix = seen.check("server.tcp_keepalive").fix.unwrap();
    assert!(fix.contains("CONFIG SET tcp-keepalive"), "{fix}");
    assert_eq!(Doctor::of(&[&server.url(), "--strict"]).run().code, 1);
}

#[test]
fn a_timeout_is_seen() {
    let server = crate::server().arg("timeout", "300").start().unwrap();
    let report = report_of(&server);
    report.is(0, "nothing_wrong").level("ok", &["server.timeout"]).shows("server.timeout", 5);
}

#[test]
fn a_backlog_too_short_for_a_scale_out() {
    let server = crate::server().arg("tcp-backlog", "64").start().unwrap();
    let report = report_of(&server);
    report.is(0, "nothing_wrong").level("note", &["server.tcp_backlog"]);
    report.server(0).shows("server.tcp_backlog", 64);
}

#[test]
fn a_limit_on_the_clients_memory_is_seen() {
    if lacks("maxmemory-clients", SEVEN) {
        return;
    }
    let server = crate::server().arg("maxmemory-clients", "64mb").start().unwrap();
    let report = report_of(&server);
    report.is(0, "nothing_wrong").level("ok", &["server.maxmemory_clients"]);
}

#[test]
fn subscribers_without_a_limit() {
    let limit = ("client-output-buffer-limit", "pubsub 0 0 0");
    let server = crate::server().arg(limit.0, limit.1).start().unwrap();
    let report = report_of(&server);
    let seen = report.is(0, "nothing_wrong");
    assert_eq!(seen.of_level("warning"), ["server.output_buffer_limits"]);
    let fix = seen.check("server.output_buffer_limits").fix.unwrap();
    // As it stands it must do what it says.
    let value = fix.split('"').nth(1).unwrap();
    let set = server.admin().text(&["CONFIG", "SET", "client-output-buffer-limit", value]);
    assert_eq!(set, "OK");
    report_of(&server).server(0).level("ok", &["server.output_buffer_limits"]);
}

/// Every fix that is one command of redis-cli's does what it says.
#[test]
fn a_fix_is_a_command_that_works() {
    let server = crate::server().maxclients(8).arg("tcp-keepalive", "0").start().unwrap();
    let occupants = server.fill_to_leave(1);
    let report = report_of(&server);
    let advice = report.server(0).advice();
    drop(occupants);
    let mut run = 0;
    for line in advice.lines().filter(|line| line.starts_with("redis-cli ")) {
        let words = line.split('#').next().unwrap();
        assert!(!words.contains('|') || words.contains("CLIENT LIST"), "{words}");
        let done = std::process::Command::new("sh").args(["-c", words]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).to_lowercase();
        assert!(!said.contains("err"), "{words}: {said}");
        run += 1;
    }
    assert!(run >= 2, "{advice}");
    assert_eq!(server.admin().maxclients(), 12);
    assert_ne!(server.admin().text(&["CONFIG", "GET", "tcp-keepalive"]), "tcp-keepalive\n0");
}
