//! A subscriber that does not read: its socket is not read either, so that the server's own limit holds.

use std::sync::Arc;
use std::time::Duration;

use redis_guard::{GuardedPool, GuardedPubSub, PubSubEvent};

use crate::support::{TestServer, program, skip, unhurried};
use crate::waiting::{soon, until};
use crate::{closed, has_shards, next, payload, publish};

const MIB: usize = 1024 * 1024;

async fn subscriber(server: &TestServer) -> (GuardedPool, GuardedPubSub) {
    let pool = unhurried(server.url()).watch(false).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    if has_shards() {
        subscriber.ssubscribe("s").await.unwrap();
    }
    (pool, subscriber)
}

/// Publishes so many messages of so many bytes, each with its number in front, from a thread of its own,
/// by turns to the channel and, where the server has such, to the shard channel.
async fn flood(server: &Arc<TestServer>, messages: usize, bytes: usize) {
    let server = Arc::clone(server);
    let script = "local filler = string.rep('x', ARGV[2]) for i = 1, ARGV[1] do \
                  local to = (i % 2 == 0 or ARGV[3] == '0') and {'PUBLISH', 'a'} or {'SPUBLISH', 's'} \
                  redis.call(to[1], to[2], i .. ' ' .. filler) end return 'OK'";
    let shards = if has_shards() { "1" } else { "0" };
    let publishing = tokio::task::spawn_blocking(move || {
        // In parts, so that the server sends in between, and its buffers hold no more than they may.
        for _ in 0..messages.div_ceil(PART) {
            let (count, bytes) = (PART.min(messages).to_string(), bytes.to_string());
            server.admin().text(&["EVAL", script, "0", &count, &bytes, shards]);
        }
    });
    soon("the flood", publishing).await.unwrap();
}

const PART: usize = 10;

fn listeners(server: &TestServer) -> usize {
    server
        .admin()
        .client_list()
        .iter()
        .filter(|client| client["sub"] != "0" || client.get("ssub").is_some_and(|ssub| ssub != "0"))
        .count()
}

/// How many messages come before the gap.
async fn until_gap(subscriber: &mut GuardedPubSub) -> usize {
    let mut messages = 0;
    while let PubSubEvent::Message(_) = next(subscriber).await {
        messages += 1;
    }
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_limit_ends_it_and_it_hears_gap() {
    if program().is_valkey(9, 0) {
        return skip(
            "Valkey 9 does not count long messages that are unread, and closes nobody for them",
        );
    }
    let server = Arc::new(TestServer::start().unwrap());
    let (pool, mut subscriber) = subscriber(&server).await;

    server.admin().text(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 8mb 8mb 60"]);

    for _ in 0..16 {
        flood(&server, PART, MIB / 4).await;
        // One that is read without a bound keeps up, and is not closed.
        tokio::time::sleep(Duration::from_millis(40)).await;
    }

    until("the server's limit", &pool, || listeners(&server) == 0).await;
    let held = until_gap(&mut subscriber).await;
    assert!(held < 120, "{held} of 160 were held for it");
    assert_eq!(publish(&server, "a", "after"), 1);
    assert_eq!(payload(&mut subscriber).await, "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_gets_all_of_them_in_order() {
    let server = Arc::new(TestServer::start().unwrap());
    let (_pool, mut subscriber) = subscriber(&server).await;
    let flooding = Arc::clone(&server);
    let flooding = tokio::spawn(async move { flood(&flooding, 2_000, 2_000).await });

    for at in 0..2_000 {
        let text = payload(&mut subscriber).await;
        let number: usize = text.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(number, at % PART + 1);
    }

    flooding.await.unwrap();
}

/// It starts to read when what may be held for it is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_late_gets_all_of_them_in_order() {
    let server = Arc::new(TestServer::start().unwrap());
    let (_pool, mut subscriber) = subscriber(&server).await;

    flood(&server, 2_000, 2_000).await;

    for at in 0..2_000 {
        let text = payload(&mut subscriber).await;
        let number: usize = text.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(number, at % PART + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_longer_than_what_is_held_arrives() {
    let server = Arc::new(TestServer::start().unwrap());
    let (_pool, mut subscriber) = subscriber(&server).await;
    let flooding = Arc::clone(&server);
    let flooding = tokio::spawn(async move { flood(&flooding, 1, 4 * MIB).await });

    assert_eq!(payload(&mut subscriber).await.len(), 4 * MIB + 2);

    flooding.await.unwrap();
}

/// The answer comes behind all the messages that nobody has taken yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_still_subscribe_and_unsubscribe() {
    let server = Arc::new(TestServer::start().unwrap());
    let (_pool, mut subscriber) = subscriber(&server).await;
    flood(&server, 6, MIB).await;

    soon("to subscribe", subscriber.subscribe("b")).await.unwrap();
    soon("to unsubscribe", subscriber.unsubscribe("a")).await.unwrap();

    for number in 1..=6 {
        let text = payload(&mut subscriber).await;
        assert!(text.starts_with(&format!("{number} x")), "{}", &text[..9]);
    }
    assert_eq!(publish(&server, "b", "still there"), 1);
    assert_eq!(payload(&mut subscriber).await, "still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_it_gives_its_slot_back() {
    let server = Arc::new(TestServer::start().unwrap());
    let (pool, subscriber) = subscriber(&server).await;
    flood(&server, 6, MIB).await;

    drop(subscriber);

    closed(&pool, 0).await;
    until("the server's slot", &pool, || listeners(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_closes_closes_it() {
    let server = Arc::new(TestServer::start().unwrap());
    let (pool, mut subscriber) = subscriber(&server).await;
    flood(&server, 6, MIB).await;

    soon("the close", pool.close()).await;

    assert!(soon("the end", subscriber.next()).await.is_none());
    assert_eq!(pool.status().live, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_slowly_gets_all_that_the_server_holds_for_it() {
    let server = Arc::new(TestServer::start().unwrap());
    let (_pool, mut subscriber) = subscriber(&server).await;
    let flooding = Arc::clone(&server);
    let flooding = tokio::spawn(async move { flood(&flooding, 40, MIB / 4).await });
    for _ in 0..40 {
        assert!(matches!(next(&mut subscriber).await, PubSubEvent::Message(_)));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    flooding.await.unwrap();
}
