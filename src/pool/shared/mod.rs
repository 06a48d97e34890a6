//! Shared connections: a handle by which many callers send on a few multiplexed connections.

mod flight;
pub(super) mod in_flight;
mod keeper;
pub(super) mod lanes;

use std::panic::Location;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, Value};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use self::flight::Flight;
use self::in_flight::InFlight;
use self::keeper::{Pick, none_now, pick, pick_now};
use self::lanes::Carrier;
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
    /// The last request was sent, and has not been answered.
    owed: bool,
    location: &'static Location<'static>,
}

/// The lane of one handle.
struct HomeLane {
    number: usize,
    /// With a connection of the handle's own to send on.
    own: Option<(Arc<Carrier>, MultiplexedConnection)>,
    /// What the last request was sent on instead, because the lane was down. Boxed, for it is rare.
    other: Option<Box<(Arc<Carrier>, MultiplexedConnection)>>,
}

impl HomeLane {
    fn next(node: &Node) -> Self {
        Self { number: node.lanes.home(), own: None, other: None }
    }

    fn is_up(&self) -> bool {
        self.own.as_ref().is_some_and(|(carrier, _)| carrier.is_usable())
    }

    fn take(&mut self, node: &Node, pick: Pick) {
        match pick {
            Pick::Own(carrier) => self.own = Some(with_connection(node, carrier)),
            Pick::Other(carrier) => self.other = Some(Box::new(with_connection(node, carrier))),
        }
    }

    /// What to send on.
    fn up(&mut self) -> Option<&mut (Arc<Carrier>, MultiplexedConnection)> {
        self.other.as_deref_mut().or(self.own.as_mut())
    }
}

impl Clone for NodeShared {
    /// The clone gets a lane of its own.
    fn clone(&self) -> Self {
        let Self { node, in_flight, lane: _, owed: _, location } = self;
        let (node, in_flight) = (Arc::clone(node), Arc::clone(in_flight));
        let lane = HomeLane::next(&node);
        Self { node, in_flight, lane, owed: false, location }
    }
}

/// What is sent, to send it either way.
pub(super) trait Request {
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
        lease: &mut NodeLease,
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
    pub(super) sharing: Sharing,
}

impl Request for Batch<'_> {
    type Reply = Vec<Value>;

    fn sharing(&self) -> Sharing {
        self.sharing
    }

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
        let (account, endpoint, max) = {
            let mut state = node.lock();
            let account = state.ledger.account(endpoint);
            let budget = state.ledger.account_budget(account);
            (account, state.ledger.account_name(account).clone(), budget.max_in_flight())
        };
        let in_flight =
            node.lanes.in_flight(endpoint.clone(), || InFlight::new(account, endpoint, max));
        let lane = HomeLane::next(&node);
        Self { node, in_flight, lane, owed: false, location }
    }

    /// A copy on the same lane, for one command that outlives the borrow of this handle.
    pub(super) fn fork(&mut self) -> Self {
        let Self { node, in_flight, lane, owed: _, location } = self;
        if !lane.is_up() {
            let carrier = node.lanes.carrier(lane.number);
            lane.own = carrier.map(|carrier| with_connection(node, carrier));
        }
        let (node, in_flight) = (Arc::clone(node), Arc::clone(in_flight));
        let lane = HomeLane { number: lane.number, own: lane.own.clone(), other: None };
        Self { node, in_flight, lane, owed: false, location }
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.in_flight.endpoint
    }

    /// Why what is to be shared so cannot be sent, if that is so.
    pub(super) fn objection(sharing: Sharing) -> Option<RedisError> {
        (sharing == Sharing::Refused).then(unshareable)
    }

    /// Sends one command; the reply as it is, an error of the server's too.
    pub(super) async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        self.request(cmd).await
    }

    /// Sends a pipeline that is to be shared so, and skips so many of the replies to keep so many.
    pub(super) async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
        sharing: Sharing,
    ) -> Result<Vec<Value>, Error> {
        self.request(Batch { pipeline, replies, sharing }).await
    }

    pub(super) fn account(&self) -> AccountId {
        self.in_flight.account
    }

    pub(super) fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// Where the last request was sent, if it was and has not been answered; told once.
    pub(super) fn owing(&mut self) -> Option<&Arc<Carrier>> {
        let owed = std::mem::take(&mut self.owed);
        let last = self.lane.other.as_deref().or(self.lane.own.as_ref());
        last.map(|(carrier, _)| carrier).filter(|_| owed)
    }

    /// Sees to it that there is a lane to send on, waiting for one at most the acquire timeout.
    pub(super) async fn ready(&mut self) -> Result<(), Rejection> {
        let Self { node, in_flight, lane, .. } = self;
        let pick = match pick_now(node, lane.number) {
            Some(pick) => pick,
            None => Box::pin(pick(node, lane.number, in_flight.account, Instant::now())).await?,
        };
        lane.take(node, pick);
        Ok(())
    }

    /// The same without waiting: an idle connection will do, which the lane takes. Where there is none, one is
    /// dialed in the background.
    pub(super) fn is_ready(&mut self) -> Result<(), Rejection> {
        let Self { node, in_flight, lane, .. } = self;
        match pick_now(node, lane.number) {
            Some(pick) => lane.take(node, pick),
            None if node.lock().ledger.counts().idle > 0 => {}
            None => return Err(none_now(node, in_flight.account)),
        }
        Ok(())
    }

    async fn request_exclusive<R: Request>(&self, request: R) -> Result<R::Reply, Error> {
        let (node, endpoint) = (Arc::clone(&self.node), self.in_flight.endpoint.clone());
        let mut lease = acquire(node, endpoint, self.location).await?;
        Ok(request.send_exclusive(&mut lease).await?)
    }

    async fn request<R: Request>(&mut self, request: R) -> Result<R::Reply, Error> {
        match request.sharing() {
            Sharing::Allowed => self.send(&request).await,
            // Boxed: rare, and larger than all the rest.
            Sharing::Exclusive => Box::pin(self.request_exclusive(request)).await,
            Sharing::Refused => Err(unshareable().into()),
        }
    }

    /// Sends what may be shared.
    pub(super) async fn send<R: Request>(&mut self, request: &R) -> Result<R::Reply, Error> {
        let Self { node, in_flight, lane, owed, .. } = self;
        // Read only by those who have to wait.
        let mut since = None;
        let permit = match in_flight.try_enter() {
            Some(permit) => permit,
            None => wait_for_place(node, in_flight, *since.insert(Instant::now())).await?,
        };
        lane.other = None;
        if !lane.is_up() {
            lane.own = None;
            let since = since.unwrap_or_else(Instant::now);
            let pick = Box::pin(pick(node, lane.number, in_flight.account, since)).await?;
            lane.take(node, pick);
        }
        let Some((carrier, redis)) = lane.up() else {
            return Err(Rejection::Closed.into());
        };
        let flight = Flight::start(node, in_flight, carrier, permit);
        *owed = true;
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
        *owed = false;
        reply
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
