//! A subscriber that is dropped: its close is ours, and nobody's outage.

use redis_guard::{CloseReason, GuardedPool};

use crate::fake::Fake;
use crate::support::TestServer;
use crate::waiting::{next_close, soon, until};

/// A pool that has heard how full its server is, with one idle connection.
async fn informed(url: String, seed: u64) -> GuardedPool {
    let pool = GuardedPool::builder(url).max_connections(8).seed(seed).build().unwrap();
    drop(pool.acquire("work").await.unwrap());
    until("the first word", &pool, || pool.status().watch.observation.is_some()).await;
    pool
}

#[tokio::test]
async fn its_close_counts_as_dropped() {
    let server = TestServer::start().unwrap();
    let pool = informed(server.url(), 1).await;
    let mut subscriber = soon("a subscriber", pool.pubsub("orders")).await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    let mut events = pool.events();

    drop(subscriber);

    assert_eq!(next_close(&mut events).await, CloseReason::Dropped);
    assert_eq!(pool.status().connections_closed, [("dropped", 1)].into());
}

/// With thousands of clients on the server, a close by it would spread the next dial over seconds.
#[tokio::test]
async fn the_dial_after_it_is_not_spread() {
    let info = "connected_clients:3000 maxclients:10000 rejected_connections:0";
    for seed in 1..=5 {
        let fake = Fake::start(info).await;
        let pool = informed(fake.url(), seed).await;
        let subscriber = soon("a subscriber", pool.pubsub("orders")).await.unwrap();
        let next_dial_in = || pool.status().breaker.next_dial_in;
        until("no wait for a dial", &pool, || next_dial_in().is_zero()).await;
        let mut events = pool.events();

        drop(subscriber);

        next_close(&mut events).await;
        assert!(next_dial_in().is_zero(), "{:?} with seed {seed}", next_dial_in());
    }
}
