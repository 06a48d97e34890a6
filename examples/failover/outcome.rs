//! What follows from the record of one client's run.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::clients::Dialed;
use crate::run::{Record, Sample, Times, Write};
use crate::set::Counts;

/// The width of a bar in the chart.
pub(crate) const BUCKET: Duration = Duration::from_millis(100);

/// One client's run, as it is reported.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    /// How long it waits for what.
    pub(crate) terms: &'static str,
    /// What it dialed to have its connections, before the first failover.
    pub(crate) to_start: Counts,
    pub(crate) scenarios: Vec<Outcome>,
}

/// What came of one failover.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) times: Times,
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    /// The longest time in which no write was acknowledged.
    pub(crate) longest_gap: Duration,
    /// From the sentinels' word to the first acknowledged write that the new master has.
    pub(crate) first_write: Option<Duration>,
    /// The same, for the pool that was last; `None` if one had none.
    pub(crate) writes_back: Option<Duration>,
    /// Writes acknowledged before the sentinels' word that the new master does not have.
    pub(crate) lost_before: usize,
    /// Those acknowledged after it.
    pub(crate) lost: usize,
    /// How long after it the last of them was.
    pub(crate) last_lost: Option<Duration>,
    /// Dials that a data server accepted.
    pub(crate) accepted: u64,
    /// What the client itself counts.
    pub(crate) dialed: Dialed,
    /// The most failed dials in any second.
    pub(crate) failed_in_a_second: u64,
    pub(crate) slots_peak: u64,
    pub(crate) sentinel_dials: u64,
    pub(crate) sentinel_slots_peak: u64,
    /// What most callers heard whose request failed.
    pub(crate) told: Option<String>,
    /// Each as wide as a [`BUCKET`], counted from the sentinels' word.
    pub(crate) bars: BTreeMap<i64, Bar>,
}

/// What happened in one tenth of a second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bar {
    pub(crate) kept: u64,
    pub(crate) lost: u64,
    pub(crate) failed: u64,
    pub(crate) dials: u64,
}

impl Run {
    /// `kept` is what the last master has.
    pub(crate) fn new(
        name: &'static str,
        terms: &'static str,
        record: &Record,
        kept: &HashSet<String>,
    ) -> Self {
        Self {
            name,
            terms,
            to_start: record.samples.first().map(|sample| sample.servers).unwrap_or_default(),
            scenarios: record.scenarios.iter().map(|t| Outcome::new(t, record, kept)).collect(),
        }
    }
}

impl Outcome {
    fn new(times: &Times, record: &Record, kept: &HashSet<String>) -> Self {
        let within = |at: Duration| times.began <= at && at < times.ended;
        let writes: Vec<_> = record.writes.iter().filter(|write| within(write.heard)).collect();
        let (acknowledged, failed): (Vec<_>, Vec<_>) =
            writes.iter().copied().partition(|write| write.error.is_none());
        let (kept, lost): (Vec<_>, Vec<_>) =
            acknowledged.iter().copied().partition(|write| kept.contains(&write.key));
        let since_word = |write: &&Write| write.heard.checked_sub(times.word);
        let lost_after: Vec<_> = lost.iter().filter_map(since_word).collect();
        let back: Vec<_> = (0..record.pools)
            .map(|pool| kept.iter().filter(|write| write.pool == pool).filter_map(since_word).min())
            .collect();

        // From the last look before it began.
        let samples: Vec<_> =
            record.samples.iter().filter(|sample| sample.at < times.ended).collect();
        let first = samples.iter().rposition(|sample| sample.at <= times.began).unwrap_or(0);
        let samples = &samples[first..];
        let peak = |of: fn(&Counts) -> u64| samples.iter().map(|s| of(&s.servers)).max();
        let spent = |of: fn(&Sample) -> u64| match (samples.first(), samples.last()) {
            (Some(first), Some(last)) => of(last).saturating_sub(of(first)),
            _ => 0,
        };

        Self {
            times: times.clone(),
            requests: writes.len(),
            failed: failed.len(),
            longest_gap: longest_gap(times, &acknowledged),
            first_write: back.iter().flatten().min().copied(),
            writes_back: back
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .and_then(|of| of.into_iter().max()),
            lost_before: lost.len() - lost_after.len(),
            lost: lost_after.len(),
            last_lost: lost_after.into_iter().max(),
            accepted: spent(|sample| sample.servers.accepted),
            dialed: Dialed {
                refused: spent(|sample| sample.client.refused),
                failed: spent(|sample| sample.client.failed),
            },
            failed_in_a_second: most_failed_in_a_second(samples),
            slots_peak: peak(|counts| counts.slots).unwrap_or(0),
            sentinel_dials: spent(|sample| sample.servers.sentinel_dials),
            sentinel_slots_peak: peak(|counts| counts.sentinel_slots).unwrap_or(0),
            told: most_frequent(failed.iter().filter_map(|write| write.error.as_deref())),
            bars: bars(times, [&kept, &lost, &failed], samples),
        }
    }

    /// Dials that a data server accepted, and those that none did, as far as the client counts them.
    pub(crate) fn dials(&self) -> u64 {
        self.accepted + self.dialed.refused
    }
}

fn longest_gap(times: &Times, acknowledged: &[&Write]) -> Duration {
    let mut gap = Duration::ZERO;
    let mut last = times.began;
    for at in acknowledged.iter().map(|write| write.heard).chain([times.ended]) {
        gap = gap.max(at.saturating_sub(last));
        last = at;
    }
    gap
}

fn most_failed_in_a_second(samples: &[&Sample]) -> u64 {
    let mut begin = 0;
    let mut most = 0;
    for now in samples {
        while now.at - samples[begin].at > Duration::from_secs(1) {
            begin += 1;
        }
        most = most.max(now.client.failed.saturating_sub(samples[begin].client.failed));
    }
    most
}

fn most_frequent<'a>(messages: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut counts = HashMap::<_, usize>::new();
    for message in messages {
        *counts.entry(message).or_default() += 1;
    }
    let (message, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    Some(message.to_owned())
}

fn bars(
    times: &Times,
    [kept, lost, failed]: [&[&Write]; 3],
    samples: &[&Sample],
) -> BTreeMap<i64, Bar> {
    let bucket = |at: Duration| {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        (millis(at) - millis(times.word)).div_euclid(millis(BUCKET))
    };
    let mut bars = BTreeMap::<_, Bar>::new();
    for write in kept {
        bars.entry(bucket(write.heard)).or_default().kept += 1;
    }
    for write in lost {
        bars.entry(bucket(write.heard)).or_default().lost += 1;
    }
    for write in failed {
        bars.entry(bucket(write.heard)).or_default().failed += 1;
    }
    for pair in samples.windows(2) {
        let dials = |sample: &Sample| sample.servers.accepted + sample.client.refused;
        bars.entry(bucket(pair[1].at)).or_default().dials +=
            dials(pair[1]).saturating_sub(dials(pair[0]));
    }
    bars
}
