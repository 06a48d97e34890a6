//! Many pools of one process at the same sentinels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedPool};

use crate::support::{SentinelSet, TestServer};
use crate::waiting::{soon, until};
use crate::{clients, listens_to};

const POOLS: usize = 50;

/// Looks all the time how many clients each sentinel has.
struct Most {
    stop: Arc<AtomicBool>,
    looking: Option<JoinHandle<()>>,
    each: Arc<[AtomicUsize; 3]>,
}

impl Most {
    fn of(set: &Arc<SentinelSet>) -> Self {
        let (stop, each) = (Arc::new(AtomicBool::new(false)), Arc::<[AtomicUsize; 3]>::default());
        let (set, stopped, seen) = (Arc::clone(set), Arc::clone(&stop), Arc::clone(&each));
        let looking = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                for (number, most) in seen.iter().enumerate() {
                    most.fetch_max(clients(set.sentinel(number)), Ordering::SeqCst);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, looking: Some(looking), each }
    }

    fn most(mut self) -> Vec<usize> {
        self.stop.store(true, Ordering::SeqCst);
        self.looking.take().unwrap().join().unwrap();
        self.each.iter().map(|most| most.load(Ordering::SeqCst)).collect()
    }
}

async fn write(pool: &GuardedPool) -> bool {
    let Ok(mut lease) = pool.acquire("work").await else { return false };
    lease.set::<_, _, ()>("key", 1).await.is_ok()
}

/// Of two masters, with names of their own; they come in a rush.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_pools_are_one_client_of_one_sentinel() {
    let other = TestServer::start().unwrap();
    let set = Arc::new(SentinelSet::start().unwrap());
    set.also_watch("other", &other);
    let most = Most::of(&set);

    let pool = |number: usize| {
        let master = if number.is_multiple_of(5) { "other" } else { set.name() };
        // In another order each time, as if written down by somebody else.
        let mut sentinels = set.sentinels();
        sentinels.rotate_left(number % 3);
        let pool = GuardedPool::sentinel(sentinels, master)
            .name(format!("pool {number}"))
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(20));
        pool.build().unwrap()
    };
    let pools: Vec<GuardedPool> = (0..POOLS).map(pool).collect();
    let written = futures_util::future::join_all(pools.iter().map(write));
    assert!(soon("the writes", written).await.into_iter().all(|written| written));

    until("the subscription", &pools[0], || listens_to(&set, &pools[0]).is_some()).await;
    let now = || (0..3).map(|number| clients(set.sentinel(number))).sum::<usize>();
    assert_eq!(now(), 1);
    set.fail_over();
    let new = set.moved_from(0);
    for (number, pool) in pools.iter().enumerate() {
        let master = if number.is_multiple_of(5) {
            format!("127.0.0.1:{}", other.port())
        } else {
            set.address(new)
        };
        until("the move", pool, || *pool.status().server == *master).await;
        let moves = pool.status().sentinel.unwrap().moves;
        let written = async { while !write(pool).await {} };
        soon("a write", written).await;
        println!("{number}: {moves} moves");
    }
    set.until_whole();
    assert_eq!(clients(set.server(0)), 0);

    let most = most.most();
    println!("at most so many clients at once: {most:?}");
    assert!(most.iter().all(|&most| most <= 1), "{most:?}");
    assert_eq!(now(), 1);
}

/// Whatever they call themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_of_different_names_are_one_client_too() {
    let set = SentinelSet::builder().sentinels(1).replicas(0).start().unwrap();
    let pool = |number: usize| {
        let pool = GuardedPool::sentinel(set.sentinels(), set.name());
        pool.client_name(format!("client-{number}")).build().unwrap()
    };
    let pools: Vec<GuardedPool> = (0..10).map(pool).collect();

    let written = futures_util::future::join_all(pools.iter().map(write));

    assert!(soon("the writes", written).await.into_iter().all(|written| written));
    assert_eq!(clients(set.sentinel(0)), 1);
    let named = |number: usize| {
        let name = format!("client-{number}");
        let clients = SentinelSet::clients(set.server(0)).unwrap();
        clients.iter().filter(|client| client["name"] == name).count()
    };
    assert!((0..10).all(|number| named(number) == 1));
}

/// They have one sentinel in common, and share the pace of dials there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_of_different_sets_take_turns_at_a_sentinel() {
    let set = SentinelSet::builder().sentinels(1).replicas(0).start().unwrap();
    let pool = |number: usize| {
        let nowhere = format!("redis://127.0.0.1:{}", number + 1);
        let sentinels = [set.sentinels().remove(0), nowhere];
        GuardedPool::sentinel(sentinels, set.name()).build().unwrap()
    };
    let pools: Vec<GuardedPool> = (0..10).map(pool).collect();

    let written = futures_util::future::join_all(pools.iter().map(write));

    assert!(soon("the writes", written).await.into_iter().all(|written| written));
    assert_eq!(clients(set.sentinel(0)), 10);
}

/// The pool that keeps the connection goes; another one takes it over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_when_one_is_dropped() {
    let set = SentinelSet::start().unwrap();
    let mut pools: Vec<GuardedPool> = (0..3)
        .map(|_| GuardedPool::sentinel(set.sentinels(), set.name()).build().unwrap())
        .collect();
    for pool in &pools {
        assert!(write(pool).await);
    }

    drop(pools.remove(0));
    pools.remove(0).close().await;

    until("the subscription", &pools[0], || listens_to(&set, &pools[0]).is_some()).await;
    set.fail_over();
    let new = set.moved_from(0);
    until("the move", &pools[0], || *pools[0].status().server == *set.address(new)).await;
    drop(pools);
    let left = || (0..3).map(|number| clients(set.sentinel(number))).sum::<usize>();
    let gone = async {
        while left() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the end of the connection", gone).await;
}

/// Each runtime ends while pools on others go on.
#[test]
fn pools_on_runtimes_of_their_own() {
    let set = SentinelSet::start().unwrap();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let pool = || GuardedPool::sentinel(set.sentinels(), set.name()).build().unwrap();
    let one = first.block_on(async {
        let pool = pool();
        assert!(write(&pool).await);
        pool
    });
    let other = second.block_on(async {
        let pool = pool();
        assert!(write(&pool).await);
        pool
    });

    first.shutdown_background();

    set.fail_over();
    let new = set.moved_from(0);
    second.block_on(async {
        until("the move", &other, || *other.status().server == *set.address(new)).await;
        let written = async { while !write(&other).await {} };
        soon("a write", written).await;
    });
    drop(one);
}
