//! The policies: plain values and arithmetic, without clocks, sockets or tasks.

mod backoff;
mod breaker;
mod budget;

pub use backoff::{Backoff, Delays};
pub use breaker::{Breaker, BreakerState};
pub use budget::Budget;

pub(crate) use backoff::between;
pub(crate) use breaker::FailureKind;
pub(crate) use breaker::Tripwire;
