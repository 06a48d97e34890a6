//! The background dialer: one task a server, which dials for all who wait.
//!
//! Waiters never dial. The task starts when a connection is wanted, ends when none is, and is
//! detached from the waiters: one that gives up cancels nothing. Whatever comes first, a returned
//! connection or a finished dial, serves the longest waiter (bb8's idea).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use redis::aio::PubSub;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::berth::{Berth, Berthed};
use super::core::Core;
use super::sockets::Reserved;
use super::store::{Connection, Ending, Owned, Shared};
use crate::Outcome;
use crate::dial::{Dialed, Driver};
use crate::server::gate::{Approval, Decision};
use crate::telemetry::event::Event;
use crate::vocabulary::DialFailure;

/// What the dialer does next.
enum Step {
    Dial(Attempt),
    /// Wait for the schedule, or for a change of it.
    WaitUntil(Instant),
    Wait,
    Stop,
}

/// Dials while a connection is wanted.
pub(super) fn run(core: Arc<Core>) -> impl Future<Output = ()> {
    // Made before the first poll: a task may be dropped without one.
    let running = Running { core, ended: false };
    dial_while_wanted(running)
}

async fn dial_while_wanted(mut running: Running) {
    let core = Arc::clone(&running.core);
    loop {
        match next_step(&core) {
            Step::Dial(attempt) => {
                let started = Instant::now();
                tokio::select! {
                    result = attempt.dial() => attempt.ended(result, started),
                    // Nobody needs it any more; `attempt` takes it out of the books.
                    () = closed(&core) => {}
                }
            }
            Step::WaitUntil(due) => tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = core.schedule_changed.notified() => {}
            },
            Step::Wait => core.schedule_changed.notified().await,
            Step::Stop => {
                running.ended = true;
                return;
            }
        }
    }
}

/// Says that the dialer has stopped when its runtime is shut down under it.
struct Running {
    core: Arc<Core>,
    /// It has stopped by itself, and said so under the lock.
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // Starts no other here, on a runtime that is going down; the next change does.
            self.core.lock().dialer_stopped();
        }
    }
}

fn next_step(core: &Arc<Core>) -> Step {
    let mut state = core.lock();
    if !state.ledger.wants_dial() {
        state.dialer_stopped();
        return Step::Stop;
    }
    let (decision, transition) = state.gate.ask(Instant::now());
    let step = match decision {
        Decision::Dial(approval) => {
            let reserved = Core::dial_started(&mut state);
            Step::Dial(Attempt { core: Arc::clone(core), approval: Some(approval), reserved })
        }
        Decision::WaitUntil(due) => Step::WaitUntil(due),
        Decision::Held => Step::Wait,
    };
    drop(state);
    core.announce(transition);
    step
}

/// One dial, counted from its first packet. Dropped before its end, it gives the probe back.
struct Attempt {
    core: Arc<Core>,
    /// `None` once it has ended.
    approval: Option<Approval>,
    /// The one waiter that it is for, if that is a subscriber.
    reserved: Option<Reserved>,
}

/// What a dial brings.
enum Product {
    Connection(Dialed),
    PubSub(PubSub, Berth),
}

impl Attempt {
    async fn dial(&self) -> Result<Product, DialFailure> {
        let dialer = &self.core.dialer;
        if self.reserved.is_none() {
            return dialer.dial().await.map(Product::Connection);
        }
        let berth = Berth::default();
        let (signal, end) = oneshot::channel();
        berth.signal(signal);
        let ours = berth.clone();
        let redis = dialer.dial_pubsub(move |stream| Berthed::new(stream, end, ours)).await?;
        Ok(Product::PubSub(redis, berth))
    }

    fn ended(mut self, result: Result<Product, DialFailure>, started: Instant) {
        let Some(approval) = self.approval.take() else {
            return;
        };
        let reserved = self.reserved.take();
        match (result, reserved) {
            (Ok(product), reserved) => {
                let now = connected(&self.core, approval, started);
                match (product, reserved) {
                    (Product::PubSub(redis, berth), Some(reserved)) => {
                        let shared = occupy(&self.core, &berth, now);
                        // Or else our copy keeps the slot when the socket is closed.
                        drop(berth);
                        self.core.deliver(reserved, redis, shared);
                    }
                    (Product::Connection(dialed), _) => {
                        let connection = open(&self.core, dialed, now);
                        self.core.pass_by_watch(&connection);
                        self.core.restore(connection);
                    }
                    (Product::PubSub(..), None) => {
                        unreachable!("a subscriber is dialed only for its waiter")
                    }
                }
            }
            (Err(failure), reserved) => failed(&self.core, approval, reserved, failure),
        }
        self.core.progress.notify_waiters();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(approval) = self.approval.take() else {
            return;
        };
        let reserved = self.reserved.take();
        if std::thread::panicking() {
            // A dial that panics must not be tried again at once, for ever.
            let failure = core_panicked(&self.core);
            return failed(&self.core, approval, reserved, failure);
        }
        let (transition, _gone) = self.core.change(|state| {
            state.ledger.dial_failed(false);
            let gone = reserved.map(|reserved| Core::dial_failed(state, reserved));
            (state.gate.abandoned(approval), gone)
        });
        self.core.announce(transition);
        self.core.progress.notify_waiters();
    }
}

