//! Leak detection: who holds what, since when, and from where.
//!
//! Pure: the sweep passes `now` in. A lease notes its holder under the lock that it takes anyway;
//! there is no timer a lease and no clock read. Its age counts from the first sweep that sees it, so
//! it is short by at most one sweep and never too long.
//!
//! A leak is a lease that nobody uses: what counts is the time without a command, not the age. A worker
//! that blocks on a queue for hours uses its lease.

use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::AccountId;

/// The leases that are out.
#[derive(Debug, Default)]
pub(super) struct Leases {
    rows: Vec<Row>,
    free: Vec<u32>,
}

/// The places are used again; the turn tells one lease on a place from the next.
#[derive(Debug, Default)]
struct Row {
    turn: u32,
    lease: Option<Lease>,
}

/// A lease's place among those that are out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Seat {
    row: u32,
    turn: u32,
}

/// Who holds a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) account: AccountId,
    pub(super) location: &'static Location<'static>,
    seen: Option<Instant>,
    /// Since when it has been without a command, as of the last sweep.
    unused_since: Option<Instant>,
    /// Reported as a suspected leak.
    pub(super) suspected: bool,
    /// Meant to be held for as long as it likes: a lane, or a subscriber.
    exempt: bool,
}

impl Seat {
    /// A number that no other lease has, and never zero, to note on the connection.
    pub(super) fn mark(self) -> u64 {
        (u64::from(self.turn) << 32) | (u64::from(self.row) + 1)
    }

    /// The seat of a mark; `None` for zero.
    pub(super) fn of_mark(mark: u64) -> Option<Self> {
        let row = u32::try_from(mark & u64::from(u32::MAX)).ok()?.checked_sub(1)?;
        Some(Self { row, turn: u32::try_from(mark >> 32).ok()? })
    }
}

impl Lease {
    /// How long it has been held, less at most one sweep.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.seen.map_or(Duration::ZERO, |seen| now.duration_since(seen))
    }

    /// How long it has been without a command; likewise.
    pub(super) fn unused(&self, now: Instant) -> Duration {
        self.unused_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Without a command for longer than `leak_after`, and not reported before.
    pub(super) suspected: Vec<Lease>,
    /// Reported before, and used again.
    pub(super) resolved: Vec<Lease>,
    /// Held for longer than `revoke_after`.
    pub(super) overdue: Vec<Seat>,
    /// The longest time without a command.
    pub(super) longest: Duration,
}

impl Leases {
    pub(super) fn begin(
        &mut self,
        account: AccountId,
        location: &'static Location<'static>,
    ) -> Seat {
        let row = self.free.pop().unwrap_or_else(|| {
            self.rows.push(Row::default());
            u32::try_from(self.rows.len() - 1).expect("fewer leases than 2^32 fit into memory")
        });
        let place = &mut self.rows[row as usize];
        place.lease = Some(Lease {
            account,
            location,
            seen: None,
            unused_since: None,
            suspected: false,
            exempt: false,
        });
        Seat { row, turn: place.turn }
    }

    /// Takes a lease out of leak detection.
    pub(super) fn exempt(&mut self, seat: Seat) {
        let place = &mut self.rows[seat.row as usize];
        if let Some(lease) = place.lease.as_mut().filter(|_| place.turn == seat.turn) {
            lease.exempt = true;
        }
    }

    pub(super) fn is_out(&self, seat: Seat) -> bool {
        self.rows[seat.row as usize].turn == seat.turn
    }

    /// Ends a lease; `None` if it was ended before.
    pub(super) fn end(&mut self, seat: Seat) -> Option<Lease> {
        let place = &mut self.rows[seat.row as usize];
        if place.turn != seat.turn {
            return None;
        }
        place.turn = place.turn.wrapping_add(1);
        self.free.push(seat.row);
        place.lease.take()
    }

