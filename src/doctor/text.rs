//! The report, as people read it.

use std::fmt;

use super::report::{Check, Level, Report, ServerReport, Verdict, VerdictKind};
use super::{ClusterReport, Holder, Holders, SentinelReport};
use crate::server::Role;
use crate::vocabulary::words::{clean, count, seconds};

const UNKNOWN: &str = "–";

/// The escape sequences of one look; none where colours are not asked for.
#[derive(Clone, Copy)]
struct Colours {
    red: &'static str,
    yellow: &'static str,
    green: &'static str,
    dim: &'static str,
    bold: &'static str,
    off: &'static str,
}

impl Colours {
    const NONE: Self = Self { red: "", yellow: "", green: "", dim: "", bold: "", off: "" };
    const ANSI: Self = Self {
        red: "\x1b[31m",
        yellow: "\x1b[33m",
        green: "\x1b[32m",
        dim: "\x1b[2m",
        bold: "\x1b[1m",
        off: "\x1b[0m",
    };

    const fn of(self, level: Level) -> (&'static str, &'static str) {
        match level {
            Level::Ok => (self.green, "✓"),
            Level::Note => ("", "·"),
            Level::Skipped => (self.dim, "–"),
            Level::Warning => (self.yellow, "!"),
            Level::Failed => (self.red, "✗"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colours = if f.alternate() { Colours::ANSI } else { Colours::NONE };
        for (at, server) in self.servers.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            server.write(f, colours)?;
        }
        match &self.worst {
            Some(worst) => writeln!(f, "\nfullest of {}: {worst}", self.servers.len()),
            None => Ok(()),
        }
    }
}

impl ServerReport {
    fn write(&self, f: &mut fmt::Formatter<'_>, colours: Colours) -> fmt::Result {
        write!(f, "{}{}{}", colours.bold, clean(&self.server), colours.off)?;
        if let (Some(product), Some(version)) = (self.product, &self.version) {
            write!(f, " · {product} {}", clean(version))?;
        }
        if let Some(role) = self.snapshot.as_ref().and_then(|snapshot| snapshot.role) {
            write!(f, " · {}", format!("{role:?}").to_ascii_lowercase())?;
        }
        if let Some(sentinel) = &self.sentinel {
            write!(f, " · {} of the sentinel {}", sentinel.master, clean(&sentinel.named_by))?;
        }
        if let Some(by) = &self.named_by {
            write!(f, " · named by {}", clean(by))?;
        }
        if let Some(uptime) = self.uptime_seconds {
            write!(f, " · up {}", seconds(uptime))?;
        }
        writeln!(f, "\n")?;
        for verdict in self.verdicts() {
            verdict.write(f, colours)?;
        }
        if let Some(seen) = &self.last_seen {
            let (age, slots) = (seconds(seen.age.as_secs()), slots(seen.used, seen.maxclients));
            let refused = count(seen.rejections_seen);
            writeln!(
                f,
                "  last seen {age} ago, and old: {slots} slots in use, {refused} refused until then"
            )?;
        }
        let mut group = "";
        // Those that could not be made for the same reason say it once.
        // Of the many nodes of a cluster only what is to be looked at: the rest is in the JSON.
        let is_short = self.named_by.is_some();
        let shown = |check: &&Check| !is_short || check.level >= Level::Warning;
        let shown: Vec<&Check> = self.checks.iter().filter(shown).collect();
        for checks in shown.chunk_by(|one, next| one.is_skipped_with(next)) {
            let [check, rest @ ..] = checks else { continue };
            if check.group() != group {
                group = check.group();
                writeln!(f, "\n{}{group}{}", colours.bold, colours.off)?;
            }
            check.write(f, colours)?;
            for check in rest {
                writeln!(f, "  {}– {}{}", colours.dim, check.name(), colours.off)?;
            }
        }
        if let Some(sentinel) = &self.sentinel {
            sentinel.write(f, colours)?;
        }
        if let Some(cluster) = &self.cluster {
            cluster.write(f, colours)?;
        }
        match &self.holders {
            Some(holders) if !(is_short && self.verdict.kind == VerdictKind::NothingWrong) => {
                holders.write(f, colours)
            }
            _ => Ok(()),
        }
    }
}

impl SentinelReport {
    fn write(&self, f: &mut fmt::Formatter<'_>, colours: Colours) -> fmt::Result {
        let sentinels = self.sentinels.iter().map(|seen| {
            let failover = match seen.can_fail_over {
                Some(true) => "could",
                Some(false) => "could not",
                None => UNKNOWN,
            };
            let master = seen.master.clone().unwrap_or_else(|| UNKNOWN.to_owned());
            [seen.server.clone(), master, failover.to_owned(), slots(seen.used, seen.maxclients)]
        });
        let head = ["sentinel", "names the master", "fail over", "slots"];
        write_rows(f, colours, head, &sentinels.collect::<Vec<_>>())?;
        let replicas = self.replicas.iter().flatten().map(|seen| {
            let link = match seen.master_link_up {
                Some(true) => "link up",
                Some(false) => "link down",
                None => UNKNOWN,
            };
            let priority = seen.priority.map_or_else(|| UNKNOWN.to_owned(), count);
            [seen.server.clone(), link.to_owned(), priority, slots(seen.used, seen.maxclients)]
        });
        write_rows(
            f,
            colours,
            ["replica", "master", "priority", "slots"],
            &replicas.collect::<Vec<_>>(),
        )
    }
}

impl ClusterReport {
    fn write(&self, f: &mut fmt::Formatter<'_>, colours: Colours) -> fmt::Result {
        let nodes = self.nodes.iter().map(|node| {
            let role = match (node.role, &node.replica_of) {
                (Some(Role::Master), _) => "master".to_owned(),
                (_, Some(master)) => format!("replica of {master}"),
                (Some(_), None) => "replica".to_owned(),
                (None, None) => UNKNOWN.to_owned(),
            };
            let trouble = node.flags.join(", ");
            let trouble = match &node.message {
                Some(message) if trouble.is_empty() => message.clone(),
                Some(message) => format!("{trouble}: {message}"),
                None => trouble,
            };
            let connections = slots(node.used, node.maxclients);
            [node.server.clone(), role, count(node.slots), connections, trouble]
        });
        let head = ["node, the worst first", "role", "hash slots", "connections", ""];
        write_rows(f, colours, head, &nodes.collect::<Vec<_>>())
    }
}

fn slots(used: Option<u64>, ceiling: Option<u64>) -> String {
    if used.is_none() && ceiling.is_none() {
        return UNKNOWN.to_owned();
    }
    let known = |number: Option<u64>| number.map_or_else(|| UNKNOWN.to_owned(), count);
    format!("{} of {}", known(used), known(ceiling))
}

/// A table of words, if it has a row.
fn write_rows<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    colours: Colours,
    head: [&str; N],
    rows: &[[String; N]],
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let mut widths = head.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    let head = line(&head.map(str::to_owned));
    writeln!(f, "\n  {}{head}{}", colours.dim, colours.off)?;
    rows.iter().try_for_each(|row| writeln!(f, "  {}", line(row)))
}

