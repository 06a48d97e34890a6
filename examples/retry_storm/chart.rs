//! The chart: for each client, refused dials and successful requests over time.

use std::path::Path;

use crate::Failure;
use crate::args::Args;
use crate::common::bars::{BUCKET, Bars, Column, REFUSED, SUCCEEDED};
use crate::common::numbers::thousands;
use crate::run::{PerPhase, Phase, Run};

pub(crate) fn draw(path: &Path, args: &Args, runs: &[Run]) -> Result<(), Failure> {
    let columns = [
        Column {
            title: "dials refused per 100 ms",
            colour: REFUSED,
            bars: &|run: &Run| bars(args, &run.refused),
            caption: &|run| format!("{} refused", thousands(run.dials_refused)),
        },
        Column {
            title: "requests that succeeded per 100 ms",
            colour: SUCCEEDED,
            bars: &|run: &Run| bars(args, &run.succeeded),
            caption: &|run| {
                let (ok, failed) =
                    (run.ok.0.iter().sum::<usize>(), run.failed.0.iter().sum::<u64>());
                format!("{} succeeded, {} failed", thousands(ok), thousands(failed))
            },
        },
    ];
    let chart = Bars {
        title: format!("{} tasks, {}, {} start", args.tasks, args.pools(), args.start.as_str()),
        foot: "seconds. Shaded: leaked connections hold every slot. The application restarts just before.",
        columns: &columns,
        end: args.length().as_secs_f64(),
        full: args.offset(Phase::Full).as_secs_f64()..args.offset(Phase::Recovered).as_secs_f64(),
        name: |run| run.name,
    };
    chart.draw(path, runs)
}

/// Where each bar begins, counted from the start of the first phase.
fn bars(args: &Args, counts: &PerPhase<Vec<u64>>) -> Vec<(f64, u64)> {
    let of_phase = |phase| {
        let start = args.offset(phase).as_secs_f64();
        (0_u32..)
            .zip(&counts[phase])
            .map(move |(nth, count)| (start + f64::from(nth) * BUCKET.as_secs_f64(), *count))
    };
    Phase::ALL.into_iter().flat_map(of_phase).collect()
}
