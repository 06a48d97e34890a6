//! What keeps a pool open.

use std::sync::Arc;

use super::servers::Servers;

/// A handle on an open pool: the last one to go shuts it. Its nodes live on in their tasks and leases.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) servers: Servers,
    last: Arc<ShutOnDrop>,
}

/// What keeps a pool open, for those who have their node.
pub(super) struct KeepOpen(#[expect(dead_code, reason = "held for its drop")] Arc<ShutOnDrop>);

#[derive(Debug)]
struct ShutOnDrop(Servers);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        self.0.shut();
    }
}

impl Handle {
    pub(super) fn new(servers: Servers) -> Self {
        let last = Arc::new(ShutOnDrop(servers.clone()));
        Self { servers, last }
    }

    pub(super) fn keep_open(&self) -> KeepOpen {
        KeepOpen(Arc::clone(&self.last))
    }
}
