//! The policies without a pool around them, for the simulator (`examples/fleet_sim`) and the tests
//! of the lease's script. No part of the API: it changes without notice.

pub use crate::dial::gate::{Approval, Decision, Gate};
pub use crate::policy::{
    Beat, Demand, FLOOR, Lease, Load, Observation, PriceLaw, Report, SCRIPT, Share,
};
