//! The frame: what the state looks like in a terminal of some size. Pure.

mod tables;

use redis_guard::doctor::WatchedMaster;
use redis_guard::internal::words::{bytes, count, percent};

use super::server::{Condition, Down, HISTORY, History, Link, Server, as_f64, role};
use super::state::State;
use super::style::{Line, Style, cells_of, fit, rate, spark, time};

/// Where the values begin.
const COLUMN: usize = 14;

/// Rows of a table that are worth more than blank lines between the tables.
const AIRY: usize = 5;

/// Where the charts begin, and how many columns after them are for words.
const CHART: usize = COLUMN + 9;
const AFTER: usize = 32;

/// A chart narrower than this takes the place of the words.
const LEAST: usize = 10;

/// What is not known.
const UNKNOWN: &str = "–";

/// The state as lines, none wider than `width`, and no more than `height` of them: tables get
/// shorter, then servers become one line each, then the best of them are left out.
pub(super) fn view(state: &State, width: usize, height: usize, colour: bool) -> Vec<String> {
    let servers = state.worst_first();
    let chosen = state.chosen();
    let blocks = |rows: usize, airy: bool| {
        let mut lines = head(state, width);
        for server in servers.iter().filter(|it| chosen.is_none_or(|one| one.place == it.place)) {
            lines.push(Line::default());
            lines.extend(block(state, server, width, rows, airy));
        }
        if let Some(chosen) = chosen {
            lines.push(Line::default());
            let others = servers.iter().filter(|it| it.place != chosen.place);
            lines.extend(others.map(|server| summary(state, server)));
        }
        lines
    };
    let airy = (state.top.min(AIRY)..=state.top).rev().map(|rows| blocks(rows, true));
    let tight = (0..=state.top).rev().map(|rows| blocks(rows, false));
    let fitting = airy.chain(tight).find(|lines| lines.len() <= height);
    let lines = fitting.unwrap_or_else(|| one_line_each(state, &servers, width, height));
    lines.into_iter().take(height).map(|line| line.render(width, colour)).collect()
}

fn one_line_each(state: &State, servers: &[&Server], width: usize, height: usize) -> Vec<Line> {
    let mut lines = head(state, width);
    let room = height.saturating_sub(lines.len());
    let shown = if servers.len() > room { room.saturating_sub(1) } else { room };
    lines.extend(servers.iter().take(shown).map(|server| summary(state, server)));
    let left_out = servers.len().saturating_sub(shown);
    if left_out > 0 {
        lines.push(Line::of(Style::Dim, &format!("… and {left_out} more, in better shape")));
    }
    lines
}

fn head(state: &State, width: usize) -> Vec<Line> {
    let every = humantime::format_duration(state.interval);
    let servers = match state.servers.len() {
        1 => String::new(),
        many => format!("{many} servers · "),
    };
    let keys = match (state.has_keys, state.servers.len()) {
        (false, _) => "",
        (true, 1) => " · q quits",
        (true, _) => " · q quits, ↑↓ one server",
    };
    let clock = humantime::format_rfc3339_seconds(state.at)
        .to_string()
        .replace('T', " ")
        .replace('Z', " UTC");
    let line = Line::of(Style::Bold, "redis-guard watch")
        .with(Style::Dim, &format!("  {servers}every {every}{keys}"))
        .right(width, Style::Dim, &clock);
    vec![line]
}

fn badge(condition: Condition, server: &Server) -> (Style, String) {
    let (style, text) = match condition {
        Condition::Unknown => (Style::WarnBadge, "UNKNOWN"),
        Condition::Fine => (Style::GoodBadge, "OK"),
        Condition::Filling => (Style::WarnBadge, "FILLING UP"),
        Condition::NearlyFull => (Style::WarnBadge, "NEARLY FULL"),
        Condition::Loading => (Style::WarnBadge, "LOADING"),
        // Hardly a command is served: it is not for want of clients.
        Condition::Rejecting | Condition::Full if stands_still(server) => {
            (Style::BadBadge, "FULL, NOT IDLE")
        }
        Condition::Rejecting => (Style::BadBadge, "REJECTING"),
        Condition::Full => (Style::BadBadge, "FULL"),
        Condition::Silent(_) => (Style::BadBadge, "NO ANSWER"),
        Condition::Dialing => (Style::WarnBadge, "CONNECTING"),
        Condition::Down => match &server.link {
            Link::Down(Down { outcome: Some("max_clients"), .. }) => {
                (Style::BadBadge, "FULL, NOT CONNECTED")
            }
            Link::Down(Down { outcome: None, .. }) => (Style::BadBadge, "CONNECTION LOST"),
            _ => (Style::BadBadge, "NOT CONNECTED"),
        },
    };
    (style, format!(" {text} "))
}

