//! The lease that shares: it sends on the lanes until it meets something that needs a connection of its own.

use std::io;
use std::panic::Location;
use std::sync::Arc;

use redis::{Cmd, Pipeline, RedisError, Value};

use super::acquire::acquire_as;
use super::lease::NodeLease;
use super::node::Node;
use super::shared::lanes::Carrier;
use super::shared::sharers::Holder;
use super::shared::{Batch, Request, begin, is_ready, none_now, ready, send};
use crate::ledger::AccountId;
use crate::vocabulary::command::Sharing;
use crate::vocabulary::reply::within;
use crate::{Endpoint, Error, Rejection};

/// A lease of one server that has a connection only while it needs one.
pub(super) struct Multiplexed {
    node: Arc<Node>,
    location: &'static Location<'static>,
    /// `Some` until the drop.
    holder: Option<Box<Holder>>,
    /// The connection that it has taken, until its end.
    own: Option<Box<NodeLease>>,
    /// A command was sent on a lane, and its reply has not come.
    sending: bool,
    /// Where commands were given up before their reply came.
    owing: Vec<Arc<Carrier>>,
}

const HELD: &str = "held until the drop";

impl Drop for Multiplexed {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.take() {
            self.node.sharers.end(holder);
        }
    }
}

impl Multiplexed {
    fn begin(node: Arc<Node>, endpoint: &Endpoint, location: &'static Location<'static>) -> Self {
        let holder = Some(begin(&node, endpoint, location));
        Self { node, location, holder, own: None, sending: false, owing: Vec::new() }
    }

    /// One that there is something to send on for, waiting for that at most the acquire timeout.
    pub(super) async fn acquire(
        node: Arc<Node>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Result<Self, Rejection> {
        let mut this = Self::begin(node, endpoint, location);
        if !this.is_ready() {
            let (node, account, lane) =
                (Arc::clone(&this.node), this.account(), this.holder().lane.number());
            // It is not out while it waits.
            drop(this);
            Box::pin(ready(&node, account, lane)).await?;
            this = Self::begin(node, endpoint, location);
        }
        Ok(this)
    }

    /// The same, without waiting.
    pub(super) fn try_acquire(
        node: Arc<Node>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Result<Self, Rejection> {
        let mut this = Self::begin(node, endpoint, location);
        if this.is_ready() { Ok(this) } else { Err(none_now(&this.node, this.account())) }
    }

    fn is_ready(&mut self) -> bool {
        let holder = self.holder.as_mut().expect(HELD);
        is_ready(&self.node, &mut holder.lane)
    }

    /// One with a connection of its own from the start.
    pub(super) async fn acquire_exclusive(
        node: Arc<Node>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Result<Self, Rejection> {
        let mut this = Self::begin(node, endpoint, location);
        let own = this.connection().await?;
        this.take(own);
        Ok(this)
    }

    fn holder(&self) -> &Holder {
        self.holder.as_ref().expect(HELD)
    }

    fn account(&self) -> AccountId {
        self.holder().in_flight.account
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.holder().in_flight.endpoint
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.own.is_some()
    }

    /// A transaction is open, or keys are watched.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.is_in_transaction())
    }

    /// Takes a connection of its own, if it has none, and keeps it until its end.
    pub(super) async fn make_exclusive(&mut self) -> Result<(), Error> {
        if self.own.is_none() {
            let own = self.lease().await?;
            self.take(own);
        }
        Ok(())
    }

    fn take(&mut self, own: NodeLease) {
        self.own = Some(Box::new(own));
        self.holder().is_exclusive();
    }

    /// A connection of its own, to which everything comes after what was sent on lanes.
    async fn lease(&mut self) -> Result<NodeLease, Error> {
        self.settle().await?;
        Ok(self.connection().await?)
    }

    async fn connection(&self) -> Result<NodeLease, Rejection> {
        let account = self.account();
        acquire_as(Arc::clone(&self.node), |_| account, self.location).await
    }

    /// Waits until what was given up on lanes has been answered: replies come in order, and so that of a PING
    /// after them.
    async fn settle(&mut self) -> Result<(), Error> {
        self.note_given_up();
        while let Some(carrier) = self.owing.last() {
            let mut redis = carrier.redis.clone();
            let limit = Some(self.node.settings().response_timeout);
            let answered = within(limit, redis.send_packed_command(&redis::cmd("PING"))).await;
            if answered.is_err_and(|error| error.is_timeout()) {
                // What is sent now might overtake it.
                return Err(overtakes().into());
            }
            // Any other error means that the lane is gone, and its commands with it.
            self.owing.pop();
        }
        Ok(())
    }

    fn note_given_up(&mut self) {
        if std::mem::take(&mut self.sending)
            && let Some(carrier) = self.holder().lane.last().cloned()
            && !self.owing.iter().any(|owing| Arc::ptr_eq(owing, &carrier))
        {
            self.owing.push(carrier);
        }
    }

    /// Sends one command; the reply as it is, an error of the server's too.
    pub(super) async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        self.request(cmd, Sharing::of_lease(cmd)).await
    }

    pub(super) async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
    ) -> Result<Vec<Value>, Error> {
        let sharing = pipeline.cmd_iter().map(Sharing::of_lease).max().unwrap_or(Sharing::Allowed);
        self.request(Batch { pipeline, replies, sharing }, sharing).await
    }

    async fn request<R: Request>(
        &mut self,
        request: R,
        sharing: Sharing,
    ) -> Result<R::Reply, Error> {
        self.holder().used(self.node.coarse_now());
        match (&mut self.own, sharing) {
            (Some(own), _) => Ok(request.send_exclusive(own).await?),
            (None, Sharing::Allowed) => {
                self.note_given_up();
                self.sending = true;
                let Holder { in_flight, lane, .. } = &mut **self.holder.as_mut().expect(HELD);
                let reply = send(&self.node, in_flight, lane, &request).await;
                self.sending = match &reply {
                    Ok(_) => !request.is_answered(),
                    Err(Error::Inner(error)) => error.is_timeout(),
                    Err(Error::Rejected(_)) => false,
                };
                reply
            }
            // Boxed: rare, and larger than all the rest.
            (None, Sharing::Exclusive) => Box::pin(self.request_once(request)).await,
            (None, Sharing::Refused) => Box::pin(self.request_exclusive(request)).await,
        }
    }

    /// Over a connection that is given back after it: it blocks, and leaves nothing behind.
    async fn request_once<R: Request>(&mut self, request: R) -> Result<R::Reply, Error> {
        let mut once = self.lease().await?;
        Ok(request.send_exclusive(&mut once).await?)
    }

    async fn request_exclusive<R: Request>(&mut self, request: R) -> Result<R::Reply, Error> {
        self.make_exclusive().await?;
        match &mut self.own {
            Some(own) => Ok(request.send_exclusive(own).await?),
            None => Err(Rejection::Closed.into()),
        }
    }
}

/// What a caller hears whose command waits for those before it.
fn overtakes() -> RedisError {
    let why = "what this lease sent before is not answered yet, and a command on a connection of its own would \
               overtake it; nothing was sent";
    io::Error::new(io::ErrorKind::TimedOut, why).into()
}
