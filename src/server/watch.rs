//! The watch, to look at.

use std::sync::Arc;

use super::{Observation, worst};
use crate::GuardedPool;
use crate::telemetry::status::WatchStatus;

/// What one or several pools know of their servers; see [`GuardedPool::watch`].
///
/// A pool asks its server over a connection that it holds anyway, so this works where whoever dials
/// to ask is refused. With several nodes ([`over`](Self::over)) it tells each, and the worst.
#[derive(Clone, Debug)]
pub struct ServerWatch {
    pools: Vec<GuardedPool>,
}

impl ServerWatch {
    /// The watch over the servers of several pools, one a node.
    pub fn over(pools: impl IntoIterator<Item = GuardedPool>) -> Self {
        Self { pools: pools.into_iter().collect() }
    }

    /// What is known of each server, by its address.
    #[must_use]
    pub fn each(&self) -> Vec<(Arc<str>, WatchStatus)> {
        self.pools.iter().map(|pool| (pool.server(), pool.watch_status())).collect()
    }

    /// The server with the highest saturation; one whose saturation is unknown comes after all others.
    /// `None` while none was heard of.
    #[must_use]
    pub fn worst(&self) -> Option<(Arc<str>, Arc<Observation>)> {
        let known: Vec<_> = self
            .each()
            .into_iter()
            .filter_map(|(server, status)| Some((server, status.observation?)))
            .collect();
        let (at, _) = worst(known.iter().enumerate().map(|(at, (_, seen))| (at, seen.as_ref())))?;
        known.into_iter().nth(at)
    }
}
