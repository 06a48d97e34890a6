//! A socket's slot: what frees it when the socket is closed, however that comes.

use std::sync::Arc;

use super::node::Node;
use super::store::Socket;
use crate::dial::EndNotice;

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

    /// Sees to it that nothing is sent on the socket any more once it has ended, nor is it lent.
    pub(super) fn bury_on_end(&self, end_notice: &EndNotice) {
        let (node, socket) = (Arc::clone(&self.node), Arc::clone(&self.socket));
        end_notice.tell(move || {
            // Whoever owns it drops it once it is known to be dead, and that would end the driver too early.
            socket.ends_by_itself();
            node.change(|state| state.bury(&socket));
        });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.node.socket_closed(&self.socket);
    }
}
