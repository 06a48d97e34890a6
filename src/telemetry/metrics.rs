//! Recording through the `metrics` facade.
//!
//! Counts are kept by the pool itself and published once a second, so that the path of a request
//! pays for none of it, and a recorder that is installed after the pool was built misses nothing.
//! Durations are recorded as they happen, over handles that are looked up anew once a second, for
//! a handle made before a recorder is installed does nothing for ever.
//!
//! **Labels.** `pool` is on all of them, `server` on whatever a pool has, counts or knows at a server, the
//! endpoints' metrics among them: budgets, limit, breaker and watch are those of one server, and where a
//! pool has several, one that is full, or at which an endpoint has used up its budget, would vanish in
//! a sum over all of them. What callers see, whatever the server, a rule adds up: `sum by (pool, ...)` is
//! right for one server and for many. `server` is not on what belongs to no server: HTTP requests,
//! retries, calls through a guard, their limit included, which are admitted before one is chosen, what
//! sentinels do, and what the nodes of a cluster tell of it as a whole. A
//! [`Guard`](crate::Guard) without a pool shares names, and so labels, with a pool; its `server` is
//! the address that it was given, or else its name, as in its refusals.

mod names;
mod series;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{Histogram, Label, SharedString};

use self::names::{CREATE_TIME, RETRIES, SHARED_USE_TIME, USE_TIME, WAIT_TIME, describe};
pub(crate) use self::series::Counters;
use self::series::Series;
use super::shielded;
use crate::dial::Notice;
use crate::telemetry::status::{
    BreakerStatus, CloseReason, ClusterStatus, EndpointStatus, GuardStatus, Status,
};
use crate::vocabulary::Reason;
use crate::{BreakerState, Endpoint, Outcome};

/// The metrics of one pool at its server.
#[derive(Debug)]
pub(crate) struct Metrics {
    pool: SharedString,
    /// As of the last publication, so that without a recorder no lease reads the clock.
    recording: AtomicBool,
    histograms: ArcSwap<Histograms>,
    /// Locked by whoever publishes, once a second.
    series: Mutex<Series>,
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
    fn look_up(pool: &SharedString, server: &Arc<str>) -> Self {
        let labels =
            [("pool", pool.clone()), ("server", SharedString::from_shared(Arc::clone(server)))];
        Self {
            create: metrics::histogram!(CREATE_TIME, &labels),
            wait: metrics::histogram!(WAIT_TIME, &labels),
            usage: metrics::histogram!(USE_TIME, &labels),
            shared: metrics::histogram!(SHARED_USE_TIME, &labels),
        }
    }
}

