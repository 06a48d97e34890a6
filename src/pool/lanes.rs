//! Lanes: the few multiplexed connections that shared handles send on.
//!
//! A lane is a lease like any other, taken from the pool's own budget under
//! [`Endpoint::LANES`] and dialed behind the same gate. Its keeper, one task a lane, replaces it when
//! it dies; callers wait for the keeper, they never dial (single flight).

use std::collections::HashMap;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::core::Core;
use super::flights::Flights;
use super::lease::GuardedConnection;
use super::store::Shared;
use crate::ledger::AccountId;
use crate::telemetry::status::{CloseReason, LaneStatus};
use crate::vocabulary::Phase;
use crate::{Budget, Endpoint, Rejection};

/// How long an old lane is kept when it could not be replaced at the end of its lifetime.
const EXPIRY_RETRY: Duration = Duration::from_secs(30);

/// The shared connections of a pool.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Box<[Lane]>,
    /// Spreads the handles over the lanes.
    next: AtomicUsize,
    /// Taken when a handle is made and for a snapshot, not on the path of a command.
    flights: Mutex<HashMap<Endpoint, Arc<Flights>>>,
}

#[derive(Debug)]
struct Lane {
    line: watch::Sender<Line>,
    /// A caller wants the lane although the last attempt was refused.
    wanted: Notify,
    keeper_runs: AtomicBool,
    connections: AtomicU64,
}

/// What a lane is at the moment.
#[derive(Clone, Debug)]
enum Line {
    Down,
    Up(Arc<Carrier>),
    /// The last attempt to get a connection was refused.
    Refused(Rejection),
}

/// The connection of a lane.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) redis: MultiplexedConnection,
    pub(super) shared: Arc<Shared>,
    /// Replaced, or its pool is closed; what is in flight may end.
    retired: AtomicBool,
}

impl Carrier {
    fn new((redis, shared): (MultiplexedConnection, Arc<Shared>)) -> Self {
        Self { redis, shared, retired: AtomicBool::new(false) }
    }

    /// Notes the end of a command.
    pub(super) fn answered(&self, core: &Core) {
        self.shared.answered();
        if self.retired.load(Ordering::Relaxed) {
            core.progress.notify_waiters();
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.shared.is_alive() && !self.retired.load(Ordering::Relaxed)
    }
}

impl Lanes {
    pub(super) fn new(lanes: usize) -> Self {
        let lane = |_| Lane {
            line: watch::Sender::new(Line::Down),
            wanted: Notify::new(),
            keeper_runs: AtomicBool::new(false),
            connections: AtomicU64::new(0),
        };
        Self {
            lanes: (0..lanes).map(lane).collect(),
            next: AtomicUsize::new(0),
            flights: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn any(&self) -> Option<Arc<Carrier>> {
        (0..self.lanes.len()).find_map(|lane| self.carrier(lane))
    }

    pub(super) fn status(&self) -> Vec<LaneStatus> {
        let status = |lane: &Lane| LaneStatus {
            up: matches!(&*lane.line.borrow(), Line::Up(carrier) if carrier.is_usable()),
            connections: lane.connections.load(Ordering::Relaxed),
        };
        let used = |lane: &Lane| {
            lane.keeper_runs.load(Ordering::Relaxed) || lane.connections.load(Ordering::Relaxed) > 0
        };
        self.lanes.iter().filter(|lane| used(lane)).map(status).collect()
    }

    /// The connection of a lane, if it is up.
    pub(super) fn carrier(&self, lane: usize) -> Option<Arc<Carrier>> {
        match &*self.lanes.get(lane)?.line.borrow() {
            Line::Up(carrier) if carrier.is_usable() => Some(Arc::clone(carrier)),
            _ => None,
        }
    }

    /// The lane for the next handle.
    pub(super) fn home(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len()
    }

    /// An endpoint's shared commands.
    pub(super) fn flights_of(&self, endpoint: &Endpoint) -> Option<Arc<Flights>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).get(endpoint).cloned()
    }

