//! The watch's mailbox: what others leave for it, and what it leaves for the connections that pass by.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Waker};

use futures_util::future::{MaybeDone, maybe_done};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};

use crate::pool::store::Connection;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, Notify, oneshot};
use crate::vocabulary::reply::unanswered;

#[derive(Debug, Default)]
pub(in crate::pool) struct Mailbox {
    /// The watch should look: somebody needs a higher limit, or a connection was lost.
    pub(in crate::pool) attention: Notify,
    /// There is a pending question; beside its lock, because every lease that ends looks.
    waits: AtomicBool,
    /// It has found no connection that nobody has for long, and may go over one that is held.
    urgent: AtomicBool,
    pending: Mutex<Option<Pending>>,
    /// What gives our share of the fleet's slots back, while we have one.
    goodbye: Mutex<Option<Cmd>>,
}

/// Commands that wait for a connection to be sent on.
#[derive(Debug)]
struct Pending {
    /// To which they are to go.
    server: Arc<str>,
    commands: Pipeline,
    reply: oneshot::Sender<PendingReply>,
}

impl Mailbox {
    fn pending(&self) -> MutexGuard<'_, Option<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves commands for the next connection to that server that passes by, or, if they are `urgent`, carries a
    /// command of its holder's.
    pub(super) fn leave(
        &self,
        server: Arc<str>,
        commands: Pipeline,
        urgent: bool,
    ) -> oneshot::Receiver<PendingReply> {
        let (reply, receiver) = oneshot::channel();
        *self.pending() = Some(Pending { server, commands, reply });
        self.urgent.store(urgent, Ordering::Relaxed);
        self.waits.store(true, Ordering::Release);
        receiver
    }

    /// Takes the commands back; `None` if they were sent.
    pub(super) fn take_back(&self) -> Option<Pipeline> {
        self.waits.store(false, Ordering::Release);
        Some(self.pending().take()?.commands)
    }

    /// Sends what is urgent before the holder's next command on a connection that is as the dial left it.
    pub(in crate::pool) fn pass_held(&self, connection: &Connection) {
        if self.urgent.load(Ordering::Relaxed) {
            self.pass(connection);
        }
    }

    /// Sends what waits on a connection that nobody has: it goes out before whatever the next holder
    /// sends, and costs that one nothing but its reply's bytes.
    pub(in crate::pool) fn pass(&self, connection: &Connection) {
        if !self.waits.load(Ordering::Relaxed) {
            return;
        }
        let to_it = |pending: &mut Pending| pending.server == connection.socket.server;
        let pending = self.pending().take_if(to_it);
        if let Some(Pending { commands, reply, .. }) = pending {
            self.waits.store(false, Ordering::Release);
            // Where the watch is gone, the answer is for nobody.
            let _ = reply.send(PendingReply::send(&connection.redis, commands));
        }
    }

    /// How to leave the fleet, when the pool is closed.
    pub(in crate::pool) fn set_goodbye(&self, goodbye: Option<Cmd>) {
        *self.goodbye.lock().unwrap_or_else(PoisonError::into_inner) = goodbye;
    }

    pub(in crate::pool) fn take_goodbye(&self) -> Option<Cmd> {
        self.goodbye.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Commands on their way, on a connection that may be somebody else's by now.
pub(in crate::pool) struct PendingReply(Pin<Box<MaybeDone<RedisFuture<'static, Vec<Value>>>>>);

impl PendingReply {
    pub(in crate::pool) fn send(redis: &MultiplexedConnection, commands: Pipeline) -> Self {
        let mut redis = redis.clone();
        let reply: RedisFuture<'static, Vec<Value>> =
            Box::pin(async move { redis.send_packed_commands(&commands, 0, commands.len()).await });
        let mut pending = Box::pin(maybe_done(reply));
        // The first poll hands it to the connection's driver, whatever this task has done before.
        let first = std::pin::pin!(tokio::task::unconstrained(pending.as_mut()));
        let _ = first.poll(&mut Context::from_waker(Waker::noop()));
        Self(pending)
    }

    pub(in crate::pool) async fn answer(mut self) -> RedisResult<Vec<Value>> {
        self.0.as_mut().await;
        self.0.as_mut().take_output().unwrap_or_else(|| Err(unanswered()))
    }
}

impl fmt::Debug for PendingReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingReply")
    }
}
