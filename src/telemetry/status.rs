//! Snapshots of a pool, for a status page, a log line or a test.

mod sum;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::server::gate::Gate;
use crate::server::{Role, WatchStatus};
use crate::vocabulary::DialFailure;
use crate::vocabulary::serialize::{maybe_seconds, seconds};
use crate::{BreakerState, Endpoint};

/// A pool at one moment: what an operator asks first. Serialises with serde; durations become
/// seconds, as in metrics.
///
/// ```
/// use redis_guard::GuardedPool;
///
/// # fn main() -> Result<(), redis_guard::BuildError> {
/// let status = GuardedPool::builder("redis://127.0.0.1:6379").build()?.status();
/// println!("{} of {} connections, {} wait", status.live, status.limit, status.waiting);
/// # assert_eq!((status.live, status.waiting), (0, 0));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The pool's name, the `pool` label of its metrics.
    pub pool: String,
    /// The server's address, without credentials, the `server` label of its metrics.
    pub server: Arc<str>,
    /// This process's share of the server's connections.
    pub max_connections: usize,
    /// How many sockets may be open now: `max_connections`, or what the server let us have.
    pub limit: usize,
    /// Who set the limit.
    pub limited_by: LimitedBy,
    /// Connections that are open and authenticated.
    pub live: usize,
    /// Live connections that nobody holds.
    pub idle: usize,
    /// Leases out, over all endpoints.
    pub in_use: usize,
    /// Dials in flight.
    pub dialing: usize,
    /// Callers waiting for a connection.
    pub waiting: usize,
    /// True once [`close`](crate::GuardedPool::close) was called.
    pub closed: bool,
    /// The breaker and the schedule behind it.
    pub breaker: BreakerStatus,
    /// Dials that ended, by [`Outcome`](crate::Outcome), since the pool was built.
    pub dials: BTreeMap<&'static str, u64>,
    /// Connections that were closed, by [`CloseReason`], since the pool was built.
    pub connections_closed: BTreeMap<&'static str, u64>,
    /// Error replies that said something about the server, by kind (`readonly`, `moved`, `ask`,
    /// `clusterdown`, `masterdown`, `loading`, `max_clients`), since the pool was built.
    pub server_errors: BTreeMap<&'static str, u64>,
    /// What the server said of itself last.
    pub watch: WatchStatus,
    /// The fleet that shares the server's slots, if the pool is a member of one.
    pub fleet: Option<FleetStatus>,
    /// The sentinels that say where the server is, if the pool has any.
    pub sentinel: Option<SentinelStatus>,
    /// The nodes of the cluster, if the pool is one of a [cluster](crate::GuardedPool::cluster). All counts
    /// here are summed over them then, the limits as well; `server`, `limited_by`, `breaker`, `watch` and
    /// `fleet` are those of the worst.
    pub cluster: Option<ClusterStatus>,
    /// The lanes that [`shared`](crate::GuardedPool::shared) handles use; empty until the first
    /// one is used.
    pub lanes: Vec<LaneStatus>,
    /// The endpoints seen so far, in the order in which they were first seen.
    pub endpoints: Vec<EndpointStatus>,
    /// Leases without a command for longer than `leak_after`, the longest unused first.
    pub leaks: Vec<Leak>,
    /// Leases without a connection and without a command for longer than `leak_after`, by where they were acquired,
    /// the longest unused first. They cost no slot.
    pub idle_leases: Vec<IdleLeases>,
}

/// Who set a pool's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LimitedBy {
    /// It is all the pool may ever have.
    #[default]
    MaxConnections,
    /// The server refused one more.
    Refused,
    /// The price law, by the server's own pressure; see
    /// [`adaptive_limit`](crate::GuardedPoolBuilder::adaptive_limit).
    PriceLaw,
    /// The fleet's registry; see [`fleet`](crate::GuardedPoolBuilder::fleet).
    FleetLease,
}

impl LimitedBy {
    /// The name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxConnections => "max_connections",
            Self::Refused => "refused",
            Self::PriceLaw => "price_law",
            Self::FleetLease => "fleet_lease",
        }
    }
}

/// A pool's place in its fleet.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FleetStatus {
    /// The fleet's name.
    pub name: String,
    /// True while the registry's last word holds. Without it the limit is the price law's, or, where
    /// that knows nothing either, `max_connections`.
    pub joined: bool,
    /// Members, as the registry counted last.
    pub members: usize,
    /// Connections it allows us.
    pub share: usize,
    /// Slots that it grants to nobody.
    pub reserve: usize,
    /// Slots in use or granted, over the ceiling.
    pub pressure: f64,
    /// Fields of the registry that were found overwritten, and repaired.
    pub repaired: u64,
    /// Why the last heartbeat failed, if it did.
    pub trouble: Option<String>,
}

