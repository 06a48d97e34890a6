//! The pool: leases on live connections, dialed in the background through the gate.

mod admission;
mod berth;
mod breaker;
mod builder;
mod core;
mod dialing;
mod flights;
mod guarding;
mod lanes;
mod leak;
mod lease;
mod maintenance;
mod pubsub;
#[cfg(feature = "axum")]
mod requests;
mod residue;
mod shared;
mod snapshot;
mod sockets;
mod state;
mod store;
mod watching;

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use self::breaker::Owner;
use self::core::Core;
use crate::server::ServerWatch;
use crate::telemetry::event::{Events, RecentEvent};
use crate::telemetry::status::{CloseReason, Health, Status};
use crate::tower::RedisService;
use crate::{Endpoint, Error, Rejection};
use futures_util::TryFutureExt;
use redis::IntoConnectionInfo;
use tokio::time::Instant;

pub use breaker::BreakerHandle;
pub use builder::GuardedPoolBuilder;
pub use lease::GuardedConnection;
pub use pubsub::{GuardedPubSub, PubSubEvent};
pub use shared::SharedConnection;

/// How long [`GuardedPool::close`] waits, once it has closed the last sockets, for their tasks to
/// end.
const LAST_SOCKETS: Duration = Duration::from_secs(1);

/// A pool of Redis connections that cannot start a retry storm.
///
/// Cloning it is cheap, and every clone is the same pool. It opens no connection until one is
/// wanted. When the last clone is dropped, idle connections are closed, and leases when they end.
///
/// Four things differ from a plain pool:
/// - **Dials are gated, live connections never are.** A full Redis means "no more slots", not
///   "down": while one connection is live, callers take turns on it.
/// - **Callers never dial.** One background task dials for all; one refusal starts one back-off
///   for everybody.
/// - **Every endpoint has a budget** of connections, so that one leak, or one slow route, cannot
///   take the pool.
/// - **No round trip at checkout.** Liveness is known from the connection's own task.
///
/// ```no_run
/// use redis_guard::{AsyncCommands, Budget, GuardedPool};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379")
///     .max_connections(32)
///     .endpoint("checkout", Budget::max(8).reserve(2))
///     .build()?;
///
/// let mut conn = pool.acquire("checkout").await?;
/// let stock: Option<u32> = conn.get("stock:42").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct GuardedPool {
    core: Arc<Core>,
    _last: Arc<ShutOnDrop>,
}

/// Shuts the pool when its last handle is gone: the core itself lives on in its tasks and leases.
struct ShutOnDrop(Arc<Core>);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        self.0.shut();
    }
}

impl fmt::Debug for GuardedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedPool")
            .field("name", &self.core.settings.name)
            .field("server", &self.core.dialer.server)
            .field("counts", &self.core.lock().ledger.counts())
            .finish_non_exhaustive()
    }
}

impl GuardedPool {
    /// Starts a pool for a URL, a [`redis::ConnectionInfo`] or whatever else redis-rs takes.
    ///
    /// `redis://[user][:password@]host[:port][/db][?protocol=resp3]`, `rediss://…` for TLS (feature
    /// `tls-rustls` or `tls-native-tls`), `unix:///path?db=1&user=…&pass=…`.
    pub fn builder(params: impl IntoConnectionInfo) -> GuardedPoolBuilder {
        GuardedPoolBuilder::new(params)
    }

    /// Starts a pool from deadpool-redis's configuration: its URL or connection, `max_size`, and
    /// the `wait` and `create` timeouts.
    pub fn from_config(config: deadpool_redis::Config) -> GuardedPoolBuilder {
        GuardedPoolBuilder::from_config(config)
    }

    /// Starts a pool for the server of a [`redis::Client`].
    pub fn from_client(client: &redis::Client) -> GuardedPoolBuilder {
        GuardedPoolBuilder::new(client.get_connection_info().clone())
    }

