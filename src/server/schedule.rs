//! The schedule of dials at one server, and the verdict over it: what all pools of a process share.
//!
//! A pure state machine: `now` is passed in, randomness is seeded, nothing is awaited.
//!
//! - **The schedule is the back-off.** After a failed dial the next one is due when the back-off
//!   says, whoever asks; after a success growth leaves a gap. Only a completed dial resets it.
//! - **The breaker is the verdict over that schedule**: does a caller wait for the next dial, or
//!   hear "no" now? It is asked only when nothing is live.
//! - **One dial at a time**, up to four where the server is known to have plenty of room. Pools take
//!   turns at it, those first that have waited longest.
//! - **A dial carries a generation.** An outcome that arrives after its dial was given up is ignored;
//!   one of a dial that started before the last failure says nothing about after it; a dropped dial
//!   gives its probe back. (A stale outcome closing a half-open breaker was measured in
//!   tower-resilience 0.14; the generation is gobreaker's.)

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::policy::{Backoff, Breaker, BreakerState, FailureKind, Tripwire, between};
use crate::vocabulary::DialFailure;

/// Growth dials leave this many times the duration of the last dial between them: after a restart
/// with 2,000 instances the last one is then served in 9 s instead of 38 s, with a third of the
/// dials (simulated).
const GROWTH_GAP: u32 = 3;

/// Dials at once where the server is known to have plenty of room: 32 connections at 200 ms a
/// handshake then take 1.8 s instead of 6.4 s. More would be a burst: 240 instances that start
/// together would have a thousand dials under way.
const AT_ONCE: usize = 4;

/// The window over which the first dial after the server closed a connection is spread: a restart
/// closes everybody's at once. At least this much, and all there is for a fleet whose size is not
/// known.
const DISCONNECT_SPREAD: Duration = Duration::from_millis(50);

/// What a fleet whose size is known adds for each member to that window: of a thousand a tenth of a
/// second then sees 21 dials a hundred, second and third tries included (simulated; 29 with 2 ms).
const SPREAD_PER_MEMBER: Duration = Duration::from_millis(3);
const LONGEST_SPREAD: Duration = Duration::from_secs(5);

/// The least of the cap of a back-off that nobody configured, for each member: the server then sees a
/// probe every 4 ms at most. A small fleet keeps the default's cap: with less, a process makes more
/// dials into a full server than if it knew nothing (10 in 8 s with 2 s, 7 with 5 s).
const CAP_PER_MEMBER: Duration = Duration::from_micros(5300);
const LONGEST_CAP: Duration = Duration::from_secs(30);

/// The cap of a back-off that nobody configured at a server that has never let this process in, where nothing is
/// served meanwhile: 0.6 s, or a fifteenth of the outage so far, if that is more. So a free slot is found within
/// 0.6 s after an outage of up to 9 s, for about 20 refused dials in 8 s, and within 7 % of a longer one's time.
/// 200 such processes cost the server 2.5 % of a core in the first 10 s, and 0.3 % after two minutes (simulated:
/// `fleet_sim --only cold-200`).
const COLD_CAP: Duration = Duration::from_millis(600);
const COLD_PART: u32 = 15;

/// How long after the connect timeout a dial is given up.
const DIAL_GRACE: Duration = Duration::from_secs(1);

/// How long the pool whose turn it is may leave a dial unused before another pool takes it: its
/// runtime may be blocked, or gone.
const TURN_GRACE: Duration = Duration::from_millis(100);

/// No pool has this number.
pub(super) const NOBODY: u64 = 0;

/// How a pool wants to dial.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DialPolicy {
    /// `None`: the default one, whose cap follows the size of the fleet.
    pub(crate) backoff: Option<Backoff>,
    /// The base of the default one.
    pub(crate) first_backoff: Duration,
    pub(crate) breaker: Breaker,
    pub(crate) connect_timeout: Duration,
}

impl DialPolicy {
    /// The unit that the delays double from.
    pub(super) fn base(&self) -> Duration {
        self.backoff.map_or(self.first_backoff, |backoff| backoff.base())
    }

    /// The back-off in force.
    pub(super) fn backoff(&self, outlook: Outlook) -> Backoff {
        self.backoff.unwrap_or_else(|| {
            let most = Backoff::default().cap();
            let cap = match outlook {
                Outlook::Cold { failing } => (failing / COLD_PART).clamp(COLD_CAP, most),
                Outlook::Fleet { members } => {
                    let members = u32::try_from(members).unwrap_or(u32::MAX);
                    CAP_PER_MEMBER.saturating_mul(members).clamp(most, LONGEST_CAP)
                }
            };
            Backoff::equal_jitter(self.first_backoff, cap.max(self.first_backoff))
        })
    }
}

