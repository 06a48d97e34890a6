//! Servers that belong together: a master with its replicas, the nodes of a cluster.
#![allow(dead_code, reason = "every test uses its own part of the support code")]

use std::time::Duration;

use super::server::{StartError, TestServer, TestServerBuilder, poll};

const LINKED_LIMIT: Duration = Duration::from_secs(20);
const SLOTS: u32 = 16_384;

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

/// Masters that share the slots and know each other.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<TestServer>,
}

impl Cluster {
    /// So many nodes of these settings.
    ///
    /// # Errors
    /// See [`TestServerBuilder::start`].
    ///
    /// # Panics
    /// If they have not found each other within twenty seconds.
    #[track_caller]
    pub(crate) fn start(nodes: u32, settings: &TestServerBuilder) -> Result<Self, StartError> {
        let started = (0..nodes).map(|_| settings.clone().cluster(true).start());
        let nodes = started.collect::<Result<Vec<_>, _>>()?;
        let count = u32::try_from(nodes.len()).expect("a handful");
        for (index, node) in (0..).zip(&nodes) {
            let first = SLOTS * index / count;
            let last = SLOTS * (index + 1) / count - 1;
            let range = [first.to_string(), last.to_string()];
            node.admin().text(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]);
            let (port, bus) = (nodes[0].port().to_string(), nodes[0].bus_port().to_string());
            if index > 0 {
                node.admin().text(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        let known = format!("cluster_known_nodes:{count}");
        for node in &nodes {
            let whole = || {
                let info = node.admin().text(&["CLUSTER", "INFO"]);
                (info.contains("cluster_state:ok") && info.contains(&known)).then_some(())
            };
            poll(LINKED_LIMIT, whole).expect("the nodes should have found each other");
        }
        Ok(Self { nodes })
    }

    pub(crate) fn nodes(&self) -> &[TestServer] {
        &self.nodes
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(TestServer::url).collect()
    }
}
