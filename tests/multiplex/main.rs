//! Leases that share connections until they need one of their own, on real servers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../shared/steps.rs"]
mod steps;
#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod budgets;
mod cancellation;
mod close;
mod cluster;
mod death;
mod full;
#[cfg(feature = "axum")]
mod http;
mod leaks;
mod order;
mod same_answers;
mod service;
mod sharing;
mod table;
mod telemetry;
mod transactions;

use redis_guard::redis::aio::ConnectionLike;
use redis_guard::redis::{FromRedisValue, RedisError, RedisResult, Value};
use redis_guard::{EndpointStatus, GuardedConnection, GuardedPool, GuardedPoolBuilder};
use support::{TestServer, impatient};
use waiting::{HANG, cmd, field, let_pass, poll_once, soon, until};

/// What every connection of a pool under test is called in `CLIENT LIST`.
const NAME: &str = "under-test";

/// A server with defaults, and a pool on it whose leases share.
fn pair() -> (TestServer, GuardedPool) {
    pair_with(|builder| builder)
}

fn pair_with(
    settings: impl FnOnce(GuardedPoolBuilder) -> GuardedPoolBuilder,
) -> (TestServer, GuardedPool) {
    let server = TestServer::start().unwrap();
    let pool = settings(builder(&server.url())).build().unwrap();
    (server, pool)
}

fn builder(url: &str) -> GuardedPoolBuilder {
    impatient(url).max_connections(8).client_name(NAME).multiplex(true)
}

async fn lease(pool: &GuardedPool, endpoint: &'static str) -> GuardedConnection {
    let lease = soon("a lease", pool.acquire(endpoint)).await;
    lease.unwrap_or_else(|error| panic!("{error}: {:#?}", pool.status()))
}

/// Sends these words.
async fn send(connection: &mut (impl ConnectionLike + Send), line: &str) -> RedisResult<Value> {
    cmd(line).query_async(connection).await
}

/// Sends these words, which are answered well.
async fn ask<T: FromRedisValue>(connection: &mut (impl ConnectionLike + Send), line: &str) -> T {
    let reply = soon(line, send(connection, line)).await;
    let reply = reply.unwrap_or_else(|error| panic!("{line}: {error}"));
    T::from_redis_value(reply).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Sends these words, and gives the error that answers them.
async fn refused(connection: &mut (impl ConnectionLike + Send), line: &str) -> RedisError {
    soon(line, send(connection, line)).await.expect_err(line)
}

/// What a caller is told who waits for as long as he may. Nothing is sent or received meanwhile.
async fn in_vain<F: Future>(future: F) -> F::Output {
    let mut future = Box::pin(future);
    assert!(poll_once(&mut future).is_pending(), "told at once");
    let_pass(HANG).await;
    soon("an answer", future).await
}

fn endpoint(pool: &GuardedPool, name: &str) -> EndpointStatus {
    let mut endpoints = pool.status().endpoints.into_iter();
    endpoints.find(|endpoint| endpoint.name.as_str() == name).unwrap()
}

/// The endpoint's leases, and how many of its connections are in use.
fn leases(pool: &GuardedPool, name: &str) -> (usize, usize) {
    let EndpointStatus { leases, in_use, .. } = endpoint(pool, name);
    (leases, in_use)
}

/// The pool's connections, as the server counts them.
fn connections(server: &TestServer) -> usize {
    ids(server).len()
}

/// The server's numbers for the pool's connections.
fn ids(server: &TestServer) -> Vec<u64> {
    let Ok(list) = server.admin().command(&["CLIENT", "LIST"]) else { return Vec::new() };
    let (list, name) = (list.text(), format!("name={NAME}"));
    let ours = list.lines().filter(|line| line.split(' ').any(|word| word == name));
    ours.filter_map(|line| line.split(' ').next()?.strip_prefix("id=")?.parse().ok()).collect()
}

/// The server's number for the pool's only connection, which is a lane.
fn lane_id(server: &TestServer) -> u64 {
    let ids = ids(server);
    assert_eq!(ids.len(), 1, "{ids:?}");
    ids[0]
}

/// How often the server has been sent the command, also where it refused it.
fn calls(server: &TestServer, command: &str) -> u64 {
    let stats = server.admin().text(&["INFO", "commandstats"]);
    let prefix = format!("cmdstat_{command}:");
    let counts = stats.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default();
    let count = |word: &str| {
        let (name, count) = word.split_once('=')?;
        matches!(name, "calls" | "rejected_calls").then(|| count.parse::<u64>().unwrap())
    };
    counts.split(',').filter_map(count).sum()
}

/// From now on the server answers no command that writes, and nothing behind it on its connection.
fn hold_writes(server: &TestServer) {
    server.admin().text(&["CLIENT", "PAUSE", "600000", "WRITE"]);
}

fn let_writes_go(server: &TestServer) {
    server.admin().text(&["CLIENT", "UNPAUSE"]);
}

/// Sends a command over the pool's only lane, where the server holds it, and gives up on the reply.
async fn give_up(
    server: &TestServer,
    pool: &GuardedPool,
    lease: &mut GuardedConnection,
    line: &str,
) {
    give_up_on(server, pool, lease, lane_id(server), line).await;
}

/// The same over the lane of this number, which is the lease's.
async fn give_up_on(
    server: &TestServer,
    pool: &GuardedPool,
    lease: &mut GuardedConnection,
    lane: u64,
    line: &str,
) {
    let given_up = cmd(line);
    let mut reply = Box::pin(given_up.query_async::<Value>(lease));
    assert!(poll_once(&mut reply).is_pending());
    until_read(server, pool, lane, line).await;
}

/// Returns when the server has read the command from this connection, held or not.
async fn until_read(server: &TestServer, pool: &GuardedPool, id: u64, line: &str) {
    let command = line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
    until(line, pool, || field(server, id, "cmd") == Some(command.clone())).await;
}

/// How many connections were closed for this reason.
fn closed(pool: &GuardedPool, reason: &str) -> u64 {
    pool.status().connections_closed.get(reason).copied().unwrap_or_default()
}

fn kill(server: &TestServer, id: u64) {
    server.admin().text(&["CLIENT", "KILL", "ID", &id.to_string()]);
}

fn lanes_up(pool: &GuardedPool) -> usize {
    pool.status().lanes.iter().filter(|lane| lane.up).count()
}

/// No lease is out, no command is on its way, nobody but the lanes holds a connection, and no dial is in
/// flight.
async fn at_rest(pool: &GuardedPool, server: &TestServer) {
    until("rest", pool, || {
        let status = pool.status();
        let of_callers = |endpoint: &&EndpointStatus| endpoint.name.as_str() != "shared-lanes";
        let of_callers = status.endpoints.iter().filter(of_callers);
        let held = of_callers.map(|endpoint| endpoint.leases + endpoint.shared_in_flight);
        let up = lanes_up(pool);
        held.sum::<usize>() + status.waiting + status.dialing == 0
            && status.in_use == up
            && status.idle + up == status.live
            && connections(server) == status.live
    })
    .await;
}
