//! Leases of a cluster: they share at each node until they need a connection of their own there.

use futures_util::future::join_all;
use redis_guard::redis::{Value, pipe};
use redis_guard::{AsyncCommands, Budget, GuardedConnection, GuardedPool, GuardedPoolBuilder};

use crate::support::cluster::slot_of;
use crate::support::{Cluster, HANG, TestServer};
use crate::waiting::{dropped_after, poll_once, soon, until};
use crate::{NAME, ask, calls, lease, leases, refused, send};

const NODES: [usize; 3] = [0, 1, 2];

/// Three masters. To start them takes two seconds, so tests of one subject share them, one after the other.
fn masters() -> Cluster {
    Cluster::start(3, &TestServer::builder()).unwrap()
}

/// A pool on an empty cluster, whose timeouts only end a hang.
fn pool(cluster: &Cluster) -> GuardedPool {
    pool_with(cluster, |builder| builder)
}

fn pool_with(
    cluster: &Cluster,
    settings: impl FnOnce(GuardedPoolBuilder) -> GuardedPoolBuilder,
) -> GuardedPool {
    for node in NODES {
        cluster.node(node).admin().text(&["FLUSHALL"]);
    }
    let builder = GuardedPool::cluster(cluster.urls()).max_connections(8).client_name(NAME);
    let builder = builder.acquire_timeout(HANG).connect_timeout(HANG).response_timeout(HANG);
    settings(builder.multiplex(true)).build().unwrap()
}

fn sockets(cluster: &Cluster) -> [usize; 3] {
    NODES.map(|node| crate::connections(cluster.node(node)))
}

/// Leases out at each node, and connections in use by them.
fn held(pool: &GuardedPool, cluster: &Cluster, name: &str) -> [(usize, usize); 3] {
    let nodes = pool.status().cluster.unwrap().nodes;
    NODES.map(|node| {
        let address = cluster.address(node);
        let node = nodes.iter().find(|it| *it.status.server == *address);
        let endpoints = node.map(|node| &node.status.endpoints[..]).unwrap_or_default();
        let endpoint = endpoints.iter().find(|it| it.name.as_str() == name);
        endpoint.map_or((0, 0), |it| (it.leases, it.in_use))
    })
}

async fn at_rest(pool: &GuardedPool, cluster: &Cluster) {
    until("rest", pool, || {
        let status = pool.status();
        let up = status.lanes.iter().filter(|lane| lane.up).count();
        status.in_use == up
            && status.waiting + status.dialing == 0
            && status.live == sockets(cluster).iter().sum::<usize>()
            && NODES.iter().all(|node| held(pool, cluster, "test")[*node] == (0, 0))
    })
    .await;
}

/// Something is open to each node now.
async fn everywhere(lease: &mut GuardedConnection, cluster: &Cluster) {
    for node in NODES {
        let () = ask(lease, &format!("SET {} {node}", cluster.key_on(node))).await;
    }
}

#[tokio::test]
async fn leases_share_one_socket_at_each_node() {
    let cluster = masters();
    let pool = pool(&cluster);
    // The question who the nodes are goes over a connection that is idle then.
    drop(lease(&pool, "test").await);
    let mut all = Vec::new();
    for _ in 0..30 {
        all.push(lease(&pool, "test").await);
    }

    let told = all.iter_mut().map(|lease| async {
        everywhere(lease, &cluster).await;
        let keys = NODES.map(|node| cluster.key_on(node));
        ask::<Vec<usize>>(lease, &format!("MGET {}", keys.join(" "))).await
    });
    let told = soon("all answers", join_all(told)).await;

    assert!(told.iter().all(|told| told == &NODES), "{told:?}");
    assert!(all.iter().all(|lease| !lease.is_exclusive()));
    assert_eq!(held(&pool, &cluster, "test"), [(30, 0); 3]);
    assert!(sockets(&cluster).iter().all(|sockets| (1..=2).contains(sockets)));
    assert_eq!(pool.status().in_use, 3, "the lanes");
    drop(all);
    at_rest(&pool, &cluster).await;
}

#[tokio::test]
async fn transactions() {
    let cluster = masters();
    watch_and_multi_keep_a_lease_on_one_node_with_a_connection_there(&cluster).await;
    a_watched_key_that_somebody_else_changes_undoes_the_transaction(&cluster).await;
}

