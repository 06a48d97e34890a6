//! Errors: why a caller was not served, in words an operator can act on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Endpoint, Outcome};

/// What [`acquire`](crate::GuardedPool::acquire) and its kin return: the guard's own refusal, or
/// the error of what it guards.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error<E = redis::RedisError> {
    /// The guard refused; nothing was sent to the server.
    Rejected(Rejection),
    /// The guarded call ran and failed; the error is its own.
    Inner(E),
}

impl<E> Error<E> {
    /// True if the guard refused, so that nothing was sent.
    #[must_use]
    pub const fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected(_))
    }

    /// The refusal, if it was one.
    #[must_use]
    pub const fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Inner(_) => None,
        }
    }

    /// How long to wait before asking again; see [`Rejection::retry_after`].
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(rejection) => rejection.retry_after(),
            Self::Inner(_) => None,
        }
    }

    /// The metric label: [`Rejection::reason`], or `inner`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.reason(),
            Self::Inner(_) => "inner",
        }
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> Error<E> {
    /// The error as tower's own layers want it: `Error<BoxError>` is no error itself, because a
    /// `BoxError` is none. A refusal can be taken out of the box with `downcast_ref::<Rejection>()`.
    #[must_use]
    pub fn into_boxed(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self {
            Self::Rejected(rejection) => rejection.into(),
            Self::Inner(error) => error.into(),
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

// Both variants are transparent: `source` goes past the inner error, so that no text repeats.
impl<E: std::error::Error> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(_) => None,
            Self::Inner(error) => error.source(),
        }
    }
}

impl<E> From<Rejection> for Error<E> {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<redis::RedisError> for Error {
    fn from(error: redis::RedisError) -> Self {
        Self::Inner(error)
    }
}

/// For code that speaks only [`redis::RedisError`]. A refusal becomes an error of the kind
/// [`Client`](redis::ErrorKind::Client), which redis-rs never retries: an I/O kind would make its
/// callers reconnect, and that is the storm.
impl From<Error> for redis::RedisError {
    fn from(error: Error) -> Self {
        match error {
            Error::Rejected(rejection) => rejection.into(),
            Error::Inner(error) => error,
        }
    }
}

/// Why the guard refused a caller.
///
/// A refusal is made without a round trip and says how long to wait where that is known. The
/// last words of the server are in it, so that one log line tells an operator what Redis said, which
/// Redis it was and when the next attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// No connection is live and the breaker is open: the next dial is `retry_after` from now.
    #[non_exhaustive]
    BreakerOpen {
        /// Time to the next dial.
        retry_after: Duration,
        /// The last failed dial; `None` when the breaker was forced open before any failed.
        failure: Option<Arc<DialFailure>>,
    },
    /// The endpoint held all of its budget: at once from
    /// [`try_acquire`](crate::GuardedPool::try_acquire), and from
    /// [`acquire`](crate::GuardedPool::acquire) when none of its connections came back within the
    /// acquire timeout.
    #[non_exhaustive]
    BudgetExhausted {
        /// The endpoint.
        endpoint: Endpoint,
        /// Its budget, in connections.
        max: usize,
    },
    /// The endpoint had all of its shared commands in flight, and none was answered within the
    /// acquire timeout.
    #[non_exhaustive]
    InFlightLimit {
        /// The endpoint.
        endpoint: Endpoint,
        /// Its limit, in commands.
        max: usize,
    },
    /// As many callers wait as the queue holds; one more would time out anyway.
    #[non_exhaustive]
    QueueFull {
        /// The bound, in waiters.
        limit: usize,
    },
    /// No connection could be had within the acquire timeout.
    #[non_exhaustive]
    AcquireTimeout {
        /// How long the caller waited; zero for [`try_acquire`](crate::GuardedPool::try_acquire).
        waited: Duration,
        /// What it was waiting for at the end.
        phase: Phase,
        /// The last failed dial, if dials are failing now.
        failure: Option<Arc<DialFailure>>,
    },
    /// No connection is live, and the last dial failed in a way that waiting does not mend (wrong
    /// password, protected mode, bad configuration).
    #[non_exhaustive]
    ConnectFailed {
        /// What the server said.
        failure: Arc<DialFailure>,
        /// Time to the next dial.
        retry_after: Duration,
    },
    /// Another attempt would go beyond the [`RetryBudget`](crate::RetryBudget).
    #[non_exhaustive]
    RetryBudgetExhausted {
        /// Time until the budget has room for sure.
        retry_after: Duration,
    },
    /// The pool was closed.
    Closed,
}

