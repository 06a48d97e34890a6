//! The pool, as its users hold it.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::guarded_connection::GuardedConnection;
use super::handle::Handle;
use super::node::Node;
use super::pubsub::GuardedPubSub;
use super::servers::Servers;
use super::shared_connection::SharedConnection;
use super::{status, warm};
#[expect(unused_imports, reason = "for the docs")]
use crate::Rejection;
use crate::server::{BreakerHandle, ServerWatch, WatchStatus, Watching};
use crate::telemetry::event::{Events, RecentEvent};
use crate::telemetry::history::RecentRate;
use crate::telemetry::status::{CloseReason, Health, Status};
use crate::{Endpoint, Error};

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
    pub(super) handle: Handle,
}

impl fmt::Debug for GuardedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("GuardedPool");
        f.field("name", &self.name());
        for node in self.servers().nodes() {
            f.field("server", &node.address()).field("counts", &node.lock().ledger.counts());
        }
        f.finish_non_exhaustive()
    }
}

impl Watching for Servers {
    fn watched(&self) -> Vec<(Arc<str>, WatchStatus)> {
        let now = Instant::now();
        let nodes = self.nodes().into_iter();
        nodes.map(|node| (node.address(), status::watch_status(&node, now))).collect()
    }
}

impl From<GuardedPool> for ServerWatch {
    fn from(pool: GuardedPool) -> Self {
        Self::of(Arc::new(pool.servers().clone()))
    }
}

