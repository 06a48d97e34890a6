//! Servers that are there and do not serve: they load, are busy, or their process stands still.

use std::thread;

use crate::run::{Doctor, OWN_NAME, Report, Running};
use crate::support::server::{Connection, Reply, poll};
use crate::support::{LOADS_SLOWLY, SEVEN, TestServer, lacks, pair};

#[test]
fn a_server_that_loads_its_data_set() {
    if lacks(LOADS_SLOWLY, SEVEN) {
        return;
    }
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

fn examined_for(server: &TestServer, time: &str) -> Running {
    Doctor::of(&[&server.url(), "--timeout", "1s", "--sample", time]).spawn()
}

/// At whatever command it has come to.
fn until_it_has_come(server: &TestServer) {
    let come = || (server.admin().clients_named(OWN_NAME) == 1).then_some(());
    poll(crate::IDLE_LIMIT, come).expect("the doctor should have come");
}

/// It was connected to, and then it did not answer any more: that is no health.
#[track_caller]
fn is_unresponsive(report: &Report) {
    assert_eq!(report.server(0).verdict(), "unresponsive", "{report}");
    assert!([2, 3].contains(&report.code), "{report}");
    report.server(0).level("failed", &["reachability.ping"]);
}

#[test]
fn a_process_that_is_stopped_while_it_is_asked() {
    let server = crate::server().start().unwrap();
    let doctor = examined_for(&server, "2s");
    until_it_has_come(&server);
    server.pause();
    is_unresponsive(&doctor.end().report());
    server.resume();
}

#[test]
fn a_process_that_is_stopped_between_two_looks() {
    let server = crate::server().start().unwrap();
    let doctor = examined_for(&server, "6s");
    crate::until_it_waits(&server);
    server.pause();
    let report = doctor.end().report();
    is_unresponsive(&report);
    // What the first look brought is told.
    assert_eq!(report.server(0).number("/capacity/maxclients"), 10_000);
    server.resume();
}

#[test]
fn a_server_that_dies_while_it_is_asked() {
    let server = crate::server().start().unwrap();
    let doctor = examined_for(&server, "1s");
    until_it_has_come(&server);
    server.crash();
    let report = doctor.end().report();
    assert!([2, 3].contains(&report.code), "{report}");
    assert_ne!(report.server(0).verdict(), "nothing_wrong", "{report}");
}

#[test]
fn a_server_that_is_restarted_between_two_looks_is_not_dialed_again() {
    let server = crate::server().start().unwrap();
    let doctor = examined_for(&server, "6s");
    crate::until_it_waits(&server);
    server.restart().unwrap();
    let report = doctor.end().report();
    assert!([2, 3].contains(&report.code), "{report}");
    assert_ne!(report.server(0).verdict(), "nothing_wrong", "{report}");
    let admins = 1;
    assert_eq!(server.admin().info_u64("total_connections_received"), admins, "{report}");
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

/// Of INFO, too, it says BUSY: that is no lack of rights, and no managed service.
#[test]
fn a_server_that_is_busy_with_a_script() {
    let server = crate::server().arg("lua-time-limit", "100").start().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Connection::open(server.socket_path(), None).unwrap();
            let _ = client.command(&["EVAL", "while true do end", "0"]);
        });
        let busy = || server.admin().ping().ok().filter(Reply::is_error);
        poll(crate::IDLE_LIMIT, busy).expect("the script should run");

        let report = Doctor::of(&[&server.url()]).report();
        server.admin().text(&["SCRIPT", "KILL"]);
        let seen = report.is(2, "unresponsive");
        assert!(seen.advice().contains("SCRIPT KILL"), "{report}");
        assert!(!report.to_string().contains("managed"), "{report}");
    });
}