/// A pool's sentinels, and what they have said; see
/// [`GuardedPool::sentinel`](crate::GuardedPool::sentinel).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SentinelStatus {
    /// The master's name, as the sentinels know it.
    pub master: String,
    /// The sentinels, in the order in which they were configured.
    pub sentinels: Vec<SentinelServerStatus>,
    /// For how long [`Status::server`] has been the server, in seconds; `None` before the first dial has
    /// found it.
    #[serde(rename = "since_seconds", serialize_with = "maybe_seconds")]
    pub since: Option<Duration>,
    /// How often the server has changed since the pool was built.
    pub moves: u64,
    /// Why no sentinel says where the server is, if so. The pool goes on with the last one.
    pub trouble: Option<String>,
}

/// A sentinel, as all pools of the process know it that have the same ones.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SentinelServerStatus {
    /// Its address, without credentials.
    pub server: Arc<str>,
    /// True for the one that is asked and listened to.
    pub connected: bool,
    /// Why it did not answer when it was asked last.
    pub last_failure: Option<Arc<DialFailure>>,
}

/// A pool's cluster; see [`GuardedPool::cluster`](crate::GuardedPool::cluster).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The nodes, those first that need somebody's attention.
    pub nodes: Vec<NodeStatus>,
    /// Slots that no node serves, by what was told last; all of them before that.
    pub unserved_slots: usize,
    /// How long ago the nodes told who they are, in seconds; `None` before the first time.
    #[serde(rename = "age_seconds", serialize_with = "maybe_seconds")]
    pub age: Option<Duration>,
    /// How often the nodes or their slots have changed since the pool was built.
    pub changes: u64,
    /// Why no node says who the nodes are, if so. The pool goes on with those that were named last.
    pub trouble: Option<String>,
}

/// One node of a cluster.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// What the cluster says it is; `None` of one that it does not name any more, which is left soon.
    pub role: Option<Role>,
    /// How many slots it serves.
    pub slots: usize,
    /// The primary that it follows.
    pub replica_of: Option<Arc<str>>,
    /// The pool at this node: as of a pool that has no other.
    pub status: Status,
}

/// The breaker and the dial schedule at one moment.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// The state.
    pub state: BreakerState,
    /// True while an operator holds it there.
    pub forced: bool,
    /// Failed dials in a row.
    pub failures: u32,
    /// Time until the next dial may start; zero when it may start now. In seconds.
    #[serde(rename = "next_dial_in_seconds", serialize_with = "seconds")]
    pub next_dial_in: Duration,
    /// Changes of the state since the pool was built, by the states before and after.
    #[serde(skip)]
    pub transitions: BTreeMap<(&'static str, &'static str), u64>,
    /// The last failed dial, if no dial has succeeded since.
    pub last_failure: Option<Arc<DialFailure>>,
}

impl BreakerStatus {
    pub(crate) fn of(gate: &Gate, transitions: &Transitions, now: Instant) -> Self {
        Self {
            state: gate.state(),
            forced: gate.is_forced(),
            failures: gate.failures(),
            next_dial_in: gate.next_attempt_in(now),
            transitions: transitions.clone(),
            last_failure: gate.failure(),
        }
    }
}

/// Changes of the breaker's state, by the states before and after.
pub(crate) type Transitions = BTreeMap<(&'static str, &'static str), u64>;

/// A [`Guard`](crate::Guard) at one moment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct GuardStatus {
    /// The guard's name, the `pool` label of its metrics.
    pub guard: String,
    /// How many calls may be in flight now: `max_in_flight`, or what is known to work.
    pub limit: usize,
    /// Calls in flight.
    pub in_flight: usize,
    /// Callers waiting for their turn.
    pub waiting: usize,
    /// The breaker and the schedule behind it; of a pool's guard the pool's.
    pub breaker: BreakerStatus,
    /// The endpoints seen so far, in the order in which they were first seen.
    pub endpoints: Vec<CallsStatus>,
}

/// One endpoint of a [`Guard`](crate::Guard) at one moment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CallsStatus {
    /// Its name.
    pub name: Endpoint,
    /// The most calls it may have in flight.
    pub max: usize,
    /// Places kept for it (its share, while the limit is below the sum of all reserves).
    pub reserve: usize,
    /// Its calls in flight.
    pub in_flight: usize,
    /// Its callers who wait.
    pub waiting: usize,
    /// Calls that were admitted since the guard was built.
    pub admitted: u64,
    /// Calls that were refused, by reason; of a pool's guard the pool's count.
    pub rejected: BTreeMap<&'static str, u64>,
}

/// One endpoint at one moment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// Its name.
    pub name: Endpoint,
    /// The most connections it may hold.
    pub max: usize,
    /// Connections kept for it (its share, while the limit is below the sum of all reserves).
    pub reserve: usize,
    /// Connections it holds.
    pub in_use: usize,
    /// Leases it holds: those with a connection, which are among `in_use`, and those of a pool that
    /// [multiplexes](crate::GuardedPoolBuilder::multiplex) that have none.
    pub leases: usize,
    /// Its callers who wait.
    pub waiting: usize,
    /// Its commands in flight on shared connections.
    pub shared_in_flight: usize,
    /// The most of them at a time.
    pub shared_in_flight_max: usize,
    /// Its calls in flight that the pool's [`guard`](crate::GuardedPool::guard) admitted.
    pub calls_in_flight: usize,
    /// Connections that were lent to it since the pool was built.
    pub acquired: u64,
    /// Callers it had refused, by reason, since the pool was built.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Leases that were left without a command for longer than `leak_after`.
    pub leaks_suspected: u64,
    /// Those that came back after all, or were used again.
    pub leaks_resolved: u64,
    /// HTTP requests that went through the middleware of the feature `axum`, by outcome: `served`,
    /// `fallback` or `shed`.
    pub requests: BTreeMap<&'static str, u64>,
}

