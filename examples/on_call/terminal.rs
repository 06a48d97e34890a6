//! A terminal's text as HTML: colours, bold and dim become styles, everything else is escaped.

use std::fmt::Write as _;

const PALETTE: [&str; 8] =
    ["#1a1b26", "#f7768e", "#9ece6a", "#e0af68", "#7aa2f7", "#bb9af7", "#7dcfff", "#c8d0f0"];
const BRIGHT: [&str; 8] =
    ["#6b7394", "#ff8fa3", "#b5e084", "#f2c77f", "#93b6ff", "#cfb2ff", "#9adcff", "#ffffff"];
const PAPER: &str = "#1a1b26";
const TEXT: &str = "#c8d0f0";
const FAINT: &str = "#8189ad";

/// How far into a line the column begins that what is wrapped goes on in.
const DEEPEST: usize = 32;

/// One document, as wide as so many characters; a longer line is wrapped, and goes on below its text.
pub(crate) fn page(lines: &[String], columns: usize) -> String {
    let mut html = format!(
        "<!doctype html><meta charset=\"utf-8\"><style>body{{margin:0;background:{PAPER}}}\
         main{{width:{}ch;padding:18px 22px;color:{TEXT};font:15px/1.32 'DejaVu Sans Mono',monospace}}\
         p{{margin:0;min-height:1.32em;white-space:pre-wrap;overflow-wrap:anywhere}}</style><main>",
        // A full line is not to be wrapped because of a rounding.
        columns + 1
    );
    for line in lines {
        let indent = hanging(line);
        let _ = write!(
            html,
            "<p style=\"padding-left:{indent}ch;text-indent:-{indent}ch\">{}</p>",
            styled(line)
        );
    }
    html + "</main>"
}

/// The screen that a program which redraws it drew last: what stands in each of its lines.
pub(crate) fn last_screen(recorded: &str) -> Option<Vec<String>> {
    let (before, _) = recorded.rsplit_once("\x1b[?2026l")?;
    let (_, frame) = before.rsplit_once("\x1b[?2026h")?;
    let mut lines = Vec::new();
    for piece in frame.split("\x1b[") {
        let placed = piece
            .split_once(";1H")
            .and_then(|(row, text)| Some((row.parse::<usize>().ok()?.checked_sub(1)?, text)));
        match (placed, lines.last_mut()) {
            (Some((row, text)), _) => {
                lines.resize(row, String::new());
                lines.push(text.to_owned());
            }
            (None, Some(line)) => *line += &format!("\x1b[{piece}"),
            (None, None) => {}
        }
    }
    while lines.last().is_some_and(|line| bare(line).trim().is_empty()) {
        lines.pop();
    }
    Some(lines)
}

/// Where the last column of a line begins, so that what does not fit goes on there.
fn hanging(line: &str) -> usize {
    let text: Vec<char> = bare(line).chars().collect();
    let begins = |at: &usize| {
        text[*at] != ' ' && (*at == 0 || text[at - 1] == ' ') && (*at < 2 || text[at - 2] == ' ')
    };
    let first = (0..text.len()).find(|at| text[*at] != ' ').unwrap_or(0);
    let column = (0..text.len().min(DEEPEST)).rev().find(begins).unwrap_or(0);
    // A second word of a sentence is no column.
    if column > first { column } else { first + 2 }
}

fn bare(line: &str) -> String {
    pieces(line).filter_map(|piece| piece.err()).collect()
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Look {
    colour: Option<&'static str>,
    behind: Option<&'static str>,
    bold: bool,
    dim: bool,
}

fn styled(line: &str) -> String {
    let (mut html, mut look) = (String::new(), Look::default());
    for piece in pieces(line) {
        match piece {
            Ok(codes) => look = look.then(codes),
            Err(text) if look == Look::default() => html += &escaped(text),
            Err(text) => {
                let _ = write!(html, "<span style=\"{}\">{}</span>", look.css(), escaped(text));
            }
        }
    }
    html
}

impl Look {
    fn then(mut self, codes: &str) -> Self {
        for code in codes.split(';').map(|code| code.parse::<usize>().unwrap_or(0)) {
            match code {
                0 => self = Self::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                22 => (self.bold, self.dim) = (false, false),
                30..=37 => self.colour = Some(PALETTE[code - 30]),
                39 => self.colour = None,
                40..=47 => self.behind = Some(PALETTE[code - 40]),
                49 => self.behind = None,
                90..=97 => self.colour = Some(BRIGHT[code - 90]),
                100..=107 => self.behind = Some(BRIGHT[code - 100]),
                _ => {}
            }
        }
        self
    }

    fn css(self) -> String {
        let colour = self.colour.or(self.dim.then_some(FAINT)).unwrap_or(TEXT);
        let mut css = format!("color:{colour}");
        if let Some(behind) = self.behind {
            css += &format!(";background:{behind}");
        }
        if self.bold {
            css += ";font-weight:bold";
        }
        css
    }
}

/// The codes of a sequence that changes the look as `Ok`, text as `Err`; other sequences are left out.
fn pieces(line: &str) -> impl Iterator<Item = Result<&str, &str>> {
    let mut rest = line;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let Some(sequence) = rest.strip_prefix("\x1b[") else {
                let next = rest.char_indices().skip(1).find(|(_, c)| *c == '\x1b');
                let (text, after) = rest.split_at(next.map_or(rest.len(), |(at, _)| at));
                rest = after;
                return Some(Err(text));
            };
            let end = sequence.find(|c: char| c.is_ascii_alphabetic());
            let (codes, after) = sequence.split_at(end.unwrap_or(sequence.len()));
            let is_look = after.starts_with('m');
            rest = after.get(1..).unwrap_or("");
            if is_look {
                return Some(Ok(codes));
            }
        }
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
