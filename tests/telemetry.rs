//! What an operator sees of an outage: metrics and log lines.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redis_guard::{Backoff, BreakerState, Budget, Event, GuardedPool, GuardedPoolBuilder};
use support::TestServer;
use tokio::time::sleep;
use waiting::{HANG, next, poll_once, soon, until};

const POOL: &str = "shop";

/// One sample: its kind, name and labels (without the pool's), and its value.
#[derive(Debug)]
struct Sample {
    kind: MetricKind,
    value: DebugValue,
    described: bool,
}

/// Everything recorded, by `name{label=value,…}`.
#[derive(Debug)]
struct Samples(BTreeMap<String, Sample>);

impl Samples {
    /// What was recorded since the last snapshot: taking one sets everything back to zero.
    fn take(snapshotter: &Snapshotter) -> Self {
        let samples = snapshotter.snapshot().into_vec().into_iter().map(|sample| {
            let (key, unit, description, value) = sample;
            let (kind, key) = key.into_parts();
            let labels: BTreeMap<&str, &str> =
                key.labels().map(|label| (label.key(), label.value())).collect();
            assert_eq!(labels.get("pool"), Some(&POOL), "{key}");
            let others = labels.iter().filter(|(name, _)| **name != "pool");
            let others: Vec<String> =
                others.map(|(name, value)| format!("{name}={value}")).collect();
            let name = match others.is_empty() {
                true => key.name().to_owned(),
                false => format!("{}{{{}}}", key.name(), others.join(",")),
            };
            let described = unit.is_some() && description.is_some_and(|text| !text.is_empty());
            (name, Sample { kind, value, described })
        });
        Self(samples.collect())
    }

    fn gauge(&self, name: &str) -> f64 {
        match self.0.get(name).map(|sample| &sample.value) {
            Some(DebugValue::Gauge(value)) => value.into_inner(),
            other => panic!("{name} is {other:?} among {:#?}", self.0.keys()),
        }
    }

    fn counter(&self, name: &str) -> u64 {
        match self.0.get(name).map(|sample| &sample.value) {
            Some(DebugValue::Counter(value)) => *value,
            other => panic!("{name} is {other:?} among {:#?}", self.0.keys()),
        }
    }

    fn histogram(&self, name: &str) -> Vec<f64> {
        match self.0.get(name).map(|sample| &sample.value) {
            Some(DebugValue::Histogram(values)) => {
                values.iter().map(|value| value.into_inner()).collect()
            }
            other => panic!("{name} is {other:?} among {:#?}", self.0.keys()),
        }
    }

    /// Something was published since the snapshot before.
    fn are_of_a_sweep(&self) -> bool {
        let max = "db_client_connection_max";
        self.0.contains_key(max) && self.gauge(max) > 0.0
    }

    /// The distinct names of one kind, without labels.
    fn names(&self, kind: MetricKind) -> BTreeSet<&str> {
        let of_kind = self.0.iter().filter(|(_, sample)| sample.kind == kind);
        of_kind.map(|(name, _)| name.split('{').next().unwrap()).collect()
    }

    fn breaker_states(&self) -> Vec<(BreakerState, f64)> {
        let gauge = |state: &BreakerState| {
            self.gauge(&format!("redis_guard_breaker_state{{state={state}}}"))
        };
        BreakerState::ALL.iter().map(|state| (*state, gauge(state))).collect()
    }
}

fn recorder() -> (DebuggingRecorder, Snapshotter) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    (recorder, snapshotter)
}

fn server() -> TestServer {
    TestServer::builder().maxclients(6).start().unwrap()
}

fn builder(server: &TestServer) -> GuardedPoolBuilder {
    GuardedPool::builder(server.url())
        .name(POOL)
        .max_connections(4)
        .endpoint("checkout", Budget::max(2).reserve(1))
        .backoff(Backoff::without_jitter(Duration::from_millis(25), Duration::from_millis(50)))
        .acquire_timeout(Duration::from_millis(50))
        .leak_after(Duration::from_millis(60))
}

/// A cold outage, recovery, a leak that comes back, a budget that runs out and a caller that waits
/// in vain.
async fn live_through_an_outage(server: &TestServer, pool: &GuardedPool) {
    let mut events = pool.events();
    let occupants = server.fill();
    pool.acquire("checkout").await.unwrap_err();
    occupants.free();
    next("recovery", &mut events, |event| matches!(event, Event::Connected { .. })).await;
    let leases = [pool.acquire("checkout").await.unwrap(), pool.acquire("checkout").await.unwrap()];
    assert_eq!(pool.acquire("checkout").await.unwrap_err().reason(), "budget_exhausted");
    let others = [pool.acquire("search").await.unwrap(), pool.acquire("search").await.unwrap()];
    assert_eq!(pool.acquire("search").await.unwrap_err().reason(), "acquire_timeout");
    until("the leaks", pool, || pool.status().leaks.len() == 4).await;
    drop((leases, others));
}

