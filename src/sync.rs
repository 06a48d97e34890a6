//! What threads share: the types of std and tokio, or those of a model checker.
//!
//! The files whose threads meet without a lock, or on the way from one lock to another, take their types from here.
//! With `--cfg guard_loom` the tests of this crate have [loom]'s in their place, and so the code itself, not a copy
//! of it, is run through every order in which its threads can take their steps, and through every value that a weak
//! memory order lets an atomic load return. The models stand in files named `interleavings`, beside what they are of;
//! `.ci/interleavings` runs them.
//!
//! What is seen so, and what is not:
//! - `Mutex`, `RwLock` and the atomics are loom's. To loom an access that is `SeqCst` is `AcqRel`, and no more, so
//!   nothing here may need more; and what is written by a swap has an order among what others write that a mere
//!   store has not.
//! - `latest` is what the tests have in the place of tokio's `watch`.
//! - `Notify` and `oneshot` are tokio's, each operation one step: what is tested is how they are used. tokio's own
//!   tests run loom through their inside.
//! - Timeouts never come: a caller whose time is over drops a future, and that the models do at any step.
//! - deadpool's pool is one step too, for it is used under the node's lock only: used without that, a model would
//!   stand still. So is tokio's semaphore, which counts the commands in flight of an endpoint.
//! - Nobody dials: the dialer's own loop, its sleeps and its sockets are for the simulation. The gates are asked as it
//!   asks them.
//! - `ArcSwap`, the metrics and the events are as they are: no model asks anything of them.
//!
//! [loom]: https://docs.rs/loom

#[cfg(test)]
#[cfg(guard_loom)]
pub(crate) mod model;

#[cfg(not(all(test, guard_loom)))]
mod types {
    pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
    #[cfg(test)]
    pub(crate) use std::sync::{RwLock, RwLockReadGuard};

    pub(crate) use tokio::sync::futures::Notified;
    pub(crate) use tokio::sync::{Notify, oneshot};
    pub(crate) use tokio::time::{timeout, timeout_at};
}

#[cfg(test)]
#[cfg(guard_loom)]
use self::model as types;
pub(crate) use types::*;
