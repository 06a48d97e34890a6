//! The books of a pool, for the simulation, which compares them with what the servers count.

use std::sync::Arc;

use super::guarded_pool::GuardedPool;
use super::servers::Servers;
use crate::ledger::Counts;

/// The books of a pool, which do not keep it open.
#[derive(Clone)]
pub(crate) struct Books(Servers);

/// What a node's say at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) server: Arc<str>,
    pub(crate) counts: Counts,
    pub(crate) max_connections: usize,
    /// There are more connections than the limit, and more than are being closed.
    pub(crate) is_over: bool,
    /// Somebody waits for what is idle.
    pub(crate) is_forgotten: bool,
    /// A dial is wanted, and nobody makes it.
    pub(crate) is_stalled: bool,
    pub(crate) is_closed: bool,
    pub(crate) is_drained: bool,
    /// Leases out, summed over the endpoints, and connections in the store; only of a thorough look.
    pub(crate) sums: Option<(usize, usize)>,
}

impl GuardedPool {
    pub(crate) fn books(&self) -> Books {
        Books(self.servers().clone())
    }
}

impl Books {
    /// Of every node that the pool uses, or has a lease of; `None` if one is locked: on one thread, by whoever asks.
    pub(crate) fn read(&self, thorough: bool) -> Option<Vec<Page>> {
        self.0
            .nodes_in_use()
            .iter()
            .map(|node| {
                let server = node.address();
                let state = node.try_lock()?;
                let ledger = &state.ledger;
                Some(Page {
                    server,
                    counts: ledger.counts(),
                    max_connections: node.settings().max_connections,
                    is_over: ledger.is_over(),
                    is_forgotten: ledger.next_turn().is_some(),
                    is_stalled: state.is_stalled(),
                    is_closed: ledger.is_closed(),
                    is_drained: ledger.is_drained(),
                    sums: thorough.then(|| {
                        let in_use = ledger.accounts().map(|account| account.in_use).sum();
                        (in_use, state.store.len())
                    }),
                })
            })
            .collect()
    }
}
