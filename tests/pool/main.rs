//! What a pool does for its callers, on a real server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../watch/fake.rs"]
mod fake;
#[path = "../watch/service.rs"]
mod service;
#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod acquire;
mod addresses;
mod aging;
mod blocking;
mod bounds;
mod close;
mod credentials;
mod demotion;
mod dirty;
mod events;
mod full;
mod health;
mod kept_up;
mod leaks;
mod limited;
mod link;
mod pause;
mod proxy;
mod replaced;
mod runtimes;
mod schedule;
mod stall;
#[cfg(target_os = "linux")]
mod tcp_settings;
mod timeouts;
mod transaction;
mod unreachable;

use redis_guard::{GuardedPool, GuardedPoolBuilder};
use support::{TestServer, impatient};

/// A server with defaults, and a pool of so many connections on it.
fn pair(connections: usize) -> (TestServer, GuardedPool) {
    pair_with(connections, |builder| builder)
}

fn pair_with(
    connections: usize,
    settings: impl FnOnce(GuardedPoolBuilder) -> GuardedPoolBuilder,
) -> (TestServer, GuardedPool) {
    let server = TestServer::start().unwrap();
    let builder = impatient(&server.url()).max_connections(connections);
    let pool = settings(builder).build().unwrap();
    (server, pool)
}
