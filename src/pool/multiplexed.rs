//! The lease that shares: it sends on the lanes until it meets something that needs a connection of its own.

use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

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
    /// Where commands were given up before their reply came, the last one aside.
    owing: Vec<Arc<Carrier>>,
    /// Its holder's own.
    response_timeout: Option<Duration>,
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
        Self { node, location, holder, own: None, owing: Vec::new(), response_timeout: None }
    }

    /// How long its commands wait for their replies from now on.
    pub(super) fn set_response_timeout(&mut self, timeout: Option<Duration>) {
        self.response_timeout = timeout;
        if let Some(own) = &mut self.own {
            own.set_response_timeout(timeout);
        }
        // What it owes an answer for is known by the connection that it sends on.
        self.note_given_up();
        let holder = self.holder.as_mut().expect(HELD);
        holder.lane.set_response_timeout(timeout);
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

    /// The same, without waiting: an idle connection will do, which the lane takes. Where there is none, one is
    /// dialed in the background.
    pub(super) fn try_acquire(
        node: Arc<Node>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> Result<Self, Rejection> {
        let mut this = Self::begin(node, endpoint, location);
        if this.is_ready() || this.node.lock().ledger.counts().idle > 0 {
            return Ok(this);
        }
        Err(none_now(&this.node, this.account()))
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
        this.keep(Some(own));
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
        let taken = self.take().await?;
        self.keep(taken);
        Ok(())
    }

    /// A connection of its own, if it has none.
    pub(super) async fn take(&mut self) -> Result<Option<NodeLease>, Error> {
        match self.own {
            Some(_) => Ok(None),
            None => Ok(Some(self.lease().await?)),
        }
    }

    /// Keeps what it [took](Self::take) until its end.
    pub(super) fn keep(&mut self, taken: Option<NodeLease>) {
        if let Some(taken) = taken {
            self.own = Some(Box::new(taken));
            self.holder().becomes_exclusive();
        }
    }

    /// A connection of its own, to which everything comes after what was sent on lanes.
    async fn lease(&mut self) -> Result<NodeLease, Error> {
        self.settle().await?;
        Ok(self.connection().await?)
    }

    async fn connection(&self) -> Result<NodeLease, Rejection> {
        let account = self.account();
        let mut lease = acquire_as(Arc::clone(&self.node), |_| account, self.location).await?;
        lease.set_response_timeout(self.response_timeout);
        Ok(lease)
    }

    /// Waits until what was given up on lanes has been answered: replies come in order, and so that of a PING
    /// after them.
    async fn settle(&mut self) -> Result<(), Error> {
        self.note_given_up();
        while let Some(carrier) = self.owing.last() {
            let mut redis = carrier.redis.clone();
            let timeout = self.response_timeout;
            let limit = timeout.unwrap_or(self.node.settings().response_timeout);
            let answered =
                within(Some(limit), redis.send_packed_command(&redis::cmd("PING"))).await;
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
        if let Some(carrier) = self.holder.as_mut().expect(HELD).lane.owing()
            && !self.owing.iter().any(|owing| Arc::ptr_eq(owing, carrier))
        {
            self.owing.retain(|owing| owing.socket.is_alive());
            self.owing.push(Arc::clone(carrier));
        }
    }

    /// Sends one command; the reply as it is, an error of the server's too.
    pub(super) async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        self.request(cmd, Sharing::of_lease(cmd)).await
    }

    /// Sends a pipeline that is to be shared so.
    pub(super) async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
        sharing: Sharing,
    ) -> Result<Vec<Value>, Error> {
        self.request(Batch { pipeline, replies }, sharing).await
    }

    async fn request<R: Request>(
        &mut self,
        request: R,
        sharing: Sharing,
    ) -> Result<R::Reply, Error> {
        self.holder().in_use();
        let using = Using(self);
        let this = &mut *using.0;
        match (&mut this.own, sharing) {
            (Some(own), _) => Ok(request.send_exclusive(own).await?),
            (None, Sharing::Allowed) => {
                this.note_given_up();
                let Holder { in_flight, lane, .. } = &mut **this.holder.as_mut().expect(HELD);
                send(&this.node, in_flight, lane, &request).await
            }
            // Boxed: rare, and larger than all the rest.
            (None, Sharing::Exclusive) => Box::pin(this.request_once(request)).await,
            (None, Sharing::Refused) => Box::pin(this.request_exclusive(request)).await,
        }
    }

    /// Over a connection that is given back after it: it blocks, and leaves nothing behind.
    async fn request_once<R: Request>(&mut self, request: R) -> Result<R::Reply, Error> {
        let mut once = self.lease().await?;
        let _counted = self.holder().with_connection();
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

/// A lease whose command is on its way, until this is dropped.
struct Using<'a>(&'a mut Multiplexed);

impl Drop for Using<'_> {
    fn drop(&mut self) {
        self.0.holder().used(self.0.node.coarse_now());
    }
}

/// What a caller hears whose command waits for those before it.
fn overtakes() -> RedisError {
    let why = "what this lease sent before is not answered yet, and a command on a connection of its own would \
               overtake it; nothing was sent";
    io::Error::new(io::ErrorKind::TimedOut, why).into()
}
