//! The lease: a connection in the hands of one caller.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

use deadpool::managed::Object;

use super::admission::Grant;
use super::core::Core;
use super::leak::Seat;
use super::residue::Residue;
use super::store::{Connection, Lent, Shared};
use crate::dial::reset_commands;
use crate::telemetry::status::CloseReason;
use crate::vocabulary::command;

/// An exclusive lease of one connection, returned when it is dropped.
///
/// It implements [`ConnectionLike`], so everything in [`redis::AsyncCommands`], pipelines and scripts
/// work on it. It is neither `Clone` nor does it dereference to something that is: a copy would
/// outlive the lease and escape the budget.
///
/// **Timeouts.** A command that is not answered within
/// [`response_timeout`](crate::GuardedPoolBuilder::response_timeout) fails with an I/O error of the
/// kind `TimedOut`; commands that block by design (BLPOP, XREAD BLOCK, WAIT, …) wait for as long as
/// they say themselves.
///
/// **What a lease leaves behind.** A connection on which keys are still watched, a transaction is
/// open, or the session was changed (SELECT, AUTH, HELLO, CLIENT SETNAME, …) is brought back to
/// where the dial left it, with RESET (Redis 6.2 and later), in the background, before anybody else
/// gets it. One that cannot be (SUBSCRIBE, MONITOR, CLIENT REPLY, an abandoned blocking command) is
/// closed.
///
/// # Cancel safety
///
/// Dropping the future of a command does not recall the command: the server may run it. The
/// connection stays usable; it is lent again once the reply has come.
pub struct GuardedConnection {
    /// `Some` until the drop.
    held: Option<Held>,
    residue: Residue,
}

struct Held {
    connection: Lent,
    grant: Grant,
}

impl GuardedConnection {
    pub(super) fn new(connection: Lent, grant: Grant) -> Self {
        connection.shared.lent_to(Some(grant.seat));
        Self { held: Some(Held { connection, grant }), residue: Residue::default() }
    }

    /// Its place among the leases.
    pub(super) fn seat(&self) -> Option<Seat> {
        self.held.as_ref().map(|held| held.grant.seat)
    }

    /// A copy of the connection, and what its owner knows of it.
    pub(super) fn parts(&self) -> Option<(MultiplexedConnection, Arc<Shared>)> {
        let connection = &self.held.as_ref()?.connection;
        Some((connection.redis.clone(), Arc::clone(&connection.shared)))
    }

    /// Ends the lease and closes its connection.
    pub(super) fn discard(mut self, reason: CloseReason) {
        self.residue.poisoned = true;
        self.held().connection.shared.blame(reason);
    }

    /// Sends a pipeline; the replies are those of its commands, or the one of EXEC where it is atomic.
    pub(crate) async fn send_pipeline(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let (offset, count) = command::replies(pipeline);
        let replies = self.pipeline(pipeline, offset, count).await?;
        replies.into_iter().map(Value::extract_error).collect()
    }

    fn held(&mut self) -> &mut Held {
        self.held.as_mut().expect("held until the drop")
    }

    /// Sends a command and notes what it leaves behind, also when the caller loses patience.
    pub(crate) async fn command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        self.residue.before(cmd);
        let limit = self.limit(command::blocks(cmd));
        let reply = within(limit, self.held().connection.redis.send_packed_command(cmd)).await;
        if !cmd.is_no_response() {
            self.note(&reply, |residue| residue.after(cmd));
        }
        reply
    }

    pub(super) async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        pipeline.cmd_iter().for_each(|cmd| self.residue.before(cmd));
        let limit = self.limit(pipeline.cmd_iter().any(command::blocks));
        let redis = &mut self.held().connection.redis;
        let replies = within(limit, redis.send_packed_commands(pipeline, offset, count)).await;
        self.note(&replies, |residue| residue.after_pipeline(pipeline));
        replies
    }

    /// How long to wait for a reply.
    fn limit(&mut self, blocks: bool) -> Option<Duration> {
        (!blocks).then_some(self.held().grant.core.settings.response_timeout)
    }

    fn note<T>(&mut self, reply: &RedisResult<T>, answered: impl FnOnce(&mut Residue)) {
        match reply {
            // Still on its way, and noted as such.
            Err(error) if error.is_timeout() => {}
            // The driver is gone or about to go; the flag that says so may come a moment later.
            Err(error) if error.is_unrecoverable_error() || error.is_io_error() => {
                self.residue.poisoned = true;
            }
            Ok(_) => answered(&mut self.residue),
            Err(error) if error.code().is_some() => answered(&mut self.residue),
            // Not sent, or not known to be.
            Err(_) => {}
        }
    }
}

