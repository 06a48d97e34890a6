//! redis-guard beside what people use today, on one real server, in one process and one run.
//!
//! ```sh
//! cargo bench --bench compare                        # about four minutes
//! cargo bench --bench compare -- --quick             # half a minute: 16 B only, shorter windows
//! cargo bench --bench compare -- --only acquire_get --json target/compare.json
//! ```
//!
//! | bench | what is measured | beside |
//! |---|---|---|
//! | `acquire_release` | acquire and drop, no I/O | `deadpool`'s own, over the same kind of object |
//! | `refusal` | an acquire that the open breaker refuses | |
//! | `acquire_get` | acquire and `GET`: 16 connections, 1, 16, 64 tasks; `guard-multiplex` is the same code over one connection | deadpool-redis, bb8-redis, and `GET` on a shared connection |
//! | `layer_call` | a call through [`GuardLayer`] before a service that answers at once; `bare` is that service alone | tower's `LoadShed` over `ConcurrencyLimit` (no breaker), tower-resilience's breaker and bulkhead, failsafe and recloser (breakers, no limit), recloser over tower's two |
//! | `layer_refusal` | a call that the open breaker refuses | the same; of tower the limit is taken |
//! | `cluster` | `GET` on a cluster of three masters and three replicas, keys of all masters in turn: 1, 16, 64 tasks, and the sockets that takes | redis-rs' `ClusterConnection`, deadpool-redis' cluster pool of 16 |
//! | `shared_get`, `shared_set` | `GET`, `SET` on a shared connection: 1, 16, 64, 512 tasks, values of 16 B and 1 KiB | redis-rs' own multiplexed connection, and leases from pools of 16 (and deadpool-redis' of 50) |
//!
//! All contenders take their turn in every round, so that what disturbs the machine disturbs all of
//! them; the figure is the median of the rounds. Only the ratios mean something elsewhere.
//!
//! Of the layers only tower-resilience's two, and recloser over tower's two, do what ours does: limit and
//! break. The other three do half of it, and are there to show what a half costs.
//!
//! [`GuardLayer`]: redis_guard::tower::GuardLayer

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[path = "../tests/support/cluster/mod.rs"]
mod cluster;
#[path = "compare/clustered.rs"]
mod clustered;
#[path = "compare/contenders.rs"]
mod contenders;
#[path = "compare/layers.rs"]
mod layers;
#[path = "compare/report.rs"]
mod report;
#[path = "../tests/support/server.rs"]
mod server;

use cluster::Cluster;
use clustered::{ClusterConnection, DeadpoolCluster, GuardCluster};
use contenders::{
    Bb8Redis, Client, Deadpool, DeadpoolRedis, ENDPOINT, GuardExclusive, GuardMultiplex,
    GuardShared, Multiplexed, POOL_SIZE, Pool, RefusingGuard, Verb, Work,
};
use layers::{Request, Stack};
use report::{Cell, Unit};
use server::TestServer;

type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: cargo bench --bench compare -- [--quick] [--only NAME] [--json PATH]";
const BENCHES: [&str; 8] = [
    "acquire_release",
    "refusal",
    "acquire_get",
    "layer_call",
    "layer_refusal",
    "cluster",
    "shared_get",
    "shared_set",
];

/// Of the cluster; each has a replica.
const MASTERS: usize = 3;

/// What a pool is measured with: as many tasks as connections, fewer, and more.
const TASKS: [usize; 3] = [1, 16, 64];
const SHARED_TASKS: [usize; 4] = [1, 16, 64, 512];

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("compare: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// How much to measure.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    /// How long each contender runs in a round.
    window: Duration,
    /// The same for shared connections, which come in many combinations and do more in that time.
    shared_window: Duration,
    /// The sizes of their values.
    bytes: &'static [usize],
    /// Calls in a row where single calls are too short to be timed.
    calls: u32,
}

impl Effort {
    const WHOLE: Self = Self {
        rounds: 7,
        window: Duration::from_millis(700),
        shared_window: Duration::from_millis(250),
        bytes: &[16, 1_024],
        calls: 200_000,
    };
    const QUICK: Self = Self {
        rounds: 5,
        window: Duration::from_millis(150),
        shared_window: Duration::from_millis(80),
        bytes: &[16],
        calls: 50_000,
    };
    /// `cargo test --benches` only asks whether it works.
    const TEST: Self = Self {
        rounds: 1,
        window: Duration::from_millis(20),
        shared_window: Duration::from_millis(5),
        bytes: &[16],
        calls: 500,
    };
}

