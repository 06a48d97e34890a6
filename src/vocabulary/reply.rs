//! Waiting for a reply.

use std::io;
use std::time::Duration;

use redis::{RedisError, RedisResult};

/// Waits for a reply, at most `limit`.
pub(crate) async fn within<T>(
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
pub(crate) fn unanswered() -> RedisError {
    let why = "no reply within the response timeout; the command may have run";
    io::Error::new(io::ErrorKind::TimedOut, why).into()
}

/// Whether we lack the right to ask, or the server does not know the question.
pub(crate) fn is_denied(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "NOAUTH")) || is_unknown_command(error)
}

/// Whether the server does not know the command.
pub(crate) fn is_unknown_command(error: &RedisError) -> bool {
    error.code() == Some("ERR")
        && error.detail().is_some_and(|detail| detail.starts_with("unknown command"))
}
