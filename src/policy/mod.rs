//! The policies: plain values and arithmetic, without clocks, sockets or tasks.

mod backoff;
mod breaker;
mod budget;
mod retry_budget;

pub use backoff::{Backoff, Delays};
pub use breaker::{Breaker, BreakerState};
pub use budget::Budget;
pub use retry_budget::RetryBudget;

pub(crate) use backoff::between;
pub(crate) use breaker::FailureKind;
pub(crate) use breaker::Tripwire;
pub(crate) use budget::Budgets;
pub(crate) use retry_budget::Withdrawal;