async fn watch_and_multi_keep_a_lease_on_one_node_with_a_connection_there(cluster: &Cluster) {
    let pool = pool(cluster);
    let mut lease = lease(&pool, "test").await;
    everywhere(&mut lease, cluster).await;
    assert_eq!(held(&pool, cluster, "test"), [(1, 0); 3]);
    let [key, other] = [0, 1].map(|node| cluster.key_on(node));

    let () = ask(&mut lease, &format!("WATCH {key}")).await;
    let () = ask(&mut lease, "MULTI").await;
    assert_eq!(ask::<String>(&mut lease, &format!("INCR {key}")).await, "QUEUED");
    let error = refused(&mut lease, &format!("GET {other}")).await;
    assert_eq!(error.code(), Some("MOVED"), "{error}");
    let _: Value = ask(&mut lease, "DISCARD").await;
    let () = ask(&mut lease, &format!("WATCH {key}")).await;
    let () = ask(&mut lease, "MULTI").await;
    let _: String = ask(&mut lease, &format!("INCR {key}")).await;
    assert_eq!(ask::<Vec<i64>>(&mut lease, "EXEC").await, [1]);

    assert_eq!(ask::<i64>(&mut lease, &format!("GET {other}")).await, 1, "another node's turn");
    assert_eq!(held(&pool, cluster, "test"), [(1, 1), (1, 0), (1, 0)]);
    drop(lease);
    at_rest(&pool, cluster).await;
}

async fn a_watched_key_that_somebody_else_changes_undoes_the_transaction(cluster: &Cluster) {
    let pool = pool(cluster);
    let (mut ours, mut theirs) = (lease(&pool, "test").await, lease(&pool, "test").await);
    let key = cluster.key_on(2);
    let () = ask(&mut ours, &format!("WATCH {key}")).await;
    let () = ask(&mut theirs, &format!("SET {key} theirs")).await;

    let () = ask(&mut ours, "MULTI").await;
    let _: String = ask(&mut ours, &format!("SET {key} ours")).await;

    assert_eq!(ask::<Value>(&mut ours, "EXEC").await, Value::Nil);
    assert_eq!(ask::<String>(&mut ours, &format!("GET {key}")).await, "theirs");
}

#[tokio::test]
async fn leases_for_keys_and_routed_ones() {
    let cluster = masters();
    a_lease_for_a_key_has_the_session_of_its_node(&cluster).await;
    a_lease_for_a_key_walks_that_nodes_keys(&cluster).await;
    what_says_of_no_node_which_one_it_changes_is_refused_as_ever(&cluster).await;
    what_blocks_has_a_connection_of_its_node_while_it_does(&cluster).await;
}

async fn a_lease_for_a_key_has_the_session_of_its_node(cluster: &Cluster) {
    let pool = pool(cluster);
    for node in NODES {
        let key = cluster.key_on(node);
        let mut lease = soon("a lease", pool.acquire_for("test", &key)).await.unwrap();
        assert_eq!(ask::<String>(&mut lease, "CLUSTER MYID").await, cluster.node_id(node));
        let () = ask(&mut lease, &format!("SET {key} 1")).await;
        assert_eq!(held(&pool, cluster, "test")[node], (1, 0), "so far it shares");

        let () = ask(&mut lease, "MULTI").await;
        let _: String = ask(&mut lease, &format!("INCR {key}")).await;
        assert_eq!(ask::<Vec<i64>>(&mut lease, "EXEC").await, [2]);
        let () = ask(&mut lease, "CLIENT SETNAME mine").await;
        assert_eq!(ask::<String>(&mut lease, "CLIENT GETNAME").await, "mine");

        assert_eq!(held(&pool, cluster, "test")[node], (1, 1));
        drop(lease);
        at_rest(&pool, cluster).await;
    }
}

async fn a_lease_for_a_key_walks_that_nodes_keys(cluster: &Cluster) {
    let pool = pool(cluster);
    let keys = NODES.map(|node| cluster.keys_on(node, 3));
    for key in keys.iter().flatten() {
        let () = soon("SET", pool.shared("test").set(key, 1)).await.unwrap();
    }

    for mut of_node in keys {
        let mut lease = soon("a lease", pool.acquire_for("test", &of_node[0])).await.unwrap();
        let mut walked: Vec<String> = Vec::new();
        let mut walk = soon("SCAN", lease.scan::<String>()).await.unwrap();
        while let Some(key) = soon("SCAN", walk.next_item()).await {
            walked.push(key.unwrap());
        }
        drop(walk);
        walked.sort();
        of_node.sort();
        assert_eq!(walked, of_node);
        assert!(!lease.is_exclusive());
    }
    let mut routed = lease(&pool, "test").await;
    let error = refused(&mut routed, "SCAN 0").await;
    assert!(error.to_string().contains("acquire_for"), "{error}");
}

