//! One node of a cluster is full: what three Redis clients make of it.
//!
//! On a cluster `maxclients` is each node's own, and one node can be full while the others have room.
//! Here three masters, each with a replica, carry the same workload through deadpool-redis's cluster
//! pool, redis-rs' `ClusterConnection` and redis-guard, one after the other, in three phases:
//!
//! 1. **healthy**: there is room on all nodes;
//! 2. **full**: one master has no slot left, and closes the client's connections, as when it was
//!    restarted and others were quicker; whoever dials it is refused;
//! 3. **freed**: it has room again.
//!
//! ```sh
//! sudo apt-get install -y redis-server
//! cargo run --release --example cluster_storm                 # a minute and a half
//! cargo run --release --example cluster_storm -- --help
//! ```
//!
//! It prints tables and draws `target/cluster_storm.svg`: the dials that were refused, and the requests
//! that succeeded, for keys of the other nodes and for those of the full one, in every tenth of a second.
//!
//! # What to look for
//! - **The other nodes' keys.** Two thirds of the cluster are well. A client that waits for the third
//!   keeps its callers, and what they would have asked the other nodes next is not asked.
//! - **Dials.** A pool of cluster connections is as many connections for each node, and each of them
//!   dials the full node again by itself, for as long as it lives, whether anybody wants it or not.
//! - **Sockets** are what the client holds of all nodes' slots.
//!
//! # How the requests arrive
//! Each of 64 tasks is a worker of a service. It sends one `SET` every 5 ms, for a key of each master in
//! turn, whatever became of the one before: a request that fails at once brings the next one no sooner, so
//! that what the other nodes are asked is the same in all phases. Where a request takes longer, the task
//! sends none meanwhile, and does not make up for them. What has not ended after two seconds counts as hung,
//! and is given up. Nobody retries. So a client that fails fast fails more requests for the full node's keys
//! than one that lets its callers hang: count the two together.
//!
//! Every client has a runtime of its own, which ends with it: redis-rs would go on dialing. A request
//! counts in the phase in which it ends. Dials and connections are counted by the nodes.

use std::fs;
use std::process::ExitCode;

use tokio::task::spawn_blocking;

mod args;
mod chart;
mod clients;
mod report;
mod run;
mod set;
mod storm;

#[path = "../common/mod.rs"]
mod common;

/// Starts nodes of a cluster for us; the integration tests use the same.
#[path = "../../tests/support/cluster/mod.rs"]
mod cluster;
#[path = "../../tests/support/server.rs"]
mod server;

use args::{Args, Command};
use clients::{BareDeadpool, Cluster, Leases, Shared, TimedCluster};
use common::{Failure, exit_code, until_interrupted, writable};
use run::Run;
use set::Set;
use storm::storm;

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
    exit_code("cluster_storm", done)
}

/// Puts the storm through one client after the other and reports.
async fn compare(args: &Args) -> Result<(), Failure> {
    for path in [Some(&args.svg), args.json.as_ref()].into_iter().flatten() {
        writable(path).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    let set = spawn_blocking(Set::start).await??;
    eprintln!("{}", report::introduction(args));

    // A new client: a `Contender` in clients.rs and a line here.
    let runs: [Run; 5] = [
        storm::<BareDeadpool>(&set, args).await?,
        storm::<Cluster>(&set, args).await?,
        storm::<TimedCluster>(&set, args).await?,
        storm::<Leases>(&set, args).await?,
        storm::<Shared>(&set, args).await?,
    ];

    println!("{}", report::text(args, &runs));
    chart::draw(&args.svg, args, &runs)?;
    println!("chart: {}", args.svg.display());
    if let Some(path) = &args.json {
        let report = serde_json::to_string_pretty(&report::json(args, &runs))?;
        fs::write(path, report + "\n")?;
        println!("json:  {}", path.display());
    }
    Ok(())
}
