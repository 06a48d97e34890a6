//! Budgets over a cluster: per node, counted by the nodes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis_guard::redis::aio::ConnectionLike;
use redis_guard::redis::{RedisResult, Value, pipe};
use redis_guard::{AsyncCommands, Backoff, Budget, GuardedConnection, GuardedPool, Status};
use support::cluster::slot_of;
use support::{Cluster, HANG, Occupants, TestServer};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use waiting::{cmd, soon, until};

/// Of one node.
const MAX: usize = 8;
const ENDPOINTS: [(&str, Budget); 3] =
    [("a", Budget::max(3).reserve(1)), ("b", Budget::max(5).reserve(2)), ("c", Budget::max(8))];
const STEPS: usize = 8_000;
const WORKERS: u64 = 12;
const TROUBLES: usize = 4;
const MASTERS: usize = 3;

/// Held for writing while this process starts another. Between fork and exec the child has our
/// sockets too, so one that we close meanwhile stays open, and the server goes on counting it.
static FORKS: RwLock<()> = RwLock::new(());

fn forking<T>(fork: impl FnOnce() -> T) -> T {
    let _alone = FORKS.write().unwrap_or_else(PoisonError::into_inner);
    fork()
}

/// What happens to the cluster during a random run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Nodes restart, empty, and close connections.
    Faults,
    /// Others take all slots of a node, and give them back.
    Full,
    /// Masters and replicas change their roles.
    Failover,
    /// Slots move with their keys.
    Resharding,
    /// A node does nothing for a while.
    Stall,
}

/// How long a reply is waited for: a stall takes longer, and nothing else does on a machine that is busy
/// with something else.
const PATIENCE: Duration = Duration::from_millis(300);
const STALL: Duration = Duration::from_millis(900);

/// What the tasks of one random run share.
struct Run {
    trouble: Trouble,
    cluster: Cluster,
    pool: GuardedPool,
    name: String,
    /// One a slot, of all masters.
    tags: Vec<String>,
    steps: AtomicUsize,
    stepped: Notify,
    over: AtomicBool,
    /// The node that is stopped, if one is: it answers nobody, and `FORKS` must not be held for it.
    stopped: AtomicUsize,
}

impl Run {
    fn check_counts(&self) {
        let status = self.pool.status();
        let Some(cluster) = &status.cluster else { panic!("{status:#?}") };
        for node in &cluster.nodes {
            let of = &node.status;
            assert!(of.live + of.dialing <= MAX && of.in_use <= MAX && of.limit <= MAX, "{of:#?}");
            for endpoint in &of.endpoints {
                assert!(endpoint.in_use <= endpoint.max, "{of:#?}");
            }
        }
    }

    /// What each node counts. A second look where it is too much: it takes notice of a closed socket
    /// when its turn comes, perhaps after it has answered us.
    fn check_sockets(&self) {
        let _no_fork = FORKS.read().unwrap_or_else(PoisonError::into_inner);
        let stopped = self.stopped.load(Ordering::SeqCst);
        for node in (0..self.cluster.nodes().len()).filter(|node| *node != stopped) {
            let count = || self.sockets(node);
            let (first, second) = (count(), count());
            assert!(first.min(second) <= MAX, "node {node} counted {first}, then {second}");
        }
    }

    fn sockets(&self, node: usize) -> usize {
        waiting::sockets(self.cluster.node(node), &self.name).unwrap_or_default()
    }

    fn all_sockets(&self) -> usize {
        (0..self.cluster.nodes().len()).map(|node| self.sockets(node)).sum()
    }

    /// Closes one of the pool's connections from a node's side.
    fn kill_one(&self, rng: &mut fastrand::Rng) {
        let admin = self.cluster.node(rng.usize(..MASTERS)).admin();
        let list = admin.command(&["CLIENT", "LIST"]).map(|reply| reply.text());
        let field = format!(" name={} ", self.name);
        let list = list.unwrap_or_default();
        let ours: Vec<&str> = list.lines().filter(|line| line.contains(&field)).collect();
        if let Some(line) = rng.choice(ours) {
            let id = line.split(' ').next().unwrap().trim_start_matches("id=");
            // It may have gone meanwhile.
            let _ = admin.command(&["CLIENT", "KILL", "ID", id]);
        }
    }

    /// Whether it can be helped that somebody is told this.
    fn may_fail(&self, words: &str) -> bool {
        match self.trouble {
            Trouble::None => words.contains("holds all") || words.contains("no connection"),
            _ => true,
        }
    }
}

