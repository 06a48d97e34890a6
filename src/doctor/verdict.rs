//! What it comes down to. Pure: from facts and checks to verdicts.

mod causes;
mod not_connected;
mod topology;

use super::checks::{self, Findings};
use super::cluster::Cluster;
use super::facts::{Facts, Info};
use super::report::{Check, Level, Verdict, VerdictKind};
use crate::server::ServerSnapshot;
use crate::sizing::wide;
use crate::vocabulary::words::{clean, count, counted, span};

/// Where a server accepts, and does not answer.
const LOOK_AT_ITS_PROCESS: &str =
    "on its machine: is the process stopped, swapping, forking, or in one long command?";

impl Verdict {
    fn new(kind: VerdictKind, summary: impl Into<String>) -> Self {
        Self { kind, summary: summary.into(), reasons: Vec::new(), actions: Vec::new() }
    }

    fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    fn reasons(mut self, reasons: impl IntoIterator<Item = String>) -> Self {
        self.reasons.extend(reasons);
        self
    }

    fn action(mut self, action: impl Into<String>) -> Self {
        self.actions.push(action.into());
        self
    }

    pub(super) fn bad_url(problem: &str) -> Self {
        Self::new(VerdictKind::BadUrl, format!("this is no URL of a server: {}", clean(problem)))
            .action(checks::URL_FORMS)
    }
}

/// The main one, and the rest.
pub(super) fn of(findings: Findings<'_>, checks: &[Check]) -> (Verdict, Vec<Verdict>) {
    let mut verdicts = match findings.facts {
        None => vec![not_connected::verdict(findings)],
        Some(facts) => of_facts(findings, facts),
    };
    let (first, last) = topology::verdicts(checks);
    verdicts.splice(0..0, first);
    verdicts.extend(last);
    if verdicts.is_empty() {
        verdicts.push(of_checks(findings, checks));
    }
    let rest = verdicts.split_off(1);
    (verdicts.remove(0), rest)
}

/// What hurts most comes first: what has to be stopped before anything else can be mended, then why
/// the slots are gone, then the rest.
fn of_facts(findings: Findings<'_>, facts: &Facts) -> Vec<Verdict> {
    let lost = facts.lost().map(|words| stopped_answering(findings, words));
    let full = facts.full().map(|words| {
        Verdict::new(VerdictKind::Full, "a proxy let us in, and what is behind it has no slot left")
            .reason(clean(words))
            .action(checks::RAISE_BEHIND_PROXY)
    });
    let busy = facts.busy().map(busy);
    let Ok(info) = &facts.info else {
        return lost.into_iter().chain(full).chain(busy).collect();
    };
    let holders = facts.holders.as_ref().ok();
    let causes = [
        holders.and_then(|holders| causes::unused_connections(findings, facts, info, holders)),
        holders.and_then(|holders| causes::blocked_consumers(findings, facts, info, holders)),
        causes::internal_connections(findings, info),
    ];
    let mut causes: Vec<Verdict> = causes.into_iter().flatten().collect();
    // A number that only looks like it is no cause of anything while there is room.
    let lowered = info.seen.snapshot.maxclients.and_then(|ceiling| {
        checks::LoweredCeiling::find(ceiling, facts.open_files_limit)
            .filter(|lowered| lowered.is_certain || checks::is_under_pressure(info))
    });
    // Where nobody can see who holds most of them, nobody can say that they are used.
    let seen = holders.is_some_and(|holders| {
        let clients = info.seen.snapshot.connected_clients.unwrap_or(0);
        wide(holders.clients).saturating_mul(2) >= clients
    });
    let used = seen && causes.is_empty() && checks::is_under_pressure(info);
    if lowered.is_some() || used {
        let limit = lowered.map(|lowered| lowered.limit);
        causes.push(causes::ceiling_too_low(findings, info, holders, limit));
    }
    let storm = storm(findings, info, !checks::are_unused_and_young(facts));
    [lost, full, loading(info), storm]
        .into_iter()
        .flatten()
        .chain(causes)
        .chain(replica_lost(findings, facts, info))
        .collect()
}

fn busy(words: &str) -> Verdict {
    Verdict::new(VerdictKind::Unresponsive, "it is at something else, and does not even answer INFO")
        .reason(clean(words))
        .reason("every client waits for it, and whoever dials meanwhile takes a slot and waits too")
        .action("a script: SCRIPT KILL, or FUNCTION KILL; one that has written can only be waited for, or the \
             server be failed over")
}

fn loading(info: &Info) -> Option<Verdict> {
    let left = checks::loading_time_left(info);
    (info.seen.snapshot.loading == Some(true)).then(|| {
        Verdict::new(VerdictKind::Loading, format!("it loads its data set{left}"))
            .reason("until then it answers commands on keys with LOADING")
            .action("wait: a restart begins anew")
            .action("clients should back off; promote a replica where that takes too long")
    })
}

