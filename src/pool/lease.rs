//! The lease: a connection in the hands of one caller.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value};

use deadpool::managed::Object;

use super::node::Node;
use super::patience::owed;
use super::residue::Residue;
use super::state::State;
use super::store::{Connection, Lent, Socket};
use super::waiting::{LeasePlace, Leased};
use crate::dial::{Notice, reset_commands};
use crate::telemetry::status::CloseReason;
use crate::vocabulary::command;
use crate::vocabulary::reply::within;

/// An exclusive lease of a connection to one server, returned when it is dropped.
pub(super) struct NodeLease {
    /// `Some` until the drop.
    held: Option<Held>,
    residue: Residue,
    /// Others send on it as well, so nobody may be lent it after.
    shared: bool,
    /// Its holder's own.
    response_timeout: Option<Duration>,
}

struct Held {
    connection: Lent,
    place: LeasePlace,
    node: Arc<Node>,
}

impl NodeLease {
    pub(super) fn new(node: Arc<Node>, Leased { connection, place }: Leased) -> Self {
        Self {
            held: Some(Held { connection, place, node }),
            residue: Residue::default(),
            shared: false,
            response_timeout: None,
        }
    }

    /// How long its commands wait for their replies from now on.
    pub(super) fn set_response_timeout(&mut self, timeout: Option<Duration>) {
        self.response_timeout = timeout;
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.held().node
    }