/// One caller that does at random what callers do.
async fn work(run: Arc<Run>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut held: Vec<(GuardedConnection, String)> = Vec::new();
    loop {
        let step = run.steps.fetch_add(1, Ordering::SeqCst);
        if step >= STEPS {
            return;
        }
        run.stepped.notify_one();
        let endpoint = ENDPOINTS[rng.usize(..3)].0;
        // A key of this step alone, in a slot that others use, too.
        let tag = rng.choice(&run.tags).unwrap().clone();
        let key = format!("{{{tag}}}{step}");
        let acquire = || run.pool.acquire_for(endpoint, &tag);
        let lease = (!held.is_empty()).then(|| rng.usize(..held.len()));
        match (rng.u32(..100), lease) {
            (0..22, _) => match acquire().await {
                Ok(lease) => held.push((lease, tag)),
                // Whoever is refused at once leaves the others some steps.
                Err(_) => sleep(Duration::from_millis(1)).await,
            },
            (22..30, _) => {
                let lease = waiting::dropped_after(rng.usize(..4), acquire()).await;
                held.extend(lease.and_then(Result::ok).map(|lease| (lease, tag)));
            }
            (30..34, _) => {
                let lease = timeout(Duration::from_micros(rng.u64(..2_000)), acquire()).await;
                held.extend(lease.ok().and_then(Result::ok).map(|lease| (lease, tag)));
            }
            (34..48, Some(at)) => drop(held.swap_remove(at)),
            (48..54, Some(at)) => leave_something_behind(held.swap_remove(at).0, &mut rng).await,
            (54..66, Some(at)) => {
                let (lease, tag) = &mut held[at];
                let key = format!("{{{tag}}}{step}");
                is_ours(&run, set_and_get(lease, &key).await);
            }
            (66..74, _) => {
                // A lease that routes.
                if let Ok(mut lease) = run.pool.acquire(endpoint).await {
                    is_ours(&run, set_and_get(&mut lease, &key).await);
                    let second = format!("{{{}}}{step}:second", rng.choice(&run.tags).unwrap());
                    if rng.bool() {
                        let polls = rng.usize(..4);
                        waiting::dropped_after(polls, set_and_get(&mut lease, &second)).await;
                    } else if rng.bool() {
                        leave_something_behind(lease, &mut rng).await;
                    }
                }
            }
            (74..82, _) => {
                is_ours(&run, set_and_get(&mut run.pool.shared(endpoint), &key).await);
            }
            (82..88, _) => {
                let other = format!("{{{}}}{step}:other", rng.choice(&run.tags).unwrap());
                let mut pipeline = pipe();
                pipeline.incr(&key, 1).incr(&other, 1).cmd("ECHO").arg(&key);
                let mut handle = run.pool.shared(endpoint);
                let told = pipeline.query_async::<(u64, u64, String)>(&mut handle).await;
                is_ours(&run, told.map(|told| told == (1, 1, key)));
            }
            (88..92, _) => {
                let list = format!("{{{tag}}}list");
                let words = format!("BLPOP {list} 0.01");
                let mut handle = run.pool.shared(endpoint);
                let command = cmd(&words);
                let polls = rng.usize(..4);
                let popped = command.query_async::<Option<(String, String)>>(&mut handle);
                if let Some(Ok(popped)) = waiting::dropped_after(polls, popped).await {
                    assert_eq!(popped, None);
                }
            }
            (92..95, _) if run.trouble == Trouble::Faults => run.kill_one(&mut rng),
            (92..97, _) => run.check_counts(),
            _ => run.check_sockets(),
        }
        if held.len() > 2 {
            held.remove(0);
        }
    }
}

/// Whether the reply is to this command; none where the key was lost.
async fn set_and_get(
    connection: &mut (impl ConnectionLike + Send + Sync),
    key: &str,
) -> RedisResult<bool> {
    let () = connection.set(key, key).await?;
    let told: Option<String> = connection.get(key).await?;
    Ok(told.is_none_or(|told| told == key))
}

#[track_caller]
fn is_ours(run: &Run, told: RedisResult<bool>) {
    match told {
        Ok(is_ours) => assert!(is_ours, "a wrong reply"),
        Err(error) => assert!(run.may_fail(&error.to_string()), "{error}"),
    }
}

async fn leave_something_behind(mut connection: GuardedConnection, rng: &mut fastrand::Rng) {
    let command = match rng.u32(..4) {
        0 => "WATCH k",
        1 => "MULTI",
        2 => "CLIENT SETNAME other",
        _ => "SUBSCRIBE c",
    };
    let _: RedisResult<Value> = cmd(command).query_async(&mut connection).await;
}

async fn random_run(trouble: Trouble) -> (Arc<Run>, u64) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("run again with SEED={seed}");
    let settings = TestServer::builder().maxclients(100);
    let cluster = forking(|| Cluster::with_replicas(MASTERS, 1, &settings).unwrap());
    let name = format!("random-{seed}");
    let mut builder = GuardedPool::cluster(cluster.urls())
        .max_connections(MAX)
        .acquire_timeout(Duration::from_millis(20))
        .connect_timeout(HANG)
        .response_timeout(HANG)
        .backoff(Backoff::equal_jitter(Duration::from_millis(1), Duration::from_millis(20)))
        .client_name(&name)
        .seed(seed);
    for (endpoint, budget) in ENDPOINTS {
        builder = builder.endpoint(endpoint, budget);
    }
    if trouble == Trouble::Stall {
        builder = builder.response_timeout(PATIENCE).connect_timeout(PATIENCE);
    }
    let pool = builder.build().unwrap();
    let tags = (0..MASTERS).flat_map(|node| {
        let slots = cluster.slots_of(node);
        slots.into_iter().step_by(500).map(|slot| cluster.key_in(slot)).collect::<Vec<_>>()
    });
    let tags = tags.collect();
    let (steps, stepped, over) = (AtomicUsize::new(0), Notify::new(), AtomicBool::new(false));
    let stopped = AtomicUsize::new(usize::MAX);
    let run = Run { trouble, cluster, pool, name, tags, steps, stepped, over, stopped };
    (Arc::new(run), seed)
}

