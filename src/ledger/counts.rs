//! What the ledger says of its counts.

use super::{AccountStatus, Counts, Ledger};

impl<W> Ledger<W> {
    /// True if a returned connection concerns nobody: the pool is open and nobody waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.queued == 0 && !self.closed
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.limit.frozen.is_some()
    }

    /// How many were live when the server refused one more.
    pub(crate) fn frozen(&self) -> Option<usize> {
        self.limit.frozen
    }

    /// True if the server is full, and has a slot of ours that we have given back.
    pub(crate) fn has_spare_slot(&self) -> bool {
        self.limit.frozen.is_some_and(|frozen| self.sockets() < frozen)
    }

    /// True when no socket is open and no lease is out.
    pub(crate) fn is_drained(&self) -> bool {
        self.sockets() + self.in_use == 0
    }

    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Open sockets, and those being opened.
    pub(crate) fn sockets(&self) -> usize {
        self.live + self.dialing
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            limit: self.limit.in_force(),
            live: self.live,
            dialing: self.dialing,
            idle: self.idle,
            in_use: self.in_use,
            waiting: self.queued,
        }
    }

    pub(crate) fn queue_limit(&self) -> usize {
        self.queue_limit
    }

    pub(crate) fn accounts(&self) -> impl Iterator<Item = AccountStatus> + '_ {
        self.accounts.iter().map(|account| AccountStatus {
            name: account.name.clone(),
            max: account.budget.max_connections(),
            reserve: account.reserve,
            in_use: account.in_use,
            waiting: account.queue.len() + account.fresh.len(),
            acquired: account.acquired,
        })
    }
}
