//! Who holds the slots?

use super::capacity::{CHURN, PRESSURE};
use super::{Findings, skip_all, with_comment};
use crate::doctor::facts::{Facts, Info};
use crate::doctor::holders::{Holder, Holders};
use crate::doctor::report::{Check, Level};
use crate::doctor::unused::{self, Unused};
use crate::server::{DEAD, Product, ServerSnapshot};
use crate::vocabulary::words::{bytes, clean, count, counted, percent, seconds, span};

/// Hundredths of the slots that are the cause of slots running out: without them there would be room
/// for a third more.
const CAUSE_PERCENT: usize = 25;

/// The same while there is room: they are the next thing to fill the server.
const CAUSE_PERCENT_WITH_ROOM: usize = 40;

/// New connections that are more than a deployment of one instance; see [`young`].
const MANY_YOUNG: usize = 10;

/// What is opened and not used yet is a leak's, or that of a pool which has just begun: time tells.
pub(in crate::doctor) const LOOK_AGAIN: &str = "look again in a minute, as redis-guard doctor --wait 60s does: what is used by then is a pool's";

/// Names that a list in one line has.
const NAMED_AT_MOST: usize = 3;

const IDS: [&str; 9] = [
    "holders.sources",
    "holders.idle",
    "holders.dead",
    "holders.unnamed",
    "holders.blocked",
    "holders.pubsub",
    "holders.replicas",
    "holders.young",
    "holders.output_buffers",
];

pub(super) fn checks(findings: Findings<'_>, facts: &Facts) -> Vec<Check> {
    let holders = match &facts.holders {
        Ok(holders) => holders,
        Err(why) => return skip_all(IDS, "CLIENT LIST", why).collect(),
    };
    vec![
        sources(findings, facts, holders),
        idle(findings, facts, holders),
        dead(findings, facts, holders),
        unnamed(holders),
        blocked(findings, facts, holders),
        subscribers(holders),
        replicas(findings, facts, holders),
        young(facts, holders),
        output_buffers(findings, facts, holders),
    ]
}

/// True where the slots are held by connections that were not used since they were new: whoever is told to
/// grow then only feeds a leak.
pub(in crate::doctor) fn are_unused_and_young(facts: &Facts) -> bool {
    let holders = facts.holders.as_ref().ok();
    matches!(holders.and_then(|holders| find_unused(facts, holders)), Some(Unused::Young))
}

/// True where slots run out, or have.
pub(in crate::doctor) fn is_under_pressure(info: &Info) -> bool {
    let full = info.seen.saturation().is_some_and(|saturation| saturation >= PRESSURE);
    full || info.seen.new_rejections.is_some_and(|new| new > 0)
}

fn are_under_pressure(facts: &Facts) -> bool {
    facts.info.as_ref().is_ok_and(is_under_pressure)
}

/// `Failed` under pressure, `Warning` without.
fn level_by_pressure(facts: &Facts) -> Level {
    match are_under_pressure(facts) {
        true => Level::Failed,
        false => Level::Warning,
    }
}

fn ceiling(facts: &Facts) -> Option<u64> {
    facts.info.as_ref().ok().and_then(|info| info.seen.ceiling)
}

pub(in crate::doctor) fn find_unused<'a>(
    facts: &Facts,
    holders: &'a Holders,
) -> Option<Unused<'a>> {
    let info = facts.info.as_ref().ok();
    let still = info.is_some_and(|info| info.seen.stands_still);
    Unused::find(holders, ceiling(facts), are_under_pressure(facts), still)
}

/// `10.0.0.7 checkout (900)`, the first few.
pub(in crate::doctor) fn named<'a>(holders: impl IntoIterator<Item = &'a Holder>) -> String {
    let named = |holder: &Holder| format!("{} ({})", clean(&holder.key), count(holder.connections));
    holders.into_iter().take(NAMED_AT_MOST).map(named).collect::<Vec<_>>().join(", ")
}

