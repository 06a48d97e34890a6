//! What there is: names, units and descriptions.

use metrics::Unit;

/// Name, unit and description of every metric.
const GAUGES: [(&str, Unit, &str); 27] = [
    ("db_client_connection_count", Unit::Count, "live connections by state (idle, used)"),
    ("db_client_connection_max", Unit::Count, "the most connections the pool may open"),
    ("db_client_connection_pending_requests", Unit::Count, "callers waiting for a connection"),
    ("redis_guard_connection_limit", Unit::Count, "sockets that may be open now"),
    ("redis_guard_breaker_state", Unit::Count, "1 for the breaker's state, 0 for the others"),
    ("redis_guard_backoff_seconds", Unit::Seconds, "time to the next dial"),
    ("redis_guard_endpoint_in_use", Unit::Count, "connections the endpoint holds"),
    (
        "redis_guard_endpoint_leases",
        Unit::Count,
        "leases the endpoint holds, also those without a connection",
    ),
    ("redis_guard_endpoint_max", Unit::Count, "the most connections the endpoint may hold"),
    ("redis_guard_endpoint_waiting", Unit::Count, "the endpoint's callers who wait"),
    (
        "redis_guard_oldest_lease_seconds",
        Unit::Seconds,
        "the longest time that a lease is without a command",
    ),
    ("redis_guard_dialing", Unit::Count, "dials in flight"),
    ("redis_guard_shared_lanes", Unit::Count, "shared connections that carry commands"),
    ("redis_guard_shared_in_flight", Unit::Count, "the endpoint's shared commands in flight"),
    ("redis_guard_calls_in_flight", Unit::Count, "the endpoint's calls in flight through a guard"),
    ("redis_guard_call_limit", Unit::Count, "calls that may be in flight through a guard now"),
    (
        "redis_guard_server_observation_age_seconds",
        Unit::Seconds,
        "age of what the watch last saw of the server",
    ),
    (
        "redis_guard_server_saturation_ratio",
        Unit::Count,
        "the server's connections over its ceiling",
    ),
    ("redis_guard_server_used_connections", Unit::Count, "connections that take one of its slots"),
    ("redis_guard_server_maxclients", Unit::Count, "the server's ceiling of connections"),
    ("redis_guard_server_blocked_clients", Unit::Count, "its clients in a blocking command"),
    ("redis_guard_server_connected_replicas", Unit::Count, "its replicas that are online"),
    ("redis_guard_fleet_members", Unit::Count, "members of the fleet"),
    ("redis_guard_fleet_share", Unit::Count, "connections that the fleet's registry allows"),
    ("redis_guard_sentinel_connected", Unit::Count, "1 while a sentinel says where the server is"),
    (
        "redis_guard_cluster_known",
        Unit::Count,
        "1 while a node says who the nodes of the cluster are",
    ),
    ("redis_guard_cluster_unserved_slots", Unit::Count, "slots of the cluster that no node serves"),
];
const COUNTERS: [(&str, Unit, &str); 13] = [
    ("db_client_connection_timeouts_total", Unit::Count, "callers whose acquire timed out"),
    ("redis_guard_rejections_total", Unit::Count, "callers refused, by endpoint and reason"),
    ("redis_guard_dials_total", Unit::Count, "dials that ended, by outcome"),
    ("redis_guard_breaker_transitions_total", Unit::Count, "changes of the breaker's state"),
    (
        "redis_guard_leaks_suspected_total",
        Unit::Count,
        "leases without a command for over leak_after",
    ),
    (
        "redis_guard_leaks_resolved_total",
        Unit::Count,
        "suspected leaks that came back or are used again",
    ),
    ("redis_guard_connections_closed_total", Unit::Count, "connections closed, by reason"),
    (
        "redis_guard_server_rejected_connections_total",
        Unit::Count,
        "connections that the server was seen to refuse, to whomever",
    ),
    (
        "redis_guard_server_errors_total",
        Unit::Count,
        "error replies that say something about the server, by error",
    ),
    (
        "redis_guard_master_changes_total",
        Unit::Count,
        "moves of the pool to the server that sentinels named",
    ),
    (
        "redis_guard_cluster_changes_total",
        Unit::Count,
        "changes of the cluster's nodes, or of who serves which slots",
    ),
    (RETRIES, Unit::Count, "failed calls, by what became of their retry"),
    ("redis_guard_requests_total", Unit::Count, "HTTP requests, by endpoint and outcome"),
];
pub(super) const RETRIES: &str = "redis_guard_retries_total";
pub(super) const CREATE_TIME: &str = "db_client_connection_create_time_seconds";
pub(super) const WAIT_TIME: &str = "db_client_connection_wait_time_seconds";
pub(super) const USE_TIME: &str = "db_client_connection_use_time_seconds";
pub(super) const SHARED_USE_TIME: &str = "redis_guard_shared_use_time_seconds";
const HISTOGRAMS: [(&str, Unit, &str); 4] = [
    (CREATE_TIME, Unit::Seconds, "duration of successful dials"),
    (WAIT_TIME, Unit::Seconds, "time from acquire to lease"),
    (USE_TIME, Unit::Seconds, "time from lease to return"),
    (SHARED_USE_TIME, Unit::Seconds, "time of a command on a shared connection"),
];

/// Describes every metric; done anew at each publication, because a description given before a
/// recorder is installed is lost.
pub(super) fn describe() {
    for (name, unit, text) in GAUGES {
        metrics::describe_gauge!(name, unit, text);
    }
    for (name, unit, text) in COUNTERS {
        metrics::describe_counter!(name, unit, text);
    }
    for (name, unit, text) in HISTOGRAMS {
        metrics::describe_histogram!(name, unit, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_lists_every_metric_and_no_other() {
        let guide = include_str!("../../guide/operating.md");
        let mut listed: Vec<_> = guide
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with("db_client") || name.starts_with("redis_guard_"))
            .collect();
        let mut emitted: Vec<_> =
            GAUGES.iter().chain(&COUNTERS).chain(&HISTOGRAMS).map(|(name, ..)| *name).collect();
        listed.sort_unstable();
        emitted.sort_unstable();
        assert_eq!(listed, emitted);
    }
}
