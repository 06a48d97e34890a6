//! The policies: plain values and arithmetic, without clocks, sockets or tasks.

mod backoff;
mod bounds;
mod breaker;
mod budget;
mod demand;
mod price_law;
mod replica_reads;
mod retry_budget;

pub use backoff::{Backoff, Delays};
pub use breaker::{Breaker, BreakerState};
pub use budget::Budget;
pub use demand::{Demand, Load};
pub use price_law::{FLOOR, PriceLaw, Signal};
pub use replica_reads::ReplicaReads;
pub use retry_budget::RetryBudget;

pub(crate) use backoff::between;
pub(crate) use bounds::{Common, LONGEST, MOST, MOST_LANES, Problems, default_queue_limit};
pub(crate) use breaker::FailureKind;
pub(crate) use breaker::Tripwire;
pub(crate) use budget::Budgets;
pub(crate) use price_law::{LOW, QUIET};
pub(crate) use retry_budget::Withdrawal;

/// A count of connections in a formula.
#[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
pub(crate) fn real(count: usize) -> f64 {
    count as f64
}
