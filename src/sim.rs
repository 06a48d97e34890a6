//! The policies without a pool around them, for the simulator (`examples/fleet_sim`) and the tests
//! of the lease's script. No part of the API: it changes without notice.

use std::sync::Arc;

use crate::Outcome;
use crate::error::DialFailure;

pub use crate::dial::gate::{Approval, Decision, Gate};
pub use crate::policy::{
    Beat, Demand, FLOOR, Lease, Load, PriceLaw, Report, SCRIPT, Share, Signal, Source,
    limit_in_force,
};

/// What the gate is told of a dial that failed.
#[must_use]
pub fn failure(outcome: Outcome) -> Arc<DialFailure> {
    Arc::new(DialFailure { server: "simulated".into(), outcome, message: String::new() })
}
