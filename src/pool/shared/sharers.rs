//! Who shares the lanes: of each endpoint the commands in flight, and the multiplexing leases that are out. Those
//! cost no slot, so they are counted, and listed where they are idle; one that is never given back is no leak of a
//! connection.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::in_flight::InFlight;
use super::lanes::HomeLane;
use crate::Endpoint;
use crate::ledger::AccountId;

/// The endpoints that share a node's lanes. Its lock is taken when a handle is made, and at both ends of a lease.
#[derive(Debug, Default)]
pub(in crate::pool) struct Sharers(Mutex<Table>);

/// None is ever taken out, and so a number stays an endpoint's.
#[derive(Debug, Default)]
struct Table {
    sharers: Vec<Sharer>,
    by_name: HashMap<Endpoint, usize>,
}

/// One endpoint.
#[derive(Debug)]
struct Sharer {
    in_flight: Arc<InFlight>,
    /// As many as there ever were leases at a time.
    rows: Vec<Row>,
    /// Of the rows without a holder. A lease that begins with one has what it needs, its lane's connection too.
    #[expect(clippy::vec_box, reason = "a lease takes one, and moves")]
    spare: Vec<Box<Holder>>,
}

#[derive(Debug)]
struct Row {
    /// Where its lease was acquired, if one is out.
    location: Option<&'static Location<'static>>,
    usage: Arc<Usage>,
}

/// What a holder tells of itself, in milliseconds of the node's coarse clock.
#[derive(Debug, Default)]
struct Usage {
    begun: AtomicU64,
    used: AtomicU64,
    has_connection: AtomicBool,
}

/// For a command that is on its way.
const IN_USE: u64 = u64::MAX;

/// What a lease sends by; to be [ended](Sharers::end).
#[derive(Debug)]
pub(in crate::pool) struct Holder {
    pub(in crate::pool) in_flight: Arc<InFlight>,
    pub(in crate::pool) lane: HomeLane,
    sharer: usize,
    row: usize,
    usage: Arc<Usage>,
}

impl Holder {
    /// A command of its is on its way, until [`used`](Self::used).
    pub(in crate::pool) fn in_use(&self) {
        self.used(IN_USE);
    }

    pub(in crate::pool) fn used(&self, now: u64) {
        self.usage.used.store(now, Ordering::Relaxed);
    }

    /// It has a connection of its own from now on.
    pub(in crate::pool) fn becomes_exclusive(&self) {
        self.usage.has_connection.store(true, Ordering::Relaxed);
    }

    /// It has a connection for one command, until this is dropped.
    pub(in crate::pool) fn with_connection(&self) -> WithConnection<'_> {
        self.becomes_exclusive();
        WithConnection(&self.usage)
    }
}

/// For as long as a holder has a connection that it gives back.
pub(in crate::pool) struct WithConnection<'a>(&'a Usage);

impl Drop for WithConnection<'_> {
    fn drop(&mut self) {
        self.0.has_connection.store(false, Ordering::Relaxed);
    }
}

/// What an endpoint has on the lanes at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::pool) struct Share {
    pub(in crate::pool) in_flight: usize,
    /// How many may be in flight.
    pub(in crate::pool) max: usize,
    /// How many wait for a place in flight.
    pub(in crate::pool) waiting: usize,
    pub(in crate::pool) leases: usize,
    /// Of them with a connection of their own.
    pub(in crate::pool) exclusive: usize,
}

/// Leases of one account from one place that have sent nothing for a while, and have no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) struct Idle {
    pub(in crate::pool) account: AccountId,
    pub(in crate::pool) location: &'static Location<'static>,
    pub(in crate::pool) count: usize,
    /// The longest time that one of them is held for, and has been without a command, in milliseconds.
    pub(in crate::pool) held: u64,
    pub(in crate::pool) idle: u64,
}

