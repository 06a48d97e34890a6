#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// In the order in which it reads, and arrows point up this list only: `tests/layout.rs` checks it.
mod sync;

mod vocabulary;

mod policy;

mod ledger;

mod dial;

pub mod server;

mod fleet;

mod telemetry;

mod sentinel;

mod pool;

#[cfg(feature = "settings")]
mod settings;

mod guard;

pub mod tower;

pub mod sizing;

#[cfg(feature = "doctor")]
#[cfg_attr(docsrs, doc(cfg(feature = "doctor")))]
pub mod doctor;

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub mod axum;

pub mod compat;

pub mod guide;

#[doc(hidden)]
pub mod internal;

#[cfg(test)]
mod simulation;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

pub use fleet::Fleet;
pub use guard::{Guard, GuardBuilder, Permit};
pub use policy::{Backoff, Breaker, BreakerState, Budget, Delays, ReplicaReads, RetryBudget};
pub use pool::{
    GuardedConnection, GuardedPool, GuardedPoolBuilder, GuardedPubSub, PubSubEvent,
    SharedConnection,
};
pub use server::{BreakerHandle, WatchStatus};
#[cfg(feature = "settings")]
#[cfg_attr(docsrs, doc(cfg(feature = "settings")))]
pub use settings::PoolSettings;
pub use telemetry::event::{Event, Events, RecentEvent};
pub use telemetry::history::RecentRate;
pub use telemetry::status::{
    BreakerStatus, CallsStatus, CloseReason, ClusterStatus, EndpointStatus, FleetStatus,
    GuardStatus, Health, IdleLeases, LaneStatus, Leak, LimitedBy, NodeStatus, SentinelServerStatus,
    SentinelStatus, Status,
};
pub use vocabulary::{BuildError, Class, DialFailure, Endpoint, Error, Outcome, Phase, Rejection};

/// The crates whose types are part of this one's API, in the versions it uses.
pub use deadpool_redis;
pub use redis;
pub use redis::AsyncCommands;
