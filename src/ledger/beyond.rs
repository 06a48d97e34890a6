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

#[cfg(test)]
mod tests {
    use crate::ledger::Admission;
    use crate::ledger::tests::ledger;
    use crate::policy::Budget;

    #[test]
    fn one_beyond_the_limit_is_within_a_budget_and_nobodys_reserve() {
        let budgets = [("checkout", Budget::max(3).reserve(1)), ("small", Budget::max(1))];
        let mut places = ledger(5, &budgets).all_live();
        let [checkout, small, other] =
            ["checkout", "small", "x"].map(|n| places.account(&n.into()));
        places.allow(Some(3));
        assert_eq!([places.acquire(small), places.acquire(other)], [Admission::Granted; 2]);
        assert_eq!(places.acquire(other), Admission::NoneFree);
        assert!(places.may_go_beyond(other) && !places.may_go_beyond(small));
        places.acquire_beyond(other);
        places.acquire_beyond(other);
        assert_eq!((places.counts().in_use, places.counts().idle), (4, 1));
        assert!(!places.may_go_beyond(other), "the last is kept for checkout");
        assert!(places.may_go_beyond(checkout));
        assert_eq!(places.acquire(checkout), Admission::Granted);
        assert!(!places.may_go_beyond(checkout), "there is none left");
    }

    #[test]
    fn who_waits_longest_is_next_beyond_the_limit() {
        let mut places = ledger(3, &[]).all_live();
        let (a, b) = (places.account(&"a".into()), places.account(&"b".into()));
        places.allow(Some(1));
        assert_eq!(places.acquire(a), Admission::Granted);
        assert!(!places.has_next_beyond() && places.next_beyond().is_none());
        for (account, waiter) in [(b, 1), (a, 2), (a, 3)] {
            places.enqueue(account, waiter).unwrap();
        }
        assert!(places.next_turn().is_none() && places.has_next_beyond());
        let next = places.next_beyond().unwrap();
        assert_eq!((next.account, next.waiter), (b, 1));
        assert_eq!((places.counts().idle, places.counts().waiting), (1, 2));
        assert_eq!(places.next_beyond().map(|next| next.waiter), Some(2));
        assert!(!places.has_next_beyond(), "no place is left for the third");
        places.released(b, true);
        assert!(places.has_next_beyond());
    }

    #[test]
    fn a_reserve_that_others_took_while_the_limit_was_low_cannot_be_taken_twice() {
        let mut places = ledger(2, &[("checkout", Budget::max(2).reserve(2))]).all_live();
        let (checkout, other) = (places.account(&"checkout".into()), places.account(&"x".into()));
        places.allow(Some(1));
        assert_eq!(places.acquire(other), Admission::Granted);
        places.acquire_beyond(other);
        places.allow(None);
        places.enqueue(checkout, 1).unwrap();
        assert!(!places.may_go_beyond(checkout) && !places.has_next_beyond());
        places.released(other, true);
        assert!(places.may_go_beyond(checkout) && places.has_next_beyond());
    }
}
