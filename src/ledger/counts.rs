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

#[cfg(test)]
mod tests {
    use crate::ledger::tests::{ledger, stocked};
    use crate::ledger::{Admission, Closed};

    #[test]
    fn a_pool_is_drained_when_no_socket_is_open_and_no_lease_is_out() {
        let mut ledger = ledger(2, &[]);
        let a = ledger.account(&"a".into());
        assert!(ledger.is_drained());
        ledger.dial_started();
        assert!(!ledger.is_drained() && ledger.live() == 0 && ledger.sockets() == 1);
        ledger.connected(false);
        ledger.restored();
        assert_eq!((ledger.live(), ledger.sockets()), (1, 1));
        assert_eq!(ledger.acquire(a), Admission::Granted);
        ledger.dial_started();
        ledger.connected(false);
        assert_eq!((ledger.live(), ledger.sockets()), (2, 2));
        ledger.died(Closed::Otherwise);
        assert!(!ledger.is_drained());
        ledger.died(Closed::Otherwise);
        assert!(!ledger.is_drained(), "its lease is out");
        ledger.released(a, false);
        assert!(ledger.is_drained());
    }

    #[test]
    fn a_returned_connection_concerns_whoever_waits_and_who_closes_the_pool() {
        let mut ledger = ledger(2, &[]);
        let a = ledger.account(&"a".into());
        assert!(ledger.is_quiet());
        let ticket = ledger.enqueue(a, 1).unwrap();
        assert!(!ledger.is_quiet());
        assert!(ledger.cancelled(a, ticket).is_some());
        assert!(ledger.is_quiet() && !ledger.is_closed());
        ledger.close();
        assert!(!ledger.is_quiet() && ledger.is_closed());
    }

    #[test]
    fn a_slot_that_a_full_server_let_us_have_is_spare_until_it_is_used_again() {
        let mut ledger = stocked(8, 3, &[]);
        assert!(ledger.frozen().is_none() && !ledger.has_spare_slot());
        ledger.freeze();
        assert_eq!(ledger.frozen(), Some(3));
        assert!(!ledger.has_spare_slot());
        ledger.withdrawn(1);
        ledger.died(Closed::Otherwise);
        assert!(ledger.has_spare_slot());
        ledger.dial_started();
        assert!(!ledger.has_spare_slot());
    }

    #[test]
    fn an_account_counts_all_who_wait_and_all_that_it_was_granted() {
        let mut ledger = stocked(1, 1, &[]);
        let a = ledger.account(&"a".into());
        assert_eq!(ledger.acquire(a), Admission::Granted);
        ledger.released(a, true);
        assert_eq!(ledger.acquire(a), Admission::Granted);
        for waiter in 1..=3 {
            ledger.enqueue(a, waiter).unwrap();
            ledger.enqueue_fresh(a, waiter).unwrap();
        }
        let status = ledger.accounts().next().unwrap();
        assert_eq!((status.in_use, status.waiting, status.acquired), (1, 6, 2));
        assert_eq!((ledger.counts().waiting, ledger.queue_limit()), (6, 100));
    }
}
