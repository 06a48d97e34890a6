//! Refusals: why a caller was not served, and for how long.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::DialFailure;
#[expect(unused_imports, reason = "for the docs")]
use super::Outcome;
use crate::Endpoint;

/// Why the guard refused a caller.
///
/// A refusal is made without a round trip and says how long to wait where that is known. The
/// last words of the server are in it, so that one log line tells an operator what Redis said, which
/// Redis it was and when the next attempt is.
///
/// Matched with `..`, for a variant may get more fields; made, for tests of code that handles one, by
/// the function of its name:
///
/// ```
/// use redis_guard::{DialFailure, Error, Outcome, Rejection};
/// use std::time::Duration;
///
/// /// The code under test.
/// fn answer(error: &Error) -> (u16, Option<u64>) {
///     (503, error.retry_after().map(|wait| wait.as_secs()))
/// }
///
/// let said = "ERR max number of clients reached";
/// let full = DialFailure::new("10.0.0.1:6379", Outcome::MaxClients, said);
/// let refused = Rejection::breaker_open(Duration::from_secs(2)).with_failure(full);
///
/// assert!(refused.to_string().contains("max number of clients reached"));
/// assert_eq!(answer(&Error::from(refused)), (503, Some(2)));
/// ```
///
/// # As an error of redis-rs
///
/// Code that speaks only [`redis::RedisError`] goes by its kind and its `retry_method()`. They follow the
/// outcome of the last dial ([`failure`](Self::failure)), where the refusal is about that:
///
/// | refusal | [`ErrorKind`](redis::ErrorKind) | `retry_method()` |
/// |---|---|---|
/// | [`Refused`](Outcome::Refused) | `Io`, of the kind `ConnectionRefused` | `Reconnect` |
/// | [`Unreachable`](Outcome::Unreachable), [`Dns`](Outcome::Dns) | `Io`, `HostUnreachable` | `RetryImmediately` |
/// | [`Timeout`](Outcome::Timeout), and [`AcquireTimeout`](Self::AcquireTimeout) before any dial has ended | `Io`, `TimedOut` | `RetryImmediately` |
/// | [`Auth`](Outcome::Auth) | `AuthenticationFailed` | `Reconnect` |
/// | [`Loading`](Outcome::Loading) | `Server(BusyLoading)` | `WaitAndRetry` |
/// | all else, which must not be tried again at once: a full server, protected mode, a wrong role, a budget, a queue, connections that are all in use, a closed pool | `Client` | `NoRetry` |
///
/// Whoever follows that, as redis-rs's cluster router does, makes no more dials than anybody: the pool's
/// back-off has the pace, and a retry is refused like a first try. An `Io` error keeps the `Rejection`:
///
/// ```
/// use redis_guard::{DialFailure, Outcome, Rejection, redis::RedisError};
/// use std::time::Duration;
///
/// let failure = DialFailure::new("10.0.0.1:6379", Outcome::Refused, "nobody listens there");
/// let refused = Rejection::breaker_open(Duration::from_secs(2)).with_failure(failure);
/// let error = RedisError::from(refused);
///
/// assert!(error.is_io_error() && error.is_connection_refusal());
/// ```
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
        /// The last failed dial, if dials are failing now; before any has failed, what the one in flight
        /// waits for.
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
        /// Time until the budget has room, if nobody calls or retries meanwhile; its whole window where
        /// only calls would bring room.
        retry_after: Duration,
    },
    /// The pool was closed.
    Closed,
}

impl Rejection {
    /// [`BreakerOpen`](Self::BreakerOpen), without a failed dial.
    #[must_use]
    pub const fn breaker_open(retry_after: Duration) -> Self {
        Self::BreakerOpen { retry_after, failure: None }
    }

    /// [`BudgetExhausted`](Self::BudgetExhausted): `max` connections.
    #[must_use]
    pub fn budget_exhausted(endpoint: impl Into<Endpoint>, max: usize) -> Self {
        Self::BudgetExhausted { endpoint: endpoint.into(), max }
    }

    /// [`InFlightLimit`](Self::InFlightLimit): `max` commands.
    #[must_use]
    pub fn in_flight_limit(endpoint: impl Into<Endpoint>, max: usize) -> Self {
        Self::InFlightLimit { endpoint: endpoint.into(), max }
    }

    /// [`QueueFull`](Self::QueueFull): `limit` waiters.
    #[must_use]
    pub const fn queue_full(limit: usize) -> Self {
        Self::QueueFull { limit }
    }

    /// [`AcquireTimeout`](Self::AcquireTimeout), without a failed dial.
    #[must_use]
    pub const fn acquire_timeout(waited: Duration, phase: Phase) -> Self {
        Self::AcquireTimeout { waited, phase, failure: None }
    }

