//! The open connections of a node, for the sweep and for closing them all.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use super::store::Socket;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::telemetry::status::CloseReason;

/// Changed when a connection opens or closes.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: Mutex<Open>,
    next_id: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    sockets: BTreeMap<u64, Arc<Socket>>,
    /// What was opened before is to be replaced.
    outdated: Option<Instant>,
}

impl Sockets {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new one, until [`remove`](Self::remove). `opened`: when its dial started. `used`: coarse time.
    pub(super) fn add(
        &self,
        server: Arc<str>,
        opened: Instant,
        expires: Instant,
        used: u64,
    ) -> Arc<Socket> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let socket = Arc::new(Socket::new(id, server, opened, expires, used));
        let mut open = self.open();
        if open.outdated.is_some_and(|before| opened < before) {
            socket.outdate(CloseReason::Replaced);
        }
        open.sockets.insert(id, Arc::clone(&socket));
        socket
    }

    /// All whose dials started before then are to be replaced, those included that are under way.
    pub(super) fn outdate_before(&self, before: Instant) {
        let mut open = self.open();
        open.outdated = open.outdated.max(Some(before));
        let old = open.sockets.values().filter(|socket| socket.opened < before);
        old.for_each(|socket| socket.outdate(CloseReason::Replaced));
    }

    pub(super) fn remove(&self, socket: &Socket) {
        self.open().sockets.remove(&socket.id);
    }

    pub(super) fn all(&self) -> Vec<Arc<Socket>> {
        self.open().sockets.values().cloned().collect()
    }
}
