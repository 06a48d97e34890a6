//! The guard: the policy without the pool, for calls to a Redis that somebody else dials.

mod builder;
mod calls;
mod permit;
mod publish;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use self::calls::{Calls, Heard, Pass, Served};
use self::permit::Answer;
use crate::ledger::{AccountId, Ledger, Ticket};
use crate::pool::Companion;
use crate::server::gate::{Forced, Gate, Overridable, Transition};
use crate::telemetry::event::{Event, EventBus, Events};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::shielded;
use crate::telemetry::status::{GuardStatus, Transitions};
use crate::vocabulary::Reason;
use crate::{BreakerHandle, BreakerState, Endpoint, GuardedPool, Outcome, Rejection};

pub use builder::GuardBuilder;
pub use permit::Permit;

pub(crate) use permit::Waiter;

/// The guard without the pool: budgets per endpoint, a breaker, refusals and their metrics, for
/// services whose Redis access is not a [`GuardedPool`].
///
/// What is counted is calls in flight, not connections: a [`Budget`](crate::Budget)'s `max` keeps
/// one endpoint from taking all of them, its `reserve` keeps some for it. Cloning it is cheap, and
/// every clone is the same guard.
///
/// **The breaker** hears what calls hear (by [`Classify`](crate::tower::Classify) in the tower
/// layer, by [`Permit::finish`] elsewhere). When one hears "max number of clients reached", those in
/// flight beside it are on connections that work: so many calls go on being admitted, and one more
/// per tick of the back-off tries for room. Only when none is in flight, or when calls fail in a row
/// for another reason ([`Breaker::failures`](crate::Breaker::failures)), is everybody refused until
/// the next try. Room found again is taken step by step, one more call per success.
///
/// [`GuardedPool::guard`] gives the guard of a pool: its budgets, now counting calls beside its
/// leases, its metrics, and its breaker, which hears of calls only that the server is full: the rest
/// the pool's own dials find out.
///
/// ```
/// use redis_guard::{Budget, Guard, tower::GuardLayer};
///
/// let guard = Guard::builder()
///     .name("sessions")
///     .max_in_flight(64)
///     .endpoint("checkout", Budget::max(32).reserve(8))
///     .build()?;
/// let layer = GuardLayer::new(&guard, "checkout"); // for any tower::Service
/// # let _ = layer; Ok::<(), redis_guard::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Guard {
    shared: Arc<Shared>,
}

/// What all clones of a guard share, and its permits keep.
pub(crate) struct Shared {
    /// A blocking mutex: held for tens of nanoseconds, never across an await.
    state: Mutex<State>,
    home: Home,
}

struct State {
    calls: Calls<oneshot::Sender<Answer>>,
    /// By account.
    rejected: Vec<[u64; Reason::ALL.len()]>,
    transitions: Transitions,
    publishes: bool,
}

/// Whose breaker, events and metrics they are.
enum Home {
    Own(Box<Own>),
    Pool(GuardedPool),
}

struct Own {
    server: Arc<str>,
    name: String,
    acquire_timeout: Duration,
    events: EventBus,
    metrics: Metrics,
    /// For which it has published.
    seconds: AtomicU64,
}

impl Guard {
    /// Starts a guard.
    pub fn builder() -> GuardBuilder {
        GuardBuilder::default()
    }

    /// The guard of a pool, whose ledger has the pool's budgets.
    fn of_pool(pool: &GuardedPool) -> Self {
        let shared = pool.companion(|ledger: Ledger<oneshot::Sender<Answer>>| {
            Arc::new(Shared::new(Calls::new(ledger, None), Home::Pool(pool.clone())))
        });
        Self { shared }
    }

    fn new(calls: Calls<oneshot::Sender<Answer>>, home: Home) -> Self {
        Self { shared: Arc::new(Shared::new(calls, home)) }
    }

    /// Admits a call of `endpoint` if it may go now.
    ///
    /// # Errors
    ///
    /// [`BreakerOpen`](Rejection::BreakerOpen) or [`ConnectFailed`](Rejection::ConnectFailed) when
    /// nothing is known to work; [`BudgetExhausted`](Rejection::BudgetExhausted) when the endpoint has
    /// its `max` in flight; [`AcquireTimeout`](Rejection::AcquireTimeout), with a wait of zero, when
    /// all that may be in flight are, or the rest is reserved.
    pub fn admit(&self, endpoint: impl Into<Endpoint>) -> Result<Permit, Rejection> {
        self.admit_to(self.account(&endpoint.into()))
    }

    /// Admits a call of `endpoint`, waiting for its turn at most the
    /// [`acquire_timeout`](GuardBuilder::acquire_timeout), first come first served.
    ///
    /// # Errors
    ///
    /// As [`admit`](Self::admit), those about room after the timeout, and
    /// [`QueueFull`](Rejection::QueueFull).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue and loses nothing.
    pub async fn wait(&self, endpoint: impl Into<Endpoint>) -> Result<Permit, Rejection> {
        match self.enter(self.account(&endpoint.into()))? {
            Entry::Permit(permit) => Ok(permit),
            Entry::Wait(waiter) => waiter.await,
        }
    }

