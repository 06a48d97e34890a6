//! The vocabulary: what everything else speaks of.

pub(crate) mod command;
mod endpoint;
mod error;
mod outcome;
pub(crate) mod redis_error;
mod rejection;
pub(crate) mod reply;
pub(crate) mod routing;
pub(crate) mod serialize;
pub mod words;

pub use endpoint::Endpoint;
pub use error::{BuildError, Error};
pub use outcome::{Class, DialFailure, Outcome};
pub use rejection::{Phase, Rejection};

pub(crate) use endpoint::MAX_ENDPOINTS;
pub(crate) use rejection::Reason;
