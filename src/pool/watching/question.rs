//! Questions: commands that the watch sends over connections that stay in circulation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use futures_util::future::{MaybeDone, maybe_done};
use redis::{Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::sync::oneshot;

use crate::pool::core::Core;
use crate::pool::lease::unanswered;
use crate::pool::store::Connection;

/// The watch's question, and where to it is to be put.
pub(in crate::pool) type Passage = (Pipeline, oneshot::Sender<Question>);

/// Commands on their way, on a connection that may be somebody else's by now.
pub(in crate::pool) struct Question(Pin<Box<MaybeDone<RedisFuture<'static, Vec<Value>>>>>);

impl Question {
    fn put(connection: &Connection, commands: Pipeline) -> Self {
        let mut redis = connection.redis.clone();
        let reply: RedisFuture<'static, Vec<Value>> =
            Box::pin(async move { redis.send_packed_commands(&commands, 0, commands.len()).await });
        let mut question = Box::pin(maybe_done(reply));
        // The first poll hands it to the connection's driver, whatever this task has done before.
        let first = std::pin::pin!(tokio::task::unconstrained(question.as_mut()));
        let _ = first.poll(&mut Context::from_waker(Waker::noop()));
        Self(question)
    }

    pub(super) async fn answer(mut self) -> RedisResult<Vec<Value>> {
        self.0.as_mut().await;
        self.0.as_mut().take_output().unwrap_or_else(|| Err(unanswered()))
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}

/// Whether we lack the right to ask, or the server does not know the question.
pub(super) fn is_denied(error: &RedisError) -> bool {
    match error.code() {
        Some("NOPERM" | "NOAUTH") => true,
        Some("ERR") => error.detail().is_some_and(|detail| detail.starts_with("unknown command")),
        _ => false,
    }
}

impl Core {
    /// Puts a question to a connection that nobody has.
    pub(super) fn put_to_idle(self: &Arc<Self>, commands: &Pipeline) -> Option<Question> {
        let connection = self.withdraw_one()?;
        let question = Question::put(&connection, commands.clone());
        self.restore(connection);
        Some(question)
    }

    /// Puts a question to the next connection that is dialed or comes back.
    pub(super) async fn put_to_next(self: &Arc<Self>, commands: &Pipeline) -> Option<Question> {
        let (sender, question) = oneshot::channel();
        *self.passage() = Some((commands.clone(), sender));
        self.watch_waits.store(true, Ordering::Release);
        // One may have come back before it could know.
        if let Some(question) = self.put_to_idle(commands) {
            return Some(question);
        }
        tokio::time::timeout(super::PATIENCE, question).await.ok()?.ok()
    }

    /// Lets the watch put its question, if it waits for that, to a connection that nobody has: it goes
    /// out before whatever the next holder sends, and costs that one nothing but its reply's bytes.
    pub(in crate::pool) fn pass_by_watch(&self, connection: &Connection) {
        if self.watch_waits.load(Ordering::Relaxed)
            && self.watch_waits.swap(false, Ordering::AcqRel)
            && let Some((commands, sender)) = self.passage().take()
        {
            // Where the watch has lost patience, the answer is for nobody.
            let _ = sender.send(Question::put(connection, commands));
        }
    }

    pub(super) fn passage(&self) -> MutexGuard<'_, Option<Passage>> {
        self.passage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
