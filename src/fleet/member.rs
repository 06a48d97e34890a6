//! A member's side of the registry: what to tell it, when, and what its answers allow.
//!
//! The arithmetic is in the script (`src/fleet/registry.lua`), which runs on the server. What is left
//! for the member is to keep its word: it never holds more than it was granted, and what it has not
//! used is void as soon as it sends a beat, loses a connection, or has not been heard for a while.
//! So a reply that is late, lost or overtaken can cost it growth, and never costs the server a slot.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::policy::between;

/// The script of a heartbeat and of leaving; its head documents keys, arguments and reply.
pub const SCRIPT: &str = include_str!("registry.lua");

/// Beats for the sake of callers who wait leave this much between them, or this much a member where that is
/// longer: all of a large fleet may be hungry at once.
const EARLY_INTERVAL: Duration = Duration::from_millis(200);
const EARLY_INTERVAL_EACH: Duration = Duration::from_millis(1);

/// The interval while nothing is known of the registry.
const BLIND_INTERVAL: Duration = Duration::from_secs(2);

/// What a member tells the registry of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Connections the server has accepted.
    pub live: usize,
    /// Connections being dialed.
    pub dialing: usize,
    /// [`Demand::base`](crate::policy::Demand::base).
    pub base: usize,
    /// [`Demand::peak`](crate::policy::Demand::peak).
    pub peak: usize,
    /// Callers wait, and we are at the limit.
    pub hungry: bool,
}

/// What the registry said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many connections we may have.
    pub limit: usize,
    /// How many members the fleet has.
    pub members: usize,
    /// Slots that nobody is granted.
    pub reserve: usize,
    /// Slots taken or promised, in thousandths of the ceiling.
    pub pressure: u32,
    /// Fields of the registry that were found overwritten, and repaired, so far.
    pub repaired: u64,
}

/// A beat that was sent, for its reply.
#[derive(Debug)]
#[must_use]
pub struct Beat {
    /// The script's arguments.
    pub args: Vec<String>,
    sent: Instant,
    sockets: usize,
    hungry: bool,
}

/// A reply of the registry's.
struct Answer {
    share: Share,
    interval: Duration,
    ttl: Duration,
    glance: Option<Duration>,
    news: u64,
}

/// A process's place in its fleet, and the share that it has there.
///
/// One beat is in flight at a time: [`beat`](Self::beat), then [`replied`](Self::replied) or
/// [`failed`](Self::failed).
#[derive(Debug)]
pub struct Membership {
    id: String,
    max_connections: usize,
    reserve: usize,
    seq: u64,
    share: Option<Share>,
    /// How long the share is ours without a word from the registry.
    expires: Instant,
    sent: Option<Instant>,
    /// The connections that the last beat told of.
    reported: usize,
    next: Option<Instant>,
    /// How often to look for news between two beats, and when next.
    glance: Option<Duration>,
    next_glance: Option<Instant>,
    /// The registry's news of the last beat.
    news: u64,
    /// The last hungry beat was granted more than it held; `true` before there was one.
    was_granted_more: bool,
    /// What remained when a connection was lost since the last beat: its reply does not know.
    remaining: Option<usize>,
    /// The limit of the registry's last word, whatever was lost since.
    granted: usize,
    /// The limit before the beat that is under way: if that is not sent, the registry still counts it as ours.
    before_beat: Option<usize>,
    failures: u32,
    rng: Rng,
}

impl Membership {
    /// `id` must be this process's and this start's own. `reserve`: slots to leave for clients that
    /// are not members, and for newcomers, if that is more than the script's own idea of it.
    #[must_use]
    pub fn new(
        id: String,
        max_connections: usize,
        reserve: usize,
        now: Instant,
        seed: u64,
    ) -> Self {
        Self {
            id,
            max_connections,
            reserve,
            seq: 0,
            share: None,
            expires: now,
            sent: None,
            reported: 0,
            next: None,
            glance: None,
            next_glance: None,
            news: 0,
            was_granted_more: true,
            remaining: None,
            granted: 0,
            before_beat: None,
            failures: 0,
            rng: Rng::with_seed(seed),
        }
    }

