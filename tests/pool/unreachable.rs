//! A server that nobody of this process has ever reached: whoever waits for the first dial hears what became
//! of it, and whoever comes after that hears it at once. One that has let the process in before may restart.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::{Backoff, Breaker, BreakerState, GuardedPool, GuardedPoolBuilder, Outcome};
use tokio::time::Instant;

use crate::support::{TestServer, ask_until_served, dials, unhurried};
use crate::waiting::{cmd, ready, soon, until};

/// With the back-off and the breaker that a service has, and no patience that ends.
fn builder(server: &TestServer) -> GuardedPoolBuilder {
    unhurried(server.url()).max_connections(8)
}

/// Nobody listens at the server's port.
fn closed_port() -> TestServer {
    let server = TestServer::start().unwrap();
    server.stop();
    server
}

/// What callers of every kind are told, and how often it was dialed for all of them.
async fn told(pool: &GuardedPool, outcome: Outcome) -> u64 {
    let leases = join_all((0..64).map(|_| pool.acquire("lease")));
    let shared = async {
        let mut handles: Vec<_> = (0..16).map(|_| pool.shared("shared")).collect();
        let ping = cmd("PING");
        join_all(handles.iter_mut().map(|handle| handle.send(&ping))).await
    };
    let (leases, shared, subscriber) =
        soon("all answers", async { tokio::join!(leases, shared, pool.pubsub("news")) }).await;

    let errors = leases.into_iter().map(|lease| lease.map(drop).unwrap_err());
    let errors = errors.chain(shared.into_iter().map(|told| told.unwrap_err()));
    for error in errors.chain([subscriber.map(drop).unwrap_err()]) {
        let failure = error.rejection().and_then(|rejection| rejection.failure()).cloned();
        assert_eq!(failure.map(|failure| failure.outcome), Some(outcome), "{error}");
        assert!(error.retry_after().is_some(), "{error}");
    }
    let dialed = dials(pool).values().sum();
    assert!(ready(pool.acquire("lease")).expect("told on the first poll").is_err());
    dialed
}

#[tokio::test]
async fn a_port_that_refuses_is_told_of_after_one_dial() {
    for multiplex in [false, true] {
        let server = closed_port();
        let pool = builder(&server).multiplex(multiplex).build().unwrap();
        let begun = Instant::now();
        let dialed = told(&pool, Outcome::Refused).await;
        println!("after {:?} and {dialed} dials", begun.elapsed());
        assert!(dialed <= 2, "{:?}", dials(&pool));
        assert_ne!(pool.status().breaker.state, BreakerState::Closed);

        server.restart().unwrap();
        drop(ask_until_served(&pool).await);
        assert_eq!(pool.status().breaker.state, BreakerState::Closed);
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_told_of_after_one_dial() {
    let server = TestServer::start().unwrap();
    server.pause();
    let pool = builder(&server).connect_timeout(Duration::from_millis(200)).build().unwrap();

    let dialed = told(&pool, Outcome::Timeout).await;

    assert!(dialed <= 2, "{:?}", dials(&pool));
    server.resume();
    drop(ask_until_served(&pool).await);
}

/// Five dials, half a second apart: time enough for it to come back.
#[tokio::test]
async fn a_restart_is_waited_out() {
    let server = TestServer::start().unwrap();
    let pause = Duration::from_millis(500);
    let pool = builder(&server).backoff(Backoff::without_jitter(pause, pause)).build().unwrap();
    drop(soon("a lease", pool.acquire("test")).await.unwrap());
    server.crash();
    until("nothing live", &pool, || pool.status().live == 0).await;

    let mut handle = pool.shared("test");
    let ping = cmd("PING");
    let restart = async {
        until("a failed dial", &pool, || dials(&pool).contains_key("refused")).await;
        server.restart().unwrap();
    };
    let all = async { tokio::join!(pool.acquire("test"), handle.send(&ping), restart) };
    let (lease, answer, ()) = soon("service", all).await;

    assert!(lease.is_ok() && answer.is_ok(), "{answer:?}");
    assert!(pool.status().endpoints.iter().all(|endpoint| endpoint.rejected.is_empty()));
}

/// Another pool of the process that was let in is enough.
#[tokio::test]
async fn what_the_process_knows_every_pool_of_it_knows() {
    let server = TestServer::start().unwrap();
    let pause = Duration::from_millis(500);
    let pool = || builder(&server).backoff(Backoff::without_jitter(pause, pause)).build().unwrap();
    let (first, second) = (pool(), pool());
    drop(soon("a lease", first.acquire("test")).await.unwrap());
    server.crash();
    until("nothing live", &first, || first.status().live == 0).await;

    let restart = async {
        until("a failed dial", &second, || dials(&second).contains_key("refused")).await;
        server.restart().unwrap();
    };
    let (lease, ()) =
        soon("service", async { tokio::join!(second.acquire("test"), restart) }).await;

    assert!(lease.is_ok());
}

#[tokio::test]
async fn whoever_wants_more_patience_says_so() {
    let server = closed_port();
    let pause = Duration::from_millis(500);
    let pool = builder(&server)
        .breaker(Breaker::default().failures(5))
        .backoff(Backoff::without_jitter(pause, pause))
        .build()
        .unwrap();
    let restart = async {
        until("a failed dial", &pool, || dials(&pool).contains_key("refused")).await;
        server.restart().unwrap();
    };
    let (lease, ()) = soon("service", async { tokio::join!(pool.acquire("test"), restart) }).await;
    assert!(lease.is_ok());
}
