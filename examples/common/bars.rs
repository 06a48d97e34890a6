//! A chart of bars: a row of panels for each client, a column for each thing that was counted in every
//! tenth of a second.
#![allow(dead_code, reason = "each example uses a part of it")]

use std::path::Path;
use std::time::Duration;

use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Failure;
use super::numbers::{float, thousands};

/// The width of a bar.
pub(crate) const BUCKET: Duration = Duration::from_millis(100);

const COLUMN: u32 = 550;
const ROW: u32 = 150;
const HEAD: u32 = 84;
const FOOT: u32 = 36;

pub(crate) const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
pub(crate) const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x7b);
pub(crate) const RULE: RGBColor = RGBColor(0xdd, 0xe0, 0xe4);
pub(crate) const REFUSED: RGBColor = RGBColor(0xc2, 0x41, 0x0c);
pub(crate) const SUCCEEDED: RGBColor = RGBColor(0x1d, 0x6f, 0xa5);
/// The ground of the full phase.
const SHADE: RGBColor = RGBColor(0xf3, 0xf0, 0xea);

type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

pub(crate) struct Bars<'a, Run> {
    pub(crate) title: String,
    pub(crate) foot: &'a str,
    pub(crate) columns: &'a [Column<Run>],
    /// How long each phase lasts; in the second of them the server is full.
    pub(crate) phases: [Duration; 3],
    pub(crate) name: fn(&Run) -> &'static str,
}

/// One column of panels, on one scale so that the clients can be compared.
pub(crate) struct Column<Run> {
    pub(crate) title: &'static str,
    pub(crate) colour: RGBColor,
    /// What was counted in each tenth of a second of each phase.
    pub(crate) counts: fn(&Run) -> &[Vec<u64>; 3],
    pub(crate) caption: fn(&Run) -> String,
}

impl<Run> Bars<'_, Run> {
    pub(crate) fn draw(&self, path: &Path, runs: &[Run]) -> Result<(), Failure> {
        let (rows, columns) = (u32::try_from(runs.len())?, u32::try_from(self.columns.len())?);
        let size = (COLUMN * columns, HEAD + rows * ROW + FOOT);
        let root = SVGBackend::new(path, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD);
        let (body, foot) = body.split_vertically(rows * ROW);
        head.draw(&Text::new(self.title.as_str(), (14, 14), text(19, INK)))?;
        foot.draw(&Text::new(self.foot, (14, 8), text(13, FAINT)))?;

        let areas = body.split_evenly((1, self.columns.len()));
        for ((column, area), nth) in self.columns.iter().zip(&areas).zip(0..columns) {
            let left = i32::try_from(nth * COLUMN)? + 14;
            head.draw(&Text::new(column.title, (left, 56), text(15, column.colour)))?;
            let top = runs.iter().flat_map(|run| (column.counts)(run).iter().flatten()).max();
            let top = float(top.copied().unwrap_or(0).max(10)) * 1.1;
            for (run, panel) in runs.iter().zip(area.split_evenly((runs.len(), 1))) {
                self.panel(&panel, column, run, top)?;
            }
        }
        root.present().map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok(())
    }

    fn panel(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        column: &Column<Run>,
        run: &Run,
        top: f64,
    ) -> Result<(), Failure> {
        let [healthy, full, last] = self.phases.map(|phase| phase.as_secs_f64());
        let freed = healthy + full;
        let mut panel: Panel<'_, '_> = ChartBuilder::on(area)
            .margin_left(8)
            .margin_right(20)
            .margin_top(26)
            .x_label_area_size(20)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..freed + last, 0.0..top)?;

        panel.draw_series([Rectangle::new([(healthy, 0.0), (freed, top)], SHADE.filled())])?;
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
        for (counts, mut left) in (column.counts)(run).iter().zip([0.0, healthy, freed]) {
            for &count in counts {
                if count > 0 {
                    // At least a hair's breadth: a single refused dial is not to be lost.
                    let height = float(count).max(top / 80.0);
                    let corners = [(left, 0.0), (left + width, height)];
                    panel.draw_series([Rectangle::new(corners, column.colour.filled())])?;
                }
                left += width;
            }
        }

        // Over the bars, which hide the shade.
        for x in [healthy, freed] {
            panel.draw_series([PathElement::new([(x, 0.0), (x, top)], FAINT)])?;
        }

        area.draw(&Text::new((self.name)(run), (66, 8), text(15, INK)))?;
        let right = i32::try_from(area.dim_in_pixel().0)? - 20;
        let caption = text(14, column.colour).pos(Pos::new(HPos::Right, VPos::Top));
        area.draw(&Text::new((column.caption)(run), (right, 8), caption))?;
        Ok(())
    }
}

pub(crate) fn text(size: i32, colour: RGBColor) -> TextStyle<'static> {
    let font = FontDesc::new(FontFamily::SansSerif, f64::from(size), FontStyle::Normal);
    TextStyle { font, color: colour.to_backend_color(), pos: Pos::new(HPos::Left, VPos::Top) }
}