    /// What the registry said last, while that holds.
    #[must_use]
    pub fn share(&self, now: Instant) -> Option<&Share> {
        self.share.as_ref().filter(|_| now < self.expires)
    }

    /// What the registry said last, whether or not that still holds.
    #[must_use]
    pub fn last_share(&self) -> Option<&Share> {
        self.share.as_ref()
    }

    /// Beats in a row without a reply that makes sense.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When to beat next; `None`: now. `hungry`: callers wait and we are at the limit. That is worth
    /// a beat of its own, unless the last of that kind was in vain. So is a grant that is used up:
    /// until the registry hears so, it counts those connections twice, as used and as promised.
    #[must_use]
    pub fn due(&self, hungry: bool, live: usize) -> Option<Instant> {
        let regular = self.next?;
        let used_up =
            self.share.is_some_and(|share| share.limit > self.reported && live >= share.limit);
        match self.sent {
            Some(sent) if (hungry && self.was_granted_more) || used_up => {
                Some(regular.min(sent + self.early_interval()))
            }
            _ => Some(regular),
        }
    }

    fn early_interval(&self) -> Duration {
        let members = self.share.map_or(1, |share| share.members);
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        EARLY_INTERVAL.max(EARLY_INTERVAL_EACH.saturating_mul(members))
    }

    /// Makes a beat to be sent now. Until its reply we hold what we have and no more: the registry
    /// takes what it is told for all there is.
    pub fn beat(&mut self, now: Instant, report: &Report) -> Beat {
        self.seq += 1;
        let sockets = report.live + report.dialing;
        self.before_beat = self.share.map(|share| share.limit);
        self.lost(sockets);
        self.remaining = None;
        self.sent = Some(now);
        self.reported = sockets;
        self.next_glance = None;
        self.next = Some(now + self.jittered(BLIND_INTERVAL));
        let numbers = [
            report.live,
            report.dialing,
            report.base.min(self.max_connections),
            report.peak.min(self.max_connections),
            usize::from(report.hungry),
            self.max_connections,
            self.reserve,
        ];
        let args = ["beat".to_owned(), self.id.clone(), self.seq.to_string()];
        let args = args.into_iter().chain(numbers.map(|number| number.to_string())).collect();
        Beat { args, sent: now, sockets, hungry: report.hungry }
    }

    /// When to look for news of the registry next, which costs it a fraction of a beat; `None`: a beat tells
    /// soon enough.
    #[must_use]
    pub fn glance_due(&self) -> Option<Instant> {
        self.next_glance
    }

    /// A look for news is sent now.
    pub fn glance(&mut self, now: Instant) {
        self.next_glance = self.glance.map(|interval| now + self.jittered(interval));
    }

    /// What the look found, `None` if nothing that makes sense: another value than the last beat's has us
    /// beat at once.
    pub fn glanced(&mut self, news: Option<u64>) {
        if news != Some(self.news) {
            self.unsent();
        }
    }

    /// The script's arguments to give everything back, once all connections are closed, or nearly.
    #[must_use]
    pub fn leave(&self) -> Vec<String> {
        vec!["leave".to_owned(), self.id.clone()]
    }

    /// The reply has come. One that makes no sense, or says that the ceiling is hidden, counts as
    /// none: false, and [`failed`](Self::failed).
    pub fn replied(&mut self, beat: &Beat, reply: &[i64]) -> bool {
        let Some(Answer { share, interval, ttl, glance, news }) = self.parse(reply) else {
            self.failed(beat);
            return false;
        };
        // Whoever was not hungry has not asked in vain.
        self.was_granted_more = !beat.hungry || share.limit > beat.sockets;
        // The registry counts from when it heard us, which was later, and by a clock of its own.
        self.expires = beat.sent + ttl - ttl / 7;
        self.next = Some(beat.sent + self.jittered(interval));
        (self.glance, self.news) = (glance, news);
        self.glance(beat.sent);
        self.granted = share.limit;
        self.share = Some(share);
        self.before_beat = None;
        self.failures = 0;
        if let Some(remaining) = self.remaining {
            self.lost(remaining);
        }
        true
    }

