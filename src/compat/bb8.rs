//! What a service names that uses bb8 0.9 with bb8-redis 0.26, over a [`GuardedPool`]: the same names, in one
//! module.
//!
//! ```no_run
//! use redis_guard::compat::bb8::{self, RedisConnectionManager};
//! use redis_guard::redis::{self, AsyncCommands, RedisError};
//!
//! type Pool = bb8::Pool<RedisConnectionManager>;
//!
//! async fn visits(pool: &Pool) -> Result<Option<u64>, bb8::RunError<RedisError>> {
//!     let mut conn = pool.get().await?;
//!     Ok(conn.get("visits").await?)
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let manager = RedisConnectionManager::new("redis://127.0.0.1:6379")?;
//! let pool: Pool = bb8::Pool::builder().max_size(16).build(manager).await?;
//! let mut conn = pool.get_owned().await?;
//! let pong: String = redis::cmd("PING").query_async(&mut *conn).await?;
//! println!("{pong}; {} connections; {:?} visits", pool.state().connections, visits(&pool).await?);
//! # Ok(()) }
//! ```
//!
//! # What is different
//!
//! | there | here | where it is not set |
//! |---|---|---|
//! | `max_size` | [`max_connections`](GuardedPoolBuilder::max_connections) | 10, as there |
//! | `min_idle` | [`min_idle`](GuardedPoolBuilder::min_idle), those in use included; so many are dialed by `build` | 1, and none is |
//! | `connection_timeout` | [`acquire_timeout`](GuardedPoolBuilder::acquire_timeout) | 1 s instead of 30 s |
//! | `max_lifetime` | [`max_lifetime`](GuardedPoolBuilder::max_lifetime); `None` is a year | 30 min, as there |
//! | `idle_timeout` | [`idle_timeout`](GuardedPoolBuilder::idle_timeout); `None` is a year | 5 min instead of 10 min |
//! | `test_on_check_out` | no effect: a dead connection is known without a round trip | |
//! | `retry_connection` | no effect: a failed dial is tried again after one back-off for all | |
//!
//! `build` logs once what came of it: at the level `info`, or `warn` where something was set that has no effect.
//!
//! A [`PooledConnection`] dereferences to a [`GuardedConnection`], and not to a `MultiplexedConnection`, which could
//! be cloned out of the pool. Not here, so that code which counts on them does not compile: managers of one's own,
//! `build_unchecked`, `error_sink` (see [`events`](GuardedPool::events)), `queue_strategy`, `connection_customizer`,
//! `reaper_rate`, `add`, `dedicated_connection` (a [subscriber](GuardedPool::pubsub) is within the limit as well), and
//! `State::statistics` (see [`status`](GuardedPool::status)).

use std::error;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::time::Duration;

use redis::{ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError};

use crate::policy::LONGEST;
use crate::pool::Inherited;
use crate::{
    BuildError, Endpoint, Error, GuardedConnection, GuardedPool, GuardedPoolBuilder, Phase,
    Rejection,
};

/// Where the server is: bb8-redis's manager.
#[derive(Clone, Debug)]
pub struct RedisConnectionManager {
    info: ConnectionInfo,
}

impl RedisConnectionManager {
    /// Opens nothing.
    ///
    /// # Errors
    ///
    /// A URL that is none.
    pub fn new<T: IntoConnectionInfo>(info: T) -> Result<Self, RedisError> {
        Ok(Self { info: info.into_connection_info()? })
    }
}

/// A [`GuardedPool`] under bb8's name. Cloning it is cheap, and every clone is the same pool. `M` is
/// [`RedisConnectionManager`] always.
///
/// Its callers count as the endpoint `default`. Everything else there is behind [`guarded`](Self::guarded).
pub struct Pool<M> {
    pool: GuardedPool,
    manager: PhantomData<fn() -> M>,
}

impl Pool<RedisConnectionManager> {
    /// Starts a pool.
    pub fn builder() -> Builder<RedisConnectionManager> {
        Builder::new()
    }

    /// The pool itself: `acquire` and `shared` for an endpoint, `pubsub`, `status`, `events`, and all else.
    #[must_use]
    pub const fn guarded(&self) -> &GuardedPool {
        &self.pool
    }

