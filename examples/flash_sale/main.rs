//! A flash sale, and what becomes of the newcomers: 30 app servers grow to 240, each with a pool of
//! its own, and together they want a fifth more connections than Redis has.
//!
//! In full size that is 240 pools of 50 against `maxclients` 10,000, where the machine can hold that.
//! Where its open-files limit or its cores are too few, both numbers are scaled down in the same
//! proportion of 12 to 10 (the table says what ran); the number of pools stays, so that the first
//! connections of forty newcomers weigh more against fewer slots. The
//! server is real, and so are the pools: they live in several worker processes, which this program
//! starts from its own binary. The same event goes through six policies, one after the other:
//!
//! - **deadpool-redis**: bare;
//! - **gate**: redis-guard without its watch (`.watch(false)`): dials are paced, and one refusal
//!   holds back all of a pool;
//! - **price-law**: redis-guard as it comes: every pool reads the server's pressure and gives slots
//!   back;
//! - **lease**: with `.fleet(..)`: the pools share the slots through a registry on the server;
//! - **lease-shared**: the same, with shared, multiplexed connections instead of exclusive leases;
//! - **multiplex**: the code of price-law with `.multiplex(true)`: leases that share one connection
//!   until they need their own.
//!
//! ```sh
//! sudo apt-get install -y redis-server
//! cargo run --release --example flash_sale              # four minutes
//! cargo run --release --example flash_sale -- --quick   # two and a half
//! cargo run --release --example flash_sale -- --help
//! ```
//!
//! It prints a table and draws `target/flash_sale.svg`: slots in use, and connections refused,
//! over time.
//!
//! # What to look for
//! `rejected` is the server's own count of connections it turned away. `jain` is Jain's index over
//! the live connections of all pools: 1 if all have the same, 1/n if one of n has everything; it
//! counts as fair from 0.97 up. A pool that cannot get a slot while the others keep theirs shows
//! there, and in `first connection`: the longest that a newcomer waited for its first one.
//!
//! # How the requests arrive
//! Each pool has as many callers as it may have connections, and every caller is busy all the time:
//! it acquires a connection, sends one `SET`, keeps the connection while it computes something, and
//! begins again. So every pool wants all of its connections, all the time. The computing is mostly a
//! sleep, so that the pools are short of slots and not of CPU. After a failure a caller is away for
//! as long. Where the connection is shared, nobody keeps it: the caller computes without it, or with a
//! lease that has none (`multiplex`).
//!
//! # What watching and sharing cost
//! Measured apart from the event, with 240 pools that have one connection each and no callers: CPU
//! time of the worker processes and of the server (from `/proc/<pid>/task/*/schedstat`, so on Linux
//! only), with the policy, less the same with `.watch(false)`. What the server itself says of its
//! `EVALSHA` and `INFO` commands during the event, when pools that are short of connections ask more
//! often, is reported beside it.

use std::fs;
use std::process::ExitCode;

mod app;
mod args;
mod chart;
mod cost;
mod crew;
mod event;
mod orders;
mod plan;
mod policy;
mod report;
mod run;
mod target;
mod usage;
mod worker;

#[path = "../common/mod.rs"]
mod common;

/// Starts a redis-server for us; the integration tests use the same.
#[path = "../../tests/support/server.rs"]
mod server;

use args::{Args, Command};
use common::{Failure, exit_code, until_interrupted, writable};
use plan::Plan;
use run::Run;
use target::Target;

// One thread: the workers have their own processes.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{}", args::HELP);
            Ok(())
        }
        Ok(Command::Worker) => worker::work().await,
        Ok(Command::Run(args)) => until_interrupted(hold_sale(&args)).await,
        Err(problem) => Err(format!("{problem}\n\n{}", args::HELP).into()),
    };
    exit_code("flash_sale", done)
}

/// Puts the event through one policy after the other and reports.
async fn hold_sale(args: &Args) -> Result<(), Failure> {
    for path in [Some(&args.svg), args.json.as_ref()].into_iter().flatten() {
        writable(path).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    let plan = Plan::new(args)?;
    let mut target = Target::start(&plan)?;
    if !args.quiet {
        eprintln!("{}", report::introduction(args, &plan));
    }

    let mut runs: Vec<Run> = Vec::new();
    for &policy in &args.policies {
        let run = event::hold(policy, &mut target, &plan, args).await?;
        if !args.quiet {
            eprintln!("{}\n", report::progress(&run));
        }
        runs.push(run);
    }
    cost::measure(&mut runs, &mut target, &plan, args).await?;

    println!("{}", report::text(&plan, &runs));
    chart::draw(&args.svg, &plan, &runs)?;
    println!("chart: {}", args.svg.display());
    if let Some(path) = &args.json {
        let report = serde_json::to_string_pretty(&report::json(&plan, &runs))?;
        fs::write(path, report + "\n")?;
        println!("json:  {}", path.display());
    }
    Ok(())
}
