//! The chart: for each client, refused dials and successful requests over time.

use std::path::Path;

use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Failure;
use crate::args::Args;
use crate::report::thousands;
use crate::run::{BUCKET, PerPhase, Phase, Run};

const WIDTH: u32 = 1_100;
const ROW: u32 = 150;
const HEAD: u32 = 84;
const FOOT: u32 = 36;

const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x7b);
const RULE: RGBColor = RGBColor(0xdd, 0xe0, 0xe4);
/// The ground of the full phase.
const SHADE: RGBColor = RGBColor(0xf3, 0xf0, 0xea);
const REFUSED: RGBColor = RGBColor(0xc2, 0x41, 0x0c);
const SUCCEEDED: RGBColor = RGBColor(0x1d, 0x6f, 0xa5);

type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// One column of panels, on one scale so that the clients can be compared.
struct Column {
    title: &'static str,
    colour: RGBColor,
    values: fn(&Run) -> &PerPhase<Vec<u64>>,
    caption: fn(&Run) -> String,
}

const COLUMNS: [Column; 2] = [
    Column {
        title: "dials refused per 100 ms",
        colour: REFUSED,
        values: |run| &run.refused,
        caption: |run| format!("{} refused", thousands(run.dials_refused)),
    },
    Column {
        title: "requests that succeeded per 100 ms",
        colour: SUCCEEDED,
        values: |run| &run.succeeded,
        caption: |run| {
            let (ok, failed) = (run.ok.0.iter().sum::<usize>(), run.failed.0.iter().sum::<u64>());
            format!("{} succeeded, {} failed", thousands(ok), thousands(failed))
        },
    },
];

pub(crate) fn draw(path: &Path, args: &Args, runs: &[Run]) -> Result<(), Failure> {
    let rows = u32::try_from(runs.len())?;
    let root = SVGBackend::new(path, (WIDTH, HEAD + rows * ROW + FOOT)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(HEAD);
    let (body, foot) = body.split_vertically(rows * ROW);
    head.draw(&Text::new(
        format!("{} tasks, {}, {} start", args.tasks, args.pools(), args.start.as_str()),
        (14, 14),
        text(19, INK),
    ))?;
    foot.draw(&Text::new(
        "seconds. Shaded: leaked connections hold every slot. The application restarts just before.",
        (14, 8),
        text(13, FAINT),
    ))?;

    let halves = body.split_evenly((1, 2));
    for ((column, area), x) in COLUMNS.iter().zip(&halves).zip([0, WIDTH / 2]) {
        head.draw(&Text::new(column.title, (i32::try_from(x)? + 14, 56), text(15, column.colour)))?;
        let top =
            runs.iter().flat_map(|run| (column.values)(run).0.iter().flatten()).max().copied();
        let top = float(top.unwrap_or(0).max(10)) * 1.1;
        for (run, panel) in runs.iter().zip(area.split_evenly((runs.len(), 1))) {
            draw_panel(&panel, args, column, run, top)?;
        }
    }
    root.present().map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(())
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    args: &Args,
    column: &Column,
    run: &Run,
    top: f64,
) -> Result<(), Failure> {
    let end = args.length().as_secs_f64();
    let mut panel: Panel<'_, '_> = ChartBuilder::on(area)
        .margin_left(8)
        .margin_right(20)
        .margin_top(26)
        .x_label_area_size(20)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, 0.0..top)?;

    let full = args.offset(Phase::Full).as_secs_f64();
    let freed = args.offset(Phase::Recovered).as_secs_f64();
    panel.draw_series([Rectangle::new([(full, 0.0), (freed, top)], SHADE.filled())])?;
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

    let width = BUCKET.as_secs_f64();
    for phase in Phase::ALL {
        let mut left = args.offset(phase).as_secs_f64();
        for &count in &(column.values)(run)[phase] {
            if count > 0 {
                // At least a hair's breadth: a single refused dial is not to be lost.
                let height = float(count).max(top / 80.0);
                panel.draw_series([Rectangle::new(
                    [(left, 0.0), (left + width, height)],
                    column.colour.filled(),
                )])?;
            }
            left += width;
        }
    }

    // Over the bars, which hide the shade.
    for x in [full, freed] {
        panel.draw_series([PathElement::new([(x, 0.0), (x, top)], FAINT)])?;
    }

    area.draw(&Text::new(run.name, (66, 8), text(15, INK)))?;
    let right = i32::try_from(area.dim_in_pixel().0)? - 20;
    let caption = text(14, column.colour).pos(Pos::new(HPos::Right, VPos::Top));
    area.draw(&Text::new((column.caption)(run), (right, 8), caption))?;
    Ok(())
}

fn text(size: i32, colour: RGBColor) -> TextStyle<'static> {
    let font = FontDesc::new(FontFamily::SansSerif, f64::from(size), FontStyle::Normal);
    TextStyle { font, color: colour.to_backend_color(), pos: Pos::new(HPos::Left, VPos::Top) }
}

fn float(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
