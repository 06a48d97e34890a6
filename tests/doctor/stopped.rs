//! Servers that are there and do not serve: they load, or their process stands still.

use crate::run::{Doctor, OWN_NAME};
use crate::support::pair;
use crate::support::server::poll;

#[test]
fn a_server_that_loads_its_data_set() {
    let server = crate::server().arg("appendonly", "no").start().unwrap();
    server.restart_into_loading().unwrap();
    let report = Doctor::of(&[&server.url()]).report();
    let seen = report.is(2, "loading");
    seen.level("failed", &["server.loading"]);
    assert!(seen.json["capacity"]["maxclients"].is_u64(), "INFO is answered: {report}");
    let again = Doctor::of(&[&server.url()]).report();
    assert_eq!(again.server(0).verdict(), "loading", "the test has not outrun it: {again}");
}

#[test]
fn a_process_that_stands_still() {
    let server = crate::server().start().unwrap();
    server.pause();
    let report = Doctor::of(&[&server.url(), "--timeout", "400ms"]).report();
    let seen = report.is(3, "unresponsive");
    // The kernel answers for it.
    seen.level("ok", &["reachability.connect"]);
    assert!(seen.json["reachability"]["connect_seconds"].is_f64(), "{report}");
    server.resume();
}

#[test]
fn a_process_that_is_stopped_while_it_is_examined() {
    let server = crate::server().maxclients(50).start().unwrap();
    let args = [&*server.url(), "--timeout", "400ms"];
    let doctor = Doctor::words(&["doctor", "--output", "json", "--sample", "2s"]).args(&args);
    let doctor = doctor.spawn();
    // It has asked for INFO once, and waits for the second sample.
    let sampled = || (server.admin().clients_named(OWN_NAME) == 1).then_some(());
    poll(crate::IDLE_LIMIT, sampled).expect("the doctor should have come");
    server.pause();
    let report = doctor.end().report();
    let seen = report.server(0);
    assert_eq!(seen.verdict(), "unresponsive", "{report}");
    assert!([2, 3].contains(&report.code), "it was connected to, and then it was not: {report}");
    server.resume();
}

#[test]
fn a_server_that_dies_while_it_is_examined() {
    let server = crate::server().maxclients(50).start().unwrap();
    let doctor = Doctor::words(&["doctor", &server.url(), "--output", "json", "--sample", "2s"]);
    let doctor = doctor.spawn();
    let sampled = || (server.admin().clients_named(OWN_NAME) == 1).then_some(());
    poll(crate::IDLE_LIMIT, sampled).expect("the doctor should have come");
    server.crash();
    let report = doctor.end().report();
    assert!([2, 3].contains(&report.code), "{report}");
    assert_ne!(report.server(0).verdict(), "nothing_wrong", "{report}");
}

/// MASTERDOWN and the like are no failure of the server that is looked at.
#[test]
fn a_replica_that_refuses_stale_reads_is_examined_all_the_same() {
    let builder = crate::server().arg("replica-serve-stale-data", "no");
    let (master, replica) = pair(crate::server(), builder).unwrap();
    master.crash();
    let down = || {
        let info = replica.admin().text(&["INFO", "replication"]);
        info.contains("master_link_status:down").then_some(())
    };
    poll(crate::IDLE_LIMIT, down).expect("the replica sees a connection that ends");
    let report = Doctor::of(&[&replica.url()]).report();
    report.is(2, "replica_lost").level("failed", &["replication.link"]);
}