    /// The guard at this moment.
    #[must_use]
    pub fn status(&self) -> GuardStatus {
        self.shared.status()
    }

    /// A stream of what happens from now on; of a pool's guard the pool's.
    #[must_use]
    pub fn events(&self) -> Events {
        match &self.shared.home {
            Home::Own(own) => own.events.subscribe(),
            Home::Pool(pool) => pool.events(),
        }
    }

    /// The breaker, to look at or to override; of a pool's guard the pool's.
    ///
    /// Forced open it refuses every call; forced closed it refuses none because of what others heard.
    #[must_use]
    pub fn breaker(&self) -> BreakerHandle {
        match &self.shared.home {
            Home::Own(_) => BreakerHandle::of(Arc::clone(&self.shared) as _),
            Home::Pool(pool) => pool.breaker(),
        }
    }

    /// The endpoint's account, to admit to without a look-up.
    pub(crate) fn account(&self, endpoint: &Endpoint) -> AccountId {
        self.shared.lock().calls.ledger.account(endpoint)
    }

    pub(crate) fn admit_to(&self, account: AccountId) -> Result<Permit, Rejection> {
        let shared = &self.shared;
        shared.pools_refusal(account)?;
        let mut state = shared.lock();
        let (admission, transition) = state.calls.admit(account);
        let publish = !std::mem::replace(&mut state.publishes, true);
        let refused =
            admission.as_ref().err().map(|rejection| shared.count(&mut state, account, rejection));
        drop(state);
        shared.after(transition, publish);
        if let (Some(endpoint), Err(rejection)) = (refused, &admission) {
            shared.announce_rejection(&endpoint, rejection);
        }
        Ok(Permit::new(Arc::clone(shared), account, admission?))
    }

    /// Admits a call, or gives it a place in the queue.
    pub(crate) fn enter(&self, account: AccountId) -> Result<Entry, Rejection> {
        let shared = &self.shared;
        shared.pools_refusal(account)?;
        let mut state = shared.lock();
        let (admission, transition) = state.calls.admit(account);
        let place = match admission {
            Ok(pass) => Ok(Err(pass)),
            Err(rejection) if state.calls.is_down() => Err(rejection),
            Err(_) => {
                let (sender, answer) = oneshot::channel();
                match state.calls.ledger.enqueue(account, sender) {
                    Ok(ticket) => Ok(Ok((ticket, answer))),
                    Err(_) => Err(Rejection::QueueFull { limit: state.calls.ledger.queue_limit() }),
                }
            }
        };
        let publish = !std::mem::replace(&mut state.publishes, true);
        let refused =
            place.as_ref().err().map(|rejection| shared.count(&mut state, account, rejection));
        let waits = matches!(place, Ok(Ok(_)));
        drop(state);
        shared.after(transition, publish);
        if waits {
            // The schedule may allow one of those who wait to try.
            shared.settle();
        }
        if let (Some(endpoint), Err(rejection)) = (refused, &place) {
            shared.announce_rejection(&endpoint, rejection);
        }
        let shared = Arc::clone(shared);
        Ok(match place? {
            Err(pass) => Entry::Permit(Permit::new(shared, account, pass)),
            Ok((ticket, answer)) => Entry::Wait(Waiter::new(shared, account, ticket, answer)),
        })
    }
}

/// Where a caller stands after its first look.
pub(crate) enum Entry {
    Permit(Permit),
    Wait(Waiter),
}

impl GuardedPool {
    /// The pool's guard, to put before a service that reaches the same Redis: its budgets, counting
    /// calls in flight beside the pool's leases, so that a call may lease one and not wait for
    /// itself; its breaker, which refuses while nothing is live and the next dial is some time away;
    /// and its metrics.
    #[must_use]
    pub fn guard(&self) -> Guard {
        Guard::of_pool(self)
    }
}

impl Companion for Shared {
    fn calls_in_flight(&self) -> HashMap<Endpoint, usize> {
        let state = self.lock();
        state.calls.ledger.accounts().map(|account| (account.name, account.in_use)).collect()
    }
}

impl Overridable for Shared {
    fn breaker_state(&self) -> BreakerState {
        self.lock().calls.gate().map_or(BreakerState::Closed, Gate::state)
    }

    fn force(self: Arc<Self>, forced: Option<Forced>) {
        let transition = self.lock().calls.force(forced);
        self.announce(transition);
        self.settle();
    }
}

