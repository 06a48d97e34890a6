//! The servers: one alone, a set with sentinels, a cluster.

use std::time::Duration;

use crate::Failure;
use crate::cluster::Cluster;
use crate::sentinel::SentinelSet;
use crate::server::{TestServer, poll};
use crate::tally::Topology;

pub(crate) const USER: &str = "soak";
/// What the one server asks for; [`OTHER_PASSWORD`] while the password is changed.
pub(crate) const PASSWORD: &str = "first";
pub(crate) const OTHER_PASSWORD: &str = "second";
/// More than twice what our pools want of the one server, so that its pressure says nothing until
/// others fill it.
pub(crate) const MAXCLIENTS: u32 = 120;
/// What a node of the cluster has.
pub(crate) const NODE_MAXCLIENTS: u32 = 200;
const MASTERS: usize = 3;
const RENEW_LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Servers {
    pub(crate) single: TestServer,
    pub(crate) set: SentinelSet,
    pub(crate) cluster: Cluster,
}

impl Servers {
    /// Starts everything, and returns when everybody knows everybody.
    pub(crate) fn start() -> Result<Self, Failure> {
        let in_memory = || TestServer::builder().in_memory(true);
        let single = in_memory().maxclients(MAXCLIENTS).acl_user(USER, PASSWORD).start()?;
        let set = SentinelSet::builder().replicas(1).down_after_ms(1_000).start()?;
        let node = in_memory()
            .maxclients(NODE_MAXCLIENTS)
            .arg("cluster-node-timeout", "1500")
            .arg("repl-diskless-sync-delay", "0");
        let cluster = Cluster::with_replicas(MASTERS, 1, &node)?;
        Ok(Self { single, set, cluster })
    }

    /// Those that have data.
    pub(crate) fn of(&self, topology: Topology) -> Vec<&TestServer> {
        match topology {
            Topology::Single => vec![&self.single],
            Topology::Sentinel => self.set.servers().iter().collect(),
            Topology::Cluster => self.cluster.nodes().iter().collect(),
        }
    }

    pub(crate) fn single_url(&self) -> String {
        format!("redis://{USER}:{PASSWORD}@127.0.0.1:{}", self.single.port())
    }

    /// Opens the operator's connections again that a fault has closed. What we hold open ourselves is
    /// the same at each time of quiet, then.
    pub(crate) fn renew(&self) -> Result<(), String> {
        let data = Topology::ALL.into_iter().flat_map(|topology| self.of(topology));
        let sentinels = (0..self.set.sentinels().len()).map(|nth| self.set.sentinel(nth));
        for server in data.chain(sentinels) {
            let answered = || server.admin().ping().is_ok_and(|reply| !reply.is_error());
            poll(RENEW_LIMIT, || answered().then_some(()))
                .ok_or_else(|| format!("the server at port {} does not answer", server.port()))?;
        }
        Ok(())
    }

    /// How many connections of this name the servers count.
    pub(crate) fn connected(&self, topology: Topology, name: &str) -> usize {
        self.of(topology).iter().map(|server| server.admin().clients_named(name)).sum()
    }
}
