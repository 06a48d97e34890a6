//! Admission: from a caller to a lease, a place in the queue, or a refusal.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::core::Core;
use super::leak::Seat;
use super::lease::GuardedConnection;
use super::pubsub::Subscriber;
use super::state::{Answer, State, Waiting};
use crate::ledger::{AccountId, Admission, Ledger, Ticket};
use crate::telemetry::event::Event;
use crate::vocabulary::Phase;
use crate::{Endpoint, Rejection};

/// How often a caller who waits looks whether somebody still works for it. Only the end of the
/// runtime that the dialer ran on makes that necessary.
const NUDGE: Duration = Duration::from_secs(1);

/// Whether a caller's turn is now.
enum Turn {
    Now(Seat),
    Later(Place<Grant>),
}

/// Where a caller stands after its first look.
enum Entry {
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
    pub(super) fn new(core: Arc<Core>, account: AccountId, seat: Seat) -> Self {
        Self { core, account, seat, end: End::InStore }
    }

    /// Takes the granted connection; gives the grant back if it has died meanwhile.
    fn take(self) -> Result<GuardedConnection, Self> {
        match self.core.store.take() {
            Some(connection) => Ok(GuardedConnection::new(connection, self)),
            None => Err(self),
        }
    }

    /// For a connection that never was in the store, and never will be.
    pub(super) fn for_subscriber(core: Arc<Core>, account: AccountId, seat: Seat) -> Self {
        Self { core, account, seat, end: End::Gone }
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
        let answer = loop {
            let turn = deadline.min(Instant::now() + NUDGE);
            match tokio::time::timeout_at(turn, &mut self.answer).await {
                Err(_) if turn < deadline => self.core.change(|_| ()),
                answer => break answer,
            }
        };
        match answer {
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
    /// Leases a connection, waiting for one at most the acquire timeout.
    pub(super) async fn acquire(
        self: Arc<Self>,
        endpoint: Endpoint,
        location: &'static Location<'static>,
    ) -> Result<GuardedConnection, Rejection> {
        self.acquire_as(|ledger| ledger.account(&endpoint), location).await
    }

    /// The same for an account, which is found under the lock that is taken anyway.
    pub(super) async fn acquire_as(
        self: Arc<Self>,
        account: impl FnOnce(&mut Ledger<Waiting>) -> AccountId,
        location: &'static Location<'static>,
    ) -> Result<GuardedConnection, Rejection> {
        match self.enter(account, location)? {
            Entry::Lease(lease) => Ok(lease),
            Entry::Wait(waiter) => waiter.wait().await,
        }
    }

    /// A caller comes in: it gets a lease, a place in the queue, or a refusal.
    fn enter(
        self: Arc<Self>,
        account: impl FnOnce(&mut Ledger<Waiting>) -> AccountId,
        location: &'static Location<'static>,
    ) -> Result<Entry, Rejection> {
        let mut state = self.lock();
        let account = account(&mut state.ledger);
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
            Ok(Turn::Now(_)) => None,
            Ok(Turn::Later(_)) | Err(_) => Some(state.settle()),
        };
        let refused = entry.is_err().then(|| state.ledger.account_name(account).clone());
        drop(state);
        if start_maintenance {
            self.start_maintenance();
        }
        if let Some(wakes) = wakes {
            self.wake(wakes);
        }
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
                if let Some(endpoint) = refused {
                    self.announce_rejection(&endpoint, &rejection);
                }
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
        let event = || Event::Rejected { endpoint: endpoint.clone(), rejection: rejection.clone() };
        self.events.send_rejection(self.coarse_now() / 1_000, event);
    }
}

fn late(state: &State, waited: Duration) -> Rejection {
    let phase = if state.ledger.live() == 0 { Phase::Dial } else { Phase::Connection };
    Rejection::AcquireTimeout { waited, phase, failure: state.gate.failure().cloned() }
}
