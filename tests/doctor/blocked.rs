//! Clients in blocking commands hold the slots.

use crate::run::Doctor;
use crate::support::Crowd;

#[test]
fn workers_in_blpop() {
    let server = crate::server().maxclients(32).start().unwrap();
    let workers = [2, 3, 4, 5].map(|host| Crowd::from(&server, host).named("worker").open(7));
    let workers = workers.map(|it| it.block_in(&server, &["BLPOP", "jobs", "0"]));
    crate::until_idle(&server, &workers.each_ref().map(Crowd::source), 1);

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    let seen = report.is(2, "blocked_consumers");
    seen.level("failed", &["capacity.saturation", "holders.blocked"]);
    seen.shows("holders.blocked", 28);
    assert_eq!(seen.number("/holders/blocked"), 28);
    assert_eq!(seen.number("/holders/blocked_by_command/blpop"), 28);
    assert!(seen.number("/holders/idle") <= 1, "the admin at most: who waits is at work: {report}");
    assert!(seen.says("blocked_consumers").to_lowercase().contains("blpop"), "{report}");
}

#[test]
fn writers_in_wait_for_a_replica_that_is_not_there() {
    let server = crate::server().maxclients(24).start().unwrap();
    let writers = [2, 3, 4, 5].map(|host| Crowd::from(&server, host).named("orders").open(5));
    for writers in &writers {
        writers.ask(&["SET", "order", "1"]);
    }
    let _writers = writers.map(|it| it.block_in(&server, &["WAIT", "1", "0"]));

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    let seen = report.is(2, "blocked_consumers");
    seen.level("failed", &["capacity.saturation", "holders.blocked"]);
    seen.shows("holders.blocked", 20);
    assert_eq!(seen.number("/holders/blocked_by_command/wait"), 20);
    let words = seen.says("blocked_consumers");
    assert!(words.contains("WAIT") && words.contains("replica"), "other words than BLPOP: {words}");
}

#[test]
fn a_crowd_of_subscribers_is_no_leak() {
    let server = crate::server().maxclients(32).start().unwrap();
    let subscribers = [2, 3, 4, 5].map(|host| Crowd::from(&server, host).named("feed").open(7));
    subscribers.iter().for_each(|it| it.ask(&["SUBSCRIBE", "prices"]));
    crate::until_idle(&server, &subscribers.each_ref().map(Crowd::source), 1);

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    let seen = report.server(0);
    assert_eq!(report.code, 2, "{report}");
    assert_eq!(seen.number("/holders/subscribers"), 28);
    seen.shows("holders.pubsub", 28);
    for kind in ["leak", "oversized_pools"] {
        assert!(!seen.verdicts().contains(&kind), "{kind}: they wait for messages: {report}");
    }
}
