//! The core: the one lock, and everything that changes what is behind it.
//!
//! The ledger and the gate are pure; this is where their decisions meet sockets, tasks and callers.
//! The rule that keeps it simple: change the state under the lock, collect whom that concerns, let
//! go of the lock, then wake them. Nothing is awaited, woken or dropped under the lock, with one
//! exception: idle connections are withdrawn from the store under it (the order of locks is state,
//! then store, everywhere), so that a grant never meets a store that was emptied behind its back.

use std::collections::{BTreeMap, HashMap};
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::PubSub;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::dialing;
use super::leak::{Lease, Leases, Seat};
use super::lease::GuardedConnection;
use super::ledger::{AccountId, Admission, Fresh, Ledger, Ticket};
use super::maintenance;
use super::pubsub::Subscriber;
use super::shared::Lanes;
use super::store::{Connection, DEAD_LEASES, Shared, Store};
use crate::dial::Dialer;
use crate::dial::gate::{Gate, Transition, Verdict};
use crate::error::{Phase, Reason};
use crate::event::{Event, EventBus};
use crate::metrics::Metrics;
use crate::status::{CloseReason, Leak};
use crate::{Endpoint, Outcome, Rejection};

/// A waiter, as the ledger keeps it.
#[derive(Debug)]
pub(super) struct Waiting {
    answer: Answer,
    location: &'static Location<'static>,
}

/// How a waiter is woken: with the right to a connection, or with a socket of its own.
#[derive(Debug)]
pub(super) enum Answer {
    Grant(oneshot::Sender<Result<Grant, Rejection>>),
    Subscriber(oneshot::Sender<Result<Subscriber, Rejection>>),
}

impl Answer {
    fn refuse(self, rejection: Rejection) {
        // Where the waiter is gone, nobody minds.
        match self {
            Self::Grant(waiter) => drop(waiter.send(Err(rejection))),
            Self::Subscriber(waiter) => drop(waiter.send(Err(rejection))),
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::Grant(waiter) => waiter.is_closed(),
            Self::Subscriber(waiter) => waiter.is_closed(),
        }
    }
}

/// A dial for one waiter.
#[derive(Debug)]
pub(super) struct Reserved {
    account: AccountId,
    ticket: Ticket,
    seat: Seat,
    waiting: Waiting,
}

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
    /// Everything that decides. A blocking mutex: held for tens of nanoseconds, never across an
    /// await, and an async one would cost more than what it guards.
    state: Mutex<State>,
    /// Every open connection, for the sweep; changed when one opens or closes.
    registry: Mutex<HashMap<u64, Arc<Shared>>>,
    next_id: AtomicU64,
    epoch: Instant,
    /// Milliseconds since `epoch`, as of the last sweep.
    coarse: AtomicU64,
    /// Where to spawn from a thread that is in no runtime: a lease may be dropped anywhere. The
    /// last one that was seen.
    runtime: Mutex<Option<Handle>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger<Waiting>,
    pub(super) leases: Leases,
    pub(super) gate: Gate,
    /// By account.
    pub(super) tallies: Vec<Tally>,
    pub(super) dials: [u64; Outcome::ALL.len()],
    pub(super) closed: [u64; CloseReason::ALL.len()],
    pub(super) transitions: BTreeMap<(&'static str, &'static str), u64>,
    /// Leases that are held although their socket is closed.
    dead_leases: usize,
    dialer_runs: bool,
    maintenance_runs: bool,
}

/// What happened to an endpoint's callers so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) rejected: [u64; Reason::ALL.len()],
    pub(super) leaks_suspected: u64,
    pub(super) leaks_resolved: u64,
}

/// Whom a change of the state concerns, once the lock is gone.
#[derive(Default)]
struct Wakes {
    granted: Vec<(AccountId, Seat, Answer)>,
    refused: Vec<(Answer, Rejection)>,
    start_dialer: bool,
    make_room: bool,
}

