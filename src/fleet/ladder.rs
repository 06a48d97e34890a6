//! Which limit is in force, when the lease, the price law or both have nothing to say.

use tokio::time::Instant;

use super::Lease;
use crate::policy::PriceLaw;

/// Where the limit in force comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The registry granted it.
    Lease,
    /// The registry does not answer. What is held stays until it has given us up.
    Kept,
    /// The registry has not been asked yet: what is held, or one connection to ask it.
    Asking,
    /// There is no registry, or it is lost.
    PriceLaw,
    /// INFO cannot be had either: `max_connections`, and the gate.
    Static,
}

/// The limit in force, for a process with so many `sockets`. Down the ladder it never grows without
/// having looked, unless there is nothing to look at.
#[must_use]
pub fn limit_in_force(
    lease: Option<&Lease>,
    price: &PriceLaw,
    max_connections: usize,
    sockets: usize,
    now: Instant,
) -> (usize, Source) {
    if let Some(lease) = lease {
        match lease.share(now) {
            Some(share) if lease.failures() == 0 => return (share.limit, Source::Lease),
            Some(share) => return (share.limit, Source::Kept),
            None if lease.failures() == 0 => return (sockets.max(1), Source::Asking),
            None => {}
        }
    }
    price.limit().map_or((max_connections, Source::Static), |limit| (limit, Source::PriceLaw))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fleet::Report;
    use crate::policy::{FLOOR, Signal};

    #[test]
    fn the_limit_comes_down_the_ladder_step_by_step_and_up_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lease = Lease::new("a".to_owned(), 50, 0, start, 7);
        let mut price = PriceLaw::new(50, 7);
        let report = Report { live: 4, hungry: true, ..Report::default() };
        let reply = [9, 2000, 7000, 3, 200, 500, 0];
        let force =
            |lease: &Lease, price: &PriceLaw, now| limit_in_force(Some(lease), price, 50, 4, now);

        assert_eq!(force(&lease, &price, start), (4, Source::Asking));
        let beat = lease.beat(start, &report);
        lease.replied(&beat, &reply);
        assert_eq!(force(&lease, &price, at(1)), (9, Source::Lease));
        let beat = lease.beat(at(1), &report);
        lease.failed(&beat);
        assert_eq!(force(&lease, &price, at(2)), (4, Source::Kept));
        assert_eq!(force(&lease, &price, at(7)), (FLOOR, Source::PriceLaw), "not seen, not grown");
        let seen = Signal {
            used: 8_000,
            maxclients: 10_000,
            rejected: 0,
            live: 4,
            hungry: false,
            demand: 20,
        };
        price.step(at(7), &seen);
        assert_eq!(force(&lease, &price, at(7)).1, Source::PriceLaw);
        price.unseen(at(8));
        assert_eq!(force(&lease, &price, at(8)).1, Source::PriceLaw, "once is nothing");
        price.unseen(at(60));
        assert_eq!(force(&lease, &price, at(60)), (50, Source::Static));
        let beat = lease.beat(at(61), &report);
        lease.replied(&beat, &reply);
        assert_eq!(force(&lease, &price, at(61)), (9, Source::Lease));
    }
}
