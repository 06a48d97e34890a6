//! Why the slots are gone.

use std::time::Duration;

use super::slots;
use crate::doctor::checks::{self, Findings};
use crate::doctor::facts::{Facts, Info};
use crate::doctor::holders::{Holder, Holders};
use crate::doctor::report::{Verdict, VerdictKind};
use crate::doctor::unused::{self, Unused};
use crate::sizing::{Plan, wide};
use crate::vocabulary::words::{count, counted, percent, span};

pub(super) fn unused_connections(
    findings: Findings<'_>,
    facts: &Facts,
    info: &Info,
    holders: &Holders,
) -> Option<Verdict> {
    let ceiling = info.seen.ceiling;
    let reason = format!(
        "{} of {} had no command for {} and more: {} of all slots",
        count(holders.idle),
        counted(holders.clients, "client"),
        span(findings.options.idle_after),
        checks::share(holders.idle, ceiling)
    );
    let verdict = match checks::find_unused(facts, holders)? {
        Unused::Leaked(sources) => leak(&sources, holders, ceiling, reason),
        Unused::InPools { size } => oversized_pools(size, holders, ceiling, reason),
        Unused::Young => return Some(unused(findings, info, holders)),
    };
    Some(verdict.action(format!("until then: {}", findings.config_set("timeout", 300))))
}

fn leak(sources: &[&Holder], holders: &Holders, ceiling: Option<u64>, unused: String) -> Verdict {
    let leaked: usize = sources.iter().map(|source| source.unused()).sum();
    let abandoned: usize = sources.iter().map(|source| source.abandoned).sum();
    let summary = format!(
        "{} that nobody uses any more, by {}",
        counted(leaked, "connection"),
        checks::named(sources.iter().copied())
    );
    let outliers = unused::outliers(&holders.all_sources);
    let first = sources.first().map(|source| &source.key);
    let stands_out = match outliers.iter().find(|(source, _)| Some(&source.key) == first) {
        Some((_, median)) => format!("its peers hold {} in the median", count(*median)),
        None => "opened one after another: a pool would have used those it had".to_owned(),
    };
    Verdict::new(VerdictKind::Leak, summary)
        .reason(unused)
        .reason(format!(
            "{} were used when they were new, and never since: {} of all slots",
            count(abandoned),
            checks::share(abandoned, ceiling)
        ))
        .reason(stands_out)
        .action("restart the leaking processes one at a time: that frees their slots")
        .action(
            "find what takes a connection and does not give it back; redis-guard reports the place \
             in the source (status().leaks)",
        )
}

/// Whose fault it is only time tells; that they are used would be wrong already.
fn unused(findings: Findings<'_>, info: &Info, holders: &Holders) -> Verdict {
    let mut unused: Vec<&Holder> =
        holders.all_sources.iter().filter(|source| source.never_used > 0).collect();
    unused.sort_by_key(|source| std::cmp::Reverse(source.never_used));
    let oldest = holders.never_used_for.map_or_else(String::new, |age| {
        format!(", the oldest of them for {}", span(Duration::from_secs(age)))
    });
    let verdict = match unused::is_much(holders.never_used, info.seen.ceiling) {
        true => Verdict::new(
            VerdictKind::Unused,
            format!(
                "{} were not used since they were new{oldest}: a leak, or pools that have just been opened",
                counted(holders.never_used, "connection"),
            ),
        )
        .reason(format!("most of them are held by {}", checks::named(unused))),
        false => Verdict::new(
            VerdictKind::Unused,
            "whoever holds the connections does not use them now, while others are refused",
        )
        .reason(format!("most are held by {}", checks::named(&holders.all_sources))),
    };
    verdict
        .reason(at_work(findings, holders))
        .reason(slots(info))
        .reasons(checks::work(info))
        .action(checks::LOOK_AGAIN)
        .action("until then more slots would only be held in the same way")
}

