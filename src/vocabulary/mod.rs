//! The vocabulary: what everything else speaks of.

pub(crate) mod command;
mod endpoint;
mod error;
mod outcome;
pub(crate) mod reply;
pub(crate) mod serialize;
pub mod words;

pub use endpoint::Endpoint;
pub use error::{BuildError, DialFailure, Error, Phase, Rejection};
pub use outcome::{Class, Outcome};

pub(crate) use endpoint::MAX_ENDPOINTS;
pub(crate) use error::Reason;
