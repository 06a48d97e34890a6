//! The back-off of a pool that knows how many clients its server has.

use std::time::Duration;

use redis_guard::{Backoff, Event, GuardedPool, GuardedPoolBuilder};
use tokio::time::sleep;

use crate::fake::Fake;
use crate::heard;
use crate::support::TestServer;

const BASE: Duration = Duration::from_millis(50);
const CAP: Duration = Duration::from_secs(5);

/// The delays after so many failures in a row, once the server is gone that the pool has watched.
/// Virtual time: nobody is there any more who lives in another one.
async fn delays(pool: &GuardedPool, count: usize) -> Vec<Duration> {
    tokio::time::pause();
    let mut events = pool.events();
    let asking = async {
        loop {
            let _ = pool.acquire("test").await;
            sleep(BASE).await;
        }
    };
    let counting = async {
        let mut delays = Vec::new();
        while delays.len() < count {
            if let Some(Event::DialFailed { next_dial_in, .. }) = events.next().await {
                delays.push(next_dial_in);
            }
        }
        delays
    };
    tokio::select! {
        () = asking => unreachable!("it never ends"),
        delays = counting => delays,
    }
}

/// Equal jitter: from the seventh failure on between half the cap and the cap.
#[track_caller]
fn keep_to_the_cap(delays: &[Duration]) {
    for (nth, delay) in (1..).zip(delays).skip(6) {
        assert!(*delay >= CAP / 2 && *delay <= CAP, "the {nth}th is {delay:?}: {delays:?}");
    }
}

/// Those of a pool that was alone on its server.
async fn alone(settings: impl FnOnce(GuardedPoolBuilder) -> GuardedPoolBuilder) -> Vec<Duration> {
    let server = TestServer::start().unwrap();
    let pool = settings(GuardedPool::builder(server.url())).build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    heard("a word", &pool, |_| true).await;
    server.stop();
    delays(&pool, 9).await
}

/// Those of a pool that was one of thousands.
async fn in_a_crowd(
    settings: impl FnOnce(GuardedPoolBuilder) -> GuardedPoolBuilder,
) -> Vec<Duration> {
    let fake = Fake::start("connected_clients:9000 maxclients:20000 rejected_connections:0").await;
    let pool = settings(GuardedPool::builder(fake.url())).build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    heard("a word", &pool, |_| true).await;
    drop(fake);
    delays(&pool, 11).await
}

#[tokio::test]
async fn one_that_was_configured_is_kept_by_a_pool_that_is_alone() {
    let explicit = Backoff::equal_jitter(BASE, CAP);
    keep_to_the_cap(&alone(|builder| builder.backoff(explicit)).await);
}

#[tokio::test]
async fn one_that_was_configured_is_kept_by_a_pool_in_a_crowd() {
    let explicit = Backoff::equal_jitter(BASE, CAP);
    keep_to_the_cap(&in_a_crowd(|builder| builder.backoff(explicit)).await);
}

#[tokio::test]
async fn one_of_other_values_is_kept() {
    let explicit = Backoff::equal_jitter(BASE, CAP * 2);
    let delays = in_a_crowd(|builder| builder.backoff(explicit)).await;
    assert!(delays[8..].iter().all(|delay| *delay >= CAP && *delay <= CAP * 2), "{delays:?}");
}

/// "Between 5 s and 30 s", for one process the least of it.
#[tokio::test]
async fn the_default_of_one_that_is_alone_ends_at_five_seconds() {
    keep_to_the_cap(&alone(|builder| builder).await);
}

#[tokio::test]
async fn the_default_of_one_in_a_crowd_goes_on_beyond_five() {
    let longest = Duration::from_secs(30);
    let delays = in_a_crowd(|builder| builder).await;
    assert!(delays[8..].iter().all(|delay| *delay > CAP && *delay <= longest), "{delays:?}");
}
