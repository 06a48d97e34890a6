//! Shared connections: many callers on a few multiplexed connections, the lanes.
//!
//! A lane is a lease like any other, taken from the pool's own budget under
//! [`Endpoint::LANES`] and dialed behind the same gate. Its keeper, one task a lane, replaces it when
//! it dies; callers wait for the keeper, they never dial (single flight).

use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, Value};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use super::GuardedPool;
use super::command::Sharing;
use super::core::{Core, Entry};
use super::lease::{GuardedConnection, within};
use super::ledger::AccountId;
use super::store::Shared;
use crate::error::Phase;
use crate::status::{CloseReason, LaneStatus};
use crate::{Budget, Endpoint, Error, Rejection};

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
struct Carrier {
    redis: MultiplexedConnection,
    shared: Arc<Shared>,
    /// Replaced at the end of its lifetime; what is in flight may end.
    retired: AtomicBool,
}

impl Carrier {
    fn is_usable(&self) -> bool {
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

    fn up(&self) -> Option<Arc<Carrier>> {
        self.lanes.iter().find_map(|lane| match &*lane.line.borrow() {
            Line::Up(carrier) if carrier.is_usable() => Some(Arc::clone(carrier)),
            _ => None,
        })
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

    /// An endpoint's commands in flight, and the most of them.
    pub(super) fn in_flight(&self, endpoint: &Endpoint) -> (usize, usize) {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.get(endpoint).map_or((0, 0), |flights| (flights.in_flight(), flights.max))
    }

    fn flights(&self, endpoint: Endpoint, open: impl FnOnce() -> Flights) -> Arc<Flights> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry(endpoint).or_insert_with(|| Arc::new(open())))
    }
}

/// The commands that an endpoint has in flight on shared connections.
#[derive(Debug)]
struct Flights {
    account: AccountId,
    endpoint: Endpoint,
    /// First come, first served.
    permits: Semaphore,
    max: usize,
    waiting: AtomicUsize,
}

impl Flights {
    fn in_flight(&self) -> usize {
        self.max.saturating_sub(self.permits.available_permits())
    }

    /// Waits for a place, until the acquire timeout.
    async fn enter<'a>(
        &'a self,
        core: &Arc<Core>,
        since: Instant,
    ) -> Result<SemaphorePermit<'a>, Rejection> {
        let _waiting = Waiting::among(&self.waiting, core.lock().ledger.queue_limit())
            .map_err(|limit| core.reject(self.account, Rejection::QueueFull { limit }))?;
        let deadline = since + core.settings.acquire_timeout;
        match tokio::time::timeout_at(deadline, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Rejection::Closed),
            Err(_) => {
                let (endpoint, max) = (self.endpoint.clone(), self.max);
                Err(core.reject(self.account, Rejection::InFlightLimit { endpoint, max }))
            }
        }
    }
}

/// One of those that wait for a place.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// Joins them, unless they are too many.
    fn among(waiting: &'a AtomicUsize, limit: usize) -> Result<Self, usize> {
        let this = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= limit { Err(limit) } else { Ok(this) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A command on its way. Given up before its reply has come, it keeps its place until then: a
/// trailing PING is answered after it.
struct Flight<'a> {
    core: &'a Arc<Core>,
    flights: &'a Arc<Flights>,
    carrier: &'a Arc<Carrier>,
    permit: Option<SemaphorePermit<'a>>,
}

impl Flight<'_> {
    fn answered(mut self) {
        self.permit = None;
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        permit.forget();
        let (mut redis, place) = (self.carrier.redis.clone(), Owed(Arc::clone(self.flights)));
        self.core.spawn(async move {
            // An error means that the lane is gone, and its commands with it.
            let _ = redis.send_packed_command(&redis::cmd("PING")).await;
            drop(place);
        });
    }
}

/// A place in flight that is free again when this is dropped.
struct Owed(Arc<Flights>);

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.permits.add_permits(1);
    }
}

/// A handle on the pool's shared connections: cheap to make and to clone, for commands that need
/// no connection of their own, which are most.
///
/// Commands of all handles go over a few multiplexed connections
/// ([`shared_lanes`](crate::GuardedPoolBuilder::shared_lanes), one by default) that come from the
/// pool's own budget and stand behind the same gate. A handle keeps the pool open.
///
/// - **Blocking commands** (BLPOP, XREAD BLOCK, WAIT, …) would hold up everybody behind them: they
///   go over an exclusive lease of the same endpoint, with its budget, by themselves.
/// - **Commands that change the connection** (WATCH, MULTI sent alone, SELECT, SUBSCRIBE, MONITOR,
///   CLIENT REPLY, RESET, …) are refused before they are sent; use
///   [`acquire`](GuardedPool::acquire). `pipe().atomic()` and scripts are fine.
/// - **In flight**: an endpoint has at most [`Budget::in_flight`] commands on their way.
/// - **Nothing is sent twice.** When a lane dies, the commands in flight get an error that says that
///   they may or may not have run; the next ones use the lane's replacement.
///
/// # Errors
///
/// [`ConnectionLike`] speaks only [`RedisError`]: a refusal is one of the kind
/// [`Client`](ErrorKind::Client), and nothing was sent. [`send`](Self::send) and
/// [`send_pipeline`](Self::send_pipeline) return the [`Error`] itself. A command that was not answered
/// within the response timeout, or whose lane died, is an I/O error, and may have run.
///
/// # Cancel safety
///
/// Dropping the future of a command does not recall it; the others are not disturbed, and its place
/// in the endpoint's `in_flight` is free once its reply has come.
pub struct SharedConnection {
    pool: GuardedPool,
    flights: Arc<Flights>,
    /// The lane in use, with a connection of this handle's own to send on.
    lane: Option<(Arc<Carrier>, MultiplexedConnection)>,
    location: &'static Location<'static>,
}

