//! What a failover costs: three Redis clients follow the master that the sentinels name.
//!
//! Sentinels watch a master and, when it is gone, make one of its replicas the new one. What they
//! cannot do is take the clients along: each has to notice, to ask, and to connect again, and all
//! do so at the same moment. Here the same service goes through bare deadpool-redis with its
//! Sentinel support, and through redis-guard, with leases and with its shared connection, one after
//! the other. Each has a master, two replicas and three sentinels of its own, and loses the master
//! in three ways:
//!
//! 1. **`SENTINEL FAILOVER`**: an operator asks for it, before maintenance say. The old master works
//!    on; the sentinels take eight seconds and more to make it a replica.
//! 2. **SIGSTOP, SIGCONT**: the master stands still, as on a machine that swaps or a network that is
//!    cut. It wakes up behind the sentinels' back and believes that it is the master still.
//! 3. **`kill -9`**: the master is dead, and whoever dials it is refused.
//!
//! ```sh
//! sudo apt-get install -y redis-server      # redis-sentinel is the same program
//! cargo run --release --example failover             # a minute and a half
//! cargo run --release --example failover -- --help
//! ```
//!
//! It prints a table and draws `target/failover.svg`: the writes that were acknowledged and kept,
//! those that were acknowledged and lost, those that failed, and the dials, in every tenth of a
//! second. It fails if redis-guard does not keep what it promises: writes on every pool within a
//! second of the first sentinel's word, at most three failed dials of the process in any second, and
//! no write to the old master later than a second after the word.
//!
//! # What to look for
//! - **Writes lost.** After a failover that was asked for, the old master accepts writes until it is
//!   made a replica, and then forgets them. A client that keeps its connections for as long as they
//!   work has thousands of writes acknowledged that nobody has later. Those before the sentinels'
//!   word no client can help, since the new master is one already; those after it are the client's.
//! - **Dials.** deadpool-redis asks all sentinels for each new connection, and connects to the master
//!   for each of their answers before it connects to stay. While there is no master, every request
//!   does so again.
//! - **The time without a write** is at least what the sentinels take: 0.4 s to notice, the rest to
//!   vote and to choose. What comes after their word is the client's.
//!
//! # How it is counted
//! Four pools of one process hold 8 connections each (or share one each), and 64 tasks send one `SET`
//! every 10 ms each, whatever became of the one before. Each write has a key of its own: one that was
//! acknowledged, and that the last master does not have, is lost.
//!
//! The clients log in to the data servers, and nobody else does: neither replicas, nor sentinels, nor
//! this program. So the servers' count of `AUTH` is the count of the clients' dials, and
//! `CLIENT LIST` tells which connections are theirs. A server that stands still counts what waits for
//! it when it goes on. Dials to a dead one no server counts: redis-guard counts its own, and of
//! deadpool-redis we count the connections that it could not make, each of which is one dial at least
//! and up to three. The sentinels' only other clients are each other and this program, whose
//! connections stay; what they accept beyond these are the client's dials. Only on a machine that is
//! overloaded do sentinels lose each other, and what they dial then is counted as well.
//!
//! Both have one second to wait for a connection. deadpool-redis would otherwise wait for ever; it is
//! given the same second to make a connection, and to check one. Everything else is their default.
//!
//! The sentinels are quicker than most: they take a server for down after 0.4 s of silence, and look
//! every half second which of them is what. How long an old master may go on is their default.

use std::fs;
use std::process::ExitCode;

use tokio::task::spawn_blocking;

mod args;
mod chart;
mod clients;
mod drive;
mod outcome;
mod promises;
mod report;
mod run;
mod set;

#[path = "../common/mod.rs"]
mod common;

/// Starts servers and sentinels for us; the integration tests use the same.
#[path = "../../tests/support/sentinel.rs"]
mod sentinel;
#[path = "../../tests/support/server.rs"]
mod server;

use args::{Args, Command};
use clients::{BareDeadpool, Guard, GuardShared};
use common::{Failure, exit_code, until_interrupted, writable};
use drive::drive;
use outcome::Run;
use set::Set;

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
    exit_code("failover", done)
}

/// Puts one client after the other through the failovers and reports.
async fn compare(args: &Args) -> Result<(), Failure> {
    for path in [Some(&args.svg), args.json.as_ref()].into_iter().flatten() {
        writable(path).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    eprintln!("{}", report::introduction(args));

    // All at once, and each in its turn. A new client: a `Contender` in clients.rs, one set more, and
    // a line here.
    let quick = args.quick;
    let set = || async move { spawn_blocking(move || Set::start(quick)).await? };
    let (first, second, third) = tokio::try_join!(set(), set(), set())?;
    let runs: [Run; 3] = [
        drive::<BareDeadpool>(first, args).await?,
        drive::<Guard>(second, args).await?,
        drive::<GuardShared>(third, args).await?,
    ];

    println!("{}", report::text(args, &runs));
    chart::draw(&args.svg, args, &runs)?;
    println!("chart: {}", args.svg.display());
    if let Some(path) = &args.json {
        let report = serde_json::to_string_pretty(&report::json(args, &runs))?;
        fs::write(path, report + "\n")?;
        println!("json:  {}", path.display());
    }
    promises::kept(&runs)
}