struct Options {
    effort: Effort,
    only: Option<String>,
    json: Option<PathBuf>,
}

impl Options {
    fn wants(&self, bench: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == bench)
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Options, Failure> {
    let mut options = Options { effort: Effort::TEST, only: None, json: None };
    let mut effort = None;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            // `cargo bench` passes it, `cargo test` does not.
            "--bench" => options.effort = Effort::WHOLE,
            "--quick" => effort = Some(Effort::QUICK),
            "--only" => options.only = Some(value()?),
            "--json" => options.json = Some(value()?.into()),
            _ => return Err(format!("unknown argument `{word}`\n{USAGE}").into()),
        }
    }
    if let Some(name) = options.only.as_ref().filter(|name| !BENCHES.contains(&name.as_str())) {
        return Err(format!("no bench `{name}`; there are {}", BENCHES.join(", ")).into());
    }
    options.effort = effort.unwrap_or(options.effort);
    Ok(options)
}

fn run(options: &Options) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let server = TestServer::builder().start()?;
    let full = TestServer::builder().maxclients(8).start()?;
    let _occupants = full.fill();
    let lab = Lab {
        runtime: runtime.handle().clone(),
        effort: options.effort,
        url: server.url(),
        full_url: full.url(),
        cluster: options
            .wants("cluster")
            .then(|| Cluster::with_replicas(MASTERS, 1, &TestServer::builder().in_memory(true)))
            .transpose()?,
    };
    let mut cells = lab.cells(options)?;
    for round in 1..=options.effort.rounds {
        eprintln!("round {round} of {}", options.effort.rounds);
        for cell in &mut cells {
            let sample = (cell.measure)();
            cell.samples.push(sample);
        }
    }
    report::print_table(&cells);
    if let Some(path) = &options.json {
        report::write_json(path, &cells)?;
        println!("\njson: {}", path.display());
    }
    Ok(())
}

/// What all contenders share.
struct Lab {
    runtime: Handle,
    effort: Effort,
    url: String,
    /// Of a server without a free slot.
    full_url: String,
    /// Where it is asked for.
    cluster: Option<Cluster>,
}

impl Lab {
    /// Everything that was asked for, each contender ready to be measured.
    // Long because it lists all of them.
    fn cells(&self, options: &Options) -> Result<Vec<Cell>, Failure> {
        let wanted = |bench: &str| options.wants(bench);
        let mut cells = Vec::new();
        if wanted("acquire_release") {
            cells.push(self.calls("acquire_release", self.open::<GuardExclusive>()?));
            cells.push(self.calls("acquire_release", self.open::<GuardMultiplex>()?));
            cells.push(
                self.calls("acquire_release", self.runtime.block_on(Deadpool::open(&self.url))?),
            );
        }
        if wanted("refusal") {
            let guard = self.runtime.block_on(RefusingGuard::open(&self.full_url))?;
            cells.push(self.calls("refusal", guard));
        }
        if wanted("acquire_get") {
            let (guard, multiplex, shared) = (self.open()?, self.open()?, self.open()?);
            let (deadpool, bb8) = (self.open()?, self.open()?);
            for tasks in TASKS {
                let matchup = Matchup { bench: "acquire_get", tasks, bytes: None };
                let get = [self.work(Verb::Get, 5)?];
                cells.push(self.throughput::<GuardExclusive>(matchup, &get, &guard));
                cells.push(self.throughput::<GuardMultiplex>(matchup, &get, &multiplex));
                cells.push(self.throughput::<GuardShared>(matchup, &get, &shared));
                cells.push(self.throughput::<DeadpoolRedis<POOL_SIZE>>(matchup, &get, &deadpool));
                cells.push(self.throughput::<Bb8Redis>(matchup, &get, &bb8));
            }
        }
        if wanted("layer_call") {
            cells.push(self.admitted(layers::BARE, layers::bare()));
            cells.push(self.admitted(layers::GUARD_LAYER, layers::guard_layer()?));
            cells.push(self.admitted(layers::TOWER, layers::tower_limit_shed()));
            cells.push(self.admitted(layers::TOWER_RESILIENCE, layers::tower_resilience()?));
            cells.push(self.admitted(layers::FAILSAFE, layers::failsafe()));
            cells.push(self.admitted(layers::RECLOSER, layers::recloser()));
            cells.push(self.admitted(layers::TOWER_RECLOSER, layers::tower_recloser()));
        }
        if wanted("layer_refusal") {
            cells.push(self.refused(layers::GUARD_LAYER, layers::guard_layer()?)?);
            cells.push(self.refused(layers::TOWER, layers::tower_limit_shed_taken())?);
            cells.push(self.refused(layers::TOWER_RESILIENCE, layers::tower_resilience()?)?);
            cells.push(self.refused(layers::FAILSAFE, layers::failsafe())?);
            cells.push(self.refused(layers::RECLOSER, layers::recloser())?);
            cells.push(self.refused(layers::TOWER_RECLOSER, layers::tower_recloser())?);
        }
        if wanted("cluster") {
            self.clustered(&mut cells)?;
        }
        for (bench, verb) in [("shared_get", Verb::Get), ("shared_set", Verb::Set)] {
            if wanted(bench) {
                self.shared(bench, verb, &mut cells)?;
            }
        }
        Ok(cells)
    }

