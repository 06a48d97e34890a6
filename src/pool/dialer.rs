//! The background dialer: one task a node, which dials for all who wait.
//!
//! Waiters never dial. The task starts when a connection is wanted, ends when none is, and is
//! detached from the waiters: one that gives up cancels nothing. Whatever comes first, a returned
//! connection or a finished dial, serves the longest waiter (bb8's idea).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::intake::{Bounded, Intake};
use super::node::Node;
use super::slot::Slot;
use super::state::{DialerTask, News, Reserved, State};
use super::store::{Connection, Ending, Owned, Socket};
use super::tasks::Task;
use super::topology::place::{Doubt, Place};
use super::waiting::{Answer, Subscribed};
use crate::Outcome;
use crate::dial::{Dialed, Driver, Login, Subscriber};
use crate::server::Role;
use crate::server::gate::{Approval, Decision};
use crate::telemetry::status::CloseReason;
use crate::vocabulary::DialFailure;

/// What the dialer does next.
enum Step {
    Dial(Attempt),
    /// Wait for the schedule, or for a change of it.
    WaitUntil(Instant),
    /// Wait for what is in flight, or until something changes.
    Wait,
    Stop,
}

/// The dials of a node that are in flight.
type Dials = FuturesUnordered<Task>;

/// Dials while a connection is wanted.
pub(super) fn run(node: Arc<Node>) -> Task {
    // Made before the first poll: a task may be dropped without one.
    let running = Running { node, stopped: false };
    Box::pin(dial_while_wanted(running))
}

async fn dial_while_wanted(mut running: Running) {
    let node = Arc::clone(&running.node);
    let mut dials = Dials::new();
    loop {
        let server = node.server();
        let mut changed = pin!(server.schedule_changed());
        changed.as_mut().enable();
        // Callers hear what another pool of the process has learned of the server.
        node.change(|_| ());
        node.warmth_changed.notify_waiters();
        let idle = dials.is_empty();
        let due = match beside(&mut dials, next_step(&node, idle)).await {
            Step::Dial(attempt) => {
                // One that panics takes none of the others along; it is told of where it is dropped.
                let run = AssertUnwindSafe(attempt.run()).catch_unwind();
                dials.push(Box::pin(run.map(drop)));
                continue;
            }
            Step::Stop => {
                running.stopped = true;
                return;
            }
            Step::WaitUntil(due) => Some(due),
            Step::Wait => None,
        };
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // First, so that no schedule that is due keeps what is in flight from going on.
            Some(()) = dials.next() => {}
            () = node.closed(), if !node.is_closed() => {}
            () = changed => {}
            () = node.dialer_wanted.notified() => {}
            () = due => {}
        }
        if node.is_closed() {
            // Nobody needs them any more; each takes itself out of the books.
            dials = Dials::new();
        }
    }
}

/// Goes on with the dials while it waits for something else.
async fn beside<T>(dials: &mut Dials, other: impl Future<Output = T>) -> T {
    let mut other = pin!(other);
    loop {
        tokio::select! {
            biased;
            result = &mut other => return result,
            Some(()) = dials.next() => {}
        }
    }
}

/// Says that the dialer has stopped when its runtime is shut down under it.
struct Running {
    node: Arc<Node>,
    /// It has stopped by itself, and said so under the lock.
    stopped: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.stopped {
            // Starts no other here, on a runtime that is going down; the next change does.
            let mut state = self.node.lock();
            state.gate.leave();
            state.set_dialer(DialerTask::None);
        }
    }
}

/// What to do, under one look: where nothing is wanted it is noted that the dialer stops, or waits.
async fn next_step(node: &Arc<Node>, idle: bool) -> Step {
    if let Some(step) = other_than_dial(&mut node.lock(), idle) {
        return step;
    }
    if node.dialer.awaits_credentials() {
        return Step::Wait;
    }
    let place = tokio::select! {
        biased;
        () = node.closed() => return Step::WaitUntil(Instant::now()),
        place = node.resolver.resolve() => place,
    };
    match place {
        Ok(place) => {
            if !node.is_at(&place) {
                // The schedule there is another one: look again.
                node.head_for(place);
                return Step::WaitUntil(Instant::now());
            }
            ask(node, &place, idle)
        }
        Err(failure) => {
            node.change(|state| {
                state.gate.unresolved(Arc::new(failure), Instant::now());
                state.lost = true;
            });
            Step::WaitUntil(Instant::now())
        }
    }
}

