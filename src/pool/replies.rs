//! Whether the server answers anybody: counted while somebody asks.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The replies on all connections of a node.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// How many want to know. Replies are counted for them only: a count that all cores write for each
    /// command costs more than one that they read.
    listeners: AtomicUsize,
    count: AtomicU64,
    /// When a connection was last given up although nobody was answered.
    given_up: Mutex<Option<Instant>>,
}

impl Replies {
    /// Notes a reply, on any of the connections.
    #[inline]
    pub(super) fn heard(&self) {
        if self.listeners.load(Ordering::Relaxed) > 0 {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts for as long as the listener lives.
    pub(super) fn listen(&self) -> Listener<'_> {
        self.listeners.fetch_add(1, Ordering::Relaxed);
        Listener(self)
    }

    /// The right to give up one connection of a server that answers nobody: one for each `period`.
    pub(super) fn give_one_up(&self, period: Duration, now: Instant) -> bool {
        let mut last = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| now.saturating_duration_since(last) >= period);
        if may {
            *last = Some(now);
        }
        may
    }
}

#[derive(Debug)]
pub(super) struct Listener<'a>(&'a Replies);

impl Listener<'_> {
    /// How many were counted so far.
    pub(super) fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}
