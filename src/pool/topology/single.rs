//! One server, at the address that was configured.

use std::sync::Arc;

use super::place::{Place, Resolve, Resolving};

#[derive(Debug)]
pub(in crate::pool) struct Single(pub(in crate::pool) Arc<Place>);

impl Resolve for Single {
    fn resolve(&self) -> Resolving<'_> {
        Box::pin(std::future::ready(Ok(Arc::clone(&self.0))))
    }
}
