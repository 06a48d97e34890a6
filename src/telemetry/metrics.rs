//! Metric names, and recording them through the `metrics` facade.
//!
//! Counts are kept by the pool itself and published once a second, so that the path of a request
//! pays for none of it, and a recorder that is installed after the pool was built misses nothing.
//! Durations are recorded as they happen, over handles that are looked up anew once a second, for
//! a handle made before a recorder is installed does nothing for ever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{Histogram, SharedString, Unit};

use super::shielded;
use crate::telemetry::status::{BreakerStatus, CloseReason, GuardStatus, Status};
use crate::vocabulary::Reason;
use crate::{BreakerState, Endpoint, Outcome};

/// Name, unit and description of every metric.
pub(crate) const GAUGES: [(&str, Unit, &str); 23] = [
    ("db_client_connection_count", Unit::Count, "live connections by state (idle, used)"),
    ("db_client_connection_max", Unit::Count, "the most connections the pool may open"),
    ("db_client_connection_pending_requests", Unit::Count, "callers waiting for a connection"),
    ("redis_guard_connection_limit", Unit::Count, "sockets that may be open now"),
    ("redis_guard_breaker_state", Unit::Count, "1 for the breaker's state, 0 for the others"),
    ("redis_guard_backoff_seconds", Unit::Seconds, "time to the next dial"),
    ("redis_guard_endpoint_in_use", Unit::Count, "connections the endpoint holds"),
    ("redis_guard_endpoint_max", Unit::Count, "the most connections the endpoint may hold"),
    ("redis_guard_endpoint_waiting", Unit::Count, "the endpoint's callers who wait"),
    ("redis_guard_oldest_lease_seconds", Unit::Seconds, "age of the oldest lease"),
    ("redis_guard_dialing", Unit::Count, "dials in flight"),
    ("redis_guard_shared_lanes", Unit::Count, "shared connections that carry commands"),
    ("redis_guard_shared_in_flight", Unit::Count, "the endpoint's shared commands in flight"),
    ("redis_guard_calls_in_flight", Unit::Count, "the endpoint's calls in flight through a guard"),
    ("redis_guard_call_limit", Unit::Count, "calls that may be in flight through a guard now"),
    (
        "redis_guard_server_observation_age_seconds",
        Unit::Seconds,
        "age of what the watch last saw of the server",
    ),
    (
        "redis_guard_server_saturation_ratio",
        Unit::Count,
        "the server's connections over its ceiling",
    ),
    ("redis_guard_server_used_connections", Unit::Count, "connections that take one of its slots"),
    ("redis_guard_server_maxclients", Unit::Count, "the server's ceiling of connections"),
    ("redis_guard_server_blocked_clients", Unit::Count, "its clients in a blocking command"),
    ("redis_guard_server_connected_replicas", Unit::Count, "its replicas that are online"),
    ("redis_guard_fleet_members", Unit::Count, "members of the fleet"),
    ("redis_guard_fleet_share", Unit::Count, "connections that the fleet's registry allows"),
];
pub(crate) const COUNTERS: [(&str, Unit, &str); 10] = [
    ("db_client_connection_timeouts_total", Unit::Count, "callers whose acquire timed out"),
    ("redis_guard_rejections_total", Unit::Count, "callers refused, by endpoint and reason"),
    ("redis_guard_dials_total", Unit::Count, "dials that ended, by outcome"),
    ("redis_guard_breaker_transitions_total", Unit::Count, "changes of the breaker's state"),
    ("redis_guard_leaks_suspected_total", Unit::Count, "leases held over leak_after"),
    ("redis_guard_leaks_resolved_total", Unit::Count, "suspected leaks that came back"),
    ("redis_guard_connections_closed_total", Unit::Count, "connections closed, by reason"),
    (
        "redis_guard_server_rejected_connections_total",
        Unit::Count,
        "connections that the server was seen to refuse, to whomever",
    ),
    (RETRIES, Unit::Count, "failed calls, by what became of their retry"),
    ("redis_guard_requests_total", Unit::Count, "HTTP requests, by endpoint and outcome"),
];
const RETRIES: &str = "redis_guard_retries_total";
const CREATE_TIME: &str = "db_client_connection_create_time_seconds";
const WAIT_TIME: &str = "db_client_connection_wait_time_seconds";
const USE_TIME: &str = "db_client_connection_use_time_seconds";
const SHARED_USE_TIME: &str = "redis_guard_shared_use_time_seconds";
pub(crate) const HISTOGRAMS: [(&str, Unit, &str); 4] = [
    (CREATE_TIME, Unit::Seconds, "duration of successful dials"),
    (WAIT_TIME, Unit::Seconds, "time from acquire to lease"),
    (USE_TIME, Unit::Seconds, "time from lease to return"),
    (SHARED_USE_TIME, Unit::Seconds, "time of a command on a shared connection"),
];

