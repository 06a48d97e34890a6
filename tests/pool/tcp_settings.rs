//! The TCP settings of a `ConnectionInfo` hold for whatever is dialed.

use std::time::Duration;

use redis_guard::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis_guard::redis::{AsyncCommands, ConnectionInfo, IntoConnectionInfo};
use redis_guard::{GuardedPool, GuardedPoolBuilder};

use crate::support::log::Log;
use crate::support::sockets::keepalives_to;
use crate::support::{TestServer, unhurried};
use crate::waiting::until;

/// Long beside what the pool would set by itself, and beside the 2 h of a system.
const KEEPALIVE: Duration = Duration::from_secs(1_000);

fn with(url: &str, settings: TcpSettings) -> ConnectionInfo {
    url.into_connection_info().unwrap().set_tcp_settings(settings)
}

fn settings() -> TcpSettings {
    TcpSettings::default().set_keepalive(TcpKeepalive::new().with_time(KEEPALIVE))
}

/// So many connections are open to the server, each as it was set.
async fn all_are_set(pool: &GuardedPool, server: &TestServer, count: usize) {
    let is_set = |keepalive: &Option<Duration>| {
        keepalive.is_some_and(|time| time > KEEPALIVE / 2 && time <= KEEPALIVE)
    };
    until("the settings", pool, || {
        let all = keepalives_to(server.port());
        all.len() == count && all.iter().all(is_set)
    })
    .await;
}

async fn leases_a_lane_and_a_subscriber(
    settings: impl Fn(GuardedPoolBuilder) -> GuardedPoolBuilder,
) {
    let server = TestServer::start().unwrap();
    let info = with(&server.url(), self::settings());
    let pool = settings(unhurried(info)).build().unwrap();

    let mut lease = pool.acquire("test").await.unwrap();
    lease.make_exclusive().await.unwrap();
    let () = lease.set("key", 1).await.unwrap();
    let mut shared = pool.shared("test");
    let _: i64 = shared.get("key").await.unwrap();
    let mut subscriber = pool.pubsub("test").await.unwrap();
    subscriber.subscribe("channel").await.unwrap();

    all_are_set(&pool, &server, 3).await;
}

#[tokio::test]
async fn they_hold_for_leases_lanes_and_subscribers() {
    leases_a_lane_and_a_subscriber(|builder| builder).await;
    leases_a_lane_and_a_subscriber(|builder| builder.multiplex(true)).await;
}

#[tokio::test]
async fn they_are_taken_from_a_client_too() {
    let server = TestServer::start().unwrap();
    let client = redis_guard::redis::Client::open(with(&server.url(), settings())).unwrap();
    let pool = GuardedPool::from_client(&client).build().unwrap();
    let _lease = pool.acquire("test").await.unwrap();
    all_are_set(&pool, &server, 1).await;
}

#[tokio::test]
async fn a_linger_time_is_not_ignored_in_silence() {
    let server = TestServer::start().unwrap();
    let warned_of = |settings: TcpSettings| {
        let log = Log::default();
        let _listening = log.listen(tracing::Level::WARN);
        drop(GuardedPool::builder(with(&server.url(), settings)).build().unwrap());
        log.lines("linger time").len()
    };
    assert_eq!(warned_of(settings()), 0);
    assert_eq!(warned_of(settings().set_linger_time(Duration::from_secs(1))), 1);
}

#[tokio::test]
async fn a_setting_that_the_system_does_not_take_is_said_to_be_theirs() {
    let server = TestServer::start().unwrap();
    let settings = TcpSettings::default().set_keepalive(TcpKeepalive::new().with_retries(1_000));
    let pool = GuardedPool::builder(with(&server.url(), settings)).build().unwrap();
    let error = pool.acquire("test").await.unwrap_err();
    assert!(error.to_string().contains("TCP settings of the ConnectionInfo"), "{error}");
}
