//! A recorder or a subscriber of the application's that panics: the pool's counts stay right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use redis_guard::GuardedPool;
use tracing::subscriber::DefaultGuard;

use crate::support::log::at_message;
use crate::support::{SentinelSet, TestServer};
use crate::waiting::{HANG, at_rest, cmd, soon};

/// Goes off once.
#[derive(Clone, Default)]
struct Bomb(Arc<AtomicBool>);

impl Bomb {
    fn go_off(&self) {
        assert!(self.has_gone_off_before(), "a panic of the application's telemetry");
    }

    fn has_gone_off_before(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    fn has_gone_off(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Panics when a histogram of this name is recorded.
struct Metrics(&'static str, Bomb);

const DIALS: &str = "db_client_connection_create_time_seconds";
const WAITS: &str = "db_client_connection_wait_time_seconds";
const LEASES: &str = "db_client_connection_use_time_seconds";

impl HistogramFn for Bomb {
    fn record(&self, _: f64) {
        self.go_off();
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() == self.0 {
            true => Histogram::from_arc(Arc::new(self.1.clone())),
            false => Histogram::noop(),
        }
    }
}

/// Goes off when this is logged.
fn go_off_at(message: &'static str, bomb: &Bomb) -> DefaultGuard {
    let bomb = bomb.clone();
    at_message(message, move || bomb.go_off())
}

/// Of one connection, so that one that is counted and not there is all there may be.
fn pool(server: &TestServer) -> GuardedPool {
    let pool = GuardedPool::builder(server.url()).max_connections(1).watch(false);
    pool.acquire_timeout(HANG / 2).build().unwrap()
}

/// Somebody is served, and the pool counts what the server does.
async fn works(pool: &GuardedPool, server: &TestServer, bomb: &Bomb) {
    let lease = soon("a lease", pool.acquire("test")).await;
    assert!(bomb.has_gone_off());
    let mut lease = lease.unwrap_or_else(|error| panic!("{error}: {:#?}", pool.status()));
    let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
    drop(lease);
    at_rest(pool, server).await;
    assert_eq!(pool.status().live, 1);
}

#[tokio::test]
async fn a_recorder_that_panics_at_the_time_of_a_dial_costs_no_connection() {
    let bomb = Bomb::default();
    let recorder = Metrics(DIALS, bomb.clone());
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = TestServer::start().unwrap();
    let pool = pool(&server);

    works(&pool, &server, &bomb).await;
}

#[tokio::test]
async fn a_recorder_that_panics_when_a_caller_has_waited_costs_no_connection() {
    let bomb = Bomb::default();
    let recorder = Metrics(WAITS, bomb.clone());
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = TestServer::start().unwrap();
    let pool = pool(&server);

    works(&pool, &server, &bomb).await;
}

#[tokio::test]
async fn a_recorder_that_panics_at_the_end_of_a_lease_costs_no_connection() {
    let bomb = Bomb::default();
    let recorder = Metrics(LEASES, bomb.clone());
    let _recording = metrics::set_default_local_recorder(&recorder);
    let server = TestServer::start().unwrap();
    let pool = pool(&server);
    drop(soon("a lease", pool.acquire("test")).await.unwrap());

    works(&pool, &server, &bomb).await;
}

#[tokio::test]
async fn a_subscriber_that_panics_at_one_dial_fails_none_of_the_others() {
    let bomb = Bomb::default();
    let _listening = go_off_at("connected", &bomb);
    let server = TestServer::start().unwrap();
    let pool = GuardedPool::builder(server.url()).max_connections(16).build().unwrap();

    assert_eq!(soon("all of them", pool.warm_up(16)).await.unwrap(), 16);

    assert!(bomb.has_gone_off());
    assert_eq!(pool.status().dials, [("connected", 16)].into());
}

#[tokio::test]
async fn a_subscriber_that_panics_at_a_new_connection_costs_no_connection() {
    let bomb = Bomb::default();
    let _listening = go_off_at("connected", &bomb);
    let server = TestServer::start().unwrap();
    let pool = pool(&server);

    works(&pool, &server, &bomb).await;
}

#[tokio::test]
async fn a_subscriber_that_panics_at_the_end_of_a_connection_costs_no_connection() {
    let bomb = Bomb::default();
    let _listening = go_off_at("connection closed", &bomb);
    let server = TestServer::start().unwrap();
    let pool = pool(&server);
    drop(soon("a lease", pool.acquire("test")).await.unwrap());
    server.admin().text(&["CLIENT", "KILL", "TYPE", "normal"]);
    crate::until("the loss", &pool, || bomb.has_gone_off()).await;

    works(&pool, &server, &bomb).await;
}

#[tokio::test]
async fn a_subscriber_that_panics_at_a_failed_dial_costs_no_connection() {
    let bomb = Bomb::default();
    let _listening = go_off_at("dial failed", &bomb);
    let server = TestServer::start().unwrap();
    let pool = pool(&server);
    server.stop();
    let _refused = soon("a refusal", pool.acquire("test")).await;
    server.restart().unwrap();
    drop(crate::support::ask_until_served(&pool).await);

    works(&pool, &server, &bomb).await;
}

#[tokio::test]
async fn a_subscriber_that_panics_at_lost_sentinels_does_not_keep_the_pool_from_finding_them() {
    for message in ["a sentinel does not answer", "no sentinel says where the server is"] {
        let bomb = Bomb::default();
        let _listening = go_off_at(message, &bomb);
        let set = SentinelSet::builder().replicas(0).sentinels(1).start().unwrap();
        set.sentinel(0).crash();
        let pool = GuardedPool::sentinel(set.sentinels(), set.name()).build().unwrap();
        let _unknown = soon("a refusal", pool.acquire("test")).await;
        crate::until(message, &pool, || bomb.has_gone_off()).await;

        set.restart_sentinel(0).unwrap();

        drop(crate::support::ask_until_served(&pool).await);
    }
}
