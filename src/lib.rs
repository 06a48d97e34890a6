#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// In the order in which it reads: the vocabulary, the pure policies, the dial, the pool, the
// guard without it, the server's own word, the faces.
mod endpoint;
mod error;
mod event;
mod metrics;
mod policy;
mod status;

mod dial;
mod guard;
mod pool;

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub mod axum;
#[cfg(feature = "doctor")]
#[cfg_attr(docsrs, doc(cfg(feature = "doctor")))]
pub mod doctor;
pub mod server;
#[doc(hidden)]
pub mod sim;
pub mod sizing;
pub mod tower;
#[doc(hidden)]
pub mod words;

pub use dial::{Class, Outcome};
pub use endpoint::Endpoint;
pub use error::{BuildError, DialFailure, Error, Phase, Rejection};
pub use event::{Event, Events, RecentEvent};
pub use guard::{Guard, GuardBuilder, Permit};
pub use policy::{Backoff, Breaker, BreakerState, Budget, Delays, RetryBudget};
pub use pool::{
    BreakerHandle, GuardedConnection, GuardedPool, GuardedPoolBuilder, GuardedPubSub, PubSubEvent,
    SharedConnection,
};
pub use server::Fleet;
pub use status::{
    BreakerStatus, CallsStatus, CloseReason, EndpointStatus, FleetStatus, GuardStatus, Health,
    LaneStatus, Leak, LimitedBy, Status, WatchStatus,
};

/// The crates whose types are part of this one's API, in the versions it uses.
pub use deadpool_redis;
pub use redis;
pub use redis::AsyncCommands;
