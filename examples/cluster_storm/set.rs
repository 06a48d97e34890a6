//! Three masters with a replica each, and what they count of the clients.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::cluster::Cluster;
use crate::server::TestServer;

const MASTERS: usize = 3;
/// The master that will have no room: not the first, whom clients may ask more than the others.
pub(crate) const FULL: usize = 1;
/// How long a server may take to forget the connections of a client that is gone.
const FORGET_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Set {
    /// The masters, then their replicas.
    cluster: Cluster,
    /// What a node has while it is not full.
    maxclients: u32,
}

/// What a node counts of the clients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Dials refused, since it was started.
    pub(crate) refused: u64,
    /// Connections that the clients hold now.
    pub(crate) sockets: usize,
}

impl Set {
    /// Starts everything, and returns when everybody knows everybody.
    pub(crate) fn start() -> Result<Self, Failure> {
        let settings = TestServer::builder().in_memory(true).arg("repl-diskless-sync-delay", "0");
        let cluster = Cluster::with_replicas(MASTERS, 1, &settings)?;
        let maxclients = u32::try_from(cluster.node(FULL).admin().maxclients())?;
        Ok(Self { cluster, maxclients })
    }

    /// What the clients are told: the masters.
    pub(crate) fn seeds(&self) -> Vec<String> {
        self.cluster.urls().into_iter().take(MASTERS).collect()
    }

    /// Each node as the cluster announces it, and whether it is a master. In the order of
    /// [`counts`](Self::counts).
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (String, bool)> {
        (0..self.cluster.nodes().len()).map(|nth| (self.cluster.address(nth), nth < MASTERS))
    }

    /// For each task a key on each master, in the order of [`nodes`](Self::nodes).
    pub(crate) fn keys(&self, tasks: usize) -> Vec<Vec<String>> {
        let mut on = (0..MASTERS).map(|nth| self.cluster.keys_on(nth, tasks)).collect::<Vec<_>>();
        (0..tasks).map(|_| on.iter_mut().filter_map(Vec::pop).collect()).collect()
    }

    /// No slot is left, and the clients' connections are cut.
    pub(crate) fn fill(&self) {
        let node = self.cluster.node(FULL).admin();
        // We are one, and its replica is another; the links to other nodes count as well, so that it
        // has more than it may.
        node.set_maxclients(2);
        node.text(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    pub(crate) fn free(&self) {
        self.cluster.node(FULL).admin().set_maxclients(self.maxclients);
    }

    pub(crate) fn counts(&self) -> Vec<Counts> {
        let all = 0..self.cluster.nodes().len();
        all.map(|nth| Counts {
            refused: self.cluster.rejected(nth),
            sockets: self.cluster.connected(nth),
        })
        .collect()
    }

    /// Waits until the nodes have forgotten the last client's connections.
    pub(crate) async fn emptied(&self, of: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + FORGET_WITHIN;
        loop {
            let left: usize = self.counts().iter().map(|node| node.sockets).sum();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{left} connections of {of} are still open {FORGET_WITHIN:?} after it was dropped"
                )
                .into());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}