async fn what_says_of_no_node_which_one_it_changes_is_refused_as_ever(cluster: &Cluster) {
    let pool = pool(cluster);
    let mut lease = lease(&pool, "test").await;
    for line in ["MULTI", "SELECT 0", "CLIENT SETNAME mine", "SUBSCRIBE channel"] {
        let error = refused(&mut lease, line).await;
        assert!(error.to_string().contains("acquire_for"), "{line}: {error}");
    }
    assert!(!lease.is_exclusive());
}

async fn what_blocks_has_a_connection_of_its_node_while_it_does(cluster: &Cluster) {
    let pool = pool(cluster);
    let mut lease = lease(&pool, "test").await;
    for node in NODES {
        let key = cluster.key_on(node);
        assert_eq!(ask::<Value>(&mut lease, &format!("BLPOP {key} 0.01")).await, Value::Nil);
        assert_eq!(ask::<usize>(&mut lease, &format!("RPUSH {key} job")).await, 1);
        let popped: (String, String) = ask(&mut lease, &format!("BLPOP {key} 0")).await;
        assert_eq!(popped, (key, "job".to_owned()));
    }
    assert_eq!(held(&pool, cluster, "test"), [(1, 0); 3]);
}

#[tokio::test]
async fn make_exclusive() {
    let cluster = masters();
    make_exclusive_takes_one_of_each_node_that_is_used_or_will_be(&cluster).await;
    make_exclusive_that_one_node_refuses_leaves_the_lease_as_it_was(&cluster).await;
    leases_that_become_exclusive_at_the_same_time_do_not_wait_for_each_other(&cluster).await;
    make_exclusive_may_be_dropped_anywhere(&cluster).await;
}

async fn make_exclusive_takes_one_of_each_node_that_is_used_or_will_be(cluster: &Cluster) {
    let pool = pool(cluster);
    let mut lease = lease(&pool, "test").await;
    let keys = NODES.map(|node| cluster.key_on(node));
    for key in &keys[..2] {
        let () = ask(&mut lease, &format!("SET {key} 1")).await;
    }
    assert!(!lease.is_exclusive());

    soon("connections", lease.make_exclusive()).await.unwrap();

    assert!(lease.is_exclusive());
    assert_eq!(held(&pool, cluster, "test"), [(1, 1), (1, 1), (0, 0)]);
    let () = ask(&mut lease, &format!("SET {} 1", keys[2])).await;
    assert_eq!(held(&pool, cluster, "test"), [(1, 1); 3]);
    assert_eq!(ask::<Vec<i64>>(&mut lease, &format!("MGET {}", keys.join(" "))).await, [1, 1, 1]);
    drop(lease);
    at_rest(&pool, cluster).await;
}

async fn make_exclusive_that_one_node_refuses_leaves_the_lease_as_it_was(cluster: &Cluster) {
    let timeout = std::time::Duration::from_millis(200);
    let pool = pool_with(cluster, |builder| {
        builder.endpoint("test", Budget::max(1)).acquire_timeout(timeout)
    });
    for node in NODES {
        let mut holder = soon("it", pool.acquire_for("test", cluster.key_on(node))).await.unwrap();
        holder.make_exclusive().await.unwrap();
        let mut lease = lease(&pool, "test").await;
        everywhere(&mut lease, cluster).await;

        let told = soon("the answer", lease.make_exclusive()).await.unwrap_err();

        assert_eq!(told.reason(), "budget_exhausted", "{told}");
        assert!(!lease.is_exclusive());
        let mut expected = [(1, 0); 3];
        expected[node] = (2, 1);
        assert_eq!(held(&pool, cluster, "test"), expected, "none was kept");
        everywhere(&mut lease, cluster).await;
        drop(holder);
        soon("connections", lease.make_exclusive()).await.unwrap();
        drop(lease);
        at_rest(&pool, cluster).await;
    }
}