pub(super) async fn within<T>(
    limit: Option<Duration>,
    reply: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    match limit {
        None => reply.await,
        Some(limit) => {
            tokio::time::timeout(limit, reply).await.unwrap_or_else(|_| Err(unanswered()))
        }
    }
}

/// What a caller hears whose command was not answered in time.
pub(super) fn unanswered() -> RedisError {
    let why = "no reply within the response timeout; the command may have run";
    io::Error::new(io::ErrorKind::TimedOut, why).into()
}

impl ConnectionLike for GuardedConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.command(cmd))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(self.pipeline(pipeline, offset, count))
    }

    fn get_db(&self) -> i64 {
        self.held.as_ref().map_or(0, |held| held.grant.core.dialer.redis.db())
    }
}

impl fmt::Debug for GuardedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.held.as_ref().map(|held| held.connection.shared.id);
        f.debug_struct("GuardedConnection").field("id", &id).finish_non_exhaustive()
    }
}

impl Drop for GuardedConnection {
    fn drop(&mut self) {
        let Some(Held { connection, grant }) = self.held.take() else {
            return;
        };
        let core = &grant.core;
        let shared = &connection.shared;
        shared.lent_to(None);
        // deadpool reads the clock when it hands out; that is the start.
        core.metrics.used(|| Object::metrics(&connection).last_used());
        let in_store = if !shared.is_alive() {
            drop(Object::take(connection));
            false
        } else if self.residue.is_beyond_reset() {
            shared.blame(CloseReason::Dirty);
            drop(Object::take(connection));
            false
        } else if shared.is_doomed() && core.may_expire() {
            shared.blame(CloseReason::Lifetime);
            drop(Object::take(connection));
            false
        } else if core.sheds(shared) {
            drop(Object::take(connection));
            false
        } else if !self.residue.is_clean() {
            clean(core, Object::take(connection), self.residue);
            false
        } else if hand_back(core, &connection) {
            shared.used(core.coarse_now());
            drop(connection);
            true
        } else {
            drop(Object::take(connection));
            false
        };
        grant.end(in_store);
    }
}

/// Lent → idle, past the watch; false if it died meanwhile.
fn hand_back(core: &Core, connection: &Connection) -> bool {
    core.pass_by_watch(connection);
    connection.shared.give_back()
}

/// Brings a connection back to where the dial left it, in the background, and puts it back; or
/// closes it.
fn clean(core: &Arc<Core>, mut connection: Connection, residue: Residue) {
    let keeper = Arc::clone(core);
    let task = async move {
        let mut commands = redis::pipe();
        if residue.needs_reset() {
            reset_commands(&mut commands, &keeper.dialer.redis, &keeper.dialer.client_name);
        }
        // Replies come in order, so once this one is there no other is outstanding. A number that
        // was not sent before tells it from the reply to somebody else's question.
        let nonce = fastrand::u64(..).to_string();
        commands.cmd("PING").arg(&nonce);
        let limit = Some(keeper.settings.response_timeout);
        let sent = connection.redis.send_packed_commands(&commands, 0, commands.len());
        let replies = within(limit, sent).await.unwrap_or_default();
        let ours = Value::BulkString(nonce.into_bytes());
        let failed = replies.iter().any(|reply| matches!(reply, Value::ServerError(_)));
        if !failed && replies.last() == Some(&ours) {
            connection.shared.used(keeper.coarse_now());
            keeper.restore(connection);
        } else {
            connection.shared.blame(CloseReason::Dirty);
        }
    };
    // Without a runtime the connection is dropped with the task, and so closed.
    core.spawn(task);
}