/// What is known of a server that the back-off goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It has never let this process in, and has failed for so long.
    Cold { failing: Duration },
    /// So many processes dial there; zero where that is not known.
    Fleet { members: usize },
}

/// One server's schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    rng: Rng,
    state: BreakerState,
    generation: u64,
    in_flight: Vec<InFlight>,
    /// When the back-off allows the next dial; `None`: at once.
    next_dial: Option<Instant>,
    /// When growth allows it, on a server that is not known to have plenty of room.
    growth_gap: Option<Instant>,
    /// When the spread after a disconnect allows it.
    spread: Option<Instant>,
    /// When the last dial ended.
    last_end: Option<Instant>,
    /// The pools that may dial once, whatever the back-off says.
    free_dials: Vec<u64>,
    /// When the server refused a dial for want of a slot, if it was not seen to have room since.
    refused: Option<Instant>,
    /// The server is known to have plenty of room, so growth leaves no gap.
    roomy: bool,
    /// How many processes dial here, as far as that is known; zero where it is not.
    members: usize,
    /// It has let a dial in, ever.
    met: bool,
    tripwire: Tripwire,
    /// The breaker is open for no more than the few failures that open it with nothing live.
    is_early: bool,
    failures: u32,
    /// When the first of them was.
    failing_since: Option<Instant>,
    /// The delay chosen last, for decorrelated jitter.
    previous: Duration,
    /// The last dial's failure; `None` once one has succeeded.
    failure: Option<Arc<DialFailure>>,
    /// The pools that want to dial, those first that have waited longest.
    turns: Vec<Turn>,
}

#[derive(Debug)]
struct InFlight {
    generation: u64,
    deadline: Instant,
    /// How many failures there had been when it started.
    failures: u32,
}

#[derive(Debug)]
struct Turn {
    pool: u64,
    since: Instant,
    policy: DialPolicy,
}

