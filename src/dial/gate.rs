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

use crate::error::DialFailure;
use crate::policy::{Backoff, Breaker, BreakerState, Tripwire, between};

/// Back-off after a failure that is not about capacity (credentials, protected mode,
/// configuration). Somebody has to change something, so a dial every half minute is enough.
const SLOW: Backoff = Backoff::equal_jitter(Duration::from_secs(1), Duration::from_secs(30));

/// Growth dials leave this many times the duration of the last dial between them: after a restart
/// with 2,000 instances the last one is then served in 9 s instead of 38 s, with a third of the
/// dials (simulated).
const GROWTH_GAP: u32 = 3;

/// The window over which the first dial after the server closed a connection is spread, for a
/// fleet whose size is not known: a restart closes everybody's at once.
const DISCONNECT_SPREAD: Duration = Duration::from_millis(50);

/// How long after the connect timeout a probe is given up.
const PROBE_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Gate {
    backoff: Backoff,
    breaker: Breaker,
    rng: Rng,
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
pub(crate) struct Approval {
    generation: u64,
}

/// Whether a dial may start now.
#[derive(Debug)]
pub(crate) enum Decision {
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
pub(crate) struct Transition {
    pub(crate) from: BreakerState,
    pub(crate) to: BreakerState,
}

impl Gate {
    pub(crate) fn new(
        backoff: Backoff,
        breaker: Breaker,
        connect_timeout: Duration,
        seed: u64,
    ) -> Self {
        Self {
            backoff,
            breaker,
            rng: Rng::with_seed(seed),
            probe_deadline: connect_timeout + PROBE_GRACE,
            state: BreakerState::Closed,
            forced: None,
            generation: 0,
            in_flight: None,
            next_dial: None,
            gap: None,
            excused: false,
            tripwire: Tripwire::default(),
            failures: 0,
            permanent_failures: 0,
            previous: Duration::ZERO,
            failure: None,
        }
    }

    /// Asks for a dial. One at a time: while one is in flight, wait for it or its deadline.
    pub(crate) fn ask(&mut self, now: Instant) -> (Decision, Option<Transition>) {
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
    pub(crate) fn connected(
        &mut self,
        approval: Approval,
        room: bool,
        took: Duration,
        now: Instant,
    ) -> Option<Transition> {
        if !self.settle(&approval) {
            return None;
        }
        self.gap = Some(now + took * GROWTH_GAP);
        if room {
            self.failures = 0;
            self.permanent_failures = 0;
            self.tripwire = Tripwire::default();
            self.failure = None;
            self.next_dial = None;
        } else if self.next_dial.is_none_or(|due| due <= now) {
            self.next_dial =
                Some(now + self.backoff.delay(self.failures, self.previous, &mut self.rng));
        }
        self.go(BreakerState::Closed)
    }

    /// The dial failed: everybody backs off.
    pub(crate) fn failed(
        &mut self,
        approval: Approval,
        failure: Arc<DialFailure>,
        now: Instant,
    ) -> Option<Transition> {
        if !self.settle(&approval) {
            return None;
        }
        let outcome = failure.outcome;
        self.failure = Some(failure);
        self.gap = None;
        if outcome.is_permanent() {
            self.permanent_failures = self.permanent_failures.saturating_add(1);
            let delay = SLOW.delay(self.permanent_failures, self.previous, &mut self.rng);
            self.next_dial = Some(now + delay);
            // `Verdict::Fail` speaks from here on; a probe that ends so has found a server with room.
            return self.go(BreakerState::Closed);
        }
        self.permanent_failures = 0;
        self.failures = self.failures.saturating_add(1);
        self.previous = self.backoff.delay(self.failures, self.previous, &mut self.rng);
        self.next_dial = Some(now + self.previous);
        let tripped = self.tripwire.failed(outcome.failure_kind(), &self.breaker, now);
        match self.state {
            BreakerState::Closed if !tripped => None,
            _ => self.go(BreakerState::Open),
        }
    }

    /// The dial was dropped before it ended: the probe is given back, nothing is learned.
    pub(crate) fn abandoned(&mut self, approval: Approval) -> Option<Transition> {
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
    pub(crate) fn disconnected(&mut self, now: Instant) {
        if self.gap.is_none_or(|due| due <= now) {
            let spread = between(Duration::ZERO, DISCONNECT_SPREAD, &mut self.rng);
            self.gap = Some(now + spread);
        }
    }

    /// Nothing is live any more: the pace of growth is no reason to wait.
    pub(crate) fn lost_all(&mut self, now: Instant) {
        self.gap = self.gap.map(|due| due.min(now + DISCONNECT_SPREAD));
    }

    /// We closed a connection while the server was full: its slot is there for one dial at once.
    pub(crate) fn excuse(&mut self) {
        self.excused = true;
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
        let current =
            self.in_flight.as_ref().is_some_and(|dial| dial.generation == approval.generation);
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
mod tests {
    use super::*;
    use crate::Outcome;

    const MS: Duration = Duration::from_millis(1);

    fn gate() -> Gate {
        Gate::new(Backoff::default(), Breaker::default(), Duration::from_secs(2), 7)
    }

    fn failure(outcome: Outcome) -> Arc<DialFailure> {
        Arc::new(DialFailure { server: "test".into(), outcome, message: String::new() })
    }

    fn approve(gate: &mut Gate, now: Instant) -> Approval {
        match gate.ask(now).0 {
            Decision::Dial(approval) => approval,
            other => panic!("expected a dial, got {other:?}"),
        }
    }

    fn due(gate: &mut Gate, now: Instant) -> Instant {
        match gate.ask(now).0 {
            Decision::WaitUntil(due) => due,
            other => panic!("expected to wait, got {other:?}"),
        }
    }

    fn fail(gate: &mut Gate, outcome: Outcome, now: Instant) -> Option<Transition> {
        let approval = approve(gate, now);
        gate.failed(approval, failure(outcome), now)
    }

    #[tokio::test(start_paused = true)]
    async fn one_refusal_opens_it_and_everybody_hears_the_time_to_the_next_dial() {
        let (mut gate, now) = (gate(), Instant::now());
        let transition = fail(&mut gate, Outcome::MaxClients, now);
        assert_eq!(
            transition,
            Some(Transition { from: BreakerState::Closed, to: BreakerState::Open })
        );
        let due = due(&mut gate, now);
        assert!(due >= now + 50 * MS && due <= now + 100 * MS);
        assert_eq!(gate.verdict(now), Verdict::Refuse { retry_after: due - now });
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_dial_is_the_probe_and_its_success_closes_the_breaker() {
        let (mut gate, now) = (gate(), Instant::now());
        fail(&mut gate, Outcome::MaxClients, now);
        let later = due(&mut gate, now);
        let probe = approve(&mut gate, later);
        assert_eq!(gate.state(), BreakerState::HalfOpen);
        assert!(matches!(gate.verdict(later), Verdict::Refuse { .. }));
        gate.connected(probe, true, MS, later);
        assert_eq!((gate.state(), gate.verdict(later)), (BreakerState::Closed, Verdict::Wait));
        assert_eq!(due(&mut gate, later), later + 3 * MS, "growth leaves a gap");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_backs_off_further() {
        let (mut gate, mut now) = (gate(), Instant::now());
        let mut delays = Vec::new();
        for _ in 0..10 {
            fail(&mut gate, Outcome::MaxClients, now);
            let next = due(&mut gate, now);
            delays.push(next - now);
            now = next;
        }
        assert!(delays[..6].windows(2).all(|pair| pair[0] < pair[1] * 2), "{delays:?}");
        assert!(delays[7..].iter().all(|delay| *delay >= 2500 * MS && *delay <= 5000 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn one_dial_at_a_time_and_the_probe_has_a_deadline() {
        let (mut gate, now) = (gate(), Instant::now());
        let slow = approve(&mut gate, now);
        let deadline = due(&mut gate, now);
        assert_eq!(deadline, now + Duration::from_secs(3));
        let second = approve(&mut gate, deadline);
        assert_eq!(gate.failed(slow, failure(Outcome::MaxClients), deadline), None, "stale");
        assert_eq!(gate.failures(), 0);
        gate.connected(second, true, MS, deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stale_success_does_not_close_a_half_open_breaker() {
        let (mut gate, now) = (gate(), Instant::now());
        let slow = approve(&mut gate, now);
        let mut now = due(&mut gate, now);
        fail(&mut gate, Outcome::MaxClients, now);
        now = due(&mut gate, now);
        let _probe = approve(&mut gate, now);
        gate.connected(slow, true, MS, now);
        assert_eq!(gate.state(), BreakerState::HalfOpen);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_admission_gives_its_probe_back() {
        let (mut gate, now) = (gate(), Instant::now());
        fail(&mut gate, Outcome::MaxClients, now);
        let now = due(&mut gate, now);
        let probe = approve(&mut gate, now);
        gate.abandoned(probe);
        assert_eq!(gate.state(), BreakerState::Open);
        let _again = approve(&mut gate, now);
    }

    #[tokio::test(start_paused = true)]
    async fn other_failures_are_waited_out_until_the_fifth() {
        let (mut gate, mut now) = (gate(), Instant::now());
        for n in 1..=5 {
            fail(&mut gate, Outcome::Refused, now);
            let expected = if n < 5 { BreakerState::Closed } else { BreakerState::Open };
            assert_eq!(gate.state(), expected, "after {n}");
            now = due(&mut gate, now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_fails_callers_at_once_on_a_slow_schedule() {
        let (mut gate, now) = (gate(), Instant::now());
        fail(&mut gate, Outcome::Auth, now);
        assert!(matches!(gate.verdict(now), Verdict::Fail { .. }));
        assert!(due(&mut gate, now) >= now + Duration::from_secs(1));
        assert_eq!(gate.state(), BreakerState::Closed);
        let now = due(&mut gate, now);
        assert_eq!(gate.verdict(now), Verdict::Wait, "somebody has to ask for the next dial");
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_can_hold_it_open_or_closed() {
        let (mut gate, now) = (gate(), Instant::now());
        assert!(gate.force_open().is_some());
        assert!(matches!(gate.ask(now).0, Decision::Held));
        assert_eq!(gate.verdict(now), Verdict::Refuse { retry_after: Duration::from_secs(5) });
        gate.force_closed();
        fail(&mut gate, Outcome::MaxClients, now);
        assert_eq!((gate.state(), gate.verdict(now)), (BreakerState::Closed, Verdict::Wait));
        assert!(due(&mut gate, now) > now, "the schedule stays");
        gate.auto();
        assert_eq!(gate.state(), BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replacement_proves_no_room_and_keeps_the_schedule() {
        let (mut gate, mut now) = (gate(), Instant::now());
        for _ in 0..6 {
            fail(&mut gate, Outcome::MaxClients, now);
            now = due(&mut gate, now);
        }
        fail(&mut gate, Outcome::MaxClients, now);
        let probe = due(&mut gate, now);
        gate.excuse();
        let replacement = approve(&mut gate, now);
        gate.connected(replacement, false, MS, now);
        assert_eq!((gate.state(), gate.failures()), (BreakerState::Closed, 7));
        assert_eq!(due(&mut gate, now), probe, "one dial was excused, not two");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_of_growth_does_not_hold_up_a_pool_that_lost_everything() {
        let (mut gate, now) = (gate(), Instant::now());
        let dial = approve(&mut gate, now);
        gate.connected(dial, true, 400 * MS, now);
        assert_eq!(due(&mut gate, now), now + 1200 * MS);
        gate.lost_all(now);
        assert!(due(&mut gate, now) <= now + 50 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_comes_back_spread_after_a_mass_disconnect() {
        let now = Instant::now();
        let dues: Vec<_> = (0..100)
            .map(|seed| {
                let mut gate =
                    Gate::new(Backoff::default(), Breaker::default(), Duration::from_secs(2), seed);
                for _ in 0..32 {
                    gate.disconnected(now);
                }
                due(&mut gate, now) - now
            })
            .collect();
        assert!(dues.iter().all(|due| *due <= 50 * MS));
        assert!(dues.iter().filter(|due| **due < 25 * MS).count() < 80);
    }
}
