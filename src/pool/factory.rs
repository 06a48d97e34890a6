//! What nodes are made of: the settings that all nodes of a pool have in common.

use std::sync::Arc;

use super::context::Context;
use super::node::Node;
use super::tasks::Starters;
use super::topology::place::{Place, Resolve};
use crate::dial::Dialer;
use crate::ledger::Ledger;
use crate::server::gate::{DialPolicy, Gate};

/// Makes the nodes of a pool.
#[derive(Debug)]
pub(super) struct NodeFactory {
    pub(super) context: Arc<Context>,
    /// What each node's is like; it dials nothing itself.
    pub(super) dialer: Dialer,
    pub(super) policy: DialPolicy,
    pub(super) queue_limit: usize,
    pub(super) starters: Starters<Arc<Node>>,
}

impl NodeFactory {
    /// A node that begins at that place; `resolver` says where it goes on.
    /// `seed`: for the jitter.
    pub(super) fn node(
        &self,
        place: Arc<Place>,
        resolver: Box<dyn Resolve>,
        seed: u64,
    ) -> Arc<Node> {
        let settings = &self.context.settings;
        let ledger = Ledger::new(settings.max_connections, self.queue_limit, &settings.budgets);
        let gate = Gate::new(Arc::clone(&place.server), self.policy, seed);
        let (context, dialer) = (Arc::clone(&self.context), self.dialer.another());
        Arc::new(Node::new(context, dialer, resolver, place, (ledger, gate), self.starters))
    }
}
