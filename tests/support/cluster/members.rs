//! Nodes that come, go, and change their role.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::super::server::StartError;
use super::Cluster;
use super::network::{self, Network};

/// When a replica that was told to become the master is told again: it gives up after five seconds.
const GIVEN_UP: Duration = Duration::from_secs(6);

/// When nodes that do not know each other are told of each other again: on a busy machine one may have given up
/// before it was answered, and the other one not.
const MET: Duration = Duration::from_secs(3);

impl Cluster {
    /// Makes the replica a master in its master's place, without a loss. Returns when all nodes that
    /// run agree.
    ///
    /// # Panics
    /// If they do not within a minute.
    #[track_caller]
    pub(crate) fn fail_over(&self, replica: usize) {
        let mut again = Instant::now();
        self.until("a failover", || {
            if self.is_master(replica) {
                return true;
            }
            if Instant::now() >= again {
                let told = self.nodes[replica].admin().command(&["CLUSTER", "FAILOVER"]);
                // Refused while its link to the master is down.
                let is_told = told.is_ok_and(|reply| !reply.is_error());
                again = Instant::now() + if is_told { GIVEN_UP } else { Duration::ZERO };
            }
            false
        });
        self.until_whole();
    }

    /// Its own word.
    pub(crate) fn is_master(&self, index: usize) -> bool {
        let role = self.nodes[index].admin().command(&["ROLE"]);
        role.is_ok_and(|reply| reply.text().starts_with("master"))
    }

    /// One more master, without a slot. Returns its number when all see it.
    ///
    /// # Errors
    /// See [`TestServerBuilder::start`](crate::support::server::TestServerBuilder::start).
    #[track_caller]
    pub(crate) fn add_node(&mut self) -> Result<usize, StartError> {
        let index = self.launch()?;
        self.introduce(index);
        self.acquaint();
        self.until_whole();
        Ok(index)
    }

    /// One more replica of this master. Returns its number when it is online.
    ///
    /// # Errors
    /// See [`TestServerBuilder::start`](crate::support::server::TestServerBuilder::start).
    #[track_caller]
    pub(crate) fn add_replica(&mut self, of: usize) -> Result<usize, StartError> {
        let index = self.add_node()?;
        self.follow(index, of);
        self.until_whole();
        Ok(index)
    }

    /// Moves the node's slots and replicas to the other masters.
    #[track_caller]
    pub(crate) fn empty_node(&self, index: usize) {
        let mut masters = self.others(index);
        masters.retain(|&other| self.is_master(other));
        for (slot, to) in self.slots_of(index).into_iter().zip(masters.iter().cycle()) {
            self.move_slot(slot, *to);
        }
        for (replica, to) in self.replicas_of(index).into_iter().zip(masters.iter().cycle()) {
            self.follow(replica, *to);
        }
        self.until_whole();
    }

    fn others(&self, index: usize) -> Vec<usize> {
        self.running().into_iter().filter(|other| *other != index).collect()
    }

    /// Makes everybody forget a node that has no slots and no replicas. It stays, alone, if it runs.
    #[track_caller]
    pub(crate) fn remove_node(&mut self, index: usize) {
        for other in self.others(index) {
            self.ask(other, &["CLUSTER", "FORGET", &self.ids[index]]);
        }
        self.left.insert(index);
        if self.nodes[index].is_running() {
            self.ask(index, &["CLUSTER", "RESET"]);
        }
        self.until_whole();
    }

    /// A node that knows nobody yet.
    pub(super) fn launch(&mut self) -> Result<usize, StartError> {
        let settings = self
            .settings
            .clone()
            .cluster(true)
            // A node writes down what it learns, and waits for the disk.
            .in_memory(true)
            .arg("repl-diskless-sync-delay", "0")
            // A master that gives its last slot away stays one, and its replicas stay its own.
            .arg("cluster-allow-replica-migration", "no");
        // All trust one authority.
        let settings = match self.nodes.first().filter(|first| first.has_tls()) {
            Some(first) => settings.tls_of(first),
            None => settings,
        };
        let index = self.nodes.len();
        let node = match &self.network {
            None => settings.start()?,
            Some(network) => {
                let node = Network::settings(settings, index).start()?;
                network.connect(index, &node)?;
                node
            }
        };
        self.ids.push(node.admin().text(&["CLUSTER", "MYID"]));
        self.nodes.push(node);
        Ok(index)
    }

    /// Has all that run meet each other, and returns when they see each other well.
    ///
    /// # Panics
    /// If they do not within a minute.
    #[track_caller]
    pub(super) fn acquaint(&self) {
        let mut again = Instant::now() + MET;
        self.until("an acquaintance", || {
            if Instant::now() >= again {
                self.running().into_iter().for_each(|index| self.introduce(index));
                again = Instant::now() + MET;
            }
            self.are_acquainted()
        });
    }

    /// Has the node meet all that run.
    #[track_caller]
    pub(super) fn introduce(&self, index: usize) {
        for other in self.others(index) {
            let node = &self.nodes[other];
            let port = if node.has_tls() { node.tls_port() } else { node.port() };
            let ports = [port, node.bus_port()].map(|port| port.to_string());
            let host = match self.network {
                None => Ipv4Addr::LOCALHOST,
                Some(_) => network::host(other),
            };
            let host = host.to_string();
            self.ask(index, &["CLUSTER", "MEET", &host, &ports[0], &ports[1]]);
        }
    }

    /// Makes the node a replica of this master.
    #[track_caller]
    pub(super) fn follow(&self, index: usize, master: usize) {
        self.ask(index, &["CLUSTER", "REPLICATE", &self.ids[master]]);
    }
}