/// Why not to dial, if nothing is wanted, or the pool holds itself back.
fn other_than_dial(state: &mut State, idle: bool) -> Option<Step> {
    if !state.ledger.wants_dial() {
        state.gate.leave();
        state.set_dialer(if idle { DialerTask::None } else { DialerTask::Waits });
        return Some(if idle { Step::Stop } else { Step::Wait });
    }
    state.gate.held_back(Instant::now()).map(step_of)
}

fn step_of(decision: Decision) -> Step {
    match decision {
        Decision::WaitUntil(due) => Step::WaitUntil(due),
        Decision::Held | Decision::Dial(_) => Step::Wait,
    }
}

/// Asks the gate for a dial.
fn ask(node: &Arc<Node>, place: &Arc<Place>, idle: bool) -> Step {
    let mut state = node.lock();
    let step = asked(&mut state, node, place, idle);
    let wakes = state.settle();
    drop(state);
    node.wake(wakes);
    step
}

fn asked(state: &mut State, node: &Arc<Node>, place: &Arc<Place>, idle: bool) -> Step {
    if !state.gate.is_at(&place.server) {
        // It has moved meanwhile: look again.
        return Step::WaitUntil(Instant::now());
    }
    if state.ledger.live() > 0 && !state.ledger.is_frozen() && state.gate.is_refused() {
        // One refusal is enough for every pool of the process.
        state.heard_refusal();
    }
    if let Some(step) = other_than_dial(state, idle) {
        return step;
    }
    match state.gate.ask(Instant::now()) {
        Decision::Dial(approval) => {
            let role_check = match (place.claim(), state.demotion.is_suspected()) {
                (Some(role), _) => RoleCheck::Require(role),
                (None, true) if state.ledger.next_is_successor() => {
                    RoleCheck::Require(Role::Master)
                }
                (None, true) => RoleCheck::Ask,
                (None, false) => RoleCheck::Skip,
            };
            let reserved = state.dial_started();
            let (node, place) = (Arc::clone(node), Arc::clone(place));
            let login = node.dialer.login();
            let approval = Some(approval);
            Step::Dial(Attempt { node, place, login, approval, reserved, role_check })
        }
        decision => step_of(decision),
    }
}

/// One dial, counted from its first packet. Dropped before its end, it gives the probe back.
struct Attempt {
    node: Arc<Node>,
    place: Arc<Place>,
    login: Arc<Login>,
    /// `None` once it has ended.
    approval: Option<Approval>,
    /// The one waiter that it is for, if that is a subscriber.
    reserved: Option<Reserved>,
    role_check: RoleCheck,
}

/// What a dial wants to know of the server's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RoleCheck {
    /// Nothing: it was not heard to be a replica.
    Skip,
    /// Which it is. A replica serves reads, and somebody waits.
    Ask,
    /// That it is this: somebody said so, or it is for a successor of what is open to a replica.
    Require(Role),
}

impl RoleCheck {
    /// What is wrong with a server that says of itself whether it is a replica.
    fn problem(self, is_replica: Option<bool>) -> Option<&'static str> {
        match (self, is_replica?) {
            (Self::Require(Role::Master), true) => Some("it is a replica, which takes no writes"),
            (Self::Require(Role::Replica), false) => {
                Some("it is a primary, and this pool reads from replicas")
            }
            _ => None,
        }
    }
}

/// What a dial brings.
enum Product {
    Connection(Dialed),
    Subscriber(Subscriber, Arc<Intake>),
}

impl Attempt {
    async fn run(self) {
        let started = Instant::now();
        let dialed = tokio::select! {
            biased;
            dialed = self.dial(started) => Some(dialed),
            // Dropped: it takes itself out of the books.
            () = self.node.left(&self.place) => None,
        };
        if let Some(result) = dialed {
            self.ended(result, started);
        }
    }