impl Sharers {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, and where the endpoint is in it. `open` is called without the lock, and may give the endpoint
    /// another name.
    fn find(
        &self,
        endpoint: &Endpoint,
        open: impl FnOnce() -> InFlight,
    ) -> (MutexGuard<'_, Table>, usize) {
        let table = self.lock();
        if let Some(at) = table.find(endpoint) {
            return (table, at);
        }
        drop(table);
        let in_flight = open();
        let mut table = self.lock();
        let at = table.find(&in_flight.endpoint).unwrap_or_else(|| table.add(in_flight));
        (table, at)
    }

    /// The endpoint's commands in flight.
    pub(super) fn in_flight(
        &self,
        endpoint: &Endpoint,
        open: impl FnOnce() -> InFlight,
    ) -> Arc<InFlight> {
        let (table, at) = self.find(endpoint, open);
        Arc::clone(&table.sharers[at].in_flight)
    }

    /// A lease begins. `home`: the lane of one that is the first on its row.
    pub(super) fn begin(
        &self,
        endpoint: &Endpoint,
        open: impl FnOnce() -> InFlight,
        home: impl FnOnce() -> HomeLane,
        location: &'static Location<'static>,
        now: u64,
    ) -> Box<Holder> {
        let (mut table, at) = self.find(endpoint, open);
        let sharer = &mut table.sharers[at];
        let holder = sharer.spare.pop().unwrap_or_else(|| sharer.widen(at, home()));
        let Row { location: place, usage } = &mut sharer.rows[holder.row];
        *place = Some(location);
        usage.begun.store(now, Ordering::Relaxed);
        usage.used.store(now, Ordering::Relaxed);
        usage.has_connection.store(false, Ordering::Relaxed);
        holder
    }

    /// A lease ends.
    pub(in crate::pool) fn end(&self, mut holder: Box<Holder>) {
        holder.lane.renew();
        let mut table = self.lock();
        let sharer = &mut table.sharers[holder.sharer];
        sharer.rows[holder.row].location = None;
        sharer.spare.push(holder);
    }

    /// What an endpoint has on the lanes, if it ever had something.
    pub(in crate::pool) fn share_of(&self, endpoint: &Endpoint) -> Option<Share> {
        let table = self.lock();
        Some(table.sharers[table.find(endpoint)?].share())
    }

    /// The leases without a connection that have sent nothing for so many milliseconds, the longest idle first.
    pub(in crate::pool) fn idle(&self, now: u64, limit: u64) -> Vec<Idle> {
        let mut all = Vec::new();
        self.lock().sharers.iter().for_each(|sharer| sharer.idle(now, limit, &mut all));
        all.sort_by_key(|it| std::cmp::Reverse(it.idle));
        all
    }
}

impl Table {
    fn find(&self, endpoint: &Endpoint) -> Option<usize> {
        // A look at the first few costs less than hashing the name, and most pools have few.
        let is = |sharer: &Sharer| sharer.in_flight.endpoint == *endpoint;
        let first = self.sharers.iter().take(8).position(is);
        first.or_else(|| self.by_name.get(endpoint).copied())
    }

    fn add(&mut self, in_flight: InFlight) -> usize {
        let at = self.sharers.len();
        self.by_name.insert(in_flight.endpoint.clone(), at);
        let (rows, spare) = (Vec::new(), Vec::new());
        self.sharers.push(Sharer { in_flight: Arc::new(in_flight), rows, spare });
        at
    }
}

impl Sharer {
    /// A holder for one more row.
    fn widen(&mut self, sharer: usize, lane: HomeLane) -> Box<Holder> {
        let (row, usage) = (self.rows.len(), Arc::<Usage>::default());
        self.rows.push(Row { location: None, usage: Arc::clone(&usage) });
        let in_flight = Arc::clone(&self.in_flight);
        Box::new(Holder { in_flight, lane, sharer, row, usage })
    }

    fn share(&self) -> Share {
        let exclusive =
            |row: &&Row| row.location.is_some() && row.usage.has_connection.load(Ordering::Relaxed);
        Share {
            in_flight: self.in_flight.count(),
            max: self.in_flight.max,
            waiting: self.in_flight.waiting(),
            leases: self.rows.len() - self.spare.len(),
            exclusive: self.rows.iter().filter(exclusive).count(),
        }
    }

