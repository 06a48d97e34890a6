//! A heartbeat is sent once: the registry takes no second one of the same number, and the reply that
//! counts may be the one to that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis_guard::{Fleet, GuardedPool};
use tokio::time::timeout;

use crate::fake::Fake;
use crate::waiting::{HANG, until};

const POOLS: usize = 16;
const BEATS: usize = 2_000;
const LONG: Duration = Duration::from_secs(15);

/// A share of one connection, good for a second; the next heartbeat in 100 ms.
const SHARE: &str = "*9\r\n:1\r\n:100\r\n:1000\r\n:1\r\n:16\r\n:0\r\n:0\r\n:0\r\n:1\r\n";

/// Callers on a thread of their own, who lease all the connections, then give all of them back, and
/// so on.
fn callers(pools: Vec<GuardedPool>, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            drop(pools.iter().map(|pool| pool.try_acquire("work")).collect::<Vec<_>>());
        }
    })
}

#[tokio::test]
async fn no_heartbeat_is_sent_twice_beside_leases_that_come_and_go() {
    let fake = Fake::start("connected_clients:40 maxclients:1000 rejected_connections:0").await;
    fake.replies_to_scripts(SHARE);
    let mut pools = Vec::new();
    for _ in 0..POOLS {
        let pool = GuardedPool::builder(fake.url()).max_connections(1).acquire_timeout(HANG);
        let pool = pool.fleet(Fleet::named("test")).build().unwrap();
        drop(pool.acquire("work").await.unwrap());
        pools.push(pool);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let callers = callers(pools.clone(), &stop);

    // As many as come in that time, on a machine that has other things to do.
    let many = until("thousands of heartbeats", &pools[0], || fake.heartbeats().len() >= BEATS);
    let _ = timeout(LONG, many).await;

    stop.store(true, Ordering::Relaxed);
    callers.join().unwrap();
    let sent = fake.heartbeats();
    assert!(sent.len() >= POOLS * 3, "{sent:?}");
    let twice: Vec<_> = sent.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{} of {}: {twice:?}", twice.len(), sent.len());
}