    /// The connection of a lane that is up.
    pub(super) fn connection(&self) -> Option<MultiplexedConnection> {
        self.any().map(|carrier| carrier.redis.clone())
    }

    pub(super) fn flights(
        &self,
        endpoint: Endpoint,
        open: impl FnOnce() -> Flights,
    ) -> Arc<Flights> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry(endpoint).or_insert_with(|| Arc::new(open())))
    }
}

/// A lane to send on.
pub(super) enum Pick {
    /// The handle's own: to stay with.
    Own(Arc<Carrier>),
    /// Another one, because that one is down: for this once.
    Other(Arc<Carrier>),
}

/// A lane to send on: `home`, or else any, or else `home` once it is up.
pub(super) async fn pick(
    core: &Arc<Core>,
    home: usize,
    account: AccountId,
    since: Instant,
) -> Result<Pick, Rejection> {
    let lanes = &core.lanes;
    let lane = &lanes.lanes[home];
    let mut line = lane.line.subscribe();
    let usable = |line: &Line| match line {
        Line::Up(carrier) if carrier.is_usable() => Some(Arc::clone(carrier)),
        _ => None,
    };
    let here = usable(&line.borrow_and_update());
    if let Some(carrier) = here {
        return Ok(Pick::Own(carrier));
    }
    // From here on a refusal is news.
    core.want_lane(home);
    if let Some(carrier) = lanes.any() {
        return Ok(Pick::Other(carrier));
    }
    if let Some(rejection) = core.refusal_for_lane() {
        return Err(core.reject(account, rejection));
    }
    let deadline = since + core.settings.acquire_timeout;
    let rejection = loop {
        match tokio::time::timeout_at(deadline, line.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break Rejection::Closed,
            Err(_) => break core.late_for_lane(),
        }
        let news = line.borrow_and_update().clone();
        if let Some(carrier) = usable(&news) {
            return Ok(Pick::Own(carrier));
        }
        match news {
            Line::Refused(rejection) => break rejection,
            _ if core.lock().ledger.is_closed() => break Rejection::Closed,
            // The keeper may have ended with its runtime.
            _ => core.want_lane(home),
        }
    };
    Err(core.reject(account, rejection))
}

impl Core {
    /// Sees to it that the lane's keeper runs, and tries again if it was refused.
    fn want_lane(self: &Arc<Self>, at: usize) {
        let lane = &self.lanes.lanes[at];
        if !lane.keeper_runs.swap(true, Ordering::AcqRel) {
            // Made before the first poll: a task may be dropped without one.
            let keeper = Keeper { core: Arc::clone(self), at };
            self.spawn(keep(keeper));
        }
        lane.wanted.notify_one();
    }

    fn refusal_for_lane(self: &Arc<Self>) -> Option<Rejection> {
        self.change(|state| {
            let refusal = state.refusal();
            if refusal.is_some() {
                state.ledger.ask();
            }
            refusal
        })
    }

    fn late_for_lane(&self) -> Rejection {
        let state = self.lock();
        let phase = if state.ledger.live() == 0 { Phase::Dial } else { Phase::Connection };
        let (waited, failure) = (self.settings.acquire_timeout, state.gate.failure().cloned());
        Rejection::AcquireTimeout { waited, phase, failure }
    }

    /// A lease for a lane: in the budget of the lanes, which has a reserve for each, exempt from leak
    /// detection.
    async fn lease_for_lane(self: &Arc<Self>) -> Result<GuardedConnection, Rejection> {
        // One more than there are lanes, so that an old one can be replaced before it is closed.
        let lanes = self.lanes.lanes.len();
        let budget = Budget::max(lanes + 1).reserve(lanes);
        let account = self.lock().ledger.internal_account(&Endpoint::LANES, budget);
        let lease = Arc::clone(self).acquire_as(|_| account, Location::caller()).await?;
        if let Some(seat) = lease.seat() {
            self.lock().leases.exempt(seat);
        }
        Ok(lease)
    }
}

