//! Who holds the slots?

use super::capacity::{CHURN, PRESSURE};
use super::{Case, noted, skip_all};
use crate::doctor::facts::{Facts, Info};
use crate::doctor::hoard::{self, Hoard};
use crate::doctor::holders::{Holder, Holders};
use crate::doctor::report::{Check, Level};
use crate::vocabulary::words::{bytes, clean, count, counted, percent, seconds, span};

/// Hundredths of the slots that explain why they run out, where they do: without them there would be
/// room for a third more.
const CAUSE: usize = 25;

/// The same where there is room yet: at this pace it is the next thing to fill the server.
const LOOMING: usize = 40;

/// New connections that are more than a deployment of one instance; see [`young`].
const MANY_YOUNG: usize = 10;

/// Names that a list in one line has.
const LISTED: usize = 3;

const IDS: [&str; 8] = [
    "holders.sources",
    "holders.idle",
    "holders.unnamed",
    "holders.blocked",
    "holders.pubsub",
    "holders.replicas",
    "holders.young",
    "holders.output_buffers",
];

pub(super) fn checks(case: Case<'_>, facts: &Facts) -> Vec<Check> {
    let holders = match &facts.holders {
        Ok(holders) => holders,
        Err(why) => return skip_all(IDS, "CLIENT LIST", why).collect(),
    };
    vec![
        sources(case, facts, holders),
        idle(case, facts, holders),
        unnamed(holders),
        blocked(case, facts, holders),
        subscribers(holders),
        replicas(case, facts, holders),
        young(facts, holders),
        output_buffers(case, facts, holders),
    ]
}

/// Slots run out, or have.
pub(in crate::doctor) fn is_pressed(info: &Info) -> bool {
    let full = info.seen.saturation().is_some_and(|saturation| saturation >= PRESSURE);
    full || info.seen.new_rejections.is_some_and(|new| new > 0)
}

/// `Failed` under pressure, `Warning` without.
fn by_pressure(facts: &Facts) -> Level {
    match facts.info.as_ref().is_ok_and(is_pressed) {
        true => Level::Failed,
        false => Level::Warning,
    }
}

fn ceiling(facts: &Facts) -> Option<u64> {
    facts.info.as_ref().ok().and_then(|info| info.seen.ceiling)
}

pub(in crate::doctor) fn hoard_of<'a>(facts: &Facts, holders: &'a Holders) -> Option<Hoard<'a>> {
    let pressed = facts.info.as_ref().is_ok_and(is_pressed);
    Hoard::find(holders, ceiling(facts), pressed)
}

/// `10.0.0.7 checkout (900)`, the first few.
pub(in crate::doctor) fn named<'a>(holders: impl IntoIterator<Item = &'a Holder>) -> String {
    let named = |holder: &Holder| format!("{} ({})", clean(&holder.key), count(holder.connections));
    holders.into_iter().take(LISTED).map(named).collect::<Vec<_>>().join(", ")
}

fn sources(case: Case<'_>, facts: &Facts, holders: &Holders) -> Check {
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
    let hoard = hoard_of(facts, holders);
    let mut outliers = hoard::outliers(&holders.all_sources);
    outliers.retain(|(source, _)| is_part(source.connections, CAUSE, ceiling(facts)));
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
                && ((hoard.is_some() && first.unused() * 2 >= first.connections)
                    || (holders.sources > 1 && facts.info.as_ref().is_ok_and(is_pressed))) =>
        {
            let unused = count(first.unused());
            (first, format!("{} alone, of which {unused} unused", named([first])))
        }
        _ => return check.ok(evidence),
    };
    let (level, why) = match hoard {
        Some(Hoard::Leak(_)) => {
            (by_pressure(facts), "restart that process, and find what it does not give back")
        }
        Some(Hoard::Pools { .. }) => (by_pressure(facts), "give it a smaller pool"),
        None => (Level::Warning, "has it more work than the others, or a larger pool?"),
    };
    check.with(level, evidence).fix(match host_of(who) {
        Some(host) => noted(case.run(&format!("CLIENT LIST | grep 'addr={host}:'")), why),
        None => why.to_owned(),
    })
}

/// A source's address, if it is one: what a server says goes into no shell unread.
fn host_of(source: &Holder) -> Option<&str> {
    let host = source.key.split(' ').next()?;
    let is_address = host.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:".contains(&byte));
    (is_address && !host.is_empty()).then_some(host)
}

