//! The commands that each endpoint has in flight on shared connections.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::ledger::AccountId;
use crate::{Endpoint, Rejection};

/// One endpoint's commands in flight.
#[derive(Debug)]
pub(in crate::pool) struct InFlight {
    pub(in crate::pool) account: AccountId,
    pub(in crate::pool) endpoint: Endpoint,
    /// First come, first served.
    permits: Semaphore,
    pub(in crate::pool) max: usize,
    waiting: AtomicUsize,
}

impl InFlight {
    pub(in crate::pool) fn new(account: AccountId, endpoint: Endpoint, max: usize) -> Self {
        let (permits, waiting) = (Semaphore::new(max), AtomicUsize::new(0));
        Self { account, endpoint, permits, max, waiting }
    }

    pub(in crate::pool) fn count(&self) -> usize {
        self.max.saturating_sub(self.permits.available_permits())
    }

    /// How many wait for a place.
    pub(in crate::pool) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a place if one is free.
    pub(in crate::pool) fn try_enter(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

    /// Waits for a place until `deadline`, among `most` others.
    pub(in crate::pool) async fn enter(
        &self,
        most: usize,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'_>, Rejection> {
        let _waiting =
            Waiting::among(&self.waiting, most).map_err(|limit| Rejection::QueueFull { limit })?;
        match tokio::time::timeout_at(deadline, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Rejection::Closed),
            Err(_) => {
                let (endpoint, max) = (self.endpoint.clone(), self.max);
                Err(Rejection::InFlightLimit { endpoint, max })
            }
        }
    }

    /// Gives back a place whose permit was [forgotten](SemaphorePermit::forget).
    pub(in crate::pool) fn leave(&self) {
        self.permits.add_permits(1);
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
