//! The chart: for each policy, slots in use and connections refused over time.

use std::path::Path;

use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Failure;
use crate::common::bars::{FAINT, INK, REFUSED, RULE, text};
use crate::common::numbers::{float, thousands};
use crate::plan::{Plan, STEPS};
use crate::run::{Run, TICK};

const WIDTH: u32 = 1_100;
const ROW: u32 = 150;
const HEAD: u32 = 84;
const FOOT: u32 = 36;

const USED: RGBColor = RGBColor(0x1d, 0x6f, 0xa5);

type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// One column of panels, on one scale so that the policies can be compared.
struct Column {
    title: &'static str,
    colour: RGBColor,
    /// Seconds, and the value then.
    values: fn(&Run) -> Vec<(f64, f64)>,
    caption: fn(&Run) -> String,
}

const COLUMNS: [Column; 2] = [
    Column {
        title: "slots in use, and maxclients",
        colour: USED,
        values: |run| run.samples.iter().map(|s| (s.at.as_secs_f64(), float(s.used))).collect(),
        caption: |run| {
            let fair = run
                .seconds_to_fair()
                .map_or_else(|| "not fair".to_owned(), |s| format!("fair in {s:.1} s"));
            format!("{:.1} % used, Jain {:.3}, {fair}", 100.0 * run.utilisation_end, run.jain_end)
        },
    },
    Column {
        title: "connections refused per 100 ms",
        colour: REFUSED,
        values: |run| {
            let before = std::iter::once(0).chain(run.samples.iter().map(|s| s.rejected));
            let refused = run.samples.iter().zip(before);
            refused.map(|(s, before)| (s.at.as_secs_f64(), float(s.rejected - before))).collect()
        },
        caption: |run| {
            format!(
                "{} refused; {} requests, {} failed",
                thousands(run.rejected),
                thousands(run.ok),
                thousands(run.failed)
            )
        },
    },
];

pub(crate) fn draw(path: &Path, plan: &Plan, runs: &[Run]) -> Result<(), Failure> {
    let rows = u32::try_from(runs.len())?;
    let root = SVGBackend::new(path, (WIDTH, HEAD + rows * ROW + FOOT)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(HEAD);
    let (body, foot) = body.split_vertically(rows * ROW);
    head.draw(&Text::new(
        format!(
            "{} to {} pools of {} against maxclients {}",
            STEPS[0],
            plan.apps(),
            plan.max_connections,
            thousands(plan.maxclients)
        ),
        (14, 14),
        text(19, INK),
    ))?;
    let steps = STEPS.map(|apps| apps.to_string()).join(", ");
    foot.draw(&Text::new(
        format!("seconds. Upright lines: {steps} pools from then on."),
        (14, 8),
        text(13, FAINT),
    ))?;

    let halves = body.split_evenly((1, 2));
    for ((column, area), x) in COLUMNS.iter().zip(&halves).zip([0, WIDTH / 2]) {
        head.draw(&Text::new(column.title, (i32::try_from(x)? + 14, 56), text(15, column.colour)))?;
        let values = runs.iter().flat_map(column.values).map(|(_, value)| value);
        let top = 1.1 * values.fold(10.0, f64::max);
        for (run, panel) in runs.iter().zip(area.split_evenly((runs.len(), 1))) {
            draw_panel(&panel, plan, column, run, top)?;
        }
    }
    root.present().map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(())
}

fn draw_panel(
    area: &Area<'_>,
    plan: &Plan,
    column: &Column,
    run: &Run,
    top: f64,
) -> Result<(), Failure> {
    let end = plan.length().as_secs_f64();
    let mut panel: Panel<'_, '_> = ChartBuilder::on(area)
        .margin_left(8)
        .margin_right(20)
        .margin_top(26)
        .x_label_area_size(20)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    panel
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RULE)
        .axis_style(RULE)
        .x_labels(9)
        .y_labels(4)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| thousands(format!("{y:.0}")))
        .label_style(text(12, FAINT))
        .draw()?;
    for step in 1..STEPS.len() {
        let x = plan.offset(step).as_secs_f64();
        panel.draw_series([PathElement::new([(x, 0.0), (x, top)], FAINT)])?;
    }

    let values = (column.values)(run);
    if column.colour == USED {
        let maxclients = f64::from(plan.maxclients);
        panel.draw_series([PathElement::new([(0.0, maxclients), (end, maxclients)], REFUSED)])?;
        panel.draw_series(LineSeries::new(values, column.colour.stroke_width(2)))?;
    } else {
        for (at, count) in values.into_iter().filter(|(_, count)| *count > 0.0) {
            // At least a hair's breadth: a single refusal is not to be lost.
            let height = count.max(top / 80.0);
            let left = (at - TICK.as_secs_f64()).max(0.0);
            panel.draw_series([Rectangle::new([(left, 0.0), (at, height)], REFUSED.filled())])?;
        }
    }

    area.draw(&Text::new(run.policy.as_str(), (66, 8), text(15, INK)))?;
    let right = i32::try_from(area.dim_in_pixel().0)? - 20;
    let caption = text(14, column.colour).pos(Pos::new(HPos::Right, VPos::Top));
    area.draw(&Text::new((column.caption)(run), (right, 8), caption))?;
    Ok(())
}
