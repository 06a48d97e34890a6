//! The store: deadpool, with a manager that never awaits.
//!
//! deadpool keeps the connections that nobody has; who may take one is the ledger's business, and
//! dialing is the background dialer's. So `create` only pops what the dialer has put on the ready
//! list, `recycle` only looks at the liveness flag, and [`Store::take`] completes on its first poll:
//! it cannot block, and there is no point at which it could be cancelled.
//!
//! It is used only under the pool's lock, and so are the flags of what is in it: what it holds is alive,
//! and is as many as the ledger says are idle.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use deadpool::managed::{self, Metrics, Object, QueueMode, RecycleError, RecycleResult, Timeouts};
use redis::aio::MultiplexedConnection;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::leaks::Seat;
use crate::ledger::Closed;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, Notify};
use crate::telemetry::status::CloseReason;

/// How many dead leases that nobody lets go of the store has room for. Past it, one more keeps its
/// place in its endpoint's budget until it is dropped.
pub(super) const DEAD_LEASES: usize = 256;

/// deadpool never waits here: whoever comes holds a grant.
const NO_WAIT: Timeouts =
    Timeouts { wait: Some(std::time::Duration::ZERO), create: None, recycle: None };

/// A connection that somebody has.
pub(super) type Lent = Object<Manager>;

#[derive(Debug)]
pub(super) struct Store {
    pool: managed::Pool<Manager>,
}

/// The deadpool manager: a list of connections that no deadpool object holds yet.
#[derive(Debug, Default)]
pub(super) struct Manager {
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
            let connection = self.ready().pop().ok_or(Empty)?;
            if connection.socket.is_alive() {
                return Ok(connection);
            }
        }
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Empty> {
        match connection.socket.is_alive() {
            true => Ok(()),
            false => Err(RecycleError::Backend(Empty)),
        }
    }
}

impl Manager {
    fn ready(&self) -> MutexGuard<'_, Vec<Connection>> {
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

    /// Takes a connection for the holder of a grant; `None` only if the ledger has lost count.
    pub(super) fn take(&self) -> Option<Lent> {
        let get = pin!(self.pool.timeout_get(&NO_WAIT));
        let Poll::Ready(result) = get.poll(&mut Context::from_waker(Waker::noop())) else {
            return None;
        };
        let lent = result.ok()?;
        lent.socket.set_idle(false);
        Some(lent)
    }

    /// How many it holds.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let idle = self.pool.status();
        idle.available + self.pool.manager().ready().len()
    }

    /// Puts a connection back that somebody had.
    pub(super) fn put_back(&self, lent: Lent) {
        lent.socket.set_idle(true);
        drop(lent);
    }

    /// Puts a connection in that nobody was lent: a new one, or one that was withdrawn.
    pub(super) fn put(&self, connection: Connection) {
        connection.socket.set_idle(true);
        self.pool.manager().ready().push(connection);
    }

    /// Copies of the idle connections that `wanted` picks, to send on.
    pub(super) fn copies(
        &self,
        wanted: impl Fn(&Socket) -> bool,
    ) -> Vec<(MultiplexedConnection, Arc<Socket>)> {
        let mut copies = Vec::new();
        let mut copy = |connection: &Connection| {
            if wanted(&connection.socket) {
                copies.push((connection.redis.clone(), Arc::clone(&connection.socket)));
            }
        };
        self.pool.retain(|connection, _| {
            copy(connection);
            true
        });
        self.pool.manager().ready().iter().for_each(copy);
        copies
    }

    /// Takes idle connections out that `wanted` picks, at most `most`, coldest first.
    pub(super) fn withdraw(
        &self,
        most: usize,
        mut wanted: impl FnMut(&Socket) -> bool,
    ) -> Vec<Connection> {
        let mut left = most;
        let mut pick = |connection: &Connection| {
            let picked = left > 0 && wanted(&connection.socket);
            left -= usize::from(picked);
            picked
        };
        let mut withdrawn = self.pool.retain(|connection, _| !pick(connection)).removed;
        withdrawn.extend(self.pool.manager().ready().extract_if(.., |connection| pick(connection)));
        for connection in &withdrawn {
            connection.socket.set_idle(false);
        }
        withdrawn
    }
}

/// One live connection. Dropping it closes the socket. Behind a pointer, because it is moved a
/// dozen times a lease.
pub(super) type Connection = Box<Owned>;

/// The owner's part of a connection.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) redis: MultiplexedConnection,
    pub(super) socket: Arc<Socket>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.socket.bury() {
            self.socket.blame(CloseReason::Dropped);
        }
        self.socket.abort();
    }
}