    /// Leases a connection, waiting at most the `connection_timeout`, or else a second.
    ///
    /// # Errors
    ///
    /// [`RunError`] says when which.
    ///
    /// # Cancel safety
    ///
    /// As [`GuardedPool::acquire`].
    #[track_caller]
    pub fn get(
        &self,
    ) -> impl Future<
        Output = Result<PooledConnection<'_, RedisConnectionManager>, RunError<RedisError>>,
    > + Send {
        let lease = self.pool.acquire_at::<Error>(Endpoint::DEFAULT, Location::caller());
        async move { Ok(PooledConnection::of(lease.await?)) }
    }

    /// The same; no connection of this pool borrows from it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// As [`get`](Self::get).
    #[track_caller]
    pub fn get_owned(
        &self,
    ) -> impl Future<
        Output = Result<PooledConnection<'static, RedisConnectionManager>, RunError<RedisError>>,
    > + Send
    + use<> {
        let lease = self.pool.acquire_at::<Error>(Endpoint::DEFAULT, Location::caller());
        async move { Ok(PooledConnection::of(lease.await?)) }
    }

    /// How many connections there are, and how many of them nobody has.
    #[must_use]
    pub fn state(&self) -> State {
        let status = self.pool.status();
        let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
        State { connections: count(status.live), idle_connections: count(status.idle) }
    }
}

impl<M> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), manager: PhantomData }
    }
}

impl<M> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.pool).finish()
    }
}

impl From<GuardedPool> for Pool<RedisConnectionManager> {
    fn from(pool: GuardedPool) -> Self {
        Self { pool, manager: PhantomData }
    }
}

impl From<Pool<RedisConnectionManager>> for GuardedPool {
    fn from(pool: Pool<RedisConnectionManager>) -> Self {
        pool.pool
    }
}

/// A pool at one moment.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct State {
    /// Connections that are open and authenticated.
    pub connections: u32,
    /// Those that nobody has.
    pub idle_connections: u32,
}

/// A connection of a [`Pool`], given back when it is dropped. It dereferences to the [`GuardedConnection`] that
/// commands are sent on: `&mut *conn`.
pub struct PooledConnection<'a, M> {
    lease: GuardedConnection,
    pool: PhantomData<&'a ()>,
    manager: PhantomData<fn() -> M>,
}

impl<M> PooledConnection<'_, M> {
    fn of(lease: GuardedConnection) -> Self {
        Self { lease, pool: PhantomData, manager: PhantomData }
    }
}

impl<M> Deref for PooledConnection<'_, M> {
    type Target = GuardedConnection;

    fn deref(&self) -> &GuardedConnection {
        &self.lease
    }
}

impl<M> DerefMut for PooledConnection<'_, M> {
    fn deref_mut(&mut self) -> &mut GuardedConnection {
        &mut self.lease
    }
}

impl<M> fmt::Debug for PooledConnection<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lease.fmt(f)
    }
}

/// Settings of a [`Pool`], as bb8 has them; see [the module](self).
#[derive(Debug)]
#[must_use = "call `build` to get the pool"]
pub struct Builder<M> {
    max_size: u32,
    min_idle: Option<u32>,
    max_lifetime: Option<Option<Duration>>,
    idle_timeout: Option<Option<Duration>>,
    connection_timeout: Option<Duration>,
    test_on_check_out: Option<bool>,
    retry_connection: Option<bool>,
    manager: PhantomData<fn() -> M>,
}

impl<M> Default for Builder<M> {
    fn default() -> Self {
        Self {
            max_size: 10,
            min_idle: None,
            max_lifetime: None,
            idle_timeout: None,
            connection_timeout: None,
            test_on_check_out: None,
            retry_connection: None,
            manager: PhantomData,
        }
    }
}

impl Builder<RedisConnectionManager> {
    /// bb8's defaults, where they are not others.
    pub fn new() -> Self {
        Self::default()
    }

    /// The most connections. Default 10.
    pub const fn max_size(mut self, max_size: u32) -> Self {
        self.max_size = max_size;
        self
    }

    /// How many idle connections are left open. [`build`](Self::build) dials so many. Default: one is left open, and
    /// none dialed.
    pub fn min_idle(mut self, min_idle: impl Into<Option<u32>>) -> Self {
        self.min_idle = min_idle.into();
        self
    }

