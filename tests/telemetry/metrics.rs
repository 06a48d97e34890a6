//! Metrics, as a recorder gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redis_guard::{BreakerState, GuardedPool};
use tokio::time::{Instant, sleep};

use crate::support::TestServer;
use crate::waiting::{self, HANG, cmd, poll_once, soon};
use crate::{POOL, builder, live_through_an_outage, server};

/// One sample: its kind, its value, and the names of its labels.
#[derive(Debug)]
struct Sample {
    kind: MetricKind,
    value: DebugValue,
    described: bool,
    labels: BTreeSet<String>,
}

/// Everything recorded, by `name{label=value,…}` without the pool's and the server's labels.
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
            let others = labels.iter().filter(|(name, _)| !["pool", "server"].contains(*name));
            let others: Vec<String> =
                others.map(|(name, value)| format!("{name}={value}")).collect();
            let name = match others.is_empty() {
                true => key.name().to_owned(),
                false => format!("{}{{{}}}", key.name(), others.join(",")),
            };
            let described = unit.is_some() && description.is_some_and(|text| !text.is_empty());
            let labels = labels.into_keys().map(str::to_owned).collect();
            (name, Sample { kind, value, described, labels })
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

/// What a guard without a pool, the retries, the routes, the fleet, the sentinels and a cluster add.
const NOT_OF_A_POOL: [&str; 10] = [
    "redis_guard_call_limit",
    "redis_guard_retries_total",
    "redis_guard_requests_total",
    "redis_guard_fleet_members",
    "redis_guard_fleet_share",
    "redis_guard_sentinel_connected",
    "redis_guard_master_changes_total",
    "redis_guard_cluster_known",
    "redis_guard_cluster_unserved_slots",
    "redis_guard_cluster_changes_total",
];

/// A metric of the guide's table: its name, kind, and labels beside the pool's.
type Row = (&'static str, &'static str, BTreeSet<String>);