/// What a sweep has published, as soon as it is so.
async fn published(
    pool: &GuardedPool,
    snapshotter: &Snapshotter,
    is_so: impl Fn(&Samples) -> bool,
) -> Samples {
    let mut last = None;
    let looking = async {
        loop {
            let samples = Samples::take(snapshotter);
            if samples.are_of_a_sweep() && is_so(&samples) {
                break samples;
            }
            last = Some(samples);
            sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = tokio::time::timeout(HANG, looking).await;
    seen.unwrap_or_else(|_| panic!("not published: {last:#?} {:#?}", pool.status()))
}

const GAUGES: [&str; 11] = [
    "db_client_connection_count",
    "db_client_connection_max",
    "db_client_connection_pending_requests",
    "redis_guard_backoff_seconds",
    "redis_guard_breaker_state",
    "redis_guard_connection_limit",
    "redis_guard_dialing",
    "redis_guard_endpoint_in_use",
    "redis_guard_endpoint_max",
    "redis_guard_endpoint_waiting",
    "redis_guard_oldest_lease_seconds",
];
const COUNTERS: [&str; 7] = [
    "db_client_connection_timeouts_total",
    "redis_guard_breaker_transitions_total",
    "redis_guard_connections_closed_total",
    "redis_guard_dials_total",
    "redis_guard_leaks_resolved_total",
    "redis_guard_leaks_suspected_total",
    "redis_guard_rejections_total",
];
const HISTOGRAMS: [&str; 3] = [
    "db_client_connection_create_time_seconds",
    "db_client_connection_use_time_seconds",
    "db_client_connection_wait_time_seconds",
];

#[tokio::test]
async fn an_outage_leaves_every_metric_with_its_labels_and_description() {
    let (recorder, snapshotter) = recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = server();
    let pool = builder(&server).build().unwrap();

    live_through_an_outage(&server, &pool).await;
    soon("close", pool.close()).await;

    let samples = Samples::take(&snapshotter);
    assert_eq!(samples.names(MetricKind::Gauge), GAUGES.into());
    assert_eq!(samples.names(MetricKind::Counter), COUNTERS.into());
    assert_eq!(samples.names(MetricKind::Histogram), HISTOGRAMS.into());
    let undescribed: Vec<_> = samples.0.iter().filter(|(_, sample)| !sample.described).collect();
    assert!(undescribed.is_empty(), "without unit or description: {undescribed:#?}");
}

#[tokio::test]
async fn an_outage_is_counted_as_it_was() {
    let (recorder, snapshotter) = recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = server();
    let pool = builder(&server).build().unwrap();

    live_through_an_outage(&server, &pool).await;
    soon("close", pool.close()).await;

    let status = pool.status();
    let samples = Samples::take(&snapshotter);
    for (name, count) in [
        ("redis_guard_rejections_total{endpoint=checkout,reason=breaker_open}", 1),
        ("redis_guard_rejections_total{endpoint=checkout,reason=budget_exhausted}", 1),
        ("redis_guard_rejections_total{endpoint=search,reason=acquire_timeout}", 1),
        ("redis_guard_leaks_suspected_total{endpoint=checkout}", 2),
        ("redis_guard_leaks_resolved_total{endpoint=checkout}", 2),
        ("redis_guard_leaks_suspected_total{endpoint=search}", 2),
        ("redis_guard_dials_total{outcome=connected}", 4),
        ("redis_guard_dials_total{outcome=max_clients}", status.dials["max_clients"]),
        ("redis_guard_connections_closed_total{reason=pool_closed}", 4),
        ("redis_guard_breaker_transitions_total{from=closed,to=open}", 1),
        ("redis_guard_breaker_transitions_total{from=half_open,to=closed}", 1),
        ("db_client_connection_timeouts_total", 1),
    ] {
        assert_eq!(samples.counter(name), count, "{name}");
    }
    for (name, value) in [
        ("db_client_connection_max", 4.0),
        ("db_client_connection_count{state=idle}", 0.0),
        ("db_client_connection_count{state=used}", 0.0),
        ("redis_guard_connection_limit", 4.0),
        ("redis_guard_endpoint_max{endpoint=checkout}", 2.0),
        ("redis_guard_endpoint_max{endpoint=search}", 4.0),
        ("redis_guard_endpoint_in_use{endpoint=search}", 0.0),
    ] {
        assert!((samples.gauge(name) - value).abs() < f64::EPSILON, "{name}");
    }
}

#[tokio::test]
async fn the_gauges_are_those_of_the_last_sweep() {
    let (recorder, snapshotter) = recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = server();
    let pool = builder(&server).acquire_timeout(HANG).build().unwrap();
    pool.warm_up(4).await.unwrap();
    let _leases = [
        pool.acquire("checkout").await.unwrap(),
        pool.acquire("checkout").await.unwrap(),
        pool.acquire("search").await.unwrap(),
    ];
    let mut waiter = Box::pin(pool.acquire("checkout"));
    assert!(poll_once(&mut waiter).is_pending());

    published(&pool, &snapshotter, |samples| {
        [
            ("db_client_connection_count{state=used}", 3.0),
            ("db_client_connection_count{state=idle}", 1.0),
            ("db_client_connection_pending_requests", 1.0),
            ("redis_guard_endpoint_in_use{endpoint=checkout}", 2.0),
            ("redis_guard_endpoint_in_use{endpoint=search}", 1.0),
            ("redis_guard_endpoint_waiting{endpoint=checkout}", 1.0),
        ]
        .iter()
        .all(|(name, value)| {
            samples.0.contains_key(*name)
                && (samples.gauge(name) - value).abs() < f64::EPSILON
                && samples.gauge("redis_guard_oldest_lease_seconds") > 0.05
        })
    })
    .await;
}

#[tokio::test]
async fn durations_are_those_of_dials_waits_and_leases() {
    let (recorder, snapshotter) = recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = server();
    let pool = builder(&server).max_connections(2).acquire_timeout(HANG).build().unwrap();
    let (hold, step) = (Duration::from_millis(100), Duration::from_millis(10));
    let held = [pool.acquire("checkout").await.unwrap(), pool.acquire("checkout").await.unwrap()];
    let mut waiter = Box::pin(pool.acquire("checkout"));
    assert!(poll_once(&mut waiter).is_pending());
    sleep(hold).await;
    drop(held);
    let waited = soon("the waiter", waiter).await.unwrap();
    sleep(step).await;
    drop(waited);
    soon("close", pool.close()).await;

    let samples = Samples::take(&snapshotter);

    let created = samples.histogram("db_client_connection_create_time_seconds");
    assert_eq!(created.len(), 2);
    assert!(created.iter().all(|seconds| *seconds > 0.0 && *seconds < 1.0), "{created:?}");
    let waits = samples.histogram("db_client_connection_wait_time_seconds");
    assert_eq!(waits.len(), 3);
    assert!(waits[2] >= hold.as_secs_f64(), "{waits:?}");
    let mut uses = samples.histogram("db_client_connection_use_time_seconds");
    uses.sort_by(f64::total_cmp);
    assert_eq!(uses.len(), 3);
    assert!(uses[0] < hold.as_secs_f64(), "the wait is no part of the use: {uses:?}");
    assert!(uses[1] >= hold.as_secs_f64(), "{uses:?}");
}

#[tokio::test]
async fn a_recorder_installed_later_gets_everything_from_the_next_sweep_on() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    live_through_an_outage(&server, &pool).await;

    let (recorder, snapshotter) = recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let status = pool.status();
    let samples = published(&pool, &snapshotter, |_| true).await;
    let mut lease = pool.acquire("search").await.unwrap();
    waiting::echo(&mut lease, "hello").await.unwrap();
    drop(lease);
    let since = Samples::take(&snapshotter);

    assert_eq!(samples.names(MetricKind::Gauge), GAUGES.into());
    assert_eq!(
        samples.counter("redis_guard_dials_total{outcome=max_clients}"),
        status.dials["max_clients"]
    );
    assert_eq!(
        samples.counter("redis_guard_rejections_total{endpoint=checkout,reason=breaker_open}"),
        1
    );
    assert_eq!(samples.counter("redis_guard_leaks_resolved_total{endpoint=search}"), 2);
    assert_eq!(since.histogram("db_client_connection_use_time_seconds").len(), 1);
    assert_eq!(since.histogram("db_client_connection_wait_time_seconds").len(), 1);
}

#[tokio::test]
async fn a_recorder_installed_later_gets_the_transitions_of_before() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    live_through_an_outage(&server, &pool).await;

    let (recorder, snapshotter) = recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let samples = published(&pool, &snapshotter, |_| true).await;

    let tripped = "redis_guard_breaker_transitions_total{from=closed,to=open}";
    assert_eq!(samples.counter(tripped), 1);
}

