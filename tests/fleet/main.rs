//! The fleet: pools that share a server's slots by a registry on the server itself.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../watch/fake.rs"]
mod fake;
#[path = "../watch/service.rs"]
mod service;
#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod crowd;
mod damage;
mod denied;
mod held;
mod joining;
mod leaving;
mod news;
mod once;
mod slow_beats;

use std::time::Duration;

use redis_guard::internal::registry::registry_keys;
use redis_guard::{Fleet, FleetStatus, GuardedPool, GuardedPoolBuilder};
use service::Service;
use support::{TestServer, unhurried};

/// How long callers keep a connection.
const HOLD: Duration = Duration::from_millis(10);

/// A member that stands for a process of its own.
fn member(server: &TestServer) -> GuardedPoolBuilder {
    unhurried(server.url())
        .min_idle(1)
        .own_gate(true)
        .max_connections(30)
        .acquire_timeout(Duration::from_secs(5))
        .fleet(Fleet::named("test"))
}

/// A member with so many callers, and as many connections at most.
fn service(server: &TestServer, callers: usize) -> Service {
    Service::of(member(server).max_connections(callers).build().unwrap(), callers, HOLD)
}

fn fleet(pool: &GuardedPool) -> FleetStatus {
    pool.status().fleet.unwrap_or_else(|| panic!("it has not asked yet: {:#?}", pool.status()))
}

fn has_joined(pool: &GuardedPool) -> bool {
    pool.status().fleet.is_some_and(|fleet| fleet.joined)
}

/// The members that the registry of this fleet knows.
fn members(server: &TestServer, fleet: &str) -> u64 {
    let [key, ..] = registry_keys(fleet);
    server.admin().text(&["HLEN", &key]).parse().unwrap()
}

fn rejected(server: &TestServer) -> u64 {
    server.admin().info_u64("rejected_connections")
}

fn live(services: &[Service]) -> usize {
    services.iter().map(Service::live).sum()
}

/// What takes several heartbeats of everybody, on a machine that has other things to do.
async fn in_time(what: &str, services: &[Service], is_so: impl Fn() -> bool) -> Duration {
    let begun = tokio::time::Instant::now();
    while !is_so() {
        let shares: Vec<_> = services.iter().map(Service::live).collect();
        assert!(begun.elapsed() < waiting::HANG, "{what} should have come: {shares:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}