impl State {
    fn settle(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        while let Some(grant) = self.ledger.next_grant() {
            let Waiting { answer, location } = grant.waiter;
            let seat = self.leases.begin(grant.account, location);
            wakes.granted.push((grant.account, seat, answer));
        }
        if self.ledger.counts().waiting > 0
            && let Some(rejection) = self.refusal()
        {
            let queue = self.ledger.drain_queue();
            wakes.refused = queue.into_iter().map(|(_, w)| (w.answer, rejection.clone())).collect();
            // Turned away, so they no longer show that a connection is wanted.
            self.ledger.ask();
        }
        wakes.make_room = self.ledger.makes_room();
        if !self.dialer_runs && self.ledger.wants_dial() {
            self.dialer_runs = true;
            wakes.start_dialer = true;
        }
        wakes
    }

    /// Why nobody can be served now, or soon, if that is so. While something is live, everybody
    /// may wait for it.
    pub(super) fn refusal(&self) -> Option<Rejection> {
        if self.ledger.is_closed() {
            return Some(Rejection::Closed);
        }
        if self.ledger.live() > 0 {
            return None;
        }
        match self.gate.verdict(Instant::now()) {
            Verdict::Wait => None,
            Verdict::Refuse { retry_after } => {
                let failure = self.gate.failure().cloned();
                Some(Rejection::BreakerOpen { retry_after, failure })
            }
            Verdict::Fail { retry_after, failure } => {
                Some(Rejection::ConnectFailed { failure, retry_after })
            }
        }
    }

    /// Why no further connection can be had for now, if that is so.
    pub(super) fn hopeless(&self, now: Instant) -> Option<Rejection> {
        if self.ledger.is_closed() {
            return Some(Rejection::Closed);
        }
        let retry_after = self.gate.next_attempt_in(now);
        if self.ledger.counts().dialing > 0 || retry_after.is_zero() {
            return None;
        }
        if let Some(rejection) = self.refusal() {
            return Some(rejection);
        }
        match self.gate.failure().cloned() {
            Some(failure) => Some(Rejection::ConnectFailed { failure, retry_after }),
            None if self.gate.is_held() => {
                Some(Rejection::BreakerOpen { retry_after, failure: None })
            }
            None => None,
        }
    }

    /// Counts a refused caller. The keeper of a lane is none: those for whom it asks are.
    fn count_rejection(&mut self, account: AccountId, rejection: &Rejection) {
        if *self.ledger.account_name(account) != Endpoint::LANES {
            self.tally(account).rejected[Reason::of(rejection) as usize] += 1;
        }
    }

    pub(super) fn tally(&mut self, account: AccountId) -> &mut Tally {
        if self.tallies.len() <= account.0 {
            self.tallies.resize_with(account.0 + 1, Tally::default);
        }
        &mut self.tallies[account.0]
    }

    pub(super) fn dialer_stopped(&mut self) {
        self.dialer_runs = false;
    }

    /// True if maintenance is to be started, which is noted as done.
    pub(super) fn wants_maintenance(&mut self) -> bool {
        !self.ledger.is_closed() && !std::mem::replace(&mut self.maintenance_runs, true)
    }

    pub(super) fn maintenance_stopped(&mut self) {
        self.maintenance_runs = false;
    }
}

/// Whether a caller's turn is now.
enum Turn {
    Now(Seat),
    Later(Place<Grant>),
}

/// Where a caller stands after its first look.
pub(super) enum Entry {
    Lease(GuardedConnection),
    Wait(Waiter<Grant>),
}

/// The right to take one connection from the store, and later the place of a lease in its
/// endpoint's budget. Dropping it unused gives the connection to the next in the queue.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) core: Arc<Core>,
    account: AccountId,
    pub(super) seat: Seat,
    end: End,
}

/// What becomes of a grant when it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its connection is in the store: never taken, or back.
    InStore,
    /// Its connection is dead, or away being reset.
    Gone,
    /// The ledger has taken it back already.
    Settled,
}

impl Grant {
    fn new(core: Arc<Core>, account: AccountId, seat: Seat) -> Self {
        Self { core, account, seat, end: End::InStore }
    }