    /// A transaction is open, or keys are watched.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.residue.watching || self.residue.queueing
    }

    /// Its number among the node's connections.
    pub(super) fn id(&self) -> u64 {
        self.held().connection.socket.id
    }

    /// Its connection is known to be dead.
    #[cfg(test)]
    pub(super) fn is_dead(&self) -> bool {
        !self.held().connection.socket.is_alive()
    }

    /// Its place in its endpoint's budget.
    pub(super) fn place(&self) -> Option<LeasePlace> {
        self.held.as_ref().map(|held| held.place)
    }

    /// A copy of the connection, and what its owner knows of it. Others send on it from now on, so it
    /// is closed at the end of the lease, however that comes, and never lent again.
    pub(super) fn share(&mut self) -> (MultiplexedConnection, Arc<Socket>) {
        self.shared = true;
        let connection = &self.held().connection;
        (connection.redis.clone(), Arc::clone(&connection.socket))
    }

    /// Puts a shared connection's successor in its place; the old one, which others may still send on.
    pub(super) fn succeed(&mut self, successor: Connection) -> Connection {
        let held = self.held_mut();
        successor.socket.set_surplus(false);
        successor.socket.lent_to(Some(held.place.seat));
        let old = std::mem::replace(&mut *held.connection, successor);
        old.socket.lent_to(None);
        old.socket.retire();
        old
    }

    /// Ends the lease and closes its connection.
    pub(super) fn discard(mut self, reason: CloseReason) {
        self.residue.poisoned = true;
        self.held().connection.socket.blame(reason);
    }

    fn held(&self) -> &Held {
        self.held.as_ref().expect("held until the drop")
    }

    fn held_mut(&mut self) -> &mut Held {
        self.held.as_mut().expect("held until the drop")
    }

    /// Sends a command and notes what it leaves behind, also when the caller loses patience.
    pub(super) async fn command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let sending = self.send()?;
        let lease = &mut *sending.0;
        lease.take_along();
        let before = lease.residue;
        lease.residue.before(cmd);
        let limit = lease.limit(command::blocking_time(cmd));
        let redis = &mut lease.held_mut().connection.redis;
        // Pinned here: it is large, and `within` would have room for it three times.
        let reply = within(limit, pin!(redis.send_packed_command(cmd))).await;
        lease.hear(reply.as_ref().map(std::slice::from_ref));
        if !cmd.is_no_response() {
            let failed = matches!(reply, Err(_) | Ok(Value::ServerError(_)));
            lease.note(&reply, before.after(cmd, failed));
        }
        reply.map_err(|error| lease.explain(error))
    }

    pub(super) async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        (offset, count): (usize, usize),
    ) -> RedisResult<Vec<Value>> {
        let sending = self.send()?;
        let lease = &mut *sending.0;
        lease.take_along();
        let before = lease.residue;
        pipeline.cmd_iter().for_each(|cmd| lease.residue.before(cmd));
        let mut times = pipeline.cmd_iter().map(command::blocking_time);
        let blocking = times.try_fold(Duration::ZERO, |sum, time| Some(sum.saturating_add(time?)));
        let limit = lease.limit(blocking);
        let redis = &mut lease.held_mut().connection.redis;
        let replies =
            within(limit, pin!(redis.send_packed_commands(pipeline, offset, count))).await;
        lease.hear(replies.as_deref());
        let failed = |at: usize| {
            let reply = at.checked_sub(offset).and_then(|at| replies.as_ref().ok()?.get(at));
            matches!(reply, Some(Value::ServerError(_)))
        };
        lease.note(&replies, before.after_pipeline(pipeline, failed));
        replies.map_err(|error| lease.explain(error))
    }

    /// Something is about to be sent: an error where that cannot be any more.
    fn send(&mut self) -> RedisResult<Sending<'_>> {
        if self.residue.blocked {
            return Err(given_up());
        }
        let socket = &self.held().connection.socket;
        match socket.reason() {
            reason if !socket.is_alive() && reason != CloseReason::Peer => Err(closed(reason)),
            _ => {
                socket.in_use();
                Ok(Sending(self))
            }
        }
    }

    /// What goes out before the holder's next command, unless the session is the holder's own by now: credentials
    /// that have changed, and what the watch asks where all connections are lent for long.
    fn take_along(&mut self) {
        let residue = self.residue;
        let Held { connection, node, .. } = self.held();
        if !residue.is_clean() {
            return;
        }
        if connection.socket.is_to_authenticate() {
            node.authenticate(&connection.redis, &connection.socket);
        }
        node.mailbox.pass_held(connection);
    }

    /// How long to wait for a reply that may come so late; `None` for ever.
    fn limit(&mut self, blocking: Option<Duration>) -> Option<Duration> {
        let timeout = self.response_timeout;
        let timeout = timeout.unwrap_or_else(|| self.held().node.settings().response_timeout);
        Some(blocking?.saturating_add(timeout))
    }

    /// Every reply passes here, for what it says of the server.
    fn hear(&mut self, replies: Result<&[Value], &RedisError>) {
        let notice = match replies {
            Ok(replies) => replies.iter().find_map(Notice::of_reply),
            Err(error) => Notice::of_error(error),
        };
        if let Some(notice) = notice {
            let held = self.held();
            held.node.heard(&held.connection.socket, notice);
        }
    }

    /// The error in our words, where the pool has closed the connection under the command.
    fn explain(&mut self, error: RedisError) -> RedisError {
        let broke = !error.is_timeout()
            && (error.is_io_error() || error.is_unrecoverable_error())
            && self.held().connection.socket.reason() != CloseReason::Peer;
        if broke { cut(&error) } else { error }
    }

    /// Notes what a reply, or its lack, says of the connection; `answered`: what there is if it is one.
    fn note<T>(&mut self, reply: &RedisResult<T>, answered: Residue) {
        match reply {
            // Still on its way, and noted as such.
            Err(error) if error.is_timeout() => {}
            // The driver is gone or about to go; the flag that says so may come a moment later.
            Err(error) if error.is_unrecoverable_error() || error.is_io_error() => {
                self.residue.poisoned = true;
            }
            Err(error) if error.code().is_none() => {
                // Not sent, or not known to be.
            }
            _ => {
                self.residue = answered;
                self.held().node.replies.heard();
            }
        }
    }
}

/// A lease whose command is on its way, which is used until this is dropped. If that blocks, and has not been answered when this is dropped, it
/// might take an item for nobody: the connection is closed.
struct Sending<'a>(&'a mut NodeLease);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let Some(Held { connection, node, .. }) = &self.0.held else { return };
        connection.socket.used(node.coarse_now());
        if self.0.residue.blocked {
            node.revoke(&connection.socket, CloseReason::Dirty);
        }
    }
}

/// What a caller hears who sends on a lease whose connection the pool has closed.
fn closed(reason: CloseReason) -> RedisError {
    let why = match reason {
        CloseReason::Replaced => "its server is not the one any more",
        CloseReason::Revoked => "it was held for too long",
        CloseReason::PoolClosed => "the pool is closed",
        reason => reason.as_str(),
    };
    let what = format!("the pool has closed this lease's connection: {why}; nothing was sent");
    io::Error::new(io::ErrorKind::BrokenPipe, what).into()
}

