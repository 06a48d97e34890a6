//! Lines of styled text that fit a width and cannot hurt a terminal.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Color, Style as Ansi};
use redis_guard::internal::words::{self, count};
use unicode_width::UnicodeWidthChar;

/// What a piece of text means; what it looks like is decided here and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Dim,
    Bold,
    Good,
    Warn,
    Bad,
    Accent,
    Second,
    GoodBadge,
    WarnBadge,
    BadBadge,
}

impl Style {
    fn ansi(self) -> Ansi {
        let fg = |color: AnsiColor| Ansi::new().fg_color(Some(Color::Ansi(color)));
        let badge = |color| fg(AnsiColor::Black).bg_color(Some(Color::Ansi(color))).bold();
        match self {
            Self::Plain => Ansi::new(),
            Self::Dim => fg(AnsiColor::BrightBlack),
            Self::Bold => Ansi::new().bold(),
            Self::Good => fg(AnsiColor::Green),
            Self::Warn => fg(AnsiColor::Yellow),
            Self::Bad => fg(AnsiColor::Red).bold(),
            Self::Accent => fg(AnsiColor::Cyan),
            Self::Second => fg(AnsiColor::Blue),
            Self::GoodBadge => badge(AnsiColor::Green),
            Self::WarnBadge => badge(AnsiColor::Yellow),
            Self::BadBadge => {
                fg(AnsiColor::BrightWhite).bg_color(Some(Color::Ansi(AnsiColor::Red))).bold()
            }
        }
    }
}

/// One line, made of styled pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pieces: Vec<(Style, String)>,
    width: usize,
}

impl Line {
    pub(super) fn of(style: Style, text: &str) -> Self {
        Self::default().with(style, text)
    }

    /// Appends text; see [`clean`] for what becomes of it.
    pub(super) fn with(mut self, style: Style, text: &str) -> Self {
        self.push(style, text);
        self
    }

    pub(super) fn push(&mut self, style: Style, text: &str) {
        let text = clean(text);
        self.width += width(&text);
        self.pieces.push((style, text));
    }

    /// Spaces up to this column, at least one where the line is past it.
    pub(super) fn pad(mut self, column: usize) -> Self {
        let spaces = column.saturating_sub(self.width).max(usize::from(self.width > 0));
        self.push(Style::Plain, &" ".repeat(spaces));
        self
    }

    /// Text whose end is at this column.
    pub(super) fn right(self, column: usize, style: Style, text: &str) -> Self {
        self.pad(column.saturating_sub(width(text))).with(style, text)
    }

    pub(super) fn append(mut self, other: Self) -> Self {
        self.width += other.width;
        self.pieces.extend(other.pieces);
        self
    }

    /// The other line, from this column on; this one is cut off before it.
    pub(super) fn beside(self, column: usize, other: Self) -> Self {
        self.cut(column.saturating_sub(2)).pad(column).append(other)
    }

    /// At most so wide; an ellipsis shows that something is missing.
    pub(super) fn cut(self, most: usize) -> Self {
        if self.width <= most {
            return self;
        }
        let mut line = Self::default();
        for (style, text) in self.pieces {
            let room = most.saturating_sub(1).saturating_sub(line.width);
            if width(&text) <= room {
                line.width += width(&text);
                line.pieces.push((style, text));
                continue;
            }
            let end = if most > 0 { "…" } else { "" };
            line.push(style, &(prefix(&text, room) + end));
            break;
        }
        line
    }

    /// The line as bytes for a terminal, or without any escape where `colour` is off.
    pub(super) fn render(self, most: usize, colour: bool) -> String {
        let mut text = String::new();
        for (style, piece) in self.cut(most).pieces {
            let ansi = if colour { style.ansi() } else { Ansi::new() };
            let _ = write!(text, "{ansi}{piece}{ansi:#}");
        }
        if colour { text } else { text.trim_end().to_owned() }
    }
}

/// Text that is cut to a width, with an ellipsis.
pub(super) fn fit(text: &str, most: usize) -> String {
    let text = clean(text);
    match (width(&text) <= most, most) {
        (true, _) => text,
        (false, 0) => String::new(),
        (false, _) => prefix(&text, most - 1) + "…",
    }
}

