//! Members of a fleet whose registry is on a master that moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis_guard::internal::registry::registry_keys;
use redis_guard::{Fleet, GuardedPool};

use crate::builder;
use crate::support::SentinelSet;
use crate::waiting::{cmd, until};

/// Callers that want more than their share, all the time.
fn callers(pool: &GuardedPool) -> tokio::task::JoinSet<()> {
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let pool = pool.clone();
        callers.spawn(async move {
            loop {
                if let Ok(mut lease) = pool.acquire("work").await {
                    let _ = cmd("PING").query_async::<String>(&mut lease).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    callers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_members_again_and_take_no_more_meanwhile() {
    let set = SentinelSet::start().unwrap();
    let member = |name: &str| {
        let pool = builder(&set).name(name).own_gate(true).max_connections(12);
        pool.fleet(Fleet::named("test")).build().unwrap()
    };
    let pools = [member("one"), member("other")];
    let working: Vec<_> = pools.iter().map(callers).collect();
    let fleet = |pool: &GuardedPool| pool.status().fleet;
    let both = |pool: &GuardedPool| {
        fleet(pool).is_some_and(|fleet| fleet.joined && fleet.members == 2)
    };
    // Few slots, so that the registry has something to divide.
    for server in set.servers() {
        server.admin().set_maxclients(40);
    }
    for pool in &pools {
        until("membership", pool, || both(pool)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before: Vec<usize> = pools.iter().map(|pool| pool.status().limit).collect();

    // While no registry answers, nobody may have more than it had.
    let stop = Arc::new(AtomicBool::new(false));
    let watching: Vec<_> = pools
        .iter()
        .cloned()
        .zip(before.clone())
        .map(|(pool, before)| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let (mut most, mut away) = (0, false);
                while !stop.load(Ordering::SeqCst) {
                    let status = pool.status();
                    if !status.fleet.is_some_and(|fleet| fleet.joined) {
                        away = true;
                        most = most.max(status.limit);
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                assert!(most <= before, "{most} while it had no answer, and {before} before");
                away
            })
        })
        .collect();
    set.server(0).crash();
    let new = set.moved_from(0);

    let [key, ..] = registry_keys("test");
    let heartbeat = || set.server(new).admin().text(&["HGETALL", &key]);
    for pool in &pools {
        until("membership", pool, || both(pool) && *pool.status().server == *set.address(new)).await;
    }
    let (then, both_again) = (heartbeat(), || pools.iter().all(both));
    until("a heartbeat there", &pools[0], || heartbeat() != then && both_again()).await;
    assert_eq!(set.server(new).admin().text(&["HLEN", &key]), "2");
    stop.store(true, Ordering::SeqCst);
    for watching in watching {
        println!("it was without an answer: {}", watching.await.unwrap());
    }
    println!("limits before {before:?}, after {:?}", pools.each_ref().map(|p| p.status().limit));
    drop(working);
}
