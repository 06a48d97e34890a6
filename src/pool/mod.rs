//! The pool: leases on live connections, dialed in the background through the gate.

// In the order in which it reads; `tests/layout.rs` has it bottom to top.
mod intake;
mod latest;
mod leaks;
mod residue;
mod store;
mod tasks;
mod topology;

mod cluster;
mod companion;
mod context;
mod credentials;
mod demotion;
mod factory;
mod node;
mod replies;
mod sockets;
mod state;
mod sweeps;
mod waiting;

mod acquire;
#[cfg(test)]
mod books;
mod dialer;
mod handle;
mod heard;
#[cfg(test)]
#[cfg(guard_loom)]
mod interleavings;
mod lease;
mod patience;
mod pubsub;
mod shared;
mod slot;

mod maintenance;
mod moving;
mod multiplexed;
mod status;
mod warm;
mod watch;

mod face;
mod guarded_connection;
mod guarded_pool;
mod servers;
mod shared_connection;
mod transaction;

mod builder;

pub use builder::GuardedPoolBuilder;
pub use guarded_connection::GuardedConnection;
pub use guarded_pool::GuardedPool;
pub use pubsub::{GuardedPubSub, PubSubEvent};
pub use shared_connection::SharedConnection;

#[cfg(test)]
pub(crate) use books::{Books, Page};
pub(crate) use builder::Inherited;
pub(crate) use companion::Companion;