impl Clone for SharedConnection {
    /// The clone chooses its lane anew.
    fn clone(&self) -> Self {
        let Self { pool, flights, lane: _, location } = self;
        Self { pool: pool.clone(), flights: Arc::clone(flights), lane: None, location }
    }
}

impl fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = &self.flights.endpoint;
        f.debug_struct("SharedConnection").field("endpoint", endpoint).finish_non_exhaustive()
    }
}

/// What is sent, to send it either way.
trait Request {
    type Reply;

    fn sharing(&self) -> Sharing;
    fn send(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<Self::Reply, RedisError>> + Send;
    fn send_exclusive(
        &self,
        lease: &mut GuardedConnection,
    ) -> impl Future<Output = Result<Self::Reply, RedisError>> + Send;
}

impl Request for &Cmd {
    type Reply = Value;

    fn sharing(&self) -> Sharing {
        Sharing::of(self)
    }

    fn send(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<Value, RedisError>> + Send {
        redis.send_packed_command(self)
    }

    fn send_exclusive(
        &self,
        lease: &mut GuardedConnection,
    ) -> impl Future<Output = Result<Value, RedisError>> + Send {
        lease.command(self)
    }
}

/// A pipeline with the replies that are wanted of it: how many to skip, how many to keep.
struct Batch<'a>(&'a Pipeline, usize, usize);

impl Request for Batch<'_> {
    type Reply = Vec<Value>;

    fn sharing(&self) -> Sharing {
        Sharing::of_pipeline(self.0)
    }

    fn send(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<Vec<Value>, RedisError>> + Send {
        redis.send_packed_commands(self.0, self.1, self.2)
    }

    fn send_exclusive(
        &self,
        lease: &mut GuardedConnection,
    ) -> impl Future<Output = Result<Vec<Value>, RedisError>> + Send {
        lease.pipeline(self.0, self.1, self.2)
    }
}

impl SharedConnection {
    pub(super) fn new(
        pool: GuardedPool,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Self {
        let (account, endpoint, max) = {
            let mut state = pool.core.lock();
            let account = state.ledger.account(endpoint);
            let budget = state.ledger.account_budget(account);
            (account, state.ledger.account_name(account).clone(), budget.max_in_flight())
        };
        let flights = pool.core.lanes.flights(endpoint.clone(), || Flights {
            account,
            endpoint,
            permits: Semaphore::new(max),
            max,
            waiting: AtomicUsize::new(0),
        });
        Self { pool, flights, lane: None, location }
    }

    /// Sends one command; what [`ConnectionLike`] does, with the guard's own error.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] if nothing was sent, as from [`acquire`](GuardedPool::acquire), or because
    /// of [`InFlightLimit`](Rejection::InFlightLimit); [`Error::Inner`] with the server's error, or
    /// an I/O error after which it is not known whether the command ran.
    pub async fn send(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        self.request(cmd).await
    }

    /// Sends a pipeline; see [`send`](Self::send). The replies are those of its commands, or the one
    /// of EXEC where it is atomic.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_pipeline(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let (offset, count) = match pipeline.is_transaction() {
            true => (pipeline.len() + 1, 1),
            false => (0, pipeline.len()),
        };
        self.request(Batch(pipeline, offset, count)).await
    }

    async fn request<R: Request>(&mut self, request: R) -> Result<R::Reply, Error> {
        match request.sharing() {
            Sharing::Allowed => {}
            Sharing::Exclusive => {
                // Boxed: rare, and larger than all the rest.
                let acquire = Box::pin(self.pool.acquire_at(&self.flights.endpoint, self.location));
                let mut lease = acquire.await?;
                return Ok(request.send_exclusive(&mut lease).await?);
            }
            Sharing::Refused => return Err(unshareable().into()),
        }
        let Self { pool, flights, lane, .. } = self;
        let core = &pool.core;
        let permit = match flights.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => flights.enter(core, Instant::now()).await?,
        };
        if !lane.as_ref().is_some_and(|(carrier, _)| carrier.is_usable()) {
            *lane = None;
            let carrier = Box::pin(pick(core, flights.account)).await?;
            *lane = Some((Arc::clone(&carrier), carrier.redis.clone()));
        }
        let Some((carrier, redis)) = lane else { return Err(Rejection::Closed.into()) };
        let flight = Flight { core, flights, carrier, permit: Some(permit) };
        let started = core.metrics.is_recording().then(Instant::now);
        let reply = within(Some(core.settings.response_timeout), request.send(redis)).await;
        if let Some(started) = started {
            core.metrics.used_shared(started.elapsed());
        }
        match reply {
            Err(error) if error.is_timeout() => Err(error.into()),
            Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {
                flight.answered();
                Err(lost(&error).into())
            }
            reply => {
                flight.answered();
                Ok(reply?)
            }
        }
    }
}

