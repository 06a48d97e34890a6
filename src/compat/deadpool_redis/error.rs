//! Errors, as deadpool has them.

use std::fmt;

use ::deadpool_redis::{ConfigError, TimeoutType};

use crate::vocabulary::Phase;
use crate::{Error, Rejection};

pub use crate::vocabulary::BuildError;

/// Why there is no connection: deadpool's own type.
///
/// | refusal | here |
/// |---|---|
/// | [`AcquireTimeout`](Rejection::AcquireTimeout) while all connections were in use, [`BudgetExhausted`](Rejection::BudgetExhausted), [`QueueFull`](Rejection::QueueFull) | `Timeout(TimeoutType::Wait)` |
/// | `AcquireTimeout` while nothing was connected, and no dial had failed | `Timeout(TimeoutType::Create)` |
/// | `AcquireTimeout` while dials fail, [`BreakerOpen`](Rejection::BreakerOpen), [`ConnectFailed`](Rejection::ConnectFailed) | `Backend`, with what the server said and when the next dial is |
/// | [`Closed`](Rejection::Closed) | `Closed` |
///
/// `?` makes one of an [`Error`] as well, for functions that use the [`GuardedPool`](crate::GuardedPool) itself.
/// `NoRuntimeSpecified` and `PostCreateHook` do not occur.
pub type PoolError = ::deadpool_redis::PoolError;

impl From<Error> for PoolError {
    fn from(error: Error) -> Self {
        let rejection = match error {
            Error::Rejected(rejection) => rejection,
            Error::Inner(error) => return Self::Backend(error),
        };
        match rejection {
            Rejection::Closed => Self::Closed,
            Rejection::AcquireTimeout { phase: Phase::Connection, .. }
            | Rejection::BudgetExhausted { .. }
            | Rejection::QueueFull { .. } => Self::Timeout(TimeoutType::Wait),
            Rejection::AcquireTimeout { phase: Phase::Dial, failure: None, .. } => {
                Self::Timeout(TimeoutType::Create)
            }
            told => Self::Backend(told.into()),
        }
    }
}

/// Why there is no pool.
#[derive(Debug)]
pub enum CreatePoolError {
    /// The configuration names no server that could be dialed.
    Config(ConfigError),
    /// Everything that is wrong with its numbers.
    Build(BuildError),
}

impl fmt::Display for CreatePoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
        }
    }
}

// Both variants are transparent, so that no text repeats.
impl std::error::Error for CreatePoolError {}

impl From<BuildError> for CreatePoolError {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}
