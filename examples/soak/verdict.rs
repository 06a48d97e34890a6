//! Whether something grew: calm times of the first quarter against those of the last.

use std::time::Duration;

use crate::args::Args;
use crate::common::numbers::{float, millis};
use crate::operator::Log;
use crate::samples::{Sample, Usage};
use crate::tally::{Tally, Topology};

/// Fewer say nothing.
const SAMPLES_MIN: usize = 3;

/// One thing that was compared.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) first: f64,
    pub(crate) last: f64,
    /// The most that the last may be.
    pub(crate) allowed: f64,
    pub(crate) why: &'static str,
}

impl Row {
    pub(crate) fn is_fine(&self) -> bool {
        self.last <= self.allowed
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Empty where there were too few calm times.
    pub(crate) rows: Vec<Row>,
    /// Calm samples of the first quarter and of the last.
    pub(crate) compared: [usize; 2],
    /// By straight lines through all calm samples after the warm-up, MiB an hour.
    pub(crate) slopes: Option<Slopes>,
    pub(crate) findings: Vec<String>,
}

impl Verdict {
    pub(crate) fn passed(&self) -> bool {
        !self.rows.is_empty() && self.findings.is_empty() && self.rows.iter().all(Row::is_fine)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Slopes {
    pub(crate) heap: f64,
    pub(crate) rss: f64,
}

/// What is left when all pools are closed and dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) before: Usage,
    pub(crate) after: Usage,
}

pub(crate) fn of(
    args: &Args,
    samples: &[Sample],
    tally: &Tally,
    log: &Log,
    ends: Ends,
    mut findings: Vec<String>,
) -> Verdict {
    findings.splice(0..0, log.findings.iter().cloned());
    for (topology, kind, count) in tally.all().filter(|(_, _, count)| count.hung() > 0) {
        let (hung, name) = (count.hung(), topology.as_str());
        findings.push(format!("{hung} calls of {name} {} did not end", kind.as_str()));
    }
    for (what, before, after) in [
        ("file descriptors", ends.before.fds, ends.after.fds),
        ("tasks", ends.before.tasks, ends.after.tasks),
    ] {
        if after != before {
            findings.push(format!(
                "{after} {what} when all pools are closed, and {before} before they were opened"
            ));
        }
    }

    let end = samples.last().map_or(Duration::ZERO, |sample| sample.at);
    let first_calm = samples.iter().find(|sample| sample.calm).map_or(end, |sample| sample.at);
    let warm = args.warm_up().max(first_calm).min(end);
    let quarter = (end - warm) / 4;
    let calm = |from: Duration, to: Duration| -> Vec<&Sample> {
        samples.iter().filter(|s| s.calm && s.at >= from && s.at <= to).collect()
    };
    let (first, last) = (calm(warm, warm + quarter), calm(end - quarter, end));
    let compared = [first.len(), last.len()];
    if compared.into_iter().any(|count| count < SAMPLES_MIN) {
        findings.push(format!("too few calm samples, {compared:?}: give it more --minutes"));
        return Verdict { rows: Vec::new(), compared, slopes: None, findings };
    }
    let calm = calm(warm, end);
    let slopes = slope_per_hour(&calm, &heap).zip(slope_per_hour(&calm, &rss));
    let slopes = slopes.map(|(heap, rss)| Slopes { heap, rss });
    Verdict { rows: rows(&first, &last), compared, slopes, findings }
}

fn rows(first: &[&Sample], last: &[&Sample]) -> Vec<Row> {
    let row = |what: &str, unit, of: &dyn Fn(&Sample) -> f64, more: f64, why| {
        let (first, last) = (mean(first, of), mean(last, of));
        Row { what: what.to_owned(), unit, first, last, allowed: first + more, why }
    };
    let mut rows = vec![
        row("heap", "MiB", &heap, 1.0, "how many commands are on their way varies"),
        row("memory", "MiB", &rss, 6.0, "the allocator keeps what a busier moment needed"),
        row("file descriptors", "", &|s| count(s.usage.fds), 4.0, "how many are idle varies"),
        row(
            "file descriptors beyond the pools' books",
            "",
            &|s| count(s.usage.fds) - count(s.sockets),
            2.0,
            "pools that come and go have some for a moment",
        ),
        row("tasks", "", &|s| count(s.usage.tasks), 6.0, "one a connection, and those of calls"),
    ];
    for topology in Topology::ALL {
        let p99 = |samples: &[&Sample]| {
            let of = |s: &&Sample| s.latency[topology as usize].map(|[_, p99]| millis(p99));
            median(samples.iter().filter_map(of).collect())
        };
        let (first, last) = (p99(first), p99(last));
        rows.push(Row {
            what: format!("p99 of a GET, {}", topology.as_str()),
            unit: "ms",
            first,
            last,
            allowed: 2.0 * first + 3.0,
            why: "the machine has other work; median of the samples",
        });
    }
    rows
}

/// MiB that are allocated and not yet freed.
pub(crate) fn heap(sample: &Sample) -> f64 {
    count(sample.usage.heap) / 1_024.0 / 1_024.0
}

/// MiB that the process has of the system.
pub(crate) fn rss(sample: &Sample) -> f64 {
    float(sample.usage.rss_kib) / 1_024.0
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

fn mean(samples: &[&Sample], of: &dyn Fn(&Sample) -> f64) -> f64 {
    samples.iter().map(|sample| of(sample)).sum::<f64>() / count(samples.len())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Least squares.
fn slope_per_hour(samples: &[&Sample], of: &dyn Fn(&Sample) -> f64) -> Option<f64> {
    let hours = |sample: &Sample| sample.at.as_secs_f64() / 3_600.0;
    let (x, y) = (mean(samples, &hours), mean(samples, of));
    let (mut above, mut below) = (0.0, 0.0);
    for sample in samples {
        above += (hours(sample) - x) * (of(sample) - y);
        below += (hours(sample) - x).powi(2);
    }
    (below > 0.0).then_some(above / below)
}
