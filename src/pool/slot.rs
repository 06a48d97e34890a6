//! A socket's slot: what frees it when the socket is closed, however that comes.

use std::sync::Arc;

use super::node::Node;
use super::store::Socket;

/// One of the server's slots: counted as live until this is dropped, which is when the socket is
/// closed.
pub(super) struct Slot {
    node: Arc<Node>,
    pub(super) socket: Arc<Socket>,
}

impl Slot {
    /// For a socket that the ledger has counted as live.
    pub(super) fn new(node: Arc<Node>, socket: Arc<Socket>) -> Self {
        Self { node, socket }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.node.socket_closed(&self.socket);
    }
}
