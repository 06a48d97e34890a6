//! A node of a cluster: it is where it is, and a failure there may mean that the cluster has changed.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::place::{Doubt, Place, Resolve, Resolving};

/// What the cluster has to say of one of its nodes.
#[derive(Debug, Default)]
pub(in crate::pool) struct Membership {
    /// The name under which the fleet keeps its registry in a slot of this node's; `None` where it has none.
    pub(in crate::pool) registry: ArcSwapOption<String>,
}

#[derive(Debug)]
pub(in crate::pool) struct Member {
    pub(in crate::pool) place: Arc<Place>,
    pub(in crate::pool) membership: Arc<Membership>,
    /// The cluster is to be asked who its nodes are.
    pub(in crate::pool) doubted: Arc<Notify>,
}

impl Resolve for Member {
    fn resolve(&self) -> Resolving<'_> {
        Box::pin(std::future::ready(Ok(Arc::clone(&self.place))))
    }

    fn registry(&self, _fleet: &str) -> Option<String> {
        self.membership.registry.load().as_deref().cloned()
    }

    fn doubt(&self, _place: &Place, _doubt: Doubt) {
        self.doubted.notify_one();
    }
}
