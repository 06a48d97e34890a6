//! A link that dies under a subscriber and closes nothing: it is asked, and replaced if nothing comes.

use std::time::Duration;

use redis_guard::{GuardedPool, GuardedPoolBuilder, GuardedPubSub, PubSubEvent};
use tokio::time::timeout;

use crate::forgetful::Proxy;
use crate::support::{TestServer, unhurried};
use crate::waiting::{let_pass, soon, until};
use crate::{has_shards, next, payload, publish, spublish};

const PROTOCOLS: [&str; 2] = ["resp2", "resp3"];

fn pool(url: &str, protocol: &str, link_timeout: Duration) -> GuardedPool {
    let builder: GuardedPoolBuilder = unhurried(format!("{url}?protocol={protocol}"));
    builder.watch(false).link_timeout(link_timeout).build().unwrap()
}

async fn subscriber(pool: &GuardedPool) -> GuardedPubSub {
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    if has_shards() {
        subscriber.ssubscribe("s").await.unwrap();
    }
    subscriber
}

#[tokio::test]
async fn a_subscriber_whose_link_has_died_hears_gap_and_listens_again() {
    for protocol in PROTOCOLS {
        let server = TestServer::start().unwrap();
        let proxy = Proxy::start(&server).await;
        let pool = pool(&proxy.url(), protocol, Duration::from_millis(400));
        let mut subscriber = subscriber(&pool).await;

        proxy.forget_all();

        assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap), "{protocol}");
        // The server still has the one that was forgotten.
        assert_eq!(publish(&server, "a", "after"), 2);
        assert_eq!(payload(&mut subscriber).await, "after");
        if has_shards() {
            assert_eq!(spublish(&server, "s", "after too"), 2);
            assert_eq!(payload(&mut subscriber).await, "after too");
        }
    }
}

#[tokio::test]
async fn one_that_is_subscribed_to_nothing_yet_hears_it_too() {
    for protocol in PROTOCOLS {
        let server = TestServer::start().unwrap();
        let proxy = Proxy::start(&server).await;
        let pool = pool(&proxy.url(), protocol, Duration::from_millis(400));
        let mut subscriber = pool.pubsub("orders").await.unwrap();

        proxy.forget_all();

        assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap), "{protocol}");
    }
}

/// How many were sent to the server so far.
fn pings(server: &TestServer) -> u64 {
    let stats = server.admin().text(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// As in a `select!` with a ticker.
#[tokio::test]
async fn one_whose_wait_is_dropped_over_and_over_hears_it_too() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    let pool = pool(&proxy.url(), "resp2", Duration::from_millis(400));
    let mut subscriber = subscriber(&pool).await;
    proxy.forget_all();

    let event = soon("a gap", async {
        loop {
            if let Ok(event) = timeout(Duration::from_millis(20), subscriber.next()).await {
                return event.unwrap().unwrap();
            }
        }
    });

    assert!(matches!(event.await, PubSubEvent::Gap));
}

#[tokio::test]
async fn one_whose_server_answers_keeps_its_connection_however_long_nothing_is_published() {
    for protocol in PROTOCOLS {
        let server = TestServer::start().unwrap();
        let url = format!("redis://127.0.0.1:{}", server.port());
        let pool = pool(&url, protocol, Duration::from_secs(2));
        let mut subscriber = subscriber(&pool).await;
        let pings = || pings(&server);
        let before = pings();

        tokio::select! {
            event = subscriber.next() => panic!("nothing was published, but {event:?}"),
            () = until("two questions", &pool, || pings() >= before + 2) => {}
        }

        assert_eq!(publish(&server, "a", "late"), 1);
        assert_eq!(payload(&mut subscriber).await, "late");
        assert_eq!(pool.status().dials, [("connected", 1)].into(), "{protocol}");
    }
}

/// Whoever does not listen for longer than a dead link would take has lost nothing.
#[tokio::test]
async fn one_that_does_not_listen_for_long_keeps_its_connection() {
    let server = TestServer::start().unwrap();
    let pool = unhurried(server.url()).watch(false).build().unwrap();
    let mut subscriber = subscriber(&pool).await;
    let_pass(Duration::from_secs(100)).await;
    let waiting = timeout(Duration::from_millis(1), subscriber.next()).await;
    assert!(waiting.is_err(), "{waiting:?}");

    assert_eq!(publish(&server, "a", "late"), 1);

    assert_eq!(payload(&mut subscriber).await, "late");
}