/// The metrics of one pool.
#[derive(Debug)]
pub(crate) struct Metrics {
    pool: SharedString,
    /// As of the last publication, so that without a recorder no lease reads the clock.
    recording: AtomicBool,
    histograms: ArcSwap<Histograms>,
    /// Leases whose wait was recorded when it ended; the others got theirs at once.
    waited: AtomicU64,
    /// Leases published as had at once.
    at_once: AtomicU64,
}

struct Histograms {
    create: Histogram,
    wait: Histogram,
    usage: Histogram,
    shared: Histogram,
}

impl std::fmt::Debug for Histograms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Histograms")
    }
}

impl Histograms {
    fn look_up(pool: &SharedString) -> Self {
        let pool = || pool.clone();
        Self {
            create: metrics::histogram!(CREATE_TIME, "pool" => pool()),
            wait: metrics::histogram!(WAIT_TIME, "pool" => pool()),
            usage: metrics::histogram!(USE_TIME, "pool" => pool()),
            shared: metrics::histogram!(SHARED_USE_TIME, "pool" => pool()),
        }
    }
}

impl Metrics {
    pub(crate) fn new(pool: &str) -> Self {
        let pool = SharedString::from_owned(pool.to_owned());
        let histograms = ArcSwap::from_pointee(Histograms::look_up(&pool));
        Self {
            pool,
            recording: AtomicBool::new(is_recorder_installed()),
            histograms,
            waited: AtomicU64::new(0),
            at_once: AtomicU64::new(0),
        }
    }

    pub(crate) fn created(&self, took: Duration) {
        shielded(|| self.histograms.load().create.record(took));
    }

    pub(crate) fn waited(&self, waited: Duration) {
        self.waited.fetch_add(1, Ordering::Relaxed);
        shielded(|| self.histograms.load().wait.record(waited));
    }

