//! The soak: every fault, against every topology and every kind of use, for as long as you like, and
//! nothing grows.
//!
//! One process has pools at a server alone (of which two are a fleet), at a master and a replica behind
//! three sentinels, and at a cluster of three primaries with a replica each, all of them started here.
//! Its callers lease, try, forget leases, share, multiplex, block, watch keys, subscribe, go through
//! tower and through a guard, lose interest at any point, and build pools that are closed, or just
//! dropped. Meanwhile one fault after the other strikes, in an order that the seed gives: occupants fill
//! `maxclients`, connections are killed, servers stand still, die and come back, masters move, slots
//! move, passwords change. See `faults.rs` for all.
//!
//! ```sh
//! sudo apt-get install -y redis-server
//! cargo run --release --example soak                 # five minutes
//! cargo run --release --example soak -- --minutes 60 --json soak.json
//! cargo run --release --example soak -- --only "kill -9" --seed 7
//! ```
//!
//! It prints what became of the calls and draws `target/soak.svg`: memory, file descriptors, tasks,
//! latency and calls over time. It fails if
//! - the heap, memory, file descriptors, tasks or the p99 of a GET have grown: in calm times (no fault, all kinds
//!   of callers served again, some time after that) of the last quarter against those of the first,
//!   after a warm-up;
//! - a call did not end within [half a minute](work::HANG), far above every timeout;
//! - some kind of caller is not served again within half a minute after a fault was mended;
//! - in a calm time the servers count other connections than the pools' own books;
//! - a task panicked;
//! - a file descriptor, a task, a lease, a connection is left when all pools are closed.

use std::fs;
use std::panic;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use peak_alloc::PeakAlloc;
use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

mod args;
mod chart;
mod faults;
mod operator;
mod pools;
mod report;
mod samples;
mod servers;
mod tally;
mod verdict;
mod work;

#[path = "../common/mod.rs"]
mod common;

/// Start the servers for us; the integration tests use the same.
#[path = "../../tests/support/cluster/mod.rs"]
mod cluster;
#[path = "../../tests/support/sentinel.rs"]
mod sentinel;
#[path = "../../tests/support/server.rs"]
mod server;

use args::{Args, Command};
use common::{Failure, exit_code, until_interrupted, writable};
use operator::Operator;
use pools::{DRAIN, Pools, Urls, client_name};
use report::Run;
use samples::Usage;
use servers::Servers;
use tally::{Tally, Topology};
use verdict::Ends;
use work::Crew;

/// When nobody waits for anything any more, what is left is left for good.
const GONE_WITHIN: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_millis(10);

/// Counts what is allocated and not yet freed.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Panics anywhere but in the operator's thread, which says so itself.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let done = match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{}", args::HELP);
            Ok(())
        }
        Ok(Command::Run(args)) => {
            runtime().and_then(|runtime| runtime.block_on(until_interrupted(soak(&args))))
        }
        Err(problem) => Err(format!("{problem}\n\n{}", args::HELP).into()),
    };
    exit_code("soak", done)
}

/// Its threads stay: each new one might take memory of its own from the allocator.
fn runtime() -> Result<Runtime, Failure> {
    let day = Duration::from_secs(24 * 3_600);
    Ok(Builder::new_multi_thread().worker_threads(2).thread_keep_alive(day).enable_all().build()?)
}

async fn soak(args: &Args) -> Result<(), Failure> {
    for path in [Some(&args.svg), args.json.as_ref()].into_iter().flatten() {
        writable(path).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    count_panics();
    eprintln!("starting a server, a set with sentinels, and a cluster");
    let servers = Arc::new(spawn_blocking(Servers::start).await??);
    servers.renew()?;
    let before = Usage::now()?;

    let tally = Arc::new(Tally::default());
    let (samples, log, mut findings) = under_fire(args, &servers, &tally).await?;
    findings.extend(left_behind(&servers).await);
    servers.renew()?;
    let after = until_gone(before).await?;
    let panics = PANICS.load(Ordering::Relaxed);
    if panics > 0 {
        findings.push(format!("{panics} panics"));
    }

    let ends = Ends { before, after };
    let verdict = verdict::of(args, &samples, &tally, &log, ends, findings);
    let passed = verdict.passed();
    let run = Run { samples, log, ends, verdict };
    println!("{}", report::text(args, &tally, &run));
    chart::draw(&args.svg, args, &run)?;
    println!("chart: {}", args.svg.display());
    if let Some(path) = &args.json {
        let report = serde_json::to_string_pretty(&report::json(args, &tally, &run))?;
        fs::write(path, report + "\n")?;
        println!("json:  {}", path.display());
    }
    if passed { Ok(()) } else { Err("something grew, or was found: see above".into()) }
}

type Fired = (Vec<samples::Sample>, operator::Log, Vec<String>);

/// From the pools' opening to their end.
async fn under_fire(
    args: &Args,
    servers: &Arc<Servers>,
    tally: &Arc<Tally>,
) -> Result<Fired, Failure> {
    let open = |topology| Pools::open(servers, topology);
    let pools = Topology::ALL.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let crew = Crew::start(&pools, &Urls::of(servers), tally, args.seed)?;
    let mut operator =
        Operator::start(args, Arc::clone(servers), pools.clone(), Arc::clone(tally))?;
    let shared = Arc::clone(&operator.shared);
    let samples = samples::watch(args.sample_every(), &shared, &pools, tally).await?;
    operator.join();

    let mut findings = Vec::new();
    let bad = crew.end().await;
    if bad > 0 {
        findings.push(format!("{bad} callers did not end, or panicked"));
    }
    findings.extend(close(&pools).await);
    let log = std::mem::take(&mut *shared.log());
    Ok((samples, log, findings))
}

/// Closes all pools; says what is left in their books.
async fn close(pools: &[Pools]) -> Vec<String> {
    let mut findings = Vec::new();
    for pool in pools.iter().flat_map(Pools::all) {
        let name = pool.status().pool;
        let since = Instant::now();
        if timeout(2 * DRAIN + Duration::from_secs(2), pool.close()).await.is_err() {
            findings.push(format!("{name}: close() has not returned in {:?}", since.elapsed()));
        }
        let status = pool.status();
        let leases: usize = status.endpoints.iter().map(|endpoint| endpoint.leases).sum();
        let (live, dialing, waiting) = (status.live, status.dialing, status.waiting);
        if [live, dialing, waiting, status.in_use, leases] != [0; 5] {
            findings.push(format!(
                "{name}: {live} live, {dialing} dialing, {waiting} waiting, {} in use, {leases} \
                 leases after close()",
                status.in_use
            ));
        }
    }
    findings
}

/// Connections that the servers still count.
async fn left_behind(servers: &Servers) -> Vec<String> {
    let mut findings = Vec::new();
    for topology in Topology::ALL {
        let since = Instant::now();
        let left = || servers.connected(topology, &client_name(topology));
        while left() > 0 && since.elapsed() < GONE_WITHIN {
            sleep(TICK).await;
        }
        if left() > 0 {
            let (left, name) = (left(), topology.as_str());
            findings.push(format!("{name}: {left} connections are left on the servers"));
        }
    }
    findings
}

/// What is left once it is as before, or when it is not in time.
async fn until_gone(before: Usage) -> Result<Usage, Failure> {
    let since = Instant::now();
    loop {
        let now = Usage::now()?;
        let gone = (now.fds, now.tasks) == (before.fds, before.tasks);
        if gone || since.elapsed() > GONE_WITHIN {
            return Ok(now);
        }
        sleep(TICK).await;
    }
}

fn count_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("operator") {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        usual(panic);
    }));
}
