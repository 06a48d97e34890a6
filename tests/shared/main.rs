//! Shared connections, on a real server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod blocking;
mod cancellation;
mod close;
mod death;
mod dialects;
mod exclusive;
mod full;
mod idle;
mod in_flight;
mod lanes;
mod let_through;
mod lifetime;
mod metrics;
mod proxy;
mod redis_rs;
mod runtimes;
mod same_answers;
mod stall;
mod steps;
mod table;

use redis_guard::redis::{FromRedisValue, Value};
use redis_guard::{
    EndpointStatus, Error, GuardedPool, GuardedPoolBuilder, LaneStatus, SharedConnection,
};
use support::{TestServer, impatient};
use waiting::{cmd, field, sockets, until};

/// What every connection of a pool under test is called in `CLIENT LIST`.
const NAME: &str = "under-test";

/// A server with defaults, and a pool on it.
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
    impatient(url).max_connections(8).client_name(NAME)
}

/// Sends these words.
async fn send(handle: &mut SharedConnection, line: &str) -> Result<Value, Error> {
    handle.send(&cmd(line)).await
}

/// Sends these words, which are answered well.
async fn ask<T: FromRedisValue>(handle: &mut SharedConnection, line: &str) -> T {
    let reply = send(handle, line).await.unwrap_or_else(|error| panic!("{line}: {error}"));
    T::from_redis_value(reply).unwrap()
}

/// Sends these words over a handle of their own, and so without a borrow.
fn sending(
    pool: &GuardedPool,
    endpoint: &'static str,
    line: &str,
) -> impl Future<Output = Result<Value, Error>> + Send + use<> {
    let (mut handle, cmd) = (pool.shared(endpoint), cmd(line));
    async move { handle.send(&cmd).await }
}

/// The server's number for the lane that the handle is on.
async fn lane_id(handle: &mut SharedConnection) -> u64 {
    ask(handle, "CLIENT ID").await
}

fn lanes(pool: &GuardedPool) -> Vec<LaneStatus> {
    pool.status().lanes
}

fn endpoint(pool: &GuardedPool, name: &str) -> EndpointStatus {
    let mut endpoints = pool.status().endpoints.into_iter();
    endpoints.find(|endpoint| endpoint.name.as_str() == name).unwrap()
}

fn in_flight(pool: &GuardedPool) -> usize {
    pool.status().endpoints.iter().map(|endpoint| endpoint.shared_in_flight).sum()
}

/// The pool's connections, as the server counts them.
fn connections(server: &TestServer) -> usize {
    sockets(server, NAME).unwrap_or_default()
}

/// From now on the server answers no command that writes, and nothing behind it on its connection.
fn hold_writes(server: &TestServer) {
    server.admin().text(&["CLIENT", "PAUSE", "600000", "WRITE"]);
}

fn let_writes_go(server: &TestServer) {
    server.admin().text(&["CLIENT", "UNPAUSE"]);
}

/// Returns when the server has read the command from this connection, held or not.
async fn until_read(server: &TestServer, pool: &GuardedPool, id: u64, command: &str) {
    until(command, pool, || field(server, id, "cmd").as_deref() == Some(command)).await;
}

fn kill(server: &TestServer, id: u64) {
    server.admin().text(&["CLIENT", "KILL", "ID", &id.to_string()]);
}

/// No command is on its way, nobody but the lanes holds a connection, and no dial is in flight.
async fn at_rest(pool: &GuardedPool, server: &TestServer) {
    until("rest", pool, || {
        let status = pool.status();
        let up = status.lanes.iter().filter(|lane| lane.up).count();
        in_flight(pool) + status.waiting + status.dialing == 0
            && status.in_use == up
            && status.idle + up == status.live
            && connections(server) == status.live
    })
    .await;
}
