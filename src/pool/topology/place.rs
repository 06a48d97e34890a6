//! Where a node's server is, and who says so.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::DialFailure;
use crate::dial::Target;
use crate::server::Server;

/// Where a node's server is, and what the process knows of it.
#[derive(Debug)]
pub(in crate::pool) struct Place {
    pub(in crate::pool) target: Target,
    pub(in crate::pool) server: Arc<Server>,
}

/// Says where a node's server is. Asked before every dial, so what is known must cost nothing.
pub(in crate::pool) trait Resolve: Send + Sync + fmt::Debug {
    /// The place now. A failure backs off like a dial's, and is what callers hear.
    fn resolve(&self) -> Resolving<'_>;
}

pub(in crate::pool) type Resolving<'a> =
    Pin<Box<dyn Future<Output = Result<Arc<Place>, DialFailure>> + Send + 'a>>;
