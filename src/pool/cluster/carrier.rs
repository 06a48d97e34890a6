//! What commands for one node of a cluster go over: a shared handle, or a lease.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ErrorKind, Pipeline, RedisError, Value};

use crate::pool::acquire::acquire;
use crate::pool::lease::NodeLease;
use crate::pool::multiplexed::Multiplexed;
use crate::pool::node::Node;
use crate::pool::shared::NodeShared;
use crate::vocabulary::command::{Effect, Sharing, effect};
use crate::{Endpoint, Error, Rejection};

/// What commands for one node go over.
pub(in crate::pool) trait Carrier: Send + Sized {
    /// `exclusive`: with a connection of its own, whatever it is.
    fn open(
        node: Arc<Node>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
        exclusive: bool,
    ) -> impl Future<Output = Result<Self, Rejection>> + Send;

    fn node(&self) -> &Arc<Node>;

    /// How long its commands wait for their replies from now on; `None`: as long as the pool's.
    fn set_response_timeout(&mut self, timeout: Option<Duration>);

    /// Everything goes to this node for now: it has a transaction open, or watches keys.
    fn is_pinned(&self) -> bool;

    /// Why this cannot be sent where the next command may be for another node.
    fn objection(cmd: &Cmd) -> Option<RedisError>;

    fn sharing(cmd: &Cmd) -> Sharing;

    fn command(&mut self, cmd: &Cmd) -> impl Future<Output = Result<Value, Error>> + Send;

    /// `sharing`: of the commands, ASKING aside.
    fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
        sharing: Sharing,
    ) -> impl Future<Output = Result<Vec<Value>, Error>> + Send;
}

impl Carrier for NodeShared {
    async fn open(
        node: Arc<Node>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
        _exclusive: bool,
    ) -> Result<Self, Rejection> {
        Ok(Self::new(node, endpoint, location))
    }

    fn node(&self) -> &Arc<Node> {
        self.node()
    }

    fn set_response_timeout(&mut self, timeout: Option<Duration>) {
        self.set_response_timeout(timeout);
    }

    fn is_pinned(&self) -> bool {
        false
    }

    fn objection(cmd: &Cmd) -> Option<RedisError> {
        Self::objection(<Self as Carrier>::sharing(cmd))
    }

    fn sharing(cmd: &Cmd) -> Sharing {
        // A cluster has no other database.
        Sharing::in_db(cmd, 0)
    }

    async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        self.command(cmd).await
    }

    async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
        sharing: Sharing,
    ) -> Result<Vec<Value>, Error> {
        self.pipeline(pipeline, replies, sharing).await
    }
}

impl Carrier for NodeLease {
    fn open(
        node: Arc<Node>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
        _exclusive: bool,
    ) -> impl Future<Output = Result<Self, Rejection>> + Send {
        acquire(node, endpoint.clone(), location)
    }

    fn node(&self) -> &Arc<Node> {
        self.node()
    }

    fn set_response_timeout(&mut self, timeout: Option<Duration>) {
        self.set_response_timeout(timeout);
    }

    fn is_pinned(&self) -> bool {
        self.is_in_transaction()
    }

    fn objection(cmd: &Cmd) -> Option<RedisError> {
        of_one_node(cmd)
    }

    /// Nobody else sends on it.
    fn sharing(_: &Cmd) -> Sharing {
        Sharing::Allowed
    }

    async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        Ok(self.command(cmd).await?)
    }

    async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
        _sharing: Sharing,
    ) -> Result<Vec<Value>, Error> {
        Ok(self.pipeline(pipeline, replies).await?)
    }
}

impl Carrier for Multiplexed {
    async fn open(
        node: Arc<Node>,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
        exclusive: bool,
    ) -> Result<Self, Rejection> {
        match exclusive {
            true => Self::acquire_exclusive(node, endpoint, location).await,
            false => Self::acquire(node, endpoint, location).await,
        }
    }

    fn node(&self) -> &Arc<Node> {
        self.node()
    }

    fn set_response_timeout(&mut self, timeout: Option<Duration>) {
        self.set_response_timeout(timeout);
    }

    fn is_pinned(&self) -> bool {
        self.is_in_transaction()
    }

    fn objection(cmd: &Cmd) -> Option<RedisError> {
        of_one_node(cmd)
    }

    fn sharing(cmd: &Cmd) -> Sharing {
        Sharing::of_lease(cmd)
    }

    async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        self.command(cmd).await
    }

    async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
        sharing: Sharing,
    ) -> Result<Vec<Value>, Error> {
        self.pipeline(pipeline, replies, sharing).await
    }
}

/// Why a command cannot be sent on a lease that is not on one node, if that is so.
fn of_one_node(cmd: &Cmd) -> Option<RedisError> {
    let effect = effect(cmd);
    matches!(effect, Effect::Multi | Effect::Session | Effect::Asking | Effect::Poison).then(|| {
        let why = "it changes the connection to one node, and it does not say which: use `acquire_for`, or an \
                   atomic pipeline";
        (ErrorKind::Client, "command refused on a lease of a cluster", why.to_owned()).into()
    })
}