    /// What the dial brings, and whether the server is a replica, if that was asked, and it says so.
    async fn dial(&self, started: Instant) -> Result<(Product, Option<bool>), DialFailure> {
        let (dialer, target, login) = (&self.node.dialer, &self.place.target, &self.login);
        let asks = self.role_check != RoleCheck::Skip;
        let (product, is_replica) = if self.reserved.is_none() {
            let mut dialed = dialer.dial(target, login).await?;
            let is_replica =
                if asks { dialer.is_replica(&mut dialed, target, started).await? } else { None };
            (Product::Connection(dialed), is_replica)
        } else {
            let intake = Arc::new(Intake::default());
            let bounded = |stream| Bounded { stream, intake: Arc::clone(&intake) };
            let (dialed, is_replica) = dialer.dial_pubsub(target, login, asks, bounded).await?;
            (Product::Subscriber(dialed, intake), is_replica)
        };
        match self.role_check.problem(is_replica) {
            None => Ok((product, is_replica)),
            Some(problem) => Err(DialFailure {
                server: Arc::clone(&target.name),
                outcome: Outcome::WrongRole,
                message: problem.to_owned(),
            }),
        }
    }

    fn ended(mut self, result: Result<(Product, Option<bool>), DialFailure>, started: Instant) {
        let Some(approval) = self.approval.take() else {
            return;
        };
        let is_current = self.node.dialer.is_current(&self.login);
        if !is_current && result.as_ref().is_err_and(|failure| failure.outcome == Outcome::Auth) {
            // Given up: there are other credentials by now.
            self.approval = Some(approval);
            return;
        }
        let (node, reserved) = (&self.node, self.reserved.take());
        let (product, is_replica) = match result {
            Ok(dialed) => dialed,
            Err(failure) => return failed(node, &self.place, approval, reserved, failure),
        };
        let server = &self.place.target.name;
        let (slot, took) = connected(node, server, approval, reserved.is_some(), started);
        match (product, reserved) {
            (Product::Subscriber(dialed, intake), Some(reserved)) => {
                if !is_current {
                    slot.socket.outdate(CloseReason::Replaced);
                }
                deliver(node, reserved, dialed, intake, slot);
            }
            (Product::Connection(dialed), _) => {
                let connection = open(slot, dialed);
                if !is_current {
                    connection.socket.ask_to_authenticate();
                }
                self.opened(connection, is_replica, started);
            }
            (Product::Subscriber(..), None) => {
                unreachable!("a subscriber is dialed only for its waiter")
            }
        }
        if node.is_at(&self.place) {
            // One without a check may have begun before there was reason for it.
            node.arrived(&self.place, matches!(self.role_check, RoleCheck::Require(_)));
        }
        let live = node.lock().ledger.live();
        node.metrics.created(took);
        node.context.connected(Arc::clone(server), took, live);
    }

