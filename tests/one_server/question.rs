//! The watch asks once a server, whichever pool it is that asks, and all know what it heard.

use std::sync::Arc;
use std::time::Duration;

use redis_guard::server::Observation;
use redis_guard::{GuardedPool, LimitedBy};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use crate::fake::Fake;
use crate::spy::Spy;
use crate::support::{Auth, Resp, TestServer, Transport};
use crate::waiting::{soon, until};
use crate::{NEVER, builder, own_runtime, waiter};

const WELL: &str = "connected_clients:3 maxclients:1000 rejected_connections:0";

/// Between two questions of one pool that nothing urges: 3 s, less 30 %.
const SHORTEST: f64 = 2.1;

fn seen(pool: &GuardedPool) -> Option<Arc<Observation>> {
    pool.status().watch.observation
}

/// Returns when the server has been asked, and has answered, so many more times.
async fn asked_again(pool: &GuardedPool, times: usize) {
    for _ in 0..times {
        let last = seen(pool);
        let is_new = || match (&last, seen(pool)) {
            (Some(last), Some(seen)) => !Arc::ptr_eq(last, &seen),
            (None, seen) => seen.is_some(),
            (Some(_), None) => false,
        };
        until("another word of the server", pool, is_new).await;
    }
}

async fn warm(server: &TestServer) -> GuardedPool {
    let pool = builder(server).max_connections(4).build().unwrap();
    soon("warming up", pool.warm_up(1)).await.unwrap();
    pool
}

#[tokio::test]
async fn eight_pools_ask_about_as_often_as_one() {
    let server = TestServer::builder().maxclients(200).start().unwrap();
    let mut pools = Vec::new();
    for _ in 0..8 {
        pools.push(warm(&server).await);
    }
    let spy = Spy::on(&server);
    let begun = Instant::now();

    sleep(Duration::from_secs(6)).await;

    let (asked, time) = (spy.count("INFO"), begun.elapsed().as_secs_f64());
    println!("{asked} times in {time} s");
    assert!(asked >= 1, "nobody asks");
    let most = f64::from(u32::try_from(asked).unwrap() - 1) * SHORTEST;
    assert!(most <= time, "asked {asked} times in {time} s");
}

#[tokio::test]
async fn all_pools_have_the_same_observation_of_the_same_age() {
    let server = TestServer::builder().maxclients(200).start().unwrap();
    let mut pools = Vec::new();
    for _ in 0..8 {
        pools.push(warm(&server).await);
    }
    asked_again(&pools[0], 1).await;

    let watched: Vec<_> = pools.iter().map(|pool| pool.status().watch).collect();
    let first = watched[0].observation.as_ref().expect("an observation");
    let oldest = watched.iter().filter_map(|watch| watch.age).max().unwrap();
    for watch in &watched {
        assert!(watch.observation.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, first)));
        assert!(oldest - watch.age.unwrap() < Duration::from_millis(100), "{watched:#?}");
        assert_eq!(watch.saturation, first.saturation());
    }
}

/// Which of them the server lets ask, and in which order they come, must not matter.
#[tokio::test]
async fn a_pool_whose_user_may_not_ask_knows_what_another_has_heard() {
    for denied_first in [true, false] {
        let server = TestServer::builder().maxclients(200).acl_user("app", "secret").start();
        let server = server.unwrap();
        server.admin().text(&["ACL", "SETUSER", "app", "-info"]);
        let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::User("app", "secret"), 0);
        let denied = GuardedPool::builder(url).max_connections(4).build().unwrap();
        if denied_first {
            denied.warm_up(1).await.unwrap();
            until("the denial", &denied, || denied.status().watch.trouble.is_some()).await;
        }
        let allowed = warm(&server).await;
        denied.warm_up(1).await.unwrap();

        asked_again(&allowed, 1).await;

        until("the saturation", &denied, || {
            let status = denied.status();
            status.watch.saturation.is_some()
                && status.watch.trouble.is_none()
                && status.limited_by == LimitedBy::PriceLaw
        })
        .await;
        asked_again(&denied, 1).await;
    }
}

/// It has nothing to ask over, and must leave the question to who has.
#[tokio::test]
async fn a_pool_without_a_connection_does_not_keep_the_others_from_asking() {
    let server = TestServer::builder().maxclients(200).start().unwrap();
    let cold = builder(&server).build().unwrap();
    cold.breaker().force_open();
    soon("the override", cold.acquire("test")).await.unwrap_err();
    let warm = builder(&server).max_connections(4).build().unwrap();
    drop(soon("a connection", warm.acquire("test")).await.unwrap());

    asked_again(&warm, 3).await;
}

/// The same, where all that it has is lent for long.
#[tokio::test]
async fn a_pool_whose_connections_are_all_lent_does_not_keep_the_others_from_asking() {
    let server = TestServer::builder().maxclients(200).start().unwrap();
    let idle = warm(&server).await;
    let busy = builder(&server).max_connections(1).build().unwrap();
    let _lease = soon("the only one", busy.acquire("test")).await.unwrap();
    let _caller = tokio::spawn(waiter(&busy));

    asked_again(&idle, 3).await;
}

/// A pool on a runtime of its own that has asked and that waits for the answer, for as long as it may.
async fn asks(fake: &Fake, response_timeout: Duration) -> (GuardedPool, Runtime) {
    let builder = GuardedPool::builder(fake.url()).response_timeout(response_timeout);
    let pool = builder.build().unwrap();
    let (asker, runtime) = (pool.clone(), own_runtime());
    fake.hold_info(true);
    let (sender, stop) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            asker.warm_up(1).await.unwrap();
            drop(asker);
            stop.await.unwrap();
        });
        runtime
    });
    until("the question", &pool, || fake.infos() == 1).await;
    sender.send(()).unwrap();
    (pool, running.await.unwrap())
}

/// Another pool at the same server, which would ask if it could.
async fn another(fake: &Fake) -> GuardedPool {
    let pool = GuardedPool::builder(fake.url()).build().unwrap();
    soon("a connection", pool.acquire("test")).await.unwrap();
    pool
}

#[tokio::test]
async fn when_the_pool_that_asks_is_closed_another_asks() {
    let fake = Fake::start(WELL).await;
    fake.hold_info(true);
    let builder = GuardedPool::builder(fake.url()).response_timeout(NEVER);
    let asks = builder.build().unwrap();
    asks.warm_up(1).await.unwrap();
    until("the question", &asks, || fake.infos() == 1).await;
    let other = another(&fake).await;

    asks.close().await;

    until("the other's question", &other, || fake.infos() == 2).await;
    fake.hold_info(false);
    asked_again(&other, 1).await;
}

#[tokio::test]
async fn when_the_runtime_of_the_pool_that_asks_ends_another_asks() {
    let fake = Fake::start(WELL).await;
    let (_asks, runtime) = asks(&fake, NEVER).await;
    let other = another(&fake).await;
    assert_eq!(fake.infos(), 1);

    runtime.shutdown_background();

    until("the other's question", &other, || fake.infos() == 2).await;
    fake.hold_info(false);
    asked_again(&other, 1).await;
}

/// Nothing is dropped there, and not even its timers go on.
#[tokio::test]
async fn when_the_runtime_of_the_pool_that_asks_stands_still_another_asks() {
    let fake = Fake::start(WELL).await;
    let (_asks, runtime) = asks(&fake, Duration::from_millis(500)).await;
    let other = another(&fake).await;
    fake.hold_info(false);

    asked_again(&other, 1).await;

    runtime.shutdown_background();
}
