//! Lanes: the few multiplexed connections that shared handles send on.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use crate::Rejection;
use crate::pool::latest;
use crate::pool::store::Socket;
use crate::sync::Notify;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::telemetry::status::LaneStatus;

/// The shared connections of a node.
#[derive(Debug)]
pub(in crate::pool) struct Lanes {
    lanes: Box<[Lane]>,
    /// Spreads the handles over the lanes.
    next: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) line: latest::Sender<Line>,
    /// A caller wants the lane although the last attempt was refused.
    pub(super) wanted: Notify,
    pub(super) keeper_runs: AtomicBool,
    connections: AtomicU64,
}

/// What a lane is at the moment.
#[derive(Clone, Debug)]
pub(super) enum Line {
    Down,
    Up(Arc<Carrier>),
    /// The last attempt to get a connection was refused.
    Refused(Rejection),
}

impl Line {
    pub(super) fn carrier(&self) -> Option<Arc<Carrier>> {
        match self {
            Self::Up(carrier) if carrier.is_usable() => Some(Arc::clone(carrier)),
            _ => None,
        }
    }
}

/// The connection of a lane.
#[derive(Debug)]
pub(in crate::pool) struct Carrier {
    pub(in crate::pool) redis: MultiplexedConnection,
    pub(in crate::pool) socket: Arc<Socket>,
    /// Replaced, or its pool is closed; what is in flight may end.
    retired: AtomicBool,
    /// A command ended on a retired one.
    command_ended: Notify,
}

impl Carrier {
    /// Notes a command that is sent next, until [`answered`](Self::answered); false where nothing is to be sent any
    /// more. Noted before the look: whoever retires the connection either sees the command, and waits for its
    /// answer, or is seen here.
    #[must_use]
    pub(in crate::pool) fn begin(&self) -> bool {
        self.socket.sent();
        let usable = self.is_usable();
        if !usable {
            self.answered();
        }
        usable
    }

    /// Notes a command of the pool's own likewise, until the guard is dropped.
    pub(in crate::pool) fn carry(self: Arc<Self>) -> Option<Carried> {
        self.begin().then(|| Carried(self))
    }

    /// Notes the end of a command.
    pub(in crate::pool) fn answered(&self) {
        self.socket.answered();
        // Likewise: it was seen as answered, or the one who waits for that is seen here.
        if self.retired.load(Ordering::Relaxed) {
            self.command_ended.notify_waiters();
        }
    }

    pub(in crate::pool) fn is_usable(&self) -> bool {
        self.socket.is_alive() && !self.retired.load(Ordering::Relaxed)
    }

    /// Nothing is to be sent on it any more.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Waits until nothing is in flight on a retired one.
    pub(super) async fn emptied(&self) {
        loop {
            let mut ended = std::pin::pin!(self.command_ended.notified());
            ended.as_mut().enable();
            if self.socket.is_silent() {
                return;
            }
            ended.await;
        }
    }
}

/// A lane's connection on which a command of the pool's own is in flight.
pub(in crate::pool) struct Carried(Arc<Carrier>);

impl Carried {
    pub(in crate::pool) fn redis(&self) -> MultiplexedConnection {
        self.0.redis.clone()
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.answered();
    }
}

impl Lane {
    pub(super) fn put_up(&self, redis: MultiplexedConnection, socket: Arc<Socket>) -> Arc<Carrier> {
        let (retired, command_ended) = (AtomicBool::new(false), Notify::new());
        let carrier = Arc::new(Carrier { redis, socket, retired, command_ended });
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.line.send_replace(Line::Up(Arc::clone(&carrier)));
        carrier
    }
}

impl Lanes {
    pub(in crate::pool) fn new(lanes: usize) -> Self {
        let lane = |_| Lane {
            line: latest::Sender::new(Line::Down),
            wanted: Notify::new(),
            keeper_runs: AtomicBool::new(false),
            connections: AtomicU64::new(0),
        };
        Self { lanes: (0..lanes).map(lane).collect(), next: AtomicUsize::new(0) }
    }