fn core_panicked(core: &Core) -> DialFailure {
    DialFailure {
        server: Arc::clone(&core.dialer.server),
        outcome: Outcome::Other,
        message: "the dial panicked".to_owned(),
    }
}

/// Ends when the pool is closed.
async fn closed(core: &Core) {
    while !core.lock().ledger.is_closed() {
        core.schedule_changed.notified().await;
    }
}

fn connected(core: &Arc<Core>, approval: Approval, started: Instant) -> Instant {
    let now = Instant::now();
    let took = now.duration_since(started);
    // From here on the socket counts as live, so that its end can be counted whenever it comes.
    let (transition, live) = core.change(|state| {
        state.dials[Outcome::Connected as usize] += 1;
        let room = state.ledger.connected();
        (state.gate.connected(approval, room, took, now), state.ledger.live())
    });
    core.metrics.created(took);
    core.announce(transition);
    let (pool, server) = (&core.settings.name, &core.dialer.server);
    tracing::debug!(%pool, %server, ?took, live, "connected");
    core.events.send(Event::Connected { live });
    now
}

fn failed(core: &Arc<Core>, approval: Approval, reserved: Option<Reserved>, failure: DialFailure) {
    let failure = Arc::new(failure);
    let now = Instant::now();
    let (transition, next_dial_in, _gone) = core.change(|state| {
        state.dials[failure.outcome as usize] += 1;
        state.ledger.dial_failed(failure.outcome.is_full());
        state.ledger.void_share();
        state.lost = true;
        let gone = reserved.map(|reserved| Core::dial_failed(state, reserved));
        let transition = state.gate.failed(approval, Arc::clone(&failure), now);
        (transition, state.gate.next_attempt_in(now), gone)
    });
    tracing::warn!(
        pool = %core.settings.name, server = %failure.server, outcome = %failure.outcome,
        message = failure.message, ?next_dial_in, "dial failed"
    );
    core.events.send(Event::DialFailed { failure, next_dial_in });
    core.announce(transition);
}

/// Starts the connection's driver.
fn open(core: &Arc<Core>, dialed: Dialed, now: Instant) -> Connection {
    let Dialed { connection: redis, driver } = dialed;
    let slot = slot(core, now);
    let shared = Arc::clone(&slot.shared);
    let task = tokio::spawn(Driven { driver, made_way: false, slot });
    shared.set_ending(Ending::Task(task.abort_handle()));
    Box::new(Owned { redis, shared, core: Arc::downgrade(core) })
}

/// Gives a subscriber's socket its slot.
fn occupy(core: &Arc<Core>, berth: &Berth, now: Instant) -> Arc<Shared> {
    let slot = slot(core, now);
    let shared = Arc::clone(&slot.shared);
    if let Some(signal) = berth.take_signal() {
        shared.set_ending(Ending::Signal(signal));
    }
    berth.fill(slot);
    shared
}

fn slot(core: &Arc<Core>, now: Instant) -> Slot {
    // ± 10 %, so that a fleet that was started together does not redial together.
    let lifetime = core.settings.max_lifetime.mul_f64(0.9 + 0.2 * fastrand::f64());
    let shared = Arc::new(Shared::new(core.new_id(), now + lifetime, core.coarse_now()));
    core.register(&shared);
    Slot { core: Arc::clone(core), shared }
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
        if !self.made_way && self.slot.shared.in_flight() > 1 {
            self.made_way = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.made_way = false;
        self.driver.as_mut().poll(cx)
    }
}

/// One of the server's slots: held from the dial until the socket is closed, however that comes.
pub(super) struct Slot {
    core: Arc<Core>,
    shared: Arc<Shared>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.core.socket_closed(&self.shared);
    }
}
