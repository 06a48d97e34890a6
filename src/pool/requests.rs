//! What the HTTP middleware asks of a pool.

use super::GuardedPool;
use crate::telemetry::status::RequestOutcome;
use crate::{Endpoint, Rejection};

impl GuardedPool {
    /// Why a request of `endpoint` would be refused at once if it asked for a connection now; counted
    /// as if it had.
    pub(crate) fn shed(&self, endpoint: &Endpoint) -> Option<Rejection> {
        let rejection = self.refusal()?;
        self.count_rejection(endpoint, &rejection);
        Some(rejection)
    }

    pub(crate) fn count_request(&self, endpoint: &Endpoint, outcome: RequestOutcome) {
        let start_maintenance = {
            let mut state = self.core.lock();
            let account = state.ledger.account(endpoint);
            state.tally(account).requests[outcome as usize] += 1;
            state.wants_maintenance()
        };
        if start_maintenance {
            self.core.start_maintenance();
        }
    }

    /// How many connections are live, and why nobody could be served if that is so. With none live
    /// one is dialed, when the schedule says so: an instance that gets no requests because it is not
    /// ready would never be ready again.
    pub(crate) fn readiness(&self) -> (usize, Option<Rejection>) {
        self.core.change(|state| {
            let live = state.ledger.live();
            if live == 0 {
                state.ledger.ask();
            }
            (live, state.refusal())
        })
    }
}