/// Whether a pool may dial now.
#[derive(Debug)]
pub(super) enum Answer {
    /// Now, under this generation.
    Dial(u64),
    /// Not before then, unless the schedule changes.
    WaitUntil(Instant),
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            state: BreakerState::Closed,
            generation: 0,
            in_flight: Vec::new(),
            next_dial: None,
            growth_gap: None,
            spread: None,
            last_end: None,
            free_dials: Vec::new(),
            refused: None,
            roomy: false,
            members: 0,
            met: false,
            tripwire: Tripwire::default(),
            is_early: false,
            failures: 0,
            failing_since: None,
            previous: Duration::ZERO,
            failure: None,
            turns: Vec::new(),
        }
    }

    /// How many processes dial here is known: the more, the wider the first dial after a disconnect
    /// is spread, and the slower the probes of a long outage, unless a back-off was configured.
    pub(super) fn fleet_of(&mut self, members: usize) {
        self.members = members.max(1);
    }

    /// What the back-off goes by.
    pub(super) fn outlook(&self, now: Instant) -> Outlook {
        let failing = self.failing_since.map_or(Duration::ZERO, |since| now - since);
        match self.met || self.members > 0 {
            true => Outlook::Fleet { members: self.members },
            false => Outlook::Cold { failing },
        }
    }

    fn disconnect_spread(&self) -> Duration {
        let members = u32::try_from(self.members).unwrap_or(u32::MAX);
        SPREAD_PER_MEMBER.saturating_mul(members).clamp(DISCONNECT_SPREAD, LONGEST_SPREAD)
    }

    /// A pool asks for a dial.
    pub(super) fn ask(&mut self, pool: u64, policy: &DialPolicy, now: Instant) -> Answer {
        if !self.turns.iter().any(|turn| turn.pool == pool) {
            self.turns.push(Turn { pool, since: now, policy: *policy });
        }
        // What is past its deadline is given up, and its outcome ignored.
        self.in_flight.retain(|dial| dial.deadline > now);
        if let Some(due) = self.due(pool).filter(|due| *due > now) {
            return Answer::WaitUntil(due);
        }
        if let Some(due) = self.turn_due(pool).filter(|due| *due > now) {
            return Answer::WaitUntil(due);
        }
        // Those before it have left their turn unused, and take another when they ask again.
        let at = self.turns.iter().position(|turn| turn.pool == pool);
        if !self.is_free(pool) {
            self.turns.drain(..at.unwrap_or(0));
        }
        self.leave(pool);
        self.free_dials.retain(|free| *free != pool);
        self.generation += 1;
        self.in_flight.push(InFlight {
            generation: self.generation,
            deadline: now + policy.connect_timeout + DIAL_GRACE,
            failures: self.failures,
        });
        if self.state == BreakerState::Open {
            self.state = BreakerState::HalfOpen;
        }
        Answer::Dial(self.generation)
    }

    /// When the pool's turn comes although another has waited longer; `None` if that is so now.
    fn turn_due(&self, pool: u64) -> Option<Instant> {
        let first = self.turns.first().filter(|first| first.pool != pool)?;
        if self.is_free(pool) {
            return None;
        }
        let open_since = self.scheduled().max(self.last_end);
        Some(open_since.map_or(first.since, |open| open.max(first.since)) + TURN_GRACE)
    }

    fn is_free(&self, pool: u64) -> bool {
        self.free_dials.contains(&pool)
    }

    /// The pool is gone.
    pub(super) fn forget(&mut self, pool: u64) {
        self.leave(pool);
        self.free_dials.retain(|free| *free != pool);
    }

    /// The pool does not want to dial any more.
    pub(super) fn leave(&mut self, pool: u64) {
        self.turns.retain(|turn| turn.pool != pool);
    }

    /// Whose turn it is.
    pub(super) fn first(&self) -> Option<u64> {
        self.turns.first().map(|turn| turn.pool)
    }

    /// The dial succeeded. `room`: the server had a slot that was not ours before, so the schedule
    /// starts anew. A mere replacement says nothing about room, and leaves it as it is.
    pub(super) fn connected(
        &mut self,
        generation: u64,
        policy: &DialPolicy,
        room: bool,
        took: Duration,
        now: Instant,
    ) {
        let Some(dial) = self.settle(generation, now) else { return };
        self.met = true;
        if dial.failures != self.failures {
            return;
        }
        self.growth_gap = (!self.roomy).then(|| now + took * GROWTH_GAP);
        if room {
            self.start_anew();
        } else if self.next_dial.is_none_or(|due| due <= now) {
            let backoff = policy.backoff(self.outlook(now));
            self.next_dial = Some(now + backoff.delay(self.failures, self.previous, &mut self.rng));
        }
        self.state = BreakerState::Closed;
    }

    /// The server has let the dial in, and then refused its credentials or what it asked for: that
    /// is the pool's own trouble, and there is a slot.
    pub(super) fn answered(&mut self, generation: u64, now: Instant) {
        let Some(dial) = self.settle(generation, now) else { return };
        self.met = true;
        if dial.failures == self.failures {
            self.clear_gaps();
            self.start_anew();
            self.state = BreakerState::Closed;
        }
    }

    /// The dial failed: everybody backs off. `none_live`: the pool has no connection that lives.
    pub(super) fn failed(
        &mut self,
        generation: u64,
        policy: &DialPolicy,
        none_live: bool,
        failure: Arc<DialFailure>,
        now: Instant,
    ) {
        let Some(dial) = self.settle(generation, now) else { return };
        self.clear_gaps();
        if dial.failures == self.failures {
            self.back_off(policy, none_live, failure, now);
        }
    }

    /// By the strictest policy of the pool that dialed and of those that wait.
    fn back_off(
        &mut self,
        policy: &DialPolicy,
        none_live: bool,
        failure: Arc<DialFailure>,
        now: Instant,
    ) {
        self.failing_since.get_or_insert(now);
        let outlook = self.outlook(now);
        let waiting = self.turns.iter().map(|turn| &turn.policy);
        let (backoff, breaker) =
            waiting.fold((policy.backoff(outlook), policy.breaker), |(backoff, breaker), other| {
                (backoff.stricter(other.backoff(outlook)), breaker.stricter(other.breaker))
            });
        let kind = FailureKind::of(failure.outcome);
        if failure.outcome.is_full() {
            self.refused = Some(now);
        }
        self.failure = Some(failure);
        self.roomy = false;
        self.failures = self.failures.saturating_add(1);
        self.previous = backoff.delay(self.failures, self.previous, &mut self.rng);
        self.next_dial = Some(now + self.previous);
        let tripped = self.tripwire.failed(kind, &breaker, now);
        let early = none_live && self.failures >= breaker.failures_to_trip_with_none_live();
        self.is_early = early && !tripped;
        if tripped || early || self.state != BreakerState::Closed {
            self.state = BreakerState::Open;
        }
    }

    fn start_anew(&mut self) {
        self.failures = 0;
        self.failing_since = None;
        self.tripwire = Tripwire::default();
        self.is_early = false;
        self.failure = None;
        self.next_dial = None;
        self.refused = None;
    }

    pub(super) fn refused(&self) -> Option<Instant> {
        self.refused
    }

    /// The server, asked since then, had room.
    pub(super) fn room_seen(&mut self, since: Instant) {
        self.refused = self.refused.filter(|refused| *refused > since);
    }

    /// The outcome of something that went past the gate (a call of a [`Guard`](crate::Guard), another
    /// client's dial) and failed, under the `era` in which it started. Those of an older era, and what
    /// comes once the breaker is open, are old news.
    pub(super) fn heard(
        &mut self,
        era: u64,
        policy: &DialPolicy,
        failure: Arc<DialFailure>,
        now: Instant,
    ) {
        if era == self.generation && self.state == BreakerState::Closed {
            // A call says less than a dial.
            self.back_off(policy, false, failure, now);
        }
    }

    /// Something that went past the gate succeeded: its failures are no longer in a row.
    pub(super) fn worked(&mut self, era: u64) {
        if era == self.generation && self.state == BreakerState::Closed {
            self.start_anew();
        }
    }

    /// Gives up the dials in flight: their outcomes are old news.
    pub(super) fn disregard(&mut self) {
        self.in_flight.clear();
    }

    /// True unless the dial was given up.
    pub(super) fn is_current(&self, generation: u64) -> bool {
        self.in_flight.iter().any(|dial| dial.generation == generation)
    }

    /// The generation under which [`heard`](Self::heard) and [`worked`](Self::worked) count.
    pub(super) fn era(&self) -> u64 {
        self.generation
    }

    /// True while there is nothing to recover from.
    pub(super) fn is_calm(&self) -> bool {
        self.state == BreakerState::Closed && self.failures == 0
    }

    /// The dial was dropped before it ended: the probe is given back, nothing is learned.
    pub(super) fn abandoned(&mut self, generation: u64, now: Instant) {
        if self.settle(generation, now).is_some() && self.state == BreakerState::HalfOpen {
            self.state = BreakerState::Open;
        }
    }

    /// The server closed a connection, perhaps everybody's: the next dial is spread, so that a
    /// fleet does not come back in one burst.
    pub(super) fn disconnected(&mut self, now: Instant) {
        if self.spread.is_none_or(|due| due <= now) {
            let spread = between(Duration::ZERO, self.disconnect_spread(), &mut self.rng);
            self.spread = Some(now + spread);
        }
        // Whether it still has, it says itself.
        self.roomy = false;
    }

    fn clear_gaps(&mut self) {
        (self.growth_gap, self.spread) = (None, None);
    }

    /// A pool has nothing live any more: the pace of growth is no reason to wait.
    pub(super) fn lost_all(&mut self, now: Instant) {
        let spread = self.disconnect_spread();
        self.growth_gap = self.growth_gap.map(|due| due.min(now + spread));
    }

    /// The pool closed a connection while the server was full: its slot is there for one dial of
    /// that pool, at once.
    pub(super) fn allow_free_dial(&mut self, pool: u64) {
        if !self.is_free(pool) {
            self.free_dials.push(pool);
        }
    }

    /// How many free dials may start now: none while another one is in the way, however long the back-off
    /// after that will be.
    pub(super) fn free_dials(&self) -> usize {
        if self.is_taken() { 0 } else { self.free_dials.len() }
    }

    /// Somebody comes when the next dial has been due for a while, for nobody has wanted it. Where only the first
    /// ones have failed, with nothing live, that is long ago: the caller waits for this one. True if that is so.
    pub(super) fn begin_again(&mut self, pool: u64, now: Instant) -> bool {
        let is_due = self.due(pool).is_none_or(|due| due <= now);
        let begins = self.is_early && is_due && self.state == BreakerState::Open;
        if begins && self.in_flight.is_empty() {
            self.state = BreakerState::Closed;
            return true;
        }
        false
    }

    /// As many dials are in flight as may be.
    fn is_taken(&self) -> bool {
        self.in_flight.len() >= self.at_once()
    }

    /// Whether the server is known to have plenty of room: a service on a quiet server must not feel
    /// the guard.
    pub(super) fn set_roomy(&mut self, roomy: bool) {
        self.roomy = roomy;
        if roomy && self.is_calm() {
            self.growth_gap = None;
        }
    }

    fn at_once(&self) -> usize {
        if self.roomy && self.is_calm() { AT_ONCE } else { 1 }
    }

    /// When the pool's next dial may start, as far as the others' turns allow it, or one in flight is
    /// given up.
    pub(super) fn due(&self, pool: u64) -> Option<Instant> {
        if self.is_taken() {
            return self.in_flight.iter().map(|dial| dial.deadline).min();
        }
        if self.is_free(pool) { None } else { self.scheduled() }
    }

    fn scheduled(&self) -> Option<Instant> {
        self.next_dial.max(self.growth_gap).max(self.spread)
    }

    /// When the next dial may start, whosever it is, free ones aside.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.due(NOBODY)
    }

    pub(super) fn is_dialing(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub(super) fn members(&self) -> usize {
        self.members
    }

    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// The last dial's failure, if the last dial failed.
    pub(super) fn failure(&self) -> Option<&Arc<DialFailure>> {
        self.failure.as_ref()
    }

    /// Takes the dial out of flight; `None` where it was given up before.
    fn settle(&mut self, generation: u64, now: Instant) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|dial| dial.generation == generation)?;
        self.last_end = Some(now);
        Some(self.in_flight.swap_remove(at))
    }
}
