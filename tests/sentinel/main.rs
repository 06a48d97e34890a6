//! Pools whose servers the sentinels name, on real sentinels and on some of our own that misbehave.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod basics;
mod down;
mod failover;
mod fake;
mod fleets;
mod in_hand;
mod launcher;
mod many;
mod misled;
mod odd;
mod passwords;
mod replicas;
mod words;
mod writers;

use redis_guard::{Event, GuardedPool, GuardedPoolBuilder, SentinelStatus};
use support::{SentinelSet, TestServer};
use waiting::until;

/// With the timeouts of a service.
fn builder(set: &SentinelSet) -> GuardedPoolBuilder {
    GuardedPool::sentinel(set.sentinels(), set.name()).max_connections(8)
}

fn sentinel(pool: &GuardedPool) -> SentinelStatus {
    pool.status().sentinel.unwrap()
}

/// The number of the sentinel that the process listens to.
fn listens_to(set: &SentinelSet, pool: &GuardedPool) -> Option<usize> {
    let connected = sentinel(pool).sentinels.into_iter().find(|sentinel| sentinel.connected)?;
    (0..)
        .zip(set.sentinels())
        .find_map(|(number, url)| url.contains(&*connected.server).then_some(number))
}

/// The masters that the pool has gone over to, from and to which.
fn changes(pool: &GuardedPool) -> Vec<(String, String)> {
    let events = pool.recent_events().into_iter();
    let changes = events.filter_map(|recent| match recent.event {
        Event::MasterChanged { from, to, .. } => Some((from.to_string(), to.to_string())),
        _ => None,
    });
    changes.collect()
}

/// Returns when the pool has gone over to each of these, and asserts that there was nothing else.
async fn changed(pool: &GuardedPool, moves: &[(String, String)]) {
    // The first call may be served an instant before the event.
    until("the event", pool, || changes(pool).len() >= moves.len()).await;
    assert_eq!(changes(pool), moves);
    assert_eq!(sentinel(pool).moves, moves.len() as u64);
}

/// How many connections the server has accepted so far.
fn accepted(server: &TestServer) -> u64 {
    server.admin().info_u64("total_connections_received")
}

/// How many clients the server has but its own kind and the tests' own.
fn clients(server: &TestServer) -> usize {
    SentinelSet::clients(server).map_or(0, |clients| clients.len())
}
