//! Nodes that stand still: nothing is closed, and nothing is answered.

use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedPool};
use tokio::time::Instant;

use crate::load::{Load, failures, none, tags};
use crate::support::Cluster;
use crate::support::cluster::slot_of;
use crate::waiting::{soon, until};
use crate::{builder, cluster_status, with_replicas};

/// What a call may take, and as much again for a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);

fn pool(cluster: &Cluster) -> GuardedPool {
    let quarter = Duration::from_millis(250);
    builder(cluster).acquire_timeout(quarter).response_timeout(quarter).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_stands_still_is_left_for_its_replica_and_disturbs_no_others_keys() {
    let cluster = with_replicas();
    let pool = pool(&cluster);
    let own = tags(&cluster, 0, 10);
    let others = [1, 2].map(|node| tags(&cluster, node, 10)).concat();
    let (load, also) = (Load::start(&pool, &others, &others), Load::start(&pool, &own, &own));
    load.more(&pool, 500, |_| true).await;
    also.more(&pool, 50, |_| true).await;

    cluster.node(0).pause();
    assert_eq!(cluster.moved_from(slot_of(&own[0]), 0), 3);
    let served = Instant::now();
    also.more(&pool, 100, |_| true).await;
    println!("back after {:?}", served.elapsed());
    assert!(served.elapsed() < PATIENCE, "{:?}", served.elapsed());
    cluster.node(0).resume();
    cluster.until_whole();
    also.more(&pool, 100, |_| true).await;

    let operations = load.stop().await;
    assert_eq!(failures(&operations), none());
    let operations = also.stop().await;
    let longest = operations.iter().map(|operation| operation.took()).max().unwrap();
    // Several commands each.
    assert!(longest < PATIENCE, "{longest:?}");
    let last = operations.iter().filter(|it| it.error.is_some()).map(|it| it.ended).max();
    // A second and a tenth from question to question, and what was sent before has its time for a reply.
    let late = last.map(|last| last.saturating_duration_since(served));
    assert!(late.is_some_and(|late| late < Duration::from_millis(1_600)), "{late:?}");
}

/// The last master says so itself as soon as it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_majority_is_down_and_comes_back() {
    let cluster = with_replicas();
    let pool = pool(&cluster);
    let all = [0, 1, 2].map(|node| tags(&cluster, node, 10)).concat();
    let load = Load::start(&pool, &all, &all);
    load.more(&pool, 500, |_| true).await;

    for node in [0, 1] {
        cluster.node(node).pause();
    }
    let mut handle = pool.shared("test");
    let key = cluster.key_on(2);
    let down = async {
        loop {
            match handle.set::<_, _, ()>(&key, 1).await {
                Err(error) if error.code() == Some("CLUSTERDOWN") => break error,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let error = soon("CLUSTERDOWN", down).await;
    println!("{error}; {:?}", cluster_status(&pool).trouble);
    let begun = Instant::now();
    for node in 0..3 {
        // Its own words, or a time-out.
        let key = &all[10 * node];
        let _ = soon("an answer", pool.shared("test").set::<_, _, ()>(key, 1)).await.unwrap_err();
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());

    for node in [0, 1] {
        cluster.node(node).resume();
    }
    cluster.until_whole();
    let whole = Instant::now();
    load.more(&pool, 200, |_| true).await;
    let operations = load.stop().await;
    let longest = operations.iter().map(|operation| operation.took()).max().unwrap();
    let last = operations.iter().filter(|it| it.error.is_some()).map(|it| it.ended).max().unwrap();
    println!(
        "the longest took {longest:?}, the last failed {:?} after",
        last.saturating_duration_since(whole)
    );
    assert!(longest < PATIENCE, "{longest:?}");
    assert!(last < whole + Duration::from_secs(1));
    until("all slots", &pool, || cluster_status(&pool).unserved_slots == 0).await;
}