    /// The next beat is due at once. One that was made was not sent: what was ours before it still is, unless a
    /// connection was lost meanwhile.
    pub fn unsent(&mut self) {
        self.next = None;
        if let (Some(before), None, Some(share)) =
            (self.before_beat.take(), self.remaining, &mut self.share)
        {
            share.limit = before;
        }
    }

    /// A part of what was granted is not ours any more, because connections were lost. Where those that are left
    /// cannot carry a beat, only one more can ask for it again.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.share.is_some_and(|share| share.limit < self.granted)
    }

    /// No reply: what we hold stays ours until the registry has given us up.
    pub fn failed(&mut self, beat: &Beat) {
        self.failures = self.failures.saturating_add(1);
        self.before_beat = None;
        self.next = Some(beat.sent + self.jittered(BLIND_INTERVAL));
    }

    /// A connection was lost, or the server refused one: what we do not hold is not ours any more.
    /// So is what a beat in flight may bring. Not for a connection that we close to replace it at
    /// once; the reserve has room for that.
    pub fn lost(&mut self, sockets: usize) {
        self.remaining = Some(sockets);
        if let Some(share) = &mut self.share {
            share.limit = share.limit.min(sockets).max(1);
        }
    }

    fn parse(&self, reply: &[i64]) -> Option<Answer> {
        let &[limit, interval, ttl, members, reserve, pressure, repaired, glance, news] = reply
        else {
            return None;
        };
        let ms = |ms: i64, range: std::ops::RangeInclusive<u64>| {
            u64::try_from(ms).ok().filter(|ms| range.contains(ms)).map(Duration::from_millis)
        };
        let share = Share {
            limit: usize::try_from(limit)
                .ok()
                .filter(|limit| *limit > 0)?
                .min(self.max_connections),
            members: usize::try_from(members).ok()?,
            reserve: usize::try_from(reserve).ok()?,
            pressure: u32::try_from(pressure).ok()?,
            repaired: u64::try_from(repaired).ok()?,
        };
        Some(Answer {
            share,
            interval: ms(interval, 100..=3_600_000)?,
            ttl: ms(ttl, 1_000..=36_000_000)?,
            glance: if glance == 0 { None } else { Some(ms(glance, 100..=3_600_000)?) },
            news: u64::try_from(news).ok()?,
        })
    }

    /// ± 30 %, so that a fleet does not beat as one.
    fn jittered(&mut self, interval: Duration) -> Duration {
        between(interval.mul_f64(0.7), interval.mul_f64(1.3), &mut self.rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;

    const SECOND: Duration = Duration::from_secs(1);

    fn limit(member: &Membership, now: Instant) -> Option<usize> {
        member.share(now).map(|share| share.limit)
    }

    fn member(now: Instant) -> Membership {
        Membership::new("a".to_owned(), 50, 0, now, 7)
    }

    fn report(live: usize, hungry: bool) -> Report {
        Report { live, hungry, ..Report::default() }
    }

    fn granted(member: &mut Membership, now: Instant, live: usize, limit: i64) {
        let beat = member.beat(now, &report(live, true));
        assert!(member.replied(&beat, &[limit, 2000, 7000, 3, 200, 500, 0, 0, 1]));
    }

    #[test]
    fn a_grant_holds_until_the_next_beat_is_sent() {
        let now = Instant::now();
        let mut member = member(now);
        assert_eq!(
            (limit(&member, now), member.due(false, 0)),
            (None, None),
            "it has to ask first"
        );
        granted(&mut member, now, 1, 9);
        assert_eq!(limit(&member, now), Some(9));
        let beat = member.beat(now + SECOND, &report(4, false));
        assert_eq!(limit(&member, now + SECOND), Some(4), "the registry is told 4");
        member.failed(&beat);
        assert_eq!(limit(&member, now + SECOND), Some(4));
    }

    #[test]
    fn a_beat_tells_what_is_held_and_needed_and_has_a_number_of_its_own() {
        let now = Instant::now();
        let reserve = Fleet::named("shop").reserve(30).reserved();
        let mut member = Membership::new("a".to_owned(), 50, reserve, now, 7);
        let report = Report { live: 4, dialing: 2, base: 3, peak: 70, hungry: true };
        let beat = member.beat(now, &report);
        assert_eq!(beat.args.join(" "), "beat a 1 4 2 3 50 1 50 30");
        assert!(member.due(true, 4) > Some(now), "its reply is awaited");
        assert!(member.replied(&beat, &[9, 2000, 7000, 3, 200, 500, 0, 0, 1]));
        let beat = member.beat(now, &report);
        assert_eq!(beat.args[2], "2");
        assert_eq!(limit(&member, now), Some(6), "a dial holds a slot as well");
    }

    #[test]
    fn who_leaves_asks_the_registry_to_forget_its_own_id() {
        assert_eq!(member(Instant::now()).leave(), ["leave", "a"]);
    }

    #[test]
    fn what_the_registry_said_last_can_still_be_told_when_it_no_longer_holds() {
        let now = Instant::now();
        let mut member = member(now);
        assert_eq!(member.last_share(), None);
        granted(&mut member, now, 1, 9);
        assert_eq!(member.share(now + SECOND * 6), None);
        assert_eq!(member.last_share().map(|share| share.members), Some(3));
    }

    #[test]
    fn without_a_word_from_the_registry_it_lasts_six_sevenths_of_its_time_to_live() {
        let now = Instant::now();
        let mut member = member(now);
        granted(&mut member, now, 1, 9);
        assert_eq!(limit(&member, now + SECOND * 599 / 100), Some(9));
        assert_eq!(limit(&member, now + SECOND * 6), None);
    }

    #[test]
    fn a_lost_connection_voids_the_grant_and_the_one_under_way() {
        let now = Instant::now();
        let mut member = member(now);
        granted(&mut member, now, 5, 9);
        member.lost(4);
        assert_eq!(limit(&member, now), Some(4));
        let beat = member.beat(now, &report(4, true));
        member.lost(3);
        assert!(member.replied(&beat, &[9, 2000, 7000, 3, 200, 500, 0, 0, 1]));
        assert_eq!(limit(&member, now), Some(3));
    }

    #[test]
    fn a_beat_that_is_not_sent_costs_nothing_of_the_grant() {
        let now = Instant::now();
        let mut member = member(now);
        granted(&mut member, now, 1, 9);
        let _ = member.beat(now + SECOND, &report(4, true));
        assert_eq!(limit(&member, now + SECOND), Some(4), "it may be on its way");
        member.unsent();
        assert_eq!((limit(&member, now + SECOND), member.has_lost()), (Some(9), false));
        let _ = member.beat(now + SECOND, &report(4, true));
        member.lost(3);
        member.unsent();
        assert_eq!((limit(&member, now + SECOND), member.has_lost()), (Some(3), true));
        granted(&mut member, now + SECOND, 3, 9);
        assert!(!member.has_lost());
    }

    #[test]
    fn callers_who_wait_are_worth_an_early_beat_unless_the_last_was_in_vain() {
        let now = Instant::now();
        let mut member = member(now);
        granted(&mut member, now, 1, 9);
        assert_eq!(member.due(true, 0), Some(now + EARLY_INTERVAL));
        assert!(member.due(false, 0) > Some(now + SECOND));
        granted(&mut member, now, 9, 9);
        assert_eq!(member.due(true, 0), member.due(false, 0));
    }

    #[test]
    fn a_grant_that_is_used_up_is_worth_an_early_beat_and_one_that_is_not_is_not() {
        let now = Instant::now();
        let mut member = member(now);
        granted(&mut member, now, 1, 9);
        assert_eq!(member.due(false, 9), Some(now + EARLY_INTERVAL));
        assert!(member.due(false, 8) > Some(now + SECOND));
        granted(&mut member, now, 9, 9);
        assert!(member.due(false, 9) > Some(now + SECOND), "the registry knows of all nine");
    }

    #[test]
    fn who_asked_in_vain_long_ago_may_ask_early_again() {
        let now = Instant::now();
        let mut member = member(now);
        granted(&mut member, now, 9, 9);
        let beat = member.beat(now + SECOND, &report(9, false));
        assert!(member.replied(&beat, &[9, 20_000, 34_000, 3, 200, 500, 0, 0, 1]));
        let early = member.due(true, 9).expect("it has beaten");
        assert_eq!(early, now + SECOND + EARLY_INTERVAL);
    }

    #[test]
    fn the_larger_the_fleet_the_rarer_its_early_beats() {
        let now = Instant::now();
        let mut member = member(now);
        for (members, apart) in [(200, 200), (10_000, 10_000)] {
            let beat = member.beat(now, &report(1, true));
            let reply = [9, 40_000, 64_000, members, 200, 500, 0, 0, 1];
            assert!(member.replied(&beat, &reply));
            assert_eq!(member.due(true, 1), Some(now + Duration::from_millis(apart)));
        }
    }

    #[test]
    fn a_look_at_the_registry_that_finds_news_is_worth_a_beat() {
        let now = Instant::now();
        let mut member = member(now);
        let calm = |member: &mut Membership, glance| {
            let beat = member.beat(now, &report(9, false));
            assert!(member.replied(&beat, &[9, 20_000, 34_000, 3, 200, 500, 0, glance, 77]));
        };
        calm(&mut member, 0);
        assert_eq!(member.glance_due(), None, "there is room for a fleet twice as large");
        calm(&mut member, 4_000);
        let first = member.glance_due().expect("it looks");
        assert!((now + SECOND * 2..now + SECOND * 6).contains(&first));
        member.glance(first);
        assert!(member.glance_due() > Some(first + SECOND * 2));
        member.glanced(Some(77));
        assert!(member.due(false, 9) > Some(now + SECOND * 13), "nothing is new");
        member.glanced(Some(78));
        assert_eq!(member.due(false, 9), None, "at once");
        calm(&mut member, 4_000);
        member.glanced(None);
        assert_eq!(member.due(false, 9), None, "the registry is gone, or damaged");
    }

    #[test]
    fn a_reply_that_makes_no_sense_counts_as_none() {
        let now = Instant::now();
        let replies: [&[i64]; 9] = [
            &[],
            &[-1],
            &[0, 2000, 7000, 3, 200, 500, 0, 0, 1],
            &[9, 0, 7000, 3, 200, 500, 0, 0, 1],
            &[9, 2000, -7000, 3, 200, 500, 0, 0, 1],
            &[9, 2000, i64::MAX, 3, 200, 500, 0, 0, 1],
            &[9, 2000, 7000, 3, 200, 500, 0, 1, 1],
            &[9, 2000, 7000, 3, 200, 500, 0, 0, -1],
            &[9, 2000, 7000, 3, 200, 500, 0, 0],
        ];
        for reply in replies {
            let mut member = member(now);
            let beat = member.beat(now, &report(1, true));
            assert!(!member.replied(&beat, reply), "{reply:?}");
            assert_eq!(limit(&member, now), None);
            assert!(member.due(true, 0) > Some(now), "it asks again later");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_reply_lifts_the_limit_above_max_connections_or_to_nothing(
            reply in proptest::collection::vec(proptest::num::i64::ANY, 0..11),
            granted in proptest::num::i64::ANY,
            live in 0..60_usize,
        ) {
            let now = Instant::now();
            let mut member = member(now);
            for reply in [&reply[..], &[granted, 2000, 7000, 3, 200, 500, 0, 0, 1]] {
                let beat = member.beat(now, &report(live, true));
                member.replied(&beat, reply);
                proptest::prop_assert!(limit(&member, now).is_none_or(|limit| (1..=50).contains(&limit)));
            }
        }
    }
}
