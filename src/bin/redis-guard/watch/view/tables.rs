//! Who holds the slots, and the members of fleets.

use redis_guard::doctor::Registry;
use redis_guard::internal::words::{count, counted};

use super::super::server::{Server, as_f64};
use super::super::state::State;
use super::super::style::{self, Line, Style, cells_of, fit, time};
use super::{UNKNOWN, labelled};

/// From this width on, the tables stand side by side.
const WIDE: usize = 150;

/// Names, bars and numbers are no wider than this: a number far from its name is read in the wrong
/// line.
const NAME: usize = 40;
const BAR: usize = 30;
const CELL: usize = 9;

/// One after the other; side by side, they are one.
pub(super) fn tables(state: &State, server: &Server, width: usize, rows: usize) -> Vec<Vec<Line>> {
    let side_by_side = width >= WIDE && !server.registries.is_empty();
    let room = if side_by_side { width / 2 } else { width };
    let layout = Layout::of(server, room, rows);
    let left = holders(state, server, &layout, rows);
    let mut right: Vec<Vec<Line>> = Vec::new();
    for registry in &server.registries {
        right.push(match registry {
            Ok(registry) => fleet(registry, &layout, rows),
            Err(problem) => vec![labelled("fleet").with(Style::Warn, problem)],
        });
    }
    if let Some(note) = &server.fleets_note {
        right.push(vec![labelled("fleet").with(Style::Dim, note)]);
    } else if let (Some(fleet), true) = (&state.fleet, right.is_empty()) {
        right.push(vec![
            labelled("fleet").with(Style::Dim, &format!("no registry of {fleet} here")),
        ]);
    }
    if !side_by_side {
        return std::iter::once(left).chain(right).collect();
    }
    let right = right.concat();
    let lines = left.len().max(right.len());
    let mut sides = (left.into_iter(), right.into_iter());
    let pair = |_| {
        let (left, right) = (sides.0.next(), sides.1.next());
        left.unwrap_or_default().beside(room, right.unwrap_or_default())
    };
    vec![(0..lines).map(pair).collect()]
}

fn holders(state: &State, server: &Server, layout: &Layout, rows: usize) -> Vec<Line> {
    let holders = match &server.holders {
        None => return vec![labelled("holders").with(Style::Plain, UNKNOWN)],
        Some(Err(problem)) => {
            let said = format!("CLIENT LIST: {problem}");
            return vec![labelled("holders").with(Style::Warn, &said)];
        }
        Some(Ok(holders)) => holders,
    };
    let sources = counted(holders.sources, "source");
    let every = server.holders_every.zip(server.holders_at).map(|(every, at)| {
        let ago = time(state.now.saturating_duration_since(at).as_secs());
        format!(", {ago} ago, asked every {}s", every.as_secs_f64().ceil())
    });
    let note = sources + &every.unwrap_or_default();
    let mut lines = vec![layout.head("holders", &note, &["conns", "idle", "blocked", "oldest"])];
    let shown = holders.by_source.len().min(rows);
    let most = holders.by_source.first().map_or(1, |holder| holder.connections.max(1));
    for holder in &holders.by_source[..shown] {
        let numbers = [holder.connections, holder.idle, holder.blocked];
        let mut cells = numbers.map(|number| (Style::Plain, count(number as u64))).to_vec();
        for zero in cells.iter_mut().filter(|(_, text)| text == "0") {
            zero.0 = Style::Dim;
        }
        // More idle than at work: the first thing to look at on a full server.
        if holder.idle * 2 > holder.connections {
            cells[1].0 = Style::Warn;
        }
        cells.push((Style::Plain, holder.oldest_seconds.map_or_else(|| UNKNOWN.to_owned(), time)));
        let (idle, all) = (holder.idle as u64, holder.connections as u64);
        let parts = [(Style::Accent, "━", all.saturating_sub(idle)), (Style::Warn, "━", idle)];
        let bar = layout.bar(parts, most as u64);
        lines.push(layout.row(&holder.key, bar, &cells));
    }
    let left = holders.sources.saturating_sub(shown);
    if left > 0 {
        let listed: usize = holders.by_source[..shown].iter().map(|it| it.connections).sum();
        let others = count(holders.clients.saturating_sub(listed) as u64);
        let others = [(Style::Plain, others)];
        lines.push(layout.row(&format!("… {} more", count(left as u64)), Line::default(), &others));
    }
    lines
}