fn stands_still(server: &Server) -> bool {
    server.current().is_some_and(|seen| seen.stands_still)
}

fn summary(state: &State, server: &Server) -> Line {
    let (style, badge) = badge(server.condition(state.now), server);
    let line = Line::of(style, &badge).with(Style::Bold, &format!(" {}", server.address));
    let Some(seen) = server.current() else { return line };
    let (used, ceiling) = (known(seen.snapshot.used()), known(seen.ceiling));
    let line = line.with(Style::Plain, &format!("  {used} of {ceiling}"));
    match server.rejections {
        Some(rejections) if rejections > 0.0 => {
            line.with(Style::Bad, &format!("  {} rejected", rate(rejections)))
        }
        _ => line,
    }
}

/// One server; its tables have so many rows at most, and blank lines between them where it is
/// `airy`.
fn block(state: &State, server: &Server, width: usize, rows: usize, airy: bool) -> Vec<Line> {
    let condition = server.condition(state.now);
    let (style, badge) = badge(condition, server);
    let title = Line::of(style, &badge).with(Style::Bold, &format!(" {}", server.address));
    let mut lines = vec![title.with(Style::Dim, &format!("  {}", identity(server)))];
    let gap = || airy.then(Line::default);
    match &server.link {
        Link::Dialing => {}
        Link::Down(down) => lines.extend(down_lines(state, server, down)),
        Link::Up => {
            if let Condition::Silent(silent) = condition {
                let words = format!("has not answered for {}", time(silent.as_secs()));
                lines.push(labelled("").with(Style::Bad, &words));
            }
            if let Some(problem) = &server.info_problem {
                lines.push(labelled("INFO").with(Style::Warn, problem));
            }
            if let Some(masters) = &server.watched_masters {
                lines.extend(a_sentinel(masters));
            }
            if let Some(nodes) = &server.other_nodes {
                lines.extend(one_node(state, nodes));
            }
            lines.extend(gap());
            lines.extend(slots(server, condition, width));
            lines.extend(rates(server, width));
            lines.push(rest(server));
            for table in tables::tables(state, server, width, rows) {
                lines.extend(gap());
                lines.extend(table);
            }
        }
    }
    let events = events(state, server, rows);
    if !events.is_empty() {
        lines.extend(gap());
        lines.extend(events);
    }
    lines
}

fn identity(server: &Server) -> String {
    let Some(seen) = server.current() else { return String::new() };
    let snapshot = &seen.snapshot;
    let product =
        snapshot.product.map_or_else(|| UNKNOWN.to_owned(), |product| product.to_string());
    let version = snapshot.version.as_deref().unwrap_or(UNKNOWN);
    let role = snapshot.role.map_or(UNKNOWN, role);
    let uptime = snapshot.uptime_seconds.map_or_else(|| UNKNOWN.to_owned(), time);
    format!("{product} {version} · {role} · up {uptime}")
}

fn down_lines(state: &State, server: &Server, down: &Down) -> Vec<Line> {
    let whose = match down.outcome {
        Some("max_clients" | "denied" | "auth" | "loading" | "wrong_role" | "misconfigured") => {
            "it says"
        }
        Some(_) => "dialing",
        None => "lost",
    };
    let mut lines = vec![labelled(whose).with(Style::Bad, &down.said)];
    let since = time(state.now.saturating_duration_since(down.since).as_secs());
    let tried = match down.failures {
        0 => format!("{since} ago"),
        1 => format!("dialed once, {since} ago"),
        many => format!("dialed {many} times in {since}"),
    };
    let next = down.next.map(|next| next.saturating_duration_since(state.now));
    let next = match next {
        Some(wait) if wait.is_zero() => " · dialing now".to_owned(),
        Some(wait) => format!(" · next dial in {:.1}s", wait.as_secs_f64()),
        None => String::new(),
    };
    lines.push(labelled("").with(Style::Dim, &(tried + &next)));
    if let Some((seen, at)) = &server.seen {
        let ago = time(state.now.saturating_duration_since(*at).as_secs());
        let (used, ceiling) = (known(seen.snapshot.used()), known(seen.ceiling));
        let text = format!("{used} of {ceiling} slots, {ago} ago");
        lines.push(labelled("last seen").with(Style::Dim, &text));
    }
    lines
}

