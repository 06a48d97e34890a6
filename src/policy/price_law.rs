//! The price law: the limit that a process sets itself where there is no registry.
//!
//! The saturation of the server is the price of a slot, and everybody sees the same price. While it
//! is low, demand grows; while it is high, whoever holds much gives back more than whoever holds
//! little, and newcomers still grow. So the shares meet. This is additive increase and multiplicative
//! decrease (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion
//! Avoidance in Computer Networks", 1989) on a signal that all share: a pool that reacts to its own
//! rejections alone is never fair, for incumbents see none.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::real;

/// Nobody's limit is set below, unless that is more than it may have.
pub const FLOOR: usize = 2;

/// Below this saturation growth is not rationed in time, only by what there is.
pub(crate) const QUIET: f64 = 0.5;
/// Above this one, what is not needed is given back.
const TIGHT: f64 = 0.75;
/// Where the price begins to rise, and where it has risen to 1.
pub(crate) const LOW: f64 = 0.90;
const HIGH: f64 = 0.98;
/// The part of what it needs that a process may add in a [`UNIT`] of time at price 0. In proportion
/// to need, the shares meet at the same part of it for everybody: with one gain for all, those who
/// need ten times as much had 66 % of their calls served (simulated).
const GAIN: f64 = 0.3;
/// The part of its connections that a process gives back in a [`UNIT`] of time at price 1.
const YIELD: f64 = 0.4;
const UNIT: Duration = Duration::from_secs(3);
/// A look that is later than this was held up: far longer than a reply and a timer take on a busy machine.
const LATE: Duration = Duration::from_millis(250);
/// The part of what it needs that no price takes from a process: unguarded clients pay none, and a
/// leak of theirs would get everything.
const KEPT: f64 = 0.3;
/// The longest time that one step makes up for. After a pause the world has changed.
const LONGEST: Duration = Duration::from_secs(20);
/// The pace of a fleet: this much for each of its members. An INFO costs the server 2 to 4 µs
/// (7.0.15), a round trip of a short command about 10.
const PER_MEMBER: f64 = 0.001;
const INTERVALS: [f64; 2] = [3.0, 15.0];

/// How long the last observation is worth something: a few intervals.
const MEMORY: Duration = Duration::from_secs(45);

/// What one step of the price law goes by.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// Slots in use on the server, from whomever.
    pub used: u64,
    /// The server's ceiling.
    pub maxclients: u64,
    /// Connections the server has refused since the observation before.
    pub rejected: u64,
    /// Our own connections, those being dialed included.
    pub live: usize,
    /// Callers wait, and we are at the limit.
    pub hungry: bool,
    /// Our demand, generously: [`Demand::generous`](super::Demand::generous).
    pub demand: usize,
}

/// The price law of one process.
#[derive(Debug)]
pub struct PriceLaw {
    max_connections: usize,
    floor: usize,
    limit: usize,
    /// Of the last step.
    saturation: f64,
    peers: f64,
    /// When the server was observed last, and when it was to be observed next.
    seen: Option<Instant>,
    expected: Option<Instant>,
    blind: bool,
    next: Option<Instant>,
    rng: Rng,
}

impl PriceLaw {
    /// Starts at the floor: the first connection asks what it costs before there are more.
    #[must_use]
    pub fn new(max_connections: usize, seed: u64) -> Self {
        let floor = FLOOR.min(max_connections);
        Self {
            max_connections,
            floor,
            limit: floor,
            saturation: 1.0,
            peers: 1.0,
            seen: None,
            expected: None,
            blind: false,
            next: None,
            rng: Rng::with_seed(seed),
        }
    }

    /// Never below `floor`, instead of [`FLOOR`]; at most the maximum, and at least 1.
    #[must_use]
    pub fn at_least(mut self, floor: usize) -> Self {
        self.floor = floor.clamp(1, self.max_connections.max(1));
        self.limit = self.floor;
        self
    }

