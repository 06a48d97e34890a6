//! The chart: for each client, refused dials and successful requests over time.

use std::path::Path;

use crate::Failure;
use crate::args::Args;
use crate::common::bars::{Bars, Column, REFUSED, SUCCEEDED};
use crate::common::numbers::{pretty, thousands};
use crate::run::{Others, Phase, Run};

pub(crate) fn draw(path: &Path, args: &Args, runs: &[Run]) -> Result<(), Failure> {
    let columns = [
        Column {
            title: "dials refused per 100 ms",
            colour: REFUSED,
            counts: |run: &Run| &run.refused.0,
            caption: |run| {
                let Others { bystander, cpu_percent } = run.others[Phase::Full];
                let p99 = bystander.map_or_else(|| "-".to_owned(), |took| pretty(took.p99));
                let refused = thousands(run.dials_refused);
                format!(
                    "{refused} refused; meanwhile a bystander's p99 {p99}, server {cpu_percent:.0}%"
                )
            },
        },
        Column {
            title: "requests that succeeded per 100 ms",
            colour: SUCCEEDED,
            counts: |run: &Run| &run.succeeded.0,
            caption: |run| {
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
        phases: args.phases.0,
        name: |run| run.name,
    };
    chart.draw(path, runs)
}
