//! Flights: the commands that each endpoint has on their way on shared connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::core::Core;
use super::lanes::Carrier;
use super::ledger::AccountId;
use crate::{Endpoint, Rejection};

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

    /// Waits for a place, until the acquire timeout.
    pub(super) fn try_enter(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

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
    pub(super) core: &'a Arc<Core>,
    pub(super) flights: &'a Arc<Flights>,
    pub(super) carrier: &'a Arc<Carrier>,
    /// `Some` until the reply has come.
    pub(super) permit: Option<SemaphorePermit<'a>>,
}

impl Flight<'_> {
    pub(super) fn answered(mut self) {
        self.permit = None;
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        permit.forget();
        let (mut redis, place) = (self.carrier.redis.clone(), Owed(Arc::clone(self.flights)));
        self.core.spawn(async move {
            // An error means that the lane is gone, and its commands with it.
            let _ = redis.send_packed_command(&redis::cmd("PING")).await;
            drop(place);
        });
    }
}

/// A place in flight that is free again when this is dropped.
struct Owed(Arc<Flights>);

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.permits.add_permits(1);
    }
}