/// A line that may have words of the server's in it; see [`words::is_harmless`].
pub(super) fn clean(text: &str) -> String {
    const OURS: &str = "–·…→↑↓█▓▒░▁▂▃▄▅▆▇━─";
    let harmless = |c: char| words::is_harmless(c) || OURS.contains(c);
    text.chars().map(|c| if harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// Columns of a display. Never less than there are: a mark that takes none counts as one.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(c: char) -> usize {
    c.width().unwrap_or(1).max(1)
}

fn prefix(text: &str, most: usize) -> String {
    let mut room = most;
    let fits = |c: &char| {
        let left = room.checked_sub(columns(*c));
        room = left.unwrap_or(0);
        left.is_some()
    };
    text.chars().take_while(fits).collect()
}

/// A number a second.
pub(super) fn rate(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 {
        format!("{rate:.1}/s")
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rates are positive, and a cast saturates"
        )]
        let whole = rate.round() as u64;
        format!("{}/s", count(whole))
    }
}

/// `42s`, `12m`, `3h 4m`, `3d 4h`.
pub(super) fn time(seconds: u64) -> String {
    match (seconds / 60, seconds / 3_600, seconds / 86_400) {
        (0 | 1, ..) => format!("{seconds}s"),
        (minutes, 0 | 1, _) => format!("{minutes}m"),
        (minutes, hours, 0 | 1) => format!("{hours}h {}m", minutes % 60),
        (_, hours, days) => format!("{days}d {}h", hours % 24),
    }
}

/// The latest values, as many as there are cells, from the first that is known on, the highest of
/// them as high as a cell is. What is unknown leaves a gap, and what is not zero is seen not to be.
pub(super) fn spark(values: &[Option<f64>], cells: usize, style: Style) -> Line {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = &values[values.len().saturating_sub(cells)..];
    let values = &values[values.iter().take_while(|value| value.is_none()).count()..];
    let most = values.iter().flatten().copied().fold(0.0, f64::max);
    let cell = |value: &Option<f64>| match value {
        None => (Style::Plain, ' '),
        Some(value) if *value <= 0.0 || most <= 0.0 => (Style::Dim, LEVELS[0]),
        Some(value) => (style, LEVELS[cells_of(value / most, 7).clamp(1, 7)]),
    };
    let mut line = Line::default();
    for (style, level) in values.iter().map(cell) {
        match line.pieces.last_mut() {
            Some((last, text)) if *last == style => text.push(level),
            _ => line.pieces.push((style, level.to_string())),
        }
    }
    line.width = values.len();
    line
}

/// A part of so many cells, rounded down: only what is full looks full.
pub(super) fn cells_of(part: f64, cells: usize) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "between zero and a terminal's width"
    )]
    let whole = (part.clamp(0.0, 1.0) * cells as f64) as usize;
    whole.min(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_a_person_would_write_them() {
        assert_eq!(
            [0.0, 0.04, 4.25, 9.96, 1234.5].map(rate),
            ["0/s", "0.0/s", "4.2/s", "10/s", "1,235/s"]
        );
        let times = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(time);
        assert_eq!(times, ["0s", "119s", "2m", "119m", "2h 0m", "47h 59m", "2d 0h"]);
    }

    #[test]
    fn a_chart_begins_with_what_is_known_and_shows_gaps() {
        let chart =
            |values: &[Option<f64>], cells| spark(values, cells, Style::Bad).render(99, false);
        assert_eq!(chart(&[None, Some(0.0), None, Some(0.01), Some(8.0)], 9), "▁ ▂█");
        assert_eq!(chart(&[Some(1.0), Some(2.0), Some(4.0)], 2), "▄█");
        assert_eq!(chart(&[Some(0.0), Some(0.0)], 2), "▁▁");
        assert_eq!(chart(&[Some(1.0)], 0), "");
    }

    #[test]
    fn a_cut_line_shows_that_it_was_cut() {
        let line = || Line::of(Style::Bold, "日本").with(Style::Plain, "abc");
        assert_eq!(line().render(7, false), "日本abc");
        assert_eq!(line().render(6, false), "日本a…");
        assert_eq!(line().render(4, false), "日…");
        assert_eq!(line().render(1, false), "…");
        assert_eq!(line().render(0, false), "");
    }
}
