//! Looking at a pool: its status, for people and for metrics.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster::Cluster;
use super::node::Node;
use super::servers::Servers;
use super::state::{State, Tally};
use crate::dial::Notice;
use crate::server::{Seen, WatchStatus};
use crate::telemetry::status::{
    BreakerStatus, CloseReason, EndpointStatus, IdleLeases, NodeStatus, RequestOutcome,
    SentinelStatus, Status, named,
};
use crate::vocabulary::Reason;
use crate::{Endpoint, Outcome};

/// The pool at this moment.
pub(super) fn of_pool(servers: &Servers) -> Status {
    match servers {
        Servers::One(node) => status(node),
        Servers::Cluster(cluster) => of_cluster(cluster),
    }
}

/// Of a cluster: all nodes together, and each.
fn of_cluster(cluster: &Arc<Cluster>) -> Status {
    let (mut nodes, left) = nodes(cluster);
    nodes.sort_by(|one, other| other.concern().total_cmp(&one.concern()));
    let mut total = match nodes.first() {
        Some(worst) => worst.status.clone(),
        None => status(&cluster.first()),
    };
    for other in nodes.iter().skip(1) {
        total.add(&other.status);
    }
    let base = nodes.is_empty().then(|| total.server.clone());
    let left = left.into_iter().filter(|counts| base.as_ref() != Some(&counts.server));
    for counts in left.chain(cluster.departed()) {
        total.add(&counts);
    }
    total.cluster = Some(cluster.status(nodes, Instant::now()));
    total
}

/// Each node of a cluster, with what the cluster says that it is; and what was counted at those that it does
/// not name, and to which nothing is open, or which were let go.
fn nodes(cluster: &Arc<Cluster>) -> (Vec<NodeStatus>, Vec<Status>) {
    let parts = cluster.roles();
    let mut named: Vec<_> = parts
        .iter()
        .map(|part| NodeStatus {
            role: Some(part.role),
            slots: part.slots,
            replica_of: part.replica_of.clone(),
            status: status(&part.node),
        })
        .collect();
    let (mut others, mut left) = (Vec::new(), Vec::new());
    for node in cluster.nodes_in_use() {
        if parts.iter().any(|part| Arc::ptr_eq(&part.node, &node)) {
            continue;
        }
        let mut status = status(&node);
        if status.live == 0 {
            left.push(status.counts_only());
        } else if node.is_closed() && !cluster.is_closed() {
            // Let go, and open to those who hold a lease of it.
            (status.max_connections, status.limit) = (0, 0);
            left.push(status);
        } else {
            others.push(NodeStatus { role: None, slots: 0, replica_of: None, status });
        }
    }
    named.append(&mut others);
    (named, left)
}

/// The server to look at first.
#[cfg(feature = "doctor")]
pub(super) fn worst(servers: &Servers) -> Arc<Node> {
    let nodes = servers.nodes();
    let worst = of_pool(servers).server;
    let found = nodes.into_iter().find(|node| node.address() == worst);
    found.unwrap_or_else(|| servers.first())
}

pub(super) fn status(node: &Node) -> Status {
    let now = Instant::now();
    let calls = node.context.calls_in_flight();
    let suspected = node.lock().leases.suspected();
    let leaks = suspected.iter().map(|lease| node.leak(lease, now)).collect();
    let watch = watch_status(node, now);
    let sentinels = node.resolver.sentinels();
    let state = node.lock();
    let counts = state.ledger.counts();
    let sentinel = sentinels.map(|seen| SentinelStatus {
        master: seen.master.to_string(),
        sentinels: seen.sentinels,
        since: state.moves.since.map(|since| now.saturating_duration_since(since)),
        moves: state.moves.count,
        trouble: seen.trouble,
    });
    Status {
        pool: node.context.name().to_owned(),
        server: node.address(),
        max_connections: node.settings().max_connections,
        limit: counts.limit,
        limited_by: state.limited_by(),
        watch,
        fleet: state.steering.fleet.clone(),
        sentinel,
        cluster: None,
        live: counts.live,
        idle: counts.idle,
        in_use: counts.in_use,
        dialing: counts.dialing,
        waiting: counts.waiting,
        closed: state.ledger.is_closed(),
        breaker: BreakerStatus::of(&state.gate, &state.transitions, now),
        dials: named(Outcome::ALL, Outcome::as_str, &state.dials),
        connections_closed: named(CloseReason::ALL, CloseReason::as_str, &state.closed),
        server_errors: named(&Notice::ALL, Notice::as_str, &state.notices),
        lanes: node.lanes.status(),
        endpoints: endpoints(node, &state, &calls),
        leaks,
        idle_leases: idle_leases(node, &state, now),
    }
}

fn idle_leases(node: &Node, state: &State, now: Instant) -> Vec<IdleLeases> {
    let limit = u64::try_from(node.settings().leak_after.as_millis()).unwrap_or(u64::MAX);
    let idle = node.sharers.idle(node.millis(now), limit).into_iter();
    let named = idle.map(|of| IdleLeases {
        endpoint: state.ledger.account_name(of.account).clone(),
        location: of.location.to_string(),
        count: of.count,
        age: Duration::from_millis(of.held),
        idle: Duration::from_millis(of.idle),
    });
    named.collect()
}

fn endpoints(node: &Node, state: &State, calls: &HashMap<Endpoint, usize>) -> Vec<EndpointStatus> {
    let none = Tally::default();
    let tallies = state.tallies.iter().chain(std::iter::repeat(&none));
    state
        .ledger
        .accounts()
        .zip(tallies)
        .map(|(account, tally)| {
            let share = node.sharers.share_of(&account.name).unwrap_or_default();
            EndpointStatus {
                max: account.max,
                reserve: account.reserve,
                in_use: account.in_use,
                leases: account.in_use + share.leases.saturating_sub(share.exclusive),
                waiting: account.waiting + share.waiting,
                shared_in_flight: share.in_flight,
                calls_in_flight: calls.get(&account.name).copied().unwrap_or(0),
                shared_in_flight_max: share.max,
                acquired: account.acquired,
                rejected: named(&Reason::ALL, Reason::as_str, &tally.rejected),
                leaks_suspected: tally.leaks_suspected,
                leaks_resolved: tally.leaks_resolved,
                requests: named(
                    &RequestOutcome::ALL,
                    RequestOutcome::as_str,
                    &node.context.requests_of(&account.name),
                ),
                name: account.name,
            }
        })
        .collect()
}

/// What is known of the server.
pub(super) fn watch_status(node: &Node, now: Instant) -> WatchStatus {
    let seen = node.server().seen();
    let trouble = node.lock().steering.why_unseen();
    let status = seen.as_ref().map(|seen: &Seen| seen.status(now)).unwrap_or_default();
    WatchStatus { trouble, ..status }
}

/// Publishes the pool's metrics.
pub(super) fn publish(node: &Arc<Node>, oldest_lease: Duration) {
    node.metrics.publish(&status(node), oldest_lease);
}
