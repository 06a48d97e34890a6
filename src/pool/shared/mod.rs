//! Shared connections: a handle by which many callers send on a few multiplexed connections.

mod flight;
pub(super) mod in_flight;
mod keeper;
pub(super) mod lanes;
pub(super) mod sharers;

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, Value};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use self::flight::Flight;
use self::in_flight::InFlight;
pub(super) use self::keeper::none_now;
use self::keeper::{pick, pick_now};
use self::lanes::{HomeLane, Pick};
use self::sharers::Holder;
use super::acquire::acquire;
use super::lease::NodeLease;
use super::node::Node;
use crate::dial::Notice;
use crate::ledger::AccountId;
use crate::vocabulary::command::Sharing;
use crate::vocabulary::reply::unanswered;
use crate::{Endpoint, Error, Rejection};

/// A handle on the shared connections to one server: cheap to make and to clone.
pub(super) struct NodeShared {
    node: Arc<Node>,
    in_flight: Arc<InFlight>,
    lane: HomeLane,
    location: &'static Location<'static>,
}

impl Clone for NodeShared {
    /// The clone gets a lane of its own.
    fn clone(&self) -> Self {
        let Self { node, in_flight, lane, location } = self;
        let (node, in_flight) = (Arc::clone(node), Arc::clone(in_flight));
        let mut home = node.lanes.home();
        home.set_response_timeout(lane.response_timeout());
        Self { node, in_flight, lane: home, location }
    }
}

/// What is sent, to send it either way.
pub(super) trait Request {
    type Reply;

    /// False if the driver does not wait for the reply.
    fn is_answered(&self) -> bool;
    fn send(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<Self::Reply, RedisError>> + Send;
    fn send_exclusive(
        &self,
        lease: &mut NodeLease,
    ) -> impl Future<Output = Result<Self::Reply, RedisError>> + Send;
    /// What the reply says of the server.
    fn notice(&self, reply: &Result<Self::Reply, RedisError>) -> Option<(Notice, String)>;
}

impl Request for &Cmd {
    type Reply = Value;

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
        lease: &mut NodeLease,
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
pub(super) struct Batch<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) replies: (usize, usize),
}

impl Request for Batch<'_> {
    type Reply = Vec<Value>;

    fn is_answered(&self) -> bool {
        true
    }

    fn send(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> impl Future<Output = Result<Vec<Value>, RedisError>> + Send {
        redis.send_packed_commands(self.pipeline, self.replies.0, self.replies.1)
    }

    fn send_exclusive(
        &self,
        lease: &mut NodeLease,
    ) -> impl Future<Output = Result<Vec<Value>, RedisError>> + Send {
        lease.pipeline(self.pipeline, self.replies)
    }

    fn notice(&self, reply: &Result<Vec<Value>, RedisError>) -> Option<(Notice, String)> {
        match reply {
            Ok(replies) => replies.iter().find_map(Notice::of_reply),
            Err(error) => Notice::of_error(error),
        }
    }
}

impl NodeShared {
    pub(super) fn new(
        node: Arc<Node>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Self {
        let (in_flight, lane) = (in_flight_of(&node, endpoint), node.lanes.home());
        Self { node, in_flight, lane, location }
    }

    /// A copy on the same lane, for one command that outlives the borrow of this handle.
    pub(super) fn fork(&mut self) -> Self {
        let Self { node, in_flight, lane, location } = self;
        if !lane.is_up() {
            lane.leave();
            if let Some(carrier) = node.lanes.carrier(lane.number()) {
                lane.take(Pick::Own(carrier), node.settings().response_timeout);
            }
        }
        let (node, in_flight) = (Arc::clone(node), Arc::clone(in_flight));
        Self { node, in_flight, lane: lane.fork(), location }
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.in_flight.endpoint
    }

    /// How a command may be sent.
    pub(super) fn sharing(&self, cmd: &Cmd) -> Sharing {
        Sharing::in_db(cmd, self.node.dialer.db())
    }

    /// Why what is to be shared so cannot be sent, if that is so.
    pub(super) fn objection(sharing: Sharing) -> Option<RedisError> {
        (sharing == Sharing::Refused).then(unshareable)
    }

    pub(super) fn set_response_timeout(&mut self, timeout: Option<Duration>) {
        self.lane.set_response_timeout(timeout);
    }

    /// Sends one command; the reply as it is, an error of the server's too.
    pub(super) async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        self.request(cmd, self.sharing(cmd)).await
    }