    /// Takes the granted connection; gives the grant back if it has died meanwhile.
    fn take(self) -> Result<GuardedConnection, Self> {
        match self.core.store.take() {
            Some(connection) => Ok(GuardedConnection::new(connection, self)),
            None => Err(self),
        }
    }

    /// Ends a lease. `in_store`: its connection is back in the store.
    pub(super) fn end(mut self, in_store: bool) {
        self.end = if in_store { End::InStore } else { End::Gone };
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.end == End::Settled {
            return;
        }
        let mut state = self.core.lock();
        let Some(lease) = state.leases.end(self.seat) else {
            // Its socket was closed under it, and its place given back then.
            state.dead_leases -= 1;
            return;
        };
        state.ledger.released(self.account, self.end == End::InStore);
        let lease = Some(lease).filter(|lease| lease.suspected);
        if state.ledger.is_quiet() && lease.is_none() {
            // The common case, on every request's path: nobody waits, nothing follows.
            return;
        }
        let closed = state.ledger.is_closed();
        let wakes = state.settle();
        drop(state);
        self.core.wake(wakes);
        if let Some(lease) = lease {
            self.core.report_resolved(&lease);
        }
        if closed {
            self.core.close_idle();
            self.core.progress.notify_waiters();
        }
    }
}

/// A caller in the queue. Dropping it leaves the queue; a grant that was on its way goes to the
/// next.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    core: Arc<Core>,
    account: AccountId,
    ticket: Ticket,
    answer: oneshot::Receiver<Result<T, Rejection>>,
    location: &'static Location<'static>,
    since: Instant,
}

/// A place in the queue, and where the answer comes.
type Place<T> = (Ticket, oneshot::Receiver<Result<T, Rejection>>);

impl<T> Waiter<T> {
    fn new(
        core: Arc<Core>,
        account: AccountId,
        (ticket, answer): Place<T>,
        location: &'static Location<'static>,
    ) -> Self {
        Self { core, account, ticket, answer, location, since: Instant::now() }
    }

    /// Waits for the answer until the acquire timeout.
    async fn answer(&mut self) -> Result<T, Rejection> {
        // Clamped by the builder, so it cannot overflow.
        let deadline = self.since + self.core.settings.acquire_timeout;
        match tokio::time::timeout_at(deadline, &mut self.answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(rejection))) => Err(self.core.reject(self.account, rejection)),
            // The core never drops a sender unanswered, but if it did, that is what it means.
            Ok(Err(_)) => Err(self.core.reject(self.account, Rejection::Closed)),
            Err(_) => Err(self.core.reject_late(self.account, self.since)),
        }
    }
}

impl Waiter<Subscriber> {
    /// Waits for a socket until the acquire timeout.
    pub(super) async fn wait(mut self) -> Result<Subscriber, Rejection> {
        let subscriber = self.answer().await?;
        self.core.metrics.waited(self.since.elapsed());
        Ok(subscriber)
    }
}

impl Waiter<Grant> {
    /// Waits for a connection until the acquire timeout.
    pub(super) async fn wait(mut self) -> Result<GuardedConnection, Rejection> {
        loop {
            let grant = self.answer().await?;
            match grant.take() {
                Ok(lease) => {
                    self.core.metrics.waited(self.since.elapsed());
                    return Ok(lease);
                }
                // Never in a loop without an end, whatever the store says.
                Err(_) if self.since.elapsed() >= self.core.settings.acquire_timeout => {
                    return Err(self.core.reject_late(self.account, self.since));
                }
                Err(grant) => self.requeue(grant),
            }
            tokio::task::yield_now().await;
        }
    }

    /// The connection died on the way: back to the same place in the queue.
    fn requeue(&mut self, grant: Grant) {
        (self.ticket, self.answer) = Core::missed(grant, Some(self.ticket), self.location);
    }
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        // First, so that a dial under way for it does not queue it again.
        self.answer.close();
        let (account, ticket) = (self.account, self.ticket);
        // Dropped here, outside the lock: the sender's end wakes.
        let _waiting = self.core.change(|state| state.ledger.cancelled(account, ticket));
    }
}

