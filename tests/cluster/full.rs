//! A node without a free slot refuses its own keys, and no others.

use std::time::Duration;

use redis_guard::redis::pipe;
use redis_guard::{AsyncCommands, GuardedPool, SharedConnection};
use tokio::time::{Instant, sleep};

use crate::support::{Cluster, dials};
use crate::waiting::{HANG, soon, until};
use crate::{builder, kill_all, masters, node_status, sockets, unhurried};

const WORDS: &str = "max number of clients + cluster connections reached";
const FULL: usize = 1;
const OTHERS: [usize; 2] = [0, 2];
const CALLERS: usize = 64;
/// Long above what the machine may be busy for, and far below any timeout of the cluster's.
const AT_ONCE: Duration = Duration::from_secs(1);

/// From now on the node refuses whoever comes; those that are connected stay.
fn fill(cluster: &Cluster, index: usize) {
    cluster.node(index).admin().set_maxclients(1);
}

fn make_room(cluster: &Cluster, index: usize) {
    cluster.node(index).admin().set_maxclients(10_000);
}

/// What 64 callers are told in this time, each with a key of one node.
async fn calls_for(cluster: &Cluster, pool: &GuardedPool, time: Duration) -> Vec<Call> {
    let end = Instant::now() + time;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (node, handle) = (caller % 3, pool.shared("test"));
            let key = format!("{{{}}}{caller}", cluster.key_on(node));
            tokio::spawn(async move {
                let mut calls = Vec::new();
                while Instant::now() < end {
                    calls.push(call(handle.clone(), node, &key).await);
                    sleep(Duration::from_millis(2)).await;
                }
                calls
            })
        })
        .collect();
    let mut all = Vec::new();
    for caller in callers {
        all.extend(soon("a caller", caller).await.unwrap());
    }
    all
}

struct Call {
    node: usize,
    took: Duration,
    error: Option<String>,
}

async fn call(mut handle: SharedConnection, node: usize, key: &str) -> Call {
    let begun = Instant::now();
    let told = handle.set::<_, _, ()>(key, 1).await;
    Call { node, took: begun.elapsed(), error: told.err().map(|error| error.to_string()) }
}