fn fleet(registry: &Registry, layout: &Layout, rows: usize) -> Vec<Line> {
    let sums = [count(registry.granted), count(registry.live)].map(|sum| (Style::Bold, sum));
    let mut members = counted(registry.members.len(), "member");
    if registry.expired > 0 {
        members += &format!(", {} not heard of in time", count(registry.expired as u64));
    }
    let label = format!("fleet {}", registry.fleet);
    let mut lines = vec![layout.head(&label, &members, &["granted", "live"])];
    let most = registry.members.first().map_or(1, |member| member.granted.max(1));
    for member in registry.members.iter().take(rows) {
        let cells = [member.granted, member.live].map(|number| (Style::Plain, count(number)));
        let live = member.live.min(member.granted);
        let parts = [(Style::Good, "━", live), (Style::Dim, "─", member.granted - live)];
        let bar = layout.bar(parts, most);
        lines.push(layout.row(&member.id, bar, &cells));
    }
    let left = registry.members.len().saturating_sub(rows);
    let rest = if left > 0 {
        format!("… {} more, all in all", count(left as u64))
    } else {
        "all in all".to_owned()
    };
    lines.push(layout.row(&rest, Line::default(), &sums));
    lines
}

/// Names, then numbers, then a bar where there is room for one. The last numbers are left out where
/// there is none. The same for all tables, so that they stand in line.
struct Layout {
    name: usize,
    numbers: usize,
    bar: usize,
}

impl Layout {
    const SHORTEST_NAME: usize = 16;

    fn of(server: &Server, width: usize, rows: usize) -> Self {
        let holders = server.holders.iter().flatten().flat_map(|it| it.by_source.iter().take(rows));
        let members =
            server.registries.iter().flatten().flat_map(|it| it.members.iter().take(rows));
        let names = holders.map(|it| it.key.as_str()).chain(members.map(|it| it.id.as_str()));
        let longest = names.map(style::width).max().unwrap_or(0);
        let room = width.saturating_sub(4);
        let numbers = (room.saturating_sub(Self::SHORTEST_NAME) / CELL).min(4);
        let room = room.saturating_sub(numbers * CELL);
        let name = longest.clamp(Self::SHORTEST_NAME, NAME).max(24).min(room);
        let bar = room.saturating_sub(name + 3).min(BAR);
        Self { name, numbers, bar }
    }

    fn head(&self, label: &str, note: &str, heads: &[&str]) -> Line {
        let line = Line::of(Style::Plain, "  ").with(Style::Bold, label);
        let line = self.numbers(line, heads.iter().map(|head| (Style::Dim, (*head).to_owned())));
        self.append(line, Line::of(Style::Dim, note))
    }

    fn row(&self, name: &str, bar: Line, cells: &[(Style, String)]) -> Line {
        let line = Line::of(Style::Plain, "  ").with(Style::Plain, &fit(name, self.name));
        let line = self.numbers(line, cells.iter().cloned());
        self.append(line, bar)
    }

    /// At the column where bars begin, if there is room for them.
    fn append(&self, line: Line, last: Line) -> Line {
        if self.bar == 0 {
            return line;
        }
        line.pad(2 + self.name + self.numbers * CELL + 3).append(last)
    }

    fn numbers(&self, line: Line, cells: impl Iterator<Item = (Style, String)>) -> Line {
        let begin = 2 + self.name;
        let cells = cells.take(self.numbers).enumerate();
        cells.fold(line.cut(begin), |line, (index, (style, text))| {
            line.right(begin + (index + 1) * CELL, style, &text)
        })
    }

    /// Two parts, one after the other, to the scale of the highest sum of all rows.
    fn bar(&self, parts: [(Style, &str, u64); 2], most: u64) -> Line {
        let cells = |number: u64| cells_of(as_f64(number) / as_f64(most.max(1)), self.bar);
        let [(first_style, first, number), (rest_style, rest, more)] = parts;
        let all = cells(number.saturating_add(more)).max(usize::from(self.bar > 0));
        let filled = cells(number).min(all);
        Line::of(first_style, &first.repeat(filled)).with(rest_style, &rest.repeat(all - filled))
    }
}
