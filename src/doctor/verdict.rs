//! What it comes down to. Pure: from facts and checks to verdicts.

mod not_connected;

use super::checks::{self, Case};
use super::facts::{Facts, Info};
use super::hoard::{self, Hoard};
use super::holders::Holders;
use super::report::{Check, Level, Verdict, VerdictKind};
use crate::server::ServerSnapshot;
use crate::sizing::{Plan, wide};
use crate::vocabulary::words::{clean, count, counted, percent, seconds, span};

impl Verdict {
    fn new(kind: VerdictKind, summary: impl Into<String>) -> Self {
        Self { kind, summary: summary.into(), reasons: Vec::new(), actions: Vec::new() }
    }

    fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    fn so(mut self, action: impl Into<String>) -> Self {
        self.actions.push(action.into());
        self
    }

    pub(super) fn bad_url(problem: &str) -> Self {
        Self::new(VerdictKind::BadUrl, format!("this is no URL of a server: {}", clean(problem)))
            .so("redis://[user:password@]host[:port][/db], rediss:// for TLS, redis+unix:///path")
    }
}

/// The main one, and the rest.
pub(super) fn of(case: Case<'_>, checks: &[Check]) -> (Verdict, Vec<Verdict>) {
    let mut verdicts = match case.facts {
        None => vec![not_connected::verdict(case)],
        Some(facts) => of_facts(case, facts),
    };
    if verdicts.is_empty() {
        verdicts.push(of_checks(case, checks));
    }
    let rest = verdicts.split_off(1);
    (verdicts.remove(0), rest)
}

/// What hurts most comes first: what has to be stopped before anything else can be mended, then why
/// the slots are gone, then the rest.
fn of_facts(case: Case<'_>, facts: &Facts) -> Vec<Verdict> {
    let lost = facts.lost().map(|words| stopped_answering(case, words));
    let full = facts.full().map(|words| {
        Verdict::new(VerdictKind::Full, "a proxy let us in, and what is behind it has no slot left")
            .because(clean(words))
            .so("raise the limit of the server behind the proxy, or free slots there")
    });
    let busy = facts.busy().map(busy);
    let Ok(info) = &facts.info else {
        return lost.into_iter().chain(full).chain(busy).collect();
    };
    let holders = facts.holders.as_ref().ok();
    let causes = [
        holders.and_then(|holders| hoard(case, facts, info, holders)),
        holders.and_then(|holders| blocked(case, facts, info, holders)),
        internal(case, info),
    ];
    let mut causes: Vec<Verdict> = causes.into_iter().flatten().collect();
    // A number that only looks like it is no cause of anything while there is room.
    let shrunk = info.seen.snapshot.maxclients.and_then(|ceiling| {
        checks::Shrunk::find(ceiling, facts.open_files_limit)
            .filter(|shrunk| shrunk.is_certain || checks::is_pressed(info))
    });
    // Where nobody can see who holds most of them, nobody can say that they are used.
    let seen = holders.is_some_and(|holders| {
        let clients = info.seen.snapshot.connected_clients.unwrap_or(0);
        wide(holders.clients).saturating_mul(2) >= clients
    });
    let used = seen && causes.is_empty() && checks::is_pressed(info);
    if shrunk.is_some() || used {
        let limit = shrunk.map(|shrunk| shrunk.limit);
        causes.push(ceiling_too_low(case, info, holders, limit));
    }
    [lost, full, loading(info), storm(case, info)]
        .into_iter()
        .flatten()
        .chain(causes)
        .chain(replica_lost(case, facts, info))
        .collect()
}

fn busy(words: &str) -> Verdict {
    Verdict::new(VerdictKind::Unresponsive, "it is at something else, and does not even answer INFO")
        .because(clean(words))
        .because("every client waits for it, and whoever dials meanwhile takes a slot and waits too")
        .so("a script: SCRIPT KILL, or FUNCTION KILL; one that has written can only be waited for, or the \
             server be failed over")
}

fn loading(info: &Info) -> Option<Verdict> {
    let left = info.field::<u64>("loading_eta_seconds");
    let left = left.map_or_else(String::new, |left| format!(", about {} left", seconds(left)));
    (info.seen.snapshot.loading == Some(true)).then(|| {
        Verdict::new(VerdictKind::Loading, format!("it loads its data set{left}"))
            .because("until then it answers commands on keys with LOADING")
            .so("wait: a restart begins anew")
            .so("clients should back off; promote a replica where that takes too long")
    })
}

