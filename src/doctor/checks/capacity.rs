//! Are there slots left?

use super::holders::{LOOK_AGAIN, are_unused_and_young};
use super::{Findings, above, skip_all, with_comment};
use crate::doctor::facts::{Facts, Info, NoAnswer};
use crate::doctor::report::{Check, Level};
use crate::server::ServerSnapshot;
use crate::vocabulary::words::{clean, count, counted, percent, seconds, span};

/// From here on there is pressure: the guard's price law gives slots back from nine tenths on, and
/// a rolling deploy of a fifth of the fleet no longer fits.
pub(in crate::doctor) const PRESSURE: f64 = 0.8;
/// From here on the next scale-out is refused.
pub(super) const FULL: f64 = 0.9;

/// Refusals a second that only clients which redial at once make: with back-off, a fleet of
/// hundreds makes fewer.
pub(in crate::doctor) const STORM: f64 = 10.0;

/// Accepted connections a second, from which on connections are not kept: a fleet that lives on
/// pools opens some a minute.
pub(super) const CHURN: f64 = 20.0;

/// A restart of a source this small fits anywhere.
const SMALL_SOURCE: usize = 10;

pub(in crate::doctor) const RAISE_BEHIND_PROXY: &str =
    "raise the limit of the server behind the proxy, or free slots there";

pub(in crate::doctor) const RAISE_OPEN_FILES: &str =
    "raise the limit of open files (systemd: LimitNOFILE=65536)";

const NO_INFO_FIX: &str = "without INFO nobody can tell whether slots are left: +info for this user, or the \
                     service's own metrics";

pub(super) fn checks(findings: Findings<'_>, facts: &Facts) -> Vec<Check> {
    let info = match &facts.info {
        Ok(info) => info,
        Err(why) => {
            let blind = Check::new("capacity.saturation", "INFO may be read");
            let blind = match why {
                NoAnswer::Full(words) => refused_behind(blind, words),
                // Told under ping.
                NoAnswer::Busy(_) => {
                    blind.with(Level::Failed, format!("INFO: {why}")).fix(with_comment(
                        findings.redis_cli("SCRIPT KILL"),
                        "where it is a script that has written nothing",
                    ))
                }
                NoAnswer::Lost(_) | NoAnswer::NotAsked => blind.skipped(format!("INFO: {why}")),
                _ => blind.with(Level::Failed, format!("INFO: {why}")).fix(NO_INFO_FIX),
            };
            return std::iter::once(blind)
                .chain(skip_all(
                    [
                        "capacity.headroom",
                        "capacity.ulimit",
                        "capacity.rejections",
                        "capacity.churn",
                    ],
                    "INFO",
                    why,
                ))
                .collect();
        }
    };
    vec![
        saturation(findings, facts, info),
        headroom(facts, info),
        ulimit(facts, info),
        rejections(findings, info),
        churn(findings, info),
    ]
}

/// What a server that refused us said of its capacity.
pub(super) fn of_refusal(findings: Findings<'_>) -> Option<Check> {
    let failure = findings.dials.failure.as_ref().filter(|_| findings.is_full())?;
    let check = Check::new("capacity.saturation", "one slot for us");
    Some(check.with(Level::Failed, clean(&failure.message)).fix(
        "over a connection that is open already: CONFIG SET maxclients <more>; or free slots, and try \
         again with redis-guard doctor --wait 60s",
    ))
}