/// What the driver's task, the maintenance task and the owner of a connection share.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) id: u64,
    /// The server that it is connected to.
    pub(super) server: Arc<str>,
    /// While it is in the store it is marked dead under the pool's lock only, so that nobody is granted
    /// what is dead.
    alive: AtomicBool,
    /// In the store; likewise.
    idle: AtomicBool,
    /// Why it is being closed, once it is; the first reason counts.
    reason: AtomicU8,
    /// To log in with credentials that have changed.
    to_authenticate: AtomicBool,
    /// To be replaced, closed once it has a successor, and why; zero if it is not.
    outdated: AtomicU8,
    /// To be closed when it comes back, whether or not it has one.
    expired: AtomicBool,
    /// For whose sake it is being closed.
    closing: AtomicU8,
    /// It is dead, or to be replaced.
    changed: Notify,
    /// Coarse time (milliseconds since the pool was built) of its last return, or of the last command of
    /// those who share it.
    used_at: AtomicU64,
    /// Coarse time of the last PING that it answered while it was idle.
    checked_at: AtomicU64,
    /// When its dial started.
    pub(super) opened: Instant,
    pub(super) expires: Instant,
    ending: Mutex<Option<Ending>>,
    /// The mark of the seat that has it, or zero.
    seat: AtomicU64,
    /// Commands sent by those who share it, and how many of them have ended.
    sent: AtomicU64,
    answered: AtomicU64,
}

/// For a command that is on its way.
const IN_USE: u64 = u64::MAX;

const FOR_SHED: u8 = 1;
const FOR_ROOM: u8 = 2;

impl Socket {
    pub(super) fn new(
        id: u64,
        server: Arc<str>,
        opened: Instant,
        expires: Instant,
        used: u64,
    ) -> Self {
        Self {
            id,
            server,
            alive: AtomicBool::new(true),
            idle: AtomicBool::new(false),
            reason: AtomicU8::new(CloseReason::Peer as u8),
            to_authenticate: AtomicBool::new(false),
            outdated: AtomicU8::new(0),
            expired: AtomicBool::new(false),
            closing: AtomicU8::new(0),
            changed: Notify::new(),
            used_at: AtomicU64::new(used),
            checked_at: AtomicU64::new(used),
            opened,
            expires,
            ending: Mutex::new(None),
            seat: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    /// Notes a command on its way, of one of those who share the connection. What was noted before a look at
    /// [`is_silent`](Self::is_silent) that does not see it is seen from here on.
    pub(super) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes the end of such a command; likewise.
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::AcqRel);
    }

    /// How many such commands have ended so far.
    pub(super) fn answers(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// How many such commands are on their way.
    pub(super) fn in_flight(&self) -> u64 {
        // Answers first: a command that comes and goes between the two is no answer to another.
        let answers = self.answers();
        self.sent.load(Ordering::Relaxed).saturating_sub(answers)
    }

    /// Whether no such command is on its way. Both counts are written, though nothing is added: so whoever adds to
    /// one later sees all that was done before this.
    pub(super) fn is_silent(&self) -> bool {
        let answers = self.answered.fetch_add(0, Ordering::AcqRel);
        self.sent.fetch_add(0, Ordering::AcqRel) == answers
    }

    /// Notes who has it.
    pub(super) fn lent_to(&self, seat: Option<Seat>) {
        self.seat.store(seat.map_or(0, Seat::mark), Ordering::Relaxed);
    }

    pub(super) fn holder(&self) -> Option<Seat> {
        Seat::of_mark(self.seat.load(Ordering::Relaxed))
    }

    /// Notes the end of a lease or of a command on it, or a command of one of those who share the
    /// connection.
    pub(super) fn used(&self, now: u64) {
        self.used_at.store(now, Ordering::Relaxed);
    }

    /// Notes a command of a lease on its way, until [`used`](Self::used).
    pub(super) fn in_use(&self) {
        self.used_at.store(IN_USE, Ordering::Relaxed);
    }

    /// How long it has been without a command, in milliseconds.
    pub(super) fn unused(&self, now: u64) -> u64 {
        now.saturating_sub(self.used_at())
    }

    /// Notes that it answered while it was idle, which is not a use.
    pub(super) fn checked(&self, now: u64) {
        self.checked_at.store(now, Ordering::Relaxed);
    }

    /// Marks it dead; false if it was before.
    pub(super) fn bury(&self) -> bool {
        let was_alive = self.alive.swap(false, Ordering::AcqRel);
        self.changed.notify_waiters();
        was_alive
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Whether it is in the store. Under the pool's lock.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }

    pub(super) fn used_at(&self) -> u64 {
        self.used_at.load(Ordering::Relaxed)
    }

    /// When it last showed that it works.
    pub(super) fn heard_at(&self) -> u64 {
        self.used_at().max(self.checked_at.load(Ordering::Relaxed))
    }

    /// It is to log in with credentials that have changed.
    pub(super) fn ask_to_authenticate(&self) {
        self.to_authenticate.store(true, Ordering::Release);
    }

    pub(super) fn is_to_authenticate(&self) -> bool {
        self.to_authenticate.load(Ordering::Relaxed)
    }

    /// It is about to, with the latest ones.
    pub(super) fn authenticates(&self) {
        self.to_authenticate.swap(false, Ordering::AcqRel);
    }

    /// It is to be replaced, make before break.
    pub(super) fn outdate(&self, why: CloseReason) {
        if self.outdated.swap(1 + why as u8, Ordering::Relaxed) == 0 {
            self.changed.notify_waiters();
        }
    }

    /// It is not to be replaced after all, unless for its age.
    pub(super) fn keep(&self, now: Instant) {
        if !self.is_expired() && self.expires > now {
            self.outdated.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Relaxed) > 0
    }

    /// True if it is to be replaced by one that is dialed for that: it is not closed yet, and no
    /// subscriber's, who gets another one for itself, if there is a place for it. `moving`: a dial has to
    /// show where the server is, for subscribers too.
    pub(super) fn awaits_successor(&self, moving: bool) -> bool {
        let closing = self.reason() != CloseReason::Peer;
        self.is_outdated() && self.is_alive() && !closing && (moving || !self.is_subscriber())
    }

    /// It is not to be lent again: closed when it comes back.
    pub(super) fn expire(&self) {
        self.expired.store(true, Ordering::Relaxed);
        self.outdate(CloseReason::Replaced);
    }

    pub(super) fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    /// Waits until it is dead, or as `done` says; looked at whenever it dies or is to be
    /// replaced.
    pub(super) async fn until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.is_alive() || done(self) {
                return;
            }
            changed.await;
        }
    }