impl Rejection {
    /// The `reason` label of `redis_guard_rejections_total`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        Reason::of(self).as_str()
    }

    /// How long to wait before asking again, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BreakerOpen { retry_after, .. }
            | Self::ConnectFailed { retry_after, .. }
            | Self::RetryBudgetExhausted { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// The last failed dial, where it has to do with the refusal.
    #[must_use]
    pub fn failure(&self) -> Option<&DialFailure> {
        match self {
            Self::BreakerOpen { failure, .. } | Self::AcquireTimeout { failure, .. } => {
                failure.as_deref()
            }
            Self::ConnectFailed { failure, .. } => Some(failure),
            _ => None,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BreakerOpen { retry_after, failure } => {
                match failure {
                    Some(failure) => write!(f, "{failure}")?,
                    None => f.write_str("the breaker was forced open")?,
                }
                write!(f, "; no connection is live, next attempt in {retry_after:.1?}")
            }
            Self::BudgetExhausted { endpoint, max } => {
                write!(f, "endpoint {endpoint:?} holds all {max} connections of its budget")
            }
            Self::InFlightLimit { endpoint, max } => {
                write!(f, "endpoint {endpoint:?} has {max} shared commands in flight already")
            }
            Self::QueueFull { limit } => {
                write!(f, "{limit} callers wait for a connection already")
            }
            Self::AcquireTimeout { waited, phase, failure } => {
                write!(f, "no connection after {waited:.1?}: {phase}")?;
                failure.as_ref().map_or(Ok(()), |failure| write!(f, "; {failure}"))
            }
            Self::ConnectFailed { failure, retry_after } => {
                write!(f, "{failure}; next attempt in {retry_after:.1?}")
            }
            Self::RetryBudgetExhausted { retry_after } => {
                write!(f, "the retry budget is spent; it has room again in {retry_after:.1?}")
            }
            Self::Closed => f.write_str("the pool is closed"),
        }
    }
}

impl std::error::Error for Rejection {}

impl From<Rejection> for redis::RedisError {
    fn from(rejection: Rejection) -> Self {
        (redis::ErrorKind::Client, "redis-guard refused", rejection.to_string()).into()
    }
}

/// A dial that failed: to which server, how, and in whose words.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DialFailure {
    /// The server's address, without credentials.
    pub server: Arc<str>,
    /// How the dial ended.
    pub outcome: Outcome,
    /// The server's own words where it said something, otherwise ours. Never a secret.
    pub message: String,
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis at {} [{}]: {}", self.server, self.outcome, self.message)
    }
}

/// What a caller was waiting for when its acquire timeout ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Every live connection was lent out, or kept for another endpoint's reserve.
    Connection,
    /// No connection was live, and a dial was due or in flight.
    Dial,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "every live connection was in use or reserved",
            Self::Dial => "no connection was live and none could be dialed in time",
        })
    }
}

/// The kinds of [`Rejection`], as a counter's index and label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    BreakerOpen,
    BudgetExhausted,
    InFlightLimit,
    QueueFull,
    AcquireTimeout,
    ConnectFailed,
    RetryBudgetExhausted,
    Closed,
}

impl Reason {
    pub(crate) const ALL: [Self; 8] = [
        Self::BreakerOpen,
        Self::BudgetExhausted,
        Self::InFlightLimit,
        Self::QueueFull,
        Self::AcquireTimeout,
        Self::ConnectFailed,
        Self::RetryBudgetExhausted,
        Self::Closed,
    ];

    pub(crate) const fn of(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::BreakerOpen { .. } => Self::BreakerOpen,
            Rejection::BudgetExhausted { .. } => Self::BudgetExhausted,
            Rejection::InFlightLimit { .. } => Self::InFlightLimit,
            Rejection::QueueFull { .. } => Self::QueueFull,
            Rejection::AcquireTimeout { .. } => Self::AcquireTimeout,
            Rejection::ConnectFailed { .. } => Self::ConnectFailed,
            Rejection::RetryBudgetExhausted { .. } => Self::RetryBudgetExhausted,
            Rejection::Closed => Self::Closed,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::BudgetExhausted => "budget_exhausted",
            Self::InFlightLimit => "in_flight_limit",
            Self::QueueFull => "queue_full",
            Self::AcquireTimeout => "acquire_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::RetryBudgetExhausted => "retry_budget_exhausted",
            Self::Closed => "closed",
        }
    }
}

/// Everything that is wrong with a configuration, found in one go by
/// [`build`](crate::GuardedPoolBuilder::build).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    problems: Vec<String>,
}

impl BuildError {
    pub(crate) fn new(problems: Vec<String>) -> Self {
        Self { problems }
    }

    /// The problems, one sentence each.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid configuration: ")?;
        f.write_str(&self.problems.join("; "))
    }
}

impl std::error::Error for BuildError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn max_clients() -> Rejection {
        Rejection::BreakerOpen {
            retry_after: Duration::from_millis(1500),
            failure: Some(Arc::new(DialFailure {
                server: "10.0.0.1:6379".into(),
                outcome: Outcome::MaxClients,
                message: "ERR max number of clients reached".to_owned(),
            })),
        }
    }

    #[test]
    fn one_line_tells_what_redis_said_which_redis_and_when_the_next_attempt_is() {
        assert_eq!(
            max_clients().to_string(),
            "redis at 10.0.0.1:6379 [max_clients]: ERR max number of clients reached; \
             no connection is live, next attempt in 1.5s"
        );
    }

    #[test]
    fn a_refusal_becomes_a_redis_error_that_nobody_retries() {
        let error = redis::RedisError::from(Error::from(max_clients()));
        assert!(!error.is_connection_dropped() && !error.is_unrecoverable_error());
        assert!(error.to_string().contains("max number of clients reached"));
    }

    #[test]
    fn the_inner_error_stays_itself() {
        let inner = redis::RedisError::from((redis::ErrorKind::Parse, "bad reply"));
        let error = Error::from(inner.clone());
        assert!(!error.is_rejected() && error.retry_after().is_none());
        assert_eq!(error.to_string(), inner.to_string());
    }
}
