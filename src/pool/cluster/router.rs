//! The router: sends each command, or each part of it, to the node that has its keys, and puts the replies
//! together.
//!
//! Redirections are followed: what was answered with one has not run. The node that it names is reached like
//! any other, over what is open to it or the dialer's next connection.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};

use super::carrier::Carrier;
use super::pieces::{
    Goal, Leg, Made, Piece, asking, asking_once, cross_slot, in_part, last, legs, refused,
};
use super::{Aim, Cluster, HOPS};
use crate::pool::multiplexed::Multiplexed;
use crate::pool::node::Node;
use crate::pool::shared::NodeShared;
use crate::vocabulary::command::{Sharing, is_read_only, is_whole_transaction};
use crate::vocabulary::routing::{Combine, Part, Route, Split, route, slot_of_all};
use crate::{Endpoint, Error, Rejection};

/// Sends on connections to the nodes of a cluster, each opened with the first command for its node.
pub(in crate::pool) struct Router<C> {
    cluster: Arc<Cluster>,
    endpoint: Endpoint,
    location: &'static Location<'static>,
    open: Vec<C>,
    /// What names no node goes there: a lease begins with this one.
    home: Option<Arc<Node>>,
    /// What is opened from now on takes a connection of its own at once.
    exclusive: bool,
    /// Its holder's own.
    response_timeout: Option<Duration>,
}

impl Router<NodeShared> {
    /// A copy on the same lanes, for one command that outlives the borrow of this handle.
    pub(in crate::pool) fn fork(&mut self) -> Self {
        let open = self.open.iter_mut().map(NodeShared::fork).collect();
        let Self { cluster, endpoint, location, response_timeout, .. } = self;
        let (cluster, endpoint) = (Arc::clone(cluster), endpoint.clone());
        Self { open, response_timeout: *response_timeout, ..Self::new(cluster, endpoint, location) }
    }
}

impl Clone for Router<NodeShared> {
    fn clone(&self) -> Self {
        let Self { cluster, endpoint, location, open, home: _, exclusive: _, response_timeout } =
            self;
        let (cluster, endpoint) = (Arc::clone(cluster), endpoint.clone());
        let (open, response_timeout) = (open.clone(), *response_timeout);
        Self { open, response_timeout, ..Self::new(cluster, endpoint, location) }
    }
}

impl Router<Multiplexed> {
    /// Takes connections of its own for good, to nodes that it has used now and to others with the first command
    /// for them; all that it needs now, or none.
    pub(in crate::pool) async fn make_exclusive(&mut self) -> Result<(), Error> {
        // Whoever takes several connections takes them in one order.
        self.open.sort_by_cached_key(|open| open.node().address());
        let mut taken = Vec::new();
        for open in &mut self.open {
            taken.push(open.take().await?);
        }
        for (open, taken) in self.open.iter_mut().zip(taken) {
            open.keep(taken);
        }
        self.exclusive = true;
        Ok(())
    }

    pub(in crate::pool) fn is_exclusive(&self) -> bool {
        self.exclusive
    }
}

impl<C: Carrier> Router<C> {
    pub(in crate::pool) fn new(
        cluster: Arc<Cluster>,
        endpoint: Endpoint,
        location: &'static Location<'static>,
    ) -> Self {
        let (open, home, exclusive, response_timeout) = (Vec::new(), None, false, None);
        Self { cluster, endpoint, location, open, home, exclusive, response_timeout }
    }

    /// How long its commands wait for the replies of each node from now on.
    pub(in crate::pool) fn set_response_timeout(&mut self, timeout: Option<Duration>) {
        self.response_timeout = timeout;
        self.open.iter_mut().for_each(|open| open.set_response_timeout(timeout));
    }

    /// Opens the connection to this node, where everything goes that names none.
    pub(in crate::pool) async fn at_home(mut self, node: Arc<Node>) -> Result<Self, Rejection> {
        self.open_at(&node).await?;
        self.home = Some(node);
        Ok(self)
    }

