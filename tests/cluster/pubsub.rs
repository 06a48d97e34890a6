//! Subscribers.

use redis_guard::redis::Msg;
use redis_guard::{AsyncCommands, GuardedPubSub, PubSubEvent};

use crate::waiting::{cmd, soon, until};
use crate::{ask, masters, sockets, unhurried_pool, with_replicas};

const NODES: [usize; 3] = [0, 1, 2];

/// The next message, which comes without a gap.
async fn message(subscriber: &mut GuardedPubSub) -> Msg {
    match soon("a message", subscriber.next()).await {
        Some(Ok(PubSubEvent::Message(message))) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

#[tokio::test]
async fn a_subscriber_on_any_node_hears_what_is_published_on_any() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut subscriber = soon("a subscriber", pool.pubsub("news")).await.unwrap();
    soon("it", subscriber.subscribe("news")).await.unwrap();

    for node in NODES {
        cluster.node(node).admin().text(&["PUBLISH", "news", &node.to_string()]);
        assert_eq!(message(&mut subscriber).await.get_payload::<usize>().unwrap(), node);
    }
    let _: usize = soon("it", pool.shared("test").publish("news", "ours")).await.unwrap();
    assert_eq!(message(&mut subscriber).await.get_payload::<String>().unwrap(), "ours");
    assert_eq!(NODES.map(|node| sockets(&cluster, node)).iter().sum::<usize>(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_whose_node_dies_goes_on_after_a_gap() {
    let cluster = with_replicas();
    let pool = unhurried_pool(&cluster);
    let mut subscriber = soon("a subscriber", pool.pubsub("news")).await.unwrap();
    soon("it", subscriber.subscribe("news")).await.unwrap();
    let listens =
        |node: usize| cluster.node(node).admin().text(&["PUBSUB", "NUMSUB", "news"]).ends_with('1');
    let node = (0..6).find(|node| listens(*node)).expect("the subscriber is somewhere");

    cluster.node(node).crash();

    let event = soon("the gap", subscriber.next()).await.unwrap().unwrap();
    assert!(matches!(event, PubSubEvent::Gap), "{event:?}");
    let others = (0..6).filter(|other| *other != node);
    let publish = cmd("PUBLISH news again");
    assert!(others.clone().any(listens), "it should listen to another node");
    let _: usize = soon("it", publish.query_async(&mut pool.shared("test"))).await.unwrap_or(0);
    let other = others.clone().find(|other| listens(*other)).unwrap();
    cluster.node(other).admin().text(&["PUBLISH", "news", "last"]);
    until("one subscriber", &pool, || others.clone().filter(|other| listens(*other)).count() == 1)
        .await;
    loop {
        if message(&mut subscriber).await.get_payload::<String>().unwrap() == "last" {
            break;
        }
    }
}

#[tokio::test]
async fn a_subscriber_to_a_shard_channel_is_on_its_node() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);

    for node in NODES {
        let channel = cluster.key_on(node);
        let mut subscriber = soon("it", pool.pubsub_for("news", &channel)).await.unwrap();
        soon("it", subscriber.ssubscribe(&channel)).await.unwrap();
        let channels = cluster.node(node).admin().text(&["PUBSUB", "SHARDCHANNELS"]);
        assert_eq!(channels, channel);
        let mut handle = pool.shared("test");
        let heard: usize = ask(&mut handle, &format!("SPUBLISH {channel} hello")).await;
        assert_eq!(heard, 1);
        let message = message(&mut subscriber).await;
        assert_eq!(
            (message.get_channel_name(), message.get_payload_bytes()),
            (&*channel, b"hello".as_slice())
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_to_a_shard_channel_follows_its_slot() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let channel = cluster.key_on(0);
    let mut subscriber = soon("it", pool.pubsub_for("news", &channel)).await.unwrap();
    soon("it", subscriber.ssubscribe(&channel)).await.unwrap();

    // The server ends the subscription itself.
    cluster.move_slot(crate::support::cluster::slot_of(&channel), 1);

    let event = soon("the gap", subscriber.next()).await.unwrap().unwrap();
    assert!(matches!(event, PubSubEvent::Gap), "{event:?}");
    let channels = || cluster.node(1).admin().text(&["PUBSUB", "SHARDCHANNELS"]) == channel;
    until("the subscription", &pool, channels).await;
    cluster.node(1).admin().text(&["SPUBLISH", &channel, "hello"]);
    assert_eq!(message(&mut subscriber).await.get_payload::<String>().unwrap(), "hello");
}
