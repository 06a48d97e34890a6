//! The chart: for each client, refused dials and successful requests over time.

use std::path::Path;

use crate::Failure;
use crate::args::{Args, POOL_SIZE};
use crate::common::bars::{Bars, Column, REFUSED, SUCCEEDED};
use crate::common::numbers::thousands;
use crate::run::{Outcome, Run};

pub(crate) fn draw(path: &Path, args: &Args, runs: &[Run]) -> Result<(), Failure> {
    let columns = [
        Column {
            title: "dials refused per 100 ms",
            colour: REFUSED,
            counts: |run: &Run| &run.refused.0,
            caption: |run| {
                let (refused, sockets) = (thousands(run.dials_refused()), run.sockets());
                format!("{refused} refused, {sockets} sockets")
            },
        },
        Column {
            title: "requests for the other nodes' keys that succeeded per 100 ms",
            colour: SUCCEEDED,
            counts: |run: &Run| &run.others.succeeded.0,
            caption: |run| caption(&run.others),
        },
        Column {
            title: "requests for the full node's keys that succeeded per 100 ms",
            colour: SUCCEEDED,
            counts: |run: &Run| &run.full_node.succeeded.0,
            caption: |run| caption(&run.full_node),
        },
    ];
    let chart = Bars {
        title: format!(
            "three masters, one of them full; {} tasks, pools of {POOL_SIZE}",
            args.tasks
        ),
        foot: "seconds. Shaded: one master has no slot left, and has cut the client's connections.",
        columns: &columns,
        phases: args.phases.0,
        name: |run| run.name,
    };
    chart.draw(path, runs)
}

fn caption(outcome: &Outcome) -> String {
    let failed = thousands(outcome.all_failed());
    format!("{failed} failed, {} of them hung", thousands(outcome.hung.0.iter().sum::<u64>()))
}