    /// How old a connection becomes. Default 30 min; `None`: a year.
    pub fn max_lifetime(mut self, max_lifetime: impl Into<Option<Duration>>) -> Self {
        self.max_lifetime = Some(max_lifetime.into());
        self
    }

    /// How long a connection may be idle. Default 5 min; `None`: a year.
    pub fn idle_timeout(mut self, idle_timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = Some(idle_timeout.into());
        self
    }

    /// How long callers wait for a connection, the dial included. Default 1 s.
    pub const fn connection_timeout(mut self, connection_timeout: Duration) -> Self {
        self.connection_timeout = Some(connection_timeout);
        self
    }

    /// Has no effect, for nothing is asked of a connection that is lent; where it is true, a warning says so.
    pub const fn test_on_check_out(mut self, test_on_check_out: bool) -> Self {
        self.test_on_check_out = Some(test_on_check_out);
        self
    }

    /// Has no effect, for a failed dial is tried again after the back-off; where it is false, a warning says so.
    pub const fn retry_connection(mut self, retry: bool) -> Self {
        self.retry_connection = Some(retry);
        self
    }

    /// Makes the pool, and dials [`min_idle`](Self::min_idle) connections if that is set.
    ///
    /// # Errors
    ///
    /// Settings that are wrong, all in one error of the kind `InvalidClientConfig`: a size or a time that is zero, or
    /// beyond its bound; the failure of a dial.
    pub async fn build(
        self,
        manager: RedisConnectionManager,
    ) -> Result<Pool<RedisConnectionManager>, RedisError> {
        let min_idle = self.min_idle.map_or(0, size);
        let pool = self.settings(GuardedPool::builder(manager.info)).build().map_err(wrong)?;
        if min_idle > 0 {
            pool.warm_up(min_idle).await?;
        }
        Ok(pool.into())
    }

    fn settings(self, mut pool: GuardedPoolBuilder) -> GuardedPoolBuilder {
        let mut inherited = Inherited::of("bb8");
        pool = pool.max_connections(size(self.max_size));
        if let Some(min_idle) = self.min_idle {
            pool = pool.min_idle(size(min_idle));
        }
        if let Some(lifetime) = self.max_lifetime {
            pool = pool.max_lifetime(lifetime.unwrap_or(LONGEST));
        }
        match self.idle_timeout {
            Some(timeout) => pool = pool.idle_timeout(timeout.unwrap_or(LONGEST)),
            None => inherited.not_set("idle_timeout (there 10 min)"),
        }
        match self.connection_timeout {
            Some(timeout) => pool = pool.acquire_timeout(timeout),
            None => inherited.not_set("connection_timeout (there 30 s)"),
        }
        if self.test_on_check_out == Some(true) {
            inherited
                .without_effect("test_on_check_out (a connection is lent without a round trip)");
        }
        if self.retry_connection == Some(false) {
            inherited.without_effect(
                "retry_connection (a failed dial is tried again after the back-off)",
            );
        }
        pool.inherited(inherited)
    }
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn wrong(error: BuildError) -> RedisError {
    let problems = error.problems().join("; ");
    (ErrorKind::InvalidClientConfig, "invalid configuration", problems).into()
}

/// Why there is no connection, or what a command failed with: bb8's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError<E> {
    /// The error of a command; or why no connection could be dialed, in the server's words, and when the next dial
    /// is; or that the pool was closed.
    User(E),
    /// No connection could be had within the timeout, or more callers wait than can be served in it.
    TimedOut,
}

impl<E: fmt::Display> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(error) => error.fmt(f),
            Self::TimedOut => f.write_str("no connection could be had in time"),
        }
    }
}

// `User` is transparent: `source` goes past the inner error, so that no text repeats.
impl<E: error::Error + 'static> error::Error for RunError<E> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::User(error) => error.source(),
            Self::TimedOut => None,
        }
    }
}

impl<E: error::Error> From<E> for RunError<E> {
    fn from(error: E) -> Self {
        Self::User(error)
    }
}

impl From<Error> for RunError<RedisError> {
    fn from(error: Error) -> Self {
        match error {
            Error::Rejected(
                Rejection::AcquireTimeout { phase: Phase::Connection, .. }
                | Rejection::AcquireTimeout { failure: None, .. }
                | Rejection::BudgetExhausted { .. }
                | Rejection::QueueFull { .. },
            ) => Self::TimedOut,
            told => Self::User(told.into()),
        }
    }
}
