//! Shard channels: what is published with SPUBLISH, on one server and on a cluster's node.

use redis_guard::{Error, PubSubEvent};

use crate::support::{Cluster, TestServer, dials, unhurried};
use crate::waiting::{poll_once, soon};
use crate::{has_shards, lacks_shards, next, payload, publish, spublish};

#[tokio::test]
async fn messages_arrive_on_one_connection_with_those_of_channels_and_patterns() {
    if lacks_shards() {
        return;
    }
    for protocol in ["resp2", "resp3"] {
        let server = TestServer::start().unwrap();
        let url = format!("redis://127.0.0.1:{}?protocol={protocol}", server.port());
        let pool = unhurried(url).build().unwrap();
        let mut subscriber = pool.pubsub("orders").await.unwrap();
        subscriber.ssubscribe(&["a", "s", "t"]).await.unwrap();
        subscriber.subscribe("a").await.unwrap();
        subscriber.psubscribe("p*").await.unwrap();
        assert_eq!(spublish(&server, "a", "1") + publish(&server, "a", "2"), 2);
        assert_eq!(spublish(&server, "s", "3") + publish(&server, "p", "4"), 2);
        for text in ["1", "2", "3", "4"] {
            assert_eq!(payload(&mut subscriber).await, text);
        }

        subscriber.sunsubscribe(&["a", "s"]).await.unwrap();

        assert_eq!(spublish(&server, "a", "5") + spublish(&server, "s", "6"), 0);
        assert_eq!(spublish(&server, "t", "7") + publish(&server, "a", "8"), 2);
        assert_eq!(payload(&mut subscriber).await, "7");
        assert_eq!(payload(&mut subscriber).await, "8");
        assert_eq!(dials(&pool), [("connected", 1)].into(), "{protocol}");
    }
}

#[tokio::test]
async fn without_a_name_all_shard_channels_are_left_and_none_comes_back() {
    if lacks_shards() {
        return;
    }
    let server = TestServer::start().unwrap();
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.ssubscribe(&["s", "t"]).await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    let none: [&str; 0] = [];

    subscriber.sunsubscribe(&none).await.unwrap();
    subscriber.sunsubscribe(&none).await.unwrap();

    server.admin().text(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    assert_eq!(spublish(&server, "s", "1") + spublish(&server, "t", "2"), 0);
    assert_eq!(publish(&server, "a", "3"), 1);
    assert!(subscriber.ssubscribe(&none).await.is_err());
}

#[tokio::test]
async fn they_are_subscribed_to_again_after_client_kill_and_a_restart() {
    if lacks_shards() {
        return;
    }
    let server = TestServer::start().unwrap();
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.ssubscribe(&["s", "t"]).await.unwrap();
    server.admin().text(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    assert_eq!(spublish(&server, "s", "after the kill"), 1);
    assert_eq!(payload(&mut subscriber).await, "after the kill");

    server.restart().unwrap();
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    assert_eq!(spublish(&server, "t", "after the restart"), 1);
    assert_eq!(payload(&mut subscriber).await, "after the restart");
}

/// Its answer belongs to nobody, and not to the next one.
#[tokio::test]
async fn a_dropped_subscription_is_not_remembered() {
    if lacks_shards() {
        return;
    }
    let server = TestServer::start().unwrap();
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    let mut dropped = Box::pin(subscriber.ssubscribe(&["s", "t"]));
    assert!(poll_once(&mut dropped).is_pending());
    drop(dropped);

    subscriber.ssubscribe("u").await.unwrap();
    assert!(subscriber.ssubscribe(&[""; 0]).await.is_err());

    assert_eq!(spublish(&server, "u", "1"), 1);
    assert_eq!(payload(&mut subscriber).await, "1");
    server.admin().text(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    assert_eq!(spublish(&server, "s", "2") + spublish(&server, "t", "3"), 0);
    assert_eq!(spublish(&server, "u", "4"), 1);
}

#[tokio::test]
async fn a_server_that_is_too_old_is_told_in_plain_words_and_the_rest_goes_on() {
    let server = TestServer::builder();
    let old = match has_shards() {
        true => server.arg("rename-command", "SSUBSCRIBE \"\"").start().unwrap(),
        false => server.start().unwrap(),
    };
    let pool = unhurried(old.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.subscribe("a").await.unwrap();

    let error = subscriber.ssubscribe(&["s", "t"]).await.unwrap_err();

    assert!(error.to_string().contains("SSUBSCRIBE needs Redis 7.0"), "{error}");
    assert_eq!(publish(&old, "a", "still there"), 1);
    assert_eq!(payload(&mut subscriber).await, "still there");
    assert_eq!(dials(&pool), [("connected", 1)].into());
}

#[tokio::test]
async fn a_user_without_the_right_hears_so_and_the_rest_goes_on() {
    if lacks_shards() {
        return;
    }
    let server = TestServer::start().unwrap();
    server.admin().text(&["ACL", "SETUSER", "few", "on", "nopass", "+@all", "resetchannels", "&a"]);
    let pool = unhurried(format!("redis://few:x@127.0.0.1:{}", server.port())).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    subscriber.ssubscribe("a").await.unwrap();

    let error = subscriber.ssubscribe(&["a", "s"]).await.unwrap_err();

    assert!(matches!(&error, Error::Inner(inner) if inner.code() == Some("NOPERM")), "{error}");
    assert_eq!(spublish(&server, "a", "still there"), 1);
    assert_eq!(payload(&mut subscriber).await, "still there");
}

/// The node that it is connected to is the only one that it knows, so it waits for the slot to come back.
#[tokio::test]
async fn a_slot_that_moves_to_another_node_counts_as_a_lost_connection() {
    if lacks_shards() {
        return;
    }
    let cluster = Cluster::start(2, &TestServer::builder()).unwrap();
    let [here, there] = cluster.nodes() else { panic!("two nodes") };
    let pool = unhurried(here.url()).build().unwrap();
    let mut subscriber = pool.pubsub("orders").await.unwrap();
    // Of slot 0, which is the first node's.
    let channel = "{3560}s";
    let slot = here.admin().text(&["CLUSTER", "KEYSLOT", channel]);
    assert_eq!(slot, "0");
    subscriber.ssubscribe(channel).await.unwrap();
    subscriber.subscribe("a").await.unwrap();
    for (channels, code) in [(vec![channel, "t"], "CROSSSLOT"), (vec!["{foo}"], "MOVED")] {
        let error = subscriber.ssubscribe(channels).await.unwrap_err();
        assert!(matches!(&error, Error::Inner(inner) if inner.code() == Some(code)), "{error}");
    }
    assert_eq!(spublish(here, channel, "before"), 1);
    assert_eq!(payload(&mut subscriber).await, "before");
    let hand_to = |node: &TestServer| {
        let id = node.admin().text(&["CLUSTER", "MYID"]);
        for node in [here, there] {
            node.admin().text(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    };

    hand_to(there);

    let error = soon("the refusal", subscriber.next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Inner(inner) if inner.code() == Some("MOVED")), "{error}");
    hand_to(here);
    assert!(matches!(next(&mut subscriber).await, PubSubEvent::Gap));
    assert_eq!(spublish(here, channel, "after") + publish(here, "a", "after too"), 2);
    assert_eq!(payload(&mut subscriber).await, "after");
    assert_eq!(payload(&mut subscriber).await, "after too");
}