fn unshareable() -> RedisError {
    let why = "it changes the connection for everybody who shares it: use `acquire`";
    (ErrorKind::Client, "command refused on a shared connection", why.to_owned()).into()
}

fn lost(error: &RedisError) -> RedisError {
    let what = "connection lost with the command in flight, which may or may not have run";
    (ErrorKind::Io, what, error.to_string()).into()
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move { Ok(self.request(cmd).await?) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move { Ok(self.request(Batch(pipeline, offset, count)).await?) })
    }

    fn get_db(&self) -> i64 {
        self.pool.core.dialer.redis.db()
    }
}

/// A lane to send on: the next one in turn, or else any, or else the next one once it is up.
async fn pick(core: &Arc<Core>, account: AccountId) -> Result<Arc<Carrier>, Rejection> {
    let lanes = &core.lanes;
    let at = lanes.next.fetch_add(1, Ordering::Relaxed) % lanes.lanes.len();
    let lane = &lanes.lanes[at];
    let mut line = lane.line.subscribe();
    let usable = |line: &Line| match line {
        Line::Up(carrier) if carrier.is_usable() => Some(Arc::clone(carrier)),
        _ => None,
    };
    let here = usable(&line.borrow_and_update());
    if let Some(carrier) = here {
        return Ok(carrier);
    }
    // From here on a refusal is news.
    core.want_lane(at);
    if let Some(carrier) = lanes.up() {
        return Ok(carrier);
    }
    if let Some(rejection) = core.refusal_for_lane() {
        return Err(core.reject(account, rejection));
    }
    let deadline = Instant::now() + core.settings.acquire_timeout;
    let rejection = loop {
        match tokio::time::timeout_at(deadline, line.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break Rejection::Closed,
            Err(_) => break core.late_for_lane(),
        }
        let news = line.borrow_and_update().clone();
        if let Some(carrier) = usable(&news) {
            return Ok(carrier);
        }
        if let Line::Refused(rejection) = news {
            break rejection;
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

    /// A lease for a lane: in the budget of the lanes, exempt from leak detection.
    async fn lease_for_lane(self: &Arc<Self>) -> Result<GuardedConnection, Rejection> {
        // One more than there are lanes, so that an old one can be replaced before it is closed.
        let budget = Budget::max(self.lanes.lanes.len() + 1);
        self.lock().ledger.internal_account(&Endpoint::LANES, budget);
        let lease = match Arc::clone(self).enter(&Endpoint::LANES, Location::caller())? {
            Entry::Lease(lease) => lease,
            Entry::Wait(waiter) => waiter.wait().await?,
        };
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
        let (redis, shared) = lease.parts()?;
        let carrier = Arc::new(Carrier { redis, shared, retired: AtomicBool::new(false) });
        self.lane().connections.fetch_add(1, Ordering::Relaxed);
        self.lane().line.send_replace(Line::Up(Arc::clone(&carrier)));
        Some(carrier)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.lane().line.send_replace(Line::Down);
        self.lane().keeper_runs.store(false, Ordering::Release);
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
/// is replaced first.
async fn carry(keeper: &Keeper, mut lease: GuardedConnection) {
    let core = &keeper.core;
    let Some(mut carrier) = keeper.put_up(&lease) else { return };
    loop {
        let current = Arc::clone(&carrier);
        core.until(|state| {
            let shared = &current.shared;
            state.ledger.is_closed() || !shared.is_alive() || shared.is_doomed()
        })
        .await;
        let expired = current.shared.is_alive() && !core.lock().ledger.is_closed();
        if !expired {
            break;
        }
        let replacement = match core.expire(&current.shared) {
            true => core.lease_for_lane().await.ok(),
            false => None,
        };
        let Some(new_lease) = replacement else {
            tokio::select! {
                () = tokio::time::sleep(EXPIRY_RETRY) => {}
                () = core.until(|state| state.ledger.is_closed() || !current.shared.is_alive()) => {}
            }
            continue;
        };
        let Some(new_carrier) = keeper.put_up(&new_lease) else { break };
        current.retired.store(true, Ordering::Relaxed);
        carrier = new_carrier;
        // What is in flight is answered, or has timed out, by then.
        tokio::time::sleep(core.settings.response_timeout).await;
        std::mem::replace(&mut lease, new_lease).discard(CloseReason::Lifetime);
    }
    keeper.lane().line.send_replace(Line::Down);
    // Handles still have clones of it, so it is not for others.
    lease.discard(CloseReason::Dropped);
}
