//! What the guard of a pool, and the faces, ask of the pool.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::GuardedPool;
use super::core::Core;
use crate::ledger::Ledger;
use crate::telemetry::status::WatchStatus;
use crate::vocabulary::DialFailure;
use crate::{Endpoint, Guard, Rejection};

impl GuardedPool {
    /// The pool's guard, to put before a service that reaches the same Redis: its budgets, counting
    /// calls in flight beside the pool's leases, so that a call may lease one and not wait for
    /// itself; its breaker, which refuses while nothing is live and the next dial is some time away;
    /// and its metrics.
    #[must_use]
    pub fn guard(&self) -> Guard {
        let mut guard = self.core.guard.lock().unwrap_or_else(PoisonError::into_inner);
        Guard::upgrade(&guard).unwrap_or_else(|| {
            let settings = &self.core.settings;
            let queue_limit = self.core.lock().ledger.queue_limit();
            let ledger = Ledger::new(settings.max_connections, queue_limit, &settings.budgets);
            let new = Guard::of_pool(self.clone(), ledger);
            *guard = new.downgrade();
            new
        })
    }

    pub(crate) fn watch_status(&self) -> WatchStatus {
        self.core.lock().watch.status(Instant::now())
    }

    /// Why a caller would be refused right now, if that is so; not counted. The next dial is made
    /// for it all the same.
    pub(crate) fn refusal(&self) -> Option<Rejection> {
        let rejection = self.core.lock().refusal()?;
        self.core.change(|state| state.ledger.ask());
        Some(rejection)
    }

    /// Counts and announces a refusal that was decided elsewhere.
    pub(crate) fn count_rejection(&self, endpoint: &Endpoint, rejection: &Rejection) {
        let account = self.core.lock().ledger.account(endpoint);
        self.core.reject(account, rejection.clone());
    }

    /// The server refused somebody else's connection: it is full.
    pub(crate) fn heard(&self, failure: &Arc<DialFailure>) {
        let transition = self.core.change(|state| {
            state.ledger.freeze();
            state.ledger.void_share();
            // Whether there is room again the watch asks.
            state.lost = true;
            let era = state.gate.era();
            state.gate.heard(era, Arc::clone(failure), Instant::now())
        });
        self.core.announce(transition);
    }

    pub(crate) fn name(&self) -> &str {
        &self.core.settings.name
    }

    pub(crate) fn server(&self) -> Arc<str> {
        Arc::clone(&self.core.dialer.server)
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        self.core.settings.acquire_timeout
    }
}

impl Core {
    /// The calls in flight that the pool's guard counts.
    pub(super) fn calls_in_flight(&self) -> HashMap<Endpoint, usize> {
        let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = Guard::upgrade(&guard);
        guard.map(|guard| guard.in_flight()).unwrap_or_default()
    }
}
