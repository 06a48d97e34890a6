use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A server that is looked at every second, or as a test says.
struct Watched {
    observer: ServerObserver,
    now: Instant,
}

impl Watched {
    fn new() -> Self {
        Self { observer: ServerObserver::default(), now: Instant::now() }
    }

    fn sees(&mut self, info: &str) -> Observation {
        self.sees_after(SECOND, info)
    }

    fn sees_after(&mut self, pause: Duration, info: &str) -> Observation {
        self.now += pause;
        self.observer.observe(ServerSnapshot::parse(info.replace(' ', "\r\n")), self.now)
    }
}

#[test]
fn rejections_are_counted_from_one_sample_to_the_next() {
    let mut server = Watched::new();
    assert_eq!(server.sees("rejected_connections:5").new_rejections, None);
    assert_eq!(server.sees("rejected_connections:5").new_rejections, Some(0));
    assert_eq!(server.sees("rejected_connections:12").new_rejections, Some(7));
}

#[test]
fn reserved_slots_are_remembered_until_a_restart() {
    let mut server = Watched::new();
    let info = "run_id:a connected_clients:30 maxclients:100";
    assert_eq!(server.sees(info).ceiling, Some(100));
    let told = server.sees(&format!("{info} maxclients-reserved:40"));
    assert_eq!(told.ceiling, Some(60));
    assert!(matches!(told.events[..], [ServerEvent::CeilingChanged { from: 100, to: 60 }]));
    let later = server.sees(info);
    assert_eq!((later.snapshot.reserved_slots, later.free()), (Some(40), Some(30)));
    assert_eq!(server.sees("run_id:b connected_clients:30 maxclients:100").ceiling, Some(100));
}

#[test]
fn commands_and_processor_time_are_rates() {
    let mut server = Watched::new();
    let info = |commands: u64, cpu: &str| {
        format!("total_commands_processed:{commands} used_cpu_sys:{cpu} used_cpu_user:1.5")
    };
    assert_eq!(server.sees(&info(1_000, "2.25")).commands_per_second, None);
    let seen = server.sees_after(2 * SECOND, &info(1_500, "2.75"));
    assert_eq!((seen.commands_per_second, seen.cpu_cores), (Some(250.0), Some(0.25)));
    assert_eq!(seen.snapshot.cpu_system, Some(Duration::from_millis(2_750)));
    let reset = server.sees(&info(3, "2.75"));
    assert_eq!((reset.commands_per_second, reset.cpu_cores), (None, Some(0.0)));
    for odd in ["-1", "nan", "inf", "1e300", "x"] {
        let seen = server.sees(&info(3, odd));
        assert_eq!((seen.snapshot.cpu_system, seen.cpu_cores), (None, None), "{odd}");
    }
}

#[test]
fn a_server_stands_still_that_refuses_and_serves_nobody() {
    let stands_still = |clients: u64, refused: u64, commands: u64| {
        let mut server = Watched::new();
        let info = |refused: u64, commands: u64| {
            format!(
                "connected_clients:{clients} rejected_connections:{refused} \
                 total_commands_processed:{commands}"
            )
        };
        server.sees(&info(0, 0));
        server.sees(&info(refused, commands)).stands_still
    };
    assert!(stands_still(20, 1, 9) && stands_still(10_000, 5_000, 999));
    assert!(!stands_still(20, 0, 0), "idle");
    assert!(!stands_still(20, 1, 10) && !stands_still(10_000, 5_000, 1_000), "at work");
    let mut silent = Watched::new();
    silent.sees("rejected_connections:0");
    assert!(!silent.sees("rejected_connections:9").stands_still, "it does not tell");
}

#[test]
fn a_server_that_does_not_count_rejections_is_unknown_and_one_sample_without_is_bridged() {
    let mut server = Watched::new();
    server.sees("rejected_connections:5");
    assert_eq!(server.sees("rejected_connections:-1").new_rejections, None);
    assert_eq!(server.sees("").new_rejections, None);
    assert_eq!(server.sees("rejected_connections:6").new_rejections, Some(1));
}

#[test]
fn a_restart_is_no_rejection() {
    for (before, after) in [
        (
            "run_id:a total_connections_received:7 rejected_connections:5",
            "run_id:b total_connections_received:8 rejected_connections:9",
        ),
        (
            "uptime_in_seconds:60 rejected_connections:5",
            "uptime_in_seconds:1 rejected_connections:9",
        ),
        ("rejected_connections:5", "rejected_connections:2"),
        (
            "total_connections_received:70 rejected_connections:0",
            "total_connections_received:3 rejected_connections:1",
        ),
    ] {
        let mut server = Watched::new();
        server.sees(before);
        let observation = server.sees(after);
        assert_eq!(observation.new_rejections, Some(0), "{after}");
        assert_eq!(observation.connections_per_second, None, "{after}");
        assert!(observation.restarted(), "{after}");
        assert_eq!(server.sees(after).events, [], "{after}");
    }
}

