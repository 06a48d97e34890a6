//! The core: the one lock, and everything that changes what is behind it.
//!
//! The ledger and the gate are pure; this is where their decisions meet sockets, tasks and callers.
//! The rule that keeps it simple: change the state under the lock, collect whom that concerns, let
//! go of the lock, then wake them. Nothing is awaited, woken or dropped under the lock, with one
//! exception: idle connections are withdrawn from the store under it (the order of locks is state,
//! then store, everywhere), so that a grant never meets a store that was emptied behind its back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::Cmd;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::admission::Grant;
use super::lanes::Lanes;
use super::leak::Lease;
use super::state::{Answer, State, Waiting, Wakes};
use super::store::{Shared, Store};
use super::watching::Passage;
use super::{dialing, maintenance};
use crate::dial::Dialer;
use crate::fleet::Fleet;
use crate::guard;
use crate::ledger::Ledger;
use crate::policy::Budgets;
use crate::server::gate::{Gate, Transition};
use crate::telemetry::event::{Event, EventBus};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::Leak;

/// The settings that matter after the pool is built.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) max_connections: usize,
    pub(super) acquire_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) leak_after: Duration,
    pub(super) revoke_after: Option<Duration>,
    pub(super) idle_timeout: Duration,
    pub(super) min_idle: usize,
    pub(super) max_lifetime: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) shared_lanes: usize,
    pub(super) budgets: Budgets,
    pub(super) watch: bool,
    pub(super) adaptive_limit: bool,
    pub(super) min_limit: usize,
    pub(super) fleet: Option<Fleet>,
    pub(super) seed: u64,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) dialer: Dialer,
    pub(super) store: Store,
    pub(super) lanes: Lanes,
    pub(super) metrics: Metrics,
    pub(super) events: EventBus,
    /// Wakes the dialer from its back-off: an override, or the end.
    pub(super) schedule_changed: Notify,
    /// A dial ended, a socket was closed, or a lease came back to a closed pool.
    pub(super) progress: Notify,
    /// The watch should look.
    pub(super) attention: Notify,
    /// The watch waits for a connection to put its question to.
    pub(super) watch_waits: AtomicBool,
    pub(super) passage: Mutex<Option<Passage>>,
    /// What gives our share of the fleet's slots back, while we have one.
    pub(super) farewell: Mutex<Option<Cmd>>,
    /// As of the last change: there are more connections than may be.
    over: AtomicBool,
    /// Everything that decides. A blocking mutex: held for tens of nanoseconds, never across an
    /// await, and an async one would cost more than what it guards.
    state: Mutex<State>,
    /// Every open connection, for the sweep; changed when one opens or closes.
    pub(super) registry: Mutex<HashMap<u64, Arc<Shared>>>,
    pub(super) next_id: AtomicU64,
    /// The guard that [`GuardedPool::guard`](crate::GuardedPool::guard) gave, while somebody holds it.
    pub(super) guard: Mutex<Weak<guard::Shared>>,
    epoch: Instant,
    /// Milliseconds since `epoch`, as of the last sweep.
    coarse: AtomicU64,
    /// Where to spawn from a thread that is in no runtime: a lease may be dropped anywhere. The
    /// last one that was seen.
    runtime: Mutex<Option<Handle>>,
}

