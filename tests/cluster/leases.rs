//! Leases: of the node of a key, and of whichever node each command is for.

use redis_guard::redis::{RedisResult, Script, Value, pipe};
use redis_guard::{AsyncCommands, GuardedPool};

use crate::support::TestServer;
use crate::waiting::{cmd, soon, until};
use crate::{ask, masters, refused, sockets, unhurried_pool};

const NODES: [usize; 3] = [0, 1, 2];

#[tokio::test]
async fn a_lease_for_a_key_is_on_the_node_of_its_slot() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);

    for node in NODES {
        let key = cluster.key_on(node);
        let mut lease = soon("a lease", pool.acquire_for("test", &key)).await.unwrap();
        assert_eq!(ask::<String>(&mut lease, "CLUSTER MYID").await, cluster.node_id(node));
        let () = ask(&mut lease, &format!("SET {key} value")).await;
        assert_eq!(ask::<String>(&mut lease, &format!("GET {key}")).await, "value");
        assert_eq!(pool.status().in_use, 1);
    }
    until("no lease", &pool, || pool.status().in_use == 0).await;
}

#[tokio::test]
async fn on_one_server_a_lease_for_a_key_is_a_lease() {
    let server = TestServer::start().unwrap();
    let pool = crate::support::unhurried(server.url()).build().unwrap();

    let mut lease = soon("a lease", pool.acquire_for("test", "key")).await.unwrap();
    let () = ask(&mut lease, "SET other value").await;

    assert_eq!(ask::<String>(&mut lease, "GET other").await, "value");
    assert_eq!(
        soon("a handle", pool.shared("test").get::<_, String>("other")).await.unwrap(),
        "value"
    );
}

#[tokio::test]
async fn a_lease_takes_a_connection_of_a_node_with_the_first_command_for_it() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);

    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    assert_eq!(pool.status().in_use, 0);
    for (taken, node) in NODES.into_iter().enumerate() {
        let key = cluster.key_on(node);
        let () = ask(&mut lease, &format!("SET {key} {node}")).await;
        assert_eq!(ask::<usize>(&mut lease, &format!("GET {key}")).await, node);
        assert_eq!(pool.status().in_use, taken + 1);
        assert_eq!(cluster.node(node).admin().text(&["GET", &key]), node.to_string());
    }
    drop(lease);

    until("no lease", &pool, || pool.status().in_use == 0).await;
    assert!(NODES.iter().all(|node| sockets(&cluster, *node) <= 2));
}

#[tokio::test]
async fn a_lease_does_what_a_shared_handle_does() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut lease = soon("a lease", pool.get()).await.unwrap();
    let keys: Vec<String> = NODES.iter().flat_map(|node| cluster.keys_on(*node, 5)).collect();
    let pairs: Vec<_> = keys.iter().map(|key| (key, key)).collect();

    let () = soon("MSET", lease.mset(&pairs)).await.unwrap();
    assert_eq!(soon("MGET", lease.mget::<_, Vec<String>>(&keys)).await.unwrap(), keys);
    let mut pipeline = pipe();
    keys.iter().for_each(|key| _ = pipeline.append(key, "+").ignore().get(key));
    let values: Vec<String> = soon("a pipeline", pipeline.query_async(&mut lease)).await.unwrap();
    assert_eq!(values, keys.iter().map(|key| format!("{key}+")).collect::<Vec<_>>());
    let script = Script::new("return redis.call('GET', KEYS[1])");
    for key in &keys {
        let value = soon("a script", script.key(key).invoke_async::<String>(&mut lease)).await;
        assert_eq!(value.unwrap(), format!("{key}+"));
    }
    assert_eq!(ask::<usize>(&mut lease, "DBSIZE").await, keys.len());
    let error = refused(&mut lease, &format!("RENAME {} {}", keys[0], keys[14])).await;
    assert_eq!(error.code(), Some("CROSSSLOT"), "{error}");
}

#[tokio::test]
async fn watch_and_multi_keep_a_lease_on_one_node_until_exec() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();

    for node in NODES {
        let key = cluster.key_on(node);
        let other = cluster.key_on((node + 1) % 3);
        let () = ask(&mut lease, &format!("SET {key} 1")).await;
        let () = ask(&mut lease, &format!("WATCH {key}")).await;
        assert_eq!(ask::<i64>(&mut lease, &format!("GET {key}")).await, 1);
        let () = ask(&mut lease, "MULTI").await;
        assert_eq!(ask::<String>(&mut lease, &format!("INCR {key}")).await, "QUEUED");
        assert_eq!(ask::<Vec<i64>>(&mut lease, "EXEC").await, [2]);

        // Released: another node's turn.
        let () = ask(&mut lease, &format!("SET {other} 1")).await;
        assert_eq!(ask::<i64>(&mut lease, &format!("GET {key}")).await, 2);
    }
}

