//! A limit that is frozen because the server refused one more, and what the watch makes of it.

use std::time::Duration;

use redis_guard::{Event, GuardedPool, LimitedBy};
use tokio::time::sleep;

use crate::fake::Fake;
use crate::proxy::Proxy;
use crate::support::{TestServer, dials, unhurried};
use crate::waiting::{HANG, next, until};
use crate::{LOOK, builder, heard, rejected};

/// Callers who want so many leases, and keep them.
fn callers(pool: &GuardedPool, leases: usize) -> tokio::task::JoinSet<()> {
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..leases {
        let pool = pool.clone();
        callers.spawn(async move {
            loop {
                if let Ok(_lease) = pool.acquire("test").await {
                    sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    callers
}

#[tokio::test]
async fn nobody_dials_while_the_watch_sees_no_room_and_the_pool_grows_once_it_does() {
    let server = TestServer::builder().maxclients(40).start().unwrap();
    let occupants = server.fill_to_leave(1);
    let pool = builder(&server).max_connections(8).build().unwrap();
    let _callers = callers(&pool, 8);
    until("the refusal of a second one", &pool, || rejected(&server) > 0).await;

    sleep(LOOK + LOOK).await;

    assert_eq!(rejected(&server), 1, "not once more in two looks");
    let status = pool.status();
    assert_eq!((status.live, status.limited_by), (1, LimitedBy::Refused), "{status:#?}");
    drop(occupants);
    until("growth", &pool, || pool.status().live == 8).await;
    assert_eq!(rejected(&server), 1);
}

#[tokio::test]
async fn without_the_watch_it_is_tried_instead() {
    let server = TestServer::builder().maxclients(40).start().unwrap();
    let occupants = server.fill_to_leave(1);
    let pool = builder(&server).max_connections(8).watch(false).build().unwrap();
    let _callers = callers(&pool, 8);
    until("some more tries", &pool, || rejected(&server) > 3).await;

    drop(occupants);

    until("growth", &pool, || pool.status().live == 8).await;
    assert!(pool.status().watch.observation.is_none());
}

/// The server does not count what a proxy before it turns away.
#[tokio::test]
async fn a_proxy_that_closes_silently_is_tried_no_faster_than_the_back_off_says() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server, 3).await;
    let pool = unhurried(proxy.url()).max_connections(8).acquire_timeout(HANG).build().unwrap();
    let _callers = callers(&pool, 8);
    until("the first close", &pool, || proxy.closed_silently() > 0).await;

    sleep(Duration::from_secs(3)).await;

    let closed = proxy.closed_silently();
    // 50 ms, doubled each time, less the jitter.
    assert!(closed <= 12, "{closed} dials in three seconds");
    assert!(dials(&pool)["suspected_max_clients"] <= 12);
    proxy.set_ceiling(100);
    until("growth", &pool, || pool.status().live == 8).await;
}

#[tokio::test]
async fn a_server_that_does_not_tell_its_refusals_is_tried_again() {
    let info = "connected_clients:10 maxclients:100 rejected_connections:-1";
    grows_after_a_refusal(&Fake::start(info).await).await;
}

#[tokio::test]
async fn a_server_that_does_not_tell_its_ceiling_is_tried_again() {
    let info = "connected_clients:10 rejected_connections:0";
    grows_after_a_refusal(&Fake::start(info).await).await;
}

#[tokio::test]
async fn a_server_that_tells_neither_is_tried_again() {
    grows_after_a_refusal(&Fake::start("redis_version:7.2.0").await).await;
}

async fn grows_after_a_refusal(fake: &Fake) {
    let pool = unhurried(fake.url()).max_connections(8).acquire_timeout(HANG).build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    heard("the first word", &pool, |_| true).await;
    let _one = pool.acquire("test").await.unwrap();
    fake.set_full(true);
    let mut events = pool.events();
    let _callers = callers(&pool, 8);
    next("a refusal", &mut events, |event| matches!(event, Event::DialFailed { .. })).await;

    fake.set_full(false);

    until("growth", &pool, || pool.status().live == 8).await;
    assert!(fake.refused() < 10, "{}", fake.refused());
}

/// Over TLS a full server says nothing, but counts.
#[cfg(feature = "tls-rustls-insecure")]
#[tokio::test]
async fn a_suspected_refusal_is_settled_by_what_the_server_counts() {
    if crate::support::lacks_tls() {
        return;
    }
    let server = TestServer::builder().maxclients(40).tls(true).start().unwrap();
    let occupants = server.fill_to_leave(1);
    let pool = unhurried(format!("{}#insecure", server.tls_url()))
        .max_connections(8)
        .acquire_timeout(HANG)
        .build()
        .unwrap();
    let _callers = callers(&pool, 8);
    until("a suspicion", &pool, || dials(&pool).contains_key("suspected_max_clients")).await;

    sleep(LOOK + LOOK).await;

    assert_eq!(rejected(&server), 1, "the server was full, so nobody tries");
    drop(occupants);
    until("growth", &pool, || pool.status().live == 8).await;
}