    /// How many connections we may have; `None` while the server does not say how full it is.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        (!self.blind).then_some(self.limit)
    }

    /// The server could not be observed. The limit stays for `MEMORY` after the last time it
    /// could be, and then says nothing any more.
    pub fn unseen(&mut self, now: Instant) {
        self.blind = self.seen.is_none_or(|seen| now.saturating_duration_since(seen) > MEMORY);
        self.rest(now, INTERVALS[1]);
    }

    /// How many like us the server seems to have, for the gate: all slots in use over what we need.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate; the cast saturates"
    )]
    pub fn peers(&self) -> usize {
        self.peers as usize
    }

    /// When to observe next. `None`: now, for there has been no observation yet, or the allowance on
    /// a quiet server is used up. A lone service then grows fivefold with every INFO.
    #[must_use]
    pub fn due(&self, live: usize, hungry: bool) -> Option<Instant> {
        let used_up = hungry && live >= self.limit && self.limit < self.max_connections;
        self.next.filter(|_| !(used_up && self.saturation < QUIET))
    }

    /// Connections were lost, or the server refused one: what was not used of the limit is void.
    pub fn lost(&mut self, live: usize) {
        self.limit = self.limit.min(live).max(self.floor);
    }

    /// One step. An observation that cannot be (no ceiling, or nobody connected, though we are)
    /// counts as [`unseen`](Self::unseen). More slots used than there are is what a lowered ceiling looks
    /// like.
    pub fn step(&mut self, now: Instant, seen: &Signal) {
        if seen.maxclients == 0 || seen.used == 0 {
            return self.unseen(now);
        }
        let (live, max) = (real(seen.live), real(self.max_connections));
        #[allow(clippy::cast_precision_loss, reason = "connections: far fewer than 2^52")]
        let (used, ceiling) = (seen.used as f64, seen.maxclients as f64);
        let since =
            |until: Instant| self.seen.map_or(UNIT, |last| until.saturating_duration_since(last));
        let elapsed = since(now);
        // A price that is seen late, since the server stalled, say, was not the price all the time.
        let expected = self.expected.map_or(now, |expected| expected.min(now));
        let (priced, late) = (since(expected), now > expected + LATE);
        let demand = real(seen.demand.min(self.max_connections));
        // By what we need, not by what we have: a newcomer would wait longest.
        self.peers = used / live.max(demand).max(1.0);
        (self.seen, self.blind) = (Some(now), false);
        self.rest(now, (self.peers * PER_MEMBER).clamp(INTERVALS[0], INTERVALS[1]));
        self.expected = self.next;

        let e = elapsed.min(LONGEST).as_secs_f64() / UNIT.as_secs_f64();
        let saturation = used / ceiling;
        let price = match seen.rejected {
            0 => ((saturation - LOW) / (HIGH - LOW)).clamp(0.0, 1.0),
            _ => 1.0,
        };
        let hungry = seen.hungry || (saturation > TIGHT && live < demand);
        let floor = real(self.floor);
        // Everybody's part of the room is as large as the part of the slots in use: together they
        // cannot pass it, however many they are and however fast.
        let share = (4.0 * live).min(live * (LOW * ceiling - used) / used);
        // A newcomer at most doubles in a unit of time, as it would by itself. And nobody takes more
        // than a part of what is free in one step: a few large pools would take it all.
        let room = ((ceiling - used) / 4.0).max(1.0);
        // Where the look was late because the server, or the machine, stood still, everybody looks at the same moment
        // and sees the same slots free: each takes its part of half of them.
        let room = if late { room.min(live * (ceiling - used) / (2.0 * used)) } else { room };
        let gain = ((GAIN * demand).max(1.0) * e).min(live * (e.exp2() - 1.0)).min(room);
        let wanted = if saturation < QUIET {
            live + share
        } else if price == 0.0 {
            if hungry { live + gain.max(share) } else { live }
        } else {
            let gain = if hungry { gain * (1.0 - price) } else { 0.0 };
            let priced = priced.min(LONGEST).as_secs_f64() / UNIT.as_secs_f64();
            let loss = (1.0 - (1.0 - YIELD).powf(priced)) * live * price;
            (live + gain - loss).max(live.min(KEPT * demand))
        };
        let spared = if saturation > TIGHT && !hungry { wanted.min(demand) } else { wanted };
        self.saturation = saturation;
        self.limit = self.whole(spared.clamp(floor, max));
    }

    /// ± 30 %, so that a fleet does not look at the server as one.
    fn rest(&mut self, now: Instant, seconds: f64) {
        self.next = Some(now + Duration::from_secs_f64(seconds * (0.7 + 0.6 * self.rng.f64())));
    }

    /// Rounds up or down at random, so that a fleet loses and gains its fractions, too.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between the floor and max_connections"
    )]
    fn whole(&mut self, limit: f64) -> usize {
        (limit + self.rng.f64()).floor().min(real(self.max_connections)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(used: u64, live: usize, hungry: bool) -> Signal {
        Signal { used, maxclients: 10_000, rejected: 0, live, hungry, demand: 60 }
    }

    /// The limit after one step of three seconds from `live`.
    fn step(seen: &Signal) -> usize {
        step_of(1, seen)
    }

    fn step_of(units: u32, seen: &Signal) -> usize {
        let start = Instant::now();
        let mut law = PriceLaw::new(50, 7);
        law.step(start, seen);
        // As in a fleet so large that its looks are so far apart.
        law.expected = law.expected.max(Some(start + UNIT * units));
        law.step(start + UNIT * units, seen);
        law.limit
    }

    #[test]
    fn a_lone_service_reaches_its_maximum_in_three_looks() {
        let (now, mut live, mut looks) = (Instant::now(), 1, 0);
        let mut law = PriceLaw::new(50, 7);
        while live < 50 {
            assert_eq!(law.due(live, true), None, "no time passes");
            law.step(now, &seen(live as u64, live, true));
            live = law.limit;
            looks += 1;
        }
        assert_eq!(looks, 3);
        assert!(law.due(live, true) > Some(now), "and then it rests");
    }

    #[test]
    fn newcomers_together_take_no_more_than_the_room() {
        // 100 with 4 each beside 3,600 others, and 5,000 slots below the price.
        let limits: usize = (0..100).map(|_| step(&seen(4_000, 4, true)) - 4).sum();
        assert!(limits <= 5_000 / 10 + 100, "{limits}");
    }

    #[test]
    fn at_a_high_price_whoever_holds_much_shrinks_and_whoever_holds_little_grows() {
        let much = step(&seen(9_500, 50, true));
        let little = step(&seen(9_500, 10, true));
        assert!(much < 50 && little > 10, "{much} {little}");
    }

    #[test]
    fn no_price_takes_the_last_part_of_what_is_needed() {
        let start = Instant::now();
        let (mut law, mut live) = (PriceLaw::new(50, 7), 50);
        for n in 0..40 {
            law.step(start + UNIT * n, &seen(10_000, live, true));
            live = law.limit;
        }
        assert_eq!(live, 15);
    }

    #[test]
    fn no_price_takes_what_the_floor_keeps() {
        let mut law = PriceLaw::new(50, 7).at_least(8);
        assert_eq!(law.limit(), Some(8), "from the start");
        let (start, mut live) = (Instant::now(), 50);
        for n in 0..40 {
            law.step(start + UNIT * n, &Signal { demand: 0, ..seen(10_000, live, true) });
            live = law.limit;
        }
        assert_eq!(live, 8);
    }

    #[test]
    fn an_allowance_that_was_not_used_expires_and_never_closes_a_connection() {
        assert_eq!(step(&seen(7_000, 20, false)), 20);
    }

    #[test]
    fn what_is_not_needed_is_given_back_when_slots_run_short() {
        let idle = Signal { demand: 12, ..seen(8_000, 12, false) };
        assert_eq!(step(&Signal { live: 40, ..idle }), 12);
        assert_eq!(step(&Signal { used: 7_500, live: 40, ..idle }), 40);
    }

    #[test]
    fn an_observation_that_comes_late_costs_no_more_than_one_that_comes_in_time() {
        let (start, full) = (Instant::now(), seen(10_000, 50, true));
        let after = |seconds| {
            let mut law = PriceLaw::new(50, 7);
            law.step(start, &full);
            let due = law.due(50, true).expect("a full server is left in peace");
            law.unseen(due);
            law.step(due + Duration::from_secs(seconds), &full);
            law.limit
        };
        assert_eq!((after(4), after(16)), (after(0), after(0)));
        assert!(after(16) > 15, "{}: above what no price takes", after(16));
    }

    #[test]
    fn rejections_are_the_highest_price() {
        assert!(step(&Signal { rejected: 3, ..seen(8_000, 40, true) }) < 40);
    }

    #[test]
    fn without_a_ceiling_the_limit_stays() {
        let now = Instant::now();
        let mut law = PriceLaw::new(50, 7);
        law.step(now, &seen(5, 1, true));
        let limit = law.limit();
        law.step(now, &Signal { maxclients: 0, ..seen(5, 1, true) });
        assert_eq!(law.limit(), limit);
        law.step(now + MEMORY * 2, &Signal { used: 0, ..seen(5, 1, true) });
        assert_eq!(law.limit(), None, "and one day it is not known any more");
    }

    #[test]
    fn whoever_holds_less_than_is_needed_is_hungry_once_slots_run_short() {
        let step = |used, live| step(&Signal { demand: 20, ..seen(used, live, false) });
        assert!(step(8_000, 10) > 10);
        assert_eq!([step(7_500, 10), step(8_000, 20)], [10, 20]);
        assert!(self::step(&seen(6_000, 20, true)) > 20, "or waits, while there is enough");
    }

    #[test]
    fn on_a_quiet_server_growth_is_fivefold_at_most_and_a_part_of_the_room() {
        assert_eq!(step(&seen(1_000, 4, true)), 20);
        assert_eq!(step(&seen(4_000, 4, true)), 9, "5,000 below the price for 4,000: 4 and 5");
        assert_eq!(step(&seen(4_999, 20, false)), 36, "whoever does not need it yet, too");
        assert_eq!(step(&seen(5_000, 20, false)), 20);
    }

    #[test]
    fn below_the_price_growth_is_a_part_of_the_need_in_a_unit_of_time() {
        let needs_20 = Signal { demand: 20, ..seen(8_000, 20, true) };
        assert_eq!([step(&needs_20), step_of(2, &needs_20)], [26, 32]);
        // A newcomer doubles with each unit.
        assert_eq!([step(&seen(8_000, 4, true)), step_of(2, &seen(8_000, 4, true))], [8, 16]);
        // Of what is free nobody takes more than a quarter.
        let crowded = Signal { used: 88, maxclients: 100, ..seen(88, 40, true) };
        assert_eq!(step(&crowded), 43);
        // A quarter of the price: three quarters of the growth, and a quarter of the yield.
        let priced = step(&Signal { demand: 20, ..seen(9_200, 20, true) });
        assert!(priced == 22 || priced == 23, "20 and 4.5 less 2, not {priced}");
    }

    /// All of them are due while the server stands still, and look when it goes on.
    #[test]
    fn after_a_stall_all_together_take_no_more_than_what_is_free() {
        for seed in 0..200 {
            let shares = [34, 30, 24, 12, 4, 4];
            let used = shares.iter().sum::<usize>() as u64;
            let after: usize = (seed..)
                .zip(shares)
                .map(|(seed, live)| {
                    let (start, mut law) = (Instant::now(), PriceLaw::new(40, seed * 6));
                    let signal =
                        Signal { used, maxclients: 120, demand: 40, ..seen(used, live, true) };
                    law.step(start, &signal);
                    law.step(start + Duration::from_secs(8), &signal);
                    law.limit.max(live)
                })
                .sum();
            assert!(after <= 120, "{after} of 120 with seed {seed}");
        }
    }

    #[test]
    fn a_fleet_spreads_its_looks() {
        let waits: Vec<_> = (0..200)
            .filter_map(|seed| {
                let (now, mut law) = (Instant::now(), PriceLaw::new(50, seed));
                law.step(now, &seen(8_000, 4, false));
                law.due(4, false).map(|due| (due - now).as_secs_f64())
            })
            .collect();
        assert_eq!(waits.len(), 200);
        assert!(waits.iter().all(|wait| (2.1..=3.9).contains(wait)), "{waits:?}");
        let ends = [waits.iter().any(|wait| *wait < 2.3), waits.iter().any(|wait| *wait > 3.7)];
        assert_eq!(ends, [true; 2], "{waits:?}");
    }

    #[test]
    fn what_was_seen_is_known_for_as_long_as_it_is_remembered() {
        let now = Instant::now();
        let mut law = PriceLaw::new(50, 7);
        law.step(now, &seen(5, 1, true));
        law.unseen(now + MEMORY);
        assert!(law.limit().is_some());
        law.unseen(now + MEMORY + Duration::from_nanos(1));
        assert_eq!(law.limit(), None);
    }

    #[test]
    fn only_who_is_hungry_at_the_limit_looks_again_at_once_and_only_on_a_quiet_server() {
        let due = |used, live, hungry| {
            let mut law = PriceLaw::new(50, 7);
            law.step(Instant::now(), &seen(used, 1, true));
            law.due(if live { law.limit } else { 0 }, hungry)
        };
        assert_eq!(due(100, true, true), None);
        for (used, live, hungry) in [(100, true, false), (100, false, true), (5_000, true, true)] {
            assert!(due(used, live, hungry).is_some(), "{used} {live} {hungry}");
        }
    }

    #[test]
    fn a_loss_voids_what_was_not_used_of_the_limit_down_to_the_floor() {
        let mut law = PriceLaw::new(50, 7);
        law.step(Instant::now(), &seen(100, 10, true));
        let limit = law.limit;
        assert!(limit > 10);
        law.lost(limit + 1);
        assert_eq!(law.limit, limit);
        law.lost(7);
        assert_eq!(law.limit, 7);
        law.lost(0);
        assert_eq!(law.limit, FLOOR);
    }

    #[test]
    fn peers_are_the_slots_in_use_over_what_we_need() {
        let mut law = PriceLaw::new(50, 7);
        law.step(Instant::now(), &Signal { demand: 20, ..seen(4_000, 4, true) });
        assert_eq!(law.peers(), 200);
        law.step(Instant::now(), &Signal { demand: 20, ..seen(4_000, 40, true) });
        assert_eq!(law.peers(), 100);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_seen_the_limit_is_between_the_floor_and_the_maximum(
            max in 1..5_000_usize,
            steps in proptest::collection::vec(
                (
                    proptest::num::u64::ANY, proptest::num::u64::ANY, 0..3_u64,
                    proptest::num::usize::ANY, proptest::bool::ANY, proptest::num::usize::ANY,
                    0..100_000_u64,
                ),
                1..30,
            ),
        ) {
            let mut now = Instant::now();
            let mut law = PriceLaw::new(max, 7);
            for (used, maxclients, rejected, live, hungry, demand, ms) in steps {
                now += Duration::from_millis(ms);
                law.step(now, &Signal { used, maxclients, rejected, live, hungry, demand });
                let limit = law.limit;
                proptest::prop_assert!(limit >= FLOOR.min(max) && limit <= max);
                let due = law.due(live, hungry);
                proptest::prop_assert!(due.is_none_or(|due| due <= now + Duration::from_secs(20)));
            }
        }
    }
}
