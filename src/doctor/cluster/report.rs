//! What the report has of a cluster.

use serde::Serialize;

use super::{Cluster, Node};
use crate::server::Role;
use crate::vocabulary::words::clean;

/// A cluster, seen from the node whose URL led there.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClusterReport {
    /// `ok` or `fail`, in the words of that node; `None` where it does not tell.
    pub state: Option<String>,
    /// All nodes that it knows, the worst first: those that could not be connected to, then by their
    /// checks and by how full they are. Those that were not looked at come last.
    pub nodes: Vec<ClusterNode>,
}

/// A node of a cluster.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClusterNode {
    /// Its address: that of the URL, or the one that is announced.
    pub server: String,
    /// Its name in the cluster.
    pub id: String,
    /// What the cluster holds it for.
    pub role: Option<Role>,
    /// Of a replica, its master's address.
    pub replica_of: Option<String>,
    /// How many hash slots it has.
    pub slots: usize,
    /// What the node of the URL thinks of it: `fail`, `fail?`, `noaddr`.
    pub flags: Vec<String>,
    /// True where it let us in.
    pub connected: bool,
    /// Why not.
    pub message: Option<String>,
    /// Of a replica, whether its link to the master is up, in its own words.
    pub master_link_up: Option<bool>,
    /// Of a master, the replicas that follow it.
    pub replicas_online: Option<u64>,
    /// Its connection slots taken: clients, replicas, links of the cluster bus.
    pub used: Option<u64>,
    /// Those of them that the links of the cluster bus take.
    pub cluster_connections: Option<u64>,
    /// How many it has.
    pub maxclients: Option<u64>,
}

impl ClusterReport {
    pub(in crate::doctor) fn of(cluster: &Cluster) -> Self {
        let state = cluster.nodes.first().and_then(|node| node.word()?.state().map(clean));
        Self {
            state,
            nodes: cluster.nodes.iter().map(|node| ClusterNode::of(cluster, node)).collect(),
        }
    }
}

impl ClusterNode {
    fn of(cluster: &Cluster, node: &Node) -> Self {
        let Node { said, server, seen, .. } = node;
        let message = match seen {
            Some(Ok(_)) => None,
            Some(Err(missed)) => Some(clean(&missed.failure.message)),
            None if node.at.is_none() => Some("it has no address".to_owned()),
            None => Some("not looked at: there are too many".to_owned()),
        };
        let role = match said.has("slave") {
            true => Some(Role::Replica),
            false => said.is_master().then_some(Role::Master),
        };
        let replica_of = said.master.as_ref().filter(|_| role == Some(Role::Replica));
        let is_known = |flag: &&str| !matches!(*flag, "myself" | "master" | "slave" | "noflags");
        let seen = node.seen();
        Self {
            server: clean(server),
            id: clean(&said.id),
            role,
            replica_of: replica_of.map(|id| clean(cluster.name(id))),
            slots: said.slots(),
            flags: said.flags().filter(is_known).map(clean).collect(),
            connected: seen.is_some(),
            message,
            master_link_up: seen.and_then(|seen| seen.master_link_up).filter(|_| !said.is_master()),
            replicas_online: seen
                .and_then(|seen| seen.replicas_online)
                .filter(|_| said.is_master()),
            used: seen.and_then(|seen| seen.used),
            cluster_connections: seen.and_then(|seen| seen.links),
            maxclients: seen.and_then(|seen| seen.ceiling),
        }
    }
}
