//! Budgets: who may hold how many connections, counted by the server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;
mod waiting;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis_guard::{Backoff, Budget, GuardedConnection, GuardedPool, redis};
use support::{Name, Occupants, TestServer, impatient, unhurried};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use waiting::{HANG, at_rest, cmd, echo, poll_once, ready, sockets, soon, until};

const MAX: usize = 8;
const ENDPOINTS: [(&str, Budget); 3] =
    [("a", Budget::max(3).reserve(1)), ("b", Budget::max(5).reserve(2)), ("c", Budget::max(8))];
const MAXIMA: [usize; 3] = [3, 5, 8];
const STEPS: usize = 10_000;
const WORKERS: u64 = 12;
const TROUBLES: usize = 3;

/// Held for writing while this process starts another. Between fork and exec the child has our
/// sockets too, so one that we close meanwhile stays open, and the server goes on counting it.
static FORKS: RwLock<()> = RwLock::new(());

fn forking<T>(fork: impl FnOnce() -> T) -> T {
    let _alone = FORKS.write().unwrap_or_else(PoisonError::into_inner);
    fork()
}

fn server() -> TestServer {
    forking(|| TestServer::builder().maxclients(64).start().unwrap())
}

/// What happens to the server during a random run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// It restarts, and closes connections.
    Faults,
    /// Others take all its slots, and give them back.
    Full,
    /// It becomes a replica of another one, to which its name moves, and the other way round. It closes
    /// nothing.
    Failover,
    /// Nothing passes between the pool and it for a while.
    Silence,
    /// It does nothing for a while.
    Stall,
}

impl Trouble {
    /// Whether a connection may end while it is lent.
    fn ends_connections(self) -> bool {
        !matches!(self, Self::None | Self::Full)
    }

    /// How many connections there may be. One that is to find the primary is one too many until its
    /// predecessor is closed.
    fn most(self) -> usize {
        MAX + usize::from(self == Self::Failover)
    }
}

/// How long a reply is waited for: a stall takes longer, and nothing else does on a machine that is busy
/// with something else.
const PATIENCE: Duration = Duration::from_millis(300);
const STALL: Duration = Duration::from_millis(900);

/// What the tasks of one random run share.
struct Run {
    trouble: Trouble,
    server: TestServer,
    /// Where it is in a failover's turn, if there is one.
    other: Option<TestServer>,
    address: Option<Name>,
    pool: GuardedPool,
    name: String,
    steps: AtomicUsize,
    stepped: Notify,
    /// Leases, counted here, beside the pool's own counts.
    held: [AtomicUsize; 3],
    over: AtomicBool,
}

/// A lease, and its place in our own count.
struct Held<'a> {
    connection: GuardedConnection,
    count: &'a AtomicUsize,
}

