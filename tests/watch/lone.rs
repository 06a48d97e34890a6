//! A lone service on a quiet server must not feel the watch.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::builder;
use crate::support::TestServer;
use crate::waiting::{cmd, soon, until};

/// As many as it takes to see what each can do when the machine has no other work just then: three at
/// least, and no more than twenty.
const ROUNDS: std::ops::RangeInclusive<usize> = 3..=20;

async fn time_to_full(server: &TestServer, watch: bool, callers: bool) -> Duration {
    let pool = builder(server).max_connections(64).watch(watch).build().unwrap();
    let begun = Instant::now();
    if callers {
        let mut tasks = JoinSet::new();
        for _ in 0..64 {
            let pool = pool.clone();
            tasks.spawn(async move {
                loop {
                    // Refused once the pool is closed.
                    let Ok(mut lease) = pool.acquire("test").await else { break };
                    let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
        until("all of them", &pool, || pool.status().live == 64).await;
    } else {
        assert_eq!(soon("all of them", pool.warm_up(64)).await.unwrap(), 64);
    }
    let took = begun.elapsed();
    pool.close().await;
    took
}

async fn is_as_fast_as_without(callers: bool) {
    let server = TestServer::start().unwrap();
    let (mut watched, mut alone) = (Duration::MAX, Duration::MAX);
    for round in 1..=*ROUNDS.end() {
        alone = alone.min(time_to_full(&server, false, callers).await);
        watched = watched.min(time_to_full(&server, true, callers).await);
        if ROUNDS.contains(&round) && watched < alone * 2 {
            return;
        }
    }
    panic!("64 connections, callers {callers}: {watched:?} with the watch, {alone:?} without");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_callers_get_all_connections_as_soon_as_without() {
    is_as_fast_as_without(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_warm_as_soon_as_without() {
    is_as_fast_as_without(false).await;
}
