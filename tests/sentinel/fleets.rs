//! Members of a fleet whose registry is on a master that moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis_guard::internal::registry::registry_keys;
use redis_guard::{Fleet, GuardedPool, LimitedBy};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::builder;
use crate::support::{SentinelSet, TestServer};
use crate::waiting::{cmd, until};

/// More than the server has for two.
const CALLERS: usize = 30;

/// Callers that want more than their share, all the time.
fn callers(pool: &GuardedPool) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let pool = pool.clone();
        callers.spawn(async move {
            loop {
                if let Ok(mut lease) = pool.acquire("work").await {
                    let _ = cmd("PING").query_async::<String>(&mut lease).await;
                    sleep(Duration::from_millis(10)).await;
                }
                sleep(Duration::from_millis(2)).await;
            }
        });
    }
    callers
}

fn limits(pools: &[GuardedPool]) -> Vec<usize> {
    pools.iter().map(|pool| pool.status().limit).collect()
}

/// How many scripts the server has run; replicas get the effects only. `None`: it does not say, for a
/// sentinel has closed all connections in order to make a master of it.
fn heartbeats(server: &TestServer) -> Option<u64> {
    let stats = server.admin().command(&["INFO", "commandstats"]).ok()?.text();
    let calls = stats.lines().filter_map(|line| {
        let line = line.strip_prefix("cmdstat_eval:").or(line.strip_prefix("cmdstat_evalsha:"))?;
        line.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok()
    });
    Some(calls.sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_members_again_and_take_no_more_meanwhile() {
    let set = Arc::new(SentinelSet::builder().watchful().start().unwrap());
    for server in set.servers() {
        server.admin().set_maxclients(40);
    }
    let member = |name: &str| {
        let pool = builder(&set).name(name).own_gate(true).max_connections(CALLERS);
        pool.fleet(Fleet::named("test")).build().unwrap()
    };
    let pools = [member("one"), member("other")];
    let working: Vec<_> = pools.iter().map(callers).collect();
    let joined = |pool: &GuardedPool| {
        let status = pool.status();
        let members = status.fleet.filter(|fleet| fleet.joined).map(|fleet| fleet.members);
        members == Some(2) && status.limited_by == LimitedBy::FleetLease
    };
    for pool in &pools {
        until("membership", pool, || joined(pool)).await;
    }
    // Shares grow with the heartbeats.
    until("shares", &pools[0], || limits(&pools).iter().sum::<usize>() >= 16).await;

    // From the master's end on, and until the new one has had a heartbeat.
    let stop = Arc::new(AtomicBool::new(false));
    // What is lost with the master lowers a limit at once; a reply that is on its way raises it.
    let at_last = limits(&pools);
    set.server(0).crash();
    let before: Vec<_> =
        at_last.into_iter().zip(limits(&pools)).map(|(last, now)| last.max(now)).collect();
    let watching = {
        let (set, pools, stop) = (Arc::clone(&set), pools.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut most = vec![0; pools.len()];
            while !stop.load(Ordering::SeqCst) {
                let now = limits(&pools);
                let (one, other) = (heartbeats(set.server(1)), heartbeats(set.server(2)));
                match one.zip(other) {
                    Some((0, 0)) => {}
                    Some(_) => break,
                    None => continue,
                }
                most = most.into_iter().zip(now).map(|(most, now)| most.max(now)).collect();
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        })
    };
    let new = set.moved_from(0);
    until("a heartbeat there", &pools[0], || heartbeats(set.server(new)) > Some(2)).await;
    for pool in &pools {
        until("membership", pool, || joined(pool)).await;
    }
    stop.store(true, Ordering::SeqCst);
    let most = watching.join().unwrap();

    println!("limits before: {before:?}, without an answer: {most:?}, now: {:?}", limits(&pools));
    assert!(most.iter().zip(&before).all(|(most, before)| most <= before), "{most:?}, {before:?}");
    let [key, ..] = registry_keys("test");
    assert_eq!(set.server(new).admin().text(&["HLEN", &key]), "2");
    until("shares", &pools[0], || limits(&pools).iter().sum::<usize>() >= 16).await;
    assert!(limits(&pools).iter().sum::<usize>() < 40, "{:?}", limits(&pools));
    drop(working);
}
