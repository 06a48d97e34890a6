//! The numbers: progress, tables, JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::args::{Args, POOL_SIZE};
use crate::common::numbers::{millis, pretty, thousands};
use crate::outcome::{Outcome, Run};
use crate::run::Scenario;
use crate::set::Counts;

/// What is about to happen.
pub(crate) fn introduction(args: &Args) -> String {
    format!(
        "a master, two replicas and three sentinels of our own for each client; {} pools of \
         {POOL_SIZE} connections, {} tasks\n",
        args.pools, args.tasks
    )
}

/// One client is done.
pub(crate) fn progress(run: &Run) -> String {
    let totals = Totals::of(run);
    format!(
        "{:<24} {} writes failed, {} were lost, {} dials\n",
        run.name,
        thousands(totals.failed),
        thousands(totals.lost),
        thousands(totals.dials)
    )
}

/// All failovers of a client.
struct Totals {
    requests: usize,
    failed: usize,
    longest_gap: Duration,
    first_write: Option<Duration>,
    writes_back: Option<Duration>,
    lost_before: usize,
    lost: usize,
    dials: u64,
    accepted: u64,
    refused: u64,
    dials_failed: u64,
    failed_in_a_second: u64,
    slots_peak: u64,
    sentinel_dials: u64,
    sentinel_slots_peak: u64,
}

impl Totals {
    fn of(run: &Run) -> Self {
        let of = &run.scenarios;
        let latest = |time: fn(&Outcome) -> Option<Duration>| {
            of.iter().map(time).collect::<Option<Vec<_>>>()?.into_iter().max()
        };
        let most = |count: fn(&Outcome) -> u64| of.iter().map(count).max().unwrap_or(0);
        Self {
            requests: of.iter().map(|o| o.requests).sum(),
            failed: of.iter().map(|o| o.failed).sum(),
            longest_gap: of.iter().map(|o| o.longest_gap).max().unwrap_or_default(),
            first_write: latest(|o| o.first_write),
            writes_back: latest(|o| o.writes_back),
            lost_before: of.iter().map(|o| o.lost_before).sum(),
            lost: of.iter().map(|o| o.lost).sum(),
            dials: of.iter().map(Outcome::dials).sum(),
            accepted: of.iter().map(|o| o.accepted).sum(),
            refused: of.iter().map(|o| o.dialed.refused).sum(),
            dials_failed: of.iter().map(|o| o.dialed.failed).sum(),
            failed_in_a_second: most(|o| o.failed_in_a_second),
            slots_peak: most(|o| o.slots_peak),
            sentinel_dials: of.iter().map(|o| o.sentinel_dials).sum(),
            sentinel_slots_peak: most(|o| o.sentinel_slots_peak),
        }
    }
}

pub(crate) fn text(args: &Args, runs: &[Run]) -> String {
    let mut out = String::new();
    render(&mut out, args, runs).expect("writing to a String cannot fail");
    out
}

fn render(out: &mut String, args: &Args, runs: &[Run]) -> std::fmt::Result {
    writeln!(
        out,
        "failover: {} pools of {POOL_SIZE} connections in one process, {} tasks with a write every \
         10 ms each\n",
        args.pools, args.tasks
    )?;
    for (nth, scenario) in Scenario::ALL.into_iter().enumerate() {
        let columns = [
            "writes",
            "failed",
            "longest gap",
            "back (1)",
            "lost (2)",
            "dials",
            "failed (3)",
            "slots",
            "sentinels (4)",
        ];
        line(out, scenario.title(), &columns.map(str::to_owned))?;
        for (run, outcome) in runs.iter().filter_map(|run| Some((run, run.scenarios.get(nth)?))) {
            line(out, run.name, &columns_of(outcome))?;
        }
        writeln!(out)?;
    }
    out.write_str(NOTES)?;
    for run in runs {
        writeln!(out, "\n{}: {}", run.name, run.terms)?;
        let Counts { accepted, sentinel_dials, .. } = run.to_start;
        writeln!(
            out,
            "  to connect at first: {accepted} dials, and {sentinel_dials} to sentinels"
        )?;
        for outcome in &run.scenarios {
            if let Some(told) = &outcome.told {
                writeln!(out, "  {}, most callers heard: {told}", outcome.times.scenario.title())?;
            }
        }
    }
    Ok(())
}