/// The bar, and what it is made of.
fn slots(server: &Server, condition: Condition, width: usize) -> Vec<Line> {
    let Some(seen) = server.current() else {
        return vec![labelled("slots").with(Style::Plain, UNKNOWN)];
    };
    let snapshot = &seen.snapshot;
    // Down, so that 100 % is said of a full server only.
    let percent = seen.saturation().map(|part| format!("{:.1}%", (part * 1000.0).floor() / 10.0));
    let level = match condition {
        Condition::Fine => Style::Good,
        Condition::Full | Condition::Rejecting | Condition::Silent(_) => Style::Bad,
        _ => Style::Warn,
    };
    let kinds = [
        ("█", level, "client", snapshot.connected_clients),
        ("▓", Style::Accent, "replica", snapshot.connected_replicas),
        ("▒", Style::Second, "cluster link", snapshot.cluster_connections),
    ];
    let cells = width.saturating_sub(CHART + 2).min(100);
    let mut bar = labelled("slots").with(level, percent.as_deref().unwrap_or(UNKNOWN)).pad(CHART);
    if let Some((used, ceiling)) = snapshot.used().zip(seen.ceiling) {
        let part = |count: u64| cells_of(as_f64(count) / as_f64(ceiling.max(1)), cells);
        let mut left = part(used).max(usize::from(used > 0)).min(cells);
        let free = cells - left;
        let mut segments = Vec::new();
        for (symbol, style, _, count) in kinds[1..].iter().rev() {
            let count = count.unwrap_or(0);
            let length = part(count).max(usize::from(count > 0)).min(left);
            left -= length;
            segments.push((*style, symbol.repeat(length)));
        }
        segments.push((level, kinds[0].0.repeat(left)));
        for (style, segment) in segments.iter().rev() {
            bar.push(*style, segment);
        }
        bar.push(Style::Dim, &"░".repeat(free));
    }
    let mut words = labelled("")
        .with(Style::Bold, &format!("{} of {}", known(snapshot.used()), known(seen.ceiling)))
        .with(level, &format!("   {} free", known(seen.free())));
    for (symbol, style, name, count) in kinds {
        let (style, text) =
            if count == Some(0) { (Style::Dim, Style::Dim) } else { (style, Style::Plain) };
        words.push(style, &format!("   {symbol} "));
        let plural = if count == Some(1) { "" } else { "s" };
        words.push(text, &format!("{} {name}{plural}", known(count)));
    }
    vec![bar, words]
}

fn rates(server: &Server, width: usize) -> Vec<Line> {
    let now = |value: Option<f64>| value.map_or_else(|| UNKNOWN.to_owned(), rate);
    let words = width >= CHART + AFTER + LEAST;
    let cells = width.saturating_sub(CHART + if words { AFTER } else { 1 }).min(HISTORY);
    let line = |label: &str, value: Option<f64>, history: &History, style: Style, chart: Style| {
        let line = labelled(label).with(style, &now(value)).pad(CHART);
        let line = line.append(spark(history.values(), cells, chart));
        let most = format!(" most {}", now(history.most()));
        if words { line.pad(CHART + cells + 1).with(Style::Dim, &most) } else { line }
    };
    let rejected = server.rejections.is_some_and(|rate| rate > 0.0);
    let lately = server.rejections_history.most().is_some_and(|most| most > 0.0);
    let style = match (rejected, lately) {
        (true, _) => Style::Bad,
        (false, true) => Style::Warn,
        _ => Style::Plain,
    };
    let total = server.current().and_then(|seen| seen.snapshot.rejected_connections);
    let history = &server.rejections_history;
    let mut rejections = line("rejections", server.rejections, history, style, Style::Bad);
    if words {
        rejections.push(Style::Dim, &format!(", {} in all", known(total)));
    }
    let accent = Style::Accent;
    let style = if stands_still(server) { Style::Bad } else { Style::Plain };
    let mut commands = line("commands", server.commands, &server.commands_history, style, accent);
    if words && let Some(cores) = server.current().and_then(|seen| seen.cpu_cores) {
        commands.push(Style::Dim, &format!(", {} of a core", percent(cores)));
    }
    let churn = line("churn", server.churn, &server.churn_history, Style::Plain, accent);
    vec![rejections, commands, churn]
}

