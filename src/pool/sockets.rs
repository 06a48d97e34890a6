//! The open connections of a node, for the sweep and for closing them all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::store::Socket;

/// Changed when a connection opens or closes.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: Mutex<HashMap<u64, Arc<Socket>>>,
    next_id: AtomicU64,
}

impl Sockets {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Socket>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new one, until [`remove`](Self::remove). `used`: coarse time.
    pub(super) fn add(&self, expires: Instant, used: u64) -> Arc<Socket> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let socket = Arc::new(Socket::new(id, expires, used));
        self.open().insert(id, Arc::clone(&socket));
        socket
    }

    pub(super) fn remove(&self, socket: &Socket) {
        self.open().remove(&socket.id);
    }

    pub(super) fn all(&self) -> Vec<Arc<Socket>> {
        self.open().values().cloned().collect()
    }
}
