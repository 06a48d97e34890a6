//! Transactions on watched keys of one slot.

use futures_util::future::join_all;
use redis_guard::redis::{AsyncCommands, RedisError};
use redis_guard::{Error, GuardedPool};

use crate::support::Cluster;
use crate::support::cluster::slot_of;
use crate::waiting::soon;
use crate::{errors, masters, unhurried, with_replicas};

/// Two keys of the tag's slot, which are always equal.
fn keys(tag: &str) -> [String; 2] {
    ["one", "two"].map(|name| format!("{{{tag}}}{name}"))
}

async fn increment(pool: &GuardedPool, keys: [String; 2]) -> Result<i64, Error> {
    let told = pool.transaction("test", &keys.clone(), async move |conn, pipe| {
        let [one, two]: [Option<i64>; 2] = conn.mget(&keys).await?;
        assert_eq!(one, two);
        let next = one.unwrap_or(0) + 1;
        pipe.set(&keys[0], next)
            .ignore()
            .incr(&keys[1], 1)
            .query_async::<Option<(i64,)>>(conn)
            .await
    });
    Ok(told.await?.0)
}

async fn many_at_a_time(cluster: &Cluster, multiplex: bool, during: impl AsyncFnOnce()) {
    let pool = unhurried(cluster).multiplex(multiplex).build().unwrap();
    let all: Vec<_> = (0..3).map(|node| keys(&cluster.key_on(node))).collect();
    let tasks = all.iter().flat_map(|keys| [keys; 4]).map(|keys| {
        let (pool, keys) = (pool.clone(), keys.clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                increment(&pool, keys.clone()).await.unwrap();
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    during().await;
    for task in soon("the tasks", join_all(tasks)).await {
        task.unwrap();
    }
    for keys in &all {
        let told: [i64; 2] = soon("MGET", pool.shared("test").mget(keys)).await.unwrap();
        assert_eq!(told, [40; 2]);
        let _: u64 = soon("DEL", pool.shared("test").del(keys)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_on_the_node_of_their_keys() {
    let cluster = masters();
    for multiplex in [false, true] {
        many_at_a_time(&cluster, multiplex, async || {}).await;
    }
    assert!((0..3).all(|node| errors(&cluster, node, "MOVED") == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_follow_a_slot_that_moves() {
    let cluster = masters();
    for multiplex in [false, true] {
        let slot = slot_of(&cluster.key_on(0));
        let to = if cluster.primary_of(slot) == 0 { 1 } else { 0 };
        many_at_a_time(&cluster, multiplex, async || cluster.move_slot(slot, to)).await;
    }
}

#[tokio::test]
async fn keys_of_several_slots_are_an_error_before_anything_is_sent() {
    let cluster = with_replicas();
    for multiplex in [false, true] {
        let pool = unhurried(&cluster).multiplex(multiplex).build().unwrap();
        let keys = [cluster.key_on(0), cluster.key_on(1)];
        let told = pool.transaction("test", &keys, async |_, _| Ok(Some(())));
        let error = RedisError::from(soon("the error", told).await.unwrap_err());
        assert_eq!(error.code(), Some("CROSSSLOT"), "{error}");
        assert!(error.to_string().contains("nothing was sent"), "{error}");
    }
    assert!((0..3).all(|node| errors(&cluster, node, "CROSSSLOT") == 0));
}
