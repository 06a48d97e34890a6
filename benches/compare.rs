//! redis-guard beside what people use today, on one real server, in one process and one run.
//!
//! ```sh
//! cargo bench --bench compare                        # about a minute
//! cargo bench --bench compare -- --quick             # some seconds
//! cargo bench --bench compare -- --only acquire_get --json target/compare.json
//! ```
//!
//! | bench | what is measured | beside |
//! |---|---|---|
//! | `acquire_release` | acquire and drop, no I/O | `deadpool`'s own, over the same kind of object |
//! | `refusal` | an acquire that the open breaker refuses | |
//! | `acquire_get` | acquire and `GET`: 16 connections, 1, 16, 64 tasks | deadpool-redis, bb8-redis |
//!
//! All contenders take their turn in every round, so that what disturbs the machine disturbs all of
//! them; the figure is the median of the rounds. Only the ratios mean something elsewhere.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[path = "compare/contenders.rs"]
mod contenders;
#[path = "../tests/support/server.rs"]
mod server;

use contenders::{
    Bb8Redis, Client, Deadpool, DeadpoolRedis, GuardExclusive, KEY, Pool, RefusingGuard,
};
use server::TestServer;

type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: cargo bench --bench compare -- [--quick] [--only NAME] [--json PATH]";
const BENCHES: [&str; 3] = ["acquire_release", "refusal", "acquire_get"];
const TASKS: [usize; 3] = [1, 16, 64];
/// The contender that the others are compared with.
const OURS: &str = <GuardExclusive as Client>::NAME;

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
    /// Calls in a row where single calls are too short to be timed.
    calls: u32,
}

impl Effort {
    const WHOLE: Self = Self { rounds: 7, window: Duration::from_millis(700), calls: 200_000 };
    const QUICK: Self = Self { rounds: 3, window: Duration::from_millis(300), calls: 50_000 };
    /// `cargo test --benches` only asks whether it works.
    const TEST: Self = Self { rounds: 1, window: Duration::from_millis(20), calls: 500 };
}

struct Options {
    effort: Effort,
    only: Option<String>,
    json: Option<PathBuf>,
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
    redis::cmd("SET")
        .arg(KEY)
        .arg("value")
        .exec(&mut redis::Client::open(server.url())?.get_connection()?)?;

    let lab = Lab {
        runtime: runtime.handle().clone(),
        effort: options.effort,
        url: server.url(),
        full_url: full.url(),
    };
    let mut cells = lab.cells(options)?;
    for round in 1..=options.effort.rounds {
        eprintln!("round {round} of {}", options.effort.rounds);
        for cell in &mut cells {
            let sample = (cell.measure)();
            cell.samples.push(sample);
        }
    }
    print_table(&cells);
    if let Some(path) = &options.json {
        let rows: Vec<Value> = cells.iter().map(Cell::row).collect();
        let text = serde_json::to_string_pretty(&json!({ "schema": 1, "rows": rows }))?;
        std::fs::write(path, text + "\n")
            .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        println!("\njson: {}", path.display());
    }
    Ok(())
}

/// One figure: a contender in a bench with a number of tasks.
struct Cell {
    bench: &'static str,
    client: &'static str,
    tasks: usize,
    unit: Unit,
    measure: Box<dyn Fn() -> f64>,
    samples: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Less is better.
    Nanoseconds,
    /// More is better.
    OpsPerSecond,
}

impl Cell {
    fn median(&self) -> f64 {
        let mut samples = self.samples.clone();
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        if samples.len() % 2 == 1 {
            samples[middle]
        } else {
            f64::midpoint(samples[middle - 1], samples[middle])
        }
    }

    fn row(&self) -> Value {
        let unit = match self.unit {
            Unit::Nanoseconds => "ns",
            Unit::OpsPerSecond => "ops_per_s",
        };
        let figure = (self.median() * 10.0).round() / 10.0;
        json!({ "bench": self.bench, "client": self.client, "tasks": self.tasks, unit: figure })
    }

    /// What redis-guard is meant to reach, beside this contender.
    fn aim(&self) -> &'static str {
        match (self.bench, self.client) {
            ("acquire_release", "deadpool") => "aim: at most 1.50",
            ("acquire_get", "deadpool-redis") => "aim: at least 1.80",
            ("refusal", OURS) => "aim: under 200 ns",
            _ => "",
        }
    }
}

