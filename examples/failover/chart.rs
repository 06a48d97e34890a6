//! The chart: for each client and failover, what became of its writes, and its dials, over time.

use std::ops::Range;
use std::path::Path;

use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Failure;
use crate::args::Args;
use crate::common::bars::{FAINT, INK, RULE, text};
use crate::common::numbers::{float, thousands};
use crate::outcome::{BUCKET, Bar, Outcome, Run};
use crate::run::{Scenario, Times};

const WIDTH: u32 = 1_280;
const LEFT: u32 = 60;
const GAP: u32 = 26;
/// Of a client: its name, its writes, its dials.
const NAME: u32 = 30;
const WRITES: u32 = 130;
const DIALS: u32 = 76;
const HEAD: u32 = 88;
const FOOT: u32 = 36;

const KEPT: RGBColor = RGBColor(0x1d, 0x6f, 0xa5);
const LOST: RGBColor = RGBColor(0xc0, 0x26, 0x4b);
const FAILED: RGBColor = RGBColor(0x8a, 0x92, 0x9b);
const DIALED: RGBColor = RGBColor(0xc2, 0x41, 0x0c);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The parts of a bar: each its colour, and from where to where it goes.
type Parts = Vec<(RGBColor, Range<f64>)>;

/// One failover, for all clients: where it stands, and its seconds from the sentinels' word.
struct Column {
    scenario: Scenario,
    pixels: Range<u32>,
    seconds: Range<f64>,
}

/// What the panels of a row have in common: how high each part of a bar is, and the scale.
struct Row {
    height: u32,
    seconds: bool,
    scale: Range<f64>,
    parts: fn(&Bar) -> Parts,
}

pub(crate) fn draw(path: &Path, args: &Args, runs: &[Run]) -> Result<(), Failure> {
    let of_client = NAME + WRITES + DIALS;
    let height = HEAD + u32::try_from(runs.len())? * of_client + FOOT;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let columns = columns(runs);
    head(&root, args, &columns)?;
    root.draw(&Text::new(
        "seconds from the sentinels' word. Lines: the failover was asked for or the signal sent, the \
         word, SIGCONT.",
        (14, i32::try_from(height - FOOT)? + 10),
        text(13, FAINT),
    ))?;

    let most = |of: fn(&Bar) -> u64| {
        let bars = runs.iter().flat_map(|run| &run.scenarios).flat_map(|o| o.bars.values());
        float(bars.map(of).max().unwrap_or(0).max(10)) * 1.1
    };
    let (up, down) = (most(|bar| bar.kept + bar.lost), most(|bar| bar.failed));
    let rows = [
        Row { height: WRITES, seconds: false, scale: -down..up, parts: writes },
        Row { height: DIALS, seconds: true, scale: 0.0..most(|bar| bar.dials), parts: dials },
    ];
    for (nth, run) in runs.iter().enumerate() {
        let mut top = HEAD + u32::try_from(nth)? * of_client;
        root.draw(&Text::new(run.name, (14, i32::try_from(top)? + 8), text(15, INK)))?;
        top += NAME;
        for row in &rows {
            for (column, outcome) in columns.iter().zip(&run.scenarios) {
                let area = root.clone().shrink(
                    (column.pixels.start, top),
                    (column.pixels.end - column.pixels.start, row.height),
                );
                panel(&area, column, row, outcome)?;
            }
            top += row.height;
        }
        counts(&root, &columns, run, HEAD + u32::try_from(nth)? * of_client)?;
    }
    root.present().map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(())
}

/// Side by side, a second as wide in each.
fn columns(runs: &[Run]) -> Vec<Column> {
    let mut columns: Vec<Column> = Scenario::ALL
        .into_iter()
        .map(|scenario| {
            let times = || {
                let all = runs.iter().flat_map(|run| &run.scenarios).map(|outcome| &outcome.times);
                all.filter(|times| times.scenario == scenario)
            };
            let before = times().map(|times| seconds(times, times.began)).fold(-0.5, f64::min);
            let after = times().map(|times| seconds(times, times.ended)).fold(0.5, f64::max);
            Column { scenario, pixels: 0..0, seconds: before..after }
        })
        .collect();
    let count = u32::try_from(columns.len()).unwrap_or(u32::MAX);
    let room = f64::from(WIDTH - LEFT - count * GAP);
    let length: f64 = columns.iter().map(|column| column.seconds.end - column.seconds.start).sum();
    let mut left = LEFT;
    for column in &mut columns {
        let share = (column.seconds.end - column.seconds.start) / length;
        // Whole pixels, of a number between 0 and `WIDTH`.
        let width = (0..WIDTH).rev().find(|w| f64::from(*w) <= room * share).unwrap_or(1);
        column.pixels = left..left + width;
        left += width + GAP;
    }
    columns
}

