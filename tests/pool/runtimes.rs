//! A pool that is used from several runtimes, one after the other and at once.

use std::time::Duration;

use redis_guard::redis::AsyncCommands;
use redis_guard::{Error, GuardedPool, Rejection};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::support::{TestServer, dials, impatient};
use crate::{pair, pair_with};

const THREADS: usize = 6;
const ROUNDS: usize = 10;

fn short_lived() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn lasting() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn count(pool: &GuardedPool) -> Result<u64, Error> {
    let mut lease = pool.acquire("work").await?;
    for _ in 0..20 {
        let _: u64 = lease.incr("n", 1).await?;
    }
    Ok(lease.incr("n", 1).await?)
}

async fn count_shared(pool: &GuardedPool) -> Result<u64, Error> {
    let mut handle = pool.shared("work");
    for _ in 0..20 {
        let _: u64 = handle.incr("n", 1).await?;
    }
    Ok(handle.incr("n", 1).await?)
}

/// Each of several threads runs the work on one runtime after the other.
fn at_once(
    pool: &GuardedPool,
    work: impl AsyncFn(&GuardedPool) -> Result<u64, Error> + Copy + Send + Sync,
) -> Vec<Result<u64, Error>> {
    std::thread::scope(|scope| {
        let rounds = || (0..ROUNDS).map(|_| short_lived().block_on(work(pool))).collect::<Vec<_>>();
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(rounds)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn leases_of_a_pool_with_a_runtime_of_its_own_outlive_their_callers() {
    let own = lasting();
    let (_server, pool) = pair_with(4, |builder| builder.runtime(own.handle().clone()));

    let told = at_once(&pool, count);

    let failed: Vec<_> = told.iter().filter(|told| told.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(dials(&pool)["connected"] <= 4, "{:?}", dials(&pool));
}

#[test]
fn shared_connections_of_a_pool_with_a_runtime_of_its_own_outlive_their_callers() {
    let own = lasting();
    let (_server, pool) = pair_with(4, |builder| builder.runtime(own.handle().clone()));

    let told = at_once(&pool, count_shared);

    let failed: Vec<_> = told.iter().filter(|told| told.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(dials(&pool), [("connected", 1)].into());
}

/// Without one the connections end with the runtime they were dialed on, and none of those is lent.
#[test]
fn one_runtime_after_the_other_needs_none() {
    let (_server, pool) = pair(4);
    for round in 0..20 {
        let told = short_lived().block_on(count(&pool));
        assert!(told.is_ok(), "{round}: {told:?}");
        let told = short_lived().block_on(count_shared(&pool));
        assert!(told.is_ok(), "{round}: {told:?}");
    }
}

#[test]
fn a_pool_whose_runtime_is_gone_refuses_within_the_acquire_timeout() {
    let server = TestServer::start().unwrap();
    let own = lasting();
    let pool = impatient(&server.url()).acquire_timeout(Duration::from_millis(100));
    let pool = pool.runtime(own.handle().clone()).build().unwrap();
    assert!(short_lived().block_on(count(&pool)).is_ok());
    drop(own);

    let asked = Instant::now();
    let told = short_lived().block_on(count(&pool)).unwrap_err();

    assert!(matches!(told, Error::Rejected(Rejection::AcquireTimeout { .. })), "{told:?}");
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert_eq!((pool.status().live, pool.status().in_use), (0, 0));
}
