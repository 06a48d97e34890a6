//! Acquiring: from a caller to a lease, a place in the queue, or a refusal.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lease::NodeLease;
use super::node::Node;
use super::state::State;
use super::waiting::{Answer, Leased, Subscribed, Waiting};
use crate::ledger::{AccountId, Admission, Ledger, Ticket};
use crate::sync::{oneshot, timeout_at};
use crate::vocabulary::Phase;
use crate::{Endpoint, Rejection};

/// How often a caller who waits looks whether somebody still works for it. Only the end of the
/// runtime that the dialer ran on makes that necessary.
pub(super) const NUDGE: Duration = Duration::from_secs(1);

/// Where a caller stands after its first look.
enum Entry {
    Leased(Leased),
    Queued(Queued<Leased>),
}

/// A place in the queue, and where the answer comes.
type Queued<T> = (Ticket, oneshot::Receiver<Result<T, Rejection>>);

/// What a waiter may wait for.
trait Awaited: Sized {
    /// Gives back what came for a waiter that has left.
    fn give_back(self, node: &Arc<Node>);
}

impl Awaited for Leased {
    fn give_back(self, node: &Arc<Node>) {
        node.take_back(self);
    }
}

impl Awaited for Subscribed {
    fn give_back(self, node: &Arc<Node>) {
        node.take_back_subscriber(self);
    }
}

/// A caller in the queue. Dropping it leaves the queue; what was on its way goes to the next.
struct Waiter<T: Awaited> {
    node: Arc<Node>,
    account: AccountId,
    ticket: Ticket,
    answer: oneshot::Receiver<Result<T, Rejection>>,
    since: Instant,
    deadline: Instant,
}

impl<T: Awaited> Waiter<T> {
    /// `timeout`: at most a year, so that it cannot overflow.
    fn new(
        node: Arc<Node>,
        account: AccountId,
        (ticket, answer): Queued<T>,
        timeout: Duration,
    ) -> Self {
        let since = Instant::now();
        Self { node, account, ticket, answer, since, deadline: since + timeout }
    }

    /// Waits for the answer until the deadline; the answer, and how long that took.
    async fn answer(&mut self) -> Result<(T, Duration), Rejection> {
        let deadline = self.deadline;
        let answer = loop {
            let turn = deadline.min(Instant::now() + NUDGE);
            match timeout_at(turn, &mut self.answer).await {
                Err(_) if turn < deadline => self.node.change(|_| ()),
                answer => break answer,
            }
        };
        match answer {
            Ok(Ok(Ok(answer))) => Ok((answer, self.since.elapsed())),
            Ok(Ok(Err(rejection))) => Err(self.node.reject(self.account, rejection)),
            // The node never drops a sender unanswered, but if it did, that is what it means.
            Ok(Err(_)) => Err(self.node.reject(self.account, Rejection::Closed)),
            Err(_) => Err(reject_late(&self.node, self.account, self.since)),
        }
    }
}

impl Waiter<Leased> {
    /// The connection has died on the way: back to the same place in the queue.
    fn requeue(&mut self, dead: Leased, location: &'static Location<'static>) {
        let (waiter, answer) = oneshot::channel();
        let waiting = Waiting { answer: Answer::Lease(waiter), location };
        let (account, ticket) = (self.account, self.ticket);
        self.answer = answer;
        self.node.change(|state| {
            state.put_back(dead);
            state.ledger.queue(account, ticket, waiting);
        });
    }
}

impl<T: Awaited> Drop for Waiter<T> {
    fn drop(&mut self) {
        // First, so that nothing comes any more, and a dial under way for it does not queue it again.
        self.answer.close();
        if let Ok(Ok(unclaimed)) = self.answer.try_recv() {
            unclaimed.give_back(&self.node);
            return;
        }
        let (account, ticket) = (self.account, self.ticket);
        // Dropped here, outside the lock: the sender's end wakes.
        let _waiting = self.node.change(|state| state.ledger.cancelled(account, ticket));
    }
}

/// Leases a connection, waiting for one at most the acquire timeout.
pub(super) async fn acquire(
    node: Arc<Node>,
    endpoint: Endpoint,
    location: &'static Location<'static>,
) -> Result<NodeLease, Rejection> {
    acquire_as(node, |ledger| ledger.account(&endpoint), location).await
}

/// The same for a caller who waits at most this time, which is at most a year.
pub(super) async fn acquire_within(
    timeout: Duration,
    node: Arc<Node>,
    endpoint: Endpoint,
    location: &'static Location<'static>,
) -> Result<NodeLease, Rejection> {
    acquire_as_within(timeout, node, |ledger| ledger.account(&endpoint), location).await
}

/// The same for an account, which is found under the lock that is taken anyway.
pub(super) async fn acquire_as(
    node: Arc<Node>,
    account: impl FnOnce(&mut Ledger<Waiting>) -> AccountId,
    location: &'static Location<'static>,
) -> Result<NodeLease, Rejection> {
    acquire_as_within(node.settings().acquire_timeout, node, account, location).await
}

async fn acquire_as_within(
    timeout: Duration,
    node: Arc<Node>,
    account: impl FnOnce(&mut Ledger<Waiting>) -> AccountId,
    location: &'static Location<'static>,
) -> Result<NodeLease, Rejection> {
    let (account, entry) = enter(&node, account, location)?;
    let queued = match entry {
        Entry::Leased(leased) => return Ok(NodeLease::new(node, leased)),
        Entry::Queued(queued) => queued,
    };
    let mut waiter = Waiter::new(Arc::clone(&node), account, queued, timeout);
    let (leased, waited) = loop {
        let (leased, waited) = waiter.answer().await?;
        if leased.connection.socket.is_alive() {
            break (leased, waited);
        }
        waiter.requeue(leased, location);
    };
    // First the lease, which gives the connection back: a recorder is somebody else's code.
    let lease = NodeLease::new(Arc::clone(&node), leased);
    node.metrics.waited(waited);
    Ok(lease)
}

