//! The watch, to look at.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Observation, worst};
use crate::vocabulary::serialize::maybe_seconds;

/// What the watch knows of the server.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct WatchStatus {
    /// The last INFO, and what had changed since the one before.
    pub observation: Option<Arc<Observation>>,
    /// The part of the server's connections that is in use: 1 is full.
    pub saturation: Option<f64>,
    /// How old that is, in seconds.
    #[serde(rename = "age_seconds", serialize_with = "maybe_seconds")]
    pub age: Option<Duration>,
    /// Connections the server was seen to refuse since the watch began, to whomever.
    pub rejections_seen: u64,
    /// Why there is no newer one, in the server's words or ours.
    pub trouble: Option<String>,
}

/// What one or several pools know of their servers; see
/// [`GuardedPool::watch`](crate::GuardedPool::watch).
///
/// A server is asked over a connection that a pool holds anyway, so this works where whoever dials
/// to ask is refused. With several servers ([`over`](Self::over)) it tells each, and the worst.
///
/// ```
/// use redis_guard::{GuardedPool, server::ServerWatch};
///
/// # fn main() -> Result<(), redis_guard::BuildError> {
/// let orders = GuardedPool::builder("redis://10.0.0.1:6379").build()?;
/// let sessions = GuardedPool::builder("redis://10.0.0.2:6379").build()?;
/// let watch = ServerWatch::over([orders, sessions]);
/// for (server, seen) in watch.each() {
///     println!("{server}: {:?} of its slots are in use", seen.saturation);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ServerWatch {
    watching: Vec<Arc<dyn Watching>>,
}

/// Whoever watches servers.
pub(crate) trait Watching: Send + Sync {
    /// What is known of each, by its address.
    fn watched(&self) -> Vec<(Arc<str>, WatchStatus)>;
}

impl ServerWatch {
    pub(crate) fn of(watching: Arc<dyn Watching>) -> Self {
        Self { watching: vec![watching] }
    }

    /// The watch over the servers of several pools.
    pub fn over(pools: impl IntoIterator<Item = impl Into<Self>>) -> Self {
        Self { watching: pools.into_iter().flat_map(|pool| pool.into().watching).collect() }
    }

    /// What is known of each server, by its address.
    #[must_use]
    pub fn each(&self) -> Vec<(Arc<str>, WatchStatus)> {
        self.watching.iter().flat_map(|watching| watching.watched()).collect()
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

impl fmt::Debug for ServerWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerWatch").field(&self.each()).finish()
    }
}
