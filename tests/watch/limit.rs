//! An operator who changes `maxclients` under a pool.

use std::time::Duration;

use redis_guard::server::ServerEvent;
use redis_guard::{Budget, Event};

use crate::service::Service;
use crate::support::TestServer;
use crate::waiting::{self, cmd, let_pass, next, until};
use crate::{builder, heard, rejected, warm};

#[tokio::test]
async fn under_a_lowered_ceiling_idle_connections_are_closed_and_leases_work_on() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let pool = builder(&server).max_connections(40).build().unwrap();
    let mut leases = warm(&pool, 40).await;
    leases.truncate(10);

    server.admin().set_maxclients(35);

    until("room", &pool, || server.admin().used_slots() < 35).await;
    until("no more than may be", &pool, || pool.status().live <= pool.status().limit).await;
    assert!(pool.status().connections_closed["limit"] > 0);
    for lease in &mut leases {
        let pong: String = cmd("PING").query_async(lease).await.unwrap();
        assert_eq!(pong, "PONG");
    }
    assert_eq!(rejected(&server), 0);
}

#[tokio::test]
async fn under_a_lowered_ceiling_the_pool_keeps_its_min_limit() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let pool = builder(&server).max_connections(40).min_limit(12).build().unwrap();
    drop(warm(&pool, 40).await);

    server.admin().set_maxclients(20);

    until("no more than the floor", &pool, || pool.status().live == 12).await;
    let seen = || pool.status().watch.observation;
    let last = seen();
    until("another look", &pool, || seen() != last).await;
    assert_eq!((pool.status().limit, pool.status().live), (12, 12));
}

/// What is promised to endpoints is theirs, whoever else is short; and half of the pool at most.
#[tokio::test]
async fn under_a_lowered_ceiling_the_pool_keeps_what_its_endpoints_were_promised() {
    for (reserves, kept) in [([6, 5], 11), ([16, 10], 20)] {
        let server = TestServer::builder().maxclients(100).start().unwrap();
        let [checkout, search] = reserves.map(|reserve| Budget::max(20).reserve(reserve));
        let pool = builder(&server).max_connections(40);
        let pool = pool.endpoint("checkout", checkout).endpoint("search", search).build().unwrap();
        waiting::soon("warming up", pool.warm_up(40)).await.unwrap();

        server.admin().set_maxclients(u32::try_from(kept + 4).unwrap());

        until("no more than the floor", &pool, || pool.status().live == kept).await;
        let seen = || pool.status().watch.observation;
        let last = seen();
        until("another look", &pool, || seen() != last).await;
        assert_eq!((pool.status().limit, pool.status().live), (kept, kept));
    }
}

#[tokio::test]
async fn leases_above_a_lowered_limit_are_closed_when_they_come_back() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let pool = builder(&server).max_connections(40).build().unwrap();
    let mut leases = warm(&pool, 40).await;
    // One is there to ask over.
    leases.pop();

    server.admin().set_maxclients(30);
    until("a lower limit", &pool, || pool.status().limit < 30).await;
    assert!(pool.status().live >= 38, "no lease was closed: {:#?}", pool.status());
    drop(leases);

    until("room", &pool, || server.admin().used_slots() < 30).await;
    until("no more than may be", &pool, || pool.status().live <= pool.status().limit).await;
    let mut lease = pool.acquire("test").await.unwrap();
    let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
    assert_eq!(rejected(&server), 0);
}

#[tokio::test]
async fn under_a_raised_ceiling_the_pool_grows_for_callers_who_wait() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let pool = builder(&server).max_connections(40).build().unwrap();
    drop(warm(&pool, 40).await);
    server.admin().set_maxclients(20);
    until("a lower limit", &pool, || pool.status().live <= 18).await;
    let mut events = pool.events();

    server.admin().set_maxclients(1_000);
    let service = Service::of(pool.clone(), 40, Duration::from_millis(20));

    until("growth", &pool, || service.live() == 40).await;
    next("the news", &mut events, |event| {
        matches!(event, Event::Server { event: ServerEvent::CeilingChanged { to: 1_000, .. }, .. })
    })
    .await;
    assert_eq!(rejected(&server), 0);
}

/// Those who keep their leases leave no connection to ask over; so the last word gets old, and is
/// tried out.
#[tokio::test]
async fn under_a_raised_ceiling_the_pool_grows_also_where_nobody_gives_back() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let pool = builder(&server).max_connections(20).build().unwrap();
    drop(warm(&pool, 20).await);
    server.admin().set_maxclients(10);
    until("the floor", &pool, || pool.status().live <= 2).await;
    let service = Service::of(pool.clone(), 20, Duration::from_secs(3600));
    until("the last lease", &pool, || pool.status().in_use == pool.status().live).await;
    server.admin().set_maxclients(1_000);

    let_pass(Duration::from_secs(40)).await;

    until("growth", &pool, || service.live() == 20).await;
    assert_eq!(rejected(&server), 0);
}

#[tokio::test]
async fn without_adaptive_limit_a_lowered_ceiling_is_seen_and_nothing_is_closed() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let pool = builder(&server).max_connections(40).adaptive_limit(false).build().unwrap();
    drop(warm(&pool, 40).await);

    server.admin().set_maxclients(35);

    heard("the ceiling", &pool, |seen| seen.ceiling == Some(35)).await;
    let status = pool.status();
    assert_eq!((status.live, status.limit), (40, 40));
}
