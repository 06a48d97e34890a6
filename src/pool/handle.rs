//! What keeps a pool open.

use std::sync::Arc;

use super::node::Node;

/// A handle on an open pool: the last one to go shuts it. The node itself lives on in its tasks and
/// leases.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) node: Arc<Node>,
    _last: Arc<ShutOnDrop>,
}

#[derive(Debug)]
struct ShutOnDrop(Arc<Node>);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        self.0.shut();
    }
}

impl Handle {
    pub(super) fn new(node: Arc<Node>) -> Self {
        let last = Arc::new(ShutOnDrop(Arc::clone(&node)));
        Self { node, _last: last }
    }
}
