//! The nodes that a cluster has, or had until lately.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::pool::node::Node;
use crate::pool::topology::member::Membership;
use crate::server::gate::Forced;

#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) nodes: BTreeMap<Arc<str>, KnownNode>,
    /// What an operator holds the breakers at.
    pub(super) forced: Option<Forced>,
    pub(super) closed: bool,
    /// Those that were let go, as long as somebody holds a lease of theirs, or one of their sockets is open.
    pub(super) left: Vec<Arc<Node>>,
}

/// A node, and since when the cluster does not name it.
#[derive(Debug)]
pub(super) struct KnownNode {
    pub(super) node: Arc<Node>,
    pub(super) membership: Arc<Membership>,
    pub(super) unnamed: Option<Instant>,
}

impl Members {
    /// The node of that name, for somebody who uses it: one that the cluster does not name is kept longer then.
    pub(super) fn at(&mut self, name: &str) -> Option<Arc<Node>> {
        let known = self.nodes.get_mut(name)?;
        if let Some(unnamed) = &mut known.unnamed {
            *unnamed = Instant::now();
        }
        Some(Arc::clone(&known.node))
    }
}
