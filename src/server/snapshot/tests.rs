use proptest::prelude::*;

use super::*;

macro_rules! info {
    ($name:literal) => {
        include_str!(concat!("../../../tests/info/", $name, ".txt"))
    };
}

type Row = (&'static str, Product, &'static str, [Option<u64>; 3], (Option<Role>, Option<u64>));

/// What an operator reads out of an INFO: the product and its version, used, maxclients and
/// rejected, the role and the replicas online.
#[rustfmt::skip]
const VENDORS: [Row; 13] = {
    use Product::*;
    const MASTER: Option<Role> = Some(Role::Master);
    const REPLICA: Option<Role> = Some(Role::Replica);
    const ACTIVE: Option<Role> = Some(Role::ActiveReplica);
    [
        (info!("redis-6.2"), Redis, "6.2.14", [Some(414), Some(10_000), Some(17)], (MASTER, Some(1))),
        (info!("redis-7.0-replica"), Redis, "7.0.15", [Some(2), Some(4_064), Some(0)], (REPLICA, Some(0))),
        (info!("redis-8-cluster"), Redis, "8.2.1", [Some(110), Some(128), Some(903)], (MASTER, Some(1))),
        (info!("valkey-9"), Valkey, "9.0.0", [Some(61), Some(100), Some(12)], (MASTER, Some(1))),
        (info!("keydb-6.3"), KeyDb, "6.3.4", [Some(26), Some(10_000), Some(0)], (ACTIVE, Some(1))),
        (info!("dragonfly-1.31"), Dragonfly, "df-v1.31.0", [Some(67), Some(64_000), None], (MASTER, Some(1))),
        (info!("upstash"), Upstash, "1.18.3", [Some(48), Some(1_000), None], (None, None)),
        (info!("redis-enterprise"), RedisEnterprise, "7.8.2-34", [Some(32), None, Some(0)], (MASTER, Some(1))),
        (info!("elasticache-7.1"), Redis, "7.1.0", [Some(64_924), Some(65_000), Some(2_041)], (MASTER, Some(2))),
        (info!("memorydb-7"), Valkey, "7.3.0", [Some(17), Some(65_000), Some(0)], (MASTER, Some(1))),
        (info!("garnet-1.0"), Garnet, "1.0.61", [None, None, None], (MASTER, Some(0))),
        (info!("pika-3.5"), Pika, "3.5.5", [Some(246), None, None], (MASTER, Some(2))),
        (info!("kvrocks-2"), Kvrocks, "2.12.0", [Some(5), Some(10_000), None], (REPLICA, None)),
    ]
};

#[test]
fn every_vendors_info_is_read_with_either_end_of_line() {
    for (info, product, version, [used, maxclients, rejected], (role, online)) in VENDORS {
        let snapshot = ServerSnapshot::parse(info);
        assert_eq!(snapshot.product, Some(product), "{version}");
        assert_eq!(snapshot.version.as_deref(), Some(version));
        assert_eq!(snapshot.used(), used, "{product:?}");
        assert_eq!(snapshot.maxclients, maxclients, "{product:?}");
        assert_eq!(snapshot.rejected_connections, rejected, "{product:?}");
        assert_eq!((snapshot.role, snapshot.replicas_online()), (role, online), "{product:?}");
        assert_eq!(ServerSnapshot::parse(info.replace('\n', "\r\n")), snapshot, "{product:?}");
    }
}

