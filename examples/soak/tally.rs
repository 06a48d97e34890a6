//! What is counted of the callers. Bounded: counts, not lists.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis_guard::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    Single,
    Sentinel,
    Cluster,
}

impl Topology {
    pub(crate) const ALL: [Self; 3] = [Self::Single, Self::Sentinel, Self::Cluster];

    pub(crate) fn as_str(self) -> &'static str {
        ["single", "sentinel", "cluster"][self as usize]
    }
}

/// What a caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One GET over a shared handle: its latency is what is compared.
    Plain,
    Lease,
    TryAcquire,
    Leak,
    Shared,
    Multiplexed,
    Blocking,
    Transaction,
    Subscriber,
    /// One that subscribes and goes again.
    Visitor,
    Publish,
    Service,
    Guarded,
    Cancelled,
    /// A pool that is built, used and closed, or just dropped.
    Churn,
}

impl Kind {
    pub(crate) const ALL: [Self; 15] = [
        Self::Plain,
        Self::Lease,
        Self::TryAcquire,
        Self::Leak,
        Self::Shared,
        Self::Multiplexed,
        Self::Blocking,
        Self::Transaction,
        Self::Subscriber,
        Self::Visitor,
        Self::Publish,
        Self::Service,
        Self::Guarded,
        Self::Cancelled,
        Self::Churn,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        [
            "plain",
            "lease",
            "try_acquire",
            "leak",
            "shared",
            "multiplexed",
            "blocking",
            "transaction",
            "subscriber",
            "visitor",
            "publish",
            "service",
            "guarded",
            "cancelled",
            "churn",
        ][self as usize]
    }
}

/// Why a caller was not served.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// A few words, of which there are a few.
    pub(crate) reason: String,
    pub(crate) text: String,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Inner(error) => error.into(),
            refusal => Self { reason: refusal.reason().to_owned(), text: refusal.to_string() },
        }
    }
}

impl From<redis::RedisError> for Trouble {
    fn from(error: redis::RedisError) -> Self {
        let reason = error.code().map_or_else(|| format!("{:?}", error.kind()), str::to_owned);
        Self { reason, text: error.to_string() }
    }
}

/// How one call ended.
#[derive(Debug)]
pub(crate) enum End {
    Served,
    /// By the caller's own will.
    Cancelled,
    Failed(Trouble),
    /// The outer deadline had to end it.
    Hung,
}

/// The calls of one kind at one topology.
#[derive(Debug, Default)]
pub(crate) struct Count {
    served: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    hung: AtomicU64,
    longest_us: AtomicU64,
    reasons: Mutex<BTreeMap<String, (u64, String)>>,
}

/// Far more than there are.
const REASONS_MAX: usize = 40;

impl Count {
    pub(crate) fn end(&self, end: End, took: Duration) {
        self.longest_us.fetch_max(micros(took), Ordering::Relaxed);
        let count = match &end {
            End::Served => &self.served,
            End::Cancelled => &self.cancelled,
            End::Failed(_) => &self.failed,
            End::Hung => &self.hung,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let End::Failed(Trouble { reason, text }) = end {
            let mut reasons = self.lock();
            if reasons.len() < REASONS_MAX || reasons.contains_key(&reason) {
                let entry = reasons.entry(reason).or_default();
                *entry = (entry.0 + 1, text);
            }
        }
    }

    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub(crate) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn hung(&self) -> u64 {
        self.hung.load(Ordering::Relaxed)
    }

    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }

    /// How often for which reason, and the last one's words.
    pub(crate) fn reasons(&self) -> BTreeMap<String, (u64, String)> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (u64, String)>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All counts of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [[Count; Kind::ALL.len()]; Topology::ALL.len()],
    latency: [Histogram; Topology::ALL.len()],
}

impl Tally {
    pub(crate) fn of(&self, topology: Topology, kind: Kind) -> &Count {
        &self.counts[topology as usize][kind as usize]
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Topology, Kind, &Count)> {
        Topology::ALL.into_iter().flat_map(move |topology| {
            Kind::ALL.into_iter().map(move |kind| (topology, kind, self.of(topology, kind)))
        })
    }

    pub(crate) fn sum(&self, of: impl Fn(&Count) -> u64) -> u64 {
        self.all().map(|(_, _, count)| of(count)).sum()
    }

    /// Of the plain calls that were served.
    pub(crate) fn latency(&self, topology: Topology) -> &Histogram {
        &self.latency[topology as usize]
    }
}

/// Each bucket is an eighth of a power of two wide.
const STEPS: u64 = 8;
const BUCKETS: usize = 30 * 8;

/// Times in microseconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Histogram {
    pub(crate) fn add(&self, time: Duration) {
        self.buckets[bucket(micros(time))].fetch_add(1, Ordering::Relaxed);
    }

    /// The median and the 99th percentile since this was asked last.
    pub(crate) fn take(&self) -> Option<[Duration; 2]> {
        let counts = self.buckets.each_ref().map(|bucket| bucket.swap(0, Ordering::Relaxed));
        let all: u64 = counts.iter().sum();
        let rank = |percent: u64| {
            let (mut left, mut counts) = (all * percent / 100, counts.iter());
            let nth = counts.position(|count| {
                let here = left < *count;
                left = left.saturating_sub(*count);
                here
            });
            nth.map(|nth| Duration::from_micros(upper(nth)))
        };
        Some([rank(50)?, rank(99)?])
    }
}

fn bucket(us: u64) -> usize {
    let us = us.max(STEPS);
    let octave = us.ilog2() - STEPS.ilog2();
    let within = (us >> octave) - STEPS;
    let nth = u64::from(octave) * STEPS + within;
    usize::try_from(nth).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

fn upper(nth: usize) -> u64 {
    let nth = u64::try_from(nth).unwrap_or(0);
    (STEPS + nth % STEPS + 1) << (nth / STEPS)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
