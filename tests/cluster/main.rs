//! Pools on a cluster, on real nodes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod failover;
mod fleets;
mod full;
mod launcher;
mod leases;
mod load;
mod nodes;
mod partition;
mod pubsub;
mod redis_rs;
mod replicas;
mod resharding;
mod routing;
mod same_answers;
mod seeds;
mod stopped;
mod transaction;

use redis_guard::redis::aio::ConnectionLike;
use redis_guard::redis::{FromRedisValue, RedisError};
use redis_guard::{ClusterStatus, GuardedPool, GuardedPoolBuilder, NodeStatus};
use support::server::TestServerBuilder;
use support::{Cluster, HANG, TestServer};
use waiting::{cmd, soon};

/// What every connection of a pool under test is called in `CLIENT LIST`.
const NAME: &str = "under-test";

/// Three masters with defaults.
fn masters() -> Cluster {
    Cluster::start(3, &TestServer::builder()).unwrap()
}

/// A node that is silent counts as failed after a second, and the others serve their own keys
/// nevertheless.
fn hasty() -> TestServerBuilder {
    TestServer::builder()
        .arg("cluster-node-timeout", "1000")
        .arg("cluster-require-full-coverage", "no")
}

/// Three masters, nodes 3 to 5 follow them in their order.
fn with_replicas() -> Cluster {
    Cluster::with_replicas(3, 1, &hasty()).unwrap()
}

/// With the timeouts of a service.
fn builder(cluster: &Cluster) -> GuardedPoolBuilder {
    GuardedPool::cluster(cluster.urls()).max_connections(8).client_name(NAME)
}

/// Its timeouts only end a hang.
fn unhurried(cluster: &Cluster) -> GuardedPoolBuilder {
    builder(cluster).acquire_timeout(HANG).connect_timeout(HANG).response_timeout(HANG)
}

fn unhurried_pool(cluster: &Cluster) -> GuardedPool {
    unhurried(cluster).build().unwrap()
}

/// Sends these words, which are answered well.
async fn ask<T: FromRedisValue>(connection: &mut (impl ConnectionLike + Send), line: &str) -> T {
    let reply = soon(line, cmd(line).query_async(connection)).await;
    reply.unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Sends these words, and gives the error that answers them.
async fn refused(connection: &mut (impl ConnectionLike + Send), line: &str) -> RedisError {
    let reply = soon(line, cmd(line).query_async::<redis_guard::redis::Value>(connection)).await;
    reply.expect_err(line)
}

fn cluster_status(pool: &GuardedPool) -> ClusterStatus {
    pool.status().cluster.expect("the pool is one of a cluster")
}

/// What the pool says of this node, if it knows it.
fn node_status(pool: &GuardedPool, cluster: &Cluster, index: usize) -> Option<NodeStatus> {
    let address = cluster.address(index);
    cluster_status(pool).nodes.into_iter().find(|node| *node.status.server == *address)
}

/// The pool's connections to a node, as that counts them; none while it is away.
fn sockets(cluster: &Cluster, index: usize) -> usize {
    waiting::sockets(cluster.node(index), NAME).unwrap_or_default()
}

/// How often the node has executed the command.
fn calls(cluster: &Cluster, index: usize, command: &str) -> u64 {
    // An older server counts a command's subcommands together.
    let command = match support::program().redis_version() >= support::SEVEN {
        true => command,
        false => command.split('|').next().unwrap_or(command),
    };
    stat(cluster, index, &format!("cmdstat_{command}"), "calls=")
}

/// How often the node has answered with an error of this code.
fn errors(cluster: &Cluster, index: usize, code: &str) -> u64 {
    stat(cluster, index, &format!("errorstat_{code}"), "count=")
}

fn stat(cluster: &Cluster, index: usize, name: &str, field: &str) -> u64 {
    let info = cluster.node(index).admin().text(&["INFO", "everything"]);
    let of = |line: &str| {
        let fields = line.strip_prefix(name)?.strip_prefix(':')?.split(',');
        fields.into_iter().find_map(|word| word.strip_prefix(field)?.parse().ok())
    };
    info.lines().find_map(of).unwrap_or(0)
}

/// Closes all connections to the node but the operator's.
fn kill_all(cluster: &Cluster, index: usize) {
    cluster.node(index).admin().text(&["CLIENT", "KILL", "TYPE", "normal"]);
}
