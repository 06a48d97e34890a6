//! The network between the nodes is cut, and callers still reach all of them.
#![cfg(target_os = "linux")]

use std::time::Duration;

use redis_guard::redis::pipe;
use redis_guard::server::Role;
use redis_guard::{AsyncCommands, GuardedPool, GuardedPoolBuilder, ReplicaReads};
use tokio::time::{Instant, sleep};

use crate::load::{Load, Operation, failures, none, tags};
use crate::support::{Auth, Cluster, Resp, Transport, dials};
use crate::waiting::{HANG, soon, until};
use crate::{calls, cluster_status, errors, hasty, node_status};

/// How long after a node serves, by an operator's look at it, everybody is served by it: it is asked who the
/// nodes are once a second, and up to a tenth later, and a busy machine takes its time.
const BACK_WITHIN: Duration = Duration::from_millis(1_250);

/// No operation takes as long while all nodes answer, whatever they say; it is long for a busy machine.
const PROMPT: Duration = Duration::from_secs(3);

const MASTERS: [usize; 3] = [0, 1, 2];
const NODES: [usize; 6] = [0, 1, 2, 3, 4, 5];
const MAX: usize = 8;

/// Its timeouts only end a hang: no node is silent for anybody.
fn seeded(seeds: impl IntoIterator<Item = String>) -> GuardedPoolBuilder {
    let builder = GuardedPool::cluster(seeds).max_connections(MAX).acquire_timeout(HANG);
    builder.connect_timeout(HANG).response_timeout(HANG)
}

/// A pool in full use, on a cluster whose node 0 is about to be cut off from all others.
struct Busy {
    cluster: Cluster,
    pool: GuardedPool,
    begun: Instant,
    /// Keys of node 0's.
    own: Vec<String>,
    load: Load,
    /// Uses the other masters' keys only.
    others: Load,
}

/// Node 0 on its own.
struct Cut {
    /// The replica had all that was acknowledged until then.
    synced: Instant,
    at: Instant,
    /// By an operator's look, the replica serves from then on, and the old master does not.
    served: Instant,
}

impl Busy {
    /// `told_by` has told the pool who the nodes are, and is the first to be asked again.
    async fn start(told_by: usize) -> Self {
        let cluster = Cluster::with_network(3, 1, &hasty()).unwrap();
        let begun = Instant::now();
        let pool = seeded([cluster.node(told_by).url()]).build().unwrap();
        let own = tags(&cluster, 0, 10);
        let others = [1, 2].map(|node| tags(&cluster, node, 10)).concat();
        let load = Load::start(&pool, &own, &own);
        let others = Load::start(&pool, &others, &others);
        let busy = Self { cluster, pool, begun, own, load, others };
        busy.more().await;
        let asked = NODES.map(|node| calls(&busy.cluster, node, "cluster|slots") > 0);
        assert_eq!(asked, NODES.map(|node| node == told_by));
        busy
    }

    /// Returns when more operations on everybody's keys have ended well.
    async fn more(&self) {
        self.load.more(&self.pool, 200, |_| true).await;
        self.others.more(&self.pool, 200, |_| true).await;
    }

    async fn cut_off(&self) -> Cut {
        let synced = Instant::now();
        let old = self.cluster.node(0).admin();
        assert_eq!(old.text(&["SET", &self.own[0], "the last of the old master's"]), "OK");
        assert_eq!(old.text(&["WAIT", "1", "10000"]), "1");

        self.cluster.cut_off(&[0]);
        let at = Instant::now();
        served(&self.cluster, 3, &self.own[0]).await;
        // A busy machine may keep it from noticing.
        let served = down(&self.cluster, 0).await;
        self.more().await;
        Cut { synced, at, served }
    }

    async fn heal(&self) {
        self.cluster.heal();
        self.cluster.until_whole();
        self.more().await;
    }
}

