//! A plan written down, for people and for programs.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use redis_guard::sizing::Outcome;
use serde_json::{Value, json};

use super::PlanArgs;
use super::ask::{Asked, Seen};
use crate::cli::Exit;
use redis_guard::internal::words;

pub(super) const SCHEMA_VERSION: u32 = 1;

const SERVERLESS_ADVICE: [&str; 5] = [
    "one connection in each sandbox, made outside the handler and shared: max_connections(1), pool.shared(..)",
    "a short idle_timeout and min_idle(0): a sandbox that runs on gives its slot back",
    "`timeout 60` on the server: a frozen sandbox cannot close its socket, so the server has to",
    "a concurrency limit on the function: nothing else keeps the platform from starting one more",
    "where that is not enough, a proxy that multiplexes, with a fixed number of connections to the server",
];

/// A plan that was worked out, to be written down.
pub(super) struct Report<'a> {
    pub(super) args: &'a PlanArgs,
    pub(super) asked: Option<&'a Asked>,
    /// Whom it was worked out for.
    pub(super) seen: Option<&'a Seen>,
    pub(super) outcome: &'a Outcome,
}

impl Report<'_> {
    pub(super) fn exit(&self) -> Exit {
        if !self.outcome.fits() {
            Exit::Failed
        } else if self.args.strict && (self.outcome.is_tight() || self.is_partial()) {
            Exit::Warnings
        } else {
            Exit::Fine
        }
    }

    /// Not all nodes told their ceiling, and nobody else did.
    fn is_partial(&self) -> bool {
        self.args.maxclients.is_none() && self.asked.is_some_and(Asked::is_partial)
    }

    fn advice(&self) -> &'static [&'static str] {
        if self.args.serverless { &SERVERLESS_ADVICE } else { &[] }
    }

    /// What the numbers do not say.
    fn notes(&self) -> Vec<String> {
        let Self { args, outcome, .. } = self;
        let mut notes = Vec::new();
        if !outcome.floor_fits() {
            notes.push(format!(
                "{} processes × {} that no pressure takes back (min_limit, or the reserves) = {} do not fit \
                 either: pools that give back what they can are refused all the same",
                words::count(outcome.processes),
                words::count(outcome.min_limit as u64),
                words::count(outcome.floor),
            ));
        }
        if outcome.is_tight() {
            notes.push(format!(
                "tight: the {} left are less than the reserve, or than one more surge",
                words::count(outcome.headroom)
            ));
        }
        if args.serverless && args.surge.is_none() {
            notes.push(
                "after a deployment the frozen sandboxes of the old version keep their sockets, so they \
                 count twice; less with --surge, where you have measured it"
                    .to_owned(),
            );
        } else if args.surge.is_none() && args.instances > 1 {
            notes.push(
                "no surge is counted; Kubernetes adds 25 % in a rolling deployment unless maxSurge says \
                 otherwise: --surge 25%"
                    .to_owned(),
            );
        }
        if let (Some(asked), Some(seen)) = (self.asked, self.seen) {
            notes.extend(asked.notes(seen));
            notes.extend(seen.notes(args));
        }
        notes
    }

    pub(super) fn json(&self, exit: Exit) -> Value {
        let Self { args, asked, seen, outcome } = self;
        let levers = outcome.levers.iter().map(|lever| {
            // Numbers and names: nothing of it can fail to be written.
            let mut json = serde_json::to_value(lever).unwrap_or_default();
            json["summary"] = lever.to_string().into();
            json
        });
        json!({
            "schema_version": SCHEMA_VERSION,
            "command": "plan",
            "exit_code": exit as u8,
            "summary": outcome.to_string(),
            "inputs": {
                "maxclients": outcome.maxclients,
                "maxclients_from": if args.maxclients.is_some() { "flag" } else { "server" },
                "instances": outcome.instances,
                "surge": outcome.surge,
                "workers": outcome.workers,
                "pool_size": outcome.pool_size,
                "min_limit": outcome.min_limit,
                "replicas": outcome.replicas,
                "cluster_links": outcome.cluster_links,
                "others": outcome.others,
                "reserve": outcome.reserve,
                "serverless": outcome.serverless,
            },
            "results": {
                "fits": outcome.fits(),
                "tight": outcome.is_tight(),
                "needed": outcome.needed,
                "available": outcome.available,
                "headroom": outcome.headroom,
                "shortfall": outcome.shortfall,
                "saturation": outcome.saturation(),
                "surge_instances": outcome.surge_instances,
                "processes": outcome.processes,
                "floor": outcome.floor,
                "floor_fits": outcome.floor_fits(),
                "largest_pool_size": outcome.largest_pool_size,
                "largest_instances": outcome.largest_instances,
            },
            "levers": levers.collect::<Vec<_>>(),
            "advice": self.advice(),
            "notes": self.notes(),
            "server": seen.map(Seen::json),
            "cluster": asked.and_then(Asked::json),
        })
    }

    pub(super) fn text(&self) -> String {
        let Self { outcome, .. } = self;
        let colour = match self.outcome {
            outcome if !outcome.fits() => AnsiColor::Red,
            outcome if outcome.is_tight() => AnsiColor::Yellow,
            _ => AnsiColor::Green,
        };
        let (bold, verdict) = (Style::new().bold(), colour.on_default().bold());
        let mut text = format!("{verdict}{outcome}{verdict:#}\n\n");
        let rows = self.rows();
        let widest = |column: fn(&(String, String)) -> &String| {
            rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0)
        };
        let (left, right) = (widest(|row| &row.0), widest(|row| &row.1));
        for (at, (what, slots)) in rows.iter().enumerate() {
            let style = if at == 0 { bold } else { Style::new() };
            let _ = writeln!(text, "  {style}{what:<left$}  {slots:>right$}{style:#}");
        }
        let levers = outcome.levers.iter().map(ToString::to_string).collect();
        for (title, lines) in [
            ("what each lever would buy", levers),
            ("for serverless", self.advice().iter().map(ToString::to_string).collect()),
            ("notes", self.notes()),
        ] {
            let lines: Vec<String> = lines;
            if !lines.is_empty() {
                let _ = writeln!(text, "\n{bold}{title}{bold:#}");
            }
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        }
        let _ = writeln!(text, "\n{bold}in code{bold:#}\n  {}", self.code());
        text
    }

    /// The table: what, and how many slots.
    fn rows(&self) -> Vec<(String, String)> {
        let outcome = self.outcome;
        let size = u64::try_from(outcome.pool_size).unwrap_or(u64::MAX);
        let largest = u64::try_from(outcome.largest_pool_size).unwrap_or(u64::MAX);
        let of = if outcome.serverless { "sandboxes" } else { "processes" };
        let pools =
            format!("{} {of}, {} each", words::count(outcome.processes), words::count(size));
        let row = |what: &str, slots: u64| (what.to_owned(), words::count(slots).to_string());
        let some = |what: &str, slots: u64| (slots > 0).then(|| row(what, slots));
        let left = if outcome.fits() {
            row("left", outcome.headroom)
        } else {
            row("missing", outcome.shortfall)
        };
        let saturation = outcome.saturation().map(|saturation| {
            ("saturation at the peak".to_owned(), format!("{:.0} %", saturation * 100.0))
        });
        let rows = [
            Some(("what".to_owned(), "slots".to_owned())),
            Some(row(&pools, outcome.processes.saturating_mul(size))),
            some("replicas", outcome.replicas),
            some("cluster links", outcome.cluster_links),
            some("others", outcome.others),
            Some(row("needed", outcome.needed)),
            Some(row("maxclients", outcome.maxclients)),
            Some(row("reserve", outcome.reserve)),
            Some(row("available", outcome.available)),
            Some(left),
            saturation,
            Some(row("largest max_connections", largest)),
            Some(row("most instances", outcome.largest_instances)),
        ];
        rows.into_iter().flatten().collect()
    }

    /// The line to paste.
    fn code(&self) -> String {
        match self.outcome.largest_pool_size {
            0 => "no max_connections fits: each process takes one slot at least".to_owned(),
            _ if self.outcome.fits() => format!(".max_connections({})", self.outcome.pool_size),
            1 => ".max_connections(1) // and pool.shared(..)".to_owned(),
            largest => format!(".max_connections({largest})"),
        }
    }
}
