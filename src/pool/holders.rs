//! Who holds multiplexing leases. They cost no slot, so they are counted, and listed where they are idle; one that
//! is never given back is no leak of a connection.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ledger::AccountId;

/// The multiplexing leases that are out.
#[derive(Debug, Default)]
pub(super) struct Holders(Mutex<Rows>);

/// The places are used again, and what a holder writes to with them.
#[derive(Debug, Default)]
struct Rows {
    rows: Vec<Row>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Row {
    holder: Option<(AccountId, &'static Location<'static>)>,
    usage: Arc<Usage>,
}

/// What a holder tells of itself, in milliseconds since the pool was built.
#[derive(Debug, Default)]
struct Usage {
    begun: AtomicU64,
    used: AtomicU64,
    has_connection: AtomicBool,
}

/// For a command that is on its way.
const IN_USE: u64 = u64::MAX;

/// A place among those who hold such a lease; to be [ended](Holders::end).
#[derive(Debug)]
pub(super) struct Holder {
    row: usize,
    usage: Arc<Usage>,
}

impl Holder {
    /// A command of its is on its way, until [`used`](Self::used).
    pub(super) fn in_use(&self) {
        self.used(IN_USE);
    }

    pub(super) fn used(&self, now: u64) {
        self.usage.used.store(now, Ordering::Relaxed);
    }

    /// It has a connection of its own from now on.
    pub(super) fn is_exclusive(&self) {
        self.usage.has_connection.store(true, Ordering::Relaxed);
    }

    /// It has a connection for one command, until this is dropped.
    pub(super) fn with_connection(&self) -> WithConnection<'_> {
        self.is_exclusive();
        WithConnection(&self.usage)
    }
}

/// For as long as a holder has a connection that it gives back.
pub(super) struct WithConnection<'a>(&'a Usage);

impl Drop for WithConnection<'_> {
    fn drop(&mut self) {
        self.0.has_connection.store(false, Ordering::Relaxed);
    }
}

/// How many leases an account has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) out: usize,
    /// Of them with a connection of their own.
    pub(super) exclusive: usize,
}

/// Leases of one account from one place that have sent nothing for a while, and have no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Idle {
    pub(super) account: AccountId,
    pub(super) location: &'static Location<'static>,
    pub(super) count: usize,
    /// The longest time that one of them is held for, and has been without a command, in milliseconds.
    pub(super) held: u64,
    pub(super) idle: u64,
}

impl Holders {
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(
        &self,
        account: AccountId,
        location: &'static Location<'static>,
        now: u64,
    ) -> Holder {
        let mut rows = self.lock();
        let row = rows.free.pop().unwrap_or_else(|| {
            rows.rows.push(Row { holder: None, usage: Arc::default() });
            rows.rows.len() - 1
        });
        let place = &mut rows.rows[row];
        place.holder = Some((account, location));
        let usage = Arc::clone(&place.usage);
        usage.begun.store(now, Ordering::Relaxed);
        usage.used.store(now, Ordering::Relaxed);
        usage.has_connection.store(false, Ordering::Relaxed);
        Holder { row, usage }
    }

    pub(super) fn end(&self, holder: &Holder) {
        let mut rows = self.lock();
        rows.rows[holder.row].holder = None;
        rows.free.push(holder.row);
    }

    /// How many each account has.
    pub(super) fn counts(&self) -> BTreeMap<AccountId, Count> {
        let mut counts: BTreeMap<AccountId, Count> = BTreeMap::new();
        for Row { holder, usage } in &self.lock().rows {
            let Some((account, _)) = holder else { continue };
            let count = counts.entry(*account).or_default();
            count.out += 1;
            count.exclusive += usize::from(usage.has_connection.load(Ordering::Relaxed));
        }
        counts
    }

    /// Those without a connection that have sent nothing for so many milliseconds, the longest idle first.
    pub(super) fn idle(&self, now: u64, limit: u64) -> Vec<Idle> {
        let mut all: Vec<Idle> = Vec::new();
        for Row { holder, usage } in &self.lock().rows {
            let Some((account, location)) = *holder else { continue };
            let begun = usage.begun.load(Ordering::Relaxed);
            let used = usage.used.load(Ordering::Relaxed).max(begun);
            let (held, idle) = (now.saturating_sub(begun), now.saturating_sub(used));
            if idle < limit || usage.has_connection.load(Ordering::Relaxed) {
                continue;
            }
            let known = all.iter_mut().find(|it| (it.account, it.location) == (account, location));
            match known {
                Some(known) => {
                    known.count += 1;
                    (known.held, known.idle) = (known.held.max(held), known.idle.max(idle));
                }
                None => all.push(Idle { account, location, count: 1, held, idle }),
            }
        }
        all.sort_by_key(|it| std::cmp::Reverse(it.idle));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: AccountId = AccountId(3);

    #[test]
    fn leases_are_counted_and_listed_by_where_they_were_acquired() {
        let holders = Holders::default();
        let here = Location::caller();
        let both = [0, 500].map(|now| holders.begin(ACCOUNT, here, now));
        let used = holders.begin(ACCOUNT, here, 0);
        let exclusive = holders.begin(ACCOUNT, here, 0);
        exclusive.is_exclusive();
        used.used(1_900);

        assert_eq!(holders.counts()[&ACCOUNT], Count { out: 4, exclusive: 1 });
        let idle = Idle { account: ACCOUNT, location: here, count: 2, held: 2_000, idle: 2_000 };
        assert_eq!(holders.idle(2_000, 1_000), [idle]);
        both.iter().chain([&used, &exclusive]).for_each(|holder| holders.end(holder));
        assert_eq!((holders.counts().len(), holders.idle(9_000, 0).len()), (0, 0));
    }

    #[test]
    fn a_lease_whose_command_is_on_its_way_is_not_idle_however_long_that_takes() {
        let holders = Holders::default();
        let holder = holders.begin(ACCOUNT, Location::caller(), 0);
        holder.in_use();
        assert_eq!(holders.idle(9_000, 1_000), []);
        holder.used(9_000);
        assert_eq!(holders.idle(9_500, 1_000), []);
        assert_eq!(holders.idle(10_000, 1_000)[0].idle, 1_000);
    }

    #[test]
    fn a_connection_for_one_command_counts_while_it_is_held() {
        let holders = Holders::default();
        let holder = holders.begin(ACCOUNT, Location::caller(), 0);
        let with_connection = holder.with_connection();
        assert_eq!(holders.counts()[&ACCOUNT], Count { out: 1, exclusive: 1 });
        drop(with_connection);
        assert_eq!(holders.counts()[&ACCOUNT], Count { out: 1, exclusive: 0 });
    }

    #[test]
    fn the_next_on_a_place_begins_anew() {
        let holders = Holders::default();
        let first = holders.begin(ACCOUNT, Location::caller(), 0);
        first.is_exclusive();
        holders.end(&first);
        let second = holders.begin(ACCOUNT, Location::caller(), 1_000);
        assert_eq!(second.row, first.row);
        assert_eq!(holders.counts()[&ACCOUNT], Count { out: 1, exclusive: 0 });
        assert_eq!(holders.idle(1_500, 1_000), []);
        // By a coarse clock that has stood still.
        second.used(0);
        assert_eq!(holders.idle(1_500, 1_000), []);
    }
}