/// What is known of those who hold the slots: who works, and who waits or does not.
fn at_work(findings: Findings<'_>, holders: &Holders) -> String {
    let mut words = format!(
        "{} of {} had a command within {}",
        count(holders.recent),
        counted(holders.clients, "client"),
        span(findings.options.idle_after)
    );
    // They hold their slots whether there is anything for them or not.
    for (clients, what) in [
        (holders.blocked, "in a blocking command"),
        (holders.subscribers, "subscribed"),
        (holders.never_used, "not used since they were new"),
    ] {
        if clients > 0 {
            words.push_str(&format!(", {} {what}", count(clients)));
        }
    }
    words
}

/// `size`: of most pools, where most are equal.
fn oversized_pools(
    size: Option<usize>,
    holders: &Holders,
    ceiling: Option<u64>,
    unused: String,
) -> Verdict {
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
        .reason(unused)
        .reason(format!("no more than {} were in use in that time", count(used)))
        .action(format!(
            "smaller pools: {} each is twice what was used; redis-guard plan tells what fits",
            count(enough)
        ))
        .action("an idle timeout in the pool, or one shared connection for a process")
}

pub(super) fn blocked_consumers(
    findings: Findings<'_>,
    facts: &Facts,
    info: &Info,
    holders: &Holders,
) -> Option<Verdict> {
    if !checks::blocked_fill_slots(facts, holders) {
        return None;
    }
    let summary = format!(
        "consumers in blocking commands hold {} of the slots",
        checks::share(holders.blocked, info.seen.ceiling)
    );
    let mut verdict = Verdict::new(VerdictKind::BlockedConsumers, summary)
        .reason(checks::blocked_by_command(holders))
        .reason(slots(info));
    let waits = holders.waiting_for_replicas();
    if waits > 0 {
        let online = info.seen.replicas_online.unwrap_or(0);
        verdict = verdict
            .reason(format!(
                "{} for an acknowledgement, of {}",
                count(waits),
                counted(online, "replica")
            ))
            .action("give WAIT a timeout, and bring the replica back");
    }
    Some(
        verdict
            .action("one reader for many workers of a process, or a stream with a consumer group")
            .action(findings.config_set("maxclients", info.raised_ceiling())),
    )
}

pub(super) fn internal_connections(findings: Findings<'_>, info: &Info) -> Option<Verdict> {
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
            .reason(format!("{replicas}, {links}"))
            .reason("a node has two links to each other one, and each counts against maxclients")
            .action(findings.config_set("maxclients", info.raised_ceiling()))
            .action("count them in: redis-guard plan --replicas"),
    )
}

pub(super) fn ceiling_too_low(
    findings: Findings<'_>,
    info: &Info,
    holders: Option<&Holders>,
    lowered: Option<u64>,
) -> Verdict {
    let summary = match lowered {
        Some(limit) => format!(
            "`ulimit -n` of {} lowered maxclients to {}",
            count(limit),
            count(info.seen.ceiling.unwrap_or(0))
        ),
        None => "the connections are used, and there are too few".to_owned(),
    };
    let verdict = Verdict::new(VerdictKind::CeilingTooLow, summary).reason(slots(info));
    let mut verdict = verdict.reasons(checks::work(info));
    if let (Some(holders), None) = (holders, lowered) {
        let most = checks::named(&holders.all_sources);
        verdict =
            verdict.reason(at_work(findings, holders)).reason(format!("most are held by {most}"));
    }
    match lowered {
        Some(_) => verdict
            .reason("the server says so in its log when it starts, and nowhere else")
            .action(format!("{}, and restart", checks::RAISE_OPEN_FILES)),
        None => verdict
            .action(findings.config_set("maxclients", info.raised_ceiling()))
            .action("mind `ulimit -n` (maxclients and 32 more), and memory: tens of kilobytes a connection")
            .action("fewer connections for the same work: shared handles need one a process"),
    }
}
