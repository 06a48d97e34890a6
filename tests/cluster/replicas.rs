//! Reads from replicas.

use std::time::Duration;

use redis_guard::redis::pipe;
use redis_guard::{AsyncCommands, GuardedPool, ReplicaReads};

use crate::support::cluster::slot_of;
use crate::support::server::poll;
use crate::support::{Cluster, HANG, TestServer};
use crate::waiting::{soon, until};
use crate::{
    ask, builder, calls, errors, kill_all, node_status, refused, sockets, unhurried, with_replicas,
};

const MASTERS: [usize; 3] = [0, 1, 2];
const REPLICAS: [usize; 3] = [3, 4, 5];

fn pool(cluster: &Cluster, reads: ReplicaReads) -> GuardedPool {
    unhurried(cluster).replica_reads(reads).build().unwrap()
}

/// A key of each master, whose value is its name; the replicas have it.
fn written(cluster: &Cluster) -> Vec<String> {
    let masters: Vec<usize> =
        (0..cluster.nodes().len()).filter(|it| cluster.is_master(*it)).collect();
    let replicas = (cluster.nodes().len() - masters.len()) / masters.len();
    let write = |node: usize| {
        let (admin, key) = (cluster.node(node).admin(), cluster.key_on(node));
        assert_eq!(admin.text(&["SET", &key, &key]), "OK");
        let (replicas, limit) = (replicas.to_string(), HANG.as_millis().to_string());
        assert_eq!(admin.text(&["WAIT", &replicas, &limit]), replicas);
        key
    };
    let keys = masters.into_iter().map(write).collect();
    // A replica is not named before it is known to have something.
    let ports = || cluster.nodes().iter().map(|node| node.port().to_string());
    let knows = |node: &TestServer| {
        let slots = node.admin().text(&["CLUSTER", "SLOTS"]);
        ports().all(|port| slots.lines().any(|line| line == port))
    };
    let all = || cluster.nodes().iter().all(knows).then_some(());
    poll(HANG, all).expect("the nodes should name the replicas");
    keys
}

async fn get(pool: &GuardedPool, key: &str) {
    let told = soon("GET", pool.shared("test").get::<_, String>(key)).await;
    assert_eq!(told.unwrap_or_else(|error| panic!("{key}: {error}")), key);
}

#[tokio::test]
async fn off_no_replica_is_asked_anything() {
    let cluster = with_replicas();
    let pool = pool(&cluster, ReplicaReads::Off);

    for key in written(&cluster) {
        for _ in 0..20 {
            get(&pool, &key).await;
        }
    }

    assert_eq!(REPLICAS.map(|node| calls(&cluster, node, "get")), [0; 3]);
}

#[tokio::test]
async fn preferred_replicas_answer_what_only_reads() {
    let cluster = with_replicas();
    let pool = pool(&cluster, ReplicaReads::Prefer);
    let keys = written(&cluster);
    let mut handle = pool.shared("test");

    for key in &keys {
        for _ in 0..20 {
            get(&pool, key).await;
        }
    }
    let all: Vec<String> = soon("MGET", handle.mget(&keys)).await.unwrap();
    assert_eq!(all, keys);

    assert_eq!(REPLICAS.map(|node| calls(&cluster, node, "get")), [20; 3]);
    assert_eq!(MASTERS.map(|node| calls(&cluster, node, "get")), [0; 3]);
    // What writes, or is in a transaction, is the master's.
    for key in &keys {
        let () = ask(&mut handle, &format!("APPEND {key} +")).await;
        let mut both = pipe();
        both.atomic().get(key).strlen(key);
        let told: (String, usize) = soon("MULTI", both.query_async(&mut handle)).await.unwrap();
        assert_eq!(told, (format!("{key}+"), key.len() + 1));
        let mut lease = soon("a lease", pool.acquire_for("test", key)).await.unwrap();
        assert_eq!(ask::<String>(&mut lease, &format!("GET {key}")).await, format!("{key}+"));
    }
    let redirected = MASTERS.iter().chain(&REPLICAS).map(|node| errors(&cluster, *node, "MOVED"));
    assert_eq!(redirected.sum::<u64>(), 0);
    let status = node_status(&pool, &cluster, 3).unwrap();
    assert_eq!(status.role, Some(redis_guard::server::Role::Replica));
    assert_eq!(status.replica_of.as_deref(), Some(&*cluster.address(0)));
}