fn rows() -> impl Iterator<Item = Row> {
    include_str!("../../src/guide/operating.md").lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`');
        let (kind, labels) = (cells.next()?, cells.next()?);
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        ["gauge", "counter", "histogram"].contains(&kind).then_some((name, kind, labels))
    })
}

/// Those that a pool emits, of a kind.
fn documented(kind: &str) -> BTreeSet<&'static str> {
    let rows = rows().filter(|(name, is, _)| *is == kind && !NOT_OF_A_POOL.contains(name));
    rows.map(|(name, ..)| name).collect()
}

#[tokio::test]
async fn an_outage_leaves_every_metric_of_the_readme_with_unit_and_description() {
    let (recorder, snapshotter) = recorder();
    let _local = ::metrics::set_default_local_recorder(&recorder);
    let server = server();
    let pool = builder(&server).build().unwrap();

    live_through_an_outage(&server, &pool).await;
    // The watch may have had no connection to ask over until now.
    let watched = |samples: &Samples| {
        samples.names(MetricKind::Gauge).contains("redis_guard_server_used_connections")
    };
    published(&pool, &snapshotter, watched).await;
    soon("close", pool.close()).await;

    let samples = Samples::take(&snapshotter);
    assert_eq!(samples.names(MetricKind::Gauge), documented("gauge"));
    assert_eq!(samples.names(MetricKind::Counter), documented("counter"));
    assert_eq!(samples.names(MetricKind::Histogram), documented("histogram"));
    let undescribed: Vec<_> = samples.0.iter().filter(|(_, sample)| !sample.described).collect();
    assert!(undescribed.is_empty(), "without unit or description: {undescribed:#?}");
}

#[tokio::test]
async fn each_series_has_the_labels_of_the_readme_and_no_other() {
    let (recorder, snapshotter) = recorder();
    let _local = ::metrics::set_default_local_recorder(&recorder);
    let server = server();
    let pool = builder(&server).build().unwrap();

    live_through_an_outage(&server, &pool).await;
    soon("close", pool.close()).await;

    let documented: BTreeMap<_, _> = rows().map(|(name, _, labels)| (name, labels)).collect();
    for (name, sample) in Samples::take(&snapshotter).0 {
        let mut labels = documented[name.split('{').next().unwrap()].clone();
        labels.insert("pool".to_owned());
        assert_eq!(sample.labels, labels, "{name}");
    }
}

#[tokio::test]
async fn the_server_is_its_address_without_credentials() {
    let (recorder, snapshotter) = recorder();
    let _local = ::metrics::set_default_local_recorder(&recorder);
    let server = TestServer::builder().acl_user("alice", "hunter2").start().unwrap();
    let url = format!("redis://alice:hunter2@127.0.0.1:{}", server.port());
    let pool = GuardedPool::builder(url).name(POOL).build().unwrap();
    pool.warm_up(1).await.unwrap();
    soon("close", pool.close()).await;

    let named: BTreeSet<String> = snapshotter
        .snapshot()
        .into_vec()
        .iter()
        .flat_map(|(key, ..)| key.key().labels())
        .filter(|label| label.key() == "server")
        .map(|label| label.value().to_owned())
        .collect();
    assert_eq!(named, [format!("127.0.0.1:{}", server.port())].into());
}

#[tokio::test]
async fn replies_that_say_something_about_the_server_are_counted() {
    let (recorder, snapshotter) = recorder();
    let _local = ::metrics::set_default_local_recorder(&recorder);
    let server = server();
    let pool = builder(&server).build().unwrap();
    let mut lease = pool.acquire("checkout").await.unwrap();
    let set = || cmd("SET").arg("cart").arg(1).to_owned();
    set().query_async::<()>(&mut lease).await.unwrap();

    // A master that was demoted goes on serving those who are connected.
    server.admin().text(&["REPLICAOF", "127.0.0.1", "1"]);
    for _ in 0..3 {
        set().query_async::<()>(&mut lease).await.unwrap_err();
    }
    set().query_async::<()>(&mut pool.shared("checkout")).await.unwrap_err();

    let count = |samples: &Samples, error: &str| {
        samples.counter(&format!("redis_guard_server_errors_total{{error={error}}}"))
    };
    let samples = published(&pool, &snapshotter, |samples| count(samples, "readonly") >= 4).await;
    assert_eq!(count(&samples, "readonly"), 4);
    assert_eq!(count(&samples, "moved"), 0);
    assert_eq!(pool.status().server_errors, [("readonly", 4)].into());
}

#[tokio::test]
async fn an_outage_is_counted_as_it_was() {
    let (recorder, snapshotter) = recorder();
    let _local = ::metrics::set_default_local_recorder(&recorder);
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
    let _local = ::metrics::set_default_local_recorder(&recorder);
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
    let _local = ::metrics::set_default_local_recorder(&recorder);
    let server = server();
    let pool = builder(&server).max_connections(2).acquire_timeout(HANG).build().unwrap();
    let (hold, step) = (Duration::from_millis(100), Duration::from_millis(10));
    let begun = Instant::now();
    let held = [pool.acquire("checkout").await.unwrap(), pool.acquire("checkout").await.unwrap()];
    let dialed = begun.elapsed().as_secs_f64();
    let mut waiter = Box::pin(pool.acquire("checkout"));
    assert!(poll_once(&mut waiter).is_pending());
    sleep(hold).await;
    let given_back = Instant::now();
    drop(held);
    let waited = soon("the waiter", waiter).await.unwrap();
    sleep(step).await;
    drop(waited);
    let used = given_back.elapsed();
    soon("close", pool.close()).await;

    let samples = Samples::take(&snapshotter);

    let created = samples.histogram("db_client_connection_create_time_seconds");
    assert_eq!(created.len(), 2);
    assert!(created.iter().all(|seconds| *seconds > 0.0 && *seconds <= dialed), "{created:?}");
    let mut waits = samples.histogram("db_client_connection_wait_time_seconds");
    waits.sort_by(f64::total_cmp);
    assert_eq!(waits.len(), 3);
    assert!(waits[2] >= hold.as_secs_f64(), "{waits:?}");
    assert!(waits[1] <= dialed, "two waited for a dial: {waits:?}");
    let mut uses = samples.histogram("db_client_connection_use_time_seconds");
    uses.sort_by(f64::total_cmp);
    assert_eq!(uses.len(), 3);
    assert!(uses[0] <= used.as_secs_f64(), "the wait is no part of the use: {uses:?}");
    assert!(uses[1] >= hold.as_secs_f64(), "{uses:?}");
}

#[tokio::test]
async fn a_recorder_installed_later_gets_everything_from_the_next_sweep_on() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    live_through_an_outage(&server, &pool).await;

    let (recorder, snapshotter) = recorder();
    let _local = ::metrics::set_default_local_recorder(&recorder);
    let status = pool.status();
    let samples = published(&pool, &snapshotter, |_| true).await;
    let mut lease = pool.acquire("search").await.unwrap();
    waiting::echo(&mut lease, "hello").await.unwrap();
    drop(lease);
    let (mut uses, mut waits) = (Vec::new(), Vec::new());
    let looking = async {
        while waits.is_empty() {
            // Whichever snapshot they fall into: taking one forgets them.
            let samples = Samples::take(&snapshotter);
            uses.extend(samples.histogram("db_client_connection_use_time_seconds"));
            waits.extend(samples.histogram("db_client_connection_wait_time_seconds"));
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(HANG, looking).await.expect("the wait is published");

    assert_eq!((uses.len(), waits.len()), (1, 1));
    assert_eq!(samples.names(MetricKind::Gauge), documented("gauge"));
    assert_eq!(
        samples.counter("redis_guard_dials_total{outcome=max_clients}"),
        status.dials["max_clients"]
    );
    assert_eq!(
        samples.counter("redis_guard_rejections_total{endpoint=checkout,reason=breaker_open}"),
        1
    );
    assert_eq!(samples.counter("redis_guard_leaks_resolved_total{endpoint=search}"), 2);
}

#[tokio::test]
async fn a_recorder_installed_later_gets_the_transitions_of_before() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    live_through_an_outage(&server, &pool).await;

    let (recorder, snapshotter) = recorder();
    let _local = ::metrics::set_default_local_recorder(&recorder);
    let samples = published(&pool, &snapshotter, |_| true).await;

    let tripped = "redis_guard_breaker_transitions_total{from=closed,to=open}";
    assert_eq!(samples.counter(tripped), 1);
}

#[tokio::test]
async fn of_the_breakers_states_exactly_one_is_1_at_any_time() {
    let (recorder, snapshotter) = recorder();
    let _local = ::metrics::set_default_local_recorder(&recorder);
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
    let _local = ::metrics::set_default_local_recorder(&recorder);
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