impl Shared {
    fn new(calls: Calls<oneshot::Sender<Answer>>, home: Home) -> Self {
        let (rejected, transitions) = (Vec::new(), Transitions::new());
        // A pool publishes by itself.
        let publishes = matches!(home, Home::Pool(_));
        let state = State { calls, rejected, transitions, publishes };
        Self { state: Mutex::new(state), home }
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state machine does not panic; if it did, its counts are still the best there are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With nothing live and the next dial some time away, the pool's callers hear so at once.
    fn pools_refusal(self: &Arc<Self>, account: AccountId) -> Result<(), Rejection> {
        let Home::Pool(pool) = &self.home else { return Ok(()) };
        match pool.refusal() {
            Some(rejection) => Err(self.reject(account, rejection)),
            None => Ok(()),
        }
    }

    fn server(&self) -> Arc<str> {
        match &self.home {
            Home::Own(own) => Arc::clone(&own.server),
            Home::Pool(pool) => pool.server(),
        }
    }

    fn acquire_timeout(&self) -> Duration {
        match &self.home {
            Home::Own(own) => own.acquire_timeout,
            Home::Pool(pool) => pool.acquire_timeout(),
        }
    }

    /// A call has worked, and that changes nothing for anybody, as it nearly always does; false if
    /// it does.
    #[inline]
    fn ended_well(&self, account: AccountId) -> bool {
        self.lock().calls.ended_well(account)
    }

    /// A call is over.
    fn ended(self: &Arc<Self>, account: AccountId, pass: Pass, heard: Heard) {
        // One refusal is enough for everyone. The rest the pool's own dials find out.
        if let (Home::Pool(pool), Heard::Failed(failure)) = (&self.home, &heard)
            && failure.outcome == Outcome::MaxClients
        {
            pool.heard_refusal(failure);
        }
        let mut state = self.lock();
        let transition = state.calls.ended(account, pass, heard);
        if state.calls.ledger.counts().waiting == 0 && transition.is_none() {
            return;
        }
        let served = state.calls.settle();
        drop(state);
        self.announce(transition);
        self.serve(served);
    }

    /// Serves whoever is next, after a change.
    fn settle(self: &Arc<Self>) {
        let served = self.lock().calls.settle();
        self.serve(served);
    }

    fn serve(self: &Arc<Self>, served: Served<oneshot::Sender<Answer>>) {
        self.announce(served.transition);
        for (account, pass, waiter) in served.admitted {
            // Where the waiter is gone, the permit is dropped here and serves the next one.
            let _ = waiter.send(Ok(Permit::new(Arc::clone(self), account, pass)));
        }
        for (account, waiter, rejection) in served.refused {
            let _ = waiter.send(Err(self.reject(account, rejection)));
        }
    }

    /// A waiter has left, answered or not.
    fn left(self: &Arc<Self>, account: AccountId, ticket: Ticket) {
        // Dropped outside the lock: the sender's end wakes.
        let _sender = self.lock().calls.ledger.cancelled(account, ticket);
    }

    fn reject_late(&self, account: AccountId, since: Instant) -> Rejection {
        let rejection = self.lock().calls.refusal(account, Instant::now(), since.elapsed());
        self.reject(account, rejection)
    }

    /// Counts and announces a refusal.
    fn reject(&self, account: AccountId, rejection: Rejection) -> Rejection {
        let endpoint = self.count(&mut self.lock(), account, &rejection);
        self.announce_rejection(&endpoint, &rejection);
        rejection
    }

    /// Counts a refusal, which is to be announced once the lock is gone, as of this endpoint.
    fn count(&self, state: &mut State, account: AccountId, rejection: &Rejection) -> Endpoint {
        if matches!(self.home, Home::Own(_)) {
            if state.rejected.len() <= account.0 {
                state.rejected.resize(account.0 + 1, [0; Reason::ALL.len()]);
            }
            state.rejected[account.0][Reason::of(rejection) as usize] += 1;
        }
        state.calls.ledger.account_name(account).clone()
    }

    fn announce_rejection(&self, endpoint: &Endpoint, rejection: &Rejection) {
        match &self.home {
            Home::Pool(pool) => pool.count_rejection(endpoint, rejection),
            Home::Own(own) => {
                shielded(|| {
                    tracing::debug!(
                        guard = %own.name, %endpoint, reason = rejection.reason(), %rejection,
                        "call refused"
                    );
                });
                let event =
                    || Event::Rejected { endpoint: endpoint.clone(), rejection: rejection.clone() };
                own.events.send_rejection(own.seconds.load(Ordering::Relaxed), event);
            }
        }
    }

    fn announce(&self, transition: Option<Transition>) {
        let (Some(Transition { from, to }), Home::Own(own)) = (transition, &self.home) else {
            return;
        };
        *self.lock().transitions.entry((from.as_str(), to.as_str())).or_default() += 1;
        shielded(|| {
            tracing::warn!(guard = %own.name, server = %own.server, %from, %to, "breaker changed");
        });
        own.events.send(Event::BreakerChanged { server: Arc::clone(&own.server), from, to });
    }

    /// What follows from an admission, outside the lock.
    fn after(self: &Arc<Self>, transition: Option<Transition>, publish: bool) {
        if transition.is_some() {
            self.announce(transition);
        }
        if publish && !self.spawn_publisher() {
            self.lock().publishes = false;
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.shared.lock().calls.ledger.counts();
        f.debug_struct("Guard").field("calls", &counts).finish_non_exhaustive()
    }
}
