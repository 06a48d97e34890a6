//! What is recorded of one client's run.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::time::Duration;

use crate::common::bars::BUCKET;
use crate::common::numbers::Spread;

/// Messages that are reported of one client: some name the time to the next dial, and are all different.
const FEW: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Healthy,
    Full,
    Freed,
}

impl Phase {
    pub(crate) const ALL: [Self; 3] = [Self::Healthy, Self::Full, Self::Freed];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Full => "full",
            Self::Freed => "freed",
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

impl<T> PerPhase<T> {
    pub(crate) fn of(value: impl FnMut(Phase) -> T) -> Self {
        Self(Phase::ALL.map(value))
    }
}

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// The full node's.
    Full,
    /// Those of the other nodes.
    Others,
}

/// A request that has ended, in the phase in which it did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) keys: Keys,
    pub(crate) phase: Phase,
    /// Since the phase began.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    pub(crate) how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Succeeded,
    Failed,
    /// Neither, within [`HUNG`](crate::storm::HUNG).
    Hung,
}

/// What one task saw.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) ended: Vec<Ended>,
    /// The last error of the full phase, for the full node's keys.
    pub(crate) last_error: Option<String>,
    /// For the other nodes' keys.
    pub(crate) other_errors: Errors,
}

impl Log {
    pub(crate) fn absorb(&mut self, other: Self) {
        self.ended.extend(other.ended);
        self.last_error = other.last_error.or(self.last_error.take());
        self.other_errors.absorb(other.other_errors);
    }
}

/// What callers were told in a phase, and how many of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Errors(BTreeMap<(Phase, String), u64>);

impl Errors {
    pub(crate) fn add(&mut self, phase: Phase, message: String) {
        *self.0.entry((phase, message)).or_default() += 1;
    }

    fn absorb(&mut self, other: Self) {
        for (told, count) in other.0 {
            *self.0.entry(told).or_default() += count;
        }
    }

    /// A few, the most frequent first.
    pub(crate) fn few(&self) -> Vec<(Phase, &str, u64)> {
        let all = self.0.iter().map(|((phase, message), count)| (*phase, message.as_str(), *count));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(.., count)| Reverse(*count));
        all.truncate(FEW);
        all
    }
}

/// A node, as the client used it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) server: String,
    pub(crate) role: &'static str,
    pub(crate) full: bool,
    pub(crate) dials_refused: u64,
    pub(crate) sockets_peak: usize,
}

/// What became of the requests for some keys.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ok: PerPhase<u64>,
    /// All that did not succeed; those that hung are some of them.
    pub(crate) failed: PerPhase<u64>,
    pub(crate) hung: PerPhase<u64>,
    /// Of those that succeeded.
    pub(crate) took: PerPhase<Option<Spread>>,
    /// Of all, how ever they ended.
    pub(crate) longest: PerPhase<Option<Duration>>,
    /// Requests that succeeded in each tenth of a second of each phase.
    pub(crate) succeeded: PerPhase<Vec<u64>>,
    pub(crate) first_after_freed: Option<Duration>,
}

/// One client's run, as it is reported.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) terms: &'static str,
    pub(crate) nodes: Vec<Node>,
    /// Dials refused in each tenth of a second of each phase, by all nodes.
    pub(crate) refused: PerPhase<Vec<u64>>,
    /// The longest that one look at all nodes took, from when it was due: an idle thread and nodes that have
    /// time are done in a few milliseconds.
    pub(crate) longest_look: Duration,
    pub(crate) full_node: Outcome,
    pub(crate) others: Outcome,
    /// The last error of the full phase, for the full node's keys.
    pub(crate) last_error: Option<String>,
    /// For the other nodes' keys.
    pub(crate) other_errors: Errors,
}

impl Run {
    pub(crate) fn dials_refused(&self) -> u64 {
        self.nodes.iter().map(|node| node.dials_refused).sum()
    }

    /// On all nodes; each may have had its most at another time.
    pub(crate) fn sockets(&self) -> usize {
        self.nodes.iter().map(|node| node.sockets_peak).sum()
    }

    pub(crate) fn longest(&self) -> Option<Duration> {
        let outcomes = [&self.full_node, &self.others];
        outcomes.iter().flat_map(|outcome| outcome.longest.0).flatten().max()
    }
}

impl Outcome {
    /// Of these keys; `buckets` is how many tenths of a second each phase had.
    pub(crate) fn of(keys: Keys, log: &Log, buckets: PerPhase<usize>) -> Self {
        let all = |phase| log.ended.iter().filter(move |e| e.keys == keys && e.phase == phase);
        let ok = |phase| all(phase).filter(|e| e.how == How::Succeeded);
        let hung = |phase| all(phase).filter(|e| e.how == How::Hung).count() as u64;
        let succeeded = |phase| {
            let mut counts = vec![0; buckets[phase]];
            for ended in ok(phase) {
                let bucket = (ended.at.as_millis() / BUCKET.as_millis()).try_into();
                // What ends in the moment after the last bucket belongs to it.
                counts[bucket.unwrap_or(usize::MAX).min(buckets[phase] - 1)] += 1;
            }
            counts
        };
        Self {
            ok: PerPhase::of(|phase| ok(phase).count() as u64),
            failed: PerPhase::of(|phase| (all(phase).count() - ok(phase).count()) as u64),
            hung: PerPhase::of(hung),
            took: PerPhase::of(|phase| Spread::of(ok(phase).map(|e| e.took).collect())),
            longest: PerPhase::of(|phase| all(phase).map(|e| e.took).max()),
            succeeded: PerPhase::of(succeeded),
            first_after_freed: ok(Phase::Freed).map(|e| e.at).min(),
        }
    }

    pub(crate) fn all_failed(&self) -> u64 {
        self.failed.0.iter().sum()
    }
}