    fn idle(&self, now: u64, limit: u64, all: &mut Vec<Idle>) {
        let account = self.in_flight.account;
        for Row { location, usage } in &self.rows {
            let Some(location) = *location else { continue };
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::shared::lanes::Lanes;

    const ACCOUNT: AccountId = AccountId(3);
    const CART: Endpoint = Endpoint::DEFAULT;

    #[track_caller]
    fn begin(sharers: &Sharers, now: u64) -> Box<Holder> {
        let open = || InFlight::new(ACCOUNT, CART, 16);
        let here = Location::caller();
        sharers.begin(&CART, open, || Lanes::new(1).home(), here, now)
    }

    fn leases(sharers: &Sharers) -> (usize, usize) {
        let share = sharers.share_of(&CART).unwrap_or_default();
        (share.leases, share.exclusive)
    }

    #[test]
    fn leases_are_counted_and_listed_by_where_they_were_acquired() {
        let sharers = Sharers::default();
        let all = [0, 500, 0, 0].map(|now| begin(&sharers, now));
        let [_, _, used, exclusive] = &all;
        exclusive.becomes_exclusive();
        used.used(1_900);

        assert_eq!(leases(&sharers), (4, 1));
        let [idle] = sharers.idle(2_000, 1_000)[..] else { panic!("one place") };
        assert_eq!((idle.account, idle.count, idle.held, idle.idle), (ACCOUNT, 2, 2_000, 2_000));
        all.into_iter().for_each(|holder| sharers.end(holder));
        assert_eq!((leases(&sharers), sharers.idle(9_000, 0)), ((0, 0), vec![]));
    }

    #[test]
    fn a_lease_whose_command_is_on_its_way_is_not_idle_however_long_that_takes() {
        let sharers = Sharers::default();
        let holder = begin(&sharers, 0);
        holder.in_use();
        assert_eq!(sharers.idle(9_000, 1_000), []);
        holder.used(9_000);
        assert_eq!(sharers.idle(9_500, 1_000), []);
        assert_eq!(sharers.idle(10_000, 1_000)[0].idle, 1_000);
    }

    #[test]
    fn a_connection_for_one_command_counts_while_it_is_held() {
        let sharers = Sharers::default();
        let holder = begin(&sharers, 0);
        let with_connection = holder.with_connection();
        assert_eq!(leases(&sharers), (1, 1));
        drop(with_connection);
        assert_eq!(leases(&sharers), (1, 0));
    }

    #[test]
    fn the_next_on_a_row_begins_anew() {
        let sharers = Sharers::default();
        let first = begin(&sharers, 0);
        let row = first.row;
        first.becomes_exclusive();
        sharers.end(first);
        let second = begin(&sharers, 1_000);
        assert_eq!(second.row, row);
        assert_eq!(leases(&sharers), (1, 0));
        assert_eq!(sharers.idle(1_500, 1_000), []);
        // By a coarse clock that has stood still.
        second.used(0);
        assert_eq!(sharers.idle(1_500, 1_000), []);
    }

    #[test]
    fn an_endpoint_that_is_counted_as_another_has_what_that_one_has() {
        let sharers = Sharers::default();
        let open = || InFlight::new(ACCOUNT, Endpoint::OTHER, 16);
        let [one, two] = ["one", "two"].map(|name| sharers.in_flight(&name.into(), open));
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(sharers.share_of(&"one".into()), None);
        assert!(sharers.share_of(&Endpoint::OTHER).is_some());
    }

    #[test]
    fn each_of_many_endpoints_is_found() {
        let sharers = Sharers::default();
        let names: Vec<Endpoint> = (0..40).map(|nth| format!("tenant-{nth}").into()).collect();
        let open = |name: &Endpoint| {
            sharers.in_flight(name, || InFlight::new(ACCOUNT, name.clone(), 16));
        };
        names.iter().chain(&names).for_each(open);
        assert_eq!(sharers.lock().sharers.len(), names.len());
        assert!(names.iter().all(|name| sharers.share_of(name).is_some()));
    }
}