impl Metrics {
    /// `counters`: those of the pool's other servers as well.
    pub(crate) fn new(pool: &str, server: &Arc<str>, counters: Arc<Counters>) -> Self {
        let pool = SharedString::from_shared(pool.into());
        Self {
            recording: AtomicBool::new(is_recorder_installed()),
            histograms: ArcSwap::from_pointee(Histograms::look_up(&pool, server)),
            series: Mutex::new(Series::new(pool.clone(), Arc::clone(server), counters)),
            waited: AtomicU64::new(0),
            at_once: AtomicU64::new(0),
            pool,
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

    fn series(&self) -> MutexGuard<'_, Series> {
        // A recorder that panicked leaves counts that are right, and gauges that are set again.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a snapshot.
    pub(crate) fn publish(&self, status: &Status, oldest_lease: Duration) {
        shielded(|| self.publish_all(status, oldest_lease));
    }

    fn publish_all(&self, status: &Status, oldest_lease: Duration) {
        self.recording.store(is_recorder_installed(), Ordering::Relaxed);
        self.histograms.store(Arc::new(Histograms::look_up(&self.pool, &status.server)));
        describe();
        self.publish_waits_of_zero(status);
        self.publish_requests(status);
        let mut series = self.series();
        series.start(&status.server);
        let idle = status.live.min(status.idle);
        for (state, count) in [("idle", idle), ("used", status.live - idle)] {
            let labels = [label("state", state)];
            series.gauge("db_client_connection_count", &labels, float(count));
        }
        let lanes = status.lanes.iter().filter(|lane| lane.up).count();
        for (name, count) in [
            ("db_client_connection_max", status.max_connections),
            ("db_client_connection_pending_requests", status.waiting),
            ("redis_guard_connection_limit", status.limit),
            ("redis_guard_dialing", status.dialing),
            ("redis_guard_shared_lanes", lanes),
        ] {
            series.gauge(name, &[], float(count));
        }
        series.gauge("redis_guard_oldest_lease_seconds", &[], oldest_lease.as_secs_f64());
        publish_breaker(&mut series, &status.breaker);
        publish_server(&mut series, status);
        publish_counts(&mut series, status);
        for endpoint in &status.endpoints {
            publish_endpoint(&mut series, endpoint);
        }
    }

    /// The pool has no business at the server any more. What is published of it from now on are its counts.
    pub(crate) fn leave(&self) {
        shielded(|| self.series().leave());
    }

    /// Publishes a snapshot of a guard without a pool.
    pub(crate) fn publish_guard(&self, status: &GuardStatus, server: &Arc<str>) {
        shielded(|| self.publish_all_of_guard(status, server));
    }

    fn publish_all_of_guard(&self, status: &GuardStatus, server: &Arc<str>) {
        describe();
        metrics::gauge!("redis_guard_call_limit", "pool" => self.pool.clone())
            .set(float(status.limit));
        let mut series = self.series();
        series.start(server);
        publish_breaker(&mut series, &status.breaker);
        for endpoint in &status.endpoints {
            self.publish_calls(&endpoint.name, endpoint.in_flight);
            let labels = [of_endpoint(&endpoint.name)];
            series.gauge("redis_guard_endpoint_max", &labels, float(endpoint.max));
            series.gauge("redis_guard_endpoint_waiting", &labels, float(endpoint.waiting));
            publish_rejections(&mut series, &endpoint.name, &endpoint.rejected);
        }
    }

    /// What belongs to no server.
    fn publish_requests(&self, status: &Status) {
        if let Some(sentinel) = &status.sentinel {
            let pool = || Label::new("pool", self.pool.clone());
            // Neither before one is connected for the first time, nor while the next one is tried.
            let connected = sentinel.sentinels.iter().any(|sentinel| sentinel.connected);
            let says = match (&sentinel.trouble, connected) {
                // A pool that is closed asks none, and no rule is to take them for lost.
                _ if status.closed => Some(f64::NAN),
                (Some(_), _) => Some(0.0),
                (None, true) => Some(1.0),
                (None, false) => None,
            };
            if let Some(says) = says {
                metrics::gauge!("redis_guard_sentinel_connected", vec![pool()]).set(says);
            }
            metrics::counter!("redis_guard_master_changes_total", vec![pool()])
                .absolute(sentinel.moves);
        }
        for endpoint in &status.endpoints {
            self.publish_calls(&endpoint.name, endpoint.calls_in_flight);
            for (outcome, count) in &endpoint.requests {
                let pool = Label::new("pool", self.pool.clone());
                let labels = vec![pool, of_endpoint(&endpoint.name), label("outcome", outcome)];
                metrics::counter!("redis_guard_requests_total", labels).absolute(*count);
            }
        }
    }

    fn publish_calls(&self, endpoint: &Endpoint, in_flight: usize) {
        let labels = vec![Label::new("pool", self.pool.clone()), of_endpoint(endpoint)];
        metrics::gauge!("redis_guard_calls_in_flight", labels).set(float(in_flight));
    }

    /// Those who did not wait belong into the histogram too, but need not pay for it one by one.
    fn publish_waits_of_zero(&self, status: &Status) {
        let acquired: u64 = status.endpoints.iter().map(|endpoint| endpoint.acquired).sum();
        let at_once = acquired.saturating_sub(self.waited.load(Ordering::Relaxed));
        let before = self.at_once.fetch_max(at_once, Ordering::Relaxed);
        let new = usize::try_from(at_once.saturating_sub(before)).unwrap_or(usize::MAX);
        self.histograms.load().wait.record_many(0.0, new);
    }
}

/// Publishes what a cluster tells as a whole. A pool that is closed asks nobody any more, so what was known is
/// not: what is not a number passes no comparison, and no rule takes it for a cluster that is lost.
pub(crate) fn publish_cluster(pool: &str, status: &ClusterStatus, closed: bool) {
    let ClusterStatus { unserved_slots, age, changes, trouble, .. } = status;
    let known = match (trouble, age) {
        (Some(_), _) => Some(0.0),
        (None, Some(_)) => Some(1.0),
        // Nobody has answered yet.
        (None, None) => None,
    };
    let unserved = age.map(|_| float(*unserved_slots));
    shielded(|| {
        describe();
        let pool = vec![Label::new("pool", pool.to_owned())];
        for (name, value) in
            [("redis_guard_cluster_known", known), ("redis_guard_cluster_unserved_slots", unserved)]
        {
            if let Some(value) = value {
                metrics::gauge!(name, pool.clone()).set(if closed { f64::NAN } else { value });
            }
        }
        metrics::counter!("redis_guard_cluster_changes_total", pool).absolute(*changes);
    });
}

/// What is unknown is not published: a gauge at zero would be a lie.
fn publish_server(series: &mut Series, status: &Status) {
    let mut gauge = |name: &'static str, value: Option<f64>| {
        if let Some(value) = value {
            series.gauge(name, &[], value);
        }
    };
    if let Some(fleet) = &status.fleet {
        gauge("redis_guard_fleet_members", Some(float(fleet.members)));
        gauge("redis_guard_fleet_share", Some(float(fleet.share)));
    }
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
        let name = "redis_guard_server_rejected_connections_total";
        series.servers_counter(name, status.watch.rejections_seen);
    }
}

