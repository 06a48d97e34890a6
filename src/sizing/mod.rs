//! Does the fleet fit? Processes, pools and `maxclients`, worked out before Redis says no.
//!
//! A pool's size is chosen once, for a few instances. Then the service scales out, and the product
//! passes `maxclients` without anybody having changed a number. A [`Plan`] is that product; it needs
//! nothing but the numbers, so a service can check it at start-up, from its own pool and from what the
//! server says:
//!
//! ```
//! use redis_guard::server::ServerSnapshot;
//! use redis_guard::sizing::Plan;
//!
//! # let info = "connected_clients:31\r\nconnected_slaves:2\r\nmaxclients:10000\r\n";
//! let snapshot = ServerSnapshot::parse(info); // or `pool.status().watch.observation`
//! if let Some(plan) = Plan::for_server(&snapshot) {
//!     let outcome = plan.instances(240).pool_size(50).work_out();
//!     if !outcome.fits() {
//!         let size = outcome.largest_pool_size;
//!         tracing::warn!("{outcome}; max_connections({size}) would");
//!     }
//!     # assert_eq!(outcome.largest_pool_size, 40);
//! }
//! ```
//!
//! or from numbers alone, as `redis-guard plan` does it:
//!
//! ```
//! use redis_guard::sizing::{Plan, Surge};
//!
//! let plan = Plan::new(10_000).instances(240).pool_size(50);
//! assert_eq!(plan.work_out().to_string(), "240 × 50 = 12,000 does not fit 10,000 − 200");
//!
//! let smaller = plan.instances(150).work_out();
//! assert_eq!(smaller.to_string(), "150 × 50 = 7,500 fits 10,000 − 200 (2,300 left)");
//!
//! // A rolling deployment runs old and new instances side by side.
//! let deploying = plan.instances(150).surge(Surge::Percent(25)).pool_size(40).work_out();
//! assert_eq!(deploying.to_string(), "(150 + 38) × 40 = 7,520 fits 10,000 − 200 (2,280 left)");
//!
//! for lever in plan.work_out().levers {
//!     println!("{lever}"); // max_connections 50 → 40 frees 2,400 slots
//! }
//! ```
//!
//! The plan is for one server: of a cluster one node, where each process has a pool to every node.

mod lever;
mod outcome;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::fmt;

use serde::Serialize;

use crate::policy::FLOOR;
use crate::server::ServerSnapshot;
use crate::vocabulary::words;

pub use lever::{Change, Lever};
pub use outcome::Outcome;

/// How many slots of a server a fleet wants, and how many there are.
///
/// No setter fails, and no number is too large: what does not fit a `u64` does not fit any server.
///
/// ```
/// use redis_guard::sizing::Plan;
///
/// let outcome = Plan::new(10_000).instances(240).pool_size(40).min_limit(6).work_out();
/// assert!(outcome.fits() && outcome.floor_fits());
/// assert_eq!((outcome.headroom, outcome.floor), (200, 1_440));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[must_use = "call `work_out` to hear whether it fits"]
pub struct Plan {
    maxclients: u64,
    instances: u64,
    surge: Surge,
    workers: u64,
    pool_size: usize,
    min_limit: usize,
    replicas: u64,
    cluster_links: u64,
    others: u64,
    reserve: Option<u64>,
    kept_by_server: u64,
    serverless: bool,
}

impl Plan {
    /// One process with a pool of 16, the default of
    /// [`max_connections`](crate::GuardedPoolBuilder::max_connections), on a server that takes
    /// `maxclients` connections.
    pub const fn new(maxclients: u64) -> Self {
        // A sum that saturates is then above every ceiling.
        let most = u64::MAX - 1;
        Self {
            maxclients: if maxclients > most { most } else { maxclients },
            instances: 1,
            surge: Surge::Instances(0),
            workers: 1,
            pool_size: 16,
            min_limit: FLOOR,
            replicas: 0,
            cluster_links: 0,
            others: 0,
            reserve: None,
            kept_by_server: 0,
            serverless: false,
        }
    }