    fn clustered(&self, cells: &mut Vec<Cell>) -> Result<(), Failure> {
        let cluster = self.cluster.as_ref().ok_or("there is no cluster")?;
        let works = self.works_on(cluster)?;
        let (guard, guard_sockets) = self.opened::<GuardCluster>(cluster, &works)?;
        let (bare, bare_sockets) = self.opened::<ClusterConnection>(cluster, &works)?;
        let (deadpool, deadpool_sockets) = self.opened::<DeadpoolCluster>(cluster, &works)?;
        for tasks in TASKS {
            let matchup = Matchup { bench: "cluster", tasks, bytes: None };
            let guard = self.throughput::<GuardCluster>(matchup, &works, &guard);
            cells.push(guard.holding(guard_sockets));
            let bare = self.throughput::<ClusterConnection>(matchup, &works, &bare);
            cells.push(bare.holding(bare_sockets));
            let deadpool = self.throughput::<DeadpoolCluster>(matchup, &works, &deadpool);
            cells.push(deadpool.holding(deadpool_sockets));
        }
        Ok(())
    }

    /// A client of the cluster, and the connections that it holds, as the nodes count them.
    fn opened<C: Client>(&self, cluster: &Cluster, works: &[Work]) -> Result<(C, usize), Failure> {
        let sockets =
            || (0..cluster.nodes().len()).map(|nth| cluster.connected(nth)).sum::<usize>();
        let before = sockets();
        let mut client: C = self.runtime.block_on(C::open(&cluster.urls()[0]))?;
        for work in works {
            self.runtime.block_on(client.operation(work))?;
        }
        Ok((client, sockets() - before))
    }

    /// Work on a value of each master.
    fn works_on(&self, cluster: &Cluster) -> Result<Vec<Work>, Failure> {
        let works: Vec<_> =
            (0..MASTERS).map(|nth| Work::at(Verb::Get, &cluster.key_on(nth), 5)).collect();
        for (nth, work) in works.iter().enumerate() {
            let client = redis::Client::open(cluster.node(nth).url())?;
            redis::Cmd::set(&*work.key, &*work.value).exec(&mut client.get_connection()?)?;
        }
        Ok(works)
    }

    fn shared(
        &self,
        bench: &'static str,
        verb: Verb,
        cells: &mut Vec<Cell>,
    ) -> Result<(), Failure> {
        let (guard, bare) = (self.open()?, self.open()?);
        let (deadpool, deadpool_50, bb8) = (self.open()?, self.open()?, self.open()?);
        let exclusive = self.open()?;
        for &bytes in self.effort.bytes {
            let work = [self.work(verb, bytes)?];
            for tasks in SHARED_TASKS {
                let matchup = Matchup { bench, tasks, bytes: Some(bytes) };
                cells.push(self.throughput::<GuardShared>(matchup, &work, &guard));
                cells.push(self.throughput::<Multiplexed>(matchup, &work, &bare));
                cells.push(self.throughput::<DeadpoolRedis<POOL_SIZE>>(matchup, &work, &deadpool));
                cells.push(self.throughput::<DeadpoolRedis<50>>(matchup, &work, &deadpool_50));
                cells.push(self.throughput::<Bb8Redis>(matchup, &work, &bb8));
                cells.push(self.throughput::<GuardExclusive>(matchup, &work, &exclusive));
            }
        }
        Ok(())
    }

    fn open<C: Client>(&self) -> Result<C, Failure> {
        self.runtime.block_on(C::open(&self.url))
    }

    /// Work on a value that is there.
    fn work(&self, verb: Verb, bytes: usize) -> Result<Work, Failure> {
        let work = Work::new(verb, bytes);
        let set = redis::Cmd::set(&*work.key, &*work.value);
        set.exec(&mut redis::Client::open(self.url.as_str())?.get_connection()?)?;
        Ok(work)
    }

