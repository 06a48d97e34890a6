//! The numbers: progress, tables, JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::args::{Args, Start};
use crate::common::numbers::{Spread, micros, millis, pretty, thousands};
use crate::run::{Others, Phase, Run};
use crate::target::Target;

/// What is about to happen.
pub(crate) fn introduction(args: &Args, target: &Target) -> String {
    let whose = if target.is_own() { "a redis-server of our own" } else { "your server" };
    let held = match args.start {
        Start::Cold => "nothing",
        Start::Warm => "a few connections",
    };
    format!(
        "{whose} with maxclients {}; {} tasks, {}; {} start: the application \
         holds {held} when the server fills\n",
        target.maxclients,
        args.tasks,
        args.pools(),
        args.start.as_str()
    )
}

/// One client is done.
pub(crate) fn progress(run: &Run) -> String {
    let failed: u64 = run.failed.0.iter().sum();
    let ok: usize = run.ok.0.iter().sum();
    format!(
        "{:<22} {} requests succeeded, {} failed, {} dials refused\n",
        run.name,
        thousands(ok),
        thousands(failed),
        thousands(run.dials_refused)
    )
}

pub(crate) fn text(args: &Args, runs: &[Run]) -> String {
    let mut out = String::new();
    render(&mut out, args, runs).expect("writing to a String cannot fail");
    out
}

fn render(out: &mut String, args: &Args, runs: &[Run]) -> std::fmt::Result {
    let [healthy, full, recovered] = Phase::ALL.map(|phase| args.phases[phase].as_secs_f64());
    let pools = if args.pools > 1 { format!(", {}", args.pools()) } else { String::new() };
    let start = args.start.as_str();
    writeln!(out, "retry storm, {start} start{pools}: requests that succeeded / failed")?;
    writeln!(
        out,
        "{:<22}{:>14}{:>19}{:>19}{:>19}{:>17}",
        "client",
        "dials refused",
        format!("healthy {healthy:.1} s"),
        format!("full {full:.1} s"),
        format!("recovered {recovered:.1} s"),
        "first success*"
    )?;
    for run in runs {
        write!(out, "{:<22}{:>14}", run.name, thousands(run.dials_refused))?;
        for phase in Phase::ALL {
            let counts = format!("{} / {}", thousands(run.ok[phase]), thousands(run.failed[phase]));
            write!(out, "{counts:>19}")?;
        }
        writeln!(
            out,
            "{:>17}",
            run.first_success_after_freed.map_or_else(|| "none".to_owned(), pretty)
        )?;
    }
    writeln!(out, "* after the slots were freed\n")?;

    writeln!(out, "time of a successful request, p50 / p99")?;
    for run in runs {
        write!(out, "{:<36}", run.name)?;
        for phase in Phase::ALL {
            let times = run.took[phase].map_or_else(
                || "-".to_owned(),
                |t| format!("{} / {}", pretty(t.p50), pretty(t.p99)),
            );
            write!(out, "{times:>19}")?;
        }
        writeln!(out)?;
    }

    writeln!(out, "\na bystander's GET, p99, and the server's share of a core")?;
    for run in runs {
        write!(out, "{:<36}", run.name)?;
        for phase in Phase::ALL {
            let Others { bystander, cpu_percent } = run.others[phase];
            let p99 = bystander.map_or_else(|| "-".to_owned(), |took| pretty(took.p99));
            write!(out, "{:>19}", format!("{p99} / {cpu_percent:.1}%"))?;
        }
        writeln!(out)?;
    }

    writeln!(out, "\nwhat the callers were told while the server was full")?;
    for run in runs {
        let told = match &run.error {
            Some(error) => error,
            None if run.ok[Phase::Full] == 0 => "(nothing: they were all left waiting)",
            None => "(no request failed)",
        };
        writeln!(out, "{:<22}{told}", run.name)?;
    }

    for run in runs.iter().filter(|run| run.open_time_in_force.is_some()) {
        writeln!(out)?;
        gate(out, run)?;
    }
    Ok(())
}

/// How a client with a breaker behaved while it was open, and how long that lasted.
fn gate(out: &mut String, run: &Run) -> std::fmt::Result {
    let name = run.name;
    if let Some(Spread { p50, p99, max }) = run.refusal {
        let [p50, p99, max] = [p50, p99, max].map(pretty);
        let refusals = thousands(run.refusals);
        writeln!(out, "{name}: {refusals} requests were refused by the open breaker")?;
        writeln!(
            out,
            "{name}: they were told so within {p50} (p50), {p99} (p99), {max} (longest)"
        )?;
    }
    if let Some(due) = run.open_time_in_force.map(pretty) {
        writeln!(out, "{name}: when the slots were freed, the next dial was due in {due}")?;
    }
    match run.first_success_after_freed.map(pretty) {
        Some(first) => {
            writeln!(out, "{name}: the first request succeeded {first} after they were freed")
        }
        None => writeln!(out, "{name}: no request succeeded after they were freed"),
    }
}

pub(crate) fn json(args: &Args, target: &Target, runs: &[Run]) -> Value {
    let by_phase = |value: &dyn Fn(Phase) -> Value| {
        Value::Object(
            Phase::ALL.map(|phase| (phase.as_str().to_owned(), value(phase))).into_iter().collect(),
        )
    };
    let clients: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "name": run.name,
                "dials_refused": run.dials_refused,
                "requests_ok": by_phase(&|phase| json!(run.ok[phase])),
                "requests_failed": by_phase(&|phase| json!(run.failed[phase])),
                "p50_us": by_phase(&|phase| json!(run.took[phase].map(|t| micros(t.p50)))),
                "p99_us": by_phase(&|phase| json!(run.took[phase].map(|t| micros(t.p99)))),
                "bystander_p50_us": by_phase(&|phase| {
                    json!(run.others[phase].bystander.map(|t| micros(t.p50)))
                }),
                "bystander_p99_us": by_phase(&|phase| {
                    json!(run.others[phase].bystander.map(|t| micros(t.p99)))
                }),
                "server_cpu_percent": by_phase(&|phase| {
                    json!((10.0 * run.others[phase].cpu_percent).round() / 10.0)
                }),
                "first_success_after_freed_ms": run.first_success_after_freed.map(millis),
                "open_time_in_force_ms": run.open_time_in_force.map(millis),
                "refusals": run.refusals,
                "refusal_p50_us": run.refusal.map(|t| micros(t.p50)),
                "refusal_p99_us": run.refusal.map(|t| micros(t.p99)),
                "refusal_max_us": run.refusal.map(|t| micros(t.max)),
                "last_error_while_full": run.error,
            })
        })
        .collect();
    let mut report = json!({
        "schema": 1,
        "start": args.start.as_str(),
        "maxclients": target.maxclients,
        "tasks": args.tasks,
        "pool_size": args.pool_size(),
        "phase_seconds": by_phase(&|phase| json!(args.phases[phase].as_secs_f64())),
        "clients": clients,
    });
    if args.pools > 1 {
        report["pools"] = json!(args.pools);
    }
    report
}