    /// The same for functions of a serverless platform: an instance is a sandbox, so
    /// [`instances`](Self::instances) is the concurrency of the account or function,
    /// [`pool_size`](Self::pool_size) what each opens (1 unless set), and the surge 100 %.
    ///
    /// Why 100 %: a frozen sandbox keeps its sockets, and can close none while it is frozen. After a
    /// deployment those of the old version are still there while those of the new one fill up, so at worst
    /// there are twice as many. Set a lower [`surge`](Self::surge) where you have measured it.
    pub const fn serverless(maxclients: u64) -> Self {
        let mut plan = Self::new(maxclients);
        plan.serverless = true;
        plan.pool_size = 1;
        plan.surge = Surge::Percent(100);
        plan
    }

    /// With the ceiling, the slots it keeps from ordinary clients, the replicas and the cluster links that a
    /// server tells of. `None` where it does not tell its ceiling.
    #[must_use]
    pub fn for_server(snapshot: &ServerSnapshot) -> Option<Self> {
        let mut plan = Self::new(snapshot.maxclients?);
        plan.kept_by_server = snapshot.kept_slots();
        plan.replicas = snapshot.connected_replicas.unwrap_or(0);
        plan.cluster_links = snapshot.cluster_connections.unwrap_or(0);
        Some(plan)
    }

    /// The same for a cluster: for that of its nodes which has the least room, as a process may have as many
    /// connections to each of them as to any. `None` where no node tells its ceiling.
    #[must_use]
    pub fn for_cluster<'a>(nodes: impl IntoIterator<Item = &'a ServerSnapshot>) -> Option<Self> {
        let room = |plan: &Self| {
            let (available, taken) = (plan.available(), plan.beside_pools());
            (available.saturating_sub(taken), Reverse(taken.saturating_sub(available)))
        };
        nodes.into_iter().filter_map(Self::for_server).min_by_key(room)
    }

    /// How many instances (containers, virtual machines) run: the most that the autoscaler may start.
    /// Default 1.
    pub const fn instances(mut self, instances: u64) -> Self {
        self.instances = instances;
        self
    }

    /// Instances on top while a deployment or an autoscaler replaces some. Default none; Kubernetes
    /// adds 25 % unless `maxSurge` says otherwise.
    pub const fn surge(mut self, surge: Surge) -> Self {
        self.surge = surge;
        self
    }

    /// How many processes each instance runs that have a pool of their own, such as forked workers.
    /// Default 1.
    pub const fn workers(mut self, workers: u64) -> Self {
        self.workers = workers;
        self
    }

    /// The most connections that each process opens:
    /// [`max_connections`](crate::GuardedPoolBuilder::max_connections), of all its pools to this
    /// server: to each node of a cluster, not to all of them.
    pub const fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// The connections of each process that no pressure takes back:
    /// [`min_limit`](crate::GuardedPoolBuilder::min_limit), so what its endpoints'
    /// [reserves](crate::Budget::reserve) add up to. Default 2; never more than the
    /// [`pool_size`](Self::pool_size).
    pub const fn min_limit(mut self, connections: usize) -> Self {
        self.min_limit = connections;
        self
    }

    /// Replicas of the server; each takes one of its slots. Default none.
    pub const fn replicas(mut self, replicas: u64) -> Self {
        self.replicas = replicas;
        self
    }

    /// Nodes of the cluster that the server is in, itself and replicas among them. It keeps a link
    /// to each of the others and takes one from each, `2 · (nodes − 1)` slots in all. Default: no
    /// cluster.
    pub const fn cluster_nodes(mut self, nodes: u64) -> Self {
        self.cluster_links = nodes.saturating_sub(1).saturating_mul(2);
        self
    }

    /// Other clients that are there all the time: monitoring, scheduled jobs, consoles. Default
    /// none.
    pub const fn others(mut self, connections: u64) -> Self {
        self.others = connections;
        self
    }

    /// Slots to plan nothing on. Default: the larger of 2 % of `maxclients` and 16, a quarter at
    /// most, which is what a [`Fleet`](crate::Fleet) keeps back too.
    ///
    /// It is for what nobody counts: the console of whoever is paged, an exporter that dials for each
    /// scrape, the second connection of a replica that needs the whole data set, sockets that a
    /// client has closed and the server has not noticed. Without it the first of them is refused, or
    /// takes a slot that a pool was to have.
    pub const fn reserve(mut self, slots: u64) -> Self {
        self.reserve = Some(slots);
        self
    }

    /// Slots that the server keeps from ordinary clients, `maxclients-reserved` of KeyDB and newer Valkeys: as
    /// good as gone, so they are added to the [`reserve`](Self::reserve). Default none.
    pub const fn kept_by_server(mut self, slots: u64) -> Self {
        self.kept_by_server = slots;
        self
    }

    /// Does the arithmetic.
    #[must_use]
    pub fn work_out(self) -> Outcome {
        let (needed, available) = (self.needed(), self.available());
        Outcome {
            maxclients: self.maxclients,
            reserve: self.reserved(),
            instances: self.instances,
            surge: self.surge,
            surge_instances: self.surge_instances(),
            workers: self.workers,
            processes: self.processes(),
            pool_size: self.pool_size,
            min_limit: self.floor(),
            floor: self.processes().saturating_mul(wide(self.floor())),
            replicas: self.replicas,
            cluster_links: self.cluster_links,
            others: self.others,
            serverless: self.serverless,
            needed,
            available,
            headroom: available.saturating_sub(needed),
            shortfall: needed.saturating_sub(available),
            largest_pool_size: self.largest_pool_size(),
            largest_instances: self.largest_instances(),
            levers: lever::of(self),
        }
    }

    const fn fits(self) -> bool {
        self.needed() <= self.available()
    }

    const fn surge_instances(self) -> u64 {
        self.surge.of(self.instances)
    }

    const fn processes(self) -> u64 {
        self.instances.saturating_add(self.surge_instances()).saturating_mul(self.workers)
    }

    const fn floor(self) -> usize {
        if self.min_limit < self.pool_size { self.min_limit } else { self.pool_size }
    }

    /// What the pools leave no choice about.
    const fn beside_pools(self) -> u64 {
        self.replicas.saturating_add(self.cluster_links).saturating_add(self.others)
    }

    const fn needed(self) -> u64 {
        self.processes().saturating_mul(wide(self.pool_size)).saturating_add(self.beside_pools())
    }

    const fn reserved(self) -> u64 {
        let reserve = match self.reserve {
            Some(reserve) => reserve,
            None => default_reserve(self.maxclients),
        };
        reserve.saturating_add(self.kept_by_server)
    }

    const fn available(self) -> u64 {
        self.maxclients.saturating_sub(self.reserved())
    }

    fn largest_pool_size(self) -> usize {
        narrow(largest(self.available(), |size| self.pool_size(narrow(size)).fits()))
    }

    fn largest_instances(self) -> u64 {
        largest(self.available(), |instances| self.instances(instances).fits())
    }
}