/// When an operator is served by this node.
async fn served(cluster: &Cluster, node: usize, key: &str) -> Instant {
    seen("a master", || {
        let set = cluster.node(node).admin().command(&["SET", key, "an operator's"]);
        set.is_ok_and(|reply| !reply.is_error())
    })
    .await
}

/// When an operator hears from this node that the cluster is down.
async fn down(cluster: &Cluster, node: usize) -> Instant {
    seen("its end", || {
        let info = cluster.node(node).admin().text(&["CLUSTER", "INFO"]);
        info.contains("cluster_state:fail")
    })
    .await
}

/// When an operator sees that it is so. A look takes its time from the nodes.
async fn seen(what: &str, is_so: impl Fn() -> bool) -> Instant {
    let looking = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, looking).await;
    Instant::now()
}

fn is_down(operation: &Operation) -> bool {
    operation.error.as_ref().is_some_and(|error| error.contains("The cluster is down"))
}

fn longest(operations: &[Operation]) -> Duration {
    operations.iter().map(Operation::took).max().unwrap()
}

fn last_failure(operations: &[Operation]) -> Instant {
    operations.iter().filter(|it| it.error.is_some()).map(|it| it.ended).max().unwrap()
}

/// How often it was asked who the nodes are, and answered.
fn questions(cluster: &Cluster) -> u64 {
    (0..cluster.nodes().len()).map(|node| calls(cluster, node, "cluster|slots")).sum()
}

/// How many dials there were to each node that has not left; none has failed.
fn dialed(pool: &GuardedPool, cluster: &Cluster) -> Vec<u64> {
    let outcomes = dials(pool);
    assert!(outcomes.keys().all(|outcome| *outcome == "connected"), "{outcomes:?}");
    let of = |node| node_status(pool, cluster, node).map_or(0, |it| it.status.dials["connected"]);
    (0..cluster.nodes().len()).map(of).collect()
}

/// Nobody holds anything, or waits.
async fn at_rest(pool: &GuardedPool) {
    until("no lease", pool, || {
        let status = pool.status();
        (status.in_use, status.waiting, status.dialing) == (status.lanes.len(), 0, 0)
    })
    .await;
}

