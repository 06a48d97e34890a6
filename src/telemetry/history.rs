//! What happened in the last minutes: for somebody who opens the page when it is over.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long it is remembered: from an incident's beginning until somebody has got up and looks.
const KEPT: Duration = Duration::from_secs(300);

/// Between two samples, a bit less than a second: the sweeps that bring them are a second apart, more or less.
const EVERY: Duration = Duration::from_millis(900);

/// However fast a pool sweeps, and however many nodes bring their counts.
const MOST: usize = 320;

/// What a pool did in about a second; see [`GuardedPool::recent_rates`](crate::GuardedPool::recent_rates).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecentRate {
    /// How long ago that second ended.
    pub age: Duration,
    /// How long it was.
    pub took: Duration,
    /// Callers that were refused in it.
    pub refused: u64,
    /// Dials that ended in it, however they ended.
    pub dials: u64,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) refused: u64,
    pub(crate) dials: u64,
}

impl Counted {
    /// What has come since `before`.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            refused: self.refused.saturating_sub(before.refused),
            dials: self.dials.saturating_sub(before.dials),
        }
    }
}

/// The samples of the last minutes, one a pool.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Samples>);

#[derive(Debug, Default)]
struct Samples {
    samples: VecDeque<Sample>,
    /// What has come since the last sample, and when that was.
    new: Counted,
    since: Option<Instant>,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    took: Duration,
    counted: Counted,
}

impl History {
    /// Adds what was counted since the last time, of one node of the pool's.
    pub(crate) fn add(&self, counted: Counted, now: Instant) {
        let mut this = self.lock();
        this.new.refused = this.new.refused.saturating_add(counted.refused);
        this.new.dials = this.new.dials.saturating_add(counted.dials);
        let since = *this.since.get_or_insert(now);
        let took = now.saturating_duration_since(since);
        if took < EVERY {
            return;
        }
        let counted = std::mem::take(&mut this.new);
        this.since = Some(now);
        this.samples.push_back(Sample { at: now, took, counted });
        if this.samples.len() > MOST {
            this.samples.pop_front();
        }
    }

    /// Oldest first.
    pub(crate) fn recent(&self, now: Instant) -> Vec<RecentRate> {
        let this = self.lock();
        let age = |sample: &Sample| now.saturating_duration_since(sample.at);
        let recent = this.samples.iter().filter(|sample| age(sample) <= KEPT);
        let rate = |sample: &Sample| RecentRate {
            age: age(sample),
            took: sample.took,
            refused: sample.counted.refused,
            dials: sample.counted.dials,
        };
        recent.map(rate).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Samples> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn refused(refused: u64) -> Counted {
        Counted { refused, dials: 0 }
    }

    #[test]
    fn five_minutes_are_kept_however_often_it_is_told() {
        let (history, start) = (History::default(), Instant::now());
        for tenth in 0..=6_000 {
            history.add(refused(1), start + Duration::from_millis(100) * tenth);
        }
        let now = start + Duration::from_secs(600);
        let recent = history.recent(now);
        assert!(recent.len() <= MOST, "{}", recent.len());
        let oldest = recent[0].age;
        assert!(oldest > KEPT - SECOND && oldest <= KEPT || recent.len() == MOST, "{oldest:?}");
        for rate in &recent {
            assert_eq!((rate.refused, rate.took), (9, EVERY));
        }
        assert!(history.recent(now + KEPT + SECOND).is_empty(), "it grows old");
    }

    #[test]
    fn nodes_of_one_pool_are_counted_together_and_nothing_is_lost() {
        let (history, start) = (History::default(), Instant::now());
        for second in 0..10 {
            history.add(refused(2), start + SECOND * second);
            history.add(Counted { refused: 1, dials: 3 }, start + SECOND * second + SECOND / 2);
        }
        let recent = history.recent(start + SECOND * 9);
        assert_eq!(recent.len(), 9);
        assert_eq!(recent.iter().map(|rate| rate.refused).sum::<u64>(), 3 * 9 + 2);
        assert_eq!(recent.iter().map(|rate| rate.dials).sum::<u64>(), 3 * 9);
        assert_eq!(recent[8].age, Duration::ZERO);
    }

    #[test]
    fn a_pause_of_the_process_is_one_long_second() {
        let (history, start) = (History::default(), Instant::now());
        history.add(Counted::default(), start);
        history.add(refused(5), start + SECOND * 20);
        let [long] = history.recent(start + SECOND * 21)[..] else { panic!("one") };
        assert_eq!((long.took, long.age, long.refused), (SECOND * 20, SECOND, 5));
    }
}
