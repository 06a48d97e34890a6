//! The numbers: tables, JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::args::Args;
use crate::common::numbers::{millis, pretty, thousands};
use crate::faults::Done;
use crate::operator::Log;
use crate::samples::{Sample, Usage};
use crate::tally::{Count, Tally, Topology};
use crate::verdict::{Ends, Slopes, Verdict};

/// What a run was.
pub(crate) struct Run {
    pub(crate) samples: Vec<Sample>,
    pub(crate) log: Log,
    pub(crate) ends: Ends,
    pub(crate) verdict: Verdict,
}

pub(crate) fn text(args: &Args, tally: &Tally, run: &Run) -> String {
    let mut out = String::new();
    render(&mut out, args, tally, run).expect("writing to a String cannot fail");
    out
}

fn render(out: &mut String, args: &Args, tally: &Tally, run: &Run) -> std::fmt::Result {
    let Run { samples, log, ends, verdict } = run;
    let time = samples.last().map_or(args.time, |sample| sample.at);
    writeln!(
        out,
        "\nsoak: {:.1} minutes, {} faults, seed {}; {} calls served, {} failed, {} cancelled\n",
        time.as_secs_f64() / 60.0,
        log.faults.len(),
        args.seed,
        thousands(tally.sum(Count::served)),
        thousands(tally.sum(Count::failed)),
        thousands(tally.sum(Count::cancelled)),
    )?;
    writeln!(
        out,
        "{:<11}{:<13}{:>11}{:>10}{:>11}{:>6}{:>11}   why they failed",
        "", "", "served", "failed", "cancelled", "hung", "longest"
    )?;
    for (topology, kind, count) in tally.all() {
        writeln!(
            out,
            "{:<11}{:<13}{:>11}{:>10}{:>11}{:>6}{:>11}   {}",
            topology.as_str(),
            kind.as_str(),
            thousands(count.served()),
            thousands(count.failed()),
            thousands(count.cancelled()),
            count.hung(),
            pretty(count.longest()),
            reasons(count)
        )?;
    }
    writeln!(out, "\n{:<60}{:>6}{:>12}{:>14}", "fault", "times", "took (1)", "served in (2)")?;
    for (title, [times, took, served]) in faults(&log.faults) {
        writeln!(out, "{title:<60}{times:>6.0}{took:>10.1} s{served:>12.1} s")?;
    }
    out.write_str(
        "(1) until the servers were at work again, at most\n\
         (2) from then until each kind of caller was served again, at most\n\n",
    )?;
    verdict_table(out, verdict)?;
    writeln!(
        out,
        "\nthe pools' books were compared with the servers' {} times\n\
         before the pools: {}\nafter the pools:  {}",
        log.compared,
        usage(&ends.before),
        usage(&ends.after)
    )
}

fn verdict_table(out: &mut String, verdict: &Verdict) -> std::fmt::Result {
    let [first, last] = verdict.compared;
    writeln!(
        out,
        "{:<44}{:>14}{:>14}{:>14}",
        format!("in calm times ({first} and {last} samples)"),
        "first quarter",
        "last quarter",
        "at most"
    )?;
    for row in &verdict.rows {
        let number = |n: f64| format!("{n:.2} {}", row.unit).trim_end().to_owned();
        writeln!(
            out,
            "{:<44}{:>14}{:>14}{:>14}  {}",
            row.what,
            number(row.first),
            number(row.last),
            number(row.allowed),
            if row.is_fine() { row.why } else { "GREW" }
        )?;
    }
    if let Some(Slopes { heap, rss }) = verdict.slopes {
        writeln!(
            out,
            "a line through all calm times: heap {heap:+.2}, memory {rss:+.2} MiB an hour"
        )?;
    }
    for finding in &verdict.findings {
        writeln!(out, "FOUND: {finding}")?;
    }
    Ok(())
}

fn usage(usage: &Usage) -> String {
    let Usage { rss_kib, heap, fds, tasks } = usage;
    let heap = heap / 1_024;
    format!(
        "{} KiB, {} KiB of them allocated, {fds} file descriptors, {tasks} tasks",
        thousands(rss_kib),
        thousands(heap)
    )
}