impl Run {
    /// The lease counts as held until just before its end. (A budget counts sockets, so a lease
    /// whose socket is closed holds nothing, and its place may have another holder.)
    fn hold(&self, endpoint: usize, connection: GuardedConnection) -> Held<'_> {
        let held = self.held[endpoint].fetch_add(1, Ordering::SeqCst) + 1;
        let (name, max) = (ENDPOINTS[endpoint].0, MAXIMA[endpoint]);
        assert!(held <= max || self.trouble.ends_connections(), "{name} holds {held}");
        Held { connection, count: &self.held[endpoint] }
    }

    fn check_counts(&self) {
        let status = self.pool.status();
        assert!(status.live + status.dialing <= self.trouble.most(), "{status:#?}");
        assert!(status.in_use <= MAX && status.limit <= MAX, "{status:#?}");
        for endpoint in &status.endpoints {
            assert!(endpoint.in_use <= endpoint.max, "{status:#?}");
        }
    }

    /// What the server counts. A second look where it is too much: it takes notice of a closed
    /// socket when its turn comes, perhaps after it has answered us.
    fn check_sockets(&self) {
        let _no_fork = FORKS.read().unwrap_or_else(PoisonError::into_inner);
        let count = || self.sockets().unwrap_or_default();
        let (first, second) = (count(), count());
        assert!(first.min(second) <= self.trouble.most(), "counted {first}, then {second}");
    }

    fn servers(&self) -> impl Iterator<Item = &TestServer> {
        [&self.server].into_iter().chain(&self.other)
    }

    /// What the servers count.
    fn sockets(&self) -> Option<usize> {
        self.servers().map(|server| sockets(server, &self.name)).sum()
    }

    /// One server becomes the other's replica, and the name moves there.
    fn fail_over(&self, nth: usize) {
        let Some(other) = &self.other else { return };
        let (old, new) = if nth % 2 == 1 { (&self.server, other) } else { (other, &self.server) };
        assert_eq!(new.admin().text(&["REPLICAOF", "NO", "ONE"]), "OK");
        assert_eq!(old.admin().text(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]), "OK");
        self.address.as_ref().unwrap().move_to(new);
    }

    /// Closes one of the pool's connections from the server's side.
    fn kill_one(&self, rng: &mut fastrand::Rng) {
        let list = self.server.admin().command(&["CLIENT", "LIST"]);
        let list = list.map(|reply| reply.text()).unwrap_or_default();
        let field = format!(" name={} ", self.name);
        let ours: Vec<&str> = list.lines().filter(|line| line.contains(&field)).collect();
        if let Some(line) = rng.choice(ours) {
            let id = line.split(' ').next().unwrap().trim_start_matches("id=");
            // It may have gone meanwhile.
            let _ = self.server.admin().command(&["CLIENT", "KILL", "ID", id]);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One caller that does at random what callers do.
async fn work(run: Arc<Run>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut held: Vec<Held<'_>> = Vec::new();
    while run.steps.fetch_add(1, Ordering::SeqCst) < STEPS {
        run.stepped.notify_one();
        let endpoint = rng.usize(..3);
        let acquire = || run.pool.acquire(ENDPOINTS[endpoint].0);
        let lease = (!held.is_empty()).then(|| rng.usize(..held.len()));
        match (rng.u32(..100), lease) {
            (0..30, _) => match acquire().await {
                Ok(lease) => held.push(run.hold(endpoint, lease)),
                // Whoever is refused at once leaves the others some steps.
                Err(_) => sleep(Duration::from_millis(1)).await,
            },
            (30..40, _) => {
                let polls = rng.usize(..4);
                let lease = waiting::dropped_after(polls, acquire()).await;
                held.extend(lease.and_then(Result::ok).map(|lease| run.hold(endpoint, lease)));
            }
            (40..45, _) => {
                let patience = Duration::from_micros(rng.u64(..2_000));
                let lease = timeout(patience, acquire()).await;
                held.extend(lease.ok().and_then(Result::ok).map(|lease| run.hold(endpoint, lease)));
            }
            (45..65, Some(at)) => drop(held.swap_remove(at)),
            (65..73, Some(at)) => {
                let mut lease = held.swap_remove(at);
                leave_something_behind(&mut lease.connection, &mut rng).await;
            }
            (73..77, Some(at)) => {
                let stray = echo(&mut held[at].connection, "stray");
                waiting::dropped_after(rng.usize(..3), stray).await.map(Result::ok);
            }
            (77..80, Some(at)) => {
                let write = cmd("SET key value").query_async(&mut held[at].connection).await;
                assert!(write.is_ok() || run.trouble != Trouble::None, "{write:?}");
                let () = write.unwrap_or_default();
            }
            (80..96, Some(at)) => {
                let text = rng.u64(..).to_string();
                let echoed = echo(&mut held[at].connection, &text).await;
                // A killed connection may say so; a wrong reply it must not give.
                let said = match &echoed {
                    Ok(echoed) => *echoed == text,
                    Err(error) if run.trouble == Trouble::Stall => error.is_timeout(),
                    Err(_) => run.trouble.ends_connections(),
                };
                assert!(said, "ECHO {text} was answered with {echoed:?}");
            }
            (96..98, _) if run.trouble == Trouble::Faults => run.kill_one(&mut rng),
            _ => run.check_sockets(),
        }
        run.check_counts();
        if held.len() > 2 {
            held.remove(0);
        }
    }
}

async fn leave_something_behind(connection: &mut GuardedConnection, rng: &mut fastrand::Rng) {
    let command = match rng.u32(..5) {
        0 => "WATCH k",
        1 => "MULTI",
        2 => "SELECT 3",
        3 => "CLIENT SETNAME other",
        _ => "SUBSCRIBE c",
    };
    let _: redis::RedisResult<redis::Value> = cmd(command).query_async(connection).await;
}

async fn random_run(trouble: Trouble) -> (Arc<Run>, u64) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("run again with SEED={seed}");
    let server = server();
    let other = (trouble == Trouble::Failover).then(self::server);
    let address = match trouble {
        Trouble::Failover | Trouble::Silence => Some(Name::of(&server).await),
        _ => None,
    };
    let name = format!("random-{seed}");
    let mut builder = unhurried(address.as_ref().map_or_else(|| server.url(), Name::url))
        .max_connections(MAX)
        .acquire_timeout(Duration::from_millis(20))
        .backoff(Backoff::equal_jitter(Duration::from_millis(1), Duration::from_millis(20)))
        .min_idle(2)
        .client_name(&name)
        .seed(seed);
    for (endpoint, budget) in ENDPOINTS {
        builder = builder.endpoint(endpoint, budget);
    }
    if matches!(trouble, Trouble::Silence | Trouble::Stall) {
        builder = builder.response_timeout(PATIENCE).connect_timeout(PATIENCE);
    }
    let pool = builder.build().unwrap();
    let run = Run {
        trouble,
        server,
        other,
        address,
        pool,
        name,
        steps: AtomicUsize::new(0),
        stepped: Notify::new(),
        held: Default::default(),
        over: AtomicBool::new(false),
    };
    (Arc::new(run), seed)
}

/// Makes trouble at even distances through the run.
async fn make_trouble(run: Arc<Run>) {
    let mut occupants = None;
    for nth in 1..=TROUBLES {
        while run.steps.load(Ordering::SeqCst) < STEPS * nth / (TROUBLES + 1) {
            run.stepped.notified().await;
        }
        tokio::task::block_in_place(|| match run.trouble {
            Trouble::None => {}
            Trouble::Failover => run.fail_over(nth),
            Trouble::Silence => {
                let address = run.address.as_ref().unwrap();
                address.go_silent();
                std::thread::sleep(STALL);
                address.speak_again();
            }
            Trouble::Stall => {
                run.server.pause();
                std::thread::sleep(STALL);
                run.server.resume();
            }
            Trouble::Faults => forking(|| run.server.restart()).unwrap(),
            Trouble::Full => {
                occupants = match occupants.take() {
                    None => Some(run.server.fill()),
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

/// Asks the server for its own count all the time.
fn watch_sockets(run: &Run) -> usize {
    let mut samples = 0;
    while !run.over.load(Ordering::SeqCst) {
        run.check_sockets();
        samples += 1;
    }
    samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_random_steps_keep_every_bound_and_leave_nothing_behind() {
    random_steps(Trouble::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_do_ten_thousand_with_killed_connections_and_restarts() {
    random_steps(Trouble::Faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_ten_thousand_while_others_take_the_servers_slots_and_give_them_back() {
    random_steps(Trouble::Full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_ten_thousand_over_failovers() {
    random_steps(Trouble::Failover).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_ten_thousand_while_nothing_passes_now_and_then() {
    random_steps(Trouble::Silence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_ten_thousand_while_the_server_stalls() {
    random_steps(Trouble::Stall).await;
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
    assert!(watcher.await.unwrap() > 100, "the server was asked at many points");

    rest(&run).await;
    let acquired: u64 = run.pool.status().endpoints.iter().map(|e| e.acquired).sum();
    assert!(acquired > 500, "only {acquired} were served");
    let named = run.sockets().unwrap();
    assert_eq!(named, run.pool.status().live, "every socket has its name again");
    if run.trouble == Trouble::Stall {
        let closed = run.pool.status().connections_closed;
        assert_eq!(closed.get("health_check").copied().unwrap_or_default(), 0, "{closed:?}");
    }
    soon("close", run.pool.close()).await;
    assert_eq!(run.pool.status().live, 0);
    until("an empty CLIENT LIST", &run.pool, || run.sockets() == Some(0)).await;
}

/// Nobody holds, awaits or dials anything, and the servers see as many sockets as the pool.
async fn rest(run: &Run) {
    let Some(other) = &run.other else { return at_rest(&run.pool, &run.server).await };
    let alone = [&run.server, other].map(|server| server.admin().text(&["REPLICAOF", "NO", "ONE"]));
    assert_eq!(alone, ["OK", "OK"]);
    until("rest", &run.pool, || {
        let status = run.pool.status();
        let at_rest = status.in_use + status.waiting + status.dialing == 0;
        at_rest && status.idle == status.live && run.sockets() == Some(status.live)
    })
    .await;
}

/// Leases held by `endpoint`, all that it can get at once.
async fn take_all(pool: &GuardedPool, endpoint: &'static str) -> Vec<GuardedConnection> {
    let mut taken = Vec::new();
    while let Ok(lease) = pool.try_acquire(endpoint) {
        taken.push(lease);
    }
    taken
}

fn pool_of_eight(server: &TestServer) -> GuardedPool {
    impatient(&server.url())
        .max_connections(8)
        .endpoint("leaky", Budget::max(4))
        .endpoint("kept", Budget::max(4).reserve(2))
        .acquire_timeout(Duration::from_millis(100))
        .build()
        .unwrap()
}

#[tokio::test]
async fn an_endpoint_gets_its_max_and_no_more() {
    let server = server();
    let pool = pool_of_eight(&server);
    pool.warm_up(8).await.unwrap();

    let _leaked = take_all(&pool, "leaky").await;

    let error = pool.acquire("leaky").await.unwrap_err();
    assert_eq!(error.reason(), "budget_exhausted");
    assert_eq!(error.to_string(), "endpoint \"leaky\" holds all 4 connections of its budget");
    assert_eq!(pool.status().in_use, 4);
}

#[tokio::test]
async fn an_endpoint_that_leaks_all_its_leases_keeps_nobody_else_waiting() {
    let server = server();
    let pool = pool_of_eight(&server);
    pool.warm_up(8).await.unwrap();
    let _leaked = take_all(&pool, "leaky").await;
    let mut hopeless: Vec<_> = (0..50).map(|_| Box::pin(pool.acquire("leaky"))).collect();
    assert!(hopeless.iter_mut().all(|waiter| poll_once(waiter).is_pending()));

    for _ in 0..1_000 {
        let served = ready(pool.acquire("other")).expect("served on the first poll");
        drop(served.unwrap());
    }

    let status = pool.status();
    let acquired =
        |name| status.endpoints.iter().find(|e| e.name.as_str() == name).unwrap().acquired;
    assert_eq!((acquired("leaky"), acquired("other")), (4, 1_000));
}

#[tokio::test]
async fn the_others_requests_are_as_fast_beside_a_leak_as_without_it() {
    async fn ten_requests(pool: &GuardedPool, took: &mut Vec<Duration>) {
        for _ in 0..10 {
            let begun = Instant::now();
            let mut lease = pool.acquire("other").await.unwrap();
            let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
            took.push(begun.elapsed());
        }
    }
    let server = server();
    let pool = pool_of_eight(&server);
    pool.warm_up(8).await.unwrap();

    // By turns, so that whatever else the machine does slows down both.
    let (mut without, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        ten_requests(&pool, &mut without).await;
        let _leaked = take_all(&pool, "leaky").await;
        ten_requests(&pool, &mut beside).await;
    }

    without.sort();
    beside.sort();
    let (without, beside) = (without[without.len() / 2], beside[beside.len() / 2]);
    assert!(beside < 10 * without, "{without:?} without, {beside:?} beside the leak");
}

#[tokio::test]
async fn a_reserve_is_there_when_the_others_have_taken_all_they_can() {
    let server = server();
    let pool = pool_of_eight(&server);
    pool.warm_up(8).await.unwrap();

    let others = take_all(&pool, "other").await;

    assert_eq!(others.len(), 6);
    let kept = [ready(pool.acquire("kept")), ready(pool.acquire("kept"))];
    assert!(kept.iter().all(|lease| matches!(lease, Some(Ok(_)))), "{kept:?}");
    assert!(ready(pool.acquire("kept")).is_none(), "the rest is not reserved");
}

#[tokio::test]
async fn a_reserve_is_dialed_for_its_owner_although_the_others_wait() {
    let server = server();
    let pool = pool_of_eight(&server);
    pool.warm_up(6).await.unwrap();
    let _others = take_all(&pool, "other").await;
    let mut waiting = pin!(pool.acquire("other"));
    assert!(ready(waiting.as_mut()).is_none());

    let kept = soon("the reserve", pool.acquire("kept")).await.unwrap();

    assert!(ready(waiting.as_mut()).is_none(), "its turn has not come");
    drop(kept);
}

#[tokio::test]
async fn connections_are_granted_in_the_order_of_the_calls() {
    let server = server();
    let pool = impatient(&server.url()).max_connections(1).build().unwrap();
    let mut lease = pool.acquire("a").await.unwrap();
    let endpoints = ["a", "b", "a", "c", "b", "a"];
    let mut queue: Vec<_> = endpoints.map(|name| Box::pin(pool.acquire(name))).into();
    assert!(queue.iter_mut().all(|waiter| poll_once(waiter).is_pending()));

    while !queue.is_empty() {
        drop(lease);
        let served: Vec<bool> = queue.iter_mut().skip(1).map(|w| poll_once(w).is_ready()).collect();
        assert!(!served.contains(&true), "{served:?}: somebody was served out of turn");
        lease = ready(queue.remove(0)).expect("the one that waited longest").unwrap();
    }
}

#[tokio::test]
async fn an_exhausted_endpoint_does_not_block_those_behind_it() {
    let server = server();
    let builder = impatient(&server.url()).max_connections(2).endpoint("one", Budget::max(1));
    let pool = builder.build().unwrap();
    let _one = pool.acquire("one").await.unwrap();
    let other = pool.acquire("other").await.unwrap();
    let mut exhausted = Box::pin(pool.acquire("one"));
    let mut behind = Box::pin(pool.acquire("other"));
    assert!(poll_once(&mut exhausted).is_pending() && poll_once(&mut behind).is_pending());

    drop(other);

    assert!(poll_once(&mut exhausted).is_pending());
    assert!(poll_once(&mut behind).is_ready());
}

/// The bound on everything, the unnamed sockets of dials in flight included.
#[tokio::test]
async fn the_server_never_accepts_more_connections_than_the_pool_may_open() {
    let server = server();
    let pool = impatient(&server.url()).max_connections(4).build().unwrap();
    let before = server.admin().info_u64("total_connections_received");

    let callers = (0..64).map(|_| async {
        for _ in 0..20 {
            let mut lease = pool.acquire("test").await.unwrap();
            let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
        }
    });
    soon("64 callers", futures_util::future::join_all(callers)).await;

    assert!(server.admin().info_u64("total_connections_received") - before <= 4);
    at_rest(&pool, &server).await;
}
