//! Which limit is in force: the registry's, the price law's or, where both have nothing to say, none but
//! `max_connections`.

use tokio::time::Instant;

use super::Membership;
use crate::policy::PriceLaw;

/// Where the limit in force comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The registry granted it.
    Registry,
    /// The registry does not answer. What is held stays until it has given us up.
    Kept,
    /// The registry has not been asked yet: what is held, or one connection to ask it.
    Asking,
    /// There is no registry, or it is lost.
    PriceLaw,
    /// INFO cannot be had either: `max_connections`, and the gate.
    Static,
}

/// The limit in force, for a process with so many `sockets`. When one source is lost and the next takes
/// over, it does not grow before that one has seen the server, unless nothing can be seen.
#[must_use]
pub fn limit_in_force(
    member: Option<&Membership>,
    price: &PriceLaw,
    max_connections: usize,
    sockets: usize,
    now: Instant,
) -> (usize, Source) {
    if let Some(member) = member {
        match member.share(now) {
            Some(share) if member.failures() == 0 => return (share.limit, Source::Registry),
            Some(share) => return (share.limit, Source::Kept),
            None if member.failures() == 0 => return (sockets.max(1), Source::Asking),
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
    fn each_source_takes_over_from_a_better_one_that_is_lost_and_gives_way_when_it_is_back() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut member = Membership::new("a".to_owned(), 50, 0, start, 7);
        let mut price = PriceLaw::new(50, 7);
        let report = Report { live: 4, hungry: true, ..Report::default() };
        let reply = [9, 2000, 7000, 3, 200, 500, 0, 0, 1];
        let force = |member: &Membership, price: &PriceLaw, now| {
            limit_in_force(Some(member), price, 50, 4, now)
        };

        assert_eq!(force(&member, &price, start), (4, Source::Asking));
        let beat = member.beat(start, &report);
        member.replied(&beat, &reply);
        assert_eq!(force(&member, &price, at(1)), (9, Source::Registry));
        let beat = member.beat(at(1), &report);
        member.failed(&beat);
        assert_eq!(force(&member, &price, at(2)), (4, Source::Kept));
        assert_eq!(force(&member, &price, at(7)), (FLOOR, Source::PriceLaw), "not seen, not grown");
        let seen = Signal {
            used: 8_000,
            maxclients: 10_000,
            rejected: 0,
            live: 4,
            hungry: false,
            demand: 20,
        };
        price.step(at(7), &seen);
        assert_eq!(force(&member, &price, at(7)).1, Source::PriceLaw);
        price.unseen(at(8));
        assert_eq!(force(&member, &price, at(8)).1, Source::PriceLaw, "once is nothing");
        price.unseen(at(60));
        assert_eq!(force(&member, &price, at(60)), (50, Source::Static));
        let beat = member.beat(at(61), &report);
        member.replied(&beat, &reply);
        assert_eq!(force(&member, &price, at(61)), (9, Source::Registry));
    }
}
