//! What a plan comes to, and the sentence that says so.

use std::fmt;

use serde::Serialize;

#[expect(unused_imports, reason = "for the docs")]
use super::Plan;
use super::{Lever, Surge, wide};
use crate::server::ratio;
use crate::vocabulary::words;

/// What a [`Plan`] comes to. Its `Display` is one sentence, for a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The ceiling, as planned.
    pub maxclients: u64,
    /// Slots that nothing is planned on.
    pub reserve: u64,
    /// As planned.
    pub instances: u64,
    /// As planned.
    pub surge: Surge,
    /// Instances on top, by the surge.
    pub surge_instances: u64,
    /// Processes of each instance, as planned.
    pub workers: u64,
    /// Processes that have a pool, at the peak: `(instances + surge_instances) × workers`.
    pub processes: u64,
    /// The most connections of each process, as planned.
    pub pool_size: usize,
    /// The connections of each process that no pressure takes back.
    pub min_limit: usize,
    /// The same of all processes together.
    pub floor: u64,
    /// As planned.
    pub replicas: u64,
    /// Slots that the cluster's other nodes take.
    pub cluster_links: u64,
    /// Other clients, as planned.
    pub others: u64,
    /// True of a plan for a serverless platform.
    pub serverless: bool,
    /// Slots needed at the peak: all pools full, replicas, cluster links and other clients.
    /// [`u64::MAX`] also where it is more.
    pub needed: u64,
    /// Slots there are for that: `maxclients − reserve`.
    pub available: u64,
    /// Slots left; zero where it does not fit.
    pub headroom: u64,
    /// Slots missing; zero where it fits.
    pub shortfall: u64,
    /// The most that [`max_connections`](crate::GuardedPoolBuilder::max_connections) may be in each
    /// process. Zero where not even one connection each fits; never more than `available`.
    pub largest_pool_size: usize,
    /// The most instances that fit with the pools as they are, the surge on top of them: where to
    /// stop the autoscaler. Never more than `available`.
    pub largest_instances: u64,
    /// What could be changed and what it would buy, the cheapest first.
    pub levers: Vec<Lever>,
}

impl Outcome {
    /// True where every pool may be full and nobody is refused.
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.shortfall == 0
    }

    /// True where even what no pressure takes back fits, beside replicas, cluster links and other clients. Where it
    /// does not, the [adaptive limit](crate::GuardedPoolBuilder::adaptive_limit) cannot make room by itself.
    #[must_use]
    pub const fn floor_fits(&self) -> bool {
        let beside = self.replicas.saturating_add(self.cluster_links).saturating_add(self.others);
        self.floor.saturating_add(beside) <= self.available
    }

    /// True where it fits, and something that is to be expected would use up the rest: what is left
    /// is less than the reserve once more, or than one more surge step (a deployment while an
    /// autoscaler is at work). The surge of a serverless plan is an upper bound already, and not asked
    /// for twice.
    #[must_use]
    pub const fn is_tight(&self) -> bool {
        let surge = if self.serverless { 0 } else { self.surge_instances };
        let step = surge.saturating_mul(self.workers).saturating_mul(wide(self.pool_size));
        self.fits() && (self.headroom < self.reserve || self.headroom < step)
    }

    /// How full the server is at the peak: 1 is full, and it is more where it does not fit. `None`
    /// where `maxclients` is zero.
    #[must_use]
    pub fn saturation(&self) -> Option<f64> {
        (self.maxclients > 0).then(|| ratio(self.needed, self.maxclients))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { maxclients, instances, workers, pool_size, .. } = *self;
        if self.surge_instances == 0 {
            write!(f, "{}", words::count(instances))?;
        } else {
            write!(f, "({} + {})", words::count(instances), words::count(self.surge_instances))?;
        }
        if workers != 1 {
            write!(f, " × {}", words::count(workers))?;
        }
        write!(f, " × {}", words::count(wide(pool_size)))?;
        for (count, one, many) in [
            (self.replicas, "replica", "replicas"),
            (self.cluster_links, "cluster link", "cluster links"),
            (self.others, "other", "others"),
        ] {
            if count > 0 {
                write!(f, " + {} {}", words::count(count), if count == 1 { one } else { many })?;
            }
        }
        let more = if self.needed == u64::MAX { " or more" } else { "" };
        let verb = if self.fits() { "fits" } else { "does not fit" };
        write!(f, " = {}{more} {verb} {}", words::count(self.needed), words::count(maxclients))?;
        if self.reserve > 0 {
            write!(f, " − {}", words::count(self.reserve))?;
        }
        if self.fits() {
            write!(f, " ({} left)", words::count(self.headroom))?;
        }
        Ok(())
    }
}
