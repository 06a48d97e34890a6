//! The chart: what the process has, and what its callers see, over time; the faults are shaded.

use std::path::Path;
use std::time::Duration;

use plotters::prelude::*;

use crate::Failure;
use crate::args::Args;
use crate::common::bars::{FAINT, INK, RULE, text};
use crate::common::numbers::{float, millis, thousands};
use crate::report::Run;
use crate::samples::Sample;
use crate::tally::Topology;
use crate::verdict::{heap, rss};

const WIDTH: u32 = 1_280;
const HEAD: u32 = 48;
const PANEL: u32 = 170;
const FOOT: u32 = 30;
const SHADE: RGBColor = RGBColor(0xf1, 0xe4, 0xe0);
const BLUE: RGBColor = RGBColor(0x1d, 0x6f, 0xa5);
const RED: RGBColor = RGBColor(0xc0, 0x26, 0x4b);
const GREEN: RGBColor = RGBColor(0x2f, 0x7d, 0x4f);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// What a line shows of a sample.
type Of = Box<dyn Fn(&Sample) -> Option<f64>>;

struct Line {
    name: &'static str,
    colour: RGBColor,
    of: Of,
}

fn line(
    name: &'static str,
    colour: RGBColor,
    of: impl Fn(&Sample) -> Option<f64> + 'static,
) -> Line {
    Line { name, colour, of: Box::new(of) }
}

/// More points than there are pixels say no more.
const POINTS: usize = 1_200;

pub(crate) fn draw(path: &Path, args: &Args, run: &Run) -> Result<(), Failure> {
    let panels = panels();
    let height = HEAD + u32::try_from(panels.len())? * PANEL + FOOT;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let end = run.samples.last().map_or(args.time, |sample| sample.at);
    let title = format!(
        "soak: {:.0} minutes, {} faults (shaded, until all were served again), seed {}",
        end.as_secs_f64() / 60.0,
        run.log.faults.len(),
        args.seed
    );
    root.draw(&Text::new(title, (14, 14), text(18, INK)))?;
    for (nth, (title, lines)) in panels.iter().enumerate() {
        let area = root.clone().shrink((0, HEAD + u32::try_from(nth)? * PANEL), (WIDTH, PANEL));
        panel(&area, title, lines, run, end)?;
    }
    let foot = i32::try_from(height - FOOT)? + 6;
    root.draw(&Text::new("seconds from the start", (14, foot), text(13, FAINT)))?;
    root.present().map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(())
}

fn panels() -> Vec<(&'static str, Vec<Line>)> {
    let p99 = |topology: Topology, colour| {
        line(topology.as_str(), colour, move |s| {
            s.latency[topology as usize].map(|[_, p99]| millis(p99))
        })
    };
    vec![
        (
            "memory, MiB",
            vec![
                line("of the system (RSS)", BLUE, |s| Some(rss(s))),
                line("allocated", GREEN, |s| Some(heap(s))),
            ],
        ),
        (
            "open",
            vec![
                line("tasks", GREEN, |s| u32::try_from(s.usage.tasks).ok().map(f64::from)),
                line("file descriptors", BLUE, |s| u32::try_from(s.usage.fds).ok().map(f64::from)),
                line("sockets of the pools", RED, |s| u32::try_from(s.sockets).ok().map(f64::from)),
            ],
        ),
        (
            "p99 of a GET in calm times, ms",
            vec![
                p99(Topology::Single, BLUE),
                p99(Topology::Sentinel, GREEN),
                p99(Topology::Cluster, RED),
            ],
        ),
        (
            "calls in each sample",
            vec![
                line("served", GREEN, |s| Some(float(s.served))),
                line("failed", RED, |s| Some(float(s.failed))),
            ],
        ),
    ]
}

fn panel(
    area: &Area<'_>,
    title: &str,
    lines: &[Line],
    run: &Run,
    end: Duration,
) -> Result<(), Failure> {
    let only_calm = title.contains("calm");
    let step = run.samples.len().div_ceil(POINTS).max(1);
    let points = |line: &Line| -> Vec<(f64, f64)> {
        let shown = run.samples.iter().filter(|sample| sample.calm || !only_calm).step_by(step);
        shown.filter_map(|s| Some((s.at.as_secs_f64(), (line.of)(s)?))).collect()
    };
    let series: Vec<_> = lines.iter().map(|line| (line, points(line))).collect();
    let values = series.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
    let top = values.fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .margin_left(8)
        .margin_right(20)
        .margin_top(26)
        .x_label_area_size(20)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end.as_secs_f64().max(1.0), 0.0..top)?;
    for fault in &run.log.faults {
        let (from, to) = (fault.from.as_secs_f64(), fault.recovered.as_secs_f64());
        chart.draw_series([Rectangle::new([(from, 0.0), (to, top)], SHADE.filled())])?;
    }
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RULE)
        .axis_style(RULE)
        .x_labels(12)
        .y_labels(4)
        .x_label_formatter(&|x| thousands(format!("{x:.0}")))
        .y_label_formatter(&|y| if top < 10.0 { format!("{y:.1}") } else { format!("{y:.0}") })
        .label_style(text(12, FAINT))
        .draw()?;
    area.draw(&Text::new(title.to_owned(), (66, 8), text(14, INK)))?;
    let mut left = 340;
    for (line, points) in series {
        area.draw(&Text::new(line.name, (left, 8), text(14, line.colour)))?;
        left += 180;
        chart.draw_series(LineSeries::new(points, line.colour.stroke_width(1)))?;
    }
    Ok(())
}
