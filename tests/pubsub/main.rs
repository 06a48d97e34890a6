//! Subscribers on a real server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../watch/fake.rs"]
mod fake;
#[path = "../shared/proxy.rs"]
mod forgetful;
#[path = "../pool/proxy.rs"]
mod proxy;
#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;
#[path = "../watch/service.rs"]
mod watch_service;

mod dead;
mod dropped;
mod room;
mod runtimes;
mod shard;
mod silent;
mod unread;

use std::time::Duration;

use redis_guard::{Budget, Error, GuardedPool, GuardedPubSub, PubSubEvent, Rejection};
use support::{SEVEN, TestServer, lacks, program, unhurried};
use tokio::time::timeout;
use waiting::{soon, until};

async fn next(subscriber: &mut GuardedPubSub) -> PubSubEvent {
    soon("an event", subscriber.next()).await.expect("open").expect("no error")
}

async fn payload(subscriber: &mut GuardedPubSub) -> String {
    match next(subscriber).await {
        PubSubEvent::Message(message) => message.get_payload().expect("text"),
        other => panic!("expected a message, got {other:?}"),
    }
}

/// How many heard it.
fn publish(server: &TestServer, channel: &str, text: &str) -> u64 {
    server.admin().text(&["PUBLISH", channel, text]).parse().expect("a number")
}

fn spublish(server: &TestServer, channel: &str, text: &str) -> u64 {
    server.admin().text(&["SPUBLISH", channel, text]).parse().expect("a number")
}

/// Where the server has shard channels, beside others.
fn has_shards() -> bool {
    program().redis_version() >= SEVEN
}

/// The same of a test that is about nothing else.
fn lacks_shards() -> bool {
    lacks("shard channels", SEVEN)
}

async fn closed(pool: &GuardedPool, live: usize) {
    until("the sockets' end", pool, || pool.status().live == live).await;
}

#[tokio::test]
async fn messages_arrive_by_channel_and_by_pattern() {
    for protocol in ["resp2", "resp3"] {
        let server = TestServer::start().expect("redis-server");
        let url = format!("redis://127.0.0.1:{}?protocol={protocol}", server.port());
        let pool = unhurried(url).build().unwrap();
        let mut subscriber = pool.pubsub("orders").await.unwrap();
        subscriber.subscribe(&["a", "b"]).await.unwrap();
        subscriber.psubscribe("c.*").await.unwrap();
        for (channel, text) in [("a", "1"), ("b", "2"), ("c.x", "3")] {
            assert_eq!(publish(&server, channel, text), 1);
            assert_eq!(payload(&mut subscriber).await, text);
        }
        subscriber.unsubscribe("a").await.unwrap();
        assert_eq!(publish(&server, "a", "4"), 0);
        pool.close().await;
    }
}

#[tokio::test]
async fn a_subscriber_is_named_authenticated_and_in_its_database() {
    let server = TestServer::builder().password("secret").start().expect("redis-server");
    let url = format!("redis://:secret@127.0.0.1:{}/3", server.port());
    let pool = unhurried(url).client_name("listener").build().unwrap();
    let _subscriber = pool.pubsub("orders").await.unwrap();
    let named = |client: &std::collections::HashMap<String, String>| {
        client.get("name").is_some_and(|name| name == "listener")
    };
    let clients = server.admin().client_list();
    let databases: Vec<_> = clients.iter().filter(|c| named(c)).map(|c| c["db"].clone()).collect();
    assert_eq!(databases, ["3"]);
}

