//! The checks: what was seen, held against a threshold. Pure.

mod capacity;
mod cluster;
mod holders;
mod reachability;
mod replication;
mod sentinel;
mod server;

use super::Options;
use super::cluster::Cluster;
use super::facts::{Dials, Facts, NoAnswer};
use super::probe::Location;
use super::report::{Check, Level};
use super::sentinel::Set;
use crate::Outcome;

pub(super) use capacity::{LoweredCeiling, RAISE_BEHIND_PROXY, RAISE_OPEN_FILES, STORM, work};
pub(super) use holders::{
    LOOK_AGAIN, are_unused_and_young, blocked_by_command, blocked_fill_slots, find_unused,
    internal_share, is_under_pressure, named, share,
};
pub(super) use reachability::is_before_tls;
pub(super) use replication::{expected, has_lost_its_master};
pub(super) use server::loading_time_left;

/// All there is to judge one server by.
#[derive(Clone, Copy)]
pub(super) struct Findings<'a> {
    pub(super) location: &'a Location,
    pub(super) options: &'a Options,
    pub(super) dials: &'a Dials,
    /// `None` without a connection.
    pub(super) facts: Option<&'a Facts>,
    /// Of a master that a sentinel led to.
    pub(super) set: Option<&'a Set>,
    /// Of the node of a cluster whose URL led to the others.
    pub(super) cluster: Option<&'a Cluster>,
}

/// Every check that could be made, in the order of the report.
pub(super) fn all(findings: Findings<'_>) -> Vec<Check> {
    let mut checks = reachability::checks(findings);
    match findings.facts {
        Some(facts) => {
            checks.extend(capacity::checks(findings, facts));
            checks.extend(holders::checks(findings, facts));
            checks.extend(server::checks(findings, facts));
            checks.extend(replication::checks(findings, facts));
        }
        None => checks.extend(capacity::of_refusal(findings)),
    }
    checks.extend(sentinel::checks(findings));
    checks.extend(findings.cluster.map(|it| cluster::checks(findings, it)).unwrap_or_default());
    checks
}

pub(super) const URL_FORMS: &str =
    "redis://[user:password@]host[:port][/db], rediss:// for TLS, redis+unix:///path, or host:port";

/// The only check of a URL that is none.
pub(super) fn bad_url(problem: &str) -> Check {
    let check = Check::new("reachability.url", "a URL that redis-rs takes");
    check.with(Level::Failed, crate::vocabulary::words::clean(problem)).fix(URL_FORMS)
}

impl Findings<'_> {
    /// The command that sets a parameter, or what to do where CONFIG is denied.
    pub(super) fn config_set(&self, name: &str, value: impl std::fmt::Display) -> String {
        match self.is_managed() {
            false => format!("{} CONFIG SET {name} {value}", self.location.redis_cli),
            true => format!(
                "CONFIG is denied here: set `{name}` to {value} where the service is managed \
                 (console, parameter group), or choose a larger plan"
            ),
        }
    }

    /// A command of redis-cli's for this server, ready to be pasted.
    pub(super) fn redis_cli(&self, command: &str) -> String {
        format!("{} {command}", self.location.redis_cli)
    }

    /// True where no slot was left for us: it said so, or it hung up over TLS, where a full server
    /// says nothing. One that hangs up over plain TCP is something else, as a full server speaks
    /// there.
    pub(super) fn is_full(&self) -> bool {
        match self.dials.outcome() {
            Outcome::MaxClients => true,
            Outcome::SuspectedMaxClients => self.location.is_tls,
            _ => false,
        }
    }

    /// True where the server keeps CONFIG from us, as managed services do.
    pub(super) fn is_managed(&self) -> bool {
        self.facts.is_some_and(Facts::is_managed)
    }
}

/// A command and why, as a shell reads it.
fn with_comment(command: impl std::fmt::Display, why: impl std::fmt::Display) -> String {
    format!("{command}  # {why}")
}

impl Check {
    /// A check of this name; `threshold` says where it would be worse.
    fn new(id: &'static str, threshold: impl Into<String>) -> Self {
        let threshold = threshold.into();
        Self { id, level: Level::Ok, evidence: String::new(), threshold, fix: None }
    }

    fn with(mut self, level: Level, evidence: impl Into<String>) -> Self {
        self.level = level;
        self.evidence = evidence.into();
        self
    }

    fn ok(self, evidence: impl Into<String>) -> Self {
        self.with(Level::Ok, evidence)
    }

    fn note(self, evidence: impl Into<String>) -> Self {
        self.with(Level::Note, evidence)
    }

    fn skipped(self, why: impl Into<String>) -> Self {
        self.with(Level::Skipped, why)
    }

    /// Shown only where there is something to mend.
    fn fix(mut self, fix: impl Into<String>) -> Self {
        if self.level >= Level::Warning {
            self.fix = Some(fix.into());
        }
        self
    }
}

/// All of these, which could not be made, for one reason.
fn skip_all(
    ids: impl IntoIterator<Item = &'static str>,
    what: &str,
    why: &NoAnswer,
) -> impl Iterator<Item = Check> {
    let why = format!("{what}: {why}");
    ids.into_iter().map(move |id| Check::new(id, "known").skipped(why.clone()))
}

/// `Failed` from `failed` on, `Warning` from `warning` on.
fn above(value: f64, warning: f64, failed: f64) -> Level {
    match value {
        value if value >= failed => Level::Failed,
        value if value >= warning => Level::Warning,
        _ => Level::Ok,
    }
}