fn storm(case: Case<'_>, info: &Info) -> Option<Verdict> {
    let rate = info.rejections_per_second().filter(|rate| *rate >= checks::STORM)?;
    let new = info.seen.new_rejections?;
    let refused = format!("{} refused in {}", counted(new, "connection"), span(info.sampled?));
    Some(
        Verdict::new(
            VerdictKind::RetryStorm,
            format!("clients that are refused redial at once: {rate:.0} times a second"),
        )
        .because(refused)
        .because(slots(info))
        .so("free slots, or raise the ceiling, first: the storm ends when there is room")
        .so(case.set("maxclients", info.more()))
        .so("then give the clients one back-off with jitter for all of a process's callers, as redis-guard does"),
    )
}

fn hoard(case: Case<'_>, facts: &Facts, info: &Info, holders: &Holders) -> Option<Verdict> {
    let ceiling = info.seen.ceiling;
    let after = span(case.options.idle_after);
    let unused = format!(
        "{} of {} had no command for {after} and more: {} of all slots",
        count(holders.idle),
        counted(holders.clients, "client"),
        checks::share(holders.idle, ceiling)
    );
    let verdict = match checks::hoard_of(facts, holders)? {
        Hoard::Leak(sources) => {
            let leaked: usize = sources.iter().map(|source| source.unused()).sum();
            let abandoned: usize = sources.iter().map(|source| source.abandoned).sum();
            let summary = format!(
                "{} that nobody uses any more, by {}",
                counted(leaked, "connection"),
                checks::named(sources.iter().copied())
            );
            let outliers = hoard::outliers(&holders.all_sources);
            let median = outliers.iter().find(|(source, _)| source.key == sources[0].key);
            let stands_out = match median {
                Some((_, median)) => {
                    format!("its peers hold {} in the median", count(*median))
                }
                None => "opened one after another: a pool would have used those it had".to_owned(),
            };
            Verdict::new(VerdictKind::Leak, summary)
                .because(unused)
                .because(format!(
                    "{} were used when they were new, and never since: {} of all slots",
                    count(abandoned),
                    checks::share(abandoned, ceiling)
                ))
                .because(stands_out)
                .so("restart the leaking processes one at a time: that frees their slots")
                .so("find what takes a connection and does not give it back; redis-guard reports the place \
                     in the source (status().leaks)")
                .so(format!("until then: {}", case.set("timeout", 300)))
        }
        Hoard::Pools { size } => {
            let sizes = size.map_or_else(String::new, |size| format!(" of {}", count(size)));
            let summary = format!(
                "of {} in {}{sizes}, {} are idle; most: {}",
                counted(holders.clients, "connection"),
                counted(holders.sources, "pool"),
                count(holders.idle),
                checks::named(&holders.all_sources)
            );
            let used = holders.clients - holders.idle;
            let pools = holders.sources.max(1);
            // Twice what was used, which is no more than what there is room for.
            let room = Plan::new(ceiling.unwrap_or(0)).instances(wide(pools)).work_out();
            let enough = used.saturating_mul(2).div_ceil(pools).min(room.largest_pool_size).max(1);
            Verdict::new(VerdictKind::OversizedPools, summary)
                .because(unused)
                .because(format!("no more than {} were in use in that time", count(used)))
                .so(format!(
                    "smaller pools: {} each is twice what was used; redis-guard plan tells what fits",
                    count(enough)
                ))
                .so("an idle timeout in the pool, or one shared connection for a process")
                .so(format!("until then: {}", case.set("timeout", 300)))
        }
    };
    Some(verdict)
}

fn blocked(case: Case<'_>, facts: &Facts, info: &Info, holders: &Holders) -> Option<Verdict> {
    if !checks::is_crowd(facts, holders) {
        return None;
    }
    let commands = holders.blocked_by_command.iter();
    let commands = commands
        .map(|(command, n)| format!("{} in {}", count(*n), clean(command).to_ascii_uppercase()));
    let summary = format!(
        "consumers in blocking commands hold {} of the slots",
        checks::share(holders.blocked, info.seen.ceiling)
    );
    let mut verdict = Verdict::new(VerdictKind::BlockedConsumers, summary)
        .because(commands.collect::<Vec<_>>().join(", "))
        .because(slots(info));
    let waits = holders.waiting_for_replicas();
    if waits > 0 {
        let online = info.seen.replicas_online.unwrap_or(0);
        verdict = verdict
            .because(format!(
                "{} for an acknowledgement, of {}",
                count(waits),
                counted(online, "replica")
            ))
            .so("give WAIT a timeout, and bring the replica back");
    }
    Some(
        verdict
            .so("one reader for many workers of a process, or a stream with a consumer group")
            .so(case.set("maxclients", info.more())),
    )
}