async fn the_majority_is_followed(told_by: usize) {
    let busy = Busy::start(told_by).await;

    let cut = busy.cut_off().await;
    let down = errors(&busy.cluster, 0, "CLUSTERDOWN");
    let back = Instant::now();
    busy.heal().await;

    let Busy { cluster, pool, begun, load, others, .. } = busy;
    let (operations, others) = (load.stop().await, others.stop().await);
    let took = begun.elapsed();
    let late = last_failure(&operations).saturating_duration_since(cut.served);
    let dials = dialed(&pool, &cluster);
    let questions = questions(&cluster);
    println!(
        "served by the replica after {:?}, the last failure {late:?} after that; the longest took {:?}; \
         dials {dials:?}, {questions} questions in {took:?}",
        cut.served - cut.at,
        longest(&operations),
    );
    assert_eq!(failures(&others), none());
    assert!(
        operations.iter().all(|it| it.error.is_none() || is_down(it)),
        "{:#?}",
        failures(&operations)
    );
    assert!(late < BACK_WITHIN, "{late:?}");
    for operations in [&operations, &others] {
        assert!(longest(operations) < PROMPT, "{:?}", longest(operations));
    }
    // The old master was left before the cut was healed, and is sent nothing since.
    assert!(last_failure(&operations) < back);
    assert_eq!((errors(&cluster, 0, "CLUSTERDOWN"), errors(&cluster, 0, "MOVED")), (down, 0));
    assert_eq!(cluster.replicas_of(3), [0]);
    let role = |node| node_status(&pool, &cluster, node).and_then(|node| node.role);
    assert_eq!([1, 2, 3].map(role), [Some(Role::Master); 3]);
    assert_eq!(role(0), None);
    // The first news, and that of the new master.
    assert_eq!(cluster_status(&pool).changes, 2);
    assert!(dials.iter().all(|dials| *dials <= MAX as u64), "{dials:?}");
    // Once a second, and of one that is down the next one beside it.
    assert!(questions <= 2 * (took.as_secs() + 2), "{questions} in {took:?}");
    at_rest(&pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_cut_off_is_left_for_its_replica_and_disturbs_no_others_keys() {
    the_majority_is_followed(1).await;
}

/// It knows nothing of what the others decide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_cut_off_is_left_also_if_it_is_the_first_to_be_asked_who_the_nodes_are() {
    the_majority_is_followed(0).await;
}

/// Those that were acknowledged, and left nothing. None was done twice, for each key is used once.
async fn lost(pool: &GuardedPool, operations: &[Operation]) -> Vec<Operation> {
    let mut lost = Vec::new();
    for operations in operations.chunks(500) {
        let mut gets = pipe();
        for Operation { key, .. } in operations {
            gets.get(key);
        }
        let mut handle = pool.shared("audit");
        let values = soon("GETs", gets.query_async::<Vec<Option<String>>>(&mut handle)).await;
        for (operation, value) in operations.iter().zip(values.unwrap()) {
            let Operation { key, error, .. } = operation;
            match value {
                Some(value) => assert!(value == "1" || value == *key, "{key}: {value}"),
                None if error.is_none() => lost.push(operation.clone()),
                None => {}
            }
        }
    }
    lost
}

/// That a master acknowledges what is lost then is Redis's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_done_once_and_lost_only_if_the_old_master_did_it_after_the_cut() {
    let busy = Busy::start(0).await;
    let cut = busy.cut_off().await;
    busy.heal().await;

    let Busy { pool, load, others, .. } = busy;
    let (operations, others) = (load.stop().await, others.stop().await);
    let lost = lost(&pool, &operations).await;
    for operation in &lost {
        assert!(operation.ended > cut.synced && operation.begun < cut.served, "{operation:?}");
    }
    let by_the_old =
        |it: &&Operation| it.error.is_none() && it.begun > cut.at && it.ended < cut.served;
    let by_the_old = operations.iter().filter(by_the_old).count();
    println!(
        "{} of {} lost, {by_the_old} acknowledged by the old master after the cut",
        lost.len(),
        operations.len()
    );
    assert!(by_the_old > 0 && lost.len() >= by_the_old);
    assert_eq!(self::lost(&pool, &others).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_masters_each_alone_say_so_at_once_and_serve_as_soon_as_they_meet() {
    let cluster = Cluster::with_network(3, 0, &hasty()).unwrap();
    let begun = Instant::now();
    let pool = seeded(cluster.urls()).build().unwrap();
    let tags = MASTERS.map(|node| tags(&cluster, node, 10));
    let load = Load::start(&pool, &tags.concat(), &tags.concat());
    load.more(&pool, 500, |_| true).await;

    cluster.cut_off(&[0]);
    cluster.cut_off(&[1]);
    for node in MASTERS {
        down(&cluster, node).await;
    }
    let down = Instant::now();
    let asked = questions(&cluster);
    // All are asked, for none says what one would like to hear.
    let healed = seen("questions", || questions(&cluster) >= asked + 6).await;
    cluster.heal();
    for node in MASTERS {
        served(&cluster, node, &tags[node][0]).await;
    }
    let whole = Instant::now();
    load.more(&pool, 200, |_| true).await;

    let operations = load.stop().await;
    let took = begun.elapsed();
    let questions = questions(&cluster);
    let back = last_failure(&operations).saturating_duration_since(whole);
    let dials = dialed(&pool, &cluster);
    println!(
        "down for {:?}, whole {:?} after the heal, the last failure {back:?} after that; the longest took \
         {:?}; dials {dials:?}, {questions} questions in {took:?}",
        healed - down,
        whole - healed,
        longest(&operations),
    );
    assert!(
        operations.iter().all(|it| it.error.is_none() || is_down(it)),
        "{:#?}",
        failures(&operations)
    );
    let meanwhile = operations.iter().filter(|it| it.begun > down && it.ended < healed);
    assert!(meanwhile.clone().count() > 0 && meanwhile.clone().all(is_down));
    assert!(longest(&operations) < PROMPT, "{:?}", longest(&operations));
    assert!(back < BACK_WITHIN, "{back:?}");
    let status = cluster_status(&pool);
    assert_eq!((status.changes, status.unserved_slots, status.trouble), (1, 0, None));
    assert!(dials.iter().all(|dials| *dials <= MAX as u64), "{dials:?}");
    // Once a second, and nobody is the only one to ask.
    assert!(questions <= 3 * (took.as_secs() + 2), "{questions} in {took:?}");
    at_rest(&pool).await;
}

/// Its master serves all along, and it is a replica once more afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preferred_replica_cut_off_is_done_without() {
    let cluster = Cluster::with_network(3, 1, &hasty()).unwrap();
    let seeds = cluster.urls();
    let pool = seeded(seeds).replica_reads(ReplicaReads::Prefer).build().unwrap();
    let key = cluster.key_on(0);
    let master = cluster.node(0).admin();
    assert_eq!(master.text(&["SET", &key, "value"]), "OK");
    assert_eq!(master.text(&["WAIT", "1", "10000"]), "1");
    let reads = |node: usize| calls(&cluster, node, "get");
    // Alone, and in a pipeline with what another node is asked.
    let other = cluster.key_on(1);
    let read = async || {
        let mut handle = pool.shared("test");
        let told = soon("GET", handle.get::<_, String>(&key)).await;
        assert_eq!(told.unwrap_or_else(|error| panic!("{error}")), "value");
        let mut both = pipe();
        both.get(&key).get(&other);
        let told = soon("GETs", both.query_async::<(String, Option<u8>)>(&mut handle)).await;
        assert_eq!(told.unwrap_or_else(|error| panic!("{error}")).0, "value");
    };
    let read_by = async |node: usize| {
        let before = reads(node);
        let reading = async {
            while reads(node) < before + 100 {
                read().await;
            }
        };
        soon("reads", reading).await;
    };
    read_by(3).await;

    cluster.cut_off(&[3]);
    read_by(0).await;
    let named = || node_status(&pool, &cluster, 3).is_some_and(|node| node.role.is_some());
    let left = async {
        while named() {
            read().await;
        }
    };
    soon("its end", left).await;
    let before = reads(3);
    read_by(0).await;
    assert_eq!(reads(3), before);
    assert!(errors(&cluster, 3, "CLUSTERDOWN") > 0, "it should have been asked meanwhile");

    cluster.heal();
    read_by(3).await;
}

/// A user who may ask where the slots are, and not how the cluster is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_cut_off_is_left_also_by_those_who_may_not_ask_it_how_the_cluster_is() {
    let settings = hasty().arg("user", "app on >secret ~* &* +@all -cluster|info");
    let cluster = Cluster::with_network(3, 1, &settings).unwrap();
    let seed =
        cluster.node(0).url_with(Transport::Tcp, Resp::Resp2, Auth::User("app", "secret"), 0);
    let pool = seeded([seed]).build().unwrap();
    let own = tags(&cluster, 0, 10);
    let load = Load::start(&pool, &own, &own);
    load.more(&pool, 200, |_| true).await;

    cluster.cut_off(&[0]);
    served(&cluster, 3, &own[0]).await;
    let served = down(&cluster, 0).await;
    load.more(&pool, 200, |_| true).await;

    let operations = load.stop().await;
    let late = last_failure(&operations).saturating_duration_since(served);
    println!("the last failure {late:?} after the replica serves");
    assert!(late < BACK_WITHIN, "{late:?}");
}