fn sources(findings: Findings<'_>, facts: &Facts, holders: &Holders) -> Check {
    let check = Check::new(
        "holders.sources",
        "none holds three times what the median source holds, and a quarter of the slots",
    );
    let mut evidence = format!(
        "{} from {}; most: {}",
        counted(holders.clients, "client"),
        counted(holders.sources, "source"),
        named(&holders.all_sources)
    );
    if holders.clients == 0 {
        evidence = "nobody but us".to_owned();
    }
    if holders.unreadable > 0 {
        evidence
            .push_str(&format!("; {} of the list unreadable", counted(holders.unreadable, "line")));
    }
    let unused = find_unused(facts, holders);
    let mut outliers = unused::outliers(&holders.all_sources);
    outliers.retain(|(source, _)| is_part(source.connections, CAUSE_PERCENT, ceiling(facts)));
    let first = holders.all_sources.first();
    let (who, evidence) = match (outliers.first(), first) {
        (Some((first, median)), _) => {
            let named = named(outliers.iter().map(|(source, _)| *source));
            (*first, format!("{named} over a median of {}", count(*median)))
        }
        // It need not stand out: half the server is too much for what is mostly idle, and too much
        // for one of several where slots run out.
        (None, Some(first))
            if is_part(first.connections, 50, ceiling(facts))
                && ((unused.is_some() && first.unused() * 2 >= first.connections)
                    || (holders.sources > 1 && are_under_pressure(facts))) =>
        {
            let of_it = count(first.unused());
            (first, format!("{} alone, of which {of_it} unused", named([first])))
        }
        _ => return check.ok(evidence),
    };
    let (level, why) = match unused {
        Some(Unused::Leaked(_)) => {
            (level_by_pressure(facts), "restart that process, and find what it does not give back")
        }
        Some(Unused::InPools { .. }) => (level_by_pressure(facts), "give it a smaller pool"),
        Some(Unused::Young) => (Level::Warning, LOOK_AGAIN),
        None => (Level::Warning, "has it more work than the others, or a larger pool?"),
    };
    check.with(level, evidence).fix(match host_of(who) {
        Some(host) => {
            with_comment(findings.redis_cli(&format!("CLIENT LIST | grep 'addr={host}:'")), why)
        }
        None => why.to_owned(),
    })
}

/// A source's address, if it is one: what a server says goes into no shell unread.
fn host_of(source: &Holder) -> Option<&str> {
    let host = source.key.split(' ').next()?;
    let is_address = host.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:".contains(&byte));
    (is_address && !host.is_empty()).then_some(host)
}

fn idle(findings: Findings<'_>, facts: &Facts, holders: &Holders) -> Check {
    let after = span(findings.options.idle_after);
    let check =
        Check::new("holders.idle", format!("idle for {after} and more: a quarter of the slots"));
    let longest = holders.longest_idle_seconds.map_or_else(|| "unknown".to_owned(), seconds);
    let evidence = match holders.clients {
        0 => "nobody but us".to_owned(),
        clients => format!(
            "{} of {} idle for {after} and more, the longest for {longest}; {} not used since they were new",
            count(holders.idle),
            counted(clients, "client"),
            count(holders.never_used),
        ),
    };
    match find_unused(facts, holders) {
        None if holders.idle > 0 => check.note(evidence),
        None => check.ok(evidence),
        Some(Unused::Young) => check.with(Level::Warning, evidence).fix(LOOK_AGAIN),
        Some(_) => check.with(level_by_pressure(facts), evidence).fix(with_comment(
            findings.config_set("timeout", 300),
            "until the pools are smaller, or close what is idle themselves",
        )),
    }
}

/// A server may keep a socket whose peer is gone, and then it holds its slot for ever.
fn dead(findings: Findings<'_>, facts: &Facts, holders: &Holders) -> Check {
    let check = Check::new("holders.dead", "no client whose socket has no peer any more");
    if holders.dead == 0 {
        return check.ok("none");
    }
    let level = match is_cause(holders.dead, are_under_pressure(facts), ceiling(facts)) {
        true => level_by_pressure(facts),
        false => Level::Warning,
    };
    let evidence = format!("{} with addr={DEAD}: dead sockets", counted(holders.dead, "client"));
    check.with(level, evidence).fix(with_comment(
        findings.redis_cli(&format!("CLIENT KILL ADDR '{DEAD}'")),
        "nobody is at the other end; tcp-keepalive finds them where it is on",
    ))
}