#[tokio::test]
async fn of_the_breakers_states_exactly_one_is_1_at_any_time() {
    let (recorder, snapshotter) = recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).leak_after(Duration::from_millis(40)).build().unwrap();
    let mut seen = BTreeSet::new();
    let looking = async {
        while seen.len() < 2 {
            let samples = Samples::take(&snapshotter);
            if samples.are_of_a_sweep() {
                let states = samples.breaker_states();
                assert!(states.iter().all(|(_, value)| *value == 0.0 || *value == 1.0));
                let now: Vec<_> = states.iter().filter(|(_, value)| *value == 1.0).collect();
                assert_eq!(now.len(), 1, "{states:?}");
                seen.insert(now[0].0.as_str());
            }
            if seen.contains("open") {
                pool.breaker().force_closed();
            } else {
                let _ = pool.acquire("test").await;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("both states", looking).await;
}

#[tokio::test]
async fn two_pools_have_metrics_of_their_own() {
    let (recorder, snapshotter) = recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = server();
    let pools = ["one", "two"].map(|name| builder(&server).name(name).build().unwrap());
    pools[0].warm_up(1).await.unwrap();
    for pool in &pools {
        soon("close", pool.close()).await;
    }
    let dials: BTreeMap<String, u64> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .filter_map(|(key, _, _, value)| {
            let key = key.key().clone();
            let label = |name| key.labels().find(|l| l.key() == name).map(|l| l.value().to_owned());
            let DebugValue::Counter(count) = value else { return None };
            let connected = label("outcome").is_some_and(|outcome| outcome == "connected");
            connected.then(|| (label("pool").unwrap(), count))
        })
        .collect();
    assert_eq!(dials, [("one".to_owned(), 1), ("two".to_owned(), 0)].into());
}

// Log lines.

/// Where the lines go.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Listens on this thread until the guard is dropped.
    fn listen(&self, level: tracing::Level) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// The lines of the crate that contain this.
    fn lines(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let ours = text.lines().filter(|line| line.contains("redis_guard"));
        ours.filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

/// Each line has all of these.
fn assert_each(lines: &[String], count: usize, parts: &[&str]) {
    assert_eq!(lines.len(), count, "{lines:#?}");
    for (line, part) in lines.iter().flat_map(|line| parts.iter().map(move |part| (line, part))) {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

#[tokio::test]
async fn a_refused_dial_is_a_warning_with_pool_server_words_and_the_next_time() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::WARN);
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();

    pool.acquire("test").await.unwrap_err();

    let port = format!("server=127.0.0.1:{}", server.port());
    let words = "ERR max number of clients reached";
    let parts = ["WARN", "pool=shop", &port, "outcome=max_clients", words, "next_dial_in=20s"];
    assert_each(&log.lines("dial failed"), 1, &parts);
}

#[tokio::test]
async fn every_transition_is_a_warning_with_pool_server_and_both_states() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::WARN);
    let server = server();
    let pool = builder(&server).build().unwrap();
    live_through_an_outage(&server, &pool).await;

    let port = format!("server=127.0.0.1:{}", server.port());
    let changes = log.lines("breaker changed");
    assert_each(&changes, changes.len(), &["WARN", "pool=shop", &port]);
    assert!(changes[0].contains("from=closed to=open"), "{}", changes[0]);
    assert!(changes.last().unwrap().contains("from=half_open to=closed"), "{changes:#?}");
}

#[tokio::test]
async fn a_leak_is_a_warning_with_pool_endpoint_and_place() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::INFO);
    let server = server();
    let pool = builder(&server).build().unwrap();
    let lease = pool.acquire("checkout").await.unwrap();
    until("a leak", &pool, || !pool.status().leaks.is_empty()).await;
    drop(lease);

    let parts = ["pool=shop", "endpoint=checkout", file!(), "age="];
    let suspected = log.lines("suspected leak: a connection");
    assert_each(&suspected, 1, &[&["WARN"], &parts[..]].concat());
    assert_each(&log.lines("came back"), 1, &[&["INFO"], &parts[..]].concat());
}

#[tokio::test]
async fn refused_callers_are_one_warning_a_sweep_with_their_number_and_the_servers_words() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::WARN);
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();
    for _ in 0..1_000 {
        pool.acquire("test").await.unwrap_err();
    }

    until("the line", &pool, || !log.lines("callers were refused").is_empty()).await;

    let port = format!("127.0.0.1:{}", server.port());
    let lines = log.lines("callers were refused");
    assert_each(
        &lines,
        lines.len(),
        &["WARN", "pool=shop", &port, "max number of clients reached"],
    );
    assert!(lines.len() <= 3, "{} lines for a thousand refusals", lines.len());
}

#[tokio::test]
async fn each_refused_caller_is_a_line_for_those_who_debug() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::DEBUG);
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();
    for _ in 0..3 {
        pool.acquire("checkout").await.unwrap_err();
    }
    let words = "max number of clients reached";
    let parts = ["DEBUG", "pool=shop", "endpoint=checkout", "reason=\"breaker_open\"", words];
    assert_each(&log.lines("caller refused"), 3, &parts);
}