    /// Sends a pipeline that is to be shared so, and skips so many of the replies to keep so many.
    pub(super) async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
        sharing: Sharing,
    ) -> Result<Vec<Value>, Error> {
        self.request(Batch { pipeline, replies }, sharing).await
    }

    async fn request_exclusive<R: Request>(&self, request: R) -> Result<R::Reply, Error> {
        let (node, endpoint) = (Arc::clone(&self.node), self.in_flight.endpoint.clone());
        let mut lease = acquire(node, endpoint, self.location).await?;
        lease.set_response_timeout(self.lane.response_timeout());
        Ok(request.send_exclusive(&mut lease).await?)
    }

    async fn request<R: Request>(
        &mut self,
        request: R,
        sharing: Sharing,
    ) -> Result<R::Reply, Error> {
        match sharing {
            Sharing::Allowed => send(&self.node, &self.in_flight, &mut self.lane, &request).await,
            // Boxed: rare, and larger than all the rest.
            Sharing::Exclusive => Box::pin(self.request_exclusive(request)).await,
            Sharing::Refused => Err(unshareable().into()),
        }
    }
}

/// What an endpoint has on the lanes of a node: its commands in flight.
fn in_flight_of(node: &Node, endpoint: &Endpoint) -> Arc<InFlight> {
    node.sharers.in_flight(endpoint, || open_in_flight(node, endpoint))
}

/// For an endpoint that has none yet; named as the ledger names it, for there is a bound on how many names
/// are told apart.
fn open_in_flight(node: &Node, endpoint: &Endpoint) -> InFlight {
    let mut state = node.lock();
    let account = state.ledger.account(endpoint);
    let max = state.ledger.account_budget(account).max_in_flight();
    InFlight::new(account, state.ledger.account_name(account).clone(), max)
}

/// A multiplexing lease begins.
pub(super) fn begin(
    node: &Node,
    endpoint: &Endpoint,
    location: &'static Location<'static>,
) -> Box<Holder> {
    let open = || open_in_flight(node, endpoint);
    // By the clock itself: the coarse one stands still before the first sweep, and while nothing is open.
    let now = node.millis(Instant::now());
    node.sharers.begin(endpoint, open, || node.lanes.home(), location, now)
}

/// Sees to it that there is a lane to send on, if one is up. Where none is, one is dialed in the background.
pub(super) fn is_ready(node: &Arc<Node>, lane: &mut HomeLane) -> bool {
    if lane.is_up() {
        return true;
    }
    match pick_now(node, lane.number()) {
        Some(pick) => lane.take(pick, node.settings().response_timeout),
        None => return false,
    }
    true
}

/// Waits until there is one, at most the acquire timeout. `lane`: the one that is to be up again.
pub(super) async fn ready(
    node: &Arc<Node>,
    account: AccountId,
    lane: usize,
) -> Result<(), Rejection> {
    pick(node, lane, account, Instant::now()).await.map(drop)
}

/// Sends what may be shared.
pub(super) async fn send<R: Request>(
    node: &Arc<Node>,
    in_flight: &Arc<InFlight>,
    lane: &mut HomeLane,
    request: &R,
) -> Result<R::Reply, Error> {
    // Read only by those who have to wait.
    let mut since = None;
    let permit = match in_flight.try_enter() {
        Some(permit) => permit,
        None => wait_for_place(node, in_flight, *since.insert(Instant::now())).await?,
    };
    lane.stay();
    while !lane.begin() {
        lane.leave();
        let since = *since.get_or_insert_with(Instant::now);
        let pick = Box::pin(pick(node, lane.number(), in_flight.account, since)).await?;
        lane.take(pick, node.settings().response_timeout);
    }
    let Some((carrier, redis)) = lane.sender() else {
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
    let reply = match reply {
        Err(error) if error.is_timeout() => return Err(unanswered().into()),
        // The server has it still to answer.
        Ok(reply) if !request.is_answered() => return Ok(reply),
        Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {
            Err(lost(&error).into())
        }
        reply => {
            node.replies.heard();
            reply.map_err(Error::from)
        }
    };
    flight.answered();
    lane.answered();
    reply
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
    let why = "it changes the connection for everybody who shares it: use `acquire`, or, to watch keys, \
               `GuardedPool::transaction`";
    (ErrorKind::Client, "command refused on a shared connection", why.to_owned()).into()
}

fn lost(error: &RedisError) -> RedisError {
    let what = "connection lost with the command in flight, which may or may not have run";
    (ErrorKind::Io, what, error.to_string()).into()
}