/// Whichever node each has used first: they take their connections in one order.
async fn leases_that_become_exclusive_at_the_same_time_do_not_wait_for_each_other(
    cluster: &Cluster,
) {
    let pool = pool_with(cluster, |builder| builder.endpoint("test", Budget::max(1)));
    let (mut one, mut other) = (lease(&pool, "test").await, lease(&pool, "test").await);
    for (lease, order) in [(&mut one, [0, 1, 2]), (&mut other, [2, 1, 0])] {
        for node in order {
            let () = ask(lease, &format!("SET {} 1", cluster.key_on(node))).await;
        }
    }

    let both = [one, other].map(|mut lease| async move { lease.make_exclusive().await.unwrap() });

    soon("both, one after the other", join_all(both)).await;
    at_rest(&pool, cluster).await;
}

async fn make_exclusive_may_be_dropped_anywhere(cluster: &Cluster) {
    let pool = pool(cluster);
    let mut ended = 0;
    for polls in 0..12 {
        let mut lease = lease(&pool, "test").await;
        everywhere(&mut lease, cluster).await;

        let done = dropped_after(polls, lease.make_exclusive()).await.is_some();

        ended += usize::from(done);
        assert_eq!(lease.is_exclusive(), done, "{polls} polls");
        let expected = [(1, usize::from(done)); 3];
        until("its connections", &pool, || held(&pool, cluster, "test") == expected).await;
        everywhere(&mut lease, cluster).await;
        drop(lease);
        at_rest(&pool, cluster).await;
    }
    assert!(ended > 0);
}

/// What a node answers with ASK goes to the other one with ASKING before it, which is the router's, not the
/// caller's.
#[tokio::test]
async fn a_slot_on_its_way_costs_a_lease_no_connection() {
    let cluster = masters();
    let pool = pool(&cluster);
    let mut lease = lease(&pool, "test").await;
    everywhere(&mut lease, &cluster).await;
    let tag = cluster.key_on(0);
    let key = format!("{{{tag}}}moved");
    let () = ask(&mut lease, &format!("SET {key} 1")).await;
    cluster.begin_move(slot_of(&tag), 1).move_all_keys();

    assert_eq!(ask::<i64>(&mut lease, &format!("INCR {key}")).await, 2);
    let mut pipeline = pipe();
    pipeline.incr(&key, 1).get(cluster.key_on(2)).get(&key);
    let told: (i64, i64, i64) = soon("it", pipeline.query_async(&mut lease)).await.unwrap();
    assert_eq!(told, (3, 2, 3));
    let mut atomic = pipe();
    atomic.atomic().incr(&key, 1).get(&key);
    let told: (i64, i64) = soon("MULTI", atomic.query_async(&mut lease)).await.unwrap();
    assert_eq!(told, (4, 4));

    assert!(calls(cluster.node(1), "asking") >= 3);
    assert_eq!(held(&pool, &cluster, "test"), [(1, 0); 3]);
}

#[tokio::test]
async fn order_holds_at_each_node() {
    let cluster = masters();
    let pool = pool(&cluster);
    let mut lease = lease(&pool, "test").await;
    everywhere(&mut lease, &cluster).await;
    let key = cluster.key_on(1);
    crate::hold_writes(cluster.node(1));
    let line = format!("GETSET {key} given-up");
    let mut given_up = Box::pin(send(&mut lease, &line));
    assert!(poll_once(&mut given_up).is_pending());
    until("it is read", &pool, || {
        cluster.node(1).admin().client_list().iter().any(|client| client["cmd"] == "getset")
    })
    .await;
    drop(given_up);

    let watch = format!("WATCH {key}");
    let mut watching = Box::pin(send(&mut lease, &watch));
    let chance = std::time::Duration::from_millis(150);
    assert!(tokio::time::timeout(chance, &mut watching).await.is_err(), "it did not wait");
    crate::let_writes_go(cluster.node(1));
    soon("WATCH", watching).await.unwrap();

    assert_eq!(ask::<String>(&mut lease, &format!("GET {key}")).await, "given-up");
    let _: Value = ask(&mut lease, "UNWATCH").await;
    // Another node's lane owes nothing.
    let () = ask(&mut lease, &format!("WATCH {}", cluster.key_on(2))).await;
    assert_eq!(leases(&pool, "test"), (3, 2));
}
