//! What is recorded of one policy's event.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::numbers::float;
use crate::plan::{Plan, STEPS};
use crate::policy::Policy;
use crate::target::Commands;

/// How often the server and the pools are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Jain's index from which on the shares count as fair.
pub(crate) const FAIR: f64 = 0.97;

/// How long before the end the utilisation is averaged over.
const END: Duration = Duration::from_secs(2);

/// One look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Since the event began.
    pub(crate) at: Duration,
    pub(crate) used: u64,
    /// So far.
    pub(crate) rejected: u64,
    pub(crate) jain: f64,
}

/// One step of the autoscaler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) apps: usize,
    pub(crate) rejected: u64,
    /// From then on, and until the next step, the shares were fair.
    pub(crate) fair_after: Option<Duration>,
    pub(crate) first_connection_ms_max: f64,
}

/// What watch and lease cost, in percent of a core.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// An app server's process.
    pub(crate) client: f64,
    /// The server, for the whole fleet.
    pub(crate) server: f64,
}

impl Cost {
    /// Of one app server, with its part of the server's.
    pub(crate) fn each(self) -> f64 {
        self.client + self.server / float(STEPS[STEPS.len() - 1] as u64)
    }
}

/// One policy's event, as it is reported.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) policy: Policy,
    pub(crate) samples: Vec<Sample>,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) rejected: u64,
    pub(crate) peak_used: u64,
    pub(crate) jain_end: f64,
    pub(crate) utilisation_end: f64,
    pub(crate) live_end: Vec<usize>,
    /// Between two looks. Far above [`TICK`], the machine had no time for us.
    pub(crate) longest_gap: Duration,
    pub(crate) steps: Vec<Step>,
    /// Of all who came after the start.
    pub(crate) newcomer_first_connection_ms_max: f64,
    /// Those among them who never had a connection.
    pub(crate) newcomers_without: usize,
    /// What the server did for watch and lease, from its own statistics.
    pub(crate) commands: Commands,
    /// CPU of the workers and of the server, in percent of a core.
    pub(crate) client_busy: Option<f64>,
    pub(crate) server_busy: Option<f64>,
    /// Measured later; `None` where it cannot be.
    pub(crate) cost: Option<Cost>,
}

/// What there is when an event ends.
pub(crate) struct Record {
    pub(crate) samples: Vec<Sample>,
    pub(crate) live_end: Vec<usize>,
    pub(crate) done: Vec<crate::orders::Done>,
    pub(crate) commands: Commands,
    pub(crate) client_cpu: Option<Duration>,
    pub(crate) server_cpu: Option<Duration>,
}

impl Run {
    pub(crate) fn new(policy: Policy, plan: &Plan, record: Record) -> Self {
        let Record { samples, live_end, done, commands, client_cpu, server_cpu } = record;
        let first: Vec<_> = done.iter().flat_map(|done| &done.first).copied().collect();
        let mut errors = BTreeMap::new();
        for (error, count) in done.iter().flat_map(|done| &done.errors) {
            *errors.entry(error.clone()).or_default() += count;
        }
        let slowest = |apps: std::ops::Range<usize>| {
            let of = first.iter().filter(|first| apps.contains(&first.app));
            of.map(|first| first.ms).fold(0.0, f64::max)
        };
        let steps = (0..STEPS.len()).map(|step| {
            let begins = plan.offset(step);
            let ends = begins + plan.lengths[step];
            let before = if step == 0 { 0 } else { STEPS[step - 1] };
            let within: Vec<_> = samples.iter().filter(|s| s.at > begins && s.at <= ends).collect();
            let rejected_by = |at| {
                let sample = samples.iter().rev().find(|s| s.at <= at);
                sample.map_or(0, |sample| sample.rejected)
            };
            let unfair = within.iter().rposition(|s| s.jain < FAIR);
            let fair = within.get(unfair.map_or(0, |last| last + 1));
            Step {
                apps: STEPS[step],
                rejected: rejected_by(ends) - rejected_by(begins),
                fair_after: fair.map(|s| s.at - begins),
                first_connection_ms_max: slowest(before..STEPS[step]),
            }
        });
        let length = plan.length();
        let late: Vec<_> = samples.iter().filter(|s| s.at + END >= length).collect();
        let used_late = late.iter().map(|s| float(s.used)).sum::<f64>() / float(late.len() as u64);
        let gaps = samples.windows(2).map(|pair| pair[1].at - pair[0].at);
        let longest_gap = gaps.max().unwrap_or_default();
        let busy = |cpu: Duration| 100.0 * cpu.as_secs_f64() / length.as_secs_f64();
        Self {
            policy,
            ok: done.iter().map(|done| done.ok).sum(),
            failed: done.iter().map(|done| done.failed).sum(),
            errors,
            rejected: samples.last().map_or(0, |s| s.rejected),
            peak_used: samples.iter().map(|s| s.used).max().unwrap_or(0),
            jain_end: jain(&live_end),
            utilisation_end: used_late / f64::from(plan.maxclients),
            live_end,
            longest_gap,
            steps: steps.collect(),
            newcomer_first_connection_ms_max: slowest(STEPS[0]..plan.apps()),
            newcomers_without: first
                .iter()
                .filter(|first| first.app >= STEPS[0] && !first.connected)
                .count(),
            samples,
            commands,
            client_busy: client_cpu.map(busy),
            server_busy: server_cpu.map(busy),
            cost: None,
        }
    }

    /// After the last step.
    pub(crate) fn seconds_to_fair(&self) -> Option<f64> {
        Some(self.steps.last()?.fair_after?.as_secs_f64())
    }

    /// What the server itself says that watch and lease took of it during the event.
    pub(crate) fn server_percent_in_event(&self, plan: &Plan) -> f64 {
        100.0 * self.commands.took().as_secs_f64() / plan.length().as_secs_f64()
    }
}

/// Jain's index: (Σx)² / (n Σx²). R. Jain, D. Chiu and W. Hawe, "A Quantitative Measure of
/// Fairness and Discrimination for Resource Allocation in Shared Computer Systems", DEC, 1984.
pub(crate) fn jain(shares: &[usize]) -> f64 {
    let (sum, squares) = shares.iter().fold((0, 0), |(sum, squares), share| {
        (sum + *share as u64, squares + (*share * *share) as u64)
    });
    if squares == 0 {
        return 0.0;
    }
    float(sum) * float(sum) / (float(shares.len() as u64) * float(squares))
}
