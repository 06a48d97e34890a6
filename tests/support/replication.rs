//! A master and its replicas.
#![allow(dead_code, reason = "every test uses its own part of the support code")]

use std::time::Duration;

use super::server::{StartError, TestServer, TestServerBuilder, poll};

const LINKED_LIMIT: Duration = Duration::from_secs(20);

/// A master and a replica that follows it.
///
/// # Errors
/// See [`TestServerBuilder::start`].
///
/// # Panics
/// If the replica is not online within twenty seconds.
#[track_caller]
pub(crate) fn pair(
    master: TestServerBuilder,
    replica: TestServerBuilder,
) -> Result<(TestServer, TestServer), StartError> {
    let master = master.arg("repl-diskless-sync-delay", "0").start()?;
    let replica = replica_of(&master, replica)?;
    Ok((master, replica))
}

/// One more replica, online.
///
/// # Errors
/// See [`TestServerBuilder::start`].
///
/// # Panics
/// If it is not online within twenty seconds.
#[track_caller]
pub(crate) fn replica_of(
    master: &TestServer,
    replica: TestServerBuilder,
) -> Result<TestServer, StartError> {
    let before = online(master);
    let of = format!("127.0.0.1 {}", master.port());
    let mut replica = replica.arg("replicaof", &of);
    if let Some(password) = master.password() {
        replica = replica.arg("masterauth", password);
    }
    let replica = replica.start()?;
    let up = || replica.admin().text(&["INFO", "replication"]).contains("master_link_status:up");
    let follows = || (up() && online(master) > before).then_some(());
    poll(LINKED_LIMIT, follows).expect("the replica should follow its master");
    Ok(replica)
}

fn online(master: &TestServer) -> usize {
    master.admin().text(&["INFO", "replication"]).matches("state=online").count()
}
