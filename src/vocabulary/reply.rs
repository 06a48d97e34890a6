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