/// One shared connection at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct LaneStatus {
    /// True while it carries commands; otherwise it is being replaced, or waits for somebody to
    /// want it.
    pub up: bool,
    /// Connections it has had so far.
    pub connections: u64,
}

/// A lease that was left without a command for longer than `leak_after`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Leak {
    /// Who holds it.
    pub endpoint: Endpoint,
    /// Where it was acquired: `file:line:column`.
    pub location: String,
    /// For how long it is held, in seconds.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// For how long it has been without a command, in seconds.
    #[serde(rename = "idle_seconds", serialize_with = "seconds")]
    pub idle: Duration,
}

/// Leases of a pool that [multiplexes](crate::GuardedPoolBuilder::multiplex) that were acquired at one place, have no
/// connection, and were left without a command for longer than `leak_after`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct IdleLeases {
    /// Who holds them.
    pub endpoint: Endpoint,
    /// Where they were acquired: `file:line:column`.
    pub location: String,
    /// How many they are.
    pub count: usize,
    /// The longest time that one is held for, in seconds.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// The longest time that one has been without a command, in seconds.
    #[serde(rename = "idle_seconds", serialize_with = "seconds")]
    pub idle: Duration,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, location, age, idle } = self;
        write!(
            f,
            "endpoint {endpoint:?} holds a connection since {age:.1?} and has not used it for \
             {idle:.1?}, acquired at {location}"
        )
    }
}

/// What [`health`](crate::GuardedPool::health) found.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Round trip of a PING over a live connection, in seconds; `None` when every live connection
    /// is in use by a caller, which says that the pool is busy, not that the server is slow.
    #[serde(rename = "latency_seconds", serialize_with = "maybe_seconds")]
    pub latency: Option<Duration>,
    /// Connections that are open and authenticated.
    pub live: usize,
    /// Live connections that nobody holds.
    pub idle: usize,
    /// The breaker's state.
    pub breaker: BreakerState,
}

/// Why a connection was closed: the `reason` label of `redis_guard_connections_closed_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[repr(u8)]
pub enum CloseReason {
    /// The server, or the network, closed it.
    Peer,
    /// Idle for longer than `idle_timeout`.
    Idle,
    /// Older than `max_lifetime`.
    Lifetime,
    /// It worked, but its server is not the one any more: it was opened before that became a replica, or
    /// before the sentinels named another; or it is a subscriber's whose credentials have changed.
    Replaced,
    /// It did not answer the PING that a long-idle connection gets.
    HealthCheck,
    /// A lease left it in a state that could not be reset.
    Dirty,
    /// Held for longer than `revoke_after`.
    Revoked,
    /// The pool was closed or dropped.
    PoolClosed,
    /// There were more than the limit, and its slot was given back.
    Limit,
    /// Its owner let go of it.
    Dropped,
}

impl CloseReason {
    /// Every reason, in the order of the metric's `reason` label.
    pub const ALL: &'static [Self] = &[
        Self::Peer,
        Self::Idle,
        Self::Lifetime,
        Self::Replaced,
        Self::HealthCheck,
        Self::Dirty,
        Self::Revoked,
        Self::PoolClosed,
        Self::Limit,
        Self::Dropped,
    ];

    /// True where it was not by our doing, or the connection broke.
    pub(crate) const fn is_loss(self) -> bool {
        matches!(self, Self::Peer | Self::HealthCheck | Self::Dirty)
    }

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::Replaced => "replaced",
            Self::HealthCheck => "health_check",
            Self::Dirty => "dirty",
            Self::Revoked => "revoked",
            Self::PoolClosed => "pool_closed",
            Self::Limit => "limit",
            Self::Dropped => "dropped",
        }
    }
}

/// How an HTTP request ended: the `outcome` label of `redis_guard_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    /// The handler answered.
    Served,
    /// The handler answered without Redis, and said so.
    Fallback,
    /// Refused for want of Redis.
    Shed,
}

impl RequestOutcome {
    pub(crate) const ALL: [Self; 3] = [Self::Served, Self::Fallback, Self::Shed];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Fallback => "fallback",
            Self::Shed => "shed",
        }
    }
}

/// Counts under their labels, zeros left out.
pub(crate) fn named<T: Copy, const N: usize>(
    kinds: &[T],
    label: fn(T) -> &'static str,
    counts: &[u64; N],
) -> BTreeMap<&'static str, u64> {
    let labels = kinds.iter().map(|kind| label(*kind));
    labels.zip(*counts).filter(|(_, count)| *count > 0).collect()
}