/// Takes the lane down when its keeper ends, however that comes.
struct Keeper {
    core: Arc<Core>,
    at: usize,
}

impl Keeper {
    fn lane(&self) -> &Lane {
        &self.core.lanes.lanes[self.at]
    }

    fn put_up(&self, lease: &GuardedConnection) -> Option<Arc<Carrier>> {
        let carrier = Arc::new(Carrier::new(lease.parts()?));
        self.lane().connections.fetch_add(1, Ordering::Relaxed);
        self.lane().line.send_replace(Line::Up(Arc::clone(&carrier)));
        Some(carrier)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // In this order: whoever hears the news may start the next keeper.
        self.lane().keeper_runs.store(false, Ordering::Release);
        self.lane().line.send_replace(Line::Down);
    }
}

/// Keeps a lane up for as long as the pool is open.
async fn keep(keeper: Keeper) {
    let core = &keeper.core;
    while !core.lock().ledger.is_closed() {
        match core.lease_for_lane().await {
            Ok(lease) => carry(&keeper, lease).await,
            Err(rejection) => {
                keeper.lane().line.send_replace(Line::Refused(rejection));
                // Nobody dials for nobody: the next attempt is for the next caller.
                tokio::select! {
                    () = keeper.lane().wanted.notified() => {}
                    () = core.until(|state| state.ledger.is_closed()) => {}
                }
            }
        }
    }
}

/// Lets the lane run over `lease` until that dies or the pool is closed; at the end of its lifetime it
/// is replaced before it is closed, where there is room for two.
async fn carry(keeper: &Keeper, mut lease: GuardedConnection) {
    let core = &keeper.core;
    let Some(mut carrier) = keeper.put_up(&lease) else { return };
    let reason = loop {
        let shared = &carrier.shared;
        let over = core
            .until(|state| state.ledger.is_closed() || !shared.is_alive() || shared.is_doomed());
        over.await;
        if core.lock().ledger.is_closed() {
            break CloseReason::PoolClosed;
        }
        if !shared.is_alive() {
            break CloseReason::Peer;
        }
        let successor = match core.may_expire() {
            true => core.lease_for_lane().await.ok(),
            false => None,
        };
        if let Some(successor) = successor {
            let Some(next) = keeper.put_up(&successor) else { break CloseReason::Lifetime };
            let (old, old_lease) =
                (std::mem::replace(&mut carrier, next), std::mem::replace(&mut lease, successor));
            core.spawn(drain(Arc::clone(core), old, old_lease, CloseReason::Lifetime));
        } else if core.lock().ledger.is_at_max() {
            // No room for two: the callers wait for the dial.
            break CloseReason::Lifetime;
        } else {
            // The server has no slot for another one, and this one works.
            let gone = core.until(|state| state.ledger.is_closed() || !shared.is_alive());
            let _ = tokio::time::timeout(EXPIRY_RETRY, gone).await;
        }
    };
    carrier.retired.store(true, Ordering::Relaxed);
    keeper.lane().line.send_replace(Line::Down);
    core.spawn(drain(Arc::clone(core), carrier, lease, reason));
}

/// Lets what is in flight end, for the drain timeout at most, and closes the connection: handles
/// still have clones of it, so it is not for others.
async fn drain(
    core: Arc<Core>,
    carrier: Arc<Carrier>,
    lease: GuardedConnection,
    reason: CloseReason,
) {
    carrier.retired.store(true, Ordering::Relaxed);
    let empty = core.until(|_| !carrier.shared.is_alive() || carrier.shared.in_flight() == 0);
    let _ = tokio::time::timeout(core.settings.drain_timeout, empty).await;
    lease.discard(reason);
}
