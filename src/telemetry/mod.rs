//! What a pool shows of itself: events, status, metrics.

pub(crate) mod event;
pub(crate) mod history;
pub(crate) mod metrics;
pub(crate) mod status;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code that is the application's: its subscriber of log lines, its recorder of metrics. A panic
/// there costs the pool nothing; its message is printed like any other's. Nothing is run while a panic
/// goes by: another one would end the process.
pub(crate) fn shielded(run: impl FnOnce()) {
    if !std::thread::panicking() {
        let _ = catch_unwind(AssertUnwindSafe(run));
    }
}
