//! Errors: why a caller was not served, in words an operator can act on.

use std::fmt;
use std::time::Duration;

use super::Rejection;

/// What [`acquire`](crate::GuardedPool::acquire) and its kin return: the guard's own refusal, or
/// the error of what it guards.
///
/// ```no_run
/// use redis_guard::{Error, GuardedPool, Rejection};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
/// match pool.acquire("search").await {
///     Ok(lease) => drop(lease),
///     Err(Error::Rejected(Rejection::BreakerOpen { retry_after, failure, .. })) => {
///         println!("ask again in {retry_after:?}: {failure:?}")
///     }
///     Err(error) => println!("{error}"),
/// }
/// # Ok(()) }
/// ```
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
    use std::io;

    use super::*;

    #[test]
    fn the_inner_error_stays_itself() {
        let inner = redis::RedisError::from((redis::ErrorKind::Parse, "bad reply"));
        let error = Error::from(inner.clone());
        assert!(!error.is_rejected() && error.retry_after().is_none());
        assert_eq!(error.to_string(), inner.to_string());
        assert_eq!((error.reason(), error.rejection()), ("inner", None));
        let boxed = error.into_boxed();
        assert_eq!(boxed.downcast_ref::<redis::RedisError>(), Some(&inner));
    }

    #[test]
    fn a_refusal_can_be_told_from_an_error_and_taken_out_of_its_box() {
        let wait = Duration::from_secs(2);
        let refused = Rejection::breaker_open(wait);
        let error: Error = refused.clone().into();
        assert!(error.is_rejected());
        assert_eq!(error.rejection(), Some(&refused));
        assert_eq!((error.reason(), error.retry_after()), ("breaker_open", Some(wait)));
        assert_eq!(error.to_string(), refused.to_string());
        assert_eq!(error.into_boxed().downcast_ref(), Some(&refused));
    }

    #[test]
    fn no_text_repeats_along_the_sources() {
        let lost = redis::RedisError::from(io::Error::other("the cable is out"));
        let error = Error::from(lost.clone());
        let source = |error: &dyn std::error::Error| error.source().map(ToString::to_string);
        assert!(source(&error).is_some());
        assert_eq!(source(&error), source(&lost), "the driver's error is told already");
        assert_eq!(source(&Error::<redis::RedisError>::from(Rejection::Closed)), None);
    }

    #[test]
    fn all_that_is_wrong_with_a_configuration_is_told_in_one_go() {
        let error = BuildError::new(vec!["no server".to_owned(), "no room".to_owned()]);
        assert_eq!(error.to_string(), "invalid configuration: no server; no room");
        assert_eq!(error.problems().len(), 2);
    }
}
