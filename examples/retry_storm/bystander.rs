//! Somebody else who uses the server meanwhile, over a connection that he has had all along.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::Connection;
use tokio::time::Instant;

use crate::common::numbers::Spread;

/// He sends a GET this often.
const PACE: Duration = Duration::from_millis(2);

/// On a thread of his own, so that what he measures is the server's time, and the machine's, but no runtime's.
pub(crate) struct Bystander {
    took: Arc<Mutex<Vec<Duration>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bystander {
    pub(crate) fn start(mut connection: Connection) -> Self {
        let took: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let (all, stopped) = (Arc::clone(&took), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let get = redis::cmd("GET").arg("redis-guard:retry_storm:bystander").clone();
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                if get.exec(&mut connection).is_err() {
                    return;
                }
                all.lock().unwrap_or_else(PoisonError::into_inner).push(asked.elapsed());
                next = (next + PACE).max(Instant::now());
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { took, stop, thread: Some(thread) }
    }

    /// How long his requests took since the last call.
    pub(crate) fn took(&self) -> Option<Spread> {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        Spread::of(std::mem::take(&mut took))
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
