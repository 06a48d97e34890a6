//! The ledger as a guard uses it: places that are all there, and one beyond the limit as a probe.

use super::{AccountId, Grant, Ledger};

impl<W> Ledger<W> {
    /// For places that are there from the start, rather than dialed.
    pub(crate) fn all_live(mut self) -> Self {
        self.live = self.limit.max_connections;
        self.idle = self.limit.max_connections;
        self
    }

    /// Whether one more of the account's may go beyond the limit: within its budget, with a place
    /// that is nobody's reserve.
    pub(crate) fn may_go_beyond(&self, account: AccountId) -> bool {
        self.idle > 0 && self.is_eligible(account, self.limit.max_connections)
    }

    /// Takes a connection for the account that [may go beyond](Self::may_go_beyond) the limit.
    pub(crate) fn acquire_beyond(&mut self, account: AccountId) {
        self.idle -= 1;
        self.take(account);
    }

    /// Whether somebody waits who may go beyond the limit.
    pub(crate) fn has_next_beyond(&self) -> bool {
        self.idle > 0 && self.longest_waiting(self.limit.max_connections).is_some()
    }

    /// Who is next for a connection beyond the limit.
    pub(crate) fn next_beyond(&mut self) -> Option<Grant<W>> {
        let account = self.longest_waiting(self.limit.max_connections)?;
        let (_, waiter) = self.accounts[account.0].queue.pop_first()?;
        self.queued -= 1;
        self.acquire_beyond(account);
        Some(Grant { account, waiter })
    }
}
