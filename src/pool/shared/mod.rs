//! Shared connections: a handle by which many callers send on a few multiplexed connections.

mod flight;
pub(super) mod in_flight;
mod keeper;
pub(super) mod lanes;

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, Value};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use self::flight::Flight;
use self::in_flight::InFlight;
use self::keeper::{Pick, pick};
use self::lanes::Carrier;
use super::acquire::acquire;
use super::handle::Handle;
use super::lease::GuardedConnection;
use super::node::Node;
#[expect(unused_imports, reason = "for the docs")]
use crate::Budget;
use crate::dial::Notice;
use crate::vocabulary::command::{Sharing, replies};
use crate::vocabulary::reply::unanswered;
use crate::{Endpoint, Error, Rejection};

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
///   [`acquire`](crate::GuardedPool::acquire). `pipe().atomic()` and scripts are fine.
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
    pool: Handle,
    in_flight: Arc<InFlight>,
    /// Which lane is this handle's own.
    home: usize,
    /// The lane in use, with a connection of this handle's own to send on.
    lane: Option<(Arc<Carrier>, MultiplexedConnection)>,
    location: &'static Location<'static>,
}

impl Clone for SharedConnection {
    /// The clone gets a lane of its own.
    fn clone(&self) -> Self {
        let Self { pool, in_flight, home: _, lane: _, location } = self;
        let (pool, in_flight) = (pool.clone(), Arc::clone(in_flight));
        let home = pool.node.lanes.home();
        Self { pool, in_flight, home, lane: None, location }
    }
}

impl fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = &self.in_flight.endpoint;
        f.debug_struct("SharedConnection").field("endpoint", endpoint).finish_non_exhaustive()
    }
}

/// What is sent, to send it either way.
trait Request {
    type Reply;

    fn sharing(&self) -> Sharing;
    /// False if the driver does not wait for the reply.
    fn is_answered(&self) -> bool;
    fn send(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<Self::Reply, RedisError>> + Send;
    fn send_exclusive(
        &self,
        lease: &mut GuardedConnection,
    ) -> impl Future<Output = Result<Self::Reply, RedisError>> + Send;
    /// What the reply says of the server.
    fn notice(&self, reply: &Result<Self::Reply, RedisError>) -> Option<(Notice, String)>;
}

impl Request for &Cmd {
    type Reply = Value;

    fn sharing(&self) -> Sharing {
        Sharing::of(self)
    }

    fn is_answered(&self) -> bool {
        !self.is_no_response()
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

    fn notice(&self, reply: &Result<Value, RedisError>) -> Option<(Notice, String)> {
        match reply {
            Ok(reply) => Notice::of_reply(reply),
            Err(error) => Notice::of_error(error),
        }
    }
}

/// A pipeline with the replies that are wanted of it: how many to skip, how many to keep.
struct Batch<'a>(&'a Pipeline, usize, usize);

impl Request for Batch<'_> {
    type Reply = Vec<Value>;

    fn sharing(&self) -> Sharing {
        Sharing::of_pipeline(self.0)
    }

    fn is_answered(&self) -> bool {
        true
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

    fn notice(&self, reply: &Result<Vec<Value>, RedisError>) -> Option<(Notice, String)> {
        match reply {
            Ok(replies) => replies.iter().find_map(Notice::of_reply),
            Err(error) => Notice::of_error(error),
        }
    }
}

impl SharedConnection {
    pub(super) fn new(
        pool: Handle,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Self {
        let (account, endpoint, max) = {
            let mut state = pool.node.lock();
            let account = state.ledger.account(endpoint);
            let budget = state.ledger.account_budget(account);
            (account, state.ledger.account_name(account).clone(), budget.max_in_flight())
        };
        let in_flight =
            pool.node.lanes.in_flight(endpoint.clone(), || InFlight::new(account, endpoint, max));
        let home = pool.node.lanes.home();
        Self { pool, in_flight, home, lane: None, location }
    }

    /// A copy on the same lane, for one command that outlives the borrow of this handle.
    pub(crate) fn fork(&mut self) -> Self {
        let Self { pool, in_flight, home, lane, location } = self;
        if !lane.as_ref().is_some_and(|(carrier, _)| carrier.is_usable()) {
            let node = &pool.node;
            *lane = node.lanes.carrier(*home).map(|carrier| with_connection(node, carrier));
        }
        let (pool, in_flight) = (pool.clone(), Arc::clone(in_flight));
        Self { pool, in_flight, home: *home, lane: lane.clone(), location }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.in_flight.endpoint
    }

    /// Sends one command; what [`ConnectionLike`] does, with the guard's own error.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] if nothing was sent, as from [`acquire`](crate::GuardedPool::acquire), or because
    /// of [`InFlightLimit`](Rejection::InFlightLimit); [`Error::Inner`] with the server's error, or
    /// an I/O error after which it is not known whether the command ran.
    pub async fn send(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        Ok(self.request(cmd).await?.extract_error()?)
    }

    /// Sends a pipeline; see [`send`](Self::send). The replies are those of its commands, or the one
    /// of EXEC where it is atomic.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_pipeline(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let (offset, count) = replies(pipeline);
        let replies = self.request(Batch(pipeline, offset, count)).await?;
        Ok(replies.into_iter().map(Value::extract_error).collect::<Result<_, _>>()?)
    }