/// Whose turn it is goes round.
#[tokio::test]
async fn several_replicas_of_one_master_share_its_reads() {
    let cluster = Cluster::with_replicas(1, 2, &TestServer::builder()).unwrap();
    let key = written(&cluster).remove(0);
    let pool = pool(&cluster, ReplicaReads::Prefer);

    for _ in 0..30 {
        get(&pool, &key).await;
    }

    let answered = [0, 1, 2].map(|node| calls(&cluster, node, "get"));
    assert!(answered[0] == 0 && answered[1] >= 10 && answered[2] >= 10, "{answered:?}");
}

#[tokio::test]
async fn preferred_replicas_that_are_full_are_done_without() {
    let cluster = with_replicas();
    let pool = pool(&cluster, ReplicaReads::Prefer);
    let keys = written(&cluster);
    cluster.node(3).admin().set_maxclients(1);

    for _ in 0..50 {
        get(&pool, &keys[0]).await;
        get(&pool, &keys[1]).await;
    }

    assert_eq!([0, 3, 4].map(|node| calls(&cluster, node, "get")), [50, 0, 50]);
    assert!(cluster.rejected(3) >= 1);
    assert_eq!(sockets(&cluster, 3), 0);
}

#[tokio::test]
async fn a_pipeline_goes_to_the_master_of_a_preferred_replica_that_refuses() {
    let cluster = with_replicas();
    let pool = builder(&cluster)
        .max_connections(1)
        .acquire_timeout(Duration::from_millis(50))
        .replica_reads(ReplicaReads::Prefer)
        .build()
        .unwrap();
    let keys = written(&cluster);
    let mut holder = soon("a lease", pool.acquire("holder")).await.unwrap();
    // All that there may be to that replica.
    assert_eq!(ask::<String>(&mut holder, &format!("GET {}", keys[0])).await, keys[0]);

    for of in [&keys[..1], &keys[..]] {
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        let mut reads = pipe();
        of.iter().for_each(|key| _ = reads.get(key).strlen(key));
        let told: Vec<redis_guard::redis::Value> =
            soon("a pipeline", reads.query_async(&mut lease)).await.unwrap();
        assert_eq!(told.len(), 2 * of.len());
    }

    assert_eq!([3, 4, 5, 0, 1, 2].map(|node| calls(&cluster, node, "strlen")), [0, 1, 1, 2, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preferred_replicas_that_die_are_done_without() {
    let cluster = with_replicas();
    let pool = pool(&cluster, ReplicaReads::Prefer);
    let keys = written(&cluster);
    get(&pool, &keys[0]).await;

    cluster.node(3).crash();
    until("its end", &pool, || {
        node_status(&pool, &cluster, 3).is_none_or(|it| it.status.live == 0)
    })
    .await;

    for _ in 0..50 {
        get(&pool, &keys[0]).await;
    }
    cluster.node(3).restart().unwrap();
    cluster.until_whole();
    let back = async {
        while calls(&cluster, 3, "get") == 0 {
            get(&pool, &keys[0]).await;
        }
    };
    soon("the replica", back).await;
}

#[tokio::test]
async fn only_replicas_are_read_and_nothing_is_read_without_one() {
    let cluster = with_replicas();
    let pool = pool(&cluster, ReplicaReads::Only);
    let keys = written(&cluster);
    for key in &keys {
        get(&pool, key).await;
    }
    assert_eq!(REPLICAS.map(|node| calls(&cluster, node, "get")), [1; 3]);

    cluster.node(3).admin().set_maxclients(1);
    kill_all(&cluster, 3);
    let refused_by =
        |told: &str| told.contains(&cluster.address(3)) && told.contains("max number of clients");
    let told = async {
        loop {
            // The first ones may be under way, or the first to find out.
            let told = refused(&mut pool.shared("test"), &format!("GET {}", keys[0])).await;
            if refused_by(&told.to_string()) {
                break;
            }
            println!("{told}");
        }
    };
    soon("its words", told).await;
    get(&pool, &keys[1]).await;
    assert_eq!(MASTERS.map(|node| calls(&cluster, node, "get")), [0; 3]);
}

/// The old master is a replica then, and serves the reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_the_old_master_is_read() {
    let cluster = with_replicas();
    let pool = pool(&cluster, ReplicaReads::Prefer);
    let keys = written(&cluster);
    get(&pool, &keys[0]).await;

    cluster.fail_over(3);
    assert_eq!(cluster.primary_of(slot_of(&keys[0])), 3);
    let () = ask(&mut pool.shared("test"), &format!("SET {0} {0}", keys[0])).await;

    let before = calls(&cluster, 0, "get");
    let read = async {
        while calls(&cluster, 0, "get") < before + 5 {
            get(&pool, &keys[0]).await;
        }
    };
    soon("reads", read).await;
}