/// Makes trouble at even distances through the run.
async fn make_trouble(run: Arc<Run>) {
    let cluster = &run.cluster;
    let mut occupants = None;
    for nth in 1..=TROUBLES {
        while run.steps.load(Ordering::SeqCst) < STEPS * nth / (TROUBLES + 1) {
            run.stepped.notified().await;
        }
        let node = nth % MASTERS;
        tokio::task::block_in_place(|| match run.trouble {
            Trouble::None => {}
            Trouble::Failover => {
                // There and back.
                let replica = if nth <= TROUBLES / 2 { node + MASTERS } else { node };
                cluster.fail_over(replica);
            }
            Trouble::Resharding => {
                for tag in run.tags.iter().step_by(3) {
                    let slot = slot_of(tag);
                    let to = (cluster.primary_of(slot) + 1) % MASTERS;
                    cluster.move_slot(slot, to);
                }
            }
            Trouble::Stall => {
                forking(|| {
                    run.stopped.store(node, Ordering::SeqCst);
                    cluster.node(node).pause();
                });
                std::thread::sleep(STALL);
                forking(|| cluster.node(node).resume());
                run.stopped.store(usize::MAX, Ordering::SeqCst);
            }
            Trouble::Faults => {
                forking(|| cluster.node(node).restart()).unwrap();
                cluster.until_whole();
            }
            Trouble::Full => {
                occupants = match occupants.take() {
                    None => Some(cluster.node(node).fill()),
                    Some(occupants) => {
                        Occupants::free(occupants);
                        None
                    }
                };
            }
        });
    }
}

/// Ends the watch, also when the test fails: the runtime waits for its thread.
struct Over(Arc<Run>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// Asks the nodes for their own counts all the time.
fn watch_sockets(run: &Run) -> usize {
    let mut samples = 0;
    while !run.over.load(Ordering::SeqCst) {
        run.check_sockets();
        samples += 1;
    }
    samples
}

/// Nobody but the lanes holds anything, and nobody awaits or dials anything.
fn is_at_rest(status: &Status) -> bool {
    let up = status.lanes.iter().filter(|lane| lane.up).count();
    let in_flight: usize = status.endpoints.iter().map(|it| it.shared_in_flight).sum();
    status.waiting + status.dialing + in_flight == 0
        && status.in_use == up
        && status.idle + up == status.live
}

async fn random_steps(trouble: Trouble) {
    let (run, seed) = random_run(trouble).await;
    let watcher = tokio::task::spawn_blocking({
        let run = Arc::clone(&run);
        move || watch_sockets(&run)
    });
    let over = Over(Arc::clone(&run));
    let trouble = tokio::spawn(make_trouble(Arc::clone(&run)));
    let workers: Vec<_> =
        (0..WORKERS).map(|nth| tokio::spawn(work(Arc::clone(&run), seed ^ nth))).collect();
    for worker in workers {
        timeout(3 * HANG, worker).await.expect("a worker hangs").unwrap();
    }
    soon("the last trouble", trouble).await.unwrap();
    drop(over);
    assert!(watcher.await.unwrap() > 50, "the nodes were asked at many points");

    run.cluster.until_whole();
    until("rest", &run.pool, || {
        let status = run.pool.status();
        is_at_rest(&status) && run.all_sockets() == status.live
    })
    .await;
    let status = run.pool.status();
    let nodes = &status.cluster.as_ref().unwrap().nodes;
    for node in nodes {
        assert!(is_at_rest(&node.status), "{node:#?}");
        let number = run.cluster.number_of(&node.status.server).unwrap();
        assert_eq!(run.sockets(number), node.status.live, "every socket has its name again");
    }
    let acquired: u64 = status.endpoints.iter().map(|it| it.acquired).sum();
    assert!(acquired > 500, "only {acquired} were served");
    soon("close", run.pool.close()).await;
    assert_eq!(run.pool.status().live, 0);
    until("an empty CLIENT LIST", &run.pool, || run.all_sockets() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_steps_keep_every_nodes_bounds_and_leave_nothing_behind() {
    random_steps(Trouble::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_do_those_with_killed_connections_and_nodes_that_restart() {
    random_steps(Trouble::Faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_while_others_take_a_nodes_slots_and_give_them_back() {
    random_steps(Trouble::Full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_over_failovers() {
    random_steps(Trouble::Failover).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_while_slots_move() {
    random_steps(Trouble::Resharding).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_while_a_node_stalls() {
    random_steps(Trouble::Stall).await;
}
