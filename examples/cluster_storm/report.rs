//! The numbers: progress, tables, JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::{Args, POOL_SIZE};
use crate::common::numbers::{micros, millis, pretty, thousands};
use crate::run::{Outcome, PerPhase, Phase, Run};

/// Whose keys, and what became of the requests for them.
type Of = (&'static str, fn(&Run) -> &Outcome);

const KEYS: [Of; 2] = [
    ("keys of the other nodes", |run| &run.others),
    ("keys of the full node", |run| &run.full_node),
];

/// What is about to happen.
pub(crate) fn introduction(args: &Args) -> String {
    format!(
        "three masters and three replicas of our own; {} tasks, pools of {POOL_SIZE}; one master will \
         have no room\n",
        args.tasks
    )
}

/// One client is done.
pub(crate) fn progress(run: &Run) -> String {
    format!(
        "{:<23} {} dials refused; {} requests for the full node's keys failed, {} for the others'\n",
        run.name,
        thousands(run.dials_refused()),
        thousands(run.full_node.all_failed()),
        thousands(run.others.all_failed())
    )
}

pub(crate) fn text(args: &Args, runs: &[Run]) -> String {
    let mut out = String::new();
    render(&mut out, args, runs).expect("writing to a String cannot fail");
    out
}

fn render(out: &mut String, args: &Args, runs: &[Run]) -> std::fmt::Result {
    let [healthy, full, freed] = Phase::ALL.map(|phase| args.phases[phase].as_secs_f64());
    let phases = |out: &mut String| {
        writeln!(
            out,
            "{:>19}{:>19}{:>19}",
            format!("healthy {healthy:.1} s"),
            format!("full {full:.1} s"),
            format!("freed {freed:.1} s")
        )
    };

    writeln!(out, "cluster storm: one of three masters full, all that happened there")?;
    writeln!(
        out,
        "{:<24}{:>14}{:>9}{:>8}{:>17}{:>17}",
        "client", "dials refused", "sockets", "hung*", "longest request", "first success**"
    )?;
    for run in runs {
        let hung: u64 = [&run.full_node, &run.others].iter().flat_map(|o| o.hung.0).sum();
        let time = |time: Option<Duration>| time.map_or_else(|| "none".to_owned(), pretty);
        writeln!(
            out,
            "{:<24}{:>14}{:>9}{:>8}{:>17}{:>17}",
            run.name,
            thousands(run.dials_refused()),
            run.sockets(),
            thousands(hung),
            time(run.longest()),
            time(run.full_node.first_after_freed)
        )?;
    }
    writeln!(out, "* requests that had not ended after two seconds, and were given up")?;
    writeln!(out, "** for a key of the full node, after its slots were freed")?;

    for (keys, of) in KEYS {
        write!(out, "\n{:<46}", format!("{keys}: requests that succeeded / failed"))?;
        phases(out)?;
        for run in runs {
            write!(out, "{:<46}", run.name)?;
            for phase in Phase::ALL {
                let (ok, failed) = (of(run).ok[phase], of(run).failed[phase]);
                write!(out, "{:>19}", format!("{} / {}", thousands(ok), thousands(failed)))?;
            }
            writeln!(out)?;
        }
    }

    write!(out, "\n{:<46}", "keys of the other nodes: p50 / p99 of a success")?;
    phases(out)?;
    for run in runs {
        write!(out, "{:<46}", run.name)?;
        for phase in Phase::ALL {
            let times = run.others.took[phase].map_or_else(
                || "-".to_owned(),
                |t| format!("{} / {}", pretty(t.p50), pretty(t.p99)),
            );
            write!(out, "{times:>19}")?;
        }
        writeln!(out)?;
    }

    writeln!(
        out,
        "\nwhat the callers of the full node's keys were told while it was full, in the end"
    )?;
    for run in runs {
        let told = match &run.last_error {
            Some(error) => error.as_str(),
            None if run.full_node.ok[Phase::Full] == 0 => "(nothing: they were all left waiting)",
            None => "(no request failed)",
        };
        writeln!(out, "{:<24}{told}", run.name)?;
    }

    writeln!(
        out,
        "\nwhat the callers of the other nodes' keys were told, the most frequent first"
    )?;
    for run in runs {
        let errors = run.other_errors.few();
        for (phase, message, count) in &errors {
            let count = thousands(count);
            writeln!(out, "{:<24}{:<9}{count:>7} × {message}", run.name, phase.as_str())?;
        }
        if errors.is_empty() {
            let none = if run.others.all_failed() == 0 { "no request failed" } else { "nothing" };
            writeln!(out, "{:<24}({none})", run.name)?;
        }
    }

    writeln!(out, "\nhow long they wait")?;
    for run in runs {
        writeln!(out, "{:<24}{}", run.name, run.terms)?;
    }

    let longest = runs.iter().map(|run| run.longest_look).max().unwrap_or_default();
    writeln!(
        out,
        "\nLooking at all six nodes took {} at most. Where that is much more than some tens of milliseconds, the \
         machine was busy with other things, and requests may have timed out for that alone.",
        pretty(longest)
    )?;
    Ok(())
}

pub(crate) fn json(args: &Args, runs: &[Run]) -> Value {
    json!({
        "schema": 1,
        "tasks": args.tasks,
        "pool_size": POOL_SIZE,
        "phase_seconds": by_phase(&args.phases, |length| json!(length.as_secs_f64())),
        "clients": runs.iter().map(client).collect::<Vec<_>>(),
    })
}

fn client(run: &Run) -> Value {
    let node = |node: &crate::run::Node| {
        json!({
            "server": node.server,
            "role": node.role,
            "full": node.full,
            "dials_refused": node.dials_refused,
            "sockets_peak": node.sockets_peak,
        })
    };
    let (full, others) = (&run.full_node, &run.others);
    let error = |(phase, message, count): (Phase, &str, u64)| json!({ "phase": phase.as_str(), "message": message, "count": count });
    json!({
        "name": run.name,
        "terms": run.terms,
        "nodes": run.nodes.iter().map(node).collect::<Vec<_>>(),
        "dials_refused": run.dials_refused(),
        "sockets_peak": run.sockets(),
        "full_node_failed": full.all_failed(),
        "other_keys_failed": others.all_failed(),
        "other_keys_p99_us": by_phase(&others.took, |took| json!(took.map(|t| micros(t.p99)))),
        "other_keys_errors": run.other_errors.few().into_iter().map(error).collect::<Vec<_>>(),
        "last_error_while_full": run.last_error,
        "longest_ms": run.longest().map(millis),
        "longest_look_ms": millis(run.longest_look),
        "first_success_after_freed_ms": full.first_after_freed.map(millis),
        "full_node": outcome(full),
        "other_keys": outcome(others),
    })
}

fn outcome(outcome: &Outcome) -> Value {
    json!({
        "ok": by_phase(&outcome.ok, |n| json!(n)),
        "failed": by_phase(&outcome.failed, |n| json!(n)),
        "hung": by_phase(&outcome.hung, |n| json!(n)),
        "p50_us": by_phase(&outcome.took, |took| json!(took.map(|t| micros(t.p50)))),
        "p99_us": by_phase(&outcome.took, |took| json!(took.map(|t| micros(t.p99)))),
        "longest_ms": by_phase(&outcome.longest, |longest| json!(longest.map(millis))),
    })
}

fn by_phase<T>(values: &PerPhase<T>, value: impl Fn(&T) -> Value) -> Value {
    Phase::ALL.map(|phase| (phase.as_str().to_owned(), value(&values[phase]))).into_iter().collect()
}