    pub(in crate::pool) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends one command; the reply as it is, an error of the server's too.
    pub(in crate::pool) async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        if let Some(at) = self.pinned() {
            let reply = self.open[at].command(cmd).await;
            self.learn(at, reply.as_ref().map(std::slice::from_ref));
            return reply;
        }
        match (C::objection(cmd), self.home.clone()) {
            (None, _) => {}
            (Some(_), Some(home)) => return self.carrier(&home).await?.command(cmd).await,
            (Some(objection), None) => return Err(objection.into()),
        }
        self.cluster.ready().await?;
        match route(cmd) {
            Route::Slot(slot) => self.one(Goal::Slot(slot), cmd).await,
            Route::Any => self.one(Goal::Any, cmd).await,
            // Boxed: rare, and larger than all the rest.
            parted => Box::pin(self.parted(cmd, parted)).await,
        }
    }

    /// Sends a pipeline, split by node unless it is atomic, and skips so many of the replies to keep so many.
    pub(in crate::pool) async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        (offset, count): (usize, usize),
    ) -> Result<Vec<Value>, Error> {
        if let Some(at) = self.pinned() {
            let (sharing, replies) = (Sharing::of_pipeline(pipeline, C::sharing), (offset, count));
            let replies = self.open[at].pipeline(pipeline, replies, sharing).await;
            self.learn(at, replies.as_deref());
            return replies;
        }
        let is_whole = is_whole_transaction(pipeline);
        let brackets = usize::from(is_whole);
        let cmds = pipeline.cmd_iter().take(pipeline.len() - brackets).skip(brackets);
        if let Some(objection) = cmds.into_iter().find_map(C::objection) {
            // The server says what it makes of keys of other slots in between.
            let Some(home) = self.home.clone() else { return Err(objection.into()) };
            let (sharing, replies) = (Sharing::of_pipeline(pipeline, C::sharing), (offset, count));
            return self.carrier(&home).await?.pipeline(pipeline, replies, sharing).await;
        }
        self.cluster.ready().await?;
        if pipeline.is_transaction() || is_whole {
            return Box::pin(self.transaction(pipeline, (offset, count))).await;
        }
        let (mut pieces, mut made) = (Vec::new(), Vec::new());
        for cmd in pipeline.cmd_iter() {
            made.push(self.plan(cmd, route(cmd), &mut pieces)?);
        }
        let mut replies = Box::pin(self.run(pieces)).await?;
        let made = made.into_iter().skip(offset).take(count);
        made.map(|made| made.reply(&mut replies)).collect()
    }

    /// The connection on which a transaction is open, or keys are watched.
    fn pinned(&self) -> Option<usize> {
        self.open.iter().position(Carrier::is_pinned)
    }

    /// What is answered within a transaction is its holder's, who is to begin again, but says who has a slot.
    fn learn(&self, at: usize, replies: Result<&[Value], &Error>) {
        let node = self.open[at].node();
        match replies {
            Ok(replies) => drop(replies.iter().find_map(|it| self.next(node, &Goal::Any, it))),
            Err(Error::Inner(error)) => drop(self.cluster.redirected(node, error)),
            Err(Error::Rejected(_)) => {}
        }
    }

    /// Sends a command to one node, and on to where that says it is to go.
    async fn one(&mut self, goal: Goal, cmd: &Cmd) -> Result<Value, Error> {
        let mut aim = self.aim(&goal, cmd)?;
        let mut hops = HOPS;
        loop {
            let reply = match self.carrier(&aim.node).await {
                Err(rejection) => Err(rejection.into()),
                Ok(carrier) if aim.asking => {
                    let asking = asking([cmd]);
                    let reply = carrier.pipeline(&asking, (1, 1), C::sharing(cmd)).await;
                    reply.map(|reply| reply.into_iter().next().unwrap_or(Value::Nil))
                }
                Ok(carrier) => carrier.command(cmd).await,
            };
            let next = match &reply {
                Ok(told @ Value::ServerError(_)) => self.next(&aim.node, &goal, told),
                Ok(_) => return reply,
                Err(Error::Inner(error)) => self.redirection(&aim.node, &goal, error),
                Err(Error::Rejected(rejection)) => self.other_than(&aim, &goal, rejection),
            };
            match next.filter(|_| hops > 0) {
                Some(next) => aim = next,
                None => return reply,
            }
            hops -= 1;
        }
    }

    /// Sends a command that is for several nodes.
    async fn parted(&mut self, cmd: &Cmd, route: Route) -> Result<Value, Error> {
        let mut pieces = Vec::new();
        let made = self.plan(cmd, route, &mut pieces)?;
        let mut replies = self.run(pieces).await?;
        made.reply(&mut replies)
    }

    /// What has to be sent for a command.
    fn plan(&self, cmd: &Cmd, route: Route, pieces: &mut Vec<Piece>) -> Result<Made, Error> {
        let first = pieces.len();
        let (nodes, combine) = match route {
            Route::Slot(slot) => {
                pieces.push(Piece { cmd: cmd.clone(), goal: Goal::Slot(slot) });
                return Ok(Made::Of(first));
            }
            Route::Any => {
                pieces.push(Piece { cmd: cmd.clone(), goal: Goal::Any });
                return Ok(Made::Of(first));
            }
            Route::Split(Split { parts, combine }) => {
                let parts = parts.into_iter();
                pieces
                    .extend(parts.map(|Part { slot, cmd }| Piece { cmd, goal: Goal::Slot(slot) }));
                return Ok(Made::Together(first..pieces.len(), combine));
            }
            Route::Primaries(combine) => (self.cluster.primaries(), combine),
            // What is set everywhere, a script among it, has to be where a slot is on its way to as well.
            Route::Nodes(Combine::First) => (self.cluster.reached(), Combine::First),
            Route::Nodes(combine) => (self.cluster.named(), combine),
            Route::CrossSlot => return Err(cross_slot().into()),
            Route::Refused(why) => {
                // Whoever leases on the node of a key means that node.
                let home = self.home.clone().ok_or_else(|| refused(cmd, why))?;
                pieces.push(Piece { cmd: cmd.clone(), goal: Goal::Node(home) });
                return Ok(Made::Of(first));
            }
        };
        let each = nodes.into_iter().map(|node| Piece { cmd: cmd.clone(), goal: Goal::Node(node) });
        pieces.extend(each);
        Ok(Made::Together(first..pieces.len(), combine))
    }

    /// Sends all pieces, those of one node in one go and in their order, and those that are redirected again;
    /// the replies, errors of servers among them.
    async fn run(&mut self, pieces: Vec<Piece>) -> Result<Vec<Value>, Error> {
        let mut replies = vec![Value::Nil; pieces.len()];
        let mut aims = self.aims(&pieces)?;
        let (mut hops, mut sent) = (HOPS, false);
        while !aims.is_empty() {
            let legs = legs::<C>(&pieces, &aims);
            let alone = !sent && legs.len() == 1;
            let (mut next, mut failed) = (Vec::new(), None);
            let answers = match self.open_all(&legs, !sent).await {
                Ok(()) => {
                    sent = true;
                    self.send(legs).await
                }
                Err((node, rejection)) => {
                    if hops > 0 && self.avoid(&node, &rejection, &pieces, &mut aims) {
                        hops -= 1;
                        continue;
                    }
                    if !sent {
                        return Err(rejection.into());
                    }
                    failed = Some((node.address(), rejection.into()));
                    Vec::new()
                }
            };
            for (leg, answer) in answers {
                match answer {
                    Ok(values) => {
                        for (piece, value) in leg.replies(values) {
                            let goal = &pieces[piece].goal;
                            match self.next(&leg.node, goal, &value).filter(|_| hops > 0) {
                                Some(aim) => next.push((piece, aim)),
                                None => replies[piece] = value,
                            }
                        }
                    }
                    Err(Error::Rejected(Rejection::Closed))
                        if hops > 0 && !self.cluster.is_closed() =>
                    {
                        // Its node has left the cluster, and was sent nothing.
                        for piece in leg.pieces.into_iter().flatten() {
                            let Piece { cmd, goal } = &pieces[piece];
                            match self.aim(goal, cmd) {
                                Ok(aim) => next.push((piece, aim)),
                                Err(error) => {
                                    failed = failed.or(Some((leg.node.address(), error)));
                                }
                            }
                        }
                    }
                    Err(error) => failed = failed.or(Some((leg.node.address(), error))),
                }
            }
            if let Some((server, error)) = failed {
                let harmless = pieces.iter().all(|piece| is_read_only(&piece.cmd));
                return Err(if harmless || alone { error } else { in_part(&server, error) });
            }
            next.sort_by_key(|(piece, _)| *piece);
            aims = next;
            hops = hops.saturating_sub(1);
        }
        Ok(replies)
    }

    /// Opens a connection for each leg. `first`: nothing was sent so far, so each of several nodes is looked at
    /// before the first one is opened. The error names the node that refuses.
    async fn open_all(&mut self, legs: &[Leg], first: bool) -> Result<(), (Arc<Node>, Rejection)> {
        if first && legs.len() > 1 {
            for leg in legs {
                self.would_serve(&leg.node).map_err(|refusal| (Arc::clone(&leg.node), refusal))?;
            }
        }
        for leg in legs {
            let opened = self.open_at(&leg.node).await;
            opened.map_err(|refusal| (Arc::clone(&leg.node), refusal))?;
        }
        Ok(())
    }

    /// Aims what was meant for a node that refuses at others, if all of it can be.
    #[cold]
    fn avoid(
        &self,
        node: &Arc<Node>,
        rejection: &Rejection,
        pieces: &[Piece],
        aims: &mut [(usize, Aim)],
    ) -> bool {
        let its = aims.iter_mut().filter(|(_, aim)| Arc::ptr_eq(&aim.node, node));
        let others = its.map(|(piece, aim)| {
            let other = self.other_than(aim, &pieces[*piece].goal, rejection)?;
            Some((aim, other))
        });
        let Some(others) = others.collect::<Option<Vec<_>>>() else { return false };
        others.into_iter().for_each(|(aim, other)| *aim = other);
        true
    }

    /// Sends to several nodes at the same time.
    async fn send(&mut self, mut legs: Vec<Leg>) -> Vec<(Leg, Result<Vec<Value>, Error>)> {
        // Opening one drops those of nodes that have left, so they are looked for only now.
        let mut sending = Vec::new();
        for carrier in &mut self.open {
            let at = legs.iter().position(|leg| Arc::ptr_eq(&leg.node, carrier.node()));
            let Some(leg) = at.map(|at| legs.swap_remove(at)) else { continue };
            sending.push(async move {
                let all = (0, leg.pipeline.len());
                let answer = carrier.pipeline(&leg.pipeline, all, leg.sharing).await;
                (leg, answer)
            });
        }
        let mut answers = join_all(sending).await;
        let left = legs.into_iter().map(|leg| (leg, Err(Rejection::Closed.into())));
        answers.extend(left);
        answers
    }

    /// Sends an atomic pipeline, or one that is all of a transaction. Its keys are in one slot.
    async fn transaction(
        &mut self,
        pipeline: &Pipeline,
        wanted: (usize, usize),
    ) -> Result<Vec<Value>, Error> {
        let slot = slot_of_all(pipeline.cmd_iter()).map_err(|_| cross_slot())?;
        let goal = slot.map_or(Goal::Any, Goal::Slot);
        let sharing = Sharing::of_pipeline(pipeline, C::sharing);
        let mut aim = Aim { node: self.node_for(&goal, false)?, asking: false };
        let mut hops = HOPS;
        loop {
            let replies = match self.carrier(&aim.node).await {
                Err(rejection) => Err(rejection.into()),
                Ok(carrier) if aim.asking && !pipeline.is_transaction() => {
                    let asked = asking_once(pipeline.cmd_iter());
                    carrier.pipeline(&asked, (wanted.0 + 1, wanted.1), sharing).await
                }
                Ok(carrier) if aim.asking => {
                    let (multi, exec) = (redis::cmd("MULTI"), redis::cmd("EXEC"));
                    let all = [&multi].into_iter().chain(pipeline.cmd_iter()).chain([&exec]);
                    let asked = asking_once(all);
                    let replies = carrier.pipeline(&asked, (0, asked.len()), sharing).await;
                    replies.and_then(last)
                }
                Ok(carrier) => carrier.pipeline(pipeline, wanted, sharing).await,
            };
            let next = match &replies {
                Ok(replies) => replies.iter().find_map(|reply| self.next(&aim.node, &goal, reply)),
                Err(Error::Inner(error)) => self.redirection(&aim.node, &goal, error),
                Err(Error::Rejected(rejection)) => self.other_than(&aim, &goal, rejection),
            };
            match next.filter(|_| hops > 0) {
                Some(next) => aim = next,
                None => return replies,
            }
            hops -= 1;
        }
    }

    /// Whether a node would serve right now; its refusal is counted.
    fn would_serve(&self, node: &Arc<Node>) -> Result<(), Rejection> {
        let refusal = node.change(|state| {
            let refusal = state.refusal()?;
            state.ledger.request_dial();
            Some((refusal, state.ledger.account(&self.endpoint)))
        });
        match refusal {
            Some((refusal, account)) => Err(node.reject(account, refusal)),
            None => Ok(()),
        }
    }

    /// Where the pieces go, by number. One that any node can do goes along with another one, so that it takes no
    /// further node.
    fn aims(&self, pieces: &[Piece]) -> Result<Vec<(usize, Aim)>, Error> {
        let first = pieces.iter().find(|piece| !matches!(piece.goal, Goal::Any));
        let mut last = first.or(pieces.first()).map(|piece| self.aim(&piece.goal, &piece.cmd));
        let aim = |(number, piece): (usize, &Piece)| {
            let aim = match (&piece.goal, last.take()) {
                (Goal::Any, Some(aim)) => aim?,
                (goal, _) => self.aim(goal, &piece.cmd)?,
            };
            last = Some(Ok(aim.clone()));
            Ok((number, aim))
        };
        pieces.iter().enumerate().map(aim).collect()
    }

    fn aim(&self, goal: &Goal, cmd: &Cmd) -> Result<Aim, Error> {
        let reads = self.cluster.reads_replicas() && is_read_only(cmd);
        Ok(Aim { node: self.node_for(goal, reads)?, asking: false })
    }

    fn node_for(&self, goal: &Goal, reads: bool) -> Result<Arc<Node>, Error> {
        if let (Goal::Any, Some(home)) = (goal, &self.home) {
            return Ok(Arc::clone(home));
        }
        match goal {
            Goal::Slot(slot) => self.cluster.node_of(*slot, reads),
            Goal::Node(node) => Ok(Arc::clone(node)),
            // One that something is open to will do, and costs nothing.
            Goal::Any => match self.open.iter().find(|carrier| !carrier.node().is_refusing()) {
                Some(carrier) => Ok(Arc::clone(carrier.node())),
                None => self.cluster.any(),
            },
        }
    }

    async fn carrier(&mut self, node: &Arc<Node>) -> Result<&mut C, Rejection> {
        let at = self.open_at(node).await?;
        Ok(&mut self.open[at])
    }

    /// Where among those that are open the node's is, once it is.
    async fn open_at(&mut self, node: &Arc<Node>) -> Result<usize, Rejection> {
        let open = self.open.iter().position(|carrier| Arc::ptr_eq(carrier.node(), node));
        if let Some(at) = open {
            return Ok(at);
        }
        let home = self.home.as_ref();
        self.open.retain(|carrier| {
            let is_home = home.is_some_and(|home| Arc::ptr_eq(home, carrier.node()));
            is_home || !carrier.node().is_closed()
        });
        let node = Arc::clone(node);
        let mut open = C::open(node, &self.endpoint, self.location, self.exclusive).await?;
        if self.response_timeout.is_some() {
            open.set_response_timeout(self.response_timeout);
        }
        self.open.push(open);
        Ok(self.open.len() - 1)
    }

    /// Where a reply says that its command is to go.
    fn next(&self, asked: &Arc<Node>, goal: &Goal, reply: &Value) -> Option<Aim> {
        match reply {
            Value::ServerError(error) => self.redirection(asked, goal, &error.clone().into()),
            _ => None,
        }
    }

    /// Where an error says that the command is to go: to the primary, if it was read from a replica that serves
    /// nobody.
    #[cold]
    fn redirection(&self, asked: &Arc<Node>, goal: &Goal, error: &RedisError) -> Option<Aim> {
        use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown};
        let aim = self.cluster.redirected(asked, error);
        match (goal, error.kind()) {
            (Goal::Slot(slot), ErrorKind::Server(BusyLoading | ClusterDown | MasterDown))
                if self.cluster.may_fall_back(*slot, asked) =>
            {
                let node = self.cluster.node_of(*slot, false).ok()?;
                Some(Aim { node, asking: false })
            }
            _ => aim,
        }
    }

    /// Another node for what one has refused, so that nothing was sent: it has left the cluster, or it is a
    /// replica that need not be it.
    #[cold]
    fn other_than(&self, aim: &Aim, goal: &Goal, rejection: &Rejection) -> Option<Aim> {
        let has_left = *rejection == Rejection::Closed && !self.cluster.is_closed();
        let node = match goal {
            Goal::Slot(slot) if has_left || self.cluster.may_fall_back(*slot, &aim.node) => {
                self.cluster.node_of(*slot, false)
            }
            Goal::Any if has_left => self.cluster.any(),
            Goal::Slot(_) | Goal::Any | Goal::Node(_) => return None,
        };
        let node = node.ok()?;
        (!Arc::ptr_eq(&node, &aim.node)).then_some(Aim { node, asking: false })
    }
}

impl Leg {
    /// The replies to its pieces.
    fn replies(&self, all: Vec<Value>) -> impl Iterator<Item = (usize, Value)> {
        self.pieces.iter().zip(all).filter_map(|(piece, reply)| Some(((*piece)?, reply)))
    }
}
