//! Waiting for a reply.

use std::io;
use std::time::Duration;

use redis::{RedisError, RedisResult};

/// The shortest response timeout of a handle or a lease: below it nothing would ever be answered.
pub(crate) const SHORTEST_RESPONSE_TIMEOUT: Duration = Duration::from_millis(1);

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

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use redis::{Value, parse_redis_value};

    use super::*;

    fn said(line: &str) -> RedisError {
        match parse_redis_value(format!("-{line}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => error.into(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_does_not_come_in_time_is_an_error_and_one_that_does_is_itself() {
        let limit = Some(Duration::from_secs(3));
        let start = tokio::time::Instant::now();
        let late = within::<u8>(limit, pending()).await;
        assert!(late.is_err_and(|error| error.is_timeout()));
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        for limit in [limit, None] {
            assert_eq!(within(limit, ready(Ok(7))).await, Ok(7));
        }
    }

    #[test]
    fn a_question_is_denied_by_what_we_may_not_or_the_server_cannot() {
        for line in [
            "NOPERM User app has no permissions to run the 'info' command",
            "NOAUTH Authentication required.",
            "ERR unknown command 'INFO', with args beginning with: ",
        ] {
            assert!(is_denied(&said(line)), "{line}");
        }
        for line in ["ERR syntax error", "LOADING Redis is loading", "WEIRD unknown command"] {
            assert!(!is_denied(&said(line)), "{line}");
        }
        assert!(!is_unknown_command(&said("NOPERM no permissions")));
    }
}