#[test]
fn every_field_of_a_master_is_read() {
    let snapshot = ServerSnapshot::parse(info!("redis-6.2"));
    let replica = |host: &str, state: &str, offset, lag| Replica {
        host: Some(host.to_owned()),
        port: Some(6379),
        state: Some(state.to_owned()),
        offset: Some(offset),
        lag: Some(lag),
    };
    let expected = ServerSnapshot {
        product: Some(Product::Redis),
        version: Some("6.2.14".to_owned()),
        redis_version: Some("6.2.14".to_owned()),
        run_id: Some("3f1c9a6be0d24e7d8a5570c4c1f2b9e86d0a7734".to_owned()),
        uptime_seconds: Some(864_123),
        loading: Some(false),
        connected_clients: Some(412),
        connected_replicas: Some(2),
        cluster_connections: Some(0),
        maxclients: Some(10_000),
        blocked_clients: Some(7),
        tracking_clients: Some(3),
        rejected_connections: Some(17),
        total_connections_received: Some(1_520_034),
        total_commands_processed: Some(988_172_201),
        cpu_system: Some(Duration::from_millis(1_201_331)),
        role: Some(Role::Master),
        repl_offset: Some(90_112_500),
        repl_backlog_bytes: Some(1_048_576),
        replicas: vec![
            replica("10.0.3.11", "online", 90_112_233, 1),
            replica("10.0.4.12", "wait_bgsave", 0, 0),
        ],
        used_memory_bytes: Some(734_003_200),
        maxmemory_bytes: Some(4_294_967_296),
        ..ServerSnapshot::default()
    };
    assert_eq!(snapshot, expected);
    assert_eq!((snapshot.free(), snapshot.saturation()), (Some(9_586), Some(0.0414)));
}

#[test]
fn a_replica_tells_of_its_link() {
    let snapshot = ServerSnapshot::parse(info!("redis-7.0-replica"));
    assert_eq!(snapshot.master_link_up, Some(false));
    assert_eq!(snapshot.master_link_down_seconds, Some(9));
    assert_eq!(snapshot.master_sync_in_progress, Some(true));
    assert_eq!(snapshot.loading, Some(true));
    assert_eq!(snapshot.replicas, []);
    let up = ServerSnapshot::parse("role:slave\nmaster_link_status:up\n");
    assert_eq!(up.master_link_up, Some(true));
}

#[test]
fn the_newer_counts_of_clients_are_read() {
    let redis = ServerSnapshot::parse(info!("redis-8-cluster"));
    assert_eq!((redis.pubsub_clients, redis.watching_clients), (Some(4), Some(1)));
    let valkey = ServerSnapshot::parse(info!("valkey-9"));
    assert_eq!(valkey.priority_clients, Some(2));
    assert_eq!(valkey.replicas[0].host.as_deref(), Some("::1"));
}

#[test]
fn reserved_slots_are_not_for_ordinary_clients() {
    let server =
        |info: &str| ServerSnapshot::parse(format!("maxclients:100\nconnected_clients:70\n{info}"));
    let keydb = server("maxclients-reserved:20");
    assert_eq!((keydb.ceiling(), keydb.free(), keydb.maxclients), (Some(80), Some(10), Some(100)));
    assert_eq!(keydb.saturation(), Some(0.875));
    let some_in_use = server("maxclients-reserved:20\nconnected_priority_clients:15");
    assert_eq!((some_in_use.ceiling(), some_in_use.free()), (Some(95), Some(25)));
    let all_in_use = server("maxclients-reserved:20\nconnected_priority_clients:40");
    assert_eq!((all_in_use.ceiling(), all_in_use.free()), (Some(100), Some(30)));
    let more_than_there_are = server("maxclients-reserved:200");
    assert_eq!((more_than_there_are.ceiling(), more_than_there_are.free()), (Some(1), Some(0)));
    assert_eq!(server("").ceiling(), Some(100));
    assert_eq!(ServerSnapshot::parse("maxclients-reserved:20").ceiling(), None);
}

#[test]
fn the_line_of_reserved_slots_is_what_config_says() {
    let reserved = |told, subnets| {
        reserved_line(told, subnets).and_then(|line| ServerSnapshot::parse(line).reserved_slots)
    };
    assert_eq!(reserved(Some("20"), None), Some(20), "KeyDB");
    assert_eq!(reserved(Some("20"), Some("10.0.0.0/8")), Some(20), "Valkey");
    assert_eq!(reserved(Some("20"), Some("")), Some(0), "Valkey, for nobody");
    assert_eq!(reserved(None, None), None);
    assert_eq!(reserved(Some("none"), None), None);
}

#[test]
fn keydb_and_newer_valkeys_may_reserve_slots() {
    let asked: Vec<bool> =
        [info!("keydb-6.3"), info!("valkey-9"), info!("redis-8-cluster"), info!("memorydb-7")]
            .map(|info| ServerSnapshot::parse(info).may_reserve_slots())
            .into();
    assert_eq!(asked, [true, true, false, false]);
}