/// What a caller hears whose command was under way when the pool closed the connection.
fn cut(error: &RedisError) -> RedisError {
    let what =
        "the pool closed the connection with the command in flight, which may or may not have run";
    (ErrorKind::Io, what, error.to_string()).into()
}

/// What a caller hears who sends on a lease after its blocking command was given up.
fn given_up() -> RedisError {
    let why = "a blocking command on this lease was given up, and its connection closed, so that it takes \
               nothing any more; nothing was sent: acquire another lease";
    io::Error::new(io::ErrorKind::BrokenPipe, why).into()
}

impl Drop for NodeLease {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            end(held, self.residue, self.shared);
        }
    }
}

/// What becomes of a connection at the end of its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Back,
    Close,
    Clean,
}

/// Ends a lease. The common case, on every request's path, takes the lock once, and concerns nobody.
fn end(Held { connection, place, node }: Held, residue: Residue, shared: bool) {
    // deadpool reads the clock when it hands out; that is the start.
    node.metrics.used(|| Object::metrics(&connection).last_used());
    if connection.socket.is_to_authenticate() && residue.is_clean() {
        node.authenticate(&connection.redis, &connection.socket);
    }
    connection.socket.lent_to(None);
    let mut state = node.lock();
    let end = end_of(&mut state, &connection.socket, residue, shared);
    let lease = state.end_lease(place, end == End::Back);
    let resolved = lease.filter(|lease| lease.suspected);
    let (connection, wakes) = match end {
        End::Back => {
            connection.socket.used(node.coarse_now());
            // Before it can be anybody's: the next may open a transaction.
            node.mailbox.pass(&connection);
            state.store.put_back(connection);
            if state.ledger.is_quiet() && resolved.is_none() {
                return;
            }
            (None, state.settle())
        }
        End::Close | End::Clean => (Some(Object::take(connection)), state.settle()),
    };
    drop(state);
    node.wake(wakes);
    match connection {
        Some(connection) if end == End::Clean => clean(&node, connection, residue),
        closed => drop(closed),
    }
    node.report_resolved(resolved.as_ref());
    node.after_lease();
}

fn end_of(state: &mut State, socket: &Socket, residue: Residue, shared: bool) -> End {
    if !socket.is_alive() {
        End::Close
    } else if shared || residue.is_beyond_reset() {
        socket.blame(if shared { CloseReason::Dropped } else { CloseReason::Dirty });
        End::Close
    } else if socket.is_outdated() && (state.retires(socket) || socket.is_expired()) {
        socket.blame_age();
        End::Close
    } else if state.ledger.shed() {
        socket.shed();
        End::Close
    } else if residue.is_clean() {
        End::Back
    } else {
        End::Clean
    }
}

/// Brings a connection back to where the dial left it, in the background, and puts it back; or
/// closes it.
fn clean(node: &Arc<Node>, mut connection: Connection, residue: Residue) {
    let keeper = Arc::clone(node);
    let task = async move {
        let mut commands = redis::pipe();
        let mut naming = 0..0;
        if residue.needs_reset() {
            connection.socket.authenticates();
            reset_commands(&mut commands, &keeper.dialer.login().redis);
            naming.start = commands.len();
            keeper.dialer.introduce(&mut commands);
            naming.end = commands.len();
        }
        // Replies come in order, so once this one is there no other is outstanding. A number that
        // was not sent before tells it from the reply to somebody else's question.
        let nonce = fastrand::u64(..).to_string();
        commands.cmd("PING").arg(&nonce);
        let socket = Arc::clone(&connection.socket);
        let sent = connection.redis.send_packed_commands(&commands, 0, commands.len());
        let Some(replies) = owed(&keeper, &socket, sent).await else { return };
        let replies = replies.unwrap_or_default();
        let ours = Value::BulkString(nonce.into_bytes());
        let failed = replies
            .iter()
            .enumerate()
            .any(|(at, reply)| matches!(reply, Value::ServerError(_)) && !naming.contains(&at));
        if !failed && replies.last() == Some(&ours) {
            connection.socket.used(keeper.coarse_now());
            keeper.authenticate(&connection.redis, &connection.socket);
            keeper.restore(connection);
        } else {
            connection.socket.blame(CloseReason::Dirty);
        }
    };
    // Without a runtime the connection is dropped with the task, and so closed.
    node.spawn(task);
}