fn unnamed(holders: &Holders) -> Check {
    let check = Check::new("holders.unnamed", "fewer than half, so that they can be told apart");
    let evidence = format!(
        "{} of {} without a name",
        count(holders.unnamed),
        counted(holders.clients, "client")
    );
    if holders.clients >= 10 && holders.unnamed * 2 > holders.clients {
        check.note(format!(
            "{evidence}: CLIENT SETNAME, or client_name in the library, would tell whose"
        ))
    } else {
        check.ok(evidence)
    }
}

/// True where so many connections are so many hundredths of the slots, or more.
fn is_part(part: usize, hundredths: usize, ceiling: Option<u64>) -> bool {
    let ceiling = ceiling.and_then(|ceiling| usize::try_from(ceiling).ok());
    ceiling.is_some_and(|it| part.saturating_mul(100) >= it.saturating_mul(hundredths))
}

/// True where so many connections are why slots run out, or soon will be.
fn is_cause(connections: usize, pressed: bool, ceiling: Option<u64>) -> bool {
    let percent = if pressed { CAUSE_PERCENT } else { CAUSE_PERCENT_WITH_ROOM };
    is_part(connections, percent, ceiling)
}

/// True where clients in blocking commands are why slots run out, or soon will be.
pub(in crate::doctor) fn blocked_fill_slots(facts: &Facts, holders: &Holders) -> bool {
    is_cause(holders.blocked, are_under_pressure(facts), ceiling(facts))
}

/// `12 in BLPOP, 3 in WAIT`.
pub(in crate::doctor) fn blocked_by_command(holders: &Holders) -> String {
    let commands = holders.blocked_by_command.iter();
    let commands = commands
        .map(|(command, n)| format!("{} in {}", count(*n), clean(command).to_ascii_uppercase()));
    commands.collect::<Vec<_>>().join(", ")
}

fn blocked(findings: Findings<'_>, facts: &Facts, holders: &Holders) -> Check {
    let check = Check::new(
        "holders.blocked",
        "a quarter of the slots while they run out, four tenths otherwise; no WAIT without a replica",
    );
    let evidence = match holders.blocked {
        0 => "nobody waits in a blocking command".to_owned(),
        n => format!(
            "{} in a blocking command: {}",
            counted(n, "client"),
            blocked_by_command(holders)
        ),
    };
    let find = findings.redis_cli("CLIENT LIST | grep ' flags=[A-Za-z]*b'");
    if blocked_fill_slots(facts, holders) {
        return check.with(level_by_pressure(facts), evidence).fix(with_comment(
            find,
            "fewer consumers, or one that reads for many workers; finite timeouts",
        ));
    }
    let waiting = holders.waiting_for_replicas();
    let replicas = facts.info.as_ref().ok().and_then(|info| info.seen.replicas_online);
    match (holders.blocked, waiting, replicas) {
        (_, 1.., Some(0)) => check
            .with(Level::Warning, format!("{evidence}; no replica is there to answer a WAIT"))
            .fix(with_comment(find, "bring the replica back; give WAIT a timeout")),
        (0, ..) => check.ok(evidence),
        _ => check.note(evidence),
    }
}

fn subscribers(holders: &Holders) -> Check {
    let check = Check::new("holders.pubsub", "for information: each holds a slot of its own");
    let monitors = match holders.monitors {
        0 => String::new(),
        n => format!(", {} in MONITOR", count(n)),
    };
    let evidence = format!("{}{monitors}", counted(holders.subscribers, "subscriber"));
    // MONITOR costs the server more than half its throughput.
    match holders.monitors {
        0 => check.ok(evidence),
        _ => check.note(evidence),
    }
}

/// The part of the slots that the servers' own connections hold, where it is too large: a quarter
/// while slots run out, four tenths otherwise.
pub(in crate::doctor) fn internal_share(info: &Info) -> Option<f64> {
    let snapshot = &info.seen.snapshot;
    let replicas = snapshot.connected_replicas.unwrap_or(0);
    let internal = replicas.saturating_add(snapshot.cluster_connections.unwrap_or(0));
    let many = usize::try_from(internal).unwrap_or(usize::MAX);
    let enough = is_cause(many, is_under_pressure(info), info.seen.ceiling);
    let share = crate::server::ratio(internal, info.seen.ceiling?);
    enough.then_some(share)
}

