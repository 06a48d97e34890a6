//! Leak detection: who holds what, since when, and from where.
//!
//! Pure: the sweep passes `now` in. A lease notes its holder under the lock that it takes anyway;
//! there is no timer a lease and no clock read. Its age counts from the first sweep that sees it, so
//! it is short by at most one sweep and never too long.

use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::AccountId;

/// The leases that are out.
#[derive(Debug, Default)]
pub(super) struct Leases {
    seats: Vec<Option<Lease>>,
    free: Vec<Seat>,
}

/// A lease's place among those that are out; reused after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat(usize);

/// Who holds a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) account: AccountId,
    pub(super) location: &'static Location<'static>,
    seen: Option<Instant>,
    /// Reported as a suspected leak.
    pub(super) suspected: bool,
}

impl Seat {
    /// A number that is never zero, to note on the connection.
    pub(super) fn mark(self) -> usize {
        self.0 + 1
    }
}

impl Lease {
    /// How long it has been held, less at most one sweep.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.seen.map_or(Duration::ZERO, |seen| now.duration_since(seen))
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Held for longer than `leak_after`, and not reported before.
    pub(super) suspected: Vec<Lease>,
    /// Held for longer than `revoke_after`.
    pub(super) overdue: Vec<Seat>,
    pub(super) oldest: Duration,
}

impl Leases {
    pub(super) fn begin(
        &mut self,
        account: AccountId,
        location: &'static Location<'static>,
    ) -> Seat {
        let lease = Some(Lease { account, location, seen: None, suspected: false });
        if let Some(seat) = self.free.pop() {
            self.seats[seat.0] = lease;
            seat
        } else {
            self.seats.push(lease);
            Seat(self.seats.len() - 1)
        }
    }

    pub(super) fn end(&mut self, seat: Seat) -> Option<Lease> {
        let lease = self.seats[seat.0].take();
        self.free.push(seat);
        lease
    }

    pub(super) fn sweep(
        &mut self,
        now: Instant,
        leak_after: Duration,
        revoke_after: Option<Duration>,
    ) -> Sweep {
        let mut sweep = Sweep::default();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            let Some(lease) = seat else { continue };
            lease.seen.get_or_insert(now);
            let age = lease.age(now);
            sweep.oldest = sweep.oldest.max(age);
            if age >= leak_after && !lease.suspected {
                lease.suspected = true;
                sweep.suspected.push(*lease);
            }
            if revoke_after.is_some_and(|limit| age >= limit) {
                sweep.overdue.push(Seat(at));
            }
        }
        sweep
    }

    /// The suspected leaks, oldest first.
    pub(super) fn suspected(&self) -> Vec<Lease> {
        let mut leases: Vec<_> =
            self.seats.iter().flatten().filter(|lease| lease.suspected).copied().collect();
        leases.sort_by_key(|lease| lease.seen);
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
            leases.sweep(start + SECOND * at, SECOND * 3, None).suspected.len()
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
        leases.sweep(start, SECOND, None);
        leases.end(first);
        assert_eq!(begin(&mut leases), first);
        let sweep = leases.sweep(start + SECOND * 9, SECOND, Some(SECOND));
        assert_eq!((sweep.suspected.len(), sweep.overdue.len()), (0, 0));
        assert_eq!(sweep.oldest, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_overdue_lease_is_named_at_every_sweep() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        let seat = begin(&mut leases);
        leases.sweep(start, SECOND, Some(SECOND * 2));
        for at in [2, 3] {
            let sweep = leases.sweep(start + SECOND * at, SECOND, Some(SECOND * 2));
            assert_eq!(sweep.overdue, [seat]);
        }
    }
}
