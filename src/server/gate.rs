//! The gate: one schedule and one verdict for all who wait for one server.
//!
//! A pure state machine: `now` is passed in, randomness is seeded, nothing is awaited.
//!
//! - **The schedule is the back-off.** After a failed dial the next one is due when the back-off
//!   says, whoever asks; after a success growth leaves a gap. Only a completed dial resets it.
//! - **The breaker is the verdict over that schedule**: does a caller wait for the next dial, or
//!   hear "no" now? It is asked only when nothing is live.
//! - **An admission carries a generation.** An outcome that arrives after its probe was given up
//!   is ignored; a dropped admission gives its probe back. (A stale outcome closing a half-open
//!   breaker was measured in tower-resilience 0.14; the generation is gobreaker's.)

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::policy::{Backoff, Breaker, BreakerState, FailureKind, Tripwire, between};
use crate::vocabulary::DialFailure;

/// Back-off after a failure that is not about capacity (credentials, protected mode,
/// configuration). Somebody has to change something, so a dial every half minute is enough.
const SLOW: Backoff = Backoff::equal_jitter(Duration::from_secs(1), Duration::from_secs(30));

/// Growth dials leave this many times the duration of the last dial between them: after a restart
/// with 2,000 instances the last one is then served in 9 s instead of 38 s, with a third of the
/// dials (simulated).
const GROWTH_GAP: u32 = 3;

/// The window over which the first dial after the server closed a connection is spread: a restart
/// closes everybody's at once. At least this much, and all there is for a fleet whose size is not
/// known.
const DISCONNECT_SPREAD: Duration = Duration::from_millis(50);

/// What a fleet whose size is known adds for each member to that window: of a thousand a tenth of a
/// second then sees 21 dials a hundred, second and third tries included (simulated; 29 with 2 ms).
const SPREAD_PER_MEMBER: Duration = Duration::from_millis(3);
const LONGEST_SPREAD: Duration = Duration::from_secs(5);

/// What it adds to the cap of the default back-off: the server then sees a probe every 4 ms.
const CAP_PER_MEMBER: Duration = Duration::from_micros(5300);
const CAPS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// How long after the connect timeout a probe is given up.
const PROBE_GRACE: Duration = Duration::from_secs(1);

/// One server's gate.
#[derive(Debug)]
pub struct Gate {
    backoff: Backoff,
    breaker: Breaker,
    rng: Rng,
    disconnect_spread: Duration,
    /// The back-off is the default one, whose cap follows the size of the fleet.
    adaptive: bool,
    /// A dial that is not over by then is given up.
    probe_deadline: Duration,
    state: BreakerState,
    forced: Option<Forced>,
    generation: u64,
    in_flight: Option<InFlight>,
    /// When the back-off allows the next dial; `None`: at once.
    next_dial: Option<Instant>,
    /// When growth, or the spread after a disconnect, allows it.
    gap: Option<Instant>,
    /// One dial may go out whatever the back-off says.
    excused: bool,
    /// The server is known to have plenty of room, so growth leaves no gap.
    roomy: bool,
    tripwire: Tripwire,
    failures: u32,
    permanent_failures: u32,
    /// The delay chosen last, for decorrelated jitter.
    previous: Duration,
    /// The last dial's failure; `None` once one has succeeded.
    failure: Option<Arc<DialFailure>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forced {
    Open,
    Closed,
}

#[derive(Debug)]
struct InFlight {
    generation: u64,
    deadline: Instant,
}

/// The right to make one dial. Hand it back with [`Gate::connected`], [`Gate::failed`] or
/// [`Gate::abandoned`].
#[derive(Debug)]
#[must_use]
pub struct Approval {
    generation: u64,
}

/// Whether a dial may start now.
#[derive(Debug)]
pub enum Decision {
    /// Now.
    Dial(Approval),
    /// Not before then.
    WaitUntil(Instant),
    /// The breaker is forced open: not until an operator lets go of it.
    Held,
}

/// What a caller hears when nothing is live.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Wait for the next dial.
    Wait,
    /// The breaker is open.
    Refuse { retry_after: Duration },
    /// The last dial failed for good.
    Fail { retry_after: Duration, failure: Arc<DialFailure> },
}

/// A change of the breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: BreakerState,
    pub to: BreakerState,
}

impl Gate {
    /// A gate that has not dialed yet.
    #[must_use]
    pub fn new(backoff: Backoff, breaker: Breaker, connect_timeout: Duration, seed: u64) -> Self {
        Self {
            adaptive: backoff == Backoff::default(),
            backoff,
            breaker,
            rng: Rng::with_seed(seed),
            disconnect_spread: DISCONNECT_SPREAD,
            probe_deadline: connect_timeout + PROBE_GRACE,
            state: BreakerState::Closed,
            forced: None,
            generation: 0,
            in_flight: None,
            next_dial: None,
            gap: None,
            excused: false,
            roomy: false,
            tripwire: Tripwire::default(),
            failures: 0,
            permanent_failures: 0,
            previous: Duration::ZERO,
            failure: None,
        }
    }