    /// [`ConnectFailed`](Self::ConnectFailed).
    #[must_use]
    pub fn connect_failed(failure: impl Into<Arc<DialFailure>>, retry_after: Duration) -> Self {
        Self::ConnectFailed { failure: failure.into(), retry_after }
    }

    /// [`RetryBudgetExhausted`](Self::RetryBudgetExhausted).
    #[must_use]
    pub const fn retry_budget_exhausted(retry_after: Duration) -> Self {
        Self::RetryBudgetExhausted { retry_after }
    }

    /// The same with `failure` as the last failed dial, where it has a place for one: of an open breaker,
    /// a timeout and a failed connect.
    #[must_use]
    pub fn with_failure(mut self, failure: impl Into<Arc<DialFailure>>) -> Self {
        match &mut self {
            Self::BreakerOpen { failure: last, .. }
            | Self::AcquireTimeout { failure: last, .. } => {
                *last = Some(failure.into());
            }
            Self::ConnectFailed { failure: last, .. } => *last = failure.into(),
            _ => {}
        }
        self
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    fn max_clients() -> Rejection {
        let said = "ERR max number of clients reached";
        let failure = DialFailure::new("10.0.0.1:6379", Outcome::MaxClients, said);
        Rejection::breaker_open(Duration::from_millis(1500)).with_failure(failure)
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
    fn each_kind_says_in_a_line_what_there_is_too_little_of() {
        let wait = Duration::from_millis(1500);
        let failure = DialFailure::new("redis:6379", Outcome::Refused, "nobody listens there");
        let in_vain = Rejection::acquire_timeout(wait, Phase::Dial);
        for (rejection, line) in [
            (
                Rejection::breaker_open(wait),
                "the breaker was forced open; no connection is live, next attempt in 1.5s",
            ),
            (
                Rejection::budget_exhausted("cart", 8),
                "endpoint \"cart\" holds all 8 connections of its budget",
            ),
            (
                Rejection::in_flight_limit("cart", 8),
                "endpoint \"cart\" has 8 shared commands in flight already",
            ),
            (Rejection::queue_full(64), "64 callers wait for a connection already"),
            (
                Rejection::acquire_timeout(wait, Phase::Connection),
                "no connection after 1.5s: every live connection was in use or reserved",
            ),
            (
                in_vain.with_failure(failure.clone()),
                "no connection after 1.5s: no connection was live and none could be dialed in time; \
                 redis at redis:6379 [refused]: nobody listens there",
            ),
            (
                Rejection::connect_failed(failure, wait),
                "redis at redis:6379 [refused]: nobody listens there; next attempt in 1.5s",
            ),
            (
                Rejection::retry_budget_exhausted(wait),
                "the retry budget is spent; it has room again in 1.5s",
            ),
            (Rejection::Closed, "the pool is closed"),
        ] {
            assert_eq!(rejection.to_string(), line);
        }
    }

    #[test]
    fn how_long_to_wait_is_told_where_it_is_known() {
        let wait = Duration::from_secs(1);
        let failure = DialFailure::new("redis:6379", Outcome::Auth, "WRONGPASS");
        for rejection in [
            Rejection::breaker_open(wait),
            Rejection::connect_failed(failure, wait),
            Rejection::retry_budget_exhausted(wait),
        ] {
            assert_eq!(rejection.retry_after(), Some(wait), "{rejection}");
        }
        for rejection in [Rejection::acquire_timeout(wait, Phase::Dial), Rejection::queue_full(64)]
        {
            assert_eq!(rejection.retry_after(), None, "{rejection}");
        }
    }

    #[test]
    fn every_kind_can_be_made_and_takes_a_failed_dial_where_it_has_a_place_for_one() {
        let wait = Duration::from_secs(1);
        let failure = Arc::new(DialFailure::new("redis:6379", Outcome::Auth, "WRONGPASS"));
        let before = DialFailure::new("redis:6379", Outcome::Denied, "DENIED");
        let made = [
            (Rejection::breaker_open(wait), "breaker_open", true),
            (Rejection::budget_exhausted("cart", 8), "budget_exhausted", false),
            (Rejection::in_flight_limit("cart", 8), "in_flight_limit", false),
            (Rejection::queue_full(64), "queue_full", false),
            (Rejection::acquire_timeout(wait, Phase::Dial), "acquire_timeout", true),
            (Rejection::connect_failed(before, wait), "connect_failed", true),
            (Rejection::retry_budget_exhausted(wait), "retry_budget_exhausted", false),
            (Rejection::Closed, "closed", false),
        ];
        assert_eq!(made.len(), Reason::ALL.len());
        for (rejection, reason, tells) in made {
            assert_eq!(rejection.reason(), reason);
            let failed = rejection.clone().with_failure(Arc::clone(&failure));
            assert_eq!(failed.failure(), tells.then_some(&*failure), "{reason}");
            assert_eq!(failed.retry_after(), rejection.retry_after());
        }
    }
}