/// A caller comes in: it gets a lease, a place in the queue, or a refusal.
fn enter(
    node: &Arc<Node>,
    account: impl FnOnce(&mut Ledger<Waiting>) -> AccountId,
    location: &'static Location<'static>,
) -> Result<(AccountId, Entry), Rejection> {
    let mut state = node.lock();
    let account = account(&mut state.ledger);
    let start_maintenance = state.wants_maintenance();
    let granted = !state.ledger.is_closed() && state.ledger.acquire(account) == Admission::Granted;
    // One that was free concerns nobody else.
    let leased = if granted { state.lease(account, location) } else { None };
    if let Some(leased) = leased {
        drop(state);
        if start_maintenance {
            node.start_maintenance();
        }
        return Ok((account, Entry::Leased(leased)));
    }
    let queued = queue_or_refuse(&mut state, account, location);
    // Its account's, for there is a bound on how many names are told apart.
    let endpoint = queued.is_err().then(|| state.ledger.account_name(account).clone());
    let wakes = state.settle();
    drop(state);
    if start_maintenance {
        node.start_maintenance();
    }
    node.wake(wakes);
    if let (Err(rejection), Some(endpoint)) = (&queued, endpoint) {
        node.announce_rejection(&endpoint, rejection);
    }
    Ok((account, Entry::Queued(queued?)))
}

fn queue_or_refuse(
    state: &mut State,
    account: AccountId,
    location: &'static Location<'static>,
) -> Result<Queued<Leased>, Rejection> {
    let refused = match state.refusal() {
        Some(rejection) => {
            state.ledger.request_dial();
            rejection
        }
        None => {
            let (waiter, answer) = oneshot::channel();
            let waiting = Waiting { answer: Answer::Lease(waiter), location };
            match state.ledger.enqueue(account, waiting) {
                Ok(ticket) => return Ok((ticket, answer)),
                Err(_) => Rejection::QueueFull { limit: state.ledger.queue_limit() },
            }
        }
    };
    state.count_rejection(account, &refused);
    Err(refused)
}

/// Waits for a connection of the caller's own, to subscribe on, at most the acquire timeout; the
/// connection, and how long that took.
pub(super) async fn acquire_subscriber(
    node: &Arc<Node>,
    endpoint: &Endpoint,
    location: &'static Location<'static>,
) -> Result<(Subscribed, Duration), Rejection> {
    let (waiter, answer) = oneshot::channel();
    let waiting = Waiting { answer: Answer::Subscriber(waiter), location };
    let (account, start_maintenance, queued) = node.change(|state| {
        let account = state.ledger.account(endpoint);
        let start_maintenance = state.wants_maintenance();
        let queued = match state.refusal() {
            Some(rejection) => {
                state.ledger.request_dial();
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
        node.start_maintenance();
    }
    let ticket = queued.map_err(|rejection| node.reject(account, rejection))?;
    let timeout = node.settings().acquire_timeout;
    let mut waiter = Waiter::new(Arc::clone(node), account, (ticket, answer), timeout);
    waiter.answer().await
}

/// Takes a connection if one is free right now.
pub(super) fn try_acquire(
    node: &Arc<Node>,
    endpoint: &Endpoint,
    location: &'static Location<'static>,
) -> Result<NodeLease, Rejection> {
    let (account, admission, start_maintenance) = node.change(|state| {
        let account = state.ledger.account(endpoint);
        let start_maintenance = state.wants_maintenance();
        if let Some(rejection) = state.refusal() {
            state.ledger.request_dial();
            return (account, Err(rejection), start_maintenance);
        }
        let admission = match state.ledger.acquire(account) {
            Admission::Granted => state.lease(account, location),
            Admission::BudgetExhausted => {
                return (account, Err(exhausted(state, account)), start_maintenance);
            }
            Admission::NoneFree => {
                state.ledger.request_dial();
                None
            }
        };
        let admission = admission.ok_or_else(|| late(node, state, Duration::ZERO));
        (account, admission, start_maintenance)
    });
    if start_maintenance {
        node.start_maintenance();
    }
    match admission {
        Ok(leased) => Ok(NodeLease::new(Arc::clone(node), leased)),
        Err(rejection) => Err(node.reject(account, rejection)),
    }
}

/// The refusal of a caller whose acquire timeout ran out.
fn reject_late(node: &Node, account: AccountId, since: Instant) -> Rejection {
    let rejection = {
        let state = node.lock();
        match state.ledger.is_exhausted(account) {
            true => exhausted(&state, account),
            false => late(node, &state, since.elapsed()),
        }
    };
    node.reject(account, rejection)
}

fn exhausted(state: &State, account: AccountId) -> Rejection {
    Rejection::BudgetExhausted {
        endpoint: state.ledger.account_name(account).clone(),
        max: state.ledger.account_max(account),
    }
}

/// The refusal of a caller who has waited so long for whatever connection.
pub(super) fn late(node: &Node, state: &State, waited: Duration) -> Rejection {
    let phase = if state.ledger.live() == 0 { Phase::Dial } else { Phase::Connection };
    let in_flight = || {
        let in_flight = match state.ledger.counts().dialing {
            _ if phase != Phase::Dial => None,
            0 => node.resolver.unanswered(),
            _ => node.target().unanswered(),
        };
        in_flight.map(Arc::new)
    };
    Rejection::AcquireTimeout { waited, phase, failure: state.gate.failure().or_else(in_flight) }
}