#[tokio::test]
async fn a_key_of_another_node_within_a_transaction_is_an_error() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    let [key, other] = [0, 1].map(|node| cluster.key_on(node));
    let () = ask(&mut lease, &format!("WATCH {key}")).await;
    let () = ask(&mut lease, "MULTI").await;

    let error = refused(&mut lease, &format!("SET {other} 1")).await;

    println!("told: {error}");
    let _ = cmd("DISCARD").query_async::<Value>(&mut lease).await;
    let () = ask(&mut lease, &format!("SET {other} 2")).await;
    assert_eq!(ask::<i64>(&mut lease, &format!("GET {other}")).await, 2);
}

#[tokio::test]
async fn a_watched_key_that_somebody_else_changes_undoes_the_transaction() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    let key = cluster.key_on(2);
    let () = ask(&mut lease, &format!("WATCH {key}")).await;
    let () = soon("somebody", pool.shared("else").set(&key, "theirs")).await.unwrap();

    let () = ask(&mut lease, "MULTI").await;
    let _: String = ask(&mut lease, &format!("SET {key} ours")).await;

    assert_eq!(ask::<Value>(&mut lease, "EXEC").await, Value::Nil);
    assert_eq!(ask::<String>(&mut lease, &format!("GET {key}")).await, "theirs");
}

#[tokio::test]
async fn a_lease_dropped_in_a_transaction_leaves_nothing_to_the_next() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let key = cluster.key_on(1);
    for how in ["WATCH", "MULTI"] {
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        let () = ask(&mut lease, &format!("WATCH {key}")).await;
        if how == "MULTI" {
            let () = ask(&mut lease, "MULTI").await;
            let _: String = ask(&mut lease, &format!("SET {key} never")).await;
        }
        drop(lease);

        let mut next = soon("the next", pool.acquire_for("test", &key)).await.unwrap();
        let () = soon("somebody", pool.shared("else").set(&key, how)).await.unwrap();
        let mut both = pipe();
        both.atomic().get(&key);
        let told: RedisResult<(String,)> = soon("it", both.query_async(&mut next)).await;
        assert_eq!(told.unwrap().0, how);
    }
}

#[tokio::test]
async fn leases_come_from_a_configuration_of_deadpool_redis_too() {
    let cluster = masters();
    let mut config = deadpool_redis::cluster::Config::from_urls(cluster.urls());
    config.pool = Some(deadpool_redis::PoolConfig::new(2));
    let pool = GuardedPool::from_config(config).build().unwrap();
    assert_eq!(pool.status().max_connections, 2);

    let mut lease = soon("a lease", pool.get()).await.unwrap();
    for key in NODES.map(|node| cluster.key_on(node)) {
        let () = ask(&mut lease, &format!("SET {key} value")).await;
        assert_eq!(ask::<String>(&mut lease, &format!("GET {key}")).await, "value");
    }
}

#[tokio::test]
async fn a_lease_on_the_node_of_a_key_walks_that_nodes_keys() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
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
        walked.sort();
        of_node.sort();
        assert_eq!(walked, of_node);
    }
    let mut routed = soon("a lease", pool.acquire("test")).await.unwrap();
    let error = refused(&mut routed, "SCAN 0").await;
    assert!(error.to_string().contains("acquire_for"), "{error}");
}

/// Whoever knows who the nodes are has no connection for the question: that is no trouble.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_connections_are_lent_the_cluster_is_not_lost() {
    let cluster = masters();
    let pool = crate::unhurried(&cluster).max_connections(1).build().unwrap();
    let mut leases = Vec::new();
    for node in NODES {
        leases.push(soon("it", pool.acquire_for("test", &cluster.key_on(node))).await.unwrap());
    }
    let key = cluster.key_on(0);
    let changes = crate::cluster_status(&pool).changes;
    cluster.move_slot(crate::support::cluster::slot_of(&key), 1);
    let stays = cluster.key_on(0);

    // A transaction is told where to go, and the pool asks who the nodes are.
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(3) {
        let () = ask(&mut leases[0], &format!("WATCH {stays}")).await;
        let error = refused(&mut leases[0], &format!("GET {key}")).await;
        assert_eq!(error.code(), Some("MOVED"), "{error}");
        let () = ask(&mut leases[0], "UNWATCH").await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(crate::cluster_status(&pool).trouble, None);

    drop(leases);
    until("the news", &pool, || crate::cluster_status(&pool).changes > changes).await;
    let events = format!("{:?}", pool.recent_events());
    assert!(!events.contains("ClusterLost"), "{events}");
}