    #[cfg(feature = "doctor")]
    pub(crate) fn dialer(&self) -> &crate::dial::Dialer {
        &self.core.dialer
    }

    fn new(core: Arc<Core>) -> Self {
        let last = Arc::new(ShutOnDrop(Arc::clone(&core)));
        Self { core, _last: last }
    }

    /// Leases a connection to `endpoint`, waiting for one at most the
    /// [`acquire_timeout`](GuardedPoolBuilder::acquire_timeout).
    ///
    /// A free connection is taken at once, without a round trip. Otherwise the caller queues, first
    /// come first served among the endpoints that may have one more.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] with
    /// - [`BreakerOpen`](Rejection::BreakerOpen) or [`ConnectFailed`](Rejection::ConnectFailed), at
    ///   once, when nothing is live and the next dial is some time away;
    /// - [`BudgetExhausted`](Rejection::BudgetExhausted) or
    ///   [`AcquireTimeout`](Rejection::AcquireTimeout), when none came free in time;
    /// - [`QueueFull`](Rejection::QueueFull) or [`Closed`](Rejection::Closed), at once.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue and loses nothing: a connection that was on its way goes
    /// to the next caller, and the dial, if there is one, goes on for the others.
    #[track_caller]
    pub fn acquire<E: Into<Endpoint>>(
        &self,
        endpoint: E,
    ) -> impl Future<Output = Result<GuardedConnection, Error>> + Send + use<E> {
        self.acquire_at(endpoint.into(), Location::caller()).map_err(Error::from)
    }

    pub(crate) fn acquire_at(
        &self,
        endpoint: Endpoint,
        location: &'static Location<'static>,
    ) -> impl Future<Output = Result<GuardedConnection, Rejection>> + Send + use<> {
        Arc::clone(&self.core).acquire(endpoint, location)
    }

    /// A handle on the shared connections, for `endpoint`: `Clone`, and cheap to make. It opens
    /// nothing; the first command does.
    ///
    /// Most Redis work needs no connection of its own, and one multiplexed connection carries
    /// several times the throughput of a pool on a fraction of the slots; see
    /// [`SharedConnection`] for what may not be shared.
    ///
    /// ```no_run
    /// # use redis_guard::{AsyncCommands, GuardedPool};
    /// # async fn example(pool: GuardedPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut search = pool.shared("search");
    /// let hits: Option<u64> = search.get("hits").await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    #[track_caller]
    pub fn shared(&self, endpoint: impl Into<Endpoint>) -> SharedConnection {
        SharedConnection::new(self.clone(), &endpoint.into(), Location::caller())
    }

    /// The pool as a [`tower::Service`](::tower::Service) of commands and pipelines, for `endpoint`,
    /// over the shared connections; see [`RedisService`].
    #[must_use]
    #[track_caller]
    pub fn service(&self, endpoint: impl Into<Endpoint>) -> RedisService {
        RedisService::new(self.clone(), self.shared(endpoint), Location::caller())
    }