fn internal(case: Case<'_>, info: &Info) -> Option<Verdict> {
    let share = checks::internal_share(info)?;
    let snapshot = &info.seen.snapshot;
    let replicas = counted(snapshot.connected_replicas.unwrap_or(0), "replica");
    let links = counted(snapshot.cluster_connections.unwrap_or(0), "cluster link");
    let verdict = Verdict::new(
        VerdictKind::InternalConnections,
        format!("the servers' own connections hold {} of the slots", percent(share)),
    );
    Some(
        verdict
            .because(format!("{replicas}, {links}"))
            .because("a node has two links to each other one, and each counts against maxclients")
            .so(case.set("maxclients", info.more()))
            .so("count them in: redis-guard plan --replicas"),
    )
}

fn ceiling_too_low(
    case: Case<'_>,
    info: &Info,
    holders: Option<&Holders>,
    shrunk: Option<u64>,
) -> Verdict {
    let summary = match shrunk {
        Some(limit) => format!(
            "`ulimit -n` of {} lowered maxclients to {}",
            count(limit),
            count(info.seen.ceiling.unwrap_or(0))
        ),
        None => "the connections are used, and there are too few".to_owned(),
    };
    let mut verdict = Verdict::new(VerdictKind::CeilingTooLow, summary).because(slots(info));
    if let (Some(holders), None) = (holders, shrunk) {
        verdict = verdict.because(format!(
            "{} of {} had a command within {}",
            count(holders.clients - holders.idle),
            counted(holders.clients, "client"),
            span(case.options.idle_after)
        ));
        let most = checks::named(&holders.all_sources);
        verdict = verdict.because(format!("most are held by {most}"));
        if holders.abandoned > 0 {
            let abandoned = count(holders.abandoned);
            verdict = verdict.because(format!("{abandoned} were not used since they were new"));
        }
    }
    match shrunk {
        Some(_) => verdict
            .because("the server says so in its log when it starts, and nowhere else")
            .so("raise the limit of open files (systemd: LimitNOFILE=65536), and restart"),
        None => verdict
            .so(case.set("maxclients", info.more()))
            .so("mind `ulimit -n` (maxclients and 32 more), and memory: tens of kilobytes a connection")
            .so("fewer connections for the same work: shared handles need one a process"),
    }
}

fn replica_lost(case: Case<'_>, facts: &Facts, info: &Info) -> Option<Verdict> {
    let seen = &info.seen;
    let expected = checks::expected(case, facts, info);
    let connected = seen.snapshot.connected_replicas.or(seen.replicas_online)?;
    if checks::has_lost_its_master(info) {
        let verdict = Verdict::new(VerdictKind::ReplicaLost, "this replica has lost its master")
            .because("its link is down: what it answers grows old")
            .so("is the master up, does the network reach it, and are its password and address right?")
            .so("a full master refuses its replicas as well: redis-guard doctor <the master>");
        return Some(verdict);
    }
    let verdict = if connected < expected {
        Verdict::new(
            VerdictKind::ReplicaLost,
            format!("{} where there should be {}", counted(connected, "replica"), count(expected)),
        )
        .because(match case.options.expect_replicas {
            Some(asked) if asked == expected => "that is how many were asked for",
            _ => "the server still keeps a backlog for one that was there",
        })
    } else {
        return None;
    };
    Some(
        verdict
            .so("is the replica up, and does its network reach the master?")
            .so("a full master refuses its replicas as well: they count against maxclients"),
    )
}

/// Where nothing stands out.
fn of_checks(case: Case<'_>, checks: &[Check]) -> Verdict {
    let info = case.facts.and_then(|facts| facts.info.as_ref().ok());
    let Some(info) = info.filter(|info| info.seen.snapshot != ServerSnapshot::default()) else {
        return Verdict::new(VerdictKind::Unknown, "it does not tell how many connections it has")
            .because("INFO could not be read")
            .so("grant +info to this user, or ask the service's own metrics");
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
    if info.field::<String>("redis_mode").as_deref() == Some("sentinel") {
        verdict = verdict.because("it is a Sentinel: it watches masters, and serves no data");
    }
    if !warnings.is_empty() {
        verdict = verdict.because(format!("to look at: {}", warnings.join(", ")));
    }
    if skipped > 0 {
        verdict = verdict.because(format!("{} could not be made", counted(skipped, "check")));
    }
    verdict
}

fn stopped_answering(case: Case<'_>, words: &str) -> Verdict {
    Verdict::new(VerdictKind::Unresponsive, "it let us in, and then it stopped answering")
        .because(clean(words))
        .because(format!("a command may take {}", span(case.place.patience)))
        .so("on its machine: is the process stopped, swapping, forking, or in one long command?")
        .so("was it restarted? ask again")
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
