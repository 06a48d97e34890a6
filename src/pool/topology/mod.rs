//! Topologies: where the server of a node is.

mod single;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::DialFailure;
use crate::dial::Target;
use crate::server::Server;

pub(super) use single::Single;

/// Where a node's server is, and what the process knows of it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) target: Target,
    pub(super) server: Arc<Server>,
}

/// Says where a node's server is. Asked before every dial, so what is known must cost nothing.
pub(super) trait Resolve: Send + Sync + fmt::Debug {
    /// The place now. A failure backs off like a dial's, and is what callers hear.
    fn resolve(&self) -> Resolving<'_>;
}

pub(super) type Resolving<'a> =
    Pin<Box<dyn Future<Output = Result<Arc<Place>, DialFailure>> + Send + 'a>>;