    /// The time of one call: many in a row, on one thread.
    fn calls<P: Pool>(&self, bench: &'static str, pool: P) -> Cell {
        let (runtime, calls) = (self.runtime.clone(), self.effort.calls);
        let measure = move || {
            runtime.block_on(async {
                let started = Instant::now();
                for _ in 0..calls {
                    pool.call().await;
                }
                started.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
            })
        };
        let matchup = Matchup { bench, tasks: 1, bytes: None };
        Cell::new(matchup, P::NAME, Unit::Nanoseconds, measure)
    }

    /// The time of one call through a layer that lets it pass.
    fn admitted(&self, client: &'static str, service: impl Stack) -> Cell {
        self.layer("layer_call", client, service, true)
    }

    /// The same of a layer that refuses it.
    fn refused(&self, client: &'static str, service: impl Stack) -> Result<Cell, Failure> {
        let service = self.runtime.block_on(layers::tripped(service))?;
        Ok(self.layer("layer_refusal", client, service, false))
    }

    fn layer(
        &self,
        bench: &'static str,
        client: &'static str,
        service: impl Stack,
        passes: bool,
    ) -> Cell {
        let (runtime, calls) = (self.runtime.clone(), self.effort.calls);
        let measure = move || {
            let mut service = service.clone();
            runtime.block_on(async {
                let started = Instant::now();
                for _ in 0..calls {
                    let answer = layers::call(&mut service, Request::Work).await;
                    assert_eq!(answer.is_ok(), passes, "{client} answered {answer:?}");
                }
                started.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
            })
        };
        Cell::new(Matchup { bench, tasks: 1, bytes: None }, client, Unit::Nanoseconds, measure)
    }

    /// Operations a second, of all tasks together.
    /// They do the pieces of work in turn.
    fn throughput<C: Client>(&self, matchup: Matchup, works: &[Work], client: &C) -> Cell {
        let Effort { window, shared_window, .. } = self.effort;
        let window = if matchup.bytes.is_some() { shared_window } else { window };
        let (runtime, tasks) = (self.runtime.clone(), matchup.tasks);
        let (client, works): (C, Arc<[Work]>) = (client.clone(), works.into());
        let measure =
            move || runtime.block_on(operations_per_second(&client, &works, tasks, window));
        Cell::new(matchup, C::NAME, Unit::OpsPerSecond, measure)
    }
}

/// In what several contenders are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Matchup {
    bench: &'static str,
    tasks: usize,
    /// The size of the value, where it varies.
    bytes: Option<usize>,
}

async fn operations_per_second<C: Client>(
    client: &C,
    works: &Arc<[Work]>,
    tasks: usize,
    window: Duration,
) -> f64 {
    let ready = Arc::new(Barrier::new(tasks));
    let mut all: JoinSet<Turn> = (0..tasks)
        .map(|task| {
            let (mut client, works, ready) =
                (client.clone(), Arc::clone(works), Arc::clone(&ready));
            async move {
                let mut works = works.iter().cycle().skip(task % works.len());
                ready.wait().await;
                let started = Instant::now();
                let mut turn = Turn { started, ended: started, done: 0, failed: 0, failure: None };
                while turn.ended - started < window
                    && let Some(work) = works.next()
                {
                    match client.operation(work).await {
                        Ok(()) => turn.done += 1,
                        Err(failure) => turn.fail(failure),
                    }
                    turn.ended = Instant::now();
                }
                turn
            }
        })
        .collect();
    let mut whole: Option<Turn> = None;
    while let Some(turn) = all.join_next().await {
        let turn = turn.expect("no task is aborted, and none panics");
        whole = Some(match whole {
            Some(whole) => whole.and(turn),
            None => turn,
        });
    }
    let Turn { started, ended, done, failed, failure } = whole.expect("there is at least one task");
    if let Some(failure) = failure {
        // A client with a short timeout of its own, on a machine that is busy with other things.
        eprintln!("{}: {failed} operations failed and do not count: {failure}", C::NAME);
    }
    f64::from(done) / (ended - started).as_secs_f64()
}

/// What one task did, or several.
struct Turn {
    started: Instant,
    ended: Instant,
    done: u32,
    failed: u32,
    failure: Option<Failure>,
}

impl Turn {
    fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        self.failure = Some(failure);
    }

    fn and(self, other: Self) -> Self {
        Self {
            started: self.started.min(other.started),
            ended: self.ended.max(other.ended),
            done: self.done + other.done,
            failed: self.failed + other.failed,
            failure: self.failure.or(other.failure),
        }
    }
}
