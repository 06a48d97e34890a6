//! The numbers: progress, table, JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::Args;
use crate::common::numbers::{float, thousands};
use crate::orders::Seen;
use crate::plan::{Plan, STEPS};
use crate::policy::Policy;
use crate::run::{Run, Sample};

/// What the cost figures are, for whoever has only the file.
const COST_METHOD: &str = "CPU time (/proc/<pid>/task/*/schedstat) of 240 idle pools with one \
    connection each and of their server, less that of the same pools with watch(false); \
    watch_and_lease_core_percent is one pool's: its own plus a 240th of the server's";

/// What is about to happen.
pub(crate) fn introduction(args: &Args, plan: &Plan) -> String {
    let (apps, max) = (plan.apps(), plan.max_connections);
    format!(
        "a redis-server of our own with maxclients {}; {apps} pools of {max} want {} ({}); {} worker \
         processes\n\
         app servers {:?}, {} s for each of {} policies; each of {} callers holds its connection for \
         {} ms\n",
        thousands(plan.maxclients),
        thousands(apps * max),
        plan.limited_by,
        plan.workers,
        STEPS,
        plan.length().as_secs(),
        args.policies.len(),
        thousands(apps * max),
        plan.hold.as_millis(),
    )
}

/// A line a second.
pub(crate) fn moment(policy: Policy, sample: &Sample, apps: usize, seen: &[Seen]) -> String {
    let sum = |of: fn(&Seen) -> u64| thousands(seen.iter().map(of).sum::<u64>());
    format!(
        "{:<15}{:>5.1} s {apps:>4} pools {:>7} slots used {:>7} refused, jain {:.3}, requests {} / {} failed",
        policy.as_str(),
        sample.at.as_secs_f64(),
        thousands(sample.used),
        thousands(sample.rejected),
        sample.jain,
        sum(|seen| seen.ok),
        sum(|seen| seen.failed),
    )
}

/// One policy is done.
pub(crate) fn progress(run: &Run) -> String {
    let mut out = format!(
        "{}: {} connections refused, {} requests succeeded, {} failed",
        run.policy.as_str(),
        thousands(run.rejected),
        thousands(run.ok),
        thousands(run.failed)
    );
    for (error, count) in &run.errors {
        let _ = write!(out, "\n  {} × {error}", thousands(count));
    }
    out
}

pub(crate) fn text(plan: &Plan, runs: &[Run]) -> String {
    let mut out = String::new();
    render(&mut out, plan, runs).expect("writing to a String cannot fail");
    out
}

fn render(out: &mut String, plan: &Plan, runs: &[Run]) -> std::fmt::Result {
    writeln!(
        out,
        "flash sale: {} to {} pools of {} against maxclients {} ({})",
        STEPS[0],
        plan.apps(),
        plan.max_connections,
        thousands(plan.maxclients),
        plan.limited_by
    )?;
    writeln!(
        out,
        "{:<15}{:>10}{:>12}{:>10}{:>8}{:>8}{:>8}{:>10}{:>18}{:>11}",
        "policy",
        "rejected",
        "ok",
        "failed",
        "peak",
        "used *",
        "jain *",
        "fair in",
        "first connection",
        "cost/pool"
    )?;
    for run in runs {
        let first = if run.newcomers_without > 0 {
            format!("{} never", run.newcomers_without)
        } else {
            format!("{:.0} ms", run.newcomer_first_connection_ms_max)
        };
        writeln!(
            out,
            "{:<15}{:>10}{:>12}{:>10}{:>8}{:>8.3}{:>8.3}{:>10}{:>18}{:>11}",
            run.policy.as_str(),
            thousands(run.rejected),
            thousands(run.ok),
            thousands(run.failed),
            thousands(run.peak_used),
            run.utilisation_end,
            run.jain_end,
            run.seconds_to_fair().map_or_else(|| "not".to_owned(), |s| format!("{s:.1} s")),
            first,
            run.cost.map_or_else(|| "?".to_owned(), |cost| format!("{:.3} %", cost.each())),
        )?;
    }
    writeln!(out, "* at the end; used: of maxclients, over the last 2 s\n")?;

    writeln!(
        out,
        "after each step: pools, connections refused / fair in / longest first connection"
    )?;
    for run in runs {
        write!(out, "{:<15}", run.policy.as_str())?;
        for step in &run.steps {
            let fair = step
                .fair_after
                .map_or_else(|| "not".to_owned(), |fair| format!("{:.1} s", fair.as_secs_f64()));
            let cell = format!(
                "{}: {} / {fair} / {:.0} ms",
                step.apps,
                thousands(step.rejected),
                step.first_connection_ms_max
            );
            write!(out, "{cell:>29}")?;
        }
        writeln!(out)?;
    }

    writeln!(out, "\nwhat the callers were told")?;
    for run in runs {
        if run.errors.is_empty() {
            writeln!(out, "{:<15}(no request failed)", run.policy.as_str())?;
        }
        for (error, count) in &run.errors {
            writeln!(out, "{:<15}{:>9} × {error}", run.policy.as_str(), thousands(count))?;
        }
    }

    writeln!(out, "\nwhat watch and lease cost, in percent of a core")?;
    for run in runs.iter().filter(|run| run.policy.watches()) {
        let name = run.policy.as_str();
        if let Some(cost) = run.cost {
            writeln!(
                out,
                "{name:<15}idle: {:.3} % in each of {} processes, {:.2} % on the server for all of them",
                cost.client,
                plan.apps(),
                cost.server
            )?;
        }
        let each = |took: Duration, count: u64| took.as_secs_f64() * 1e6 / float(count.max(1));
        let done = &run.commands;
        writeln!(
            out,
            "{name:<15}in the event: {} heartbeats of {:.0} µs and {} INFOs of {:.0} µs: {:.2} % on the \
             server, by its own count",
            thousands(done.heartbeats),
            each(done.heartbeats_took, done.heartbeats),
            thousands(done.infos),
            each(done.infos_took, done.infos),
            run.server_percent_in_event(plan)
        )?;
    }
    writeln!(out, "\nmethod: {COST_METHOD}")?;
    for run in runs {
        if let (Some(clients), Some(server)) = (run.client_busy, run.server_busy) {
            writeln!(
                out,
                "{:<15}in the event, all workers {clients:.0} % of a core, server {server:.0} %; looked \
                 every 0.1 s, {:.1} s at worst",
                run.policy.as_str(),
                run.longest_gap.as_secs_f64()
            )?;
        }
    }
    Ok(())
}