fn head(root: &Area<'_>, args: &Args, columns: &[Column]) -> Result<(), Failure> {
    let what = format!("{} pools, {} tasks; in each tenth of a second:", args.pools, args.tasks);
    root.draw(&Text::new(what, (14, 14), text(17, INK)))?;
    let legend = [
        (400, "writes acknowledged and kept", KEPT),
        (640, "acknowledged and lost", LOST),
        (820, "failed, downwards", FAILED),
        (960, "dials to data servers", DIALED),
    ];
    for (left, what, colour) in legend {
        root.draw(&Text::new(what, (left, 16), text(15, colour)))?;
    }
    for column in columns {
        let left = i32::try_from(column.pixels.start)?;
        root.draw(&Text::new(column.scenario.title(), (left, 56), text(16, INK)))?;
    }
    Ok(())
}

/// The numbers of a client's failovers, over its panels.
fn counts(root: &Area<'_>, columns: &[Column], run: &Run, top: u32) -> Result<(), Failure> {
    for (column, outcome) in columns.iter().zip(&run.scenarios) {
        let caption = format!(
            "{} failed, {} lost, {} dials",
            thousands(outcome.failed),
            thousands(outcome.lost_before + outcome.lost),
            thousands(outcome.dials())
        );
        let at = (i32::try_from(column.pixels.end)?, i32::try_from(top)? + 10);
        let style = text(13, FAINT).pos(Pos::new(HPos::Right, VPos::Top));
        root.draw(&Text::new(caption, at, style))?;
    }
    Ok(())
}

fn writes(bar: &Bar) -> Parts {
    let (kept, lost) = (float(bar.kept), float(bar.lost));
    vec![(KEPT, 0.0..kept), (LOST, kept..kept + lost), (FAILED, -float(bar.failed)..0.0)]
}

fn dials(bar: &Bar) -> Parts {
    vec![(DIALED, 0.0..float(bar.dials))]
}

fn panel(area: &Area<'_>, column: &Column, row: &Row, outcome: &Outcome) -> Result<(), Failure> {
    let first = column.scenario == Scenario::ALL[0];
    let mut builder = ChartBuilder::on(area);
    builder.margin_top(4).x_label_area_size(if row.seconds { 20 } else { 0 });
    let mut panel: Panel<'_, '_> =
        builder.build_cartesian_2d(column.seconds.clone(), row.scale.clone())?;
    panel
        .configure_mesh()
        .disable_x_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RULE)
        .axis_style(RULE)
        .x_labels(8)
        .y_labels(4)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(text(12, FAINT))
        .draw()?;

    let (width, least) = (BUCKET.as_secs_f64(), (row.scale.end - row.scale.start) / 80.0);
    for (nth, bar) in &outcome.bars {
        let left = f64::from(i32::try_from(*nth)?) * width;
        for (colour, mut part) in (row.parts)(bar) {
            if part.start < part.end {
                // At least a hair's breadth: a single dial is not to be lost.
                if part.end > 0.0 {
                    part.end = part.end.max(part.start + least);
                } else {
                    part.start = part.start.min(-least);
                }
                let corners = [(left, part.start), (left + width, part.end)];
                panel.draw_series([Rectangle::new(corners, colour.filled())])?;
            }
        }
    }
    let times = &outcome.times;
    for (at, colour) in [(Some(times.struck), FAINT), (Some(times.word), INK), (times.woke, FAINT)]
    {
        if let Some(x) = at.map(|at| seconds(times, at)) {
            panel.draw_series([PathElement::new(
                [(x, row.scale.start), (x, row.scale.end)],
                colour,
            )])?;
        }
    }
    if first {
        let style = text(12, FAINT).pos(Pos::new(HPos::Right, VPos::Top));
        let highest = thousands(format!("{:.0}", row.scale.end / 1.1));
        area.draw(&Text::new(highest, (-6, 4), style))?;
    }
    Ok(())
}

/// From the sentinels' word.
fn seconds(times: &Times, at: std::time::Duration) -> f64 {
    at.as_secs_f64() - times.word.as_secs_f64()
}