    async fn request_exclusive<R: Request>(&self, request: R) -> Result<R::Reply, Error> {
        let (node, endpoint) = (Arc::clone(&self.pool.node), self.in_flight.endpoint.clone());
        let mut lease = acquire(node, endpoint, self.location).await?;
        Ok(request.send_exclusive(&mut lease).await?)
    }

    async fn request<R: Request>(&mut self, request: R) -> Result<R::Reply, Error> {
        match request.sharing() {
            Sharing::Allowed => {}
            // Boxed: rare, and larger than all the rest.
            Sharing::Exclusive => return Box::pin(self.request_exclusive(request)).await,
            Sharing::Refused => return Err(unshareable().into()),
        }
        let Self { pool, in_flight, home, lane, .. } = self;
        let node = &pool.node;
        // Read only by those who have to wait.
        let mut since = None;
        let permit = match in_flight.try_enter() {
            Some(permit) => permit,
            None => wait_for_place(node, in_flight, *since.insert(Instant::now())).await?,
        };
        let mut other = None;
        if !lane.as_ref().is_some_and(|(carrier, _)| carrier.is_usable()) {
            *lane = None;
            let since = since.unwrap_or_else(Instant::now);
            match Box::pin(pick(node, *home, in_flight.account, since)).await? {
                Pick::Own(carrier) => *lane = Some(with_connection(node, carrier)),
                Pick::Other(carrier) => other = Some(with_connection(node, carrier)),
            }
        }
        let Some((carrier, redis)) = other.as_mut().or(lane.as_mut()) else {
            return Err(Rejection::Closed.into());
        };
        let flight = Flight::start(node, in_flight, carrier, permit);
        let started = node.metrics.is_recording().then(Instant::now);
        let reply = request.send(redis).await;
        if let Some(started) = started {
            node.metrics.used_shared(started.elapsed());
        }
        if let Some(notice) = request.notice(&reply) {
            node.heard(&carrier.socket, notice);
        }
        match reply {
            Err(error) if error.is_timeout() => Err(unanswered().into()),
            Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {
                flight.answered();
                Err(lost(&error).into())
            }
            // The server has it still to answer.
            Ok(reply) if !request.is_answered() => Ok(reply),
            reply => {
                flight.answered();
                node.replies.heard();
                Ok(reply?)
            }
        }
    }
}

/// A handle has a connection of its own to send on, so that it need not clone one for each command.
/// The driver times its commands, which costs less than a timeout around it.
fn with_connection(node: &Node, carrier: Arc<Carrier>) -> (Arc<Carrier>, MultiplexedConnection) {
    let mut redis = carrier.redis.clone();
    redis.set_response_timeout(node.settings().response_timeout);
    (carrier, redis)
}

/// Waits for a place among the endpoint's commands in flight, until the acquire timeout.
async fn wait_for_place<'a>(
    node: &Node,
    in_flight: &'a InFlight,
    since: Instant,
) -> Result<SemaphorePermit<'a>, Rejection> {
    // On a line of its own: the lock must be gone when a refusal takes it again.
    let most = node.lock().ledger.queue_limit();
    let deadline = since + node.settings().acquire_timeout;
    let permit = in_flight.enter(most, deadline).await;
    permit.map_err(|rejection| node.reject(in_flight.account, rejection))
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
        self.pool.node.dialer.db()
    }
}
