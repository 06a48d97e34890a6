//! What an operator sees of a cluster, on real nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis_guard::{AsyncCommands, Event, GuardedPool, GuardedPoolBuilder};
use tracing::Level;

use crate::POOL;
use crate::kept::{Kept, heard};
use crate::support::cluster::slot_of;
use crate::support::log::Log;
use crate::support::{Cluster, HANG, TestServer};
use crate::waiting::{next, soon, until};

const KNOWN: &str = "redis_guard_cluster_known{}";
const UNSERVED: &str = "redis_guard_cluster_unserved_slots{}";
const CHANGES: &str = "redis_guard_cluster_changes_total{}";

/// A master with all slots, which serves those that it has when others are nobody's.
async fn one_master() -> Arc<Cluster> {
    let settings = TestServer::builder().arg("cluster-require-full-coverage", "no");
    let start = move || Cluster::start(1, &settings).unwrap();
    Arc::new(tokio::task::spawn_blocking(start).await.unwrap())
}

/// Two masters, and node 2, which has the slots 0 to 2.
async fn with_a_small_node() -> Arc<Cluster> {
    let start = || {
        let mut cluster = Cluster::start(2, &TestServer::builder()).unwrap();
        let small = cluster.add_node().unwrap();
        cluster.give_slots(0..3, small);
        cluster
    };
    Arc::new(tokio::task::spawn_blocking(start).await.unwrap())
}

/// Does something with the cluster while the pool goes on.
async fn with<T: Send + 'static>(
    cluster: &Arc<Cluster>,
    does: impl FnOnce(&Cluster) -> T + Send + 'static,
) -> T {
    let cluster = Arc::clone(cluster);
    tokio::task::spawn_blocking(move || does(&cluster)).await.unwrap()
}

fn builder(cluster: &Cluster) -> GuardedPoolBuilder {
    let builder = GuardedPool::cluster(cluster.urls()).name(POOL).max_connections(4);
    builder.acquire_timeout(HANG).response_timeout(HANG)
}

fn of(name: &str, server: &str, label: &str) -> String {
    let more = if label.is_empty() { String::new() } else { format!(",{label}") };
    format!("{name}{{server={server}{more}}}")
}

/// The gauges of a server that do not say that nothing is there.
fn lingering(kept: &Kept, server: &str) -> Vec<String> {
    let of_it = format!("server={server}");
    let lingers = |series: &str, value: f64| match series.contains("state=closed") {
        true => value != 1.0,
        false => value != 0.0 && !value.is_nan(),
    };
    let series = kept.series();
    let gauges = series.gauges.iter().filter(|(name, _)| name.contains(&of_it));
    let lingering = gauges.filter(|(name, value)| lingers(name, **value));
    lingering.map(|(name, value)| format!("{name} {value}")).collect()
}

#[tokio::test]
async fn a_node_that_leaves_has_nothing_and_its_counts_go_on_when_it_comes_back() {
    let _heard = heard();
    let kept = Kept::default();
    let _local = ::metrics::set_default_local_recorder(&kept);
    let cluster = with_a_small_node().await;
    let pool = builder(&cluster).build().unwrap();
    let mut handle = pool.shared("cart");
    for node in 0..3 {
        let () = soon("SET", handle.set(cluster.key_on(node), 1)).await.unwrap();
    }
    let (node, key) = (cluster.address(2), cluster.key_on(2));
    let limit = of("redis_guard_connection_limit", &node, "");
    let count = |name: &str, label: &str| kept.counter(&of(name, &node, label)).unwrap_or(0);
    let dialed = || count("redis_guard_dials_total", "outcome=connected");
    let dropped = || count("redis_guard_connections_closed_total", "reason=pool_closed");
    let lease = soon("a lease", pool.acquire_for("kept", &key)).await.unwrap();
    until("its metrics", &pool, || kept.gauge(&limit) == Some(4.0) && dialed() >= 2).await;
    until("the cluster's", &pool, || {
        let changes = kept.counter(CHANGES);
        kept.gauge(KNOWN) == Some(1.0) && kept.gauge(UNSERVED) == Some(0.0) && changes == Some(1)
    })
    .await;

    with(&cluster, |cluster| cluster.empty_node(2)).await;
    let _: Option<u64> = soon("GET", handle.get(&key)).await.unwrap();
    until("its end", &pool, || lingering(&kept, &node).is_empty()).await;
    assert!(kept.counter(CHANGES) >= Some(2));
    let (dialed_before, dropped_before) = (dialed(), dropped());

    // It is looked after until what was lent comes back.
    drop(lease);
    until("the last connection", &pool, || dropped() > dropped_before).await;
    assert_eq!(lingering(&kept, &node), Vec::<String>::new());
    assert_eq!(dialed(), dialed_before);

    let slot = slot_of(&key);
    with(&cluster, move |cluster| cluster.move_slot(slot, 2)).await;
    let _: Option<u64> = soon("GET", handle.get(&key)).await.unwrap();
    until("its return", &pool, || kept.gauge(&limit) == Some(4.0) && dialed() > dialed_before)
        .await;
    let dials = || -> BTreeMap<String, u64> {
        let dials = pool.status().dials.into_iter();
        dials.map(|(outcome, count)| (outcome.to_owned(), count)).collect()
    };
    until("the pool's counts, added up", &pool, || kept.sums("redis_guard_dials_total") == dials())
        .await;
    assert_eq!(kept.series().fell, Vec::<String>::new());
}

