//! What is recorded of one client's run.

use std::ops::{Index, IndexMut};
use std::time::Duration;

use crate::common::bars::BUCKET;
use crate::common::numbers::Spread;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Healthy,
    Full,
    Recovered,
}

impl Phase {
    pub(crate) const ALL: [Self; 3] = [Self::Healthy, Self::Full, Self::Recovered];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Full => "full",
            Self::Recovered => "recovered",
        }
    }
}

/// One value for each phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerPhase<T>(pub(crate) [T; 3]);

impl<T> Index<Phase> for PerPhase<T> {
    type Output = T;

    fn index(&self, phase: Phase) -> &T {
        &self.0[phase as usize]
    }
}

impl<T> IndexMut<Phase> for PerPhase<T> {
    fn index_mut(&mut self, phase: Phase) -> &mut T {
        &mut self.0[phase as usize]
    }
}

/// A request that succeeded, in the phase in which its answer came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Success {
    pub(crate) phase: Phase,
    /// Since the phase began.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
}

/// What one task saw. Requests are counted in the phase in which they ended.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) successes: Vec<Success>,
    pub(crate) failed: PerPhase<u64>,
    /// Times from the call to the answer of those the guard refused because its breaker was open.
    pub(crate) refusals: Vec<Duration>,
    /// The last error of the full phase.
    pub(crate) error: Option<String>,
}

impl Log {
    pub(crate) fn absorb(&mut self, other: Self) {
        self.successes.extend(other.successes);
        self.refusals.extend(other.refusals);
        for phase in Phase::ALL {
            self.failed[phase] += other.failed[phase];
        }
        self.error = other.error.or(self.error.take());
    }

    pub(crate) fn ok(&self, phase: Phase) -> usize {
        self.successes.iter().filter(|s| s.phase == phase).count()
    }
}

/// What a phase was for others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Others {
    /// The bystander's requests.
    pub(crate) bystander: Option<Spread>,
    /// The server's processor time, in percent of a core.
    pub(crate) cpu_percent: f64,
}

/// One client's run, as it is reported.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) dials_refused: u64,
    /// Dials refused in each tenth of a second of each phase.
    pub(crate) refused: PerPhase<Vec<u64>>,
    /// Requests that succeeded in each tenth of a second of each phase.
    pub(crate) succeeded: PerPhase<Vec<u64>>,
    pub(crate) ok: PerPhase<usize>,
    pub(crate) failed: PerPhase<u64>,
    pub(crate) took: PerPhase<Option<Spread>>,
    pub(crate) others: PerPhase<Others>,
    pub(crate) first_success_after_freed: Option<Duration>,
    /// The guard's wait for its next dial at the moment the slots were freed.
    pub(crate) open_time_in_force: Option<Duration>,
    pub(crate) refusals: usize,
    pub(crate) refusal: Option<Spread>,
    pub(crate) error: Option<String>,
}

impl Run {
    pub(crate) fn new(
        name: &'static str,
        log: Log,
        refused: PerPhase<Vec<u64>>,
        others: PerPhase<Others>,
        open_time_in_force: Option<Duration>,
    ) -> Self {
        let mut succeeded = PerPhase(Phase::ALL.map(|phase| vec![0; refused[phase].len()]));
        for success in &log.successes {
            let bucket =
                (success.at.as_millis() / BUCKET.as_millis()).try_into().unwrap_or(usize::MAX);
            // What ends in the moment after the last bucket belongs to it.
            let last = succeeded[success.phase].len() - 1;
            succeeded[success.phase][bucket.min(last)] += 1;
        }
        let took =
            |phase| log.successes.iter().filter(|s| s.phase == phase).map(|s| s.took).collect();
        Self {
            name,
            dials_refused: refused.0.iter().flatten().sum(),
            refused,
            succeeded,
            ok: PerPhase(Phase::ALL.map(|phase| log.ok(phase))),
            failed: log.failed,
            took: PerPhase(Phase::ALL.map(|phase| Spread::of(took(phase)))),
            others,
            first_success_after_freed: log
                .successes
                .iter()
                .filter(|s| s.phase == Phase::Recovered)
                .map(|s| s.at)
                .min(),
            open_time_in_force,
            refusals: log.refusals.len(),
            refusal: Spread::of(log.refusals),
            error: log.error,
        }
    }
}
