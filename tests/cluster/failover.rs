//! A master goes, and its replica takes its place.

use std::time::Duration;

use redis_guard::GuardedPool;
use tokio::time::{Instant, sleep, timeout};

use crate::load::{Load, Operation, failures, none, tags};
use crate::support::cluster::slot_of;
use crate::support::{Cluster, HANG, TestServer, dials};
use crate::waiting::until;
use crate::{builder, cluster_status, node_status, sockets, with_replicas};

/// How long after the new master serves, by an operator's look at it, everybody is served by it: it is asked who
/// the nodes are once a second, and up to a tenth later, and a busy machine takes its time.
const BACK_WITHIN: Duration = Duration::from_millis(1_250);
const MAX: usize = 8;

/// A pool in full use; the master of node 0's keys is about to go.
struct Busy {
    cluster: Cluster,
    pool: GuardedPool,
    /// Keys of its slots.
    tags: Vec<String>,
    load: Load,
}

impl Busy {
    async fn start() -> Self {
        Self::on(with_replicas()).await
    }

    async fn on(cluster: Cluster) -> Self {
        let pool = builder(&cluster).max_connections(MAX).build().unwrap();
        let tags = tags(&cluster, 0, 10);
        let others = [1, 2].map(|node| self::tags(&cluster, node, 10)).concat();
        let load = Load::start(&pool, &[&tags[..], &others].concat(), &others);
        let busy = Self { cluster, pool, tags, load };
        busy.more(500).await;
        busy
    }

    /// Returns when so many more operations on the slots that move have ended well.
    async fn more(&self, count: usize) {
        self.load.more(&self.pool, count, |key| self.moves(key)).await;
    }

    fn moves(&self, key: &str) -> bool {
        self.tags.iter().any(|tag| slot_of(tag) == slot_of(key))
    }