    pub(super) fn count(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn lane(&self, at: usize) -> &Lane {
        &self.lanes[at]
    }

    /// The connection of a lane that is up, if any is.
    pub(in crate::pool) fn any(&self) -> Option<Arc<Carrier>> {
        self.lanes.iter().find_map(|lane| lane.line.borrow().carrier())
    }

    /// The connections of the lanes that are up.
    pub(in crate::pool) fn carriers(&self) -> Vec<Arc<Carrier>> {
        self.lanes.iter().filter_map(|lane| lane.line.borrow().carrier()).collect()
    }

    /// The connection of a lane, if it is up.
    pub(super) fn carrier(&self, lane: usize) -> Option<Arc<Carrier>> {
        self.lanes.get(lane)?.line.borrow().carrier()
    }

    pub(in crate::pool) fn status(&self) -> Vec<LaneStatus> {
        let status = |lane: &Lane| LaneStatus {
            up: lane.line.borrow().carrier().is_some(),
            connections: lane.connections.load(Ordering::Relaxed),
        };
        let used = |lane: &&Lane| {
            lane.keeper_runs.load(Ordering::Relaxed) || lane.connections.load(Ordering::Relaxed) > 0
        };
        self.lanes.iter().filter(used).map(status).collect()
    }

    /// The lane for the next handle.
    pub(super) fn home(&self) -> HomeLane {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len();
        HomeLane { number, own: None, other: None, owes: false, response_timeout: None }
    }
}

/// A lane's connection, and one to send on: a handle has its own, so that none is cloned for each command.
type Sender = (Arc<Carrier>, MultiplexedConnection);

/// The lane of one handle.
#[derive(Debug)]
pub(in crate::pool) struct HomeLane {
    number: usize,
    own: Option<Sender>,
    /// What the last request was sent on instead, because the lane was down. Boxed, for it is rare.
    other: Option<Box<Sender>>,
    /// The last request was sent, and has not been answered.
    owes: bool,
    /// The handle's own.
    response_timeout: Option<Duration>,
}

/// A lane to send on.
pub(super) enum Pick {
    /// The handle's own: to stay with.
    Own(Arc<Carrier>),
    /// Another one, because that one is down: for this once.
    Other(Arc<Carrier>),
}

impl HomeLane {
    pub(in crate::pool) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn is_up(&self) -> bool {
        self.own.as_ref().is_some_and(|(carrier, _)| carrier.is_usable())
    }

    /// How long the handle's commands wait for their replies, if it has a time of its own.
    pub(in crate::pool) fn response_timeout(&self) -> Option<Duration> {
        self.response_timeout
    }

    /// From now on.
    pub(in crate::pool) fn set_response_timeout(&mut self, timeout: Option<Duration>) {
        if self.response_timeout != timeout {
            self.response_timeout = timeout;
            // What is taken next has it.
            self.own = None;
        }
    }

    /// The driver times its commands, which costs less than a timeout around it. `response_timeout`: of handles
    /// that have none of their own.
    pub(super) fn take(&mut self, pick: Pick, response_timeout: Duration) {
        let response_timeout = self.response_timeout.unwrap_or(response_timeout);
        let sender = |carrier: Arc<Carrier>| {
            let mut redis = carrier.redis.clone();
            redis.set_response_timeout(response_timeout);
            (carrier, redis)
        };
        match pick {
            Pick::Own(carrier) => self.own = Some(sender(carrier)),
            Pick::Other(carrier) => self.other = Some(Box::new(sender(carrier))),
        }
    }

    /// Goes back to the handle's own.
    pub(super) fn stay(&mut self) {
        self.other = None;
    }

    /// Lets go of what it has, which is down.
    pub(super) fn leave(&mut self) {
        (self.own, self.other) = (None, None);
    }

    /// Notes a command on what it has, which is sent next; false if that is down.
    #[must_use]
    pub(super) fn begin(&self) -> bool {
        let sender = self.other.as_deref().or(self.own.as_ref());
        sender.is_some_and(|(carrier, _)| carrier.begin())
    }

    /// What to send on, for a request that is sent at once: it is owed an answer from here on.
    pub(super) fn sender(&mut self) -> Option<&mut Sender> {
        let sender = self.other.as_deref_mut().or(self.own.as_mut());
        self.owes = sender.is_some();
        sender
    }

    /// The last request has been answered.
    pub(super) fn answered(&mut self) {
        self.owes = false;
    }

    /// Where the last request was sent, if it was and has not been answered; told once.
    pub(in crate::pool) fn owing(&mut self) -> Option<&Arc<Carrier>> {
        let owes = std::mem::take(&mut self.owes);
        let last = self.other.as_deref().or(self.own.as_ref());
        last.map(|(carrier, _)| carrier).filter(|_| owes)
    }

    /// As good as new, for another handle.
    pub(super) fn renew(&mut self) {
        (self.other, self.owes) = (None, false);
        self.set_response_timeout(None);
    }

    pub(super) fn fork(&self) -> Self {
        let Self { number, own, other: _, owes: _, response_timeout } = self;
        let (number, own, response_timeout) = (*number, own.clone(), *response_timeout);
        Self { number, own, other: None, owes: false, response_timeout }
    }
}