impl Core {
    pub(super) fn new(
        settings: Settings,
        dialer: Dialer,
        mut ledger: Ledger<Waiting>,
        gate: Gate,
    ) -> Self {
        if settings.watch && (settings.adaptive_limit || settings.fleet.is_some()) {
            // The first connection asks before there are more; a fleet's reserve has room for that one.
            let blind = if settings.fleet.is_some() { 1 } else { settings.min_limit };
            ledger.allow(Some(blind));
        }
        Self {
            store: Store::new(settings.max_connections),
            lanes: Lanes::new(settings.shared_lanes),
            metrics: Metrics::new(&settings.name),
            events: EventBus::new(),
            schedule_changed: Notify::new(),
            progress: Notify::new(),
            attention: Notify::new(),
            watch_waits: AtomicBool::new(false),
            passage: Mutex::new(None),
            farewell: Mutex::new(None),
            over: AtomicBool::new(false),
            state: Mutex::new(State::new(ledger, gate)),
            registry: Mutex::new(HashMap::new()),
            next_id: AtomicU64::new(0),
            guard: Mutex::default(),
            epoch: Instant::now(),
            coarse: AtomicU64::new(0),
            runtime: Mutex::new(None),
            settings,
            dialer,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // The state machines do not panic; if one did, its counts are still the best there are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then serves, refuses or starts whatever follows from it.
    pub(super) fn change<R>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        let wakes = state.settle();
        let (from, to) = (state.announced, state.ledger.counts().limit);
        let announces = from != to && !state.asking;
        if announces {
            state.announced = to;
        }
        self.over.store(state.ledger.is_over(), Ordering::Relaxed);
        drop(state);
        if announces {
            tracing::info!(pool = %self.settings.name, from, to, "limit changed");
            self.events.send(Event::LimitChanged { from, to });
        }
        self.wake(wakes);
        result
    }

    /// Whether a connection that comes back is one too many, and is to be closed.
    pub(super) fn sheds(&self, shared: &Shared) -> bool {
        if !self.over.load(Ordering::Relaxed) {
            return false;
        }
        // Under the lock: what is alive now is counted as shed when it is closed.
        let mut state = self.lock();
        let sheds = shared.is_alive() && state.ledger.shed();
        if sheds {
            shared.shed();
        }
        sheds
    }

    pub(super) fn wake(self: &Arc<Self>, wakes: Wakes) {
        for (account, seat, waiter) in wakes.granted {
            // Where the waiter is gone, the grant is dropped here and serves the next one.
            let grant = Grant::new(Arc::clone(self), account, seat);
            if let Answer::Grant(waiter) = waiter {
                let _ = waiter.send(Ok(grant));
            }
        }
        for (waiter, rejection) in wakes.refused {
            waiter.refuse(rejection);
        }
        if wakes.call_watch {
            self.attention.notify_one();
        }
        if wakes.make_room {
            drop(self.withdraw_one());
        }
        if wakes.start_dialer && !self.spawn(dialing::run(Arc::clone(self))) {
            self.lock().dialer_stopped();
        }
    }

    /// Spawns on this thread's runtime, or on the one that last called; false if there is none.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let runtime = {
            let mut last = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(current) = Handle::try_current() {
                *last = Some(current);
            }
            last.clone()
        };
        runtime.inspect(|runtime| drop(runtime.spawn(task))).is_some()
    }

    pub(super) fn leak(&self, lease: &Lease, now: Instant) -> Leak {
        let endpoint = self.lock().ledger.account_name(lease.account).clone();
        Leak { endpoint, location: lease.location.to_string(), age: lease.age(now) }
    }

    pub(super) fn report_leak(&self, lease: &Lease, now: Instant) {
        self.lock().tally(lease.account).leaks_suspected += 1;
        let leak = self.leak(lease, now);
        tracing::warn!(
            pool = %self.settings.name, endpoint = %leak.endpoint, location = leak.location,
            age = ?leak.age, "suspected leak: a connection is held for too long"
        );
        self.events.send(Event::LeakSuspected(leak));
    }

    pub(super) fn report_resolved(&self, lease: &Lease) {
        self.lock().tally(lease.account).leaks_resolved += 1;
        let leak = self.leak(lease, Instant::now());
        tracing::info!(
            pool = %self.settings.name, endpoint = %leak.endpoint, location = leak.location,
            age = ?leak.age, "a suspected leak came back"
        );
        self.events.send(Event::LeakResolved(leak));
    }

    pub(super) fn announce(&self, transition: Option<Transition>) {
        let Some(Transition { from, to }) = transition else {
            return;
        };
        *self.lock().transitions.entry((from.as_str(), to.as_str())).or_default() += 1;
        tracing::warn!(
            pool = %self.settings.name, server = %self.dialer.server, %from, %to, "breaker changed"
        );
        self.events.send(Event::BreakerChanged { from, to });
    }

    /// Starts the maintenance task, which was noted as running.
    pub(super) fn start_maintenance(self: &Arc<Self>) {
        if !self.spawn(maintenance::run(Arc::clone(self))) {
            self.lock().maintenance_stopped();
        }
    }

    /// Milliseconds since the pool was built, as of the last sweep (once a second): enough to tell
    /// an idle connection by, and free on the path of a request.
    pub(super) fn coarse_now(&self) -> u64 {
        self.coarse.load(Ordering::Relaxed)
    }

    pub(super) fn advance_coarse(&self, now: Instant) -> u64 {
        let millis = now.duration_since(self.epoch).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.coarse.store(millis, Ordering::Relaxed);
        millis
    }
}
