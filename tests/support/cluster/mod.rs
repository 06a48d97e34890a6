//! The nodes of a cluster, and what an operator does to them.
#![allow(dead_code, reason = "every test uses its own part of the support code")]

mod members;
mod moves;
mod network;
mod view;

use std::collections::BTreeSet;
use std::time::Duration;

use self::network::Network;
#[allow(
    unused_imports,
    reason = "every test, example and benchmark uses its own part of the support code"
)]
pub(crate) use self::{moves::Move, view::slot_of};
use super::server::{StartError, TestServer, TestServerBuilder, poll};

pub(crate) const SLOTS: u16 = 16_384;
const WHOLE_LIMIT: Duration = Duration::from_secs(60);

/// A running cluster, killed on drop.
///
/// A node keeps its number, also when it has left. Each may be paused, killed and started again on
/// its own, by [`node`](Self::node); a node that is started again knows what it knew.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<TestServer>,
    /// What the nodes call each other.
    ids: Vec<String>,
    left: BTreeSet<usize>,
    settings: TestServerBuilder,
    network: Option<Network>,
}

impl Cluster {
    /// So many masters of these settings, which share the slots evenly.
    ///
    /// # Errors
    /// See [`TestServerBuilder::start`].
    ///
    /// # Panics
    /// See [`until_whole`](Self::until_whole).
    #[track_caller]
    pub(crate) fn start(masters: usize, settings: &TestServerBuilder) -> Result<Self, StartError> {
        Self::with_replicas(masters, 0, settings)
    }

    /// So many masters, which are the first numbers, each with so many replicas: with three masters
    /// nodes 3 and 6 follow node 0. A password needs its `masterauth`, too, and a test that kills a
    /// master a `cluster-node-timeout` of 1000 ms or so.
    ///
    /// # Errors
    /// See [`TestServerBuilder::start`].
    ///
    /// # Panics
    /// See [`until_whole`](Self::until_whole).
    #[track_caller]
    pub(crate) fn with_replicas(
        masters: usize,
        replicas_each: usize,
        settings: &TestServerBuilder,
    ) -> Result<Self, StartError> {
        Self::form(masters, replicas_each, settings, None)
    }

    /// The same on a network of their own, which [`cut_off`](Self::cut_off) cuts: on Linux only.
    ///
    /// # Errors
    /// See [`TestServerBuilder::start`].
    ///
    /// # Panics
    /// See [`until_whole`](Self::until_whole).
    #[track_caller]
    pub(crate) fn with_network(
        masters: usize,
        replicas_each: usize,
        settings: &TestServerBuilder,
    ) -> Result<Self, StartError> {
        Self::form(masters, replicas_each, settings, Some(Network::new()?))
    }

    #[track_caller]
    fn form(
        masters: usize,
        replicas_each: usize,
        settings: &TestServerBuilder,
        network: Option<Network>,
    ) -> Result<Self, StartError> {
        let mut cluster = Self {
            nodes: Vec::new(),
            ids: Vec::new(),
            left: BTreeSet::new(),
            settings: settings.clone(),
            network,
        };
        for index in 0..masters * (1 + replicas_each) {
            cluster.launch()?;
            if index < masters {
                cluster.ask(index, &["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
                let border = |index| usize::from(SLOTS) * index / masters;
                // One by one: before Redis 7 there is no ADDSLOTSRANGE.
                let slots = (border(index)..border(index + 1)).map(|slot| slot.to_string());
                let slots: Vec<_> = slots.collect();
                let command = ["CLUSTER", "ADDSLOTS"].into_iter();
                let command: Vec<_> = command.chain(slots.iter().map(String::as_str)).collect();
                cluster.ask(index, &command);
            }
            cluster.introduce(index);
        }
        cluster.acquaint();
        for replica in masters..cluster.nodes.len() {
            cluster.follow(replica, replica % masters);
        }
        cluster.until_whole();
        Ok(cluster)
    }

    /// Cuts the network between these nodes and all others until [`heal`](Self::heal). Clients, and the
    /// operator, still reach every node.
    ///
    /// # Panics
    /// The cluster was started without [a network of its own](Self::with_network).
    #[track_caller]
    pub(crate) fn cut_off(&self, nodes: &[usize]) {
        self.network().cut_off(nodes);
    }

    /// Ends all cuts. Returns at once: see [`until_whole`](Self::until_whole).
    ///
    /// # Panics
    /// As [`cut_off`](Self::cut_off).
    #[track_caller]
    pub(crate) fn heal(&self) {
        self.network().heal();
    }

    #[track_caller]
    fn network(&self) -> &Network {
        self.network.as_ref().expect("the cluster should have a network of its own")
    }

    pub(crate) fn nodes(&self) -> &[TestServer] {
        &self.nodes
    }

    pub(crate) fn node(&self, index: usize) -> &TestServer {
        &self.nodes[index]
    }

    /// A node as a pool names it, and as the others do.
    pub(crate) fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[index].port())
    }

    /// All nodes' URLs, also of those that have left.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(TestServer::url).collect()
    }

    pub(crate) fn node_id(&self, index: usize) -> &str {
        &self.ids[index]
    }

    /// The number of the node that is at this address.
    pub(crate) fn number_of(&self, address: &str) -> Option<usize> {
        (0..self.nodes.len()).find(|&index| self.address(index) == address)
    }

    /// How many clients the node has but the operator, replicas, a replica's master and those that
    /// bring it keys.
    #[track_caller]
    pub(crate) fn connected(&self, index: usize) -> usize {
        let ours =
            |flags: &str, cmd: &str| !flags.contains(['S', 'M', 'U']) && cmd != "restore-asking";
        let list = self.nodes[index].admin().client_list();
        list.iter().filter(|client| ours(&client["flags"], &client["cmd"])).count()
    }

    /// How many connections the node has refused.
    #[track_caller]
    pub(crate) fn rejected(&self, index: usize) -> u64 {
        self.nodes[index].admin().info_u64("rejected_connections")
    }

    /// The members that run.
    pub(super) fn running(&self) -> Vec<usize> {
        let members = (0..self.nodes.len()).filter(|index| !self.left.contains(index));
        members.filter(|&index| self.nodes[index].is_running()).collect()
    }

    #[track_caller]
    fn ask(&self, index: usize, command: &[&str]) -> String {
        self.nodes[index].admin().text(command)
    }

    /// Returns when it is so.
    #[track_caller]
    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let seen = poll(WHOLE_LIMIT, || is_so().then_some(()));
        seen.unwrap_or_else(|| panic!("{what} should have come to be, but: {}", self.views()));
    }
}
