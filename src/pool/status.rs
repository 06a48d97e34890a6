//! Looking at a pool: its status, for people and for metrics.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::node::Node;
use super::state::{State, Tally};
use crate::dial::Notice;
use crate::server::{Seen, WatchStatus};
use crate::telemetry::status::{
    BreakerStatus, CloseReason, EndpointStatus, RequestOutcome, SentinelStatus, Status, named,
};
use crate::vocabulary::Reason;
use crate::{Endpoint, Outcome};

pub(super) fn status(node: &Node) -> Status {
    let now = Instant::now();
    let calls = node.calls_in_flight();
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
    }
}

fn endpoints(node: &Node, state: &State, calls: &HashMap<Endpoint, usize>) -> Vec<EndpointStatus> {
    let none = Tally::default();
    let tallies = state.tallies.iter().chain(std::iter::repeat(&none));
    state
        .ledger
        .accounts()
        .zip(tallies)
        .map(|(account, tally)| {
            let shared = node.lanes.in_flight_of(&account.name);
            EndpointStatus {
                max: account.max,
                reserve: account.reserve,
                in_use: account.in_use,
                waiting: account.waiting + shared.as_ref().map_or(0, |shared| shared.waiting()),
                shared_in_flight: shared.as_ref().map_or(0, |shared| shared.count()),
                calls_in_flight: calls.get(&account.name).copied().unwrap_or(0),
                shared_in_flight_max: shared.as_ref().map_or(0, |shared| shared.max),
                acquired: account.acquired,
                rejected: named(&Reason::ALL, Reason::as_str, &tally.rejected),
                leaks_suspected: tally.leaks_suspected,
                leaks_resolved: tally.leaks_resolved,
                requests: named(&RequestOutcome::ALL, RequestOutcome::as_str, &tally.requests),
                name: account.name,
            }
        })
        .collect()
}

/// What is known of the server.
pub(super) fn watch_status(node: &Node, now: Instant) -> WatchStatus {
    let seen = node.server().seen();
    let trouble = node.lock().steering.trouble.clone();
    let status = seen.as_ref().map(|seen: &Seen| seen.status(now)).unwrap_or_default();
    WatchStatus { trouble, ..status }
}

/// Publishes the pool's metrics.
pub(super) fn publish(node: &Arc<Node>, oldest_lease: Duration) {
    node.metrics.publish(&status(node), oldest_lease);
}