    /// Whether anybody hears what is recorded, as of the last publication.
    pub(crate) fn is_recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed)
    }

    pub(crate) fn used_shared(&self, used: Duration) {
        shielded(|| self.histograms.load().shared.record(used));
    }

    pub(crate) fn used(&self, used: impl FnOnce() -> Duration) {
        if self.is_recording() {
            let used = used();
            shielded(|| self.histograms.load().usage.record(used));
        }
    }

    /// Publishes a snapshot.
    pub(crate) fn publish(&self, status: &Status, oldest_lease: Duration) {
        shielded(|| self.publish_all(status, oldest_lease));
    }

    fn publish_all(&self, status: &Status, oldest_lease: Duration) {
        self.recording.store(is_recorder_installed(), Ordering::Relaxed);
        self.histograms.store(std::sync::Arc::new(Histograms::look_up(&self.pool)));
        describe();
        self.publish_waits_of_zero(status);
        let gauge = |name: &'static str, value: f64| {
            metrics::gauge!(name, "pool" => self.pool.clone()).set(value);
        };
        let idle = status.live.min(status.idle);
        for (state, count) in [("idle", idle), ("used", status.live - idle)] {
            metrics::gauge!(
                "db_client_connection_count", "pool" => self.pool.clone(), "state" => state
            )
            .set(float(count));
        }
        gauge("db_client_connection_max", float(status.max_connections));
        gauge("db_client_connection_pending_requests", float(status.waiting));
        gauge("redis_guard_connection_limit", float(status.limit));
        gauge("redis_guard_dialing", float(status.dialing));
        gauge(
            "redis_guard_shared_lanes",
            float(status.lanes.iter().filter(|lane| lane.up).count()),
        );
        gauge("redis_guard_oldest_lease_seconds", oldest_lease.as_secs_f64());
        self.publish_breaker(&status.breaker);
        self.publish_server(status);
        self.publish_counts(status);
    }

    /// What is unknown is not published: a gauge at zero would be a lie.
    fn publish_server(&self, status: &Status) {
        let gauge = |name: &'static str, value: Option<f64>| {
            if let Some(value) = value {
                metrics::gauge!(name, "pool" => self.pool.clone()).set(value);
            }
        };
        if let Some(seen) = &status.watch.observation {
            let count = |count: Option<u64>| count.and_then(|n| usize::try_from(n).ok()).map(float);
            // What the others are worth: once the watch is lost, they stay what they were.
            let age = status.watch.age.map(|age| age.as_secs_f64());
            gauge("redis_guard_server_observation_age_seconds", age);
            gauge("redis_guard_server_saturation_ratio", status.watch.saturation);
            gauge("redis_guard_server_used_connections", count(seen.snapshot.used()));
            gauge("redis_guard_server_maxclients", count(seen.ceiling));
            gauge("redis_guard_server_blocked_clients", count(seen.snapshot.blocked_clients));
            gauge("redis_guard_server_connected_replicas", count(seen.replicas_online));
            metrics::counter!(
                "redis_guard_server_rejected_connections_total", "pool" => self.pool.clone()
            )
            .absolute(status.watch.rejections_seen);
        }
        if let Some(fleet) = &status.fleet {
            gauge("redis_guard_fleet_members", Some(float(fleet.members)));
            gauge("redis_guard_fleet_share", Some(float(fleet.share)));
        }
    }

    /// Publishes a snapshot of a guard without a pool.
    pub(crate) fn publish_guard(&self, status: &GuardStatus) {
        shielded(|| self.publish_all_of_guard(status));
    }

    fn publish_all_of_guard(&self, status: &GuardStatus) {
        describe();
        metrics::gauge!("redis_guard_call_limit", "pool" => self.pool.clone())
            .set(float(status.limit));
        self.publish_breaker(&status.breaker);
        for endpoint in &status.endpoints {
            let labels = self.labels(&endpoint.name);
            metrics::gauge!("redis_guard_calls_in_flight", &labels).set(float(endpoint.in_flight));
            metrics::gauge!("redis_guard_endpoint_max", &labels).set(float(endpoint.max));
            metrics::gauge!("redis_guard_endpoint_waiting", &labels).set(float(endpoint.waiting));
            publish_rejections(labels, &endpoint.rejected);
        }
    }

    fn labels(&self, endpoint: &Endpoint) -> [(&'static str, SharedString); 2] {
        [("pool", self.pool.clone()), ("endpoint", endpoint.clone().into_label())]
    }

    fn publish_breaker(&self, breaker: &BreakerStatus) {
        metrics::gauge!("redis_guard_backoff_seconds", "pool" => self.pool.clone())
            .set(breaker.next_dial_in.as_secs_f64());
        for state in BreakerState::ALL.iter().copied() {
            let now = f64::from(u8::from(state == breaker.state));
            metrics::gauge!(
                "redis_guard_breaker_state",
                "pool" => self.pool.clone(), "state" => state.as_str()
            )
            .set(now);
        }
        for ((from, to), count) in &breaker.transitions {
            metrics::counter!(
                "redis_guard_breaker_transitions_total",
                "pool" => self.pool.clone(), "from" => *from, "to" => *to
            )
            .absolute(*count);
        }
    }

    /// Those who did not wait belong into the histogram too, but need not pay for it one by one.
    fn publish_waits_of_zero(&self, status: &Status) {
        let acquired: u64 = status.endpoints.iter().map(|endpoint| endpoint.acquired).sum();
        let at_once = acquired.saturating_sub(self.waited.load(Ordering::Relaxed));
        let before = self.at_once.fetch_max(at_once, Ordering::Relaxed);
        let new = usize::try_from(at_once.saturating_sub(before)).unwrap_or(usize::MAX);
        self.histograms.load().wait.record_many(0.0, new);
    }

    fn publish_counts(&self, status: &Status) {
        for outcome in Outcome::ALL.iter().copied() {
            let count = status.dials.get(outcome.as_str()).copied().unwrap_or(0);
            metrics::counter!(
                "redis_guard_dials_total",
                "pool" => self.pool.clone(), "outcome" => outcome.as_str()
            )
            .absolute(count);
        }
        for reason in CloseReason::ALL.iter().copied() {
            let count = status.connections_closed.get(reason.as_str()).copied().unwrap_or(0);
            metrics::counter!(
                "redis_guard_connections_closed_total",
                "pool" => self.pool.clone(), "reason" => reason.as_str()
            )
            .absolute(count);
        }
        let mut timeouts = 0;
        for endpoint in &status.endpoints {
            let labels = self.labels(&endpoint.name);
            metrics::gauge!("redis_guard_calls_in_flight", &labels)
                .set(float(endpoint.calls_in_flight));
            metrics::gauge!("redis_guard_endpoint_in_use", &labels).set(float(endpoint.in_use));
            metrics::gauge!("redis_guard_endpoint_max", &labels).set(float(endpoint.max));
            metrics::gauge!("redis_guard_shared_in_flight", &labels)
                .set(float(endpoint.shared_in_flight));
            metrics::gauge!("redis_guard_endpoint_waiting", &labels).set(float(endpoint.waiting));
            metrics::counter!("redis_guard_leaks_suspected_total", &labels)
                .absolute(endpoint.leaks_suspected);
            metrics::counter!("redis_guard_leaks_resolved_total", &labels)
                .absolute(endpoint.leaks_resolved);
            timeouts += endpoint.rejected.get(Reason::AcquireTimeout.as_str()).unwrap_or(&0);
            for (outcome, count) in &endpoint.requests {
                let [pool, name] = labels.clone();
                let labels = [pool, name, ("outcome", SharedString::const_str(outcome))];
                metrics::counter!("redis_guard_requests_total", &labels).absolute(*count);
            }
            publish_rejections(labels, &endpoint.rejected);
        }
        metrics::counter!("db_client_connection_timeouts_total", "pool" => self.pool.clone())
            .absolute(timeouts);
    }
}

