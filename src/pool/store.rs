//! The store: deadpool, with a manager that never awaits.
//!
//! deadpool keeps the connections; who may take one is the ledger's business, and dialing is the
//! background dialer's. So `create` only pops what the dialer has put on the ready list, `recycle`
//! only looks at the driver's liveness flag, and [`Store::take`] completes on its first poll: it
//! cannot block, and there is no point at which it could be cancelled.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, QueueMode, RecycleError, RecycleResult, Timeouts};
use redis::aio::MultiplexedConnection;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::core::Core;
use super::leak::Seat;
use crate::telemetry::status::CloseReason;

/// How many dead leases that nobody lets go of the store has room for. Past it, one more keeps its
/// place in its endpoint's budget until it is dropped.
pub(super) const DEAD_LEASES: usize = 256;

/// deadpool never waits here: whoever comes holds a grant.
const NO_WAIT: Timeouts = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };

pub(super) type Lent = Object<Manager>;

#[derive(Debug)]
pub(super) struct Store {
    pool: managed::Pool<Manager>,
}

/// The deadpool manager: a list of connections that no deadpool object holds yet.
#[derive(Debug, Default)]
pub(super) struct Manager {
    /// Taken a few times in the life of a connection, never across an await.
    ready: Mutex<Vec<Connection>>,
}

/// The store held nothing alive.
#[derive(Debug)]
pub(super) struct Empty;

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Empty;

    async fn create(&self) -> Result<Connection, Empty> {
        loop {
            let connection = self.lock().pop().ok_or(Empty)?;
            if connection.shared.lend() {
                return Ok(connection);
            }
        }
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Empty> {
        if connection.shared.lend() { Ok(()) } else { Err(RecycleError::Backend(Empty)) }
    }
}

impl Manager {
    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    pub(super) fn new(max_connections: usize) -> Self {
        // Room beyond `max_connections` for leases whose socket is dead: their slot is free for the
        // next dial, but deadpool counts them until their holder lets go.
        let objects = max_connections.saturating_add(DEAD_LEASES);
        // Last in, first out: under a light load the same few stay warm and the rest goes idle.
        let pool = managed::Pool::builder(Manager::default())
            .max_size(objects)
            .queue_mode(QueueMode::Lifo)
            .build()
            .expect("only timeouts need a runtime, and there are none");
        Self { pool }
    }

    /// Takes a connection for the holder of a grant; `None` if the last one just died.
    pub(super) fn take(&self) -> Option<Lent> {
        let get = pin!(self.pool.timeout_get(&NO_WAIT));
        match get.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result.ok(),
            Poll::Pending => None,
        }
    }

    /// Puts an idle connection in, without a grant: a new one, or one that was withdrawn.
    pub(super) fn put(&self, connection: Connection) {
        self.pool.manager().lock().push(connection);
    }

    /// Takes idle connections out that `wanted` picks, at most `most`, coldest first.
    pub(super) fn withdraw(
        &self,
        most: usize,
        mut wanted: impl FnMut(&Shared) -> bool,
    ) -> Vec<Connection> {
        let mut left = most;
        let mut pick = |connection: &Connection| {
            let picked = left > 0 && wanted(&connection.shared) && connection.shared.lend();
            left -= usize::from(picked);
            picked
        };
        let mut withdrawn = self.pool.retain(|connection, _| !pick(connection)).removed;
        withdrawn.extend(self.pool.manager().lock().extract_if(.., |connection| pick(connection)));
        withdrawn
    }

    /// Drops what died while it was idle.
    pub(super) fn purge(&self) {
        let dead = |connection: &Connection| !connection.shared.is_alive();
        let _corpses = self.pool.retain(|connection, _| !dead(connection)).removed;
        let _corpses: Vec<_> =
            self.pool.manager().lock().extract_if(.., |connection| dead(connection)).collect();
    }
}

/// One live connection. Dropping it closes the socket. Behind a pointer, because it is moved a
/// dozen times a lease.
pub(super) type Connection = Box<Owned>;

/// The owner's part of a connection.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) redis: MultiplexedConnection,
    pub(super) shared: Arc<Shared>,
    pub(super) core: Weak<Core>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.retire(&self.shared, CloseReason::Dropped);
        }
        self.shared.abort();
    }
}

