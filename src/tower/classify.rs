//! Classification: what the result of a call says about the server.

use std::error::Error as StdError;

use deadpool_redis::{PoolError, TimeoutType};
use redis::RedisError;

use crate::dial::of_call;
use crate::{Class, Error, Outcome, Rejection};

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// Reads off the result of a call what it says about the server.
///
/// Provided: [`ByError`] for results whose error is a [`ClassifyError`], `ByStatus` (feature `http`) for
/// HTTP responses, and any closure `Fn(&Result<…>) -> Class`.
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
/// Provided for [`redis::RedisError`], [`deadpool_redis::PoolError`], [`Error`], and boxed errors that
/// are, or are caused by, one of them.
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

impl ClassifyError for BoxError {
    fn class(&self) -> Class {
        for error in chain(self) {
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
            }
        }
        // Another client's error, perhaps: where it passes the server's words on, they count.
        let text = self.to_string();
        match crate::dial::of_error_line(&text) {
            Some(Outcome::MaxClients) => {
                Class::Failed { outcome: Outcome::MaxClients, message: text }
            }
            _ => Class::Unknown,
        }
    }
}

/// The error in the box, and what caused it, outermost first.
pub(super) fn chain(error: &BoxError) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let outermost: &(dyn StdError + 'static) = error.as_ref();
    std::iter::successors(Some(outermost), |&error| error.source())
}

fn timed_out(error: &(impl std::fmt::Display + ?Sized)) -> Class {
    Class::Failed { outcome: Outcome::Timeout, message: error.to_string() }
}
