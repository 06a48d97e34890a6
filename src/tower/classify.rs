//! Classification: what the result of a call says about the server.

use std::error::Error as StdError;
use std::{fmt, io};

use deadpool_redis::{PoolError, TimeoutType};
use redis::RedisError;

use crate::dial::{of_call, of_error_line, of_io_error};
use crate::{Class, Error, Outcome, Rejection};

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// Reads off the result of a call what it says about the server.
///
/// Provided: [`ByError`] for results whose error is a [`ClassifyError`], [`ByAnyError`] for those of any
/// service, [`ErrorBy`] for a closure over the error, `ByStatus` (feature `http`) for HTTP responses, and any
/// closure `Fn(&Result<…>) -> Class`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot read off a `{R}` what it says about the server",
    note = "for a service whose error is its own: `GuardLayer::classify(ByAnyError)`, or a closure with \
            `GuardLayer::classify_errors(|error: &E| ..)`",
    note = "a closure given to `GuardLayer::classify` takes the whole result: `|result: &Result<Response, E>| ..`"
)]
pub trait Classify<R> {
    /// What `result` says.
    fn classify(&self, result: &R) -> Class;
}

impl<R, F: Fn(&R) -> Class> Classify<R> for F {
    fn classify(&self, result: &R) -> Class {
        self(result)
    }
}

/// An error that tells what it says about the server.
///
/// Provided for [`redis::RedisError`], [`deadpool_redis::PoolError`], [`std::io::Error`], [`Error`], and boxed
/// errors that are, or are caused by, one of them.
#[diagnostic::on_unimplemented(
    message = "a guard cannot read off a `{Self}` what it says about the server",
    label = "the error of the guarded service is no `ClassifyError`",
    note = "`GuardLayer::classify(ByAnyError)` goes by what caused the error; \
            `GuardLayer::classify_errors(|error: &E| ..)` by a closure; or implement `ClassifyError` for it"
)]
pub trait ClassifyError {
    /// What the error says.
    fn class(&self) -> Class;
}

/// Goes by the error; any response means that the server answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByError;

impl<T, E: ClassifyError> Classify<Result<T, E>> for ByError {
    fn classify(&self, result: &Result<T, E>) -> Class {
        match result {
            Ok(_) => Class::Worked,
            Err(error) => error.class(),
        }
    }
}

/// Goes by whatever error the service has, or what caused it: an I/O error, one of redis-rs or deadpool-redis, one
/// of this crate, tower's `Elapsed`, or words that say "max number of clients reached" anywhere in the chain. Any
/// other error says nothing about the server; any response means that it answered.
///
/// For a service whose error is its own, an HTTP client's say:
///
/// ```
/// use std::{error, fmt, io};
/// use redis_guard::{Class, Outcome, tower::{ByAnyError, Classify}};
///
/// #[derive(Debug)]
/// struct ClientError(io::Error);
/// # impl fmt::Display for ClientError {
/// #     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("the request failed") }
/// # }
/// impl error::Error for ClientError {
///     fn source(&self) -> Option<&(dyn error::Error + 'static)> { Some(&self.0) }
/// }
///
/// let refused = ClientError(io::ErrorKind::ConnectionRefused.into());
/// let class = ByAnyError.classify(&Err::<(), _>(refused));
/// assert!(matches!(class, Class::Failed { outcome: Outcome::Refused, .. }));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ByAnyError;

impl<T, E: StdError + 'static> Classify<Result<T, E>> for ByAnyError {
    fn classify(&self, result: &Result<T, E>) -> Class {
        match result {
            Ok(_) => Class::Worked,
            Err(error) => of_chain(error),
        }
    }
}

/// Goes by the error, as a closure `Fn(&E) -> Class` reads it; any response means that the server answered. See
/// [`GuardLayer::classify_errors`](super::GuardLayer::classify_errors).
#[derive(Clone, Copy)]
pub struct ErrorBy<F>(pub(super) F);

impl<T, E, F: Fn(&E) -> Class> Classify<Result<T, E>> for ErrorBy<F> {
    fn classify(&self, result: &Result<T, E>) -> Class {
        match result {
            Ok(_) => Class::Worked,
            Err(error) => (self.0)(error),
        }
    }
}

impl<F> fmt::Debug for ErrorBy<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErrorBy")
    }
}

impl ClassifyError for RedisError {
    fn class(&self) -> Class {
        of_call(self)
    }
}

impl ClassifyError for PoolError {
    fn class(&self) -> Class {
        match self {
            Self::Backend(error) => error.class(),
            Self::Timeout(TimeoutType::Create) => timed_out(self),
            // Its own limits, or ours.
            _ => Class::Unknown,
        }
    }
}

impl<E: ClassifyError> ClassifyError for Error<E> {
    fn class(&self) -> Class {
        match self {
            // Decided on this side: nothing was heard of the server.
            Self::Rejected(_) => Class::Unknown,
            Self::Inner(error) => error.class(),
        }
    }
}

impl ClassifyError for std::convert::Infallible {
    fn class(&self) -> Class {
        match *self {}
    }
}

impl ClassifyError for io::Error {
    fn class(&self) -> Class {
        of_chain(self)
    }
}

impl ClassifyError for BoxError {
    fn class(&self) -> Class {
        of_chain(self.as_ref())
    }
}

fn of_chain(outermost: &(dyn StdError + 'static)) -> Class {
    for error in chain(outermost) {
        if let Some(error) = error.downcast_ref::<RedisError>() {
            return error.class();
        } else if let Some(error) = error.downcast_ref::<PoolError>() {
            return error.class();
        } else if let Some(error) = error.downcast_ref::<Error>() {
            return error.class();
        } else if error.is::<Rejection>() {
            return Class::Unknown;
        } else if error.is::<tower::timeout::error::Elapsed>() {
            return timed_out(error);
        } else if let Some(outcome) = error.downcast_ref::<io::Error>().and_then(of_io_error) {
            return Class::Failed { outcome, message: error.to_string() };
        }
        // Another client's error, perhaps: where it passes the server's words on, they count.
        let text = error.to_string();
        if of_error_line(&text) == Some(Outcome::MaxClients) {
            return Class::Failed { outcome: Outcome::MaxClients, message: text };
        }
    }
    Class::Unknown
}

/// The error, and what caused it, outermost first. An I/O error that is about another one hands out that one's
/// cause only, so it is opened here.
pub(super) fn chain<'a>(
    outermost: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(outermost), |&error| {
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inside.map(|inside| inside as &(dyn StdError + 'static)).or_else(|| error.source())
    })
}

fn timed_out(error: &(impl std::fmt::Display + ?Sized)) -> Class {
    Class::Failed { outcome: Outcome::Timeout, message: error.to_string() }
}