    /// Returns when an operator is served by one of these nodes: how long that is after `since`.
    async fn served_by(&self, nodes: &[usize], since: Instant) -> (usize, Duration) {
        let serves = |node: usize| {
            let admin = self.cluster.node(node).admin();
            let set = admin.command(&["SET", &self.tags[0], "an operator's"]);
            set.is_ok_and(|reply| !reply.is_error())
        };
        let looking = async {
            loop {
                if let Some(node) = nodes.iter().copied().find(|node| serves(*node)) {
                    break (node, since.elapsed());
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(HANG, looking).await.expect("the cluster should have a new master")
    }

    /// What must be so whoever took over, `served` after `gone`.
    async fn end(self, gone: Instant, served: Duration, new: usize) -> Vec<Operation> {
        self.more(500).await;
        let Self { cluster, pool, tags, load } = self;
        let moves = |key: &str| tags.iter().any(|tag| slot_of(tag) == slot_of(key));
        let operations = load.stop().await;
        let of_it: Vec<_> =
            operations.iter().filter(|it| moves(&it.key) && it.begun > gone).cloned().collect();
        let last = of_it.iter().filter(|it| it.error.is_some()).map(|it| it.ended).max();
        let back = last.map_or(Duration::ZERO, |last| last - gone);
        let longest = operations.iter().map(Operation::took).max().unwrap();
        println!(
            "served by the new master after {served:?}, the last failure after {back:?}; {} of {} \
             operations failed, the longest took {longest:?}; dials {:?}",
            operations.iter().filter(|it| it.error.is_some()).count(),
            operations.len(),
            dials(&pool),
        );
        assert!(back <= served + BACK_WITHIN, "{:#?}", failures(&of_it));
        until("the new master", &pool, || {
            let status = node_status(&pool, &cluster, new);
            status.is_some_and(|it| {
                it.role == Some(redis_guard::server::Role::Master) && it.slots > 0
            })
        })
        .await;
        assert_eq!(cluster_status(&pool).unserved_slots, 0);
        for node in 0..6 {
            assert!(sockets(&cluster, node) <= MAX);
        }
        operations
    }
}

fn failed_dials(pool: &GuardedPool) -> u64 {
    dials(pool).into_iter().filter(|(outcome, _)| *outcome != "connected").map(|(_, n)| n).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_by_command_fails_nobody() {
    let busy = Busy::start().await;
    let gone = Instant::now();

    let told = busy.cluster.node(3).admin().text(&["CLUSTER", "FAILOVER"]);
    assert_eq!(told, "OK");
    let (new, served) = busy.served_by(&[3], gone).await;

    busy.more(500).await;
    let failed = failed_dials(&busy.pool);
    let operations = busy.end(gone, served, new).await;
    assert_eq!(failures(&operations), none());
    assert_eq!(failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed() {
    let busy = Busy::start().await;
    let gone = Instant::now();

    busy.cluster.node(0).crash();
    let (new, served) = busy.served_by(&[3], gone).await;
    busy.more(500).await;
    let failed = failed_dials(&busy.pool);
    // It comes back as a replica.
    busy.cluster.node(0).restart().unwrap();
    busy.cluster.until_whole();

    let operations = busy.end(gone, served, new).await;
    let others = operations.iter().filter(|it| it.begun > gone && it.error.is_some());
    println!("{failed} failed dials; {} failed", others.count());
    assert!(failed <= 16, "{failed} failed dials");
}

/// As with the timeouts that clusters have in production: the pool has asked in vain for a while, and dials rarely.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_takes_its_time_is_heard_of_as_soon() {
    let settings = TestServer::builder()
        .arg("cluster-node-timeout", "6000")
        .arg("cluster-require-full-coverage", "no");
    let busy = Busy::on(Cluster::with_replicas(3, 1, &settings).unwrap()).await;
    let gone = Instant::now();

    busy.cluster.node(0).crash();
    let (new, served) = busy.served_by(&[3], gone).await;

    assert!(served > Duration::from_secs(6), "{served:?}");
    busy.end(gone, served, new).await;
}

/// The keys of the other nodes do not feel it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_disturbs_no_others_keys() {
    let cluster = with_replicas();
    let pool = builder(&cluster).build().unwrap();
    let others = [1, 2].map(|node| tags(&cluster, node, 10)).concat();
    // Node 0 is in use, too.
    let own = tags(&cluster, 0, 1);
    let load = Load::start(&pool, &others, &others);
    let also = Load::start(&pool, &own, &own);
    load.more(&pool, 500, |_| true).await;
    also.more(&pool, 50, |_| true).await;

    cluster.node(0).crash();
    assert_eq!(cluster.moved_from(slot_of(&own[0]), 0), 3);
    also.more(&pool, 50, |_| true).await;

    let operations = load.stop().await;
    assert_eq!(failures(&operations), none());
    also.stop().await;
}

/// As an operator does who updates one node after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failover_after_the_other() {
    let cluster = with_replicas();
    let pool = builder(&cluster).build().unwrap();
    let all = [0, 1, 2].map(|node| tags(&cluster, node, 10)).concat();
    let load = Load::start(&pool, &all, &all);
    load.more(&pool, 200, |_| true).await;

    for (old, new) in [(0, 3), (1, 4), (2, 5), (3, 0), (4, 1), (5, 2)] {
        cluster.fail_over(new);
        assert!(!cluster.is_master(old));
        load.more(&pool, 200, |_| true).await;
    }

    let operations = load.stop().await;
    assert_eq!(failures(&operations), none());
    let mut wanted = [0, 1, 2].map(|node| cluster.address(node));
    wanted.sort();
    // The one that was asked last may not have heard of the last failover yet.
    until("the masters", &pool, || {
        let masters = cluster_status(&pool).nodes.into_iter().filter(|node| node.slots > 0);
        let mut servers: Vec<_> = masters.map(|node| node.status.server.to_string()).collect();
        servers.sort();
        servers == wanted
    })
    .await;
    until("no lease", &pool, || pool.status().in_use <= 3).await;
}

/// Nobody wants anything meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_pool_serves_its_first_caller_after_a_failover() {
    let cluster = with_replicas();
    let pool = builder(&cluster).build().unwrap();
    let tag = cluster.key_on(0);
    let set = async || {
        let mut handle = pool.shared("test");
        crate::waiting::cmd("SET").arg(&tag).arg(1).query_async::<()>(&mut handle).await
    };
    set().await.unwrap();

    cluster.node(0).crash();
    assert_eq!(cluster.moved_from(slot_of(&tag), 0), 3);
    let begun = Instant::now();
    while let Err(error) = set().await {
        assert!(begun.elapsed() < BACK_WITHIN, "{error}");
        sleep(Duration::from_millis(10)).await;
    }
    println!("served after {:?}", begun.elapsed());
}
