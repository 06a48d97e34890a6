//! A server that cannot be reached, with nothing live: whoever waits for the first dial hears what became of it,
//! and whoever comes after that hears it at once. With something live, callers take turns on that.

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

#[tokio::test]
async fn a_server_that_has_served_and_is_gone_is_told_of_after_one_dial() {
    for multiplex in [false, true] {
        let server = TestServer::start().unwrap();
        let pool = builder(&server).multiplex(multiplex).build().unwrap();
        drop(soon("a lease", pool.acquire("test")).await.unwrap());
        server.crash();
        until("nothing live", &pool, || pool.status().live == 0).await;
        let before: u64 = dials(&pool).values().sum();

        let dialed = told(&pool, Outcome::Refused).await - before;

        assert!(dialed <= 2, "{:?}", dials(&pool));
        server.restart().unwrap();
        drop(ask_until_served(&pool).await);
        assert_eq!(pool.status().breaker.state, BreakerState::Closed);
    }
}

/// Five dials, half a second apart: time enough for it to come back.
#[tokio::test]
async fn a_restart_is_waited_out_where_the_breaker_has_the_patience() {
    let server = TestServer::start().unwrap();
    let pause = Duration::from_millis(500);
    let patient = builder(&server).backoff(Backoff::without_jitter(pause, pause));
    let pool = patient.breaker(Breaker::default().failures(5)).build().unwrap();
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

/// A listener that is closed refuses dials, and what is open goes on.
#[tokio::test]
async fn with_something_live_nobody_hears_of_a_failed_dial() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    let () = cmd("CONFIG").arg("SET").arg("port").arg(0).query_async(&mut lease).await.unwrap();

    let release = async {
        until("a failed dial", &pool, || dials(&pool).contains_key("refused")).await;
        assert_eq!(pool.status().breaker.state, BreakerState::Closed);
        drop(lease);
    };
    let (other, ()) = soon("service", async { tokio::join!(pool.acquire("test"), release) }).await;

    assert!(other.is_ok(), "{:?}", other.map(drop));
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