impl Verdict {
    fn write(&self, f: &mut fmt::Formatter<'_>, colours: Colours) -> fmt::Result {
        let colour = match self.kind {
            VerdictKind::NothingWrong => colours.green,
            _ => colours.red,
        };
        let name = self.kind.as_str().replace('_', " ");
        writeln!(f, "{colour}{}{name}{}: {}", colours.bold, colours.off, self.summary)?;
        // What is well needs no reason.
        let because = if self.kind == VerdictKind::NothingWrong { "" } else { "because " };
        for reason in &self.reasons {
            writeln!(f, "  {because}{reason}")?;
        }
        for action in &self.actions {
            writeln!(f, "  {}→ {action}{}", colours.bold, colours.off)?;
        }
        Ok(())
    }
}

impl Check {
    fn group(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(group, _)| group)
    }

    fn name(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(_, name)| name)
    }

    fn is_skipped_with(&self, next: &Self) -> bool {
        let skipped = |check: &Self| check.level == Level::Skipped;
        skipped(self)
            && skipped(next)
            && self.group() == next.group()
            && self.evidence == next.evidence
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, colours: Colours) -> fmt::Result {
        let (colour, sign) = colours.of(self.level);
        writeln!(f, "  {colour}{sign} {:<22}{} {}", self.name(), colours.off, self.evidence)?;
        if self.level >= Level::Warning {
            writeln!(
                f,
                "    {:<22} {}threshold: {}{}",
                "", colours.dim, self.threshold, colours.off
            )?;
        }
        match &self.fix {
            Some(fix) => writeln!(f, "    {:<22} {}→ {fix}{}", "", colours.bold, colours.off),
            None => Ok(()),
        }
    }
}

impl Holders {
    fn write(&self, f: &mut fmt::Formatter<'_>, colours: Colours) -> fmt::Result {
        let tables = [
            ("by source", &self.by_source),
            ("by library", &self.by_library),
            ("by user", &self.by_user),
        ];
        for (title, rows) in tables {
            // A table of one row says what the line before it said.
            if rows.len() > usize::from(title != "by source") {
                write_table(f, colours, title, rows)?;
            }
        }
        Ok(())
    }
}

fn write_table(
    f: &mut fmt::Formatter<'_>,
    colours: Colours,
    title: &str,
    rows: &[Holder],
) -> fmt::Result {
    let keys: Vec<String> = rows.iter().map(|row| clean(&row.key)).collect();
    let width = keys.iter().map(|key| key.chars().count()).max().unwrap_or(0).max(title.len());
    let head = ["connections", "idle", "blocked", "pub/sub", "oldest"];
    write!(f, "\n  {}{title:<width$}{}", colours.bold, colours.off)?;
    writeln!(
        f,
        "{}{}{}",
        colours.dim,
        head.map(|name| format!("{name:>13}")).concat(),
        colours.off
    )?;
    for (row, key) in rows.iter().zip(keys) {
        let oldest = row.oldest_seconds.map_or_else(|| UNKNOWN.to_owned(), seconds);
        let cells = [row.connections, row.idle, row.blocked, row.subscribers].map(count);
        let cells = cells.map(|cell| format!("{cell:>13}")).concat();
        writeln!(f, "  {key:<width$}{cells}{oldest:>13}")?;
    }
    Ok(())
}
