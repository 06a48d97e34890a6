//! Connections that were not used since they were new, and are too young for anybody to say more.

use std::time::Duration;

use crate::run::{Doctor, OWN_NAME, Server};
use crate::support::Crowd;

/// A room of 24 that is nearly full.
fn server() -> crate::support::TestServer {
    crate::server().maxclients(24).start().unwrap()
}

/// Nobody is told to grow, in whatever words.
#[track_caller]
fn does_not_grow(seen: &Server<'_>) {
    let advice = seen.advice();
    assert!(!advice.contains("maxclients") && !advice.contains("ceiling"), "{advice}");
    assert!(advice.contains("look again in a minute"), "{advice}");
    assert!(advice.contains("--wait 60s"), "{advice}");
}

#[test]
fn what_has_only_introduced_itself_was_never_used() {
    let server = server();
    let occupants = server.fill_to_leave(1);
    assert_eq!(occupants.len(), 22);

    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    let seen = report.is(2, "unused");
    assert_eq!(seen.verdicts(), ["unused"], "{report}");
    assert_eq!(seen.number("/holders/never_used"), 22);
    seen.level("warning", &["holders.idle"]).shows("holders.idle", 22);
    let said = seen.says("unused");
    assert!(said.contains("22 connections were not used since they were new"), "{said}");
    // The admin's is the other one.
    assert!(said.contains("1 of 23 clients had a command within 5 min, 22 not used"), "{said}");
    does_not_grow(&seen);
}

/// A leak whose connections came all at once, and a pool that works beside it.
#[test]
fn a_burst_that_nobody_has_used_since() {
    let server = server();
    let _busy = Crowd::from(&server, 2).named("api").open(5).busy();
    let leaked = Crowd::from(&server, 9).named("checkout").open(16);
    crate::until_idle(&server, &[leaked.source()], 5);

    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    let seen = report.is(2, "unused");
    assert_eq!(seen.number("/holders/by_source/0/never_used"), 16, "{report}");
    let said = seen.says("unused");
    assert!(said.contains("held by 127.0.0.9 checkout (16)"), "{said}");
    seen.level("warning", &["holders.sources", "holders.idle"]);
    does_not_grow(&seen);
}

#[test]
fn a_storm_before_connections_that_nobody_uses_is_not_told_to_grow_either() {
    let server = server();
    let _occupants = server.fill_to_leave(1);
    let _storm = crate::support::Storm::from(&server, 8, 4).rages(50);

    let report = Doctor::of(&[&server.url(), "--wait", "15s"]).report_of(&[&server]);
    let seen = report.is(2, "retry_storm");
    assert_eq!(seen.verdicts(), ["retry_storm", "unused"], "{report}");
    does_not_grow(&seen);
}

/// They have worked, and then everybody stopped: nothing of that is idle for long, or was never used.
#[test]
fn a_server_that_serves_nobody_while_it_refuses_is_full_and_not_idle() {
    let server = server();
    let stuck = Crowd::from(&server, 9).named("api").open(22).busy();
    let worked = |age: u64| {
        move |clients: &[std::collections::HashMap<String, String>]| {
            let theirs = clients.iter().filter(|client| client["name"] == "api");
            theirs.filter(|client| client["age"].parse::<u64>().unwrap() >= age).count() == 22
        }
    };
    crate::until(&server, worked(7));
    let stuck = stuck.still();
    let _storm = crate::support::Storm::from(&server, 8, 12).rages(50);

    let report = Doctor::of(&[&server.url(), "--wait", "15s"]).report_of(&[&server]);
    let seen = report.is(2, "retry_storm");
    assert_eq!(seen.verdicts(), ["retry_storm", "unused"], "{report}");
    assert_eq!(seen.json["capacity"]["stands_still"], true, "{report}");
    assert!(seen.json["capacity"]["commands_per_second"].as_f64().unwrap() < 10.0, "{report}");
    assert!(seen.json["capacity"]["cpu_cores"].as_f64().unwrap() >= 0.0, "{report}");
    for kind in ["retry_storm", "unused"] {
        assert!(seen.says(kind).contains("it is full, not idle"), "{report}");
    }
    assert!(seen.says("unused").contains("does not use them now"), "{report}");
    does_not_grow(&seen);
    drop(stuck);
}

#[test]
fn a_few_of_them_are_counted_where_the_others_are_used() {
    let server = server();
    let _busy = [2, 3, 4].map(|host| Crowd::from(&server, host).open(6).busy());
    let mut occupants = crate::support::Occupants::none(&server);
    occupants.take(3);

    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    let seen = report.is(2, "ceiling_too_low");
    let said = seen.says("ceiling_too_low");
    assert!(said.contains("19 of 22 clients had a command within 5 min, 3 not used"), "{said}");
}

#[test]
fn with_a_time_to_wait_the_doctor_looks_again_itself() {
    let server = server();
    let pool = Crowd::from(&server, 2).named("api").open(20);
    pool.ask(&["CLIENT", "SETNAME", "api"]);
    let doctor = Doctor::of(&[&server.url(), "--wait", "60s"]).spawn();
    crate::until(&server, |clients| {
        let ours = clients.iter().find(|client| client["name"] == OWN_NAME);
        ours.is_some_and(|client| client["cmd"].starts_with("client") && crate::idle(client) >= 1)
    });

    let _pool = pool.busy();

    let report = doctor.end().report();
    let seen = report.is(2, "ceiling_too_low");
    // The admin may have had nothing to ask since the beginning.
    assert!(seen.number("/holders/never_used") <= 1, "they are used now: {report}");
    let sampled = seen.json["capacity"]["sampled_seconds"].as_f64().unwrap();
    assert!(sampled >= 5.0, "between the last two looks: {sampled}");
}

#[test]
fn who_waits_in_vain_is_told_what_was_seen_last() {
    let server = server();
    let _occupants = server.fill_to_leave(1);
    let begun = tokio::time::Instant::now();
    let report = Doctor::of(&[&server.url(), "--wait", "6s"]).report_of(&[&server]);
    report.is(2, "unused");
    assert!(begun.elapsed() >= Duration::from_secs(5), "it has looked again");
}
