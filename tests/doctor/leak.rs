//! Connections that are opened and never used again.

use std::thread;
use std::time::Duration;

use crate::fake::Fake;
use crate::run::Doctor;
use crate::support::{Crowd, TestServer};

/// Between two connections that leak: the doctor sees ages in seconds.
const PACE: Duration = Duration::from_millis(80);

/// Opens them one after another, for seconds on end.
fn leak(crowds: &[Crowd], connections: usize) {
    for turn in 0..connections {
        // The first ones leak more than the last ones.
        crowds[turn * turn / 2 % crowds.len()].add(1);
        thread::sleep(PACE);
    }
}

/// Returns when the server says that all of these have been idle for a second.
fn until_idle(server: &TestServer, crowds: &[Crowd]) {
    crate::until_idle(server, &crowds.iter().map(Crowd::source).collect::<Vec<_>>(), 1);
}

#[test]
fn one_source_over_its_share_whose_connections_are_abandoned() {
    let server = crate::server().maxclients(56).start().unwrap();
    let others = [2, 3, 4].map(|host| Crowd::from(&server, host).open(3).busy());
    let leaking = [Crowd::from(&server, 9).named("checkout")];
    leak(&leaking, 42);
    until_idle(&server, &leaking);

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    let seen = report.is(2, "leak");
    seen.level("failed", &["capacity.saturation", "holders.sources", "holders.idle"]);
    // Of the others some may have asked in the second before.
    let idle = seen.number("/holders/idle");
    assert!((42..=52).contains(&idle), "{report}");
    seen.shows("holders.idle", idle).shows("holders.sources", 42);
    assert!(seen.check("holders.sources").evidence.contains("checkout"), "{report}");
    let words = seen.says("leak");
    assert!(words.contains("127.0.0.9") && words.contains("checkout"), "who: {words}");
    assert_eq!(seen.number("/holders/by_source/0/connections"), 42);
    assert_eq!(seen.number("/holders/by_source/0/idle"), 42);
    // The server rounds ages and idle times to seconds, each on its own.
    assert!(seen.number("/holders/by_source/0/abandoned") >= 34, "{report}");
    let clients: usize = others.iter().map(Crowd::len).sum::<usize>() + 42;
    let admin = 1;
    assert_eq!(seen.number("/holders/clients"), clients as u64 + admin);
    assert_eq!(seen.number("/capacity/maxclients"), 56);
    let doctor = 1;
    assert_eq!(seen.number("/capacity/used"), server.admin().used_slots() + doctor);
}

#[test]
fn a_leak_that_every_source_has() {
    let server = crate::server().maxclients(54).start().unwrap();
    let leaking = [2, 3, 4, 5, 6, 7].map(|host| Crowd::from(&server, host).named("checkout"));
    leak(&leaking, 48);
    until_idle(&server, &leaking);

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    let seen = report.is(2, "leak");
    seen.level("failed", &["capacity.saturation", "holders.idle"]);
    seen.level("ok", &["holders.sources"]);
    let idle = seen.number("/holders/idle");
    assert!((48..=49).contains(&idle), "with or without the admin: {report}");
    seen.shows("holders.idle", idle);
    assert!(seen.says("leak").contains("checkout"), "{report}");
}

/// A pool that lends a connection for a while before somebody forgets to give it back.
#[test]
fn a_leak_of_connections_that_were_used_for_a_while() {
    let server = crate::server().maxclients(40).start().unwrap();
    let mut leaked = Vec::new();
    for _ in 0..34 {
        // Each is busy until the next one is dialed in its place.
        let crowd = Crowd::from(&server, 9).named("checkout").open(1);
        for _ in 0..4 {
            thread::sleep(PACE / 4);
            crowd.ask(&["PING"]);
        }
        leaked.push(crowd);
    }
    until_idle(&server, &leaked);

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    report.is(2, "leak").level("failed", &["capacity.saturation", "holders.idle"]);
}

#[test]
fn a_leak_that_has_not_filled_the_server_yet_is_a_warning() {
    let server = crate::server().maxclients(100).start().unwrap();
    let _others = [2, 3, 4].map(|host| Crowd::from(&server, host).open(3).busy());
    let leaking = [Crowd::from(&server, 9).named("checkout")];
    leak(&leaking, 48);
    until_idle(&server, &leaking);

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    let seen = report.is(0, "leak");
    assert!(seen.of_level("failed").is_empty(), "{report}");
    assert!(seen.of_level("warning").iter().any(|id| id.starts_with("holders.")), "{report}");
}

/// Nothing has been idle for five minutes yet: a leak of fifty a second fills ten thousand slots in three.
#[test]
fn a_leak_that_fills_the_server_before_anything_is_idle_for_long() {
    let leaked = 9_900;
    let info = crate::server().start().unwrap().admin().text(&["INFO"]);
    let info =
        info.replace("connected_clients:1\r", &format!("connected_clients:{}\r", leaked + 9));
    let client = |source: &str, number: usize, name: &str, age: usize, idle: usize| {
        let port = 10_000 + number;
        format!(
            "id={number} addr={source}:{port} name={name} age={age} idle={idle} flags=N cmd=get\n"
        )
    };
    let others =
        (0..9).map(|nth| client(&format!("127.0.0.{}", 2 + nth % 3), nth + 10, "", 600, 0));
    let leak = (0..leaked).map(|nth| {
        let age = (leaked - nth) / 50;
        client("127.0.0.9", nth + 100, "checkout", age, age)
    });
    let list: String = others.chain(leak).collect();
    let fake = Fake::builder().info(&info).client_list(&list).start();

    let report = Doctor::of(&[&fake.url()]).report();
    let seen = report.is(2, "leak");
    seen.level("failed", &["capacity.saturation", "holders.sources", "holders.idle"]);
    assert_eq!(seen.number("/holders/idle"), 0, "{report}");
    assert!(seen.says("leak").contains("127.0.0.9 checkout (9,900)"), "{report}");
}