const NOTES: &str = "\
longest gap: without an acknowledged write, whoever's
(1) from the first sentinel's word to the first write that the new master has, on the pool that was last
(2) acknowledged after that word, and the new master does not have it
(3) dials that came to nothing, and the most in one second; deadpool-redis does not count them: at least
(4) dials to sentinels, and the most connections that one of them held
";

fn columns_of(outcome: &Outcome) -> [String; 9] {
    [
        thousands(outcome.requests),
        thousands(outcome.failed),
        pretty(outcome.longest_gap),
        outcome.writes_back.map_or_else(|| "never".to_owned(), pretty),
        thousands(outcome.lost),
        thousands(outcome.dials()),
        format!("{}, {}", thousands(outcome.dialed.failed), thousands(outcome.failed_in_a_second)),
        thousands(outcome.slots_peak),
        format!("{}, {}", outcome.sentinel_dials, outcome.sentinel_slots_peak),
    ]
}

fn line(out: &mut String, name: &str, columns: &[String; 9]) -> std::fmt::Result {
    write!(out, "{name:<24}")?;
    for (column, width) in columns.iter().zip([9, 9, 13, 11, 10, 8, 15, 7, 15]) {
        write!(out, "{column:>width$}")?;
    }
    writeln!(out)
}

pub(crate) fn json(args: &Args, runs: &[Run]) -> Value {
    let clients: Vec<Value> = runs
        .iter()
        .map(|run| {
            let totals = Totals::of(run);
            let scenarios: Map<_, _> = run
                .scenarios
                .iter()
                .map(|outcome| (outcome.times.scenario.as_str().to_owned(), scenario(outcome)))
                .collect();
            json!({
                "name": run.name,
                "requests": totals.requests,
                "requests_failed": totals.failed,
                "longest_gap_ms": millis(totals.longest_gap),
                "first_write_ms": totals.first_write.map(millis),
                "writes_back_ms": totals.writes_back.map(millis),
                "writes_lost_before_word": totals.lost_before,
                "writes_lost": totals.lost,
                "dials_to_start": run.to_start.accepted,
                "dials": totals.dials,
                "dials_accepted": totals.accepted,
                "dials_refused": totals.refused,
                "dials_failed": totals.dials_failed,
                "dials_failed_in_a_second": totals.failed_in_a_second,
                "master_slots_peak": totals.slots_peak,
                "sentinel_dials_to_start": run.to_start.sentinel_dials,
                "sentinel_dials": totals.sentinel_dials,
                "sentinel_slots_peak": totals.sentinel_slots_peak,
                "scenarios": scenarios,
            })
        })
        .collect();
    json!({
        "schema": 1,
        "quick": args.quick,
        "tasks": args.tasks,
        "pools": args.pools,
        "pool_size": POOL_SIZE,
        "clients": clients,
    })
}

fn scenario(outcome: &Outcome) -> Value {
    let times = &outcome.times;
    json!({
        "seconds": (times.ended - times.began).as_secs_f64(),
        "word_ms": millis(times.word - times.struck),
        "last_word_ms": millis(times.last_word - times.struck),
        "requests": outcome.requests,
        "requests_failed": outcome.failed,
        "longest_gap_ms": millis(outcome.longest_gap),
        "first_write_ms": outcome.first_write.map(millis),
        "writes_back_ms": outcome.writes_back.map(millis),
        "writes_lost_before_word": outcome.lost_before,
        "writes_lost": outcome.lost,
        "last_lost_ms": outcome.last_lost.map(millis),
        "dials": outcome.dials(),
        "dials_accepted": outcome.accepted,
        "dials_refused": outcome.dialed.refused,
        "dials_failed": outcome.dialed.failed,
        "dials_failed_in_a_second": outcome.failed_in_a_second,
        "master_slots_peak": outcome.slots_peak,
        "sentinel_dials": outcome.sentinel_dials,
        "sentinel_slots_peak": outcome.sentinel_slots_peak,
        "error": outcome.told,
    })
}