fn median<'a>(calls: impl Iterator<Item = &'a Call>) -> Duration {
    let mut took: Vec<_> = calls.map(|call| call.took).collect();
    took.sort_unstable();
    took[took.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_keys_fail_at_once_in_its_own_words_and_the_others_do_not_notice() {
    let cluster = masters();
    // A machine that stands still for a while is not what the others are to notice.
    let pool = builder(&cluster).response_timeout(HANG).build().unwrap();
    let before = calls_for(&cluster, &pool, Duration::from_secs(1)).await;
    assert!(before.iter().all(|call| call.error.is_none()));

    fill(&cluster, FULL);
    kill_all(&cluster, FULL);
    let rejected = cluster.rejected(FULL);
    let during = calls_for(&cluster, &pool, Duration::from_secs(8)).await;

    let rejected = cluster.rejected(FULL) - rejected;
    let failed: Vec<_> = during.iter().filter(|call| call.error.is_some()).collect();
    let longest = failed.iter().map(|call| call.took).max().unwrap();
    println!(
        "{} calls of {} failed, the longest after {longest:?}; {rejected} refused dials",
        failed.len(),
        during.len()
    );
    assert!((3..=12).contains(&rejected), "{rejected} refused dials");
    let elsewhere = failed.iter().find(|call| call.node != FULL);
    assert!(elsewhere.is_none(), "{:?}", elsewhere.map(|call| &call.error));
    assert!(longest < AT_ONCE);
    assert!(median(failed.iter().copied()) < Duration::from_millis(20));
    let address = cluster.address(FULL);
    let silent = failed.iter().filter_map(|call| call.error.as_ref()).filter(|told| {
        // Those that were under way when they were cut off hear of that.
        !(told.contains(WORDS) && told.contains(&address))
    });
    let silent: Vec<_> = silent.collect();
    assert!(silent.len() <= CALLERS, "{} others: {silent:?}", silent.len());
    let (without, beside) = [&before, &during]
        .map(|calls| median(calls.iter().filter(|call| OTHERS.contains(&call.node))))
        .into();
    assert!(beside < 10 * without, "{without:?} without, {beside:?} beside it");
    let worst = &crate::cluster_status(&pool).nodes[0];
    assert_eq!(*worst.status.server, *address, "the worst comes first");

    make_room(&cluster, FULL);
    let mut handle = pool.shared("test");
    let key = cluster.key_on(FULL);
    let begun = Instant::now();
    let back = async {
        while handle.set::<_, _, ()>(&key, 1).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the node", back).await;
    println!("back after {:?}", begun.elapsed());
    let after = calls_for(&cluster, &pool, Duration::from_secs(1)).await;
    assert!(after.iter().all(|call| call.error.is_none()));
}

#[tokio::test]
async fn whoever_is_connected_to_it_is_served() {
    let cluster = masters();
    let pool = unhurried(&cluster).build().unwrap();
    let calls = calls_for(&cluster, &pool, Duration::from_millis(200)).await;
    assert!(calls.iter().all(|call| call.error.is_none()));
    let rejected = cluster.rejected(FULL);

    fill(&cluster, FULL);

    let calls = calls_for(&cluster, &pool, Duration::from_secs(1)).await;
    let failed: Vec<_> = calls.iter().filter_map(|call| call.error.as_ref()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(cluster.rejected(FULL), rejected);
}

#[tokio::test]
async fn a_pool_that_begins_with_it_serves_the_others_keys() {
    let cluster = masters();
    fill(&cluster, 0);
    // The first seed.
    let pool = unhurried(&cluster).build().unwrap();
    let mut handle = pool.shared("test");

    for node in [1, 2] {
        let () = soon("a SET", handle.set(cluster.key_on(node), 1)).await.unwrap();
    }
    let told = soon("a SET", handle.set::<_, _, ()>(cluster.key_on(0), 1)).await.unwrap_err();

    assert!(told.to_string().contains(WORDS), "{told}");
    assert!(told.to_string().contains(&cluster.address(0)), "{told}");
    assert_eq!(dials(&pool).get("max_clients"), Some(&cluster.rejected(0)));
}

#[tokio::test]
async fn what_concerns_several_nodes_says_which_one_refuses() {
    let cluster = masters();
    let pool = unhurried(&cluster).build().unwrap();
    let keys = [0, 1, 2].map(|node| cluster.key_on(node));
    let mut handle = pool.shared("test");
    let () = soon("MSET", handle.mset(&keys.each_ref().map(|key| (key, 1)))).await.unwrap();
    fill(&cluster, FULL);
    kill_all(&cluster, FULL);
    until("a refusal", &pool, || dials(&pool).contains_key("max_clients")).await;

    let mut pipeline = pipe();
    keys.iter().for_each(|key| _ = pipeline.get(key));
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    let told = [
        soon("MGET", handle.mget::<_, Vec<u64>>(&keys)).await.unwrap_err().to_string(),
        soon("it", pipeline.query_async::<Vec<u64>>(&mut handle)).await.unwrap_err().to_string(),
        soon("GET", lease.get::<_, u64>(&keys[FULL])).await.unwrap_err().to_string(),
        soon("a lease", pool.acquire_for("test", &keys[FULL])).await.unwrap_err().to_string(),
    ];

    for told in told {
        assert!(told.contains(WORDS) && told.contains(&cluster.address(FULL)), "{told}");
    }
    let values: Vec<u64> = soon("MGET", handle.mget(&[&keys[0], &keys[2]])).await.unwrap();
    assert_eq!(values, [1, 1]);
    let full = node_status(&pool, &cluster, FULL).unwrap().status;
    assert_ne!(full.breaker.state, redis_guard::BreakerState::Closed);
    assert_eq!(sockets(&cluster, FULL), 0);
}

#[tokio::test]
async fn what_others_have_done_is_not_called_refused() {
    let cluster = masters();
    let pool = unhurried(&cluster).build().unwrap();
    // A slot is node 1's, and the pool thinks it node 0's; something else is node 2's.
    let (moved, done) = (cluster.key_on(0), cluster.key_on(2));
    let mut handle = pool.shared("test");
    let () = soon("MSET", handle.mset(&[(&moved, 1), (&done, 1)])).await.unwrap();
    cluster.move_slot(crate::support::cluster::slot_of(&moved), FULL);
    fill(&cluster, FULL);
    kill_all(&cluster, FULL);

    let told = soon("MSET", handle.mset::<_, _, ()>(&[(&moved, 2), (&done, 2)])).await;

    let told = told.unwrap_err().to_string();
    assert!(told.contains("may have done their part") && told.contains(WORDS), "{told}");
    assert!(told.contains(&cluster.address(FULL)), "{told}");
    assert_eq!(soon("GET", handle.get::<_, u64>(&done)).await.unwrap(), 2);
    // What only reads can be said to be refused.
    let told = soon("MGET", handle.mget::<_, Vec<u64>>(&[&moved, &done])).await.unwrap_err();
    assert!(!told.to_string().contains("their part"), "{told}");
}
