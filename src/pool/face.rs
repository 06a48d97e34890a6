//! What the layers above ask of a pool: the guard, tower, the HTTP middleware, the doctor.

use std::panic::Location;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::acquire::acquire;
use super::companion::Companion;
use super::guarded_pool::GuardedPool;
use super::lease::GuardedConnection;
use super::shared::SharedConnection;
use crate::ledger::Ledger;
#[cfg(feature = "axum")]
use crate::telemetry::status::RequestOutcome;
use crate::vocabulary::DialFailure;
use crate::{Endpoint, Rejection};

impl GuardedPool {
    /// What goes by the pool's budgets beside it, while somebody holds it; or `new`, made of a ledger of
    /// those budgets.
    pub(crate) fn companion<C: Companion, W>(
        &self,
        new: impl FnOnce(Ledger<W>) -> Arc<C>,
    ) -> Arc<C> {
        let node = &self.handle.node;
        let mut companion = node.companion.lock().unwrap_or_else(PoisonError::into_inner);
        let known = companion.upgrade().and_then(|known| {
            let known: Arc<dyn std::any::Any + Send + Sync> = known;
            known.downcast::<C>().ok()
        });
        known.unwrap_or_else(|| {
            let settings = node.settings();
            let queue_limit = node.lock().ledger.queue_limit();
            let new = new(Ledger::new(settings.max_connections, queue_limit, &settings.budgets));
            let weak: Weak<C> = Arc::downgrade(&new);
            *companion = weak;
            new
        })
    }

    pub(crate) fn acquire_at(
        &self,
        endpoint: Endpoint,
        location: &'static Location<'static>,
    ) -> impl Future<Output = Result<GuardedConnection, Rejection>> + Send + use<> {
        acquire(Arc::clone(&self.handle.node), endpoint, location)
    }

    pub(crate) fn shared_at(
        &self,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> SharedConnection {
        SharedConnection::new(self.handle.clone(), endpoint, location)
    }

    /// Why a caller would be refused right now, if that is so; not counted. The next dial is made
    /// for it all the same.
    pub(crate) fn refusal(&self) -> Option<Rejection> {
        let node = &self.handle.node;
        let rejection = node.lock().refusal()?;
        node.change(|state| state.ledger.request_dial());
        Some(rejection)
    }

    /// Counts and announces a refusal that was decided elsewhere.
    pub(crate) fn count_rejection(&self, endpoint: &Endpoint, rejection: &Rejection) {
        let node = &self.handle.node;
        let account = node.lock().ledger.account(endpoint);
        node.reject(account, rejection.clone());
    }

    /// The server refused somebody else's connection: it is full.
    pub(crate) fn heard_refusal(&self, failure: &Arc<DialFailure>) {
        self.handle.node.heard_refusal(failure);
    }

    pub(crate) fn name(&self) -> &str {
        self.handle.node.context.name()
    }

    pub(crate) fn server(&self) -> Arc<str> {
        self.handle.node.address()
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        self.handle.node.settings().acquire_timeout
    }
}

#[cfg(feature = "axum")]
impl GuardedPool {
    /// Why a request of `endpoint` would be refused at once if it asked for a connection now; counted
    /// as if it had.
    pub(crate) fn shed(&self, endpoint: &Endpoint) -> Option<Rejection> {
        let rejection = self.refusal()?;
        self.count_rejection(endpoint, &rejection);
        Some(rejection)
    }

    pub(crate) fn count_request(&self, endpoint: &Endpoint, outcome: RequestOutcome) {
        let node = &self.handle.node;
        let start_maintenance = {
            let mut state = node.lock();
            let account = state.ledger.account(endpoint);
            state.tally(account).requests[outcome as usize] += 1;
            state.wants_maintenance()
        };
        if start_maintenance {
            node.start_maintenance();
        }
    }

    /// How many connections are live, and why nobody could be served if that is so. With none live
    /// one is dialed, when the schedule says so: an instance that gets no requests because it is not
    /// ready would never be ready again.
    pub(crate) fn readiness(&self) -> (usize, Option<Rejection>) {
        self.handle.node.change(|state| {
            let live = state.ledger.live();
            if live == 0 {
                state.ledger.request_dial();
            }
            (live, state.refusal())
        })
    }
}

#[cfg(feature = "doctor")]
impl GuardedPool {
    pub(crate) fn dialer(&self) -> &crate::dial::Dialer {
        &self.handle.node.dialer
    }

    /// Where the pool's server is.
    pub(crate) fn target(&self) -> crate::dial::Target {
        self.handle.node.target()
    }
}