#[test]
fn statistics_that_are_reset_and_a_clock_that_is_set_are_no_restart() {
    let mut server = Watched::new();
    let before = "rejected_connections:5 total_connections_received:9";
    server.sees(&format!("run_id:a uptime_in_seconds:60 {before}"));
    let after = "rejected_connections:0 total_connections_received:1";
    let observation = server.sees(&format!("run_id:a uptime_in_seconds:10 {after}"));
    assert_eq!((observation.new_rejections, observation.connections_per_second), (Some(0), None));
    assert_eq!(observation.events, []);
}

#[test]
fn a_counter_that_was_not_told_after_a_restart_is_not_compared_with_the_one_before() {
    let mut server = Watched::new();
    server.sees("run_id:a rejected_connections:5");
    server.sees("run_id:b");
    assert_eq!(server.sees("run_id:b rejected_connections:9").new_rejections, None);
}

#[test]
fn churn_is_per_second_over_the_time_that_passed() {
    let mut server = Watched::new();
    assert_eq!(server.sees("total_connections_received:100").connections_per_second, None);
    let observation = server.sees_after(4 * SECOND, "total_connections_received:110");
    assert_eq!(observation.connections_per_second, Some(2.5));
    let at_once = server.sees_after(Duration::ZERO, "total_connections_received:111");
    assert_eq!(at_once.connections_per_second, None);
}

#[test]
fn a_replica_is_lost_and_comes_back() {
    let mut server = Watched::new();
    assert_eq!(server.sees("connected_slaves:1").events, []);
    assert_eq!(server.sees("connected_slaves:2").events, [], "a new one is not back");
    let lost = ServerEvent::ReplicaLost { online: 1, expected: 2 };
    assert_eq!(server.sees("connected_slaves:1").events, [lost]);
    let missing = server.sees("connected_slaves:1");
    assert_eq!((missing.replicas_online, missing.replicas_expected), (Some(1), Some(2)));
    assert_eq!(missing.events, [], "it is reported once");
    let unknown = server.sees("");
    assert_eq!((unknown.replicas_online, unknown.replicas_expected), (None, Some(2)));
    let back = ServerEvent::ReplicaBack { online: 2, expected: 2 };
    assert_eq!(server.sees("connected_slaves:2").events, [back]);
}

#[test]
fn a_replica_that_receives_the_data_set_anew_is_not_online() {
    let mut server = Watched::new();
    server.sees("connected_slaves:1 slave0:ip=a,port=1,state=online");
    let lost = ServerEvent::ReplicaLost { online: 0, expected: 1 };
    let syncing = server.sees("connected_slaves:1 slave0:ip=a,port=1,state=wait_bgsave");
    assert_eq!(syncing.events, [lost]);
}

#[test]
fn after_an_hour_fewer_replicas_are_what_somebody_wanted() {
    let mut server = Watched::new();
    server.sees("connected_slaves:3");
    server.sees_after(40 * MINUTE, "connected_slaves:2");
    assert_eq!(server.sees_after(MINUTE, "connected_slaves:1").replicas_expected, Some(3));
    let later = server.sees_after(30 * MINUTE, "connected_slaves:1");
    assert_eq!(later.replicas_expected, Some(2), "the most within the last hour");
    assert_eq!(server.sees_after(HOUR, "connected_slaves:1").replicas_expected, Some(1));
    assert_eq!(server.sees("connected_slaves:2").events, [], "a new one");
    assert_eq!(server.sees_after(HOUR, "connected_slaves:1").replicas_expected, Some(1));
}

#[test]
fn a_failover_starts_the_count_of_replicas_anew() {
    let mut server = Watched::new();
    server.sees("role:master connected_slaves:2");
    let demoted = server.sees("role:slave connected_slaves:0");
    let changed = ServerEvent::RoleChanged { from: Role::Master, to: Role::Replica };
    assert_eq!(demoted.events, [changed]);
    assert_eq!(demoted.replicas_expected, Some(0));
    assert_eq!(server.sees("connected_slaves:0").events, []);
    let changed = ServerEvent::RoleChanged { from: Role::Replica, to: Role::Master };
    assert_eq!(server.sees("role:master").events, [changed]);
}

#[test]
fn a_ceiling_that_the_server_tells_is_taken_as_it_is() {
    let mut server = Watched::new();
    let first = server.sees("connected_clients:90 maxclients:100");
    assert_eq!((first.ceiling, first.saturation(), first.free()), (Some(100), Some(0.9), Some(10)));
    assert_eq!(first.events, []);
    let lowered = server.sees("connected_clients:90 maxclients:60");
    assert_eq!(lowered.events, [ServerEvent::CeilingChanged { from: 100, to: 60 }]);
    assert_eq!((lowered.saturation(), lowered.free()), (Some(1.5), Some(0)));
    let raised = server.sees("connected_clients:90 maxclients:120 rejected_connections:7");
    assert_eq!(raised.events, [ServerEvent::CeilingChanged { from: 60, to: 120 }]);
}

