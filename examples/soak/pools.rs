//! The pools under test.

use std::time::Duration;

use redis_guard::{
    Budget, BuildError, Fleet, GuardedPool, GuardedPoolBuilder, ReplicaReads, Status,
};

use crate::servers::Servers;
use crate::tally::Topology;

/// What a pool is given back within, at most.
pub(crate) const DRAIN: Duration = Duration::from_secs(3);
/// Of `CLIENT LIST`.
const CHURN_NAME: &str = "soak-churn";

/// The pools of one topology.
#[derive(Clone, Debug)]
pub(crate) struct Pools {
    pub(crate) topology: Topology,
    pub(crate) exclusive: GuardedPool,
    pub(crate) multiplexed: GuardedPool,
    pub(crate) shared: GuardedPool,
    /// One more member of the fleet that the first is in, if it is.
    pub(crate) mate: Option<GuardedPool>,
}

impl Pools {
    pub(crate) fn open(servers: &Servers, topology: Topology) -> Result<Self, BuildError> {
        let builder = |name: &str| {
            builder(servers, topology)
                .name(format!("{}-{name}", topology.as_str()))
                .client_name(client_name(topology))
        };
        let fleet = || (topology == Topology::Single).then(|| Fleet::named("soak"));
        let with_fleet = |pool: GuardedPoolBuilder| match fleet() {
            Some(fleet) => pool.fleet(fleet),
            None => pool,
        };
        let exclusive = builder("exclusive")
            .max_connections(18)
            .endpoint("leak", Budget::max(5))
            .endpoint("blocking", Budget::max(2))
            .endpoint("subscriber", Budget::max(4));
        let multiplexed = builder("multiplexed").max_connections(8).multiplex(true);
        let mut shared = builder("shared").max_connections(4).shared_lanes(2);
        if topology == Topology::Cluster {
            shared = shared.replica_reads(ReplicaReads::Prefer);
        }
        let mate = fleet().map(|fleet| builder("mate").max_connections(8).fleet(fleet).build());
        Ok(Self {
            topology,
            exclusive: with_fleet(exclusive).build()?,
            multiplexed: multiplexed.build()?,
            shared: shared.build()?,
            mate: mate.transpose()?,
        })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &GuardedPool> {
        [&self.exclusive, &self.multiplexed, &self.shared].into_iter().chain(&self.mate)
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        self.all().map(GuardedPool::status).collect()
    }

    /// Sockets by the pools' own books.
    pub(crate) fn sockets(&self) -> usize {
        self.statuses().iter().map(|status| status.live + status.dialing).sum()
    }
}

/// How the connections of these pools are called.
pub(crate) fn client_name(topology: Topology) -> String {
    format!("soak:{}", topology.as_str())
}

/// One that is not to last.
pub(crate) fn passing(servers: &Urls, topology: Topology) -> GuardedPoolBuilder {
    servers.builder(topology).name("churn").client_name(CHURN_NAME).max_connections(3)
}

fn builder(servers: &Servers, topology: Topology) -> GuardedPoolBuilder {
    Urls::of(servers).builder(topology)
}

/// Where the servers are.
#[derive(Clone, Debug)]
pub(crate) struct Urls {
    pub(crate) single: String,
    sentinels: Vec<String>,
    master: String,
    nodes: Vec<String>,
}

impl Urls {
    pub(crate) fn of(servers: &Servers) -> Self {
        Self {
            single: servers.single_url(),
            sentinels: servers.set.sentinels(),
            master: servers.set.name().to_owned(),
            nodes: servers.cluster.urls(),
        }
    }

    /// Short times, so that each comes to pass many times in a run.
    fn builder(&self, topology: Topology) -> GuardedPoolBuilder {
        let pool = match topology {
            Topology::Single => GuardedPool::builder(self.single.as_str()),
            Topology::Sentinel => {
                GuardedPool::sentinel(self.sentinels.iter().map(String::as_str), &self.master)
            }
            Topology::Cluster => GuardedPool::cluster(self.nodes.iter().map(String::as_str)),
        };
        pool.acquire_timeout(Duration::from_secs(1))
            .connect_timeout(Duration::from_secs(1))
            .response_timeout(Duration::from_millis(500))
            .link_timeout(Duration::from_secs(4))
            .leak_after(Duration::from_secs(1))
            .idle_timeout(Duration::from_secs(2))
            .max_lifetime(Duration::from_secs(20))
            .drain_timeout(DRAIN)
    }
}
