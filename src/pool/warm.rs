//! Warming a pool up, and asking whether it works.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::time::Instant;

use super::acquire::{NUDGE, late};
use super::cluster::Cluster;
use super::maintenance::check;
use super::node::Node;
use crate::server::gate::Overridable;
use crate::telemetry::status::Health;
use crate::vocabulary::reply::{unanswered, within};
use crate::{Error, Rejection};

/// Dials until at least `wanted` connections are live; how many are then.
pub(super) async fn warm_up(node: &Arc<Node>, wanted: usize) -> Result<usize, Rejection> {
    let settings = node.settings();
    let (wanted, since) = (wanted.min(settings.max_connections), Instant::now());
    // A dial that hangs, and the wait for the next one.
    let patience = node.dialer.connect_timeout + settings.acquire_timeout;
    let (mut live, mut progressed) = (0, since);
    let _goal = Goal::set(node, wanted);
    loop {
        let mut changed = std::pin::pin!(node.warmth_changed.notified());
        changed.as_mut().enable();
        if let Some(result) = warmth(node, wanted, since) {
            return result;
        }
        let now = Instant::now();
        let live_now = node.lock().ledger.live();
        if live_now > live {
            progressed = now;
        }
        live = live_now;
        let (deadline, nudge) = (progressed + patience, now + NUDGE);
        let nothing = tokio::time::timeout_at(deadline.min(nudge), changed).await.is_err();
        if nothing && Instant::now() >= deadline {
            return Err(late(node, &node.lock(), since.elapsed()));
        }
        if nothing {
            // The dialer may have ended with its runtime.
            node.change(|_| ());
        }
    }
}

/// The same at every node of a cluster; how many are live at the one that has the fewest.
pub(super) async fn warm_up_all(cluster: &Arc<Cluster>, wanted: usize) -> Result<usize, Rejection> {
    cluster.ready().await?;
    let nodes = cluster.named();
    let live = join_all(nodes.iter().map(|node| warm_up(node, wanted))).await;
    let live = live.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(live.into_iter().min().unwrap_or(0))
}

/// Of a cluster: the slowest round trip, and the counts of all nodes together.
pub(super) async fn health_of_all(cluster: &Arc<Cluster>) -> Result<Health, Error> {
    cluster.ready().await?;
    let nodes = cluster.named();
    let each = join_all(nodes.iter().map(health)).await.into_iter();
    let breaker = cluster.breaker_state();
    let none = Health { latency: None, live: 0, idle: 0, breaker };
    each.into_iter().try_fold(none, |all, one| {
        let one = one?;
        let (live, idle) = (all.live + one.live, all.idle + one.idle);
        Ok(Health { latency: all.latency.max(one.latency), live, idle, breaker })
    })
}

/// Whether `wanted` connections are live, or cannot be; `None` while that is open.
fn warmth(node: &Node, wanted: usize, since: Instant) -> Option<Result<usize, Rejection>> {
    let seen = node.server().seen();
    let state = node.lock();
    let live = state.ledger.live();
    let all_there_is = live > 0
        && live >= state.ledger.counts().limit
        && !state.ledger.is_frozen()
        && state.steering.has_settled(seen.as_ref(), since);
    if (live >= wanted || all_there_is) && !state.ledger.is_closed() {
        return Some(Ok(live));
    }
    state.hopeless(Instant::now()).map(Err)
}

/// The round trip of a PING over a live connection, and the counts.
pub(super) async fn health(node: &Arc<Node>) -> Result<Health, Error> {
    let timeout = node.settings().acquire_timeout;
    match tokio::time::timeout(timeout, warm_up(node, 1)).await {
        Ok(live) => live?,
        Err(_) => return Err(late(node, &node.lock(), timeout).into()),
    };
    if node.lock().demotion.is_suspected() {
        let kind = ErrorKind::Server(ServerErrorKind::ReadOnly);
        let what = "the server is a replica, which takes no writes";
        return Err(RedisError::from((kind, what)).into());
    }
    let latency = match node.withdraw_one(|_| true) {
        // In a task, so that a caller who loses patience does not take the connection along.
        Some(connection) => {
            let check = tokio::spawn(check(Arc::clone(node), connection));
            // The connection is waited for; the caller is not kept waiting for it.
            let limit = node.settings().response_timeout;
            let checked = tokio::time::timeout(limit, check).await.map_err(|_| unanswered())?;
            Some(checked.map_err(|_| Rejection::Closed)??)
        }
        None => ping_lane(node).await?,
    };
    let state = node.lock();
    let counts = state.ledger.counts();
    Ok(Health { latency, live: counts.live, idle: counts.idle, breaker: state.gate.state() })
}

/// The round trip of a PING over a lane; `None` if none is up.
async fn ping_lane(node: &Node) -> RedisResult<Option<Duration>> {
    let Some(carrier) = node.lanes.any() else { return Ok(None) };
    let started = Instant::now();
    let (mut redis, ping) = (carrier.redis.clone(), redis::cmd("PING"));
    within(Some(node.settings().response_timeout), redis.send_packed_command(&ping)).await?;
    Ok(Some(started.elapsed()))
}

/// Wants some connections live for as long as it lives.
struct Goal {
    node: Arc<Node>,
    connections: usize,
}

impl Goal {
    fn set(node: &Arc<Node>, connections: usize) -> Self {
        let goal = Self { node: Arc::clone(node), connections };
        let start_maintenance = node.change(|state| {
            state.ledger.add_goal(connections);
            state.wants_maintenance()
        });
        if start_maintenance {
            node.start_maintenance();
        }
        goal
    }
}

impl Drop for Goal {
    fn drop(&mut self) {
        self.node.change(|state| state.ledger.remove_goal(self.connections));
    }
}