#[test]
fn a_hidden_ceiling_is_learned_from_refusals() {
    let mut server = Watched::new();
    let quiet = server.sees("connected_clients:80 rejected_connections:0");
    assert_eq!((quiet.ceiling, quiet.saturation()), (None, None));
    let quiet = server.sees("connected_clients:80 rejected_connections:0");
    assert_eq!(quiet.ceiling, None, "nobody was refused");
    let full = server.sees("connected_clients:100 rejected_connections:3");
    assert_eq!((full.ceiling, full.saturation(), full.events), (Some(100), Some(1.0), vec![]));
    assert_eq!(server.sees("connected_clients:70 rejected_connections:3").ceiling, Some(100));
    let above = server.sees("connected_clients:105 rejected_connections:3");
    assert_eq!(above.events, [ServerEvent::CeilingChanged { from: 100, to: 105 }]);
}

#[test]
fn a_burst_that_was_refused_and_has_gone_does_not_lower_a_hidden_ceiling() {
    let mut server = Watched::new();
    server.sees("connected_clients:100 rejected_connections:0");
    let gone = server.sees("connected_clients:40 rejected_connections:9");
    assert_eq!(gone.ceiling, Some(100));
    let refused_again =
        server.sees_after(2 * MINUTE, "connected_clients:50 rejected_connections:11");
    let lowered = ServerEvent::CeilingChanged { from: 100, to: 50 };
    assert_eq!(refused_again.events, [lowered], "a minute ago is too long ago");
}

#[test]
fn a_learned_ceiling_is_forgotten_an_hour_after_the_last_refusal() {
    let mut server = Watched::new();
    server.sees("connected_clients:90 rejected_connections:0");
    server.sees("connected_clients:100 rejected_connections:1");
    server.sees_after(50 * MINUTE, "connected_clients:100 rejected_connections:2");
    // As many as there may be, and nobody was refused.
    server.sees_after(25 * MINUTE, "connected_clients:100 rejected_connections:2");
    let still = server.sees_after(25 * MINUTE, "connected_clients:90 rejected_connections:2");
    assert_eq!(still.ceiling, Some(100));
    let forgotten = server.sees_after(10 * MINUTE, "connected_clients:90 rejected_connections:2");
    assert_eq!(forgotten.ceiling, None);
}

#[test]
fn the_worst_node_is_the_fullest_and_an_unknown_one_hides_none() {
    let observe = |info: &str| Watched::new().sees(info);
    let nodes = [
        ("half", observe("connected_clients:50 maxclients:100")),
        ("fullest", observe("connected_clients:9 maxclients:10")),
        ("unknown", observe("connected_clients:5000")),
    ];
    let worst_of = |nodes: &[(&'static str, Observation)]| {
        worst(nodes.iter().map(|(name, observation)| (*name, observation))).map(|(name, _)| name)
    };
    assert_eq!(worst_of(&nodes), Some("fullest"));
    assert_eq!(worst_of(&nodes[2..]), Some("unknown"));
    assert_eq!(worst_of(&[]), None);
}

fn field() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "run_id",
        "uptime_in_seconds",
        "rejected_connections",
        "total_connections_received",
        "connected_clients",
        "connected_slaves",
        "cluster_connections",
        "maxclients",
        "role",
    ]);
    let value = prop_oneof![
        (-2..9_i64).prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        Just("master".to_owned()),
        Just("slave".to_owned()),
    ];
    (name, value).prop_map(|(name, value)| format!("{name}:{value}\n"))
}

proptest! {
    /// Whatever a server says, in whatever order: no panic, and numbers that can be.
    #[test]
    fn any_series_of_snapshots_gives_sane_observations(
        samples in prop::collection::vec(
            (prop::collection::vec(field(), 0..9), 0..5_000_u64), 1..60),
    ) {
        let mut server = Watched::new();
        for (fields, pause) in samples {
            let seen = server.sees_after(Duration::from_secs(pause), &fields.concat());
            prop_assert!(seen.ceiling != Some(0));
            prop_assert!(seen.saturation().is_none_or(|ratio| ratio > 0.0 && ratio.is_finite()));
            prop_assert!(seen.free() <= seen.ceiling);
            prop_assert!(seen.replicas_online.is_none() || seen.replicas_online <= seen.replicas_expected);
            prop_assert!(seen.connections_per_second.is_none_or(|rate| rate >= 0.0 && rate.is_finite()));
            prop_assert!(!seen.restarted() || seen.new_rejections.unwrap_or(0) == 0);
            if let Some(maxclients) = seen.snapshot.maxclients {
                prop_assert_eq!(seen.ceiling, Some(maxclients));
            }
        }
    }
}
