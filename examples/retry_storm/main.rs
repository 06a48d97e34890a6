//! A retry storm, and how to avoid it: what six Redis clients do when the server has no slot left.
//!
//! A Redis server takes at most `maxclients` connections. Here leaked connections hold all of them
//! for a while, as they do when another service forgets to close its own. The same workload goes
//! through bare deadpool-redis, bb8-redis, redis-rs' `ConnectionManager` and redis-guard, with leases,
//! with leases that share a connection, and with its shared connection, one after the other, in three
//! phases:
//!
//! 1. **healthy**: there is room for everybody;
//! 2. **full**: leaked connections hold every slot the application does not hold itself;
//! 3. **recovered**: the leaked connections are closed, and the slots are free again.
//!
//! ```sh
//! sudo apt-get install -y redis-server
//! cargo storm                                                # 105 s; starts its own server
//! cargo storm --start warm                                   # four connections held beforehand
//! cargo storm --help                                         # the same as cargo run --release --example retry_storm -- …
//! ```
//!
//! It prints a table and draws `target/retry_storm.svg`: the dials the server refused, and the
//! requests that succeeded, in every tenth of a second.
//!
//! # What to look for
//! Just before the server fills, the application is restarted. With `--start cold` it then holds
//! nothing, so every request needs a new connection. A bare pool dials for each of them, thousands
//! of times a second, against a server that has no room. With `--start warm` it holds four
//! connections and could live on them; a bare pool still dials, and fails the request, whenever
//! those four are busy, while the guard lets the request wait its turn. Where all tasks share one
//! connection (`connection-manager`, `redis-guard-shared`, and `redis-guard-multiplex`, which is the
//! same code as `redis-guard` and one more line where the pool is built), that one is held.
//!
//! # How the requests arrive
//! Each of 64 tasks is a source of requests. A request is one connection acquired, one `SET`, one
//! `GET`; where the connection is shared, only the two commands. Every task sends one each 5 ms,
//! whatever became of the one before; if that took longer, the next follows at once. Nobody sleeps
//! after a failure and nobody retries: a service does not choose when its next request arrives. So
//! a client that fails fast fails more requests than one that lets its callers hang: count the two
//! together.
//!
//! Somebody else uses the server meanwhile: a bystander, with a connection of its own, sends a GET every
//! 2 ms. What it waits, and the server's processor time, are the harm that a storm does to all others.
//!
//! The pace and the work are the same for all clients, and so is the size of their pools. Where a
//! client has a time to wait for a connection, it is one second. Everything else is its default.

use std::fs;
use std::process::ExitCode;

mod args;
mod bystander;
mod chart;
mod clients;
mod report;
mod run;
mod storm;
mod target;

#[path = "../common/mod.rs"]
mod common;

/// Starts a redis-server for us; the integration tests use the same.
#[path = "../../tests/support/server.rs"]
mod server;

use args::{Args, Command};
use clients::{BareDeadpool, Bb8, Guard, GuardShared, Manager};
use common::{Failure, exit_code, until_interrupted, writable};
use run::Run;
use storm::storm;
use target::Target;

#[tokio::main]
async fn main() -> ExitCode {
    let done = match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{}", args::HELP);
            Ok(())
        }
        Ok(Command::Run(args)) => until_interrupted(compare(&args)).await,
        Err(problem) => Err(format!("{problem}\n\n{}", args::HELP).into()),
    };
    exit_code("retry_storm", done)
}

/// Puts the storm through one client after the other and reports.
async fn compare(args: &Args) -> Result<(), Failure> {
    for path in [Some(&args.svg), args.json.as_ref()].into_iter().flatten() {
        writable(path).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    let mut target = Target::open(args)?;
    eprintln!("{}", report::introduction(args, &target));

    // A new client: a `Contender` in clients.rs and a line here.
    let runs: [Run; 6] = [
        storm::<BareDeadpool>(&mut target, args).await?,
        storm::<Bb8>(&mut target, args).await?,
        storm::<Manager>(&mut target, args).await?,
        storm::<Guard<false>>(&mut target, args).await?,
        storm::<Guard<true>>(&mut target, args).await?,
        storm::<GuardShared>(&mut target, args).await?,
    ];
    target.clean_up(args.tasks)?;

    println!("{}", report::text(args, &runs));
    chart::draw(&args.svg, args, &runs)?;
    println!("chart: {}", args.svg.display());
    if let Some(path) = &args.json {
        let report = serde_json::to_string_pretty(&report::json(args, &target, &runs))?;
        fs::write(path, report + "\n")?;
        println!("json:  {}", path.display());
    }
    Ok(())
}