    /// How many we are is known: the more, the wider the first dial after a disconnect is spread,
    /// and the slower the probes of a long outage, unless a back-off was configured.
    pub fn fleet_of(&mut self, members: usize) {
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        let spread = SPREAD_PER_MEMBER.saturating_mul(members);
        self.disconnect_spread = spread.clamp(DISCONNECT_SPREAD, LONGEST_SPREAD);
        if self.adaptive {
            let cap = CAP_PER_MEMBER.saturating_mul(members).clamp(CAPS[0], CAPS[1]);
            self.backoff = Backoff::equal_jitter(self.backoff.base(), cap);
        }
    }

    /// Asks for a dial. One at a time: while one is in flight, wait for it or its deadline.
    pub fn ask(&mut self, now: Instant) -> (Decision, Option<Transition>) {
        if self.is_held() {
            return (Decision::Held, None);
        }
        if let Some(due) = self.due().filter(|due| *due > now) {
            return (Decision::WaitUntil(due), None);
        }
        self.excused = false;
        // A dial still in flight here is past its deadline: given up, and its outcome ignored.
        self.generation += 1;
        self.in_flight =
            Some(InFlight { generation: self.generation, deadline: now + self.probe_deadline });
        let transition = match self.state {
            BreakerState::Open => self.go(BreakerState::HalfOpen),
            BreakerState::Closed | BreakerState::HalfOpen => None,
        };
        (Decision::Dial(Approval { generation: self.generation }), transition)
    }

    /// The dial succeeded. `room`: the server had a slot that was not ours before, so the schedule
    /// starts anew. A mere replacement says nothing about room, and leaves it as it is.
    pub fn connected(
        &mut self,
        approval: Approval,
        room: bool,
        took: Duration,
        now: Instant,
    ) -> Option<Transition> {
        if !self.settle(&approval) {
            return None;
        }
        self.gap = (!self.roomy).then(|| now + took * GROWTH_GAP);
        if room {
            self.start_anew();
        } else if self.next_dial.is_none_or(|due| due <= now) {
            self.next_dial =
                Some(now + self.backoff.delay(self.failures, self.previous, &mut self.rng));
        }
        self.go(BreakerState::Closed)
    }

    /// The dial failed: everybody backs off.
    pub fn failed(
        &mut self,
        approval: Approval,
        failure: Arc<DialFailure>,
        now: Instant,
    ) -> Option<Transition> {
        if !self.settle(&approval) {
            return None;
        }
        self.gap = None;
        if failure.outcome.is_permanent() {
            self.failure = Some(failure);
            self.permanent_failures = self.permanent_failures.saturating_add(1);
            let delay = SLOW.delay(self.permanent_failures, self.previous, &mut self.rng);
            self.next_dial = Some(now + delay);
            // `Verdict::Fail` speaks from here on; a probe that ends so has found a server with room.
            return self.go(BreakerState::Closed);
        }
        self.back_off(failure, now)
    }

    fn back_off(&mut self, failure: Arc<DialFailure>, now: Instant) -> Option<Transition> {
        let kind = FailureKind::of(failure.outcome);
        self.failure = Some(failure);
        self.permanent_failures = 0;
        self.failures = self.failures.saturating_add(1);
        self.previous = self.backoff.delay(self.failures, self.previous, &mut self.rng);
        self.next_dial = Some(now + self.previous);
        let tripped = self.tripwire.failed(kind, &self.breaker, now);
        match self.state {
            BreakerState::Closed if !tripped => None,
            _ => self.go(BreakerState::Open),
        }
    }

    fn start_anew(&mut self) {
        self.failures = 0;
        self.permanent_failures = 0;
        self.tripwire = Tripwire::default();
        self.failure = None;
        self.next_dial = None;
    }

    /// The outcome of something that went past the gate (a call of a [`Guard`](crate::Guard), another
    /// client's dial) and failed, under the `era` in which it started. Those of an older era, and what
    /// comes once the breaker is open, are old news.
    pub(crate) fn heard(
        &mut self,
        era: u64,
        failure: Arc<DialFailure>,
        now: Instant,
    ) -> Option<Transition> {
        if era != self.generation || self.state != BreakerState::Closed {
            return None;
        }
        self.back_off(failure, now)
    }

    /// Something that went past the gate succeeded: its failures are no longer in a row.
    pub(crate) fn worked(&mut self, era: u64) {
        if era == self.generation && self.state == BreakerState::Closed {
            self.start_anew();
        }
    }

    /// Gives up the dial in flight: its outcome is old news.
    pub(crate) fn disregard(&mut self) {
        self.in_flight = None;
    }

    /// True unless the dial was given up.
    pub(crate) fn is_current(&self, approval: &Approval) -> bool {
        self.in_flight.as_ref().is_some_and(|dial| dial.generation == approval.generation)
    }

    /// How many failures in a row trip the breaker.
    pub(crate) fn failures_to_trip(&self) -> u32 {
        self.breaker.failures_to_trip()
    }

