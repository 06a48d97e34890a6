//! A recorder that keeps what a scrape would see.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString,
    Unit,
};
use tracing::Level;
use tracing::subscriber::DefaultGuard;

use crate::support::log::Log;

/// Keeps every series, as a scrape would see it. By `name{label=value,…}` without the pool's label.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Series>>);

#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) gauges: BTreeMap<String, f64>,
    pub(crate) counters: BTreeMap<String, u64>,
    /// Counters that were published with less than before: to Prometheus a restart of the process.
    pub(crate) fell: Vec<String>,
}

/// One series.
struct One(String, Kept);

impl Kept {
    pub(crate) fn series(&self) -> MutexGuard<'_, Series> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one(&self, key: &Key) -> Arc<One> {
        let labels = key.labels().filter(|label| label.key() != "pool");
        let labels: Vec<String> =
            labels.map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(One(format!("{}{{{}}}", key.name(), labels.join(",")), self.clone()))
    }

    pub(crate) fn gauge(&self, series: &str) -> Option<f64> {
        self.series().gauges.get(series).copied()
    }

    pub(crate) fn counter(&self, series: &str) -> Option<u64> {
        self.series().counters.get(series).copied()
    }

    /// The sum over all servers, by the last label.
    pub(crate) fn sums(&self, name: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (series, count) in &self.series().counters {
            if series.starts_with(name) && *count > 0 {
                let label = series.trim_end_matches('}').rsplit_once('=').unwrap().1;
                *sums.entry(label.to_owned()).or_default() += count;
            }
        }
        sums
    }
}

impl GaugeFn for One {
    fn increment(&self, _: f64) {
        unreachable!("gauges are set");
    }

    fn decrement(&self, _: f64) {
        unreachable!("gauges are set");
    }

    fn set(&self, value: f64) {
        self.1.series().gauges.insert(self.0.clone(), value);
    }
}

impl CounterFn for One {
    fn increment(&self, _: u64) {
        unreachable!("the pool's counters are absolute");
    }

    fn absolute(&self, value: u64) {
        let mut series = self.1.series();
        let before = series.counters.insert(self.0.clone(), value);
        if let Some(before) = before.filter(|before| value < *before) {
            series.fell.push(format!("{}: {before} → {value}", self.0));
        }
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.one(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.one(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// For the tests that look at metrics: who logs a line first, on a thread where nobody listens, can switch
/// that line off for the tests on other threads.
pub(crate) fn heard() -> DefaultGuard {
    Log::default().listen(Level::INFO)
}
