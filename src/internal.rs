//! What this crate's own binary, examples and tests use. No part of the API: it changes without
//! notice.

/// How numbers, times and foreign names are written.
pub use crate::vocabulary::words;

/// What the fleet's registry consists of.
pub mod registry {
    pub use crate::fleet::{
        COUNT_MAX, Record, SEQ_MAX, fleet_of_key, members_pattern, news_of_state, registry_keys,
    };
}

/// The policies without a pool around them, for the simulator (`examples/fleet_sim`) and the tests
/// of the registry's script.
pub mod sim {
    use std::sync::Arc;

    use crate::{DialFailure, Outcome};

    pub use crate::fleet::{Beat, Membership, Report, SCRIPT, Share, Source, limit_in_force};
    pub use crate::policy::{Demand, FLOOR, Load, PriceLaw, Signal};
    pub use crate::server::gate::{Approval, Decision, Gate};

    /// What the gate is told of a dial that failed.
    #[must_use]
    pub fn failure(outcome: Outcome) -> Arc<DialFailure> {
        Arc::new(DialFailure { server: "simulated".into(), outcome, message: String::new() })
    }
}
