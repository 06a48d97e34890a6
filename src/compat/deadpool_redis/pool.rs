//! The pool.

use std::panic::Location;

use ::deadpool_redis::{Metrics, Status, Timeouts};

use super::{Connection, Manager, PoolBuilder, PoolError};
use crate::{Endpoint, Error, GuardedPool};

/// A [`GuardedPool`] under deadpool-redis's name. Cloning it is cheap, and every clone is the same pool.
///
/// Its callers count as the endpoint `default`. Everything else there is behind [`guarded`](Self::guarded).
#[derive(Clone, Debug)]
pub struct Pool(GuardedPool);

impl Pool {
    /// Starts a pool for a manager's server.
    pub fn builder(manager: Manager) -> PoolBuilder {
        manager.into()
    }

    /// The pool itself: `acquire` and `shared` for an endpoint, `pubsub`, `status`, `events`, and all else.
    #[must_use]
    pub const fn guarded(&self) -> &GuardedPool {
        &self.0
    }

    /// Leases a connection, waiting at most the `wait` timeout, or else a second.
    ///
    /// # Errors
    ///
    /// [`PoolError`] says when which.
    ///
    /// # Cancel safety
    ///
    /// As [`GuardedPool::acquire`].
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<Connection, PoolError>> + Send + use<> {
        let lease = self.0.get();
        async move { Ok(lease.await?.into()) }
    }

    /// The same with another timeout. `wait` is for all that the caller waits for, the dial included; zero never
    /// waits; `None` is the pool's own. `create` has no effect: a dial goes on for whoever comes, and
    /// `recycle` none, because nothing is asked of a connection that is lent. Of a pool of a cluster, or one that
    /// [multiplexes](crate::GuardedPoolBuilder::multiplex), a lease takes its connection later, and then the pool's own
    /// timeout counts.
    ///
    /// # Errors
    ///
    /// [`PoolError`] says when which.
    ///
    /// # Cancel safety
    ///
    /// As [`GuardedPool::acquire`].
    #[track_caller]
    pub fn timeout_get(
        &self,
        timeouts: &Timeouts,
    ) -> impl Future<Output = Result<Connection, PoolError>> + Send + use<> {
        let (pool, wait, location) = (self.0.clone(), timeouts.wait, Location::caller());
        async move {
            let lease: Result<_, Error> = match wait {
                Some(wait) => pool.acquire_within_at(wait, Endpoint::DEFAULT, location).await,
                None => pool.acquire_at(Endpoint::DEFAULT, location).await,
            };
            Ok(lease?.into())
        }
    }

    /// The timeouts of [`get`](Self::get): `wait`, and no others.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        Timeouts { wait: Some(self.0.acquire_timeout()), create: None, recycle: None }
    }

    /// Closes the idle connections that `predicate` does not want, whatever
    /// [`min_idle`](crate::GuardedPoolBuilder::min_idle) says. It is asked outside of the pool's lock; one that is lent
    /// meanwhile is left alone.
    ///
    /// A pool closes by itself what was idle for longer than its
    /// [`idle_timeout`](crate::GuardedPoolBuilder::idle_timeout), so most services can do without. Of the metrics
    /// `recycled` is when the connection was used last, to the second, and `recycle_count` is 0: it is not counted.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn example(pool: redis_guard::compat::deadpool_redis::Pool) {
    /// pool.retain(|_, metrics| metrics.last_used() < Duration::from_secs(60));
    /// # }
    /// ```
    pub fn retain(
        &self,
        mut predicate: impl FnMut(&IdleConnection, Metrics) -> bool,
    ) -> RetainResult {
        let idle = IdleConnection(());
        let (retained, closed) = self.0.retain_idle(|metrics| predicate(&idle, metrics));
        RetainResult { retained, removed: vec![idle; closed] }
    }

    /// Refuses new callers and those who wait with [`PoolError::Closed`], and closes what is idle. Connections
    /// that are lent are closed when they are dropped. To wait for that there is [`GuardedPool::close`].
    pub fn close(&self) {
        self.0.shut();
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// The pool at this moment: how many connections it may have (`max_size`, 0 once it is closed), has (`size`)
    /// and lends to nobody (`available`), and how many callers wait. [`GuardedPool::status`] says the rest.
    #[must_use]
    pub fn status(&self) -> Status {
        let status = self.0.status();
        Status {
            max_size: if status.closed { 0 } else { status.max_connections },
            size: status.live,
            available: status.idle,
            waiting: status.waiting,
        }
    }
}

impl From<GuardedPool> for Pool {
    fn from(pool: GuardedPool) -> Self {
        Self(pool)
    }
}

impl From<Pool> for GuardedPool {
    fn from(pool: Pool) -> Self {
        pool.0
    }
}

impl AsRef<GuardedPool> for Pool {
    fn as_ref(&self) -> &GuardedPool {
        &self.0
    }
}

/// A connection that [`Pool::retain`] asks about, which is not to be sent on.
#[derive(Clone, Debug)]
pub struct IdleConnection(());

/// What [`Pool::retain`] has done.
#[derive(Clone, Debug, Default)]
pub struct RetainResult {
    /// How many idle connections are left.
    pub retained: usize,
    /// Those that were closed.
    pub removed: Vec<IdleConnection>,
}