impl GuardedPool {
    /// Leases a connection to `endpoint`, waiting for one at most the
    /// [`acquire_timeout`](crate::GuardedPoolBuilder::acquire_timeout).
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
        self.acquire_at(endpoint.into(), Location::caller())
    }

    /// Leases a connection to the server that has `key`: of a [cluster](Self::cluster) the primary of its slot,
    /// where all keys of one slot can be used together, in transactions with WATCH and MULTI, say. On one
    /// server it is [`acquire`](Self::acquire), so that code is the same everywhere.
    ///
    /// What names no key goes to that server, MULTI for one. Commands with keys of other slots take connections of
    /// their nodes as well, as those of a lease of [`acquire`](Self::acquire) do.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire); [`Error::Inner`] with CLUSTERDOWN where no node serves the slot.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    #[track_caller]
    pub fn acquire_for<E: Into<Endpoint>, K: AsRef<[u8]>>(
        &self,
        endpoint: E,
        key: K,
    ) -> impl Future<Output = Result<GuardedConnection, Error>> + Send + use<E, K> {
        self.acquire_for_at(endpoint.into(), key.as_ref().to_vec(), Location::caller())
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
        self.shared_at(&endpoint.into(), Location::caller())
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
        let servers = self.servers().clone();
        GuardedPubSub::new(servers, None, endpoint.into(), Location::caller()).connected()
    }

    /// [`pubsub`](Self::pubsub) on the server that has `channel`: of a [cluster](Self::cluster) the primary of its
    /// slot, which is the one that takes subscriptions to it as a shard channel. On one server it is
    /// [`pubsub`](Self::pubsub).
    ///
    /// # Errors
    ///
    /// As [`acquire_for`](Self::acquire_for).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    #[track_caller]
    pub fn pubsub_for<E: Into<Endpoint>, K: AsRef<[u8]>>(
        &self,
        endpoint: E,
        channel: K,
    ) -> impl Future<Output = Result<GuardedPubSub, Error>> + Send + use<E, K> {
        let (servers, channel) = (self.servers().clone(), channel.as_ref().to_vec());
        GuardedPubSub::new(servers, Some(channel), endpoint.into(), Location::caller()).connected()
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
        Ok(self.try_acquire_at(endpoint.into(), Location::caller())?)
    }

    /// Dials until at least `connections` are live (at most `max_connections`, and at most what the
    /// watch or the fleet allows), through the gate like everybody; how many are live then.
    ///
    /// **Bounded in time**: it goes on for as long as connections come, and gives up once none has come
    /// for the connect timeout and the acquire timeout together.
    ///
    /// # Errors
    ///
    /// The failure of the first dial that fails, as [`acquire`](Self::acquire) would report it, or
    /// [`AcquireTimeout`](Rejection::AcquireTimeout). The pool stays usable and dials again when a
    /// caller comes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the dialing; what is live stays.
    pub async fn warm_up(&self, connections: usize) -> Result<usize, Error> {
        match self.servers() {
            Servers::One(node) => Ok(warm::warm_up(node, connections).await?),
            Servers::Cluster(cluster) => Ok(warm::warm_up_all(cluster, connections).await?),
        }
    }

    /// PINGs the server over a live connection, dialing one if none is.
    ///
    /// **Bounded in time**: the acquire timeout, where none is live, and the response timeout.
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
        match self.servers() {
            Servers::One(node) => warm::health(node).await,
            Servers::Cluster(cluster) => warm::health_of_all(cluster).await,
        }
    }

    /// Logs in with other credentials from now on; `username`: `None` for the default user. Needs no
    /// runtime.
    ///
    /// New dials use them at once, and a dial that the old ones were refused for is made again. Nothing
    /// is closed that works: idle connections and lanes authenticate again at once (`AUTH`), a lease
    /// before its next command, or when it comes back if the session is its holder's own just then (a
    /// transaction is open). A subscriber, which cannot, gets another connection before it leaves the
    /// one that it has, see [`GuardedPubSub`].
    ///
    /// Credentials that the server refuses cost no live connection either: they go on as they were, and
    /// [`Event::CredentialsFailed`](crate::Event::CredentialsFailed) says why. Dials fail until they are
    /// corrected, on this pool's own slow schedule (1 s, doubling up to 30 s).
    ///
    /// To change a password without a gap, let the server know both for a while (`ACL SETUSER app >new`,
    /// then this, then `ACL SETUSER app <old`).
    pub fn set_credentials(&self, username: Option<&str>, password: &str) {
        match self.servers() {
            Servers::One(node) => node.set_credentials(username, password),
            Servers::Cluster(cluster) => cluster.set_credentials(username, password),
        }
    }

    /// The pool at this moment. Takes the pool's lock for a few microseconds.
    #[must_use]
    pub fn status(&self) -> Status {
        status::of_pool(self.servers())
    }

    /// What the pool knows of its server.
    #[must_use]
    pub fn watch(&self) -> ServerWatch {
        self.clone().into()
    }

    /// A stream of what happens from now on: transitions, dials, refusals, leaks.
    #[must_use]
    pub fn events(&self) -> Events {
        self.servers().context().events.subscribe()
    }

    /// The last 100 events, oldest first, whether anybody listened or not. Of rejections, which come
    /// by the million, only the first in each second is among them, and of those, as of changes of
    /// the limit, the last 20.
    #[must_use]
    pub fn recent_events(&self) -> Vec<RecentEvent> {
        self.servers().context().events.recent()
    }

    /// Callers refused and dials in the last five minutes, second by second, oldest first: what a chart needs
    /// that somebody opens when it is over. A pool that nobody has used yet has none.
    #[must_use]
    pub fn recent_rates(&self) -> Vec<RecentRate> {
        self.servers().context().history.recent(Instant::now())
    }

    /// The breaker, to look at or to override.
    #[must_use]
    pub fn breaker(&self) -> BreakerHandle {
        BreakerHandle::of(match self.servers() {
            Servers::One(node) => Arc::clone(node) as _,
            Servers::Cluster(cluster) => Arc::clone(cluster) as _,
        })
    }

    /// Refuses new callers and those who wait, closes what is idle, waits for the leases to end, and
    /// after the [`drain_timeout`](crate::GuardedPoolBuilder::drain_timeout) closes the connections under
    /// those that are left. No socket is open when it returns, unless a task could not be ended
    /// within another second.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the pool closed; what is left is closed as it comes back.
    pub async fn close(&self) {
        self.servers().shut();
        join_all(self.servers().nodes_in_use().iter().map(closed)).await;
    }
}

/// Waits until a node that was shut is empty, and closes what is left after the drain timeout.
async fn closed(node: &Arc<Node>) {
    let drained = node.drained(|state| state.ledger.is_drained());
    if tokio::time::timeout(node.settings().drain_timeout, drained).await.is_err() {
        for socket in node.sockets() {
            node.revoke(&socket, CloseReason::PoolClosed);
        }
        let closed = node.drained(|state| state.ledger.sockets() == 0);
        let _ = tokio::time::timeout(LAST_SOCKETS, closed).await;
    }
    status::publish(node, Duration::ZERO);
}