    /// [`acquire`](Self::acquire) for code that names no endpoint: it counts as `default`. Named like
    /// deadpool's, so that its users change one line.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<GuardedConnection, Error>> + Send + use<> {
        self.acquire(Endpoint::DEFAULT)
    }

    /// Opens a subscriber for `endpoint`, on a connection of its own that counts in the endpoint's
    /// budget until it is dropped; see [`GuardedPubSub`].
    ///
    /// ```no_run
    /// # use redis_guard::{GuardedPool, PubSubEvent};
    /// # async fn example(pool: GuardedPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut orders = pool.pubsub("orders").await?;
    /// orders.subscribe("orders:new").await?;
    /// while let Some(event) = orders.next().await {
    ///     match event? {
    ///         PubSubEvent::Message(message) => println!("{}", message.get_channel_name()),
    ///         PubSubEvent::Gap => println!("messages may have been missed: read the list again"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    #[track_caller]
    pub fn pubsub<E: Into<Endpoint>>(
        &self,
        endpoint: E,
    ) -> impl Future<Output = Result<GuardedPubSub, Error>> + Send + use<E> {
        let pending =
            GuardedPubSub::new(Arc::clone(&self.core), endpoint.into(), Location::caller());
        pending.connected()
    }

    /// Leases a connection if one is free right now. Where none is, one is dialed in the
    /// background all the same, for the next caller.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), with an [`AcquireTimeout`](Rejection::AcquireTimeout) that
    /// waited zero. Needs a tokio runtime, or one that called before, to dial.
    #[track_caller]
    pub fn try_acquire(&self, endpoint: impl Into<Endpoint>) -> Result<GuardedConnection, Error> {
        Ok(self.core.try_enter(&endpoint.into(), Location::caller())?)
    }

    /// Dials until at least `connections` are live (at most `max_connections`, and at most what the
    /// watch or the fleet allows), through the gate like everybody; how many are live then.
    ///
    /// # Errors
    ///
    /// The failure of the first dial that fails, as [`acquire`](Self::acquire) would report it. The
    /// pool stays usable and dials again when a caller comes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the dialing; what is live stays.
    pub async fn warm_up(&self, connections: usize) -> Result<usize, Error> {
        let (wanted, since) = (connections.min(self.core.settings.max_connections), Instant::now());
        let _goal = snapshot::Goal::set(&self.core, wanted);
        loop {
            let mut progress = std::pin::pin!(self.core.progress.notified());
            progress.as_mut().enable();
            if let Some(result) = self.core.warmth(wanted, since) {
                return Ok(result?);
            }
            progress.await;
        }
    }

    /// PINGs the server over a live connection, dialing one if none is.
    ///
    /// # Errors
    ///
    /// As [`warm_up`](Self::warm_up), when nothing is live and nothing can be dialed;
    /// [`Error::Inner`] when a live connection did not answer within the response timeout.
    ///
    /// # Cancel safety
    ///
    /// Safe; a PING on its way is answered to nobody.
    pub async fn health(&self) -> Result<Health, Error> {
        self.warm_up(1).await?;
        self.core.health().await
    }

    /// The pool at this moment. Takes the pool's lock for a few microseconds.
    #[must_use]
    pub fn status(&self) -> Status {
        self.core.status()
    }

    /// What the pool knows of its server.
    #[must_use]
    pub fn watch(&self) -> ServerWatch {
        ServerWatch::over([self.clone()])
    }

    /// A stream of what happens from now on: transitions, dials, refusals, leaks.
    #[must_use]
    pub fn events(&self) -> Events {
        self.core.events.subscribe()
    }

    /// The last 100 events, oldest first, whether anybody listened or not. Of rejections, which come
    /// by the million, only the first in each second is among them, and of those, as of changes of
    /// the limit, the last 20.
    #[must_use]
    pub fn recent_events(&self) -> Vec<RecentEvent> {
        self.core.events.recent()
    }

    /// The breaker, to look at or to override.
    #[must_use]
    pub fn breaker(&self) -> BreakerHandle {
        BreakerHandle(Owner::Pool(Arc::clone(&self.core)))
    }

    /// Refuses new callers and those who wait, closes what is idle, waits for the leases to end, and
    /// after the [`drain_timeout`](GuardedPoolBuilder::drain_timeout) closes the connections under
    /// those that are left. No socket is open when it returns, unless a task could not be ended
    /// within another second.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the pool closed; what is left is closed as it comes back.
    pub async fn close(&self) {
        self.core.shut();
        let drained = self.core.until(|state| state.ledger.is_drained());
        if tokio::time::timeout(self.core.settings.drain_timeout, drained).await.is_err() {
            for shared in self.core.connections() {
                self.core.revoke(&shared, CloseReason::PoolClosed);
            }
            let closed = self.core.until(|state| state.ledger.sockets() == 0);
            let _ = tokio::time::timeout(LAST_SOCKETS, closed).await;
        }
        self.core.publish(Duration::ZERO);
    }
}
