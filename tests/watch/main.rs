//! The watch and the price law on real servers: what the pool hears, and what it makes of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod backoff;
mod clean;
mod close;
mod fake;
mod faults;
mod frozen;
mod lent;
mod limit;
mod lone;
mod pace;
mod price;
mod proxy;
mod reserved;
mod seen;
mod service;
mod spy;

use std::time::Duration;

use redis_guard::server::Observation;
use redis_guard::{GuardedConnection, GuardedPool, GuardedPoolBuilder};
use support::{TestServer, unhurried};
use waiting::until;

/// Longer than any pause between two looks: 3 s, and 30 % more.
const LOOK: Duration = Duration::from_secs(5);

fn builder(server: &TestServer) -> GuardedPoolBuilder {
    unhurried(server.url())
}

fn rejected(server: &TestServer) -> u64 {
    server.admin().info_u64("rejected_connections")
}

/// Returns when the pool has heard something that is so.
async fn heard(what: &str, pool: &GuardedPool, wanted: impl Fn(&Observation) -> bool) {
    until(what, pool, || pool.status().watch.observation.is_some_and(|seen| wanted(&seen))).await;
}

/// So many leases at a time, each for a caller of its own, of connections that are there already.
async fn warm(pool: &GuardedPool, leases: usize) -> Vec<GuardedConnection> {
    waiting::soon("warming up", pool.warm_up(leases)).await.unwrap();
    hold(pool, leases).await
}

/// So many leases at a time, each for a caller of its own.
async fn hold(pool: &GuardedPool, leases: usize) -> Vec<GuardedConnection> {
    let callers = (0..leases).map(|_| pool.acquire("holder"));
    let held = waiting::soon("the leases", futures_util::future::join_all(callers)).await;
    held.into_iter()
        .map(|lease| lease.unwrap_or_else(|error| panic!("{error}: {pool:?}")))
        .collect()
}
