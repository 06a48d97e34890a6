//! Refusals as errors of redis-rs, for code that speaks only those.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::{Error, Outcome, Phase, Rejection};

/// What the text of a refusal begins with where it is no I/O error.
const REFUSED: &str = "redis-guard refused";

/// For code that speaks only [`RedisError`]: the kind says what it can do about it, as the table at
/// [`Rejection`] has it. As an I/O error it keeps the [`Rejection`] itself, behind
/// [`source`](std::error::Error::source).
impl From<Rejection> for RedisError {
    fn from(rejection: Rejection) -> Self {
        match Told::of(&rejection) {
            Told::Io(kind) => io::Error::new(kind, rejection).into(),
            Told::Otherwise(kind) => (kind, REFUSED, rejection.to_string()).into(),
        }
    }
}

/// The error of what was guarded as it is; of a refusal what the table at [`Rejection`] says.
impl From<Error> for RedisError {
    fn from(error: Error) -> Self {
        match error {
            Error::Rejected(rejection) => rejection.into(),
            Error::Inner(error) => error,
        }
    }
}

/// The error as it is; one that keeps a [`Rejection`] is that again.
impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        match rejection_in(&error) {
            Some(rejection) => Self::Rejected(rejection.clone()),
            None => Self::Inner(error),
        }
    }
}

/// What redis-rs and its users are told of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Io(io::ErrorKind),
    Otherwise(ErrorKind),
}

impl Told {
    fn of(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::BreakerOpen { failure: Some(failure), .. }
            | Rejection::ConnectFailed { failure, .. }
            | Rejection::AcquireTimeout { phase: Phase::Dial, failure: Some(failure), .. } => {
                Self::of_outcome(failure.outcome)
            }
            Rejection::AcquireTimeout { phase: Phase::Dial, failure: None, .. } => {
                Self::of_outcome(Outcome::Timeout)
            }
            // Another try at once would stand in the same queue.
            _ => Self::Otherwise(ErrorKind::Client),
        }
    }

    fn of_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Refused => Self::Io(io::ErrorKind::ConnectionRefused),
            Outcome::Unreachable | Outcome::Dns => Self::Io(io::ErrorKind::HostUnreachable),
            Outcome::Timeout => Self::Io(io::ErrorKind::TimedOut),
            Outcome::Auth => Self::Otherwise(ErrorKind::AuthenticationFailed),
            Outcome::Loading => Self::Otherwise(ErrorKind::Server(ServerErrorKind::BusyLoading)),
            _ => Self::Otherwise(ErrorKind::Client),
        }
    }
}

/// The I/O error inside. redis-rs keeps it behind an `Arc`, which is what `source` hands out.
pub(crate) fn io_error(error: &RedisError) -> Option<&io::Error> {
    type Shared = Arc<dyn std::error::Error + Send + Sync>;
    error.source()?.downcast_ref::<Shared>()?.downcast_ref()
}

/// The refusal that an I/O error was made of.
pub(crate) fn rejection_in(error: &RedisError) -> Option<&Rejection> {
    io_error(error)?.get_ref()?.downcast_ref()
}

/// Whether the error was made of a refusal.
pub(crate) fn is_refusal(error: &RedisError) -> bool {
    rejection_in(error).is_some() || error.to_string().starts_with(REFUSED)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redis::RetryMethod;

    use super::*;
    use crate::vocabulary::DialFailure;

    const WAIT: Duration = Duration::from_millis(1500);

    fn failed(outcome: Outcome) -> Rejection {
        let failure = DialFailure::new("10.0.0.1:6379", outcome, "the server's words");
        Rejection::breaker_open(WAIT).with_failure(failure)
    }

    fn told(rejection: Rejection) -> RedisError {
        RedisError::from(Error::from(rejection))
    }

    #[test]
    fn the_kind_follows_the_outcome_of_the_last_dial() {
        use RetryMethod as Retry;
        let loading = ErrorKind::Server(ServerErrorKind::BusyLoading);
        let other = (ErrorKind::Client, Retry::NoRetry);
        for outcome in Outcome::ALL {
            let (kind, retry) = match outcome {
                Outcome::Refused => (ErrorKind::Io, Retry::Reconnect),
                Outcome::Unreachable | Outcome::Dns | Outcome::Timeout => {
                    (ErrorKind::Io, Retry::RetryImmediately)
                }
                Outcome::Auth => (ErrorKind::AuthenticationFailed, Retry::Reconnect),
                Outcome::Loading => (loading, Retry::WaitAndRetry),
                _ => other.clone(),
            };
            for rejection in [
                failed(*outcome),
                Rejection::connect_failed(failed(*outcome).failure().unwrap().clone(), WAIT),
                Rejection::acquire_timeout(WAIT, Phase::Dial)
                    .with_failure(failed(*outcome).failure().unwrap().clone()),
            ] {
                let error = told(rejection);
                assert_eq!(error.kind(), kind, "{outcome}");
                assert_eq!(error.retry_method() as u8, retry.clone() as u8, "{outcome}");
                assert_eq!(error.is_connection_refusal(), *outcome == Outcome::Refused);
                assert_eq!(error.is_timeout(), *outcome == Outcome::Timeout);
                assert!(error.to_string().contains("the server's words"), "{error}");
                assert!(is_refusal(&error), "{error}");
            }
        }
    }

    #[test]
    fn limits_of_our_own_are_not_to_be_tried_again_at_once() {
        let refused = DialFailure::new("10.0.0.1:6379", Outcome::Refused, "nobody listens");
        for rejection in [
            Rejection::breaker_open(WAIT),
            Rejection::budget_exhausted("cart", 8),
            Rejection::in_flight_limit("cart", 8),
            Rejection::queue_full(64),
            Rejection::acquire_timeout(WAIT, Phase::Connection).with_failure(refused),
            Rejection::retry_budget_exhausted(WAIT),
            Rejection::Closed,
        ] {
            let error = told(rejection);
            assert_eq!(error.kind(), ErrorKind::Client, "{error}");
            assert!(!error.is_connection_dropped() && !error.is_unrecoverable_error(), "{error}");
            assert!(is_refusal(&error) && rejection_in(&error).is_none(), "{error}");
        }
    }

    #[test]
    fn whoever_found_nothing_to_dial_in_time_timed_out() {
        let error = told(Rejection::acquire_timeout(WAIT, Phase::Dial));
        assert!(error.is_io_error() && error.is_timeout(), "{error}");
    }

    #[test]
    fn an_io_error_keeps_the_refusal_it_was_made_of() {
        let rejection = failed(Outcome::Refused);
        assert_eq!(rejection_in(&told(rejection.clone())), Some(&rejection));
        assert_eq!(told(rejection.clone()).to_string(), rejection.to_string());
        assert_eq!(Error::from(told(rejection.clone())).rejection(), Some(&rejection));
    }

    #[test]
    fn what_the_driver_says_itself_is_no_refusal() {
        let own = RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        let client = RedisError::from((ErrorKind::Client, "empty command"));
        assert!(!is_refusal(&own) && !is_refusal(&client));
    }
}