fn idle(case: Case<'_>, facts: &Facts, holders: &Holders) -> Check {
    let after = span(case.options.idle_after);
    let check =
        Check::new("holders.idle", format!("idle for {after} and more: a quarter of the slots"));
    let longest = holders.longest_idle_seconds.map_or_else(|| "unknown".to_owned(), seconds);
    let evidence = match holders.clients {
        0 => "nobody but us".to_owned(),
        clients => format!(
            "{} of {} idle for {after} and more, the longest for {longest}; {} not used since they were new",
            count(holders.idle),
            counted(clients, "client"),
            count(holders.abandoned),
        ),
    };
    match hoard_of(facts, holders) {
        None if holders.idle > 0 => check.note(evidence),
        None => check.ok(evidence),
        Some(_) => check.with(by_pressure(facts), evidence).fix(noted(
            case.set("timeout", 300),
            "until the pools are smaller, or close what is idle themselves",
        )),
    }
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

/// How blocked clients hold the slots.
pub(in crate::doctor) fn is_crowd(facts: &Facts, holders: &Holders) -> bool {
    let pressed = facts.info.as_ref().is_ok_and(is_pressed);
    is_part(holders.blocked, if pressed { CAUSE } else { LOOMING }, ceiling(facts))
}

fn blocked(case: Case<'_>, facts: &Facts, holders: &Holders) -> Check {
    let check = Check::new(
        "holders.blocked",
        "a quarter of the slots while they run out, four tenths otherwise; no WAIT without a replica",
    );
    let by_command = holders.blocked_by_command.iter();
    let by_command =
        by_command.map(|(command, n)| format!("{n} in {}", clean(command).to_ascii_uppercase()));
    let by_command = by_command.collect::<Vec<_>>().join(", ");
    let evidence = match holders.blocked {
        0 => "nobody waits in a blocking command".to_owned(),
        n => format!("{} in a blocking command: {by_command}", counted(n, "client")),
    };
    let find = case.run("CLIENT LIST | grep ' flags=[A-Za-z]*b'");
    if is_crowd(facts, holders) {
        return check.with(by_pressure(facts), evidence).fix(noted(
            find,
            "fewer consumers, or one that reads for many workers; finite timeouts",
        ));
    }
    let waiting = holders.waiting_for_replicas();
    let replicas = facts.info.as_ref().ok().and_then(|info| info.seen.replicas_online);
    match (holders.blocked, waiting, replicas) {
        (_, 1.., Some(0)) => check
            .with(Level::Warning, format!("{evidence}; no replica is there to answer a WAIT"))
            .fix(noted(find, "bring the replica back; give WAIT a timeout")),
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
    let enough = is_part(many, if is_pressed(info) { CAUSE } else { LOOMING }, info.seen.ceiling);
    let share = crate::server::ratio(internal, info.seen.ceiling?);
    enough.then_some(share)
}

fn replicas(case: Case<'_>, facts: &Facts, holders: &Holders) -> Check {
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
            .with(by_pressure(facts), format!("{evidence}: {} of the slots", percent(share)))
            .fix(case.set("maxclients", info.more())),
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

fn output_buffers(case: Case<'_>, facts: &Facts, holders: &Holders) -> Check {
    let check = Check::new("holders.output_buffers", "a client with 1 MiB of replies unread");
    let Some(worst) = holders.slow_consumers.first() else {
        return check.ok(format!("{} unread, in all", bytes(holders.output_bytes)));
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
    let memory = facts.info.as_ref().ok().and_then(|info| info.seen.snapshot.maxmemory_bytes);
    let much = memory.is_some_and(|max| max > 0 && holders.output_bytes >= max / 4);
    let fix = match worst.id {
        Some(id) => noted(
            case.run(&format!("CLIENT KILL ID {id}")),
            "once it is known why it does not read",
        ),
        None => "find out why it does not read".to_owned(),
    };
    check.with(if much { Level::Failed } else { Level::Warning }, evidence).fix(fix)
}

/// What part of the slots so many are.
pub(in crate::doctor) fn share(part: usize, ceiling: Option<u64>) -> String {
    let (Ok(part), Some(Ok(ceiling))) = (u32::try_from(part), ceiling.map(u32::try_from)) else {
        return "an unknown part".to_owned();
    };
    percent(f64::from(part) / f64::from(ceiling.max(1)))
}