/// Instances that run on top of the others for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Surge {
    /// So many.
    Instances(u64),
    /// So many in a hundred, rounded up, as Kubernetes does with `maxSurge`.
    Percent(u32),
}

impl Surge {
    /// How many there are on top of so many.
    #[must_use]
    pub const fn of(self, instances: u64) -> u64 {
        match self {
            Self::Instances(surge) => surge,
            Self::Percent(percent) => {
                // Neither can overflow: the percentage has 32 bits.
                let hundreds = (instances / 100).saturating_mul(percent as u64);
                hundreds.saturating_add((instances % 100 * percent as u64).div_ceil(100))
            }
        }
    }
}

impl fmt::Display for Surge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instances(1) => f.write_str("1 instance"),
            Self::Instances(instances) => write!(f, "{} instances", words::count(*instances)),
            Self::Percent(percent) => write!(f, "{} %", words::count(*percent)),
        }
    }
}

/// The fleet's registry keeps the same (`reserve` in `fleet/registry.lua`).
const fn default_reserve(maxclients: u64) -> u64 {
    let reserve = maxclients.div_ceil(50);
    let reserve = if reserve < 16 { 16 } else { reserve };
    let quarter = maxclients.div_ceil(4);
    if reserve > quarter { quarter } else { reserve }
}

/// The largest number up to `most` that fits, where every smaller one does too. Zero where none
/// does.
fn largest(most: u64, fits: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = high - (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

pub(crate) const fn wide(count: usize) -> u64 {
    // Lossless on every platform there is.
    count as u64
}

fn narrow(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
