//! A connection that goes silent under a subscriber: what it asks for ends all the same.

use std::time::Duration;

use redis_guard::{Error, GuardedPool, GuardedPubSub};

use crate::proxy::Proxy;
use crate::support::TestServer;
use crate::waiting::{HANG, soon};
use crate::{has_shards, lacks_shards};

/// A subscriber to the channel `a`, the pattern `p*` and the shard channel `s`, through a proxy that may go silent.
async fn subscriber() -> (TestServer, Proxy, GuardedPool, GuardedPubSub) {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    // No other timeout can be what ends it.
    let pool = GuardedPool::builder(proxy.url()).acquire_timeout(HANG).connect_timeout(HANG);
    let pool = pool.response_timeout(Duration::from_millis(200)).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    subscriber.psubscribe("p*").await.unwrap();
    if has_shards() {
        subscriber.ssubscribe("s").await.unwrap();
    }
    (server, proxy, pool, subscriber)
}

async fn times_out(what: &str, asked: impl Future<Output = Result<(), Error>>) {
    let error = soon(what, asked).await.expect_err("nobody has answered");
    assert!(matches!(&error, Error::Inner(inner) if inner.is_timeout()), "{what}: {error:?}");
}

#[tokio::test]
async fn to_subscribe_times_out() {
    let (_server, proxy, _pool, mut subscriber) = subscriber().await;
    proxy.go_silent();
    times_out("to subscribe", subscriber.subscribe("b")).await;
}

#[tokio::test]
async fn to_subscribe_to_a_pattern_times_out() {
    let (_server, proxy, _pool, mut subscriber) = subscriber().await;
    proxy.go_silent();
    times_out("to subscribe", subscriber.psubscribe("q*")).await;
}

#[tokio::test]
async fn to_unsubscribe_times_out() {
    let (_server, proxy, _pool, mut subscriber) = subscriber().await;
    proxy.go_silent();
    times_out("to unsubscribe", subscriber.unsubscribe("a")).await;
}

#[tokio::test]
async fn to_unsubscribe_from_a_pattern_times_out() {
    let (_server, proxy, _pool, mut subscriber) = subscriber().await;
    proxy.go_silent();
    times_out("to unsubscribe", subscriber.punsubscribe("p*")).await;
}

#[tokio::test]
async fn to_subscribe_to_a_shard_channel_times_out() {
    if lacks_shards() {
        return;
    }
    let (_server, proxy, _pool, mut subscriber) = subscriber().await;
    proxy.go_silent();
    times_out("to subscribe", subscriber.ssubscribe("t")).await;
}

#[tokio::test]
async fn to_unsubscribe_from_a_shard_channel_times_out() {
    if lacks_shards() {
        return;
    }
    let (_server, proxy, _pool, mut subscriber) = subscriber().await;
    proxy.go_silent();
    times_out("to unsubscribe", subscriber.sunsubscribe("s")).await;
}