fn saturation(findings: Findings<'_>, facts: &Facts, info: &Info) -> Check {
    let check = Check::new(
        "capacity.saturation",
        format!("warning from {} on, failed from {}", percent(PRESSURE), percent(FULL)),
    );
    let snapshot = &info.seen.snapshot;
    if let Some(words) = facts.full() {
        return refused_behind(check, words);
    }
    let Some(used) = snapshot.used() else {
        return match *snapshot == ServerSnapshot::default() {
            true => check.with(Level::Failed, "INFO says nothing").fix(NO_INFO_FIX),
            false => check.skipped("INFO does not say how many connections there are"),
        };
    };
    let Some(ceiling) = info.seen.ceiling else {
        return check.skipped(format!("{} in use; how many it takes is not told", count(used)));
    };
    let saturation = info.seen.saturation().unwrap_or(0.0);
    let mut holders = vec![counted(snapshot.connected_clients.unwrap_or(0), "client")];
    holders.extend(snapshot.connected_replicas.filter(|n| *n > 0).map(|n| counted(n, "replica")));
    holders.extend(
        snapshot.cluster_connections.filter(|n| *n > 0).map(|n| counted(n, "cluster link")),
    );
    let kept = Some(snapshot.kept_slots()).filter(|n| *n > 0);
    holders.extend(kept.map(|n| format!("{} more reserved by the server", counted(n, "slot"))));
    let evidence = format!(
        "{} of {} slots ({}): {}",
        count(used),
        count(ceiling),
        percent(saturation),
        holders.join(", ")
    );
    let fix = match are_unused_and_young(facts) {
        true => LOOK_AGAIN.to_owned(),
        false => with_comment(
            findings.config_set("maxclients", info.raised_ceiling()),
            "once its cause is mended, or understood",
        ),
    };
    check.with(above(saturation, PRESSURE, FULL), evidence).fix(fix)
}

fn refused_behind(check: Check, words: impl std::fmt::Display) -> Check {
    let evidence = clean(&format!("a proxy let us in; what is behind it: {words}"));
    check.with(Level::Failed, evidence).fix(RAISE_BEHIND_PROXY)
}

/// A rolling restart opens a source's new connections before the old ones are gone.
fn headroom(facts: &Facts, info: &Info) -> Check {
    let check = Check::new("capacity.headroom", "a restart of the largest source fits beside it");
    let free = info.seen.free();
    let sources = facts.holders.as_ref().ok().map(|holders| &holders.all_sources);
    let Some((free, sources)) = free.zip(sources) else {
        return check.skipped("nothing is known of the slots that are free, or of who holds them");
    };
    let Some(largest) = sources.first() else {
        return check.ok(format!("{} free", count(free)));
    };
    let evidence = format!(
        "{} free; the largest source, {}, holds {}",
        count(free),
        clean(&largest.key),
        count(largest.connections)
    );
    let tight = largest.connections >= SMALL_SOURCE
        && u64::try_from(largest.connections).unwrap_or(u64::MAX) > free;
    check
        .with(if tight { Level::Warning } else { Level::Ok }, evidence)
        .fix("restart it in smaller steps, or give it smaller pools: redis-guard plan works out how large")
}

fn ulimit(facts: &Facts, info: &Info) -> Check {
    let check = Check::new("capacity.ulimit", "maxclients is not what `ulimit -n` left of it");
    let Some(ceiling) = info.seen.snapshot.maxclients else {
        return check.skipped("the server does not tell its maxclients");
    };
    let Some(lowered) = LoweredCeiling::find(ceiling, facts.open_files_limit) else {
        return check.ok(format!("maxclients {}", count(ceiling)));
    };
    let limit = count(lowered.limit);
    let (level, evidence) = match lowered.is_certain {
        true => (
            Level::Failed,
            format!(
                "the process may open {limit} files; less 32, that is maxclients {}",
                count(ceiling)
            ),
        ),
        false => (
            Level::Warning,
            format!(
                "maxclients {} is {limit} less 32: probably what `ulimit -n` left",
                count(ceiling)
            ),
        ),
    };
    check.with(level, evidence).fix(format!(
        "{RAISE_OPEN_FILES} and restart the server; CONFIG SET maxclients cannot go above it"
    ))
}

/// A ceiling that the limit of open files lowered: a server whose limit is too low takes what it
/// allows, less 32, and says so in its log only.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::doctor) struct LoweredCeiling {
    pub(in crate::doctor) limit: u64,
    /// The process has just that limit; otherwise the number looks like it, and no more is known.
    pub(in crate::doctor) is_certain: bool,
}

impl LoweredCeiling {
    /// The process's own limit says no where it is higher. Where it is equal it does not yet say yes: a
    /// server that is allowed to raises it to just what it needs.
    pub(in crate::doctor) fn find(ceiling: u64, open_files_limit: Option<u64>) -> Option<Self> {
        let limit = ceiling.checked_add(32)?;
        // The server looks for a limit that it may have in steps of 16.
        let may_have_more = open_files_limit.is_some_and(|soft| soft.saturating_sub(16) > limit);
        let usual = limit >= 256
            && (limit.is_power_of_two() || limit == 65_535 || limit.is_multiple_of(100))
            && !ceiling.is_multiple_of(50);
        (usual && !may_have_more).then_some(Self { limit, is_certain: open_files_limit.is_some() })
    }
}