#[tokio::test]
async fn slots_that_no_node_serves_are_counted_until_one_does() {
    let _heard = heard();
    let kept = Kept::default();
    let _local = ::metrics::set_default_local_recorder(&kept);
    let cluster = one_master().await;
    let pool = builder(&cluster).build().unwrap();
    let mut handle = pool.shared("cart");
    let key = cluster.key_in(7);
    let () = soon("SET", handle.set(&key, 1)).await.unwrap();
    until("no such slot", &pool, || kept.gauge(UNSERVED) == Some(0.0)).await;

    cluster.node(0).admin().text(&["CLUSTER", "DELSLOTS", "5", "6", "7"]);
    let error = soon("GET", handle.get::<_, u64>(&key)).await.unwrap_err();
    assert_eq!(error.code(), Some("CLUSTERDOWN"), "{error}");
    until("three slots", &pool, || kept.gauge(UNSERVED) == Some(3.0)).await;
    assert_eq!(kept.gauge(KNOWN), Some(1.0));

    cluster.node(0).admin().text(&["CLUSTER", "ADDSLOTS", "5", "6", "7"]);
    until("none again", &pool, || kept.gauge(UNSERVED) == Some(0.0)).await;
    assert_eq!(kept.counter(CHANGES), Some(3));
}

#[tokio::test]
async fn a_cluster_that_is_lost_is_not_known_and_a_recorder_may_come_late() {
    let _heard = heard();
    let cluster = one_master().await;
    let pool = builder(&cluster).build().unwrap();
    drop(soon("a lease", pool.acquire_for("cart", "key")).await.unwrap());

    let kept = Kept::default();
    let _local = ::metrics::set_default_local_recorder(&kept);
    until("a node", &pool, || kept.gauge(KNOWN) == Some(1.0)).await;

    with(&cluster, |cluster| cluster.node(0).crash()).await;
    until("no node", &pool, || kept.gauge(KNOWN) == Some(0.0)).await;
    assert_eq!(kept.gauge(UNSERVED), Some(0.0), "as was told last");

    with(&cluster, |cluster| cluster.node(0).restart().unwrap()).await;
    until("a node again", &pool, || kept.gauge(KNOWN) == Some(1.0)).await;
    assert_eq!(kept.counter(CHANGES), Some(1));

    soon("close", pool.close()).await;
    let is_over = |series| kept.gauge(series).is_some_and(f64::is_nan);
    until("the end", &pool, || is_over(KNOWN) && is_over(UNSERVED)).await;
}

#[tokio::test]
async fn of_nodes_that_are_down_from_the_start_no_slot_is_told() {
    let _heard = heard();
    let kept = Kept::default();
    let _local = ::metrics::set_default_local_recorder(&kept);
    let pool = GuardedPool::cluster(["redis://127.0.0.1:1"]).name(POOL).build().unwrap();

    pool.acquire_for("test", "key").await.unwrap_err();

    until("no node", &pool, || kept.gauge(KNOWN) == Some(0.0)).await;
    assert_eq!(kept.gauge(UNSERVED), None);
    assert_eq!(kept.counter(CHANGES), Some(0));
}

#[tokio::test]
async fn a_cluster_that_is_lost_is_one_line_and_one_event_however_often_it_is_asked() {
    let log = Log::default();
    let _listening = log.listen(Level::INFO);
    let kept = Kept::default();
    let _local = ::metrics::set_default_local_recorder(&kept);
    let cluster = one_master().await;
    let pool = builder(&cluster).build().unwrap();
    let mut events = pool.events();
    drop(soon("a lease", pool.acquire_for("cart", "key")).await.unwrap());
    let change =
        next("the map", &mut events, |event| matches!(event, Event::ClusterChanged { .. }));
    let Event::ClusterChanged { primaries, .. } = change.await else { unreachable!() };
    assert_eq!(primaries, [Arc::<str>::from(cluster.address(0))]);

    with(&cluster, |cluster| cluster.node(0).crash()).await;
    let lost = next("the loss", &mut events, |event| matches!(event, Event::ClusterLost { .. }));
    let Event::ClusterLost { reason, .. } = lost.await else { unreachable!() };
    assert!(reason.contains(&cluster.address(0)), "{reason}");
    let failed = || {
        let dials = of("redis_guard_dials_total", &cluster.address(0), "outcome=refused");
        kept.counter(&dials).unwrap_or(0)
    };
    let before = failed();
    until("more questions", &pool, || failed() > before + 2).await;
    let lines = log.lines("no node says who the nodes of the cluster are");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for part in ["WARN", "pool=shop", &reason] {
        assert!(lines[0].contains(part), "no {part:?} in {}", lines[0]);
    }

    with(&cluster, |cluster| cluster.node(0).restart().unwrap()).await;
    let found = next("a node", &mut events, |event| {
        assert!(!matches!(event, Event::ClusterLost { .. }), "told twice");
        matches!(event, Event::ClusterFound)
    });
    found.await;
    let lines = log.lines("a node says again who the nodes of the cluster are");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("INFO") && lines[0].contains("pool=shop"), "{}", lines[0]);
}
