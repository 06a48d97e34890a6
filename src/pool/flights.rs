//! Flights: the commands that each endpoint has on their way on shared connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::core::Core;
use super::lanes::Carrier;
use crate::ledger::AccountId;
use crate::telemetry::status::CloseReason;
use crate::{Endpoint, Rejection};

/// A lane on which nothing at all was answered for so many response timeouts, with commands
/// outstanding, is given up: 5 s with the default, so that one slow command on the server does not
/// cost everybody their connection.
const SILENCE: u32 = 10;

/// The commands that an endpoint has in flight on shared connections.
#[derive(Debug)]
pub(super) struct Flights {
    pub(super) account: AccountId,
    pub(super) endpoint: Endpoint,
    /// First come, first served.
    permits: Semaphore,
    pub(super) max: usize,
    waiting: AtomicUsize,
}

impl Flights {
    pub(super) fn new(account: AccountId, endpoint: Endpoint, max: usize) -> Self {
        let (permits, waiting) = (Semaphore::new(max), AtomicUsize::new(0));
        Self { account, endpoint, permits, max, waiting }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.max.saturating_sub(self.permits.available_permits())
    }

    /// How many wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a place if one is free.
    pub(super) fn try_enter(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

    /// Waits for a place, until the acquire timeout.
    pub(super) async fn enter<'a>(
        &'a self,
        core: &Arc<Core>,
        since: Instant,
    ) -> Result<SemaphorePermit<'a>, Rejection> {
        // On a line of its own: the lock must be gone when the refusal takes it again.
        let most = core.lock().ledger.queue_limit();
        let _waiting = Waiting::among(&self.waiting, most)
            .map_err(|limit| core.reject(self.account, Rejection::QueueFull { limit }))?;
        let deadline = since + core.settings.acquire_timeout;
        match tokio::time::timeout_at(deadline, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Rejection::Closed),
            Err(_) => {
                let (endpoint, max) = (self.endpoint.clone(), self.max);
                Err(core.reject(self.account, Rejection::InFlightLimit { endpoint, max }))
            }
        }
    }
}

/// One of those that wait for a place.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// Joins them, unless they are too many.
    fn among(waiting: &'a AtomicUsize, limit: usize) -> Result<Self, usize> {
        let this = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= limit { Err(limit) } else { Ok(this) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A command on its way. Given up before its reply has come, it keeps its place until then: a
/// trailing PING is answered after it.
pub(super) struct Flight<'a> {
    core: &'a Arc<Core>,
    flights: &'a Arc<Flights>,
    carrier: &'a Arc<Carrier>,
    /// `Some` until the reply has come.
    permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Flight<'a> {
    pub(super) fn start(
        core: &'a Arc<Core>,
        flights: &'a Arc<Flights>,
        carrier: &'a Arc<Carrier>,
        permit: SemaphorePermit<'a>,
    ) -> Self {
        carrier.shared.sent();
        Self { core, flights, carrier, permit: Some(permit) }
    }

    pub(super) fn answered(mut self) {
        self.permit = None;
        self.carrier.answered(self.core);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        permit.forget();
        let owed = Owed {
            core: Arc::clone(self.core),
            flights: Arc::clone(self.flights),
            carrier: Arc::clone(self.carrier),
        };
        self.core.spawn(owed.settle());
    }
}

/// A place in flight that is free again when this is dropped.
struct Owed {
    core: Arc<Core>,
    flights: Arc<Flights>,
    carrier: Arc<Carrier>,
}

impl Owed {
    /// Waits until the server has answered, or closes a lane on which nothing comes any more: a
    /// NAT that has forgotten it, say, which no side is told of.
    async fn settle(self) {
        let mut redis = self.carrier.redis.clone();
        let ping = redis::cmd("PING");
        let mut answer = std::pin::pin!(redis.send_packed_command(&ping));
        let mut answers = self.carrier.shared.answers();
        // An error means that the lane is gone, and its commands with it.
        let silence = self.core.settings.response_timeout * SILENCE;
        while tokio::time::timeout(silence, &mut answer).await.is_err() {
            let before = std::mem::replace(&mut answers, self.carrier.shared.answers());
            if answers == before {
                self.core.revoke(&self.carrier.shared, CloseReason::HealthCheck);
                return;
            }
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.flights.permits.add_permits(1);
        self.carrier.answered(&self.core);
    }
}
