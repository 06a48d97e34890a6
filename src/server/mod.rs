//! What the server says of itself: INFO parsed, and what changed since the last time.
//!
//! A full Redis is the one that monitoring cannot reach: whoever dials to ask is refused like
//! everybody else. So nothing here dials. [`ServerSnapshot`] is made from the text of an INFO that
//! came over a connection somebody holds anyway, and [`ServerObserver`] compares one with the next:
//!
//! ```
//! use redis_guard::server::{ServerObserver, ServerSnapshot};
//! use tokio::time::Instant;
//!
//! let info = "connected_clients:8999\r\nconnected_slaves:1\r\nmaxclients:10000\r\n";
//! let snapshot = ServerSnapshot::parse(info);
//! assert_eq!((snapshot.used(), snapshot.free()), (Some(9_000), Some(1_000)));
//!
//! let mut observer = ServerObserver::default();
//! let observation = observer.observe(snapshot, Instant::now());
//! assert_eq!(observation.saturation(), Some(0.9));
//! assert_eq!(observation.new_rejections, None, "nothing to compare with yet");
//! ```
//!
//! **Unknown stays unknown.** Vendors leave fields out, send `-1`, or count below zero. Such a
//! field is `None`, never zero: a limit that is computed from a made-up zero either starves the
//! service or lets it grow without end.

mod breaker;
mod clients;
pub(crate) mod gate;
mod observer;
mod schedule;
mod snapshot;
mod watch;
mod watched;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, Weak};

use self::schedule::{NOBODY, Schedule};
use self::watched::Watched;
use crate::dial::Address;
use crate::policy::BreakerState;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, Notified, Notify};

pub use breaker::BreakerHandle;
#[cfg(feature = "doctor")]
pub(crate) use clients::DEAD;
pub use clients::{Client, ClientList};
pub use observer::{Observation, ServerEvent, ServerObserver, worst};
pub(crate) use snapshot::{PRIORITY, RESERVED, reserved_line};
pub use snapshot::{Product, Replica, Role, ServerSnapshot};
pub use watch::{ServerWatch, WatchStatus};

pub(crate) use watch::Watching;
pub(crate) use watched::{Question, Seen};

/// What this process knows of one server, shared by all its pools: when the next dial may go, whose
/// turn it is, and what the server said of itself last.
///
/// **Lock order**: a pool's own lock, then `schedule` or `watched`; never both of these, and nothing is
/// called from under them.
pub(crate) struct Server {
    address: Arc<str>,
    /// Held for tens of nanoseconds, never across an await.
    schedule: Mutex<Schedule>,
    /// The next dial may be due earlier, it is another pool's turn, or the verdict has changed.
    schedule_changed: Notify,
    /// Of the schedule as of its last change, to be read without its lock: the breaker's state, the
    /// era, and whether there is nothing to recover from.
    state: AtomicU8,
    era: AtomicU64,
    calm: AtomicBool,
    /// How often the schedule has changed, so that what was read of it can be kept until it does again.
    changes: AtomicU64,
    /// Pools that are attached, and those there have been.
    pools: AtomicUsize,
    ids: AtomicU64,
    watched: Mutex<Watched>,
    /// The server was observed, or whoever asked has given up.
    news: Notify,
}

/// A server by its address, and whether it is spoken to over TLS.
type Key = (String, bool);

/// The servers that pools of this process share. Weak, so that a server is forgotten with the last of
/// its pools.
static SERVERS: LazyLock<std::sync::Mutex<HashMap<Key, Weak<Server>>>> =
    LazyLock::new(std::sync::Mutex::default);

impl Server {
    /// The server at `address`, as all pools of the process know it. `seed`: for the jitter, if this is
    /// the first of them.
    pub(crate) fn shared(address: &Address, seed: u64) -> Arc<Self> {
        let key = (address.to_string(), address.is_tls());
        let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(&key).and_then(Weak::upgrade) {
            return server;
        }
        servers.retain(|_, server| server.strong_count() > 0);
        let server = Self::alone(&key.0, seed);
        servers.insert(key, Arc::downgrade(&server));
        server
    }

    /// A server that one pool keeps to itself.
    pub(crate) fn alone(address: &str, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            address: address.into(),
            schedule: Mutex::new(Schedule::new(seed)),
            schedule_changed: Notify::new(),
            state: AtomicU8::new(BreakerState::Closed as u8),
            era: AtomicU64::new(0),
            calm: AtomicBool::new(true),
            changes: AtomicU64::new(0),
            pools: AtomicUsize::new(0),
            ids: AtomicU64::new(NOBODY + 1),
            watched: Mutex::new(Watched::new(seed)),
            news: Notify::new(),
        })
    }

    /// Its address, without credentials.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    fn attach(&self) -> u64 {
        self.pools.fetch_add(1, Ordering::Relaxed);
        // Whoever was here before may be gone, and what it saw long ago.
        self.change(|schedule| schedule.set_roomy(false));
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn detach(&self, pool: u64) {
        self.pools.fetch_sub(1, Ordering::Relaxed);
        self.change(|schedule| schedule.forget(pool));
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // The state machine does not panic; if it did, its schedule is still the best there is.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the schedule.
    fn look<R>(&self, look: impl FnOnce(&Schedule) -> R) -> R {
        look(&self.schedule())
    }

    /// The only way to change the schedule: whoever sleeps on it is woken where that matters to
    /// somebody.
    fn change<R>(&self, change: impl FnOnce(&mut Schedule) -> R) -> R {
        let mut schedule = self.schedule();
        let facts = |schedule: &Schedule| (schedule.state(), schedule.first());
        let (before, due_before) = (facts(&schedule), schedule.earliest());
        let free_before = schedule.free_dials();
        let result = change(&mut schedule);
        let sooner = schedule.earliest() < due_before || schedule.free_dials() > free_before;
        let wakes = sooner || facts(&schedule) != before;
        self.state.store(schedule.state() as u8, Ordering::Relaxed);
        self.era.store(schedule.era(), Ordering::Relaxed);
        self.calm.store(schedule.is_calm(), Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Release);
        drop(schedule);
        if wakes {
            self.schedule_changed.notify_waiters();
        }
        result
    }

    /// Completes when the schedule has changed since the future was [enabled](Notified::enable).
    pub(crate) fn schedule_changed(&self) -> Notified<'_> {
        self.schedule_changed.notified()
    }

    fn fleet_of(&self, pools: usize) {
        // What dials is a process, and the pools of this one dial as one.
        let ours = self.pools.load(Ordering::Relaxed).max(1);
        self.change(|schedule| schedule.fleet_of(pools / ours));
    }

    /// The breaker's state, whatever a pool's operator holds it at.
    pub(crate) fn state(&self) -> BreakerState {
        let state = self.state.load(Ordering::Relaxed);
        let found = BreakerState::ALL.iter().copied().find(|known| *known as u8 == state);
        found.unwrap_or_default()
    }

    /// How many dials its schedule has allowed so far.
    #[cfg(test)]
    pub(crate) fn dials_approved(&self) -> u64 {
        self.era()
    }

    fn era(&self) -> u64 {
        self.era.load(Ordering::Relaxed)
    }

    /// How often the schedule has changed so far.
    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The part of the slots that is taken; above 1 where the ceiling was lowered under those that
/// hold one.
pub(crate) fn ratio(used: u64, ceiling: u64) -> f64 {
    as_f64(used) / as_f64(ceiling)
}

#[expect(clippy::cast_precision_loss, reason = "a count of connections is far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