fn rest(server: &Server) -> Line {
    let seen = server.current();
    let snapshot = seen.map(|seen| &seen.snapshot);
    let blocked = snapshot.and_then(|snapshot| snapshot.blocked_clients);
    let online = seen.and_then(|seen| seen.replicas_online);
    let expected = seen.and_then(|seen| seen.replicas_expected);
    let memory = |count: Option<u64>| count.map_or_else(|| UNKNOWN.to_owned(), bytes);
    let used_memory = memory(snapshot.and_then(|snapshot| snapshot.used_memory_bytes));
    let most = match snapshot.and_then(|snapshot| snapshot.maxmemory_bytes) {
        Some(0) => "no limit".to_owned(),
        most => format!("of {}", memory(most)),
    };
    let missing = online.zip(expected).is_some_and(|(online, expected)| online < expected);
    let replicas = if missing { Style::Bad } else { Style::Plain };
    labelled("blocked")
        .with(Style::Plain, &known(blocked))
        .pad(CHART)
        .with(Style::Dim, "replicas ")
        .with(replicas, &format!("{} of {} online", known(online), known(expected)))
        .with(Style::Dim, "   memory ")
        .with(Style::Plain, &format!("{used_memory} {most}"))
}

fn events(state: &State, server: &Server, rows: usize) -> Vec<Line> {
    let events = server.events.iter().take(rows.min(5)).map(|event| {
        let ago = time(state.now.saturating_duration_since(event.seen).as_secs());
        let style = if event.bad { Style::Warn } else { Style::Plain };
        labelled(&format!("{ago} ago")).with(style, &event.text)
    });
    events.collect()
}

/// A sentinel's own slots are worth a look, and are not what was meant.
fn a_sentinel(masters: &[WatchedMaster]) -> Vec<Line> {
    const NAMED: usize = 5;
    let mut named = masters.iter().take(NAMED);
    let of = |master: &WatchedMaster| format!("redis://{} ({})", master.address(), master.name);
    let (words, first) = match named.next() {
        Some(first) => ("a sentinel, which serves no data; watch instead", Some(of(first))),
        None => ("a sentinel, which serves no data and watches no master", None),
    };
    let mut lines = vec![labelled("this is").with(Style::Warn, words)];
    let named = first.into_iter().chain(named.map(of));
    lines.extend(named.map(|words| labelled("").with(Style::Warn, &words)));
    if masters.len() > NAMED {
        let more = format!("and {} more", count(masters.len() - NAMED));
        lines.push(labelled("").with(Style::Warn, &more));
    }
    lines
}

/// The other nodes of its cluster that are not watched: each has slots of its own.
fn one_node(state: &State, others: &[String]) -> Vec<Line> {
    const NAMED: usize = 5;
    let is_watched = |node: &String| state.servers.iter().any(|it| it.address == *node);
    let left: Vec<&String> = others.iter().filter(|node| !is_watched(node)).collect();
    let words = match (others.len(), left.len()) {
        (0, _) => "one node of a cluster; it names no others".to_owned(),
        (_, 0) => return Vec::new(),
        (all, left) => format!(
            "one node of a cluster of {}; {} not watched:",
            count(all + 1),
            match left {
                1 => "1 is".to_owned(),
                left => format!("{} are", count(left)),
            }
        ),
    };
    let mut lines = vec![labelled("this is").with(Style::Warn, &words)];
    let named = left.iter().take(NAMED).map(|node| labelled("").with(Style::Warn, node));
    lines.extend(named);
    if left.len() > NAMED {
        let more = format!("and {} more", count(left.len() - NAMED));
        lines.push(labelled("").with(Style::Warn, &more));
    }
    lines
}

fn labelled(label: &str) -> Line {
    Line::of(Style::Dim, &format!("  {}", fit(label, COLUMN - 3))).pad(COLUMN)
}

fn known(number: Option<u64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), count)
}

#[cfg(test)]
mod tests;
