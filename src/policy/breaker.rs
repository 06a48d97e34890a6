//! When the breaker trips: the policy value and the counts behind it.

use std::time::Duration;

use tokio::time::Instant;

use crate::vocabulary::Outcome;

/// When the circuit breaker trips, that is, when callers stop waiting for the next dial and hear
/// "no" at once.
///
/// The breaker is a verdict over the back-off schedule, not a timer of its own: it is open until
/// the next dial, which is its probe. It never takes live connections away: while one is live,
/// callers wait their turn for it.
///
/// Defaults: 1 × "max number of clients reached" (the server said it, so there is nothing to
/// confirm), 2 × suspected within 1 s (a single silent close can be a restart), 5 failures in a row
/// of any other kind, or 1 with nothing live: whoever waits for that dial hears at once what became of it, and may
/// try something else. (Behind sentinels it is 5 then, too: one may name the wrong server, and the next one knows
/// better.) A count of zero is reported by [`build`](crate::GuardedPoolBuilder::build); [`u32::MAX`] never trips.
///
/// To have callers wait out a restart of up to a second instead, set `failures(5)`: of the five dials the
/// last one is 0.75 to 1.5 s after the first, with the default [`Backoff`](crate::Backoff).
///
/// ```
/// use redis_guard::Breaker;
/// use std::time::Duration;
///
/// let patient = Breaker::default().suspected(3, Duration::from_secs(5)).failures(10);
/// # let _ = patient;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    max_clients: u32,
    suspected: u32,
    within: Duration,
    failures: u32,
    /// With nothing live.
    failures_with_none_live: u32,
}

impl Breaker {
    /// Trip after `count` dials in a row that the server refused with "max number of clients
    /// reached". Default 1.
    #[must_use]
    pub const fn max_clients(mut self, count: u32) -> Self {
        self.max_clients = count;
        self
    }

    /// Trip after `count` suspected refusals (accepted, then closed without a word) `within` the
    /// given time. Default 2 within 1 s.
    #[must_use]
    pub const fn suspected(mut self, count: u32, within: Duration) -> Self {
        self.suspected = count;
        self.within = within;
        self
    }

    /// Trip after `count` failures in a row of whatever kind, with something live or nothing. Default 5, and 1 with
    /// nothing live.
    #[must_use]
    pub const fn failures(mut self, count: u32) -> Self {
        (self.failures, self.failures_with_none_live) = (count, count);
        self
    }

    /// How many suspected refusals trip it, and within what time.
    #[cfg(feature = "settings")]
    pub(crate) const fn suspicion(&self) -> (u32, Duration) {
        (self.suspected, self.within)
    }

    /// With nothing live, as patient as ever.
    pub(crate) const fn as_patient_with_none_live(mut self) -> Self {
        self.failures_with_none_live = self.failures;
        self
    }

    pub(crate) const fn failures_to_trip(&self) -> u32 {
        self.failures
    }

    /// The same with nothing live.
    pub(crate) const fn failures_to_trip_with_none_live(&self) -> u32 {
        self.failures_with_none_live
    }

    /// Trips as soon as either of two would.
    pub(crate) fn stricter(self, other: Self) -> Self {
        Self {
            max_clients: self.max_clients.min(other.max_clients),
            suspected: self.suspected.min(other.suspected),
            within: self.within.max(other.within),
            failures: self.failures.min(other.failures),
            failures_with_none_live: self
                .failures_with_none_live
                .min(other.failures_with_none_live),
        }
    }

    /// What is wrong with the values, if anything.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.max_clients == 0 || self.suspected == 0 || self.failures == 0 {
            Some("a threshold is zero, so it would trip before anything failed")
        } else if self.within.is_zero() && self.suspected > 1 {
            Some("the window for suspected refusals is zero, so it would never trip on them")
        } else {
            None
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        let within = Duration::from_secs(1);
        Self { max_clients: 1, suspected: 2, within, failures: 5, failures_with_none_live: 1 }
    }
}

/// The state of the circuit breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Callers wait for the next dial.
    #[default]
    Closed,
    /// With nothing live, callers are refused at once, with the time to the next dial.
    Open,
    /// That dial, the probe, is in flight; callers are still refused, so that a server which
    /// accepts and never answers does not hold them.
    HalfOpen,
}

impl BreakerState {
    /// Every state, in the order of the metric's `state` label.
    pub const ALL: &'static [Self] = &[Self::Closed, Self::Open, Self::HalfOpen];

    /// The metric label: `closed`, `open` or `half_open`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl std::fmt::Display for BreakerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The failures that count towards the thresholds of a [`Breaker`].
#[derive(Debug, Default)]
pub(crate) struct Tripwire {
    max_clients: u32,
    failures: u32,
    /// Start of the current window, and how many suspected refusals fell into it.
    suspected: Option<(Instant, u32)>,
}

/// What the tripwire tells failures apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    MaxClients,
    Suspected,
    Other,
}