    /// A connection was dialed that is for whoever comes first.
    fn opened(&self, connection: Connection, is_replica: Option<bool>, started: Instant) {
        let node = &self.node;
        if is_replica == Some(true) && self.role_check == RoleCheck::Ask {
            connection.socket.outdate(CloseReason::Replaced);
        }
        node.authenticate(&connection.redis, &connection.socket);
        if node.is_at(&self.place) {
            node.mailbox.pass(&connection);
            node.opened(connection);
        } else {
            // The server has moved meanwhile.
            connection.socket.blame(CloseReason::Replaced);
        }
        match (self.role_check, is_replica) {
            (RoleCheck::Skip | RoleCheck::Require(Role::Replica), _) => {}
            (_, Some(true)) => node.opened_replica(),
            // One that does not say what it is is no replica.
            (_, _) => node.found_primary(started),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(approval) = self.approval.take() else {
            return;
        };
        let (node, reserved) = (&self.node, self.reserved.take());
        if std::thread::panicking() {
            // A dial that panics must not be tried again at once, for ever.
            let server = Arc::clone(&self.place.target.name);
            let message = "the dial panicked".to_owned();
            let failure = DialFailure { server, outcome: Outcome::Other, message };
            return failed(node, &self.place, approval, reserved, failure);
        }
        let _gone = node.change(|state| {
            state.ledger.dial_failed(false, reserved.is_some());
            if state.moves.is_under_way() {
                state.ledger.retry_successors();
            }
            state.gate.abandoned(approval, Instant::now());
            reserved.map(|reserved| state.dial_failed(reserved))
        });
        node.dial_ended();
    }
}

/// The dial has succeeded: from here on the socket counts as live, until its slot is dropped.
fn connected(
    node: &Arc<Node>,
    server: &Arc<str>,
    approval: Approval,
    reserved: bool,
    started: Instant,
) -> (Slot, std::time::Duration) {
    let now = Instant::now();
    let took = now.duration_since(started);
    let socket = node.open_socket(Arc::clone(server), started, now);
    node.replies.heard();
    let slot = node.change(|state| {
        state.dials[Outcome::Connected as usize] += 1;
        let room = state.ledger.connected(reserved);
        let slot = Slot::new(Arc::clone(node), socket);
        state.gate.connected(approval, room, took, now);
        slot
    });
    (slot, took)
}

fn failed(
    node: &Arc<Node>,
    place: &Place,
    approval: Approval,
    reserved: Option<Reserved>,
    failure: DialFailure,
) {
    let failure = Arc::new(failure);
    if let Some(doubt) = doubt(failure.outcome) {
        node.resolver.doubt(place, doubt);
    }
    let now = Instant::now();
    let (next_dial_in, wakes, _gone) = {
        let mut state = node.lock();
        state.dials[failure.outcome as usize] += 1;
        state.ledger.dial_failed(failure.outcome.is_full(), reserved.is_some());
        state.ledger.void_share();
        state.lost = true;
        let gone = reserved.map(|reserved| state.dial_failed(reserved));
        let looks_for_primary =
            failure.outcome == Outcome::WrongRole && state.demotion.is_urgent(now);
        if looks_for_primary || state.moves.is_under_way() {
            // The gate has the pace.
            state.ledger.retry_successors();
        }
        let none_live = state.ledger.live() == 0;
        state.gate.failed(approval, none_live, Arc::clone(&failure), now);
        (state.gate.next_attempt_in(now), state.settle(), gone)
    };
    let News { limit, transition } = node.carry_out(wakes);
    node.dial_ended();
    // In the order in which a reader understands it.
    node.tell(News { limit, transition: None });
    node.context.dial_failed(failure, next_dial_in);
    node.tell(News { limit: None, transition });
}

/// What a failed dial says of the place of the server; of one that answers with an error nothing.
fn doubt(outcome: Outcome) -> Option<Doubt> {
    match outcome {
        Outcome::WrongRole => Some(Doubt::WrongRole),
        Outcome::LocalLimit | Outcome::MaxClients | Outcome::Loading => None,
        outcome => (!outcome.is_permanent()).then_some(Doubt::Unreachable),
    }
}

/// Starts the connection's driver.
fn open(slot: Slot, dialed: Dialed) -> Connection {
    let Dialed { connection: redis, driver, end_notice } = dialed;
    slot.bury_on_end(&end_notice);
    let socket = start(slot, driver, false);
    Box::new(Owned { redis, socket })
}

fn start(slot: Slot, driver: Driver, listens: bool) -> Arc<Socket> {
    let socket = Arc::clone(&slot.socket);
    let driver = tokio::spawn(Driven { driver, made_way: false, slot }).abort_handle();
    socket.set_ending(Ending { driver, listens });
    socket
}

/// Hands a subscriber its connection.
fn deliver(
    node: &Arc<Node>,
    reserved: Reserved,
    dialed: Subscriber,
    intake: Arc<Intake>,
    slot: Slot,
) {
    let Subscriber { sink, messages, driver } = dialed;
    let socket = start(slot, driver, true);
    socket.lent_to(Some(reserved.place.seat));
    let listening = Arc::clone(&socket);
    let subscribed = Subscribed { sink, messages, intake, socket, place: reserved.place };
    let unclaimed = match reserved.waiting.answer {
        Answer::Subscriber(waiter) => waiter.send(Ok(subscribed)).err().and_then(Result::ok),
        Answer::Lease(_) => Some(subscribed),
    };
    if let Some(subscribed) = unclaimed {
        node.take_back_subscriber(subscribed);
    }
    if node.is_closed() {
        // Closed meanwhile, when it could not be told to end yet: it would listen for ever.
        node.revoke(&listening, CloseReason::PoolClosed);
    }
}

/// A driver and its slot. The order of the fields is the point: the socket, which the driver owns,
/// is closed before the slot is free for the next dial.
struct Driven {
    driver: Driver,
    /// The callers had their turn, and now it is the driver's.
    made_way: bool,
    slot: Slot,
}

impl Future for Driven {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // On a shared connection the first of several ready callers wakes the driver, and tokio runs
        // what was just woken next: a write, and a read for the server, for every command. Behind the
        // other callers it sends all of theirs at once, which at 64 tasks is a fifth more throughput.
        // (Nagle's algorithm, which others leave on, hides this at the price of latency.)
        if !self.made_way && self.slot.socket.in_flight() > 1 {
            self.made_way = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.made_way = false;
        self.driver.as_mut().poll(cx)
    }
}