impl Core {
    pub(super) fn new(
        settings: Settings,
        dialer: Dialer,
        ledger: Ledger<Waiting>,
        gate: Gate,
    ) -> Self {
        Self {
            store: Store::new(settings.max_connections),
            lanes: Lanes::new(settings.shared_lanes),
            metrics: Metrics::new(&settings.name),
            events: EventBus::new(),
            schedule_changed: Notify::new(),
            progress: Notify::new(),
            state: Mutex::new(State {
                ledger,
                leases: Leases::default(),
                gate,
                tallies: Vec::new(),
                dials: [0; Outcome::ALL.len()],
                closed: [0; CloseReason::ALL.len()],
                transitions: BTreeMap::new(),
                dead_leases: 0,
                dialer_runs: false,
                maintenance_runs: false,
            }),
            registry: Mutex::new(HashMap::new()),
            next_id: AtomicU64::new(0),
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
        let limit = state.ledger.counts().limit;
        let result = change(&mut state);
        let wakes = state.settle();
        let new_limit = state.ledger.counts().limit;
        drop(state);
        if limit != new_limit {
            tracing::info!(pool = %self.settings.name, from = limit, to = new_limit, "limit changed");
            self.events.send(|| Event::LimitChanged { from: limit, to: new_limit });
        }
        self.wake(wakes);
        result
    }

    fn wake(self: &Arc<Self>, wakes: Wakes) {
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
        if wakes.make_room {
            let mut left = 1;
            drop(self.withdraw(|_| std::mem::take(&mut left) > 0));
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

    /// A caller comes in: it gets a lease, a place in the queue, or a refusal.
    pub(super) fn enter(
        self: Arc<Self>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Result<Entry, Rejection> {
        let mut state = self.lock();
        let account = state.ledger.account(endpoint);
        let start_maintenance = state.wants_maintenance();
        let admission = match state.ledger.is_closed() {
            true => Admission::NoneFree,
            false => state.ledger.acquire(account),
        };
        let entry = match admission {
            Admission::Granted => Ok(Turn::Now(state.leases.begin(account, location))),
            Admission::BudgetExhausted | Admission::NoneFree => {
                self.queue_or_refuse(&mut state, account, location).map(Turn::Later)
            }
        };
        let wakes = match &entry {
            // Took one that was free: concerns nobody else.
            Ok(Turn::Now(_)) => Wakes::default(),
            Ok(Turn::Later(_)) | Err(_) => state.settle(),
        };
        drop(state);
        if start_maintenance {
            self.start_maintenance();
        }
        self.wake(wakes);
        match entry {
            Ok(Turn::Now(seat)) => match Grant::new(self, account, seat).take() {
                Ok(lease) => Ok(Entry::Lease(lease)),
                Err(grant) => {
                    let core = Arc::clone(&grant.core);
                    let place = Self::missed(grant, None, location);
                    Ok(Entry::Wait(Waiter::new(core, account, place, location)))
                }
            },
            Ok(Turn::Later(place)) => Ok(Entry::Wait(Waiter::new(self, account, place, location))),
            Err(rejection) => {
                self.announce_rejection(endpoint, &rejection);
                Err(rejection)
            }
        }
    }

    fn queue_or_refuse(
        &self,
        state: &mut State,
        account: AccountId,
        location: &'static Location<'static>,
    ) -> Result<Place<Grant>, Rejection> {
        let refused = match state.refusal() {
            Some(rejection) => {
                state.ledger.ask();
                rejection
            }
            None => {
                let (waiter, answer) = oneshot::channel();
                let waiting = Waiting { answer: Answer::Grant(waiter), location };
                match state.ledger.enqueue(account, waiting) {
                    Ok(ticket) => return Ok((ticket, answer)),
                    Err(_) => Rejection::QueueFull { limit: state.ledger.queue_limit() },
                }
            }
        };
        state.count_rejection(account, &refused);
        Err(refused)
    }

    /// Queues for a socket of the caller's own.
    pub(super) fn enter_subscriber(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Result<Waiter<Subscriber>, Rejection> {
        let (waiter, answer) = oneshot::channel();
        let waiting = Waiting { answer: Answer::Subscriber(waiter), location };
        let (account, start_maintenance, queued) = self.change(|state| {
            let account = state.ledger.account(endpoint);
            let start_maintenance = state.wants_maintenance();
            let queued = match state.refusal() {
                Some(rejection) => {
                    state.ledger.ask();
                    Err(rejection)
                }
                None => state
                    .ledger
                    .enqueue_fresh(account, waiting)
                    .map_err(|_| Rejection::QueueFull { limit: state.ledger.queue_limit() }),
            };
            (account, start_maintenance, queued)
        });
        if start_maintenance {
            self.start_maintenance();
        }
        let ticket = queued.map_err(|rejection| self.reject(account, rejection))?;
        Ok(Waiter::new(Arc::clone(self), account, (ticket, answer), location))
    }

    /// Takes a connection if one is free right now.
    pub(super) fn try_enter(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Result<GuardedConnection, Rejection> {
        let (account, admission, start_maintenance) = self.change(|state| {
            let account = state.ledger.account(endpoint);
            let start_maintenance = state.wants_maintenance();
            if let Some(rejection) = state.refusal() {
                state.ledger.ask();
                return (account, Err(rejection), start_maintenance);
            }
            let admission = match state.ledger.acquire(account) {
                Admission::Granted => Ok(state.leases.begin(account, location)),
                Admission::BudgetExhausted => Err(Rejection::BudgetExhausted {
                    endpoint: state.ledger.account_name(account).clone(),
                    max: state.ledger.account_max(account),
                }),
                Admission::NoneFree => {
                    state.ledger.ask();
                    Err(late(state, Duration::ZERO))
                }
            };
            (account, admission, start_maintenance)
        });
        if start_maintenance {
            self.start_maintenance();
        }
        let missed = |grant: Grant| {
            drop(grant);
            late(&self.lock(), Duration::ZERO)
        };
        admission
            .and_then(|seat| Grant::new(Arc::clone(self), account, seat).take().map_err(missed))
            .map_err(|rejection| self.reject(account, rejection))
    }

    /// Puts the holder of a grant that found nothing back into the queue.
    fn missed(
        mut grant: Grant,
        ticket: Option<Ticket>,
        location: &'static Location<'static>,
    ) -> Place<Grant> {
        let (waiter, answer) = oneshot::channel();
        let waiting = Waiting { answer: Answer::Grant(waiter), location };
        let (core, account, seat) = (Arc::clone(&grant.core), grant.account, grant.seat);
        let ticket = core.change(|state| {
            state.leases.end(seat);
            state.ledger.missed(account, ticket, waiting)
        });
        grant.end = End::Settled;
        core.progress.notify_waiters();
        (ticket, answer)
    }

    /// Counts and announces a refusal that was decided before.
    pub(super) fn reject(self: &Arc<Self>, account: AccountId, rejection: Rejection) -> Rejection {
        let endpoint = {
            let mut state = self.lock();
            state.count_rejection(account, &rejection);
            state.ledger.account_name(account).clone()
        };
        self.announce_rejection(&endpoint, &rejection);
        rejection
    }

    /// The refusal of a caller whose acquire timeout ran out.
    fn reject_late(self: &Arc<Self>, account: AccountId, since: Instant) -> Rejection {
        let rejection = {
            let state = self.lock();
            if state.ledger.is_exhausted(account) {
                Rejection::BudgetExhausted {
                    endpoint: state.ledger.account_name(account).clone(),
                    max: state.ledger.account_max(account),
                }
            } else {
                late(&state, since.elapsed())
            }
        };
        self.reject(account, rejection)
    }

    fn announce_rejection(&self, endpoint: &Endpoint, rejection: &Rejection) {
        if *endpoint == Endpoint::LANES {
            return;
        }
        tracing::debug!(
            pool = %self.settings.name, %endpoint, reason = rejection.reason(), %rejection,
            "caller refused"
        );
        self.events
            .send(|| Event::Rejected { endpoint: endpoint.clone(), rejection: rejection.clone() });
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
        self.events.send(|| Event::LeakSuspected(leak));
    }

    fn report_resolved(&self, lease: &Lease) {
        self.lock().tally(lease.account).leaks_resolved += 1;
        let leak = self.leak(lease, Instant::now());
        tracing::info!(
            pool = %self.settings.name, endpoint = %leak.endpoint, location = leak.location,
            age = ?leak.age, "a suspected leak came back"
        );
        self.events.send(|| Event::LeakResolved(leak));
    }

    pub(super) fn announce(&self, transition: Option<Transition>) {
        let Some(Transition { from, to }) = transition else { return };
        *self.lock().transitions.entry((from.as_str(), to.as_str())).or_default() += 1;
        tracing::warn!(
            pool = %self.settings.name, server = %self.dialer.server, %from, %to, "breaker changed"
        );
        self.events.send(|| Event::BreakerChanged { from, to });
    }

    // Dials for one waiter.

    /// Notes that a dial starts; for whom, if it is for somebody in particular.
    pub(super) fn dial_started(state: &mut State) -> Option<Reserved> {
        let Fresh { account, ticket, waiter: waiting } = state.ledger.dial_started()?;
        let seat = state.leases.begin(account, waiting.location);
        state.leases.exempt(seat);
        Some(Reserved { account, ticket, seat, waiting })
    }

    /// The dial failed: the waiter goes back to its place, unless it has left.
    pub(super) fn dial_failed(state: &mut State, reserved: Reserved) -> Option<Waiting> {
        let Reserved { account, ticket, seat, waiting } = reserved;
        state.leases.end(seat);
        let gone = waiting.answer.is_gone();
        let (gone, waiting) = if gone { (Some(waiting), None) } else { (None, Some(waiting)) };
        state.ledger.fresh_failed(account, ticket, waiting);
        // To be dropped outside the lock.
        gone
    }

    /// The dial succeeded: hands the socket over.
    pub(super) fn deliver(
        self: &Arc<Self>,
        reserved: Reserved,
        redis: PubSub,
        shared: Arc<Shared>,
    ) {
        let Reserved { account, seat, waiting, .. } = reserved;
        shared.lent_to(Some(seat));
        let mut grant = Grant::new(Arc::clone(self), account, seat);
        // It never was in the store, and never will be.
        grant.end = End::Gone;
        let subscriber = Subscriber { redis, shared, grant };
        if let Answer::Subscriber(waiter) = waiting.answer {
            // Where the waiter is gone, this closes the socket.
            let _ = waiter.send(Ok(subscriber));
        }
    }

    // Connections.

    pub(super) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn registry(&self) -> MutexGuard<'_, HashMap<u64, Arc<Shared>>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, shared: &Arc<Shared>) {
        self.registry().insert(shared.id, Arc::clone(shared));
    }

    /// Every open connection.
    pub(super) fn connections(&self) -> Vec<Arc<Shared>> {
        self.registry().values().cloned().collect()
    }

    /// Marks a connection dead before it is closed, so that nobody is granted it.
    pub(super) fn retire(&self, shared: &Shared, reason: CloseReason) {
        shared.blame(reason);
        let mut state = self.lock();
        if shared.bury() {
            state.ledger.withdrawn(1);
        }
    }

    /// Closes the socket under whoever holds the connection.
    pub(super) fn revoke(&self, shared: &Shared, reason: CloseReason) {
        self.retire(shared, reason);
        shared.abort();
    }

    /// Closes the socket under one lease, unless it ended meanwhile.
    pub(super) fn revoke_lease(&self, shared: &Shared, seat: Seat) {
        let still_held = {
            let state = self.lock();
            let held = state.leases.is_out(seat) && shared.holder() == Some(seat);
            held && !shared.bury()
        };
        if still_held {
            shared.blame(CloseReason::Revoked);
            shared.abort();
        }
    }

    /// Whether a connection past its lifetime is to be closed now. Not while the server is full:
    /// the slot would go to somebody else, and the connection works.
    pub(super) fn expire(&self, shared: &Shared) -> bool {
        let mut state = self.lock();
        if state.ledger.is_frozen() {
            return false;
        }
        shared.blame(CloseReason::Lifetime);
        // Its successor is dialed now, and not when a caller misses it.
        state.ledger.ask();
        true
    }

    /// A connection's socket is closed; called by the last thing the driver's task drops.
    pub(super) fn socket_closed(self: &Arc<Self>, shared: &Shared) {
        self.registry().remove(&shared.id);
        let reason = shared.reason();
        let (was_idle, lease) = self.change(|state| {
            let was_idle = shared.bury();
            state.ledger.withdrawn(usize::from(was_idle));
            state.ledger.died();
            state.closed[reason as usize] += 1;
            // A budget counts sockets: the place of a lease whose socket is gone is free.
            // As far as the store has room for leases that nobody lets go of.
            let room = state.dead_leases < DEAD_LEASES;
            let lease = shared.holder().filter(|_| room).and_then(|seat| state.leases.end(seat));
            if let Some(lease) = &lease {
                state.dead_leases += 1;
                state.ledger.released(lease.account, false);
            }
            let now = Instant::now();
            if reason == CloseReason::Peer {
                state.gate.disconnected(now);
            } else if state.ledger.has_spare_slot() {
                state.gate.excuse();
            }
            if state.ledger.live() == 0 {
                state.gate.lost_all(now);
            }
            (was_idle, lease)
        });
        if was_idle {
            self.store.purge();
        }
        if let Some(lease) = lease.filter(|lease| lease.suspected) {
            self.report_resolved(&lease);
        }
        tracing::debug!(pool = %self.settings.name, reason = reason.as_str(), "connection closed");
        self.events.send(|| Event::ConnectionClosed { reason });
        self.progress.notify_waiters();
    }

    /// Takes the idle connections out of the store that `wanted` picks.
    pub(super) fn withdraw(&self, wanted: impl FnMut(&Shared) -> bool) -> Vec<Connection> {
        let mut state = self.lock();
        // No more than are free: others have been granted already, and are about to be taken.
        let withdrawn = self.store.withdraw(state.ledger.counts().idle, wanted);
        state.ledger.withdrawn(withdrawn.len());
        drop(state);
        withdrawn
    }

    /// Puts a new, or a withdrawn, connection into the store. One that died meanwhile is dropped.
    pub(super) fn restore(self: &Arc<Self>, connection: Connection) {
        if !connection.shared.give_back() {
            return;
        }
        self.store.put(connection);
        let closed = self.change(|state| {
            state.ledger.restored();
            state.ledger.is_closed()
        });
        if closed {
            self.close_idle();
        }
    }

    // The end.

    /// Refuses everybody from now on, and closes what is idle. Leases stay valid.
    pub(super) fn shut(self: &Arc<Self>) {
        self.change(|state| state.ledger.close());
        self.close_idle();
        for shared in self.connections() {
            if shared.is_subscriber() {
                // It would listen for ever.
                self.revoke(&shared, CloseReason::PoolClosed);
            }
        }
        self.schedule_changed.notify_one();
        self.progress.notify_waiters();
    }

    fn close_idle(&self) {
        for connection in self.withdraw(|_| true) {
            connection.shared.blame(CloseReason::PoolClosed);
        }
    }

    // Time.

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

fn late(state: &State, waited: Duration) -> Rejection {
    let phase = if state.ledger.live() == 0 { Phase::Dial } else { Phase::Connection };
    Rejection::AcquireTimeout { waited, phase, failure: state.gate.failure().cloned() }
}