/// What the driver's task, the maintenance task and the owner of a connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: u64,
    state: AtomicU8,
    /// Why it is being closed, once it is; the first reason counts.
    reason: AtomicU8,
    /// To be closed when it comes back.
    doomed: AtomicBool,
    /// Being closed because there are too many.
    shed: AtomicBool,
    /// Coarse time (see [`Core::coarse_now`]) of its last return.
    used_at: AtomicU64,
    /// Coarse time of the last PING that it answered while it was idle.
    checked_at: AtomicU64,
    pub(super) expires: Instant,
    ending: Mutex<Option<Ending>>,
    /// The mark of the seat that has it, or zero.
    seat: AtomicU64,
    /// Commands sent by those who share it, and how many of them have ended.
    sent: AtomicU64,
    answered: AtomicU64,
}

const IDLE: u8 = 0;
const LENT: u8 = 1;
const DEAD: u8 = 2;

impl Shared {
    pub(super) fn new(id: u64, expires: Instant, used: u64) -> Self {
        Self {
            id,
            // The dialer's, until it is put into the store.
            state: AtomicU8::new(LENT),
            reason: AtomicU8::new(CloseReason::Peer as u8),
            doomed: AtomicBool::new(false),
            shed: AtomicBool::new(false),
            used_at: AtomicU64::new(used),
            checked_at: AtomicU64::new(used),
            expires,
            ending: Mutex::new(None),
            seat: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    /// Idle → lent; false if it is dead.
    fn lend(&self) -> bool {
        self.turn(IDLE, LENT)
    }

    /// Lent → idle; false if it died meanwhile.
    pub(super) fn give_back(&self) -> bool {
        self.turn(LENT, IDLE)
    }

    /// Notes a command on its way, of one of those who share the connection.
    pub(super) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes the end of such a command.
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// How many such commands have ended so far.
    pub(super) fn answers(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// How many such commands are on their way.
    pub(super) fn in_flight(&self) -> u64 {
        self.sent.load(Ordering::Relaxed).saturating_sub(self.answers())
    }

    /// Notes who has it.
    pub(super) fn lent_to(&self, seat: Option<Seat>) {
        self.seat.store(seat.map_or(0, Seat::mark), Ordering::Relaxed);
    }

    pub(super) fn holder(&self) -> Option<Seat> {
        Seat::of_mark(self.seat.load(Ordering::Relaxed))
    }

    /// Notes the end of a lease.
    pub(super) fn used(&self, now: u64) {
        self.used_at.store(now, Ordering::Relaxed);
    }

    /// Notes that it answered while it was idle, which is not a use.
    pub(super) fn checked(&self, now: u64) {
        self.checked_at.store(now, Ordering::Relaxed);
    }

    /// → dead; true if it was idle. Under the ledger's lock, so that nobody is granted it after.
    pub(super) fn bury(&self) -> bool {
        self.state.swap(DEAD, Ordering::AcqRel) == IDLE
    }

    fn turn(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state.load(Ordering::Acquire) != DEAD
    }

    pub(super) fn used_at(&self) -> u64 {
        self.used_at.load(Ordering::Relaxed)
    }

    /// When it last showed that it works.
    pub(super) fn heard_at(&self) -> u64 {
        self.used_at().max(self.checked_at.load(Ordering::Relaxed))
    }

    pub(super) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }

    /// It is one too many, and is about to be closed.
    pub(super) fn shed(&self) {
        self.shed.store(true, Ordering::Relaxed);
        self.blame(CloseReason::Limit);
    }

    pub(super) fn is_shed(&self) -> bool {
        self.shed.load(Ordering::Relaxed)
    }

    /// Gives the reason for the close that follows; the first one counts.
    pub(super) fn blame(&self, reason: CloseReason) {
        let peer = CloseReason::Peer as u8;
        let _ =
            self.reason.compare_exchange(peer, reason as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn reason(&self) -> CloseReason {
        let reason = self.reason.load(Ordering::Relaxed);
        let of = |it: &CloseReason| *it as u8 == reason;
        CloseReason::ALL.iter().copied().find(of).unwrap_or(CloseReason::Peer)
    }

    pub(super) fn set_ending(&self, ending: Ending) {
        *self.ending() = Some(ending);
    }

    /// Closes the socket.
    pub(super) fn abort(&self) {
        match self.ending().take() {
            Some(Ending::Task(task)) => task.abort(),
            // A stream that is gone needs no signal.
            Some(Ending::Signal(signal)) => drop(signal.send(())),
            None => {}
        }
    }

    /// True for a connection that listens and is never lent.
    pub(super) fn is_subscriber(&self) -> bool {
        matches!(*self.ending(), Some(Ending::Signal(_)))
    }

    fn ending(&self) -> MutexGuard<'_, Option<Ending>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a socket is closed from outside.
#[derive(Debug)]
pub(super) enum Ending {
    /// By ending the driver that owns it.
    Task(AbortHandle),
    /// By telling the stream, whose driver is not ours.
    Signal(oneshot::Sender<()>),
}
