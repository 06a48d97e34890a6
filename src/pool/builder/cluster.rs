//! The builder's settings for a pool of the nodes of a cluster.

use redis::{ConnectionInfo, IntoConnectionInfo};

use super::{GuardedPoolBuilder, Topology};
use crate::dial::connection_info;
use crate::pool::topology::settings::ClusterSettings;
use crate::{GuardedPool, ReplicaReads};

impl GuardedPool {
    /// Starts a pool for a Redis Cluster.
    ///
    /// `nodes`: the URLs of some of its nodes, or whatever else redis-rs takes; the others are found from them.
    /// User, password, protocol and `rediss://` of the first are for all nodes.
    ///
    /// ```
    /// use redis_guard::GuardedPool;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let nodes = ["redis://10.0.0.1:7000", "redis://10.0.0.2:7000", "redis://10.0.0.3:7000"];
    /// let pool = GuardedPool::cluster(nodes).max_connections(8).build()?;
    /// # Ok(()) }
    /// ```
    ///
    /// **A guard per node.** `maxclients` is a node's, and so is everything that guards it: the most connections,
    /// the budgets of the endpoints, the limit, the back-off, the breaker, the watch and the fleet's share are
    /// those at each node. One that is full refuses the callers of its own keys, in its own words, and nobody
    /// else.
    ///
    /// **Where commands go.** A [shared](Self::shared) handle, a lease of [`acquire`](Self::acquire) and the
    /// [service](Self::service) send each command to the node that has its keys. A pipeline is split by node,
    /// its replies are in order; an atomic one has the keys of one slot. `MGET`, `MSET`, `DEL`, `EXISTS`,
    /// `UNLINK` and `TOUCH` are split by slot, and are not atomic then; if a node fails, the others may have
    /// done their part, and the error says so. What concerns all nodes goes to all: `KEYS`, `DBSIZE`,
    /// `FLUSHALL`, `SCRIPT LOAD`, `CONFIG SET` and the like. `SCAN` is refused: it walks the keys of one node.
    /// A lease of `acquire` takes a connection of a node with the first command for it; WATCH binds it to one
    /// until EXEC. For MULTI sent alone, and what changes the session, there is
    /// [`acquire_for`](Self::acquire_for).
    ///
    /// **When slots move**, MOVED and ASK are followed, five times at most; who the nodes are is asked over an
    /// open connection, once for all callers, once a second at most, and twice a minute in any case. Nodes
    /// that join are dialed when they are needed, and those that leave are drained. `TRYAGAIN` and
    /// `CLUSTERDOWN` reach the caller; a [`RetryPolicy`](crate::tower::RetryPolicy) repeats such commands.
    ///
    /// Database 0 is the only one.
    pub fn cluster<T: IntoConnectionInfo>(
        nodes: impl IntoIterator<Item = T>,
    ) -> GuardedPoolBuilder {
        GuardedPoolBuilder::of_cluster(nodes.into_iter().map(connection_info).collect())
    }
}

/// A pool from deadpool-redis's configuration for a cluster; see [`from_config`](GuardedPool::from_config).
impl From<deadpool_redis::cluster::Config> for GuardedPoolBuilder {
    fn from(config: deadpool_redis::cluster::Config) -> Self {
        let deadpool_redis::cluster::Config { urls, connections, pool, read_from_replicas } =
            config;
        let nodes = match (urls, connections) {
            (Some(urls), None) => urls.into_iter().map(connection_info).collect(),
            (None, Some(connections)) => {
                connections.into_iter().map(|connection| Ok(connection.into())).collect()
            }
            (None, None) => vec![Ok(deadpool_redis::ConnectionInfo::default().into())],
            (Some(_), Some(_)) => vec![Err("the deadpool-redis configuration has both urls and \
                                            connections"
                .to_owned())],
        };
        let reads = if read_from_replicas { ReplicaReads::Prefer } else { ReplicaReads::Off };
        Self::of_cluster(nodes).replica_reads(reads).with_pool_config(pool)
    }
}

impl GuardedPoolBuilder {
    fn of_cluster(seeds: Vec<Result<ConnectionInfo, String>>) -> Self {
        let first = seeds.iter().flatten().next().cloned();
        let mut builder = Self::from_info(first.ok_or_else(String::new));
        let (names, replica_reads) = (Vec::new(), ReplicaReads::Off);
        builder.topology = Topology::Cluster(ClusterSettings { seeds, names, replica_reads });
        builder
    }

    /// Whether the replicas of a [cluster](GuardedPool::cluster) answer reads. Default
    /// [`Off`](ReplicaReads::Off).
    pub fn replica_reads(mut self, reads: ReplicaReads) -> Self {
        match &mut self.topology {
            Topology::Cluster(settings) => settings.replica_reads = reads,
            _ => self.misplaced.push("replica_reads"),
        }
        self
    }

    /// Where to dial a node that a [cluster](GuardedPool::cluster) announces as `announced`: behind a NAT, or
    /// where a certificate is for a name. Each is `host:port`, or `host` for whatever port. Default: what is
    /// announced.
    ///
    /// ```
    /// # use redis_guard::GuardedPool;
    /// let pool = GuardedPool::cluster(["rediss://one.example.com:7000"])
    ///     .map_address("10.0.0.1:7000", "nat.example.com:17000")
    ///     .map_address("10.0.0.2", "two.example.com");
    /// ```
    pub fn map_address(mut self, announced: impl Into<String>, dialed: impl Into<String>) -> Self {
        match &mut self.topology {
            Topology::Cluster(settings) => settings.names.push((announced.into(), dialed.into())),
            _ => self.misplaced.push("map_address"),
        }
        self
    }
}