    /// The generation under which [`heard`](Self::heard) and [`worked`](Self::worked) count.
    pub(crate) fn era(&self) -> u64 {
        self.generation
    }

    /// True while there is nothing to recover from, and no override.
    pub(crate) fn is_calm(&self) -> bool {
        self.state == BreakerState::Closed && self.failures == 0 && self.forced.is_none()
    }

    /// The dial was dropped before it ended: the probe is given back, nothing is learned.
    pub fn abandoned(&mut self, approval: Approval) -> Option<Transition> {
        if !self.settle(&approval) {
            return None;
        }
        match self.state {
            BreakerState::HalfOpen => self.go(BreakerState::Open),
            BreakerState::Closed | BreakerState::Open => None,
        }
    }

    /// The server closed a connection, perhaps everybody's: the next dial is spread, so that a
    /// fleet does not come back in one burst.
    pub fn disconnected(&mut self, now: Instant) {
        if self.gap.is_none_or(|due| due <= now) {
            let spread = between(Duration::ZERO, self.disconnect_spread, &mut self.rng);
            self.gap = Some(now + spread);
        }
    }

    /// Nothing is live any more: the pace of growth is no reason to wait.
    pub fn lost_all(&mut self, now: Instant) {
        self.gap = self.gap.map(|due| due.min(now + self.disconnect_spread));
    }

    /// We closed a connection while the server was full: its slot is there for one dial at once.
    pub(crate) fn excuse(&mut self) {
        self.excused = true;
    }

    /// Whether the server is known to have plenty of room: a service on a quiet server must not feel
    /// the guard.
    pub(crate) fn set_roomy(&mut self, roomy: bool) {
        self.roomy = roomy;
        if roomy && self.state == BreakerState::Closed && self.failures == 0 {
            self.gap = None;
        }
    }

    /// When the next dial may start, or the one in flight is given up.
    fn due(&self) -> Option<Instant> {
        match &self.in_flight {
            Some(dial) => Some(dial.deadline),
            None if self.excused => None,
            None => self.next_dial.max(self.gap),
        }
    }

    /// What a caller hears, given that nothing is live.
    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        let retry_after = match &self.in_flight {
            // The probe takes a round trip, not its whole deadline.
            Some(_) => self.next_attempt_in(now).min(self.backoff.base()),
            None => self.next_attempt_in(now),
        };
        match self.state() {
            BreakerState::Open | BreakerState::HalfOpen => Verdict::Refuse { retry_after },
            BreakerState::Closed => match &self.failure {
                Some(failure)
                    if failure.outcome.is_permanent()
                        && self.forced.is_none()
                        && self.next_dial.is_some_and(|due| due > now) =>
                {
                    Verdict::Fail { retry_after, failure: Arc::clone(failure) }
                }
                _ => Verdict::Wait,
            },
        }
    }

    /// Time to the next dial, or to the end of the one in flight. Where the breaker is forced
    /// open nobody knows; the back-off's cap is the pace at which to ask again.
    pub(crate) fn next_attempt_in(&self, now: Instant) -> Duration {
        if self.is_held() {
            return self.backoff.cap();
        }
        self.due().map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    /// The breaker's state, an operator's override included.
    pub(crate) fn state(&self) -> BreakerState {
        match self.forced {
            Some(Forced::Open) => BreakerState::Open,
            Some(Forced::Closed) => BreakerState::Closed,
            None => self.state,
        }
    }

    pub(crate) fn is_forced(&self) -> bool {
        self.forced.is_some()
    }

    /// True while an operator holds it open.
    pub(crate) fn is_held(&self) -> bool {
        self.forced == Some(Forced::Open)
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures.max(self.permanent_failures)
    }

    /// The last dial's failure, if the last dial failed.
    pub(crate) fn failure(&self) -> Option<&Arc<DialFailure>> {
        self.failure.as_ref()
    }

    /// No dials, and no waiting for one, until [`Gate::auto`].
    pub(crate) fn force_open(&mut self) -> Option<Transition> {
        self.force(Some(Forced::Open))
    }

    /// Callers always wait for the next dial; the schedule stays.
    pub(crate) fn force_closed(&mut self) -> Option<Transition> {
        self.force(Some(Forced::Closed))
    }

    /// Takes an override back.
    pub(crate) fn auto(&mut self) -> Option<Transition> {
        self.force(None)
    }

    fn force(&mut self, forced: Option<Forced>) -> Option<Transition> {
        let from = self.state();
        self.forced = forced;
        let to = self.state();
        (from != to).then_some(Transition { from, to })
    }

    /// Takes the dial out of flight; false where it was given up before.
    fn settle(&mut self, approval: &Approval) -> bool {
        let current = self.is_current(approval);
        if current {
            self.in_flight = None;
        }
        current
    }

    fn go(&mut self, to: BreakerState) -> Option<Transition> {
        let from = std::mem::replace(&mut self.state, to);
        // Under an override the state that callers see does not change.
        (from != to && self.forced.is_none()).then_some(Transition { from, to })
    }
}

#[cfg(test)]
mod tests;