fn replicas(findings: Findings<'_>, facts: &Facts, holders: &Holders) -> Check {
    let check = Check::new(
        "holders.replicas",
        "with cluster links, a quarter of the slots while they run out, four tenths otherwise",
    );
    let info = facts.info.as_ref().ok();
    let links = info.and_then(|info| info.seen.snapshot.cluster_connections).unwrap_or(0);
    let evidence =
        format!("{}, {}", counted(holders.replicas, "replica"), counted(links, "cluster link"));
    match info.and_then(|info| Some((info, internal_share(info)?))) {
        None => check.ok(evidence),
        Some((info, share)) => check
            .with(level_by_pressure(facts), format!("{evidence}: {} of the slots", percent(share)))
            .fix(findings.config_set("maxclients", info.raised_ceiling())),
    }
}

fn young(facts: &Facts, holders: &Holders) -> Check {
    let check = Check::new(
        "holders.young",
        "a quarter of the clients connected within the last second, and churn",
    );
    let evidence = format!("{} connected within the last second", counted(holders.young, "client"));
    let churns = facts.info.as_ref().ok().and_then(|info| info.seen.connections_per_second);
    let churns = churns.is_some_and(|rate| rate >= CHURN);
    let many = holders.young >= MANY_YOUNG && holders.young * 4 >= holders.clients;
    check
        .with(if many && churns { Level::Warning } else { Level::Ok }, evidence)
        .fix("clients that open a connection for each request: give them a pool, or one shared connection")
}

fn output_buffers(findings: Findings<'_>, facts: &Facts, holders: &Holders) -> Check {
    let check = Check::new("holders.output_buffers", "a client with 1 MiB of replies unread");
    let info = facts.info.as_ref().ok();
    let Some(worst) = holders.slow_consumers.first() else {
        let unread = format!("{} unread, in all", bytes(holders.output_bytes));
        if holders.subscribers > 0 && info.is_some_and(|info| hides_unread(&info.seen.snapshot)) {
            return check.skipped(format!(
                "{unread}, as far as the server tells; Valkey 9 does not count long messages unread by {}",
                counted(holders.subscribers, "subscriber")
            ));
        }
        return check.ok(unread);
    };
    let who = worst.name.as_deref().or(worst.address.as_deref()).unwrap_or("one");
    let evidence = format!(
        "{}, {} unread in all; {} has {}, last command {}",
        counted(holders.slow, "slow consumer"),
        bytes(holders.output_bytes),
        clean(who),
        bytes(worst.output_bytes.unwrap_or(0)),
        clean(worst.command.as_deref().unwrap_or("unknown")),
    );
    let memory = info.and_then(|info| info.seen.snapshot.maxmemory_bytes);
    let much = memory.is_some_and(|max| max > 0 && holders.output_bytes >= max / 4);
    let fix = match worst.id {
        Some(id) => with_comment(
            findings.redis_cli(&format!("CLIENT KILL ID {id}")),
            "once it is known why it does not read",
        ),
        None => "find out why it does not read".to_owned(),
    };
    check.with(if much { Level::Failed } else { Level::Warning }, evidence).fix(fix)
}

/// From 9.0 on Valkey shares a long message among its readers, and counts it neither in `omem` nor in `tot-mem`
/// (9.1.2: 20,000 bytes, and not 100); nor does it close whom it passes its limit for.
fn hides_unread(snapshot: &ServerSnapshot) -> bool {
    let version = snapshot.version.as_deref().and_then(|version| version.split('.').next());
    let major = version.and_then(|major| major.parse::<u32>().ok());
    snapshot.product == Some(Product::Valkey) && major.is_some_and(|major| major >= 9)
}

/// What part of the slots so many are.
pub(in crate::doctor) fn share(part: usize, ceiling: Option<u64>) -> String {
    let (Ok(part), Some(Ok(ceiling))) = (u32::try_from(part), ceiling.map(u32::try_from)) else {
        return "an unknown part".to_owned();
    };
    percent(f64::from(part) / f64::from(ceiling.max(1)))
}