fn reasons(count: &Count) -> String {
    let mut reasons: Vec<_> = count.reasons().into_iter().collect();
    reasons.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let words = reasons.iter().take(4).map(|(reason, (count, _))| format!("{reason} {count}"));
    words.collect::<Vec<_>>().join(", ")
}

/// By title: how often, and the longest times.
fn faults<'a>(faults: impl IntoIterator<Item = &'a Done>) -> BTreeMap<&'a str, [f64; 3]> {
    let mut by_title: BTreeMap<&str, [f64; 3]> = BTreeMap::new();
    for Done { title, from, mended, recovered, .. } in faults {
        let [times, took, served] = by_title.entry(title).or_default();
        *times += 1.0;
        *took = took.max((*mended - *from).as_secs_f64());
        *served = served.max((*recovered - *mended).as_secs_f64());
    }
    by_title
}

pub(crate) fn json(args: &Args, tally: &Tally, run: &Run) -> Value {
    let Run { samples, log, ends, verdict } = run;
    let mut calls = Map::new();
    for (topology, kind, count) in tally.all() {
        let reasons: Map<_, _> = (count.reasons().into_iter())
            .map(|(reason, (count, last))| (reason, json!({ "count": count, "last": last })))
            .collect();
        let entry = calls.entry(topology.as_str()).or_insert_with(|| json!({}));
        entry[kind.as_str()] = json!({
            "served": count.served(),
            "failed": count.failed(),
            "cancelled": count.cancelled(),
            "hung": count.hung(),
            "longest_ms": millis(count.longest()),
            "reasons": reasons,
        });
    }
    let faults: Vec<Value> = (log.faults.iter())
        .map(|Done { title, from, mended, recovered, last }| {
            json!({
                "fault": title,
                "from_seconds": from.as_secs_f64(),
                "mended_seconds": mended.as_secs_f64(),
                "served_seconds": recovered.as_secs_f64(),
                "served_last": last,
            })
        })
        .collect();
    let rows: Vec<Value> = (verdict.rows.iter())
        .map(|row| {
            json!({
                "what": row.what,
                "unit": row.unit,
                "first_quarter": row.first,
                "last_quarter": row.last,
                "at_most": row.allowed,
                "fine": row.is_fine(),
            })
        })
        .collect();
    json!({
        "schema": 1,
        "minutes": args.time.as_secs_f64() / 60.0,
        "seed": args.seed,
        "calls": calls,
        "faults": faults,
        "samples": samples.iter().map(sample).collect::<Vec<_>>(),
        "books_compared": log.compared,
        "before": usage_json(&ends.before),
        "after": usage_json(&ends.after),
        "verdict": {
            "passed": verdict.passed(),
            "samples_compared": verdict.compared,
            "rows": rows,
            "heap_mib_per_hour": verdict.slopes.map(|slopes| slopes.heap),
            "rss_mib_per_hour": verdict.slopes.map(|slopes| slopes.rss),
            "findings": verdict.findings,
        },
    })
}

fn usage_json(usage: &Usage) -> Value {
    json!({ "rss_kib": usage.rss_kib, "heap_bytes": usage.heap, "fds": usage.fds, "tasks": usage.tasks })
}

fn sample(sample: &Sample) -> Value {
    let latency: Map<_, _> = Topology::ALL
        .into_iter()
        .map(|topology| {
            let times = sample.latency[topology as usize].map(|times| times.map(millis));
            (topology.as_str().to_owned(), json!(times))
        })
        .collect();
    json!({
        "at_seconds": sample.at.as_secs_f64(),
        "calm": sample.calm,
        "rss_kib": sample.usage.rss_kib,
        "heap_bytes": sample.usage.heap,
        "fds": sample.usage.fds,
        "tasks": sample.usage.tasks,
        "sockets": sample.sockets,
        "served": sample.served,
        "failed": sample.failed,
        "p50_p99_ms": latency,
    })
}
