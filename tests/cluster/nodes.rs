//! Nodes that come and go.

use std::collections::BTreeMap;
use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedPool};
use tokio::time::sleep;

use crate::load::{Load, Operation, failures, none, tags};
use crate::support::Cluster;
use crate::support::cluster::slot_of;
use crate::waiting::{soon, until};
use crate::{
    ask, builder, cluster_status, masters, node_status, sockets, unhurried, unhurried_pool,
};

/// Those that failed but a transaction on a slot on its way, whose keys are here and there.
fn unexpected(operations: &[Operation]) -> BTreeMap<String, usize> {
    let mut failures = failures(operations);
    failures.retain(|words, _| !(words.starts_with("Atomic") && words.contains("TryAgain")));
    failures
}

/// Some of the slots that all nodes have.
fn all_tags(cluster: &Cluster, nodes: &[usize]) -> Vec<String> {
    nodes.iter().flat_map(|node| tags(cluster, *node, 20)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_is_dialed_when_it_has_keys() {
    let mut cluster = masters();
    let pool = builder(&cluster).build().unwrap();
    let tags = all_tags(&cluster, &[0, 1, 2]);
    let load = Load::start(&pool, &tags, &tags);
    load.more(&pool, 200, |_| true).await;

    let added = cluster.add_node().unwrap();
    assert_eq!(sockets(&cluster, added), 0, "there is nothing to ask it");
    let slots: Vec<u16> = tags[..10].iter().map(|tag| slot_of(tag)).collect();
    cluster.give_slots(slots.iter().copied(), added);
    load.more(&pool, 200, |key| slots.contains(&slot_of(key))).await;

    let operations = load.stop().await;
    assert_eq!(unexpected(&operations), none());
    until("the node", &pool, || {
        node_status(&pool, &cluster, added).is_some_and(|node| node.slots == slots.len())
    })
    .await;
    assert!(sockets(&cluster, added) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_is_drained_and_no_connection_to_it_is_left() {
    let mut cluster = masters();
    let added = cluster.add_node().unwrap();
    cluster.give_slots(0..100, added);
    let pool = builder(&cluster).build().unwrap();
    let tags = all_tags(&cluster, &[0, 1, 2, added]);
    let load = Load::start(&pool, &tags, &tags);
    load.more(&pool, 500, |_| true).await;
    let mut lease =
        soon("a lease", pool.acquire_for("kept", &cluster.key_on(added))).await.unwrap();
    let id: String = ask(&mut lease, "CLUSTER MYID").await;
    assert!(sockets(&cluster, added) > 1);

    cluster.empty_node(added);
    until("the news", &pool, || {
        node_status(&pool, &cluster, added).is_none_or(|node| node.slots == 0)
    })
    .await;
    cluster.remove_node(added);
    load.more(&pool, 500, |_| true).await;

    let operations = load.stop().await;
    assert_eq!(unexpected(&operations), none());
    until("its end", &pool, || node_status(&pool, &cluster, added).is_none()).await;
    until("one lease", &pool, || sockets(&cluster, added) <= 1).await;
    // The one in hand is its holder's until it is given back, beside others that its commands take.
    for (number, key) in [0, 1, 2].map(|node| cluster.key_on(node)).into_iter().enumerate() {
        let () = soon("SET", lease.set(&key, number)).await.unwrap();
    }
    assert_eq!(ask::<String>(&mut lease, "CLUSTER MYID").await, id);
    drop(lease);
    until("no connection", &pool, || cluster.connected(added) == 0).await;
    until("no count", &pool, || {
        let nodes = cluster_status(&pool).nodes;
        pool.status().live == nodes.iter().map(|node| node.status.live).sum::<usize>()
    })
    .await;
}

/// A slot of node 3's, which has just come. It has no slot any more when this returns, and the pool has let it
/// go.
async fn let_go_of(cluster: &mut Cluster, added: usize, pool: &GuardedPool) {
    cluster.empty_node(added);
    cluster.remove_node(added);
    let key = cluster.key_on(0);
    let gone = async {
        while node_status(pool, cluster, added).is_some() {
            // Moves teach only those who ask.
            let _: Result<Option<String>, _> = pool.shared("test").get(&key).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("its end", gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_that_used_a_node_that_has_left_sends_to_the_right_ones() {
    let mut cluster = masters();
    let added = cluster.add_node().unwrap();
    cluster.give_slots(0..10, added);
    let pool = unhurried_pool(&cluster);
    let (its, first, second) = (cluster.key_on(added), cluster.key_on(1), cluster.key_on(2));
    let mut handle = pool.shared("test");
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    // It is the first that they are connected to.
    let () = soon("SET", handle.set(&its, "its")).await.unwrap();
    let () = soon("SET", handle.set(&first, "first")).await.unwrap();
    assert_eq!(soon("GET", lease.get::<_, String>(&its)).await.unwrap(), "its");
    assert_eq!(soon("GET", lease.get::<_, String>(&first)).await.unwrap(), "first");
    let () = soon("SET", pool.shared("test").set(&second, "second")).await.unwrap();

    let_go_of(&mut cluster, added, &pool).await;
    let moved = errors_of_all(&cluster);

    let keys = [&first, &second, &its];
    for told in [
        soon("MGET", handle.mget::<_, Vec<String>>(&keys)).await,
        soon("MGET", lease.mget::<_, Vec<String>>(&keys)).await,
    ] {
        assert_eq!(told.unwrap(), ["first", "second", "its"]);
    }
    assert_eq!(errors_of_all(&cluster), moved, "each key was asked of its own node at once");
}

/// Redirections, at the nodes that stay.
fn errors_of_all(cluster: &Cluster) -> u64 {
    (0..3).map(|node| crate::errors(cluster, node, "MOVED")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_pool_ends_the_leases_of_nodes_that_have_left() {
    let mut cluster = masters();
    let added = cluster.add_node().unwrap();
    cluster.give_slots(0..10, added);
    let pool = unhurried(&cluster).drain_timeout(Duration::from_millis(100)).build().unwrap();
    let lease = soon("a lease", pool.acquire_for("kept", &cluster.key_on(added))).await.unwrap();
    let_go_of(&mut cluster, added, &pool).await;
    assert_eq!(sockets(&cluster, added), 1);

    soon("close", pool.close()).await;

    until("no connection", &pool, || cluster.connected(added) == 0).await;
    drop(lease);
}

/// Killed first, and forgotten then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_and_is_forgotten_is_not_dialed_any_more() {
    let mut cluster = crate::with_replicas();
    let pool = builder(&cluster).replica_reads(redis_guard::ReplicaReads::Prefer).build().unwrap();
    let tags = all_tags(&cluster, &[0, 1, 2]);
    let mut handle = pool.shared("test");
    for tag in &tags {
        let _: Option<String> = soon("GET", handle.get(tag)).await.unwrap();
    }
    until("the replica", &pool, || node_status(&pool, &cluster, 3).is_some()).await;

    cluster.node(3).crash();
    cluster.remove_node(3);
    let gone = async {
        while node_status(&pool, &cluster, 3).is_some() {
            let _: Result<Option<String>, _> = handle.get(&tags[0]).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("its end", gone).await;
    for tag in &tags {
        let _: Option<String> = soon("GET", handle.get(tag)).await.unwrap();
    }
}

/// The pool learns of nodes also where nobody asks it anything that would be redirected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_pool_closes_everything_everywhere() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let tags = all_tags(&cluster, &[0, 1, 2]);
    let load = Load::start(&pool, &tags, &tags);
    load.more(&pool, 200, |_| true).await;
    load.stop().await;

    soon("close", pool.close()).await;

    assert_eq!(pool.status().live, 0);
    for node in 0..3 {
        until("no connection", &pool, || cluster.connected(node) == 0).await;
    }
    let error = soon("GET", pool.shared("test").get::<_, String>("key")).await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    let error = soon("a lease", pool.acquire_for("test", "key")).await.unwrap_err();
    assert_eq!(error.reason(), "closed");
}

/// It leaves nothing behind that goes on asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_dropped_leaves_no_connection() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    for tag in all_tags(&cluster, &[0, 1, 2]) {
        let () = soon("SET", handle.set(&tag, 1)).await.unwrap();
    }
    drop((handle, pool));

    let gone = async {
        while (0..3).any(|node| cluster.connected(node) > 0) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon("no connection", gone).await;
}
