//! The state as an object.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};

use super::server::{Condition, Link, LoggedEvent, Server};
use super::state::State;

const SCHEMA_VERSION: u32 = 1;

/// `exit_code` where this is all there will be.
pub(super) fn object(state: &State, exit_code: Option<u8>) -> Value {
    let mut object = json!({
        "schema_version": SCHEMA_VERSION,
        "tool": concat!("redis-guard ", env!("CARGO_PKG_VERSION")),
        "at": seconds(state.at),
        "interval_seconds": state.interval.as_secs_f64(),
        "servers": state.worst_first().into_iter().map(|it| server(state, it)).collect::<Vec<_>>(),
    });
    if let Some(code) = exit_code {
        object["exit_code"] = code.into();
    }
    object
}

fn server(state: &State, server: &Server) -> Value {
    let seen = server.current();
    let snapshot = seen.map(|seen| &seen.snapshot);
    let down = match &server.link {
        Link::Down(down) => Some(json!({
            "outcome": down.outcome,
            "message": down.said,
            "failures": down.failures,
            "since_seconds": state.now.saturating_duration_since(down.since).as_secs_f64(),
            "next_dial_seconds": down.next.map(|next| next.saturating_duration_since(state.now).as_secs_f64()),
        })),
        _ => None,
    };
    let (holders, holders_problem) = split(server.holders.as_ref());
    let (registries, problems): (Vec<_>, Vec<_>) =
        server.registries.iter().partition(|it| it.is_ok());
    json!({
        "server": server.address,
        "condition": condition(server.condition(state.now)),
        "connected": matches!(server.link, Link::Up),
        "not_connected": down,
        "silent_seconds": server.silent(state.now).map(|silent| silent.as_secs_f64()),
        "info_problem": server.info_problem,
        "watched_masters": server.watched_masters,
        "other_nodes": server.other_nodes,
        "product": snapshot.and_then(|it| it.product),
        "version": snapshot.and_then(|it| it.version.clone()),
        "role": snapshot.and_then(|it| it.role),
        "uptime_seconds": snapshot.and_then(|it| it.uptime_seconds),
        "used": snapshot.and_then(|it| it.used()),
        "maxclients": seen.and_then(|it| it.ceiling),
        "free": seen.and_then(|it| it.free()),
        "saturation": seen.and_then(|it| it.saturation()),
        "connected_clients": snapshot.and_then(|it| it.connected_clients),
        "connected_replicas": snapshot.and_then(|it| it.connected_replicas),
        "cluster_connections": snapshot.and_then(|it| it.cluster_connections),
        "rejections_per_second": server.rejections,
        "rejections_watched": server.new_rejections,
        "rejections_total": snapshot.and_then(|it| it.rejected_connections),
        "connections_per_second": server.churn,
        "commands_per_second": server.commands,
        "cpu_cores": seen.and_then(|it| it.cpu_cores),
        "stands_still": seen.map(|it| it.stands_still),
        "blocked_clients": snapshot.and_then(|it| it.blocked_clients),
        "replicas_online": seen.and_then(|it| it.replicas_online),
        "replicas_expected": seen.and_then(|it| it.replicas_expected),
        "used_memory_bytes": snapshot.and_then(|it| it.used_memory_bytes),
        "maxmemory_bytes": snapshot.and_then(|it| it.maxmemory_bytes),
        "holders": holders,
        "holders_problem": holders_problem,
        "holders_age_seconds": server.holders_at.filter(|_| holders.is_some()).map(|at| state.now.saturating_duration_since(at).as_secs_f64()),
        "holders_every_seconds": server.holders_every.map(|every| every.as_secs_f64()),
        "fleets": registries.into_iter().filter_map(|it| it.as_ref().ok()).collect::<Vec<_>>(),
        "fleets_problem": problems.into_iter().find_map(|it| it.as_ref().err()).or(server.fleets_note.as_ref()),
        "events": server.new_events.iter().map(event).collect::<Vec<_>>(),
    })
}

fn split<T: Serialize>(answer: Option<&Result<T, String>>) -> (Option<&T>, Option<&String>) {
    match answer {
        Some(Ok(value)) => (Some(value), None),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    }
}

fn event(event: &LoggedEvent) -> Value {
    json!({ "at": seconds(event.at), "event": event.kind, "text": event.text })
}

/// Since 1970, as in the doctor's report.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Unknown => "unknown",
        Condition::Fine => "fine",
        Condition::Filling => "filling",
        Condition::NearlyFull => "nearly_full",
        Condition::Loading => "loading",
        Condition::Rejecting => "rejecting",
        Condition::Full => "full",
        Condition::Silent(_) => "silent",
        Condition::Down => "not_connected",
        Condition::Dialing => "connecting",
    }
}