fn publish_rejections(
    [pool, endpoint]: [(&'static str, SharedString); 2],
    rejected: &BTreeMap<&'static str, u64>,
) {
    for (reason, count) in rejected {
        let reason = ("reason", SharedString::const_str(reason));
        let labels = [pool.clone(), endpoint.clone(), reason];
        metrics::counter!("redis_guard_rejections_total", &labels).absolute(*count);
    }
}

/// Counts what became of a retry: rare enough to be looked up each time.
pub(crate) fn retried(pool: &SharedString, outcome: &'static str) {
    metrics::counter!(RETRIES, "pool" => pool.clone(), "outcome" => outcome).increment(1);
}

/// Whether anybody hears what is recorded. The facade does not say, but its stand-in for a missing
/// recorder is the one without any state.
fn is_recorder_installed() -> bool {
    metrics::with_recorder(|recorder| size_of_val(recorder) > 0)
}

/// Describes every metric; done anew at each publication, because a description given before a
/// recorder is installed is lost.
fn describe() {
    for (name, unit, text) in GAUGES {
        metrics::describe_gauge!(name, unit, text);
    }
    for (name, unit, text) in COUNTERS {
        metrics::describe_counter!(name, unit, text);
    }
    for (name, unit, text) in HISTOGRAMS {
        metrics::describe_histogram!(name, unit, text);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of connections is far below 2^52")]
fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_metric_and_no_other() {
        let readme = include_str!("../../README.md");
        let mut listed: Vec<_> = readme
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with("db_client") || name.starts_with("redis_guard_"))
            .collect();
        let mut emitted: Vec<_> =
            GAUGES.iter().chain(&COUNTERS).chain(&HISTOGRAMS).map(|(name, ..)| *name).collect();
        listed.sort_unstable();
        emitted.sort_unstable();
        assert_eq!(listed, emitted);
    }
}