    /// Looks at all leases. `unused`: how long the connection of one has been without a command, if that is
    /// known.
    pub(super) fn sweep(
        &mut self,
        now: Instant,
        leak_after: Duration,
        revoke_after: Option<Duration>,
        unused: impl Fn(Seat) -> Option<Duration>,
    ) -> Sweep {
        let mut sweep = Sweep::default();
        for (row, place) in (0..).zip(&mut self.rows) {
            let Some(lease) = place.lease.as_mut().filter(|lease| !lease.exempt) else {
                continue;
            };
            let seen = *lease.seen.get_or_insert(now);
            let seat = Seat { row, turn: place.turn };
            let last = unused(seat).and_then(|unused| now.checked_sub(unused));
            lease.unused_since = last.max(Some(seen));
            let unused = lease.unused(now);
            sweep.longest = sweep.longest.max(unused);
            if unused >= leak_after && !lease.suspected {
                lease.suspected = true;
                sweep.suspected.push(*lease);
            } else if unused < leak_after && lease.suspected {
                lease.suspected = false;
                sweep.resolved.push(*lease);
            }
            if revoke_after.is_some_and(|limit| lease.age(now) >= limit) {
                sweep.overdue.push(seat);
            }
        }
        sweep
    }

    /// The suspected leaks, those first that are unused for longest.
    pub(super) fn suspected(&self) -> Vec<Lease> {
        let mut leases: Vec<_> =
            self.rows.iter().filter_map(|row| row.lease).filter(|l| l.suspected).collect();
        leases.sort_by_key(|lease| lease.unused_since);
        leases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn begin(leases: &mut Leases) -> Seat {
        leases.begin(AccountId(0), Location::caller())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_suspected_once_and_known_until_it_ends() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let seat = begin(&mut leases);
        let sweep = |leases: &mut Leases, at: u32| {
            leases.sweep(start + SECOND * at, SECOND * 3, None, |_| None).suspected.len()
        };
        assert_eq!([sweep(&mut leases, 0), sweep(&mut leases, 2)], [0, 0]);
        assert_eq!([sweep(&mut leases, 3), sweep(&mut leases, 4)], [1, 0]);
        assert_eq!(leases.suspected().len(), 1);
        assert!(leases.end(seat).is_some_and(|lease| lease.suspected));
        assert!(leases.suspected().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_lease_on_a_seat_starts_young() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let first = begin(&mut leases);
        leases.sweep(start, SECOND, None, |_| None);
        leases.end(first);
        let second = begin(&mut leases);
        assert_eq!((second.row, Seat::of_mark(second.mark())), (first.row, Some(second)));
        assert!(leases.end(first).is_none(), "the turn of the first is over");
        let sweep = leases.sweep(start + SECOND * 9, SECOND, Some(SECOND), |_| None);
        assert_eq!((sweep.suspected.len(), sweep.overdue.len()), (0, 0));
        assert_eq!(sweep.longest, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_overdue_lease_is_named_at_every_sweep() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let seat = begin(&mut leases);
        leases.sweep(start, SECOND, Some(SECOND * 2), |_| None);
        for at in [2, 3] {
            let sweep = leases.sweep(start + SECOND * at, SECOND, Some(SECOND * 2), |_| None);
            assert_eq!(sweep.overdue, [seat]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_used_is_no_leak_however_old_it_is() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let seat = begin(&mut leases);
        let sweep = |leases: &mut Leases, at: u32, unused: u32| {
            let limits = (SECOND * 3, Some(SECOND * 103));
            let unused = |of| (of == seat).then_some(SECOND * unused);
            let sweep = leases.sweep(start + SECOND * at, limits.0, limits.1, unused);
            (sweep.suspected.len(), sweep.resolved.len(), sweep.overdue.len(), sweep.longest)
        };
        assert_eq!(
            sweep(&mut leases, 0, 99),
            (0, 0, 0, Duration::ZERO),
            "that was before the lease"
        );
        assert_eq!(sweep(&mut leases, 100, 0), (0, 0, 0, Duration::ZERO));
        assert_eq!(sweep(&mut leases, 102, 2), (0, 0, 0, SECOND * 2));
        assert_eq!(sweep(&mut leases, 103, 3), (1, 0, 1, SECOND * 3));
        let lease = leases.suspected()[0];
        let now = start + SECOND * 104;
        assert_eq!((lease.age(now), lease.unused(now)), (SECOND * 104, SECOND * 4));
        assert_eq!(sweep(&mut leases, 105, 5), (0, 0, 1, SECOND * 5));
        assert_eq!(sweep(&mut leases, 106, 1), (0, 1, 1, SECOND), "it is used again");
        assert!(leases.suspected().is_empty());
    }
}