#[test]
fn products_are_called_what_their_makers_call_them() {
    for (product, name) in [
        (Product::KeyDb, "KeyDB"),
        (Product::RedisEnterprise, "Redis Enterprise"),
        (Product::Valkey, "Valkey"),
    ] {
        assert_eq!(product.to_string(), name);
    }
}

#[test]
fn what_cannot_be_is_unknown() {
    for nonsense in ["-1", "", "N/A", "4294964742", "18446744073697705472", "1e3", "12.5", "0x10"] {
        let info = format!("connected_clients:{nonsense}\r\nmaxclients:{nonsense}\r\n");
        let snapshot = ServerSnapshot::parse(info);
        assert_eq!(snapshot, ServerSnapshot::default(), "{nonsense}");
        assert_eq!((snapshot.used(), snapshot.saturation(), snapshot.free()), (None, None, None));
    }
    let huge = "99999999999999999999999999";
    let info = format!("rejected_connections:{huge}\ntotal_connections_received:{huge}\n");
    assert_eq!(ServerSnapshot::parse(info), ServerSnapshot::default());
    assert_eq!(ServerSnapshot::parse("rejected_connections:0").rejected_connections, Some(0));
}

#[test]
fn zero_is_no_ceiling_and_nobody_asks_without_a_connection() {
    let snapshot = ServerSnapshot::parse("connected_clients:0\r\nmaxclients:0\r\n");
    assert_eq!(snapshot, ServerSnapshot::default());
}

#[test]
fn spaces_around_a_value_are_no_part_of_it() {
    assert_eq!(ServerSnapshot::parse(" maxclients: 6 \r\n").maxclients, Some(6));
}

#[test]
fn of_two_values_the_first_that_can_be_read_counts() {
    let snapshot = ServerSnapshot::parse("maxclients:-1\nmaxclients:6\nmaxclients:7\n");
    assert_eq!(snapshot.maxclients, Some(6));
}

#[test]
fn a_lowered_ceiling_leaves_nothing_free() {
    let snapshot = ServerSnapshot::parse("connected_clients:9\nconnected_slaves:1\nmaxclients:5");
    assert_eq!((snapshot.saturation(), snapshot.free()), (Some(2.0), Some(0)));
}

#[test]
fn an_info_that_ends_in_the_middle_is_read_as_far_as_it_goes() {
    let info = info!("redis-6.2");
    let cut = &info[..info.find("blocked_clients").unwrap()];
    let snapshot = ServerSnapshot::parse(cut);
    assert_eq!((snapshot.connected_clients, snapshot.maxclients), (Some(412), Some(10_000)));
    assert_eq!((snapshot.role, snapshot.rejected_connections), (None, None));
}

/// Whatever was parsed, its numbers can be.
fn assert_sane(snapshot: &ServerSnapshot) {
    assert!(snapshot.used().is_none_or(|used| (1..=3 * MOST_SOCKETS).contains(&used)));
    assert!(snapshot.maxclients.is_none_or(|max| (1..=MOST_SOCKETS).contains(&max)));
    assert!(snapshot.saturation().is_none_or(|ratio| ratio > 0.0 && ratio.is_finite()));
    assert!(snapshot.free() <= snapshot.maxclients);
    assert!(snapshot.replicas_online() <= snapshot.connected_replicas);
    serde_json::to_string(snapshot).unwrap();
}

proptest! {
    #[test]
    fn any_bytes_give_a_snapshot(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        assert_sane(&ServerSnapshot::parse(bytes));
    }

    /// A real INFO, with bytes of it overwritten, numbers swapped for others, and its end cut off.
    #[test]
    fn a_mutilated_info_gives_a_snapshot(
        vendor in 0..VENDORS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        number in prop_oneof![any::<i128>().prop_map(|n| n.to_string()), "[-+0-9a-f.]{0,40}"],
        field in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut lines: Vec<_> = VENDORS[vendor].0.lines().map(str::to_owned).collect();
        let line = field.get(&lines).clone();
        if let Some((name, _)) = line.split_once(':') {
            lines.insert(0, format!("{name}:{number}"));
        }
        let mut info = lines.join("\r\n").into_bytes();
        for (at, byte) in edits {
            let at = at.index(info.len());
            info[at] = byte;
        }
        info.truncate(cut.index(info.len() + 1));
        assert_sane(&ServerSnapshot::parse(info));
    }
}