    /// It is one too many, and is about to be closed.
    pub(super) fn shed(&self) {
        self.closing.store(FOR_SHED, Ordering::Relaxed);
        self.blame(CloseReason::Limit);
    }

    /// Whether it is the one that there may be too many.
    pub(super) fn set_surplus(&self, surplus: bool) {
        self.closing.store(if surplus { FOR_SHED } else { 0 }, Ordering::Relaxed);
    }

    /// It is about to be closed, for its successor is there: until then there may be one too many.
    pub(super) fn retire(&self) {
        self.set_surplus(true);
        self.blame_age();
    }

    /// It is about to be closed so that another can be dialed.
    pub(super) fn make_room(&self) {
        self.closing.store(FOR_ROOM, Ordering::Relaxed);
        self.blame(CloseReason::Limit);
    }

    /// For whose sake it was closed.
    pub(super) fn closed(&self) -> Closed {
        match self.closing.load(Ordering::Relaxed) {
            FOR_SHED => Closed::Shed,
            FOR_ROOM => Closed::ForRoom,
            _ => Closed::Otherwise,
        }
    }

    /// Gives the reason for the close that follows; the first one counts.
    pub(super) fn blame(&self, reason: CloseReason) {
        let peer = CloseReason::Peer as u8;
        let _ =
            self.reason.compare_exchange(peer, reason as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// It is about to be closed because it is outdated.
    pub(super) fn blame_age(&self) {
        let why = self.outdated.load(Ordering::Relaxed).checked_sub(1).and_then(reason_of);
        self.blame(why.unwrap_or(CloseReason::Lifetime));
    }

    pub(super) fn reason(&self) -> CloseReason {
        reason_of(self.reason.load(Ordering::Relaxed)).unwrap_or(CloseReason::Peer)
    }

    pub(super) fn set_ending(&self, ending: Ending) {
        *self.ending() = Some(ending);
    }

    /// Closes the socket.
    pub(super) fn abort(&self) {
        if let Some(Ending { driver, .. }) = self.ending().take() {
            driver.abort();
        }
    }

    /// Its driver is about to end, and cannot be ended from outside any more.
    pub(super) fn ends_by_itself(&self) {
        *self.ending() = None;
    }

    /// True for a connection that listens and is never lent.
    pub(super) fn is_subscriber(&self) -> bool {
        self.ending().as_ref().is_some_and(|ending| ending.listens)
    }

    fn ending(&self) -> MutexGuard<'_, Option<Ending>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reason_of(number: u8) -> Option<CloseReason> {
    CloseReason::ALL.iter().copied().find(|reason| *reason as u8 == number)
}

/// How a socket is closed from outside: by ending the driver that owns it.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) driver: AbortHandle,
    /// It is a subscriber's.
    pub(super) listens: bool,
}