fn publish_breaker(series: &mut Series, breaker: &BreakerStatus) {
    series.gauge("redis_guard_backoff_seconds", &[], breaker.next_dial_in.as_secs_f64());
    for state in BreakerState::ALL.iter().copied() {
        let now = f64::from(u8::from(state == breaker.state));
        series.gauge("redis_guard_breaker_state", &[label("state", state.as_str())], now);
    }
    for ((from, to), count) in &breaker.transitions {
        let labels = [label("from", from), label("to", to)];
        series.counter("redis_guard_breaker_transitions_total", &labels, *count);
    }
}

fn publish_counts(series: &mut Series, status: &Status) {
    for outcome in Outcome::ALL.iter().map(|outcome| outcome.as_str()) {
        let count = status.dials.get(outcome).copied().unwrap_or(0);
        series.counter("redis_guard_dials_total", &[label("outcome", outcome)], count);
    }
    for reason in CloseReason::ALL.iter().map(|reason| reason.as_str()) {
        let count = status.connections_closed.get(reason).copied().unwrap_or(0);
        series.counter("redis_guard_connections_closed_total", &[label("reason", reason)], count);
    }
    for error in Notice::ALL.map(Notice::as_str) {
        let count = status.server_errors.get(error).copied().unwrap_or(0);
        series.counter("redis_guard_server_errors_total", &[label("error", error)], count);
    }
    let timeouts = Reason::AcquireTimeout.as_str();
    let timeouts = status.endpoints.iter().filter_map(|endpoint| endpoint.rejected.get(timeouts));
    series.counter("db_client_connection_timeouts_total", &[], timeouts.sum());
}

fn publish_endpoint(series: &mut Series, endpoint: &EndpointStatus) {
    let labels = [of_endpoint(&endpoint.name)];
    for (name, count) in [
        ("redis_guard_endpoint_in_use", endpoint.in_use),
        ("redis_guard_endpoint_leases", endpoint.leases),
        ("redis_guard_endpoint_max", endpoint.max),
        ("redis_guard_endpoint_waiting", endpoint.waiting),
        ("redis_guard_shared_in_flight", endpoint.shared_in_flight),
    ] {
        series.gauge(name, &labels, float(count));
    }
    series.counter("redis_guard_leaks_suspected_total", &labels, endpoint.leaks_suspected);
    series.counter("redis_guard_leaks_resolved_total", &labels, endpoint.leaks_resolved);
    publish_rejections(series, &endpoint.name, &endpoint.rejected);
}

fn publish_rejections(
    series: &mut Series,
    endpoint: &Endpoint,
    rejected: &BTreeMap<&'static str, u64>,
) {
    for (reason, count) in rejected {
        let labels = [of_endpoint(endpoint), label("reason", reason)];
        series.counter("redis_guard_rejections_total", &labels, *count);
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

fn label(name: &'static str, value: &'static str) -> Label {
    Label::from_static_parts(name, value)
}

fn of_endpoint(name: &Endpoint) -> Label {
    Label::new("endpoint", name.clone().into_label())
}

#[expect(clippy::cast_precision_loss, reason = "a count of connections is far below 2^52")]
fn float(count: usize) -> f64 {
    count as f64
}
