//! A master and its replica, of which one is lost.

use crate::run::Doctor;
use crate::support::server::poll;
use crate::support::{TestServer, pair};

fn two() -> (TestServer, TestServer) {
    pair(crate::server().maxclients(50), crate::server().maxclients(50)).unwrap()
}

/// The master, after its only replica has gone.
fn widowed() -> TestServer {
    let (master, replica) = two();
    replica.crash();
    let noticed = || (master.admin().info_u64("connected_slaves") == 0).then_some(());
    poll(crate::IDLE_LIMIT, noticed).expect("the master sees a connection that ends");
    master
}

#[test]
fn a_replica_that_is_expected_and_lost() {
    let master = widowed();
    let report = Doctor::of(&[&master.url(), "--expect-replicas", "1"]).report_of(&[&master]);
    let seen = report.is(2, "replica_lost");
    assert_eq!(seen.of_level("failed"), ["replication.replicas"]);
    seen.shows("replication.replicas", 0);
    seen.shows("replication.replicas", 1);
}

#[test]
fn a_replica_that_has_left_its_backlog_behind() {
    let master = widowed();
    let report = Doctor::of(&[&master.url()]).report_of(&[&master]);
    let seen = report.is(2, "replica_lost");
    assert_eq!(seen.of_level("failed"), ["replication.replicas"]);
    assert!(seen.says("replica_lost").contains("backlog"), "how it knows: {report}");
}

#[test]
fn a_replica_that_was_never_there_but_is_expected() {
    let server = crate::server().start().unwrap();
    let report = Doctor::of(&[&server.url(), "--expect-replicas", "2"]).report_of(&[&server]);
    report.is(2, "replica_lost").level("failed", &["replication.replicas"]);
}

#[test]
fn a_replica_with_fewer_siblings_than_expected() {
    let (master, replica) = two();
    let report = Doctor::of(&[&master.url(), "--expect-replicas", "2"]).report_of(&[&master]);
    let seen = report.is(2, "replica_lost");
    seen.shows("replication.replicas", 1);
    drop(replica);
}

#[test]
fn a_link_that_is_down_seen_from_the_replica() {
    let (master, replica) = two();
    master.crash();
    let down = || {
        let info = replica.admin().text(&["INFO", "replication"]);
        info.contains("master_link_status:down").then_some(())
    };
    poll(crate::IDLE_LIMIT, down).expect("the replica sees a connection that ends");

    let report = Doctor::of(&[&replica.url()]).report_of(&[&replica]);
    let seen = report.is(2, "replica_lost");
    assert_eq!(seen.of_level("failed"), ["replication.link"]);
    let evidence = seen.check("replication.link").evidence;
    assert!(
        evidence.contains("down") && evidence.contains(&master.port().to_string()),
        "{evidence}"
    );
    seen.level("ok", &["replication.role"]);
}

#[test]
fn a_replica_that_falls_behind() {
    let (master, replica) = two();
    replica.pause();
    // The kernel's buffers take some; the rest waits in the master.
    let value = "x".repeat(1 << 20);
    for _ in 0..16 {
        master.admin().text(&["SET", "key", &value]);
    }
    let report = Doctor::of(&[&master.url()]).report_of(&[&master]);
    let seen = report.server(0);
    seen.level("warning", &["replication.lag"]);
    replica.resume();
}

/// Writing the copy takes the master's child five seconds.
#[test]
fn a_replica_that_receives_its_first_copy_is_not_lost() {
    let slow = [("repl-diskless-sync-delay", "0"), ("rdb-key-save-delay", "100000")];
    let master = crate::server().arg(slow[0].0, slow[0].1).arg(slow[1].0, slow[1].1);
    let master = master.start().unwrap();
    master.admin().text(&["DEBUG", "POPULATE", "50"]);
    let of = format!("127.0.0.1 {}", master.port());
    let replica = crate::server().arg("replicaof", &of).start().unwrap();
    let copying = || {
        let info = replica.admin().text(&["INFO", "replication"]);
        info.contains("master_sync_in_progress:1").then_some(())
    };
    poll(crate::IDLE_LIMIT, copying).expect("the replica should ask for a copy");

    let report = Doctor::of(&[&master.url(), &replica.url(), "--sample", "50ms"]).report();
    assert_eq!(report.code, 0, "{report}");
    let (of_master, of_replica) = (report.server(0), report.server(1));
    assert_eq!(of_master.verdicts(), ["nothing_wrong"], "it is connected: {report}");
    of_master.level("note", &["replication.replicas"]);
    assert_eq!(of_replica.verdicts(), ["nothing_wrong"], "it is on its way: {report}");
    of_replica.level("note", &["replication.link"]);
}

/// Each of two ends is asked; the number of replicas is the master's.
#[test]
fn a_replica_is_not_expected_to_have_replicas() {
    let (master, replica) = two();
    let report = Doctor::of(&[&master.url(), &replica.url(), "--expect-replicas", "1", "--strict"]);
    let report = report.report_of(&[&master, &replica]);
    assert_eq!(report.code, 0, "{report}");
    assert_eq!(report.server(1).verdict(), "nothing_wrong", "{report}");
}