#[tokio::test]
async fn a_subscriber_counts_in_its_budget_until_it_is_dropped() {
    let server = TestServer::start().expect("redis-server");
    let pool = unhurried(server.url())
        .endpoint("orders", Budget::max(1))
        .acquire_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    let first = pool.pubsub("orders").await.unwrap();
    assert_eq!(pool.status().in_use, 1);
    let refused = pool.pubsub("orders").await.unwrap_err();
    assert!(matches!(refused, Error::Rejected(Rejection::BudgetExhausted { .. })), "{refused}");
    drop(first);
    closed(&pool, 0).await;
    until("the server's slot", &pool, || server.admin().clients_named("redis-guard") == 0).await;
    let _second = pool.pubsub("orders").await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_a_subscriber() {
    let server = TestServer::start().expect("redis-server");
    let pool = unhurried(server.url()).max_connections(2).build().unwrap();
    pool.warm_up(2).await.unwrap();
    let _subscriber = pool.pubsub("orders").await.unwrap();
    let status = pool.status();
    assert_eq!((status.live, status.in_use), (2, 1));
    assert_eq!(server.admin().clients_named("redis-guard"), 2);
}

#[tokio::test]
async fn it_survives_client_kill_and_a_restart_and_says_that_messages_may_have_been_missed() {
    let server = TestServer::start().expect("redis-server");
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    server.admin().text(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    assert_eq!(publish(&server, "a", "after the kill"), 1);
    assert_eq!(payload(&mut subscriber).await, "after the kill");

    server.restart().expect("redis-server");
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    assert_eq!(publish(&server, "a", "after the restart"), 1);
    assert_eq!(payload(&mut subscriber).await, "after the restart");
}

#[tokio::test]
async fn to_unsubscribe_from_nothing_in_particular_is_to_forget_all_for_good() {
    let server = TestServer::start().expect("redis-server");
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    let none: [&str; 0] = [];
    subscriber.subscribe(&["a", "b"]).await.unwrap();
    subscriber.psubscribe(&["a*", "p*"]).await.unwrap();

    subscriber.unsubscribe(&none).await.unwrap();
    assert_eq!([publish(&server, "b", "1"), publish(&server, "pa", "2")], [0, 1]);
    assert_eq!(payload(&mut subscriber).await, "2");
    subscriber.punsubscribe(&none).await.unwrap();
    subscriber.subscribe("kept").await.unwrap();

    server.admin().text(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    let published = ["a", "b", "pa", "kept"].map(|name| publish(&server, name, "3"));
    assert_eq!(published, [0, 0, 0, 1]);
}

#[tokio::test]
async fn a_subscription_made_on_a_lost_connection_says_gap_too() {
    let server = TestServer::start().expect("redis-server");
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    server.admin().text(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    closed(&pool, 0).await;
    subscriber.subscribe("b").await.unwrap();
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    assert_eq!(publish(&server, "a", "1") + publish(&server, "b", "2"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_come_back_without_a_refused_dial_when_slots_are_short() {
    const SUBSCRIBERS: usize = 50;
    let server = TestServer::builder().maxclients(64).start().expect("redis-server");
    let pool = unhurried(server.url())
        .max_connections(SUBSCRIBERS)
        .acquire_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut subscriber = pool.pubsub("orders").await.unwrap();
        subscriber.subscribe("a").await.unwrap();
        subscribers.push(subscriber);
    }
    // The rest of the server belongs to others, but for two slots.
    let _others = server.fill_to_leave(2);
    let refused = server.admin().info_u64("rejected_connections");
    server.admin().text(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let back = subscribers.into_iter().map(|mut subscriber| {
        tokio::spawn(async move {
            assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
            subscriber
        })
    });
    let back = futures_util::future::join_all(back).await;
    assert_eq!(server.admin().info_u64("rejected_connections"), refused);
    assert_eq!(publish(&server, "a", "everybody"), 50);
    for subscriber in back {
        assert_eq!(payload(&mut subscriber.unwrap()).await, "everybody");
    }
}

#[tokio::test]
async fn a_full_server_is_waited_out_at_the_pace_of_the_back_off() {
    let server = TestServer::builder().maxclients(20).start().expect("redis-server");
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    // One below what is used, so that the slot it loses is nobody's.
    let used = u32::try_from(server.admin().used_slots()).unwrap();
    server.admin().set_maxclients(used - 1);
    let before = server.admin().info_u64("rejected_connections");
    server.admin().text(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let waiting = timeout(Duration::from_secs(2), subscriber.next()).await;
    assert!(waiting.is_err(), "the server has no slot for it");
    let dials = server.admin().info_u64("rejected_connections") - before;
    assert!((1..=8).contains(&dials), "{dials} dials refused in two seconds");
    server.admin().set_maxclients(used + 1);
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    assert_eq!(publish(&server, "a", "again"), 1);
}

#[tokio::test]
async fn closing_the_pool_ends_the_subscriber_and_its_socket() {
    let server = TestServer::start().expect("redis-server");
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    let listening = tokio::spawn(async move { subscriber.next().await.is_none() });
    // Well below the `drain_timeout` that leases have.
    let closing = timeout(Duration::from_secs(10), pool.close());
    closing.await.expect("close does not wait for subscribers");
    assert!(listening.await.unwrap());
    until("its socket's end", &pool, || server.admin().clients_named("redis-guard") == 0).await;
}

#[tokio::test]
async fn dropping_the_last_pool_ends_the_subscriber() {
    let server = TestServer::start().expect("redis-server");
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    drop(pool);
    assert!(soon("the end", subscriber.next()).await.is_none());
}

#[tokio::test]
async fn a_subscriber_is_no_leak() {
    let server = TestServer::start().expect("redis-server");
    let pool = unhurried(server.url()).leak_after(Duration::from_millis(40)).build().unwrap();
    let mut events = pool.events();
    let _subscriber = pool.pubsub("orders").await.unwrap();
    let _leak = pool.acquire("leak").await.unwrap();
    let leak = soon("a leak", async {
        loop {
            match events.next().await {
                Some(redis_guard::Event::LeakSuspected(leak)) => return leak.endpoint,
                Some(_) => {}
                None => panic!("the pool is open"),
            }
        }
    });
    assert_eq!(leak.await.as_str(), "leak");
    assert_eq!(pool.status().leaks.len(), 1);
}

#[tokio::test]
async fn a_wrong_password_is_heard_by_subscribers_too() {
    let server = TestServer::builder().password("secret").start().expect("redis-server");
    let pool = unhurried(format!("redis://:wrong@127.0.0.1:{}", server.port())).build().unwrap();
    let refused = pool.pubsub("orders").await.unwrap_err();
    assert!(matches!(refused, Error::Rejected(Rejection::ConnectFailed { .. })), "{refused}");
    assert!(!refused.to_string().contains("wrong@"), "{refused}");
    assert_eq!(pool.status().dials.get("auth"), Some(&1));
}