/// `more`: more slots would be used.
fn storm(findings: Findings<'_>, info: &Info, more: bool) -> Option<Verdict> {
    let rate = info.rejections_per_second().filter(|rate| *rate >= checks::STORM)?;
    let new = info.seen.new_rejections?;
    let refused = format!("{} refused in {}", counted(new, "connection"), span(info.sampled?));
    let mut verdict = Verdict::new(
        VerdictKind::RetryStorm,
        format!("clients that are refused redial at once: {rate:.0} times a second"),
    )
    .reason(refused)
    .reason(slots(info))
    .reasons(checks::work(info));
    verdict = match more {
        true => verdict
            .action("free slots, or raise the ceiling, first: the storm ends when there is room")
            .action(findings.config_set("maxclients", info.raised_ceiling())),
        false => verdict.action("free slots first: the storm ends when there is room"),
    };
    Some(verdict.action(
        "then give the clients one back-off with jitter for all of a process's callers, as redis-guard does",
    ))
}

fn replica_lost(findings: Findings<'_>, facts: &Facts, info: &Info) -> Option<Verdict> {
    let seen = &info.seen;
    let expected = checks::expected(findings, facts, info);
    let connected = seen.snapshot.connected_replicas.or(seen.replicas_online)?;
    if checks::has_lost_its_master(info) {
        let verdict = Verdict::new(VerdictKind::ReplicaLost, "this replica has lost its master")
            .reason("its link is down: what it answers grows old")
            .action("is the master up, does the network reach it, and are its password and address right?")
            .action("a full master refuses its replicas as well: redis-guard doctor <the master>");
        return Some(verdict);
    }
    let verdict = if connected < expected {
        Verdict::new(
            VerdictKind::ReplicaLost,
            format!("{} where there should be {}", counted(connected, "replica"), count(expected)),
        )
        .reason(match findings.options.expect_replicas {
            Some(asked) if asked == expected => "that is how many were asked for",
            _ => "the server still keeps a backlog for one that was there",
        })
    } else {
        return None;
    };
    Some(
        verdict
            .action("is the replica up, and does its network reach the master?")
            .action("a full master refuses its replicas as well: they count against maxclients"),
    )
}

/// Where nothing stands out.
fn of_checks(findings: Findings<'_>, checks: &[Check]) -> Verdict {
    let info = findings.facts.and_then(|facts| facts.info.as_ref().ok());
    let Some(info) = info.filter(|info| info.seen.snapshot != ServerSnapshot::default()) else {
        return Verdict::new(VerdictKind::Unknown, "it does not tell how many connections it has")
            .reason("INFO could not be read")
            .action("grant +info to this user, or ask the service's own metrics");
    };
    let of_level = |level: Level| checks.iter().filter(move |check| check.level == level);
    if of_level(Level::Failed).next().is_some() {
        let ids: Vec<&str> = of_level(Level::Failed).map(|check| check.id).collect();
        let mut verdict =
            Verdict::new(VerdictKind::ChecksFailed, format!("look at {}", ids.join(", ")));
        verdict.reasons.extend(of_level(Level::Failed).map(|check| check.evidence.clone()));
        verdict.actions.extend(of_level(Level::Failed).filter_map(|check| check.fix.clone()));
        return verdict;
    }
    let warnings: Vec<&str> = of_level(Level::Warning).map(|check| check.id).collect();
    let skipped = of_level(Level::Skipped).count();
    let mut verdict = Verdict::new(VerdictKind::NothingWrong, slots(info));
    if findings.facts.is_some_and(|facts| facts.sentinel.is_some()) {
        verdict = verdict.reason(
            "it is a sentinel, which serves no data; what it watches is examined below, master by master",
        );
    }
    let looked_at = |it: &Cluster| it.nodes.iter().filter(|node| node.seen.is_some()).count();
    let others = findings.cluster.map_or(0, looked_at).saturating_sub(1);
    if others > 0 {
        let others = counted(others, "other node");
        verdict = verdict.reason(format!("the {others} of its cluster have reports of their own"));
    }
    let mut said = vec!["no check failed".to_owned()];
    if !warnings.is_empty() {
        said.push(format!("worth a look: {}", warnings.join(", ")));
    }
    if skipped > 0 {
        said.push(format!("{} could not be made", counted(skipped, "check")));
    }
    match said.len() {
        1 => verdict,
        _ => verdict.reason(said.join("; ")),
    }
}

fn stopped_answering(findings: Findings<'_>, words: &str) -> Verdict {
    Verdict::new(VerdictKind::Unresponsive, "it let us in, and then it stopped answering")
        .reason(clean(words))
        .reason(format!("a command may take {}", span(findings.location.timeout)))
        .action(LOOK_AT_ITS_PROCESS)
        .action("was it restarted? ask again")
}

fn slots(info: &Info) -> String {
    let (used, ceiling) = (info.seen.snapshot.used(), info.seen.ceiling);
    match (used, ceiling) {
        (Some(used), Some(ceiling)) => {
            format!("{} of {} slots are in use", count(used), count(ceiling))
        }
        (Some(used), None) => {
            format!("{} in use; how many there are is not told", counted(used, "slot"))
        }
        (None, _) => "how many slots are in use is not told".to_owned(),
    }
}

#[cfg(test)]
mod tests;