impl FailureKind {
    pub(crate) const fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::MaxClients => Self::MaxClients,
            Outcome::SuspectedMaxClients => Self::Suspected,
            _ => Self::Other,
        }
    }
}

impl Tripwire {
    /// Counts one failure; true when a threshold is reached.
    pub(crate) fn failed(&mut self, kind: FailureKind, breaker: &Breaker, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        match kind {
            FailureKind::MaxClients => self.max_clients = self.max_clients.saturating_add(1),
            FailureKind::Suspected => {
                self.suspected = Some(match self.suspected {
                    Some((start, count)) if now.duration_since(start) <= breaker.within => {
                        (start, count.saturating_add(1))
                    }
                    _ => (now, 1),
                });
            }
            FailureKind::Other => {}
        }
        if kind != FailureKind::MaxClients {
            self.max_clients = 0;
        }
        self.max_clients >= breaker.max_clients
            || self.failures >= breaker.failures
            || self.suspected.is_some_and(|(_, count)| count >= breaker.suspected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_until_trip(breaker: Breaker, kind: FailureKind, step: Duration) -> u32 {
        let mut wire = Tripwire::default();
        let start = Instant::now();
        (1..=50).find(|n| wire.failed(kind, &breaker, start + step * *n)).unwrap_or(u32::MAX)
    }

    #[tokio::test(start_paused = true)]
    async fn one_max_clients_two_suspected_or_five_of_a_kind_trip_it() {
        let breaker = Breaker::default();
        let soon = Duration::from_millis(100);
        assert_eq!(count_until_trip(breaker, FailureKind::MaxClients, soon), 1);
        assert_eq!(count_until_trip(breaker, FailureKind::Suspected, soon), 2);
        assert_eq!(count_until_trip(breaker, FailureKind::Other, soon), 5);
    }

    #[test]
    fn with_nothing_live_the_first_failure_trips_it_unless_it_is_set() {
        let trips_at = |breaker: Breaker| breaker.failures_to_trip_with_none_live();
        let default = Breaker::default();
        assert_eq!(trips_at(default), 1);
        assert_eq!(trips_at(default.failures(2)), 2);
        assert_eq!(trips_at(default.failures(2).stricter(default)), 1);
        assert_eq!(trips_at(default.failures(3).as_patient_with_none_live()), 3);
        assert_eq!(trips_at(default.as_patient_with_none_live()), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn suspected_refusals_far_apart_count_only_as_failures() {
        let rare = Duration::from_secs(2);
        assert_eq!(count_until_trip(Breaker::default(), FailureKind::Suspected, rare), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_count_in_a_row_and_suspicions_up_to_the_end_of_the_window() {
        let breaker = Breaker::default().max_clients(2).suspected(2, Duration::from_secs(1));
        let (mut wire, start) = (Tripwire::default(), Instant::now());
        for kind in [FailureKind::MaxClients, FailureKind::Other, FailureKind::MaxClients] {
            assert!(!wire.failed(kind, &breaker, start));
        }
        assert!(wire.failed(FailureKind::MaxClients, &breaker, start));
        assert_eq!(count_until_trip(breaker, FailureKind::Suspected, Duration::from_secs(1)), 2);
    }

    #[test]
    fn no_threshold_may_be_zero_and_two_suspicions_need_a_window() {
        let within = Duration::from_nanos(1);
        let one = Breaker::default().max_clients(1).failures(1).suspected(1, Duration::ZERO);
        for breaker in [Breaker::default(), one, one.suspected(2, within)] {
            assert_eq!(breaker.problem(), None, "{breaker:?}");
        }
        for breaker in [
            one.max_clients(0),
            one.failures(0),
            one.suspected(0, within),
            one.suspected(2, Duration::ZERO),
        ] {
            assert!(breaker.problem().is_some(), "{breaker:?}");
        }
    }

    #[test]
    fn the_stricter_of_two_trips_when_either_would() {
        let second = Duration::from_secs(1);
        let one = Breaker::default().max_clients(1).failures(9).suspected(4, second);
        let two = Breaker::default().max_clients(2).failures(7).suspected(3, second * 2);
        let both = one.max_clients(1).failures(7).suspected(3, second * 2);
        assert_eq!([one.stricter(two), two.stricter(one)], [both; 2]);
        assert_eq!(both.failures_to_trip(), 7);
    }

    #[test]
    fn a_state_is_written_as_its_label() {
        let labels: Vec<_> = BreakerState::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(labels, ["closed", "open", "half_open"]);
    }
}
