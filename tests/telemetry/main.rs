//! What an operator sees of an outage: metrics and log lines.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod cluster;
mod kept;
mod log;
mod metrics;
mod panics;
mod sentinel;

use std::time::Duration;

use redis_guard::{Backoff, Budget, Event, GuardedPool, GuardedPoolBuilder};
use support::{TestServer, unhurried};
use waiting::{let_pass, next, poll_once, until};

const POOL: &str = "shop";
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

fn server() -> TestServer {
    TestServer::builder().maxclients(6).start().unwrap()
}

fn builder(server: &TestServer) -> GuardedPoolBuilder {
    unhurried(server.url())
        .name(POOL)
        .max_connections(4)
        // A server this small has no room that the price law would give away.
        .adaptive_limit(false)
        .endpoint("checkout", Budget::max(2).reserve(1))
        .backoff(Backoff::without_jitter(Duration::from_millis(25), Duration::from_millis(50)))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .leak_after(Duration::from_millis(60))
}

/// A cold outage, recovery, a leak that comes back, a budget that runs out and a caller that waits
/// in vain.
async fn live_through_an_outage(server: &TestServer, pool: &GuardedPool) {
    let mut events = pool.events();
    let occupants = server.fill();
    pool.acquire("checkout").await.unwrap_err();
    occupants.free();
    next("recovery", &mut events, |event| matches!(event, Event::Connected { .. })).await;
    let leases = [pool.acquire("checkout").await.unwrap(), pool.acquire("checkout").await.unwrap()];
    let mut over_budget = Box::pin(pool.acquire("checkout"));
    assert!(poll_once(&mut over_budget).is_pending());
    let others = [pool.acquire("search").await.unwrap(), pool.acquire("search").await.unwrap()];
    let mut in_vain = Box::pin(pool.acquire("search"));
    assert!(poll_once(&mut in_vain).is_pending());
    let_pass(ACQUIRE_TIMEOUT).await;
    assert_eq!(over_budget.await.unwrap_err().reason(), "budget_exhausted");
    assert_eq!(in_vain.await.unwrap_err().reason(), "acquire_timeout");
    until("the leaks", pool, || pool.status().leaks.len() == 4).await;
    drop((leases, others));
}
