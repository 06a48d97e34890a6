//! A fleet against one ceiling, in virtual time: what four policies do with it.
//!
//! Up to 10,000 instances and 65,000 slots; the gate, the price law and the fleet are the crate's
//! own, and the registry's script is the text that Redis runs, in the same Lua. The server counts slots
//! and rejections and accepts at its pace; callers arrive at random, keep a connection for 20 ms and
//! wait a quarter of a second for one.
//!
//! ```sh
//! cargo run --release --example fleet_sim
//! cargo run --release --example fleet_sim -- --json target/fleet_sim.json --only autoscaling
//! ```
//!
//! The same seed gives the same bytes.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts of connections and of calls in some minutes"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use serde_json::Value;

mod instance;
mod recorder;
mod scenario;
/// The engine that the tests of the script use, too.
#[path = "../../tests/support/script.rs"]
mod script;
mod server;
mod world;

use scenario::Scenario;

const HELP: &str = "\
usage: fleet_sim [--json PATH] [--seed N] [--only SCENARIO] [--quick]

  --json PATH       write the rows there, too
  --seed N          another run of chance (default 1)
  --only SCENARIO   autoscaling, restart, leak, ceiling, uneven, rolling, crash,
                    half-unguarded, lone, calm-240, cold-200, no-slot, ten-thousand,
                    calm-10000 or cold-10000
  --quick           leave out the last four, which have thousands of instances
";

#[derive(Debug)]
struct Args {
    json: Option<PathBuf>,
    seed: u64,
    only: Option<String>,
    quick: bool,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args { json: None, seed: 1, only: None, quick: false };
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or(format!("{name} needs a value"));
        match name.as_str() {
            "--json" => parsed.json = Some(value()?.into()),
            "--seed" => {
                parsed.seed = value()?.parse().map_err(|error| format!("--seed: {error}"))?;
            }
            "--only" => parsed.only = Some(value()?),
            "--quick" => parsed.quick = true,
            other => return Err(format!("there is no {other}")),
        }
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    let done = parse(env::args().skip(1))
        .map_err(|problem| format!("{problem}\n\n{HELP}"))
        .and_then(|args| simulate(&args));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("fleet_sim: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(args: &Args) -> Result<(), String> {
    let mut scenarios = scenario::all(args.quick);
    if let Some(only) = &args.only {
        scenarios.retain(|scenario| scenario.name == only);
    }
    if scenarios.is_empty() {
        return Err(format!("there is no such scenario\n\n{HELP}"));
    }
    let rows: Vec<Value> =
        scenarios.iter().flat_map(|scenario| rows(scenario, args.seed)).collect();
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?;
        fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Runs a scenario under each of its policies and prints what came of it.
fn rows(scenario: &Scenario, seed: u64) -> Vec<Value> {
    println!(
        "\n{}: {} slots, {} connections at most each",
        scenario.name, scenario.maxclients, scenario.max_connections
    );
    println!(
        "{:<10}{:>10}{:>11}{:>9}{:>7}{:>8}{:>7}{:>8}",
        "policy", "instances", "rejected", "success", "jain", "fair s", "used", "peak"
    );
    let row = |policy| {
        let row = scenario.row(policy, &world::run(scenario, policy, seed));
        print_row(&row);
        row
    };
    scenario.policies.iter().copied().map(row).collect()
}

fn print_row(row: &Value) {
    let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
    let fair = row["seconds_to_fair"].as_f64().map_or("never".to_owned(), |s| format!("{s:.1}"));
    print!(
        "{:<10}{:>10}{:>11}{:>8.2}%{:>7.3}{fair:>8}{:>6.1}%{:>8}",
        row["policy"].as_str().unwrap_or_default(),
        row["instances"].to_string(),
        row["rejected"].to_string(),
        100.0 * number("success_ratio"),
        number("jain_end"),
        100.0 * number("utilisation_end"),
        row["peak_used"].to_string(),
    );
    let extra =
        row.as_object().into_iter().flatten().filter(|(name, _)| !COMMON.contains(&name.as_str()));
    for (name, value) in extra {
        match value.as_f64() {
            Some(value) => print!("  {name} {}", (value * 1000.0).round() / 1000.0),
            None => print!("  {name} never"),
        }
    }
    println!();
}

/// The columns that every scenario has.
const COMMON: [&str; 10] = [
    "scenario",
    "policy",
    "instances",
    "maxclients",
    "rejected",
    "success_ratio",
    "jain_end",
    "seconds_to_fair",
    "utilisation_end",
    "peak_used",
];