fn rejections(findings: Findings<'_>, info: &Info) -> Check {
    let check = Check::new(
        "capacity.rejections",
        format!("none while we look; a storm from {STORM} a second on"),
    );
    let snapshot = &info.seen.snapshot;
    let Some(total) = snapshot.rejected_connections else {
        return check.skipped("the server does not count them");
    };
    let ever = match snapshot.uptime_seconds {
        Some(uptime) => format!("{} in {}", count(total), seconds(uptime)),
        None => format!("{} since it started", count(total)),
    };
    let (level, evidence) = match (info.seen.new_rejections, info.sampled) {
        (Some(new), Some(sampled)) if new > 0 => {
            let rate = info.rejections_per_second().unwrap_or(0.0);
            let now = format!("{} refused in {} ({rate:.1} a second)", count(new), span(sampled));
            (Level::Failed, format!("{now}; {ever}"))
        }
        _ if total > 0 => {
            // Fewer than one an hour are history.
            let often = snapshot.uptime_seconds.is_none_or(|uptime| total > uptime / 3600);
            let level = if often { Level::Warning } else { Level::Note };
            (level, format!("none now; {ever}"))
        }
        _ => (Level::Ok, "none since it started".to_owned()),
    };
    let evidence = match work(info) {
        Some(work) => format!("{evidence}; {work}"),
        None => evidence,
    };
    let fix = match level {
        Level::Failed => {
            "free slots as the verdict says; clients need back-off with jitter, and one \
                          schedule for all of a process's callers"
                .to_owned()
        }
        _ => with_comment(
            findings.redis_cli("CONFIG RESETSTAT"),
            "sets the count, and all other statistics, to zero",
        ),
    };
    check.with(level, evidence).fix(fix)
}

/// What the server does meanwhile: few refusals beside much work are another thing than many beside none.
pub(in crate::doctor) fn work(info: &Info) -> Option<String> {
    let seen = &info.seen;
    let commands = rate(seen.commands_per_second?);
    let cpu = seen.cpu_cores.map(|cores| format!(" on {} of a core", percent(cores)));
    let still = if seen.stands_still { ": it is full, not idle" } else { "" };
    Some(format!("{commands} commands a second{}{still}", cpu.unwrap_or_default()))
}

fn rate(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn churn(findings: Findings<'_>, info: &Info) -> Check {
    let check = Check::new("capacity.churn", format!("{CHURN} a second"));
    let Some(rate) = info.seen.connections_per_second else {
        return check.skipped("the server does not count connections, or was asked once only");
    };
    check
        .with(above(rate, CHURN, f64::INFINITY), format!("{rate:.1} connections accepted a second"))
        .fix(with_comment(
            findings.redis_cli("CLIENT LIST | grep ' age=0 '"),
            "who does not keep its connections?",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_that_ulimit_left_is_recognised() {
        for (ceiling, limit) in [(992, 1024), (4064, 4096), (968, 1000), (65_503, 65_535)] {
            let lowered = |is_certain| Some(LoweredCeiling { limit, is_certain });
            assert_eq!(LoweredCeiling::find(ceiling, None), lowered(false));
            assert_eq!(LoweredCeiling::find(ceiling, Some(limit)), lowered(true));
            assert_eq!(
                LoweredCeiling::find(ceiling, Some(limit + 1000)),
                None,
                "it could have had more"
            );
        }
    }

    #[test]
    fn a_ceiling_that_somebody_chose_is_not() {
        for ceiling in [10, 32, 96, 100, 256, 1000, 1024, 5000, 10_000, 20_000, 65_000, 100_000] {
            assert_eq!(LoweredCeiling::find(ceiling, None), None, "{ceiling}");
            // A server raises its limit to just what it needs.
            assert_eq!(LoweredCeiling::find(ceiling, Some(ceiling + 32)), None, "{ceiling}");
        }
    }
}