pub(crate) fn json(plan: &Plan, runs: &[Run]) -> Value {
    let policies: Vec<Value> = runs
        .iter()
        .map(|run| {
            let steps: Vec<Value> = run
                .steps
                .iter()
                .map(|step| {
                    json!({
                        "pools": step.apps,
                        "rejected": step.rejected,
                        "seconds_to_fair": step.fair_after.map(|fair| rounded(fair.as_secs_f64())),
                        "first_connection_ms_max": rounded(step.first_connection_ms_max),
                    })
                })
                .collect();
            json!({
                "name": run.policy.as_str(),
                "rejected": run.rejected,
                "requests_ok": run.ok,
                "requests_failed": run.failed,
                "peak_used": run.peak_used,
                "maxclients": plan.maxclients,
                "jain_end": rounded(run.jain_end),
                "seconds_to_fair": run.seconds_to_fair().map(rounded),
                "newcomer_first_connection_ms_max": rounded(run.newcomer_first_connection_ms_max),
                "newcomers_never_connected": run.newcomers_without,
                "utilisation_end": rounded(run.utilisation_end),
                "watch_and_lease_core_percent": run.cost.map(|cost| rounded(cost.each())),
                "client_core_percent_each": run.cost.map(|cost| rounded(cost.client)),
                "server_core_percent_all": run.cost.map(|cost| rounded(cost.server)),
                "server_core_percent_all_in_event": rounded(run.server_percent_in_event(plan)),
                "heartbeats": run.commands.heartbeats,
                "infos": run.commands.infos,
                "workers_busy_percent": run.client_busy.map(rounded),
                "server_busy_percent": run.server_busy.map(rounded),
                "longest_gap_ms": rounded(run.longest_gap.as_secs_f64() * 1e3),
                "errors": run.errors,
                "live_end": run.live_end,
                "steps": steps,
            })
        })
        .collect();
    json!({
        "schema": 1,
        "scale": float(u64::from(plan.maxclients)) / 10_000.0,
        "scale_limited_by": plan.limited_by,
        "maxclients": plan.maxclients,
        "pools": plan.apps(),
        "max_connections": plan.max_connections,
        "workers": plan.workers,
        "hold_ms": rounded(plan.hold.as_secs_f64() * 1e3),
        "step_pools": STEPS,
        "step_seconds": plan.lengths.map(|length| length.as_secs_f64()),
        "fair_from": crate::run::FAIR,
        "cost_method": COST_METHOD,
        "policies": policies,
    })
}

/// To four decimals, which is more than the runs agree in.
fn rounded(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}
