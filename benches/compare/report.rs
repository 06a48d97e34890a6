//! The figures: a table of ratios, JSON.

use std::path::Path;

use serde_json::{Value, json};

use crate::clustered::GuardCluster;
use crate::contenders::{Client, GuardExclusive, GuardMultiplex, GuardShared};
use crate::{Failure, Matchup, layers};

/// One figure: a contender in a matchup.
pub(crate) struct Cell {
    pub(crate) matchup: Matchup,
    client: &'static str,
    unit: Unit,
    pub(crate) measure: Box<dyn Fn() -> f64>,
    /// One of each round.
    pub(crate) samples: Vec<f64>,
    /// Connections that the contender holds, where they are counted.
    sockets: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Less is better.
    Nanoseconds,
    /// More is better.
    OpsPerSecond,
}

impl Cell {
    pub(crate) fn new(
        matchup: Matchup,
        client: &'static str,
        unit: Unit,
        measure: impl Fn() -> f64 + 'static,
    ) -> Self {
        let measure = Box::new(measure);
        Self { matchup, client, unit, measure, samples: Vec::new(), sockets: None }
    }

    pub(crate) fn holding(self, sockets: usize) -> Self {
        Self { sockets: Some(sockets), ..self }
    }

    fn median(&self) -> f64 {
        let mut samples = self.samples.clone();
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        if samples.len() % 2 == 1 {
            samples[middle]
        } else {
            f64::midpoint(samples[middle - 1], samples[middle])
        }
    }

    fn row(&self) -> Value {
        let Matchup { bench, tasks, bytes } = self.matchup;
        let unit = match self.unit {
            Unit::Nanoseconds => "ns",
            Unit::OpsPerSecond => "ops_per_s",
        };
        let figure = (self.median() * 10.0).round() / 10.0;
        let mut row =
            json!({ "bench": bench, "client": self.client, "tasks": tasks, unit: figure });
        if let Some(bytes) = bytes {
            row["bytes"] = json!(bytes);
        }
        if let Some(sockets) = self.sockets {
            row["sockets"] = json!(sockets);
        }
        row
    }

    /// The contender that the others are compared with.
    fn ours(&self) -> &'static str {
        match self.matchup.bench {
            "layer_call" | "layer_refusal" => layers::GUARD_LAYER,
            "shared_get" | "shared_set" => GuardShared::NAME,
            "cluster" => GuardCluster::NAME,
            _ => <GuardExclusive as Client>::NAME,
        }
    }

    fn is_ours(&self) -> bool {
        self.client == self.ours()
    }

    /// What redis-guard is meant to reach, beside this contender.
    fn aim(&self) -> &'static str {
        match (self.matchup.bench, self.client, self.matchup.tasks) {
            ("acquire_release", "deadpool", _) => "aim: at most 1.50",
            ("acquire_get", "deadpool-redis", _) => "aim: at least 1.80",
            ("refusal", ..) | ("layer_refusal", layers::GUARD_LAYER, _) => "aim: under 200 ns",
            (
                "layer_call" | "layer_refusal",
                layers::TOWER_RESILIENCE | layers::TOWER_RECLOSER,
                _,
            ) => "aim: at most 1.00",
            ("layer_call" | "layer_refusal", layers::TOWER, _) => "(no breaker)",
            ("layer_call" | "layer_refusal", layers::FAILSAFE | layers::RECLOSER, _) => {
                "(no limit)"
            }
            ("shared_get" | "shared_set", "redis-multiplexed", _) => "aim: at least 0.95",
            ("shared_get" | "shared_set", "deadpool-redis", 64) => "aim: at least 6.00",
            ("cluster", "redis-cluster", 64) => "aim: at least 1.00",
            ("cluster", "deadpool-cluster", 64) => "aim: at least 6.00",
            _ => "",
        }
    }

    /// What leases that share are meant to reach beside this contender, if they are compared with it.
    fn aim_of_multiplex(&self) -> Option<&'static str> {
        const OURS: &str = <GuardMultiplex as Client>::NAME;
        match (self.matchup.bench, self.client, self.matchup.tasks) {
            (_, OURS, _) => None,
            ("acquire_get", GuardShared::NAME, 64) => Some("aim: at least 0.90"),
            ("acquire_get", "deadpool-redis", 64) => Some("aim: at least 5.00"),
            ("acquire_get", ..) => Some(""),
            _ => None,
        }
    }
}

pub(crate) fn print_table(cells: &[Cell]) {
    println!(
        "\n{:<17}{:>7}{:>7}  {:<18}{:>16}  redis-guard beside it",
        "bench", "value", "tasks", "client", "median"
    );
    let mut above = None;
    for cell in cells {
        if above.is_some_and(|above| above != cell.matchup) {
            println!();
        }
        above = Some(cell.matchup);
        println!("{}", line(cell, cells).trim_end());
    }
}

fn line(cell: &Cell, cells: &[Cell]) -> String {
    let Matchup { bench, tasks, bytes } = cell.matchup;
    let figure = match cell.unit {
        Unit::Nanoseconds => format!("{:.0} ns", cell.median()),
        Unit::OpsPerSecond => format!("{:.0} op/s", cell.median()),
    };
    let beside = |ours: &str| {
        let ours = cells.iter().find(|c| c.client == ours && c.matchup == cell.matchup)?;
        let ratio = ours.median() / cell.median();
        Some(match cell.unit {
            Unit::Nanoseconds => format!("{ratio:.2} × the time"),
            Unit::OpsPerSecond => format!("{ratio:.2} × the throughput"),
        })
    };
    let ratio = (!cell.is_ours()).then(|| beside(cell.ours())).flatten().unwrap_or_default();
    let multiplex = cell.aim_of_multiplex().and_then(|aim| {
        Some(format!("multiplex {}  {aim}", beside(<GuardMultiplex as Client>::NAME)?))
    });
    let value = bytes.map(|bytes| format!("{bytes} B")).unwrap_or_default();
    let sockets = cell.sockets.map(|n| format!("{n} sockets"));
    let (client, aim, more) = (cell.client, cell.aim(), multiplex.or(sockets).unwrap_or_default());
    format!("{bench:<17}{value:>7}{tasks:>7}  {client:<18}{figure:>16}  {ratio:<24}{aim:<20}{more}")
}

pub(crate) fn write_json(path: &Path, cells: &[Cell]) -> Result<(), Failure> {
    let rows: Vec<Value> = cells.iter().map(Cell::row).collect();
    let text = serde_json::to_string_pretty(&json!({ "schema": 1, "rows": rows }))?;
    std::fs::write(path, text + "\n")
        .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(())
}