fn print_table(cells: &[Cell]) {
    println!("\n{:<17}{:>5}  {:<18}{:>16}  {OURS} beside it", "bench", "tasks", "client", "median");
    for cell in cells {
        let figure = match cell.unit {
            Unit::Nanoseconds => format!("{:.0} ns", cell.median()),
            Unit::OpsPerSecond => format!("{:.0} op/s", cell.median()),
        };
        let ours = cells
            .iter()
            .find(|c| c.client == OURS && (c.bench, c.tasks) == (cell.bench, cell.tasks));
        let ratio = match ours.filter(|_| cell.client != OURS).map(|c| c.median() / cell.median()) {
            Some(ratio) if cell.unit == Unit::Nanoseconds => format!("{ratio:.2} × the time"),
            Some(ratio) => format!("{ratio:.2} × the throughput"),
            None => String::new(),
        };
        let line = format!(
            "{:<17}{:>5}  {:<18}{figure:>16}  {ratio:<24}{}",
            cell.bench,
            cell.tasks,
            cell.client,
            cell.aim()
        );
        println!("{}", line.trim_end());
    }
}

/// What all contenders share.
struct Lab {
    runtime: Handle,
    effort: Effort,
    url: String,
    /// Of a server without a free slot.
    full_url: String,
}

impl Lab {
    /// Everything that was asked for, each contender ready to be measured.
    fn cells(&self, options: &Options) -> Result<Vec<Cell>, Failure> {
        let wanted = |bench: &str| options.only.as_deref().is_none_or(|only| only == bench);
        let mut cells = Vec::new();
        if wanted("acquire_release") {
            cells.push(self.calls("acquire_release", self.open_client::<GuardExclusive>()?));
            cells.push(
                self.calls("acquire_release", self.runtime.block_on(Deadpool::open(&self.url))?),
            );
        }
        if wanted("refusal") {
            let guard = self.runtime.block_on(RefusingGuard::open(&self.full_url))?;
            cells.push(self.calls("refusal", guard));
        }
        if wanted("acquire_get") {
            let guard = self.open_client::<GuardExclusive>()?;
            let deadpool = self.open_client::<DeadpoolRedis>()?;
            let bb8 = self.open_client::<Bb8Redis>()?;
            for tasks in TASKS {
                cells.push(self.throughput("acquire_get", tasks, &guard));
                cells.push(self.throughput("acquire_get", tasks, &deadpool));
                cells.push(self.throughput("acquire_get", tasks, &bb8));
            }
        }
        Ok(cells)
    }

    fn open_client<C: Client>(&self) -> Result<C, Failure> {
        self.runtime.block_on(C::open(&self.url))
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
        Cell::new(bench, P::NAME, 1, Unit::Nanoseconds, measure)
    }

    /// Operations a second, of all tasks together.
    fn throughput<C: Client>(&self, bench: &'static str, tasks: usize, client: &C) -> Cell {
        let (runtime, window, client) = (self.runtime.clone(), self.effort.window, client.clone());
        let measure = move || runtime.block_on(operations_per_second(&client, tasks, window));
        Cell::new(bench, C::NAME, tasks, Unit::OpsPerSecond, measure)
    }
}

impl Cell {
    fn new(
        bench: &'static str,
        client: &'static str,
        tasks: usize,
        unit: Unit,
        measure: impl Fn() -> f64 + 'static,
    ) -> Self {
        Self { bench, client, tasks, unit, measure: Box::new(measure), samples: Vec::new() }
    }
}

async fn operations_per_second<C: Client>(client: &C, tasks: usize, window: Duration) -> f64 {
    let ready = std::sync::Arc::new(Barrier::new(tasks));
    let mut all: JoinSet<(Instant, u32, Instant)> = (0..tasks)
        .map(|_| {
            let (client, ready) = (client.clone(), ready.clone());
            async move {
                ready.wait().await;
                let started = Instant::now();
                let mut operations = 0;
                loop {
                    client.operation().await;
                    operations += 1;
                    let now = Instant::now();
                    if now - started >= window {
                        return (started, operations, now);
                    }
                }
            }
        })
        .collect();
    let mut operations = 0;
    let mut span: Option<(Instant, Instant)> = None;
    while let Some(task) = all.join_next().await {
        let (started, done, ended) =
            task.expect("no task is aborted, and a failed operation ends the bench");
        operations += done;
        let (first, last) = span.unwrap_or((started, ended));
        span = Some((first.min(started), last.max(ended)));
    }
    let (first, last) = span.expect("there is at least one task");
    f64::from(operations) / (last - first).as_secs_f64()
}
