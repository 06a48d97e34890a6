//! Do the sentinels agree, could they act, have they room?

use std::collections::BTreeMap;

use super::{above, is_down, is_unreached, list};
use crate::Outcome;
use crate::doctor::checks::capacity::{FULL, PRESSURE};
use crate::doctor::facts::NoAnswer;
use crate::doctor::report::{Check, Level};
use crate::doctor::sentinel::Set;
use crate::sentinel::Named;
use crate::server::Role;
use crate::sizing::wide;
use crate::vocabulary::words::{clean, count, counted, percent};

/// Do they all name the same?
pub(super) fn agreement(set: &Set) -> Check {
    let check = Check::new("sentinel.agreement", "every sentinel names the same master");
    let mut by_address = BTreeMap::<&Named, (&Named, Vec<&str>)>::new();
    let (mut without, mut silent) = (Vec::new(), Vec::new());
    for peer in &set.sentinels {
        let server = peer.server.as_str();
        match &peer.word {
            Ok(word) => match &word.view.address {
                Ok(Some(named)) => {
                    let said = by_address.entry(set.place(named)).or_insert((named, Vec::new()));
                    said.1.push(server);
                }
                Ok(None) => without.push(server),
                Err(why) => silent.push(format!("{server}: {why}")),
            },
            // Told among the addresses, and under quorum.
            Err(missed) if is_unreached(missed) || is_down(peer) => {}
            Err(missed) => silent.push(format!("{server}: {}", clean(&missed.failure.message))),
        }
    }
    let mut said: Vec<String> = match by_address.len() {
        1 => Vec::from_iter(by_address.values().map(|(named, by)| {
            format!(
                "{} of {} say {named}",
                count(by.len()),
                counted(set.sentinels.len(), "sentinel")
            )
        })),
        _ => Vec::from_iter(by_address.values().map(|(named, by)| {
            format!("{named}{}, say {}", its_own_role(set, named), list(by.iter().copied()))
        })),
    };
    if !without.is_empty() {
        said.push(format!("no such master, say {}", list(without.iter().copied())));
    }
    if !silent.is_empty() {
        said.push(format!("no word of {}", list(silent.iter())));
    }
    let evidence = said.join("; ");
    if by_address.len() > 1 || !without.is_empty() {
        return check.with(Level::Failed, evidence).fix(
            "right after a failover ask again in some seconds; if it stays so: do the sentinels reach each \
             other, with the same password? SENTINEL RESET, or SENTINEL MONITOR, on those that are wrong",
        );
    }
    match silent.is_empty() {
        true => check.ok(evidence),
        false => check.with(Level::Warning, evidence).fix(
            "is it hung or full, does it know the user of the sentinel's URL, and may that user ask it \
             (+sentinel)?",
        ),
    }
}

fn its_own_role(set: &Set, named: &Named) -> &'static str {
    let looks = set.replicas.iter().flatten().chain(&set.others);
    let mut roles = looks
        .filter(|look| set.same(&look.at, named))
        .map(|look| look.info().and_then(|info| info.seen.snapshot.role));
    match roles.next().flatten() {
        Some(Role::Master) => " (a master, it says itself)",
        Some(_) => " (a replica, it says itself)",
        None => "",
    }
}

/// Could a failover be authorised now?
pub(super) fn quorum(set: &Set) -> Check {
    let check = Check::new(
        "sentinel.quorum",
        "a failover could be authorised now, and with one sentinel fewer",
    );
    let known = set.known();
    let Some(quorum) = set.said().and_then(|said| said.field::<u64>("quorum")) else {
        let why = set.views().next().and_then(|(_, view)| view.said.as_ref().err());
        return check.skipped(format!("SENTINEL MASTER: {}", why.unwrap_or(&NoAnswer::NotAsked)));
    };
    let majority = known / 2 + 1;
    let needed = quorum.max(majority);
    let words = || set.views().filter_map(|(at, view)| Some((at, view.quorum.as_ref().ok()?)));
    let lost = words().filter(|(_, it)| !it.is_reached);
    let lost: Vec<_> = lost.map(|(at, it)| format!("{at} says {}", clean(&it.words))).collect();
    let none_reaches_it = !lost.is_empty() && lost.len() == words().count();
    let down: Vec<&str> = set
        .sentinels
        .iter()
        .filter(|peer| is_down(peer))
        .map(|peer| peer.server.as_str())
        .collect();
    // What the one that sees most of them counts.
    let usable = words().filter_map(|(_, it)| it.usable()).max();
    let usable = usable.unwrap_or_else(|| known.saturating_sub(wide(down.len())));
    let others = set.views().filter_map(|(at, view)| {
        let other = view.said.as_ref().ok()?.field::<u64>("quorum")?;
        (other != quorum).then(|| format!("{at} has quorum {other}"))
    });
    let others: Vec<String> = others.collect();
    let mut evidence = vec![
        format!("{} known, {} answered us", counted(known, "sentinel"), count(set.views().count())),
        format!(
            "quorum {quorum}, majority {majority}; {} usable, {} needed",
            count(usable),
            count(needed)
        ),
    ];
    evidence.extend((!down.is_empty()).then(|| format!("down: {}", list(down.iter().copied()))));
    evidence.extend((!lost.is_empty()).then(|| list(lost.iter())));
    evidence.extend((!others.is_empty()).then(|| list(others.iter())));
    let level = match () {
        () if quorum > known || none_reaches_it || usable < needed => Level::Failed,
        () if usable == needed || !lost.is_empty() || !others.is_empty() => Level::Warning,
        () => Level::Ok,
    };
    check.with(level, evidence.join("; ")).fix(match () {
        () if quorum > known => "the quorum is more than there are: SENTINEL SET <master> quorum <n> on each",
        () if level == Level::Failed => {
            "bring sentinels back until a majority of those known is up; those that are gone for good count \
             until they are forgotten: SENTINEL RESET <master> on each in turn, 30 s apart"
        }
        () if known <= 2 => "three sentinels on three machines: of two neither may be lost, nor may one alone",
        () if !lost.is_empty() => "that sentinel does not reach the others: its network, its password for them",
        () if !others.is_empty() => "the same quorum on all: SENTINEL SET <master> quorum <n>",
        () => "none may be lost now: bring back those that are down, or lower the quorum",
    })
}

/// Have the sentinels slots left? Every client of the masters comes to them.
pub(super) fn capacity(set: &Set) -> Check {
    let check =
        Check::new("sentinel.capacity", format!("each is less than {} full", percent(PRESSURE)));
    let (mut level, mut told, mut fullest) = (Level::Skipped, Vec::new(), None);
    for peer in &set.sentinels {
        match &peer.word {
            Err(missed) if missed.failure.outcome == Outcome::MaxClients => {
                level = Level::Failed;
                told.push(format!("{} is full: {}", peer.server, clean(&missed.failure.message)));
            }
            Err(_) => {}
            Ok(word) => {
                let Ok(slots) = &word.slots else { continue };
                let Some(saturation) = slots.saturation() else { continue };
                let own = above(saturation, PRESSURE, FULL);
                level = if level == Level::Skipped { own } else { level.max(own) };
                let text = format!(
                    "{}: {} of {} slots ({})",
                    peer.server,
                    count(slots.used.unwrap_or(0)),
                    count(slots.ceiling.unwrap_or(0)),
                    percent(saturation)
                );
                if saturation >= PRESSURE {
                    told.push(text.clone());
                }
                if fullest.as_ref().is_none_or(|(most, _)| *most < saturation) {
                    fullest = Some((saturation, text));
                }
            }
        }
    }
    let evidence = match (told.is_empty(), fullest) {
        (false, _) => list(told.iter()),
        (true, Some((_, text))) => format!("the fullest is {text}"),
        (true, None) => "they do not tell".to_owned(),
    };
    check.with(level, evidence).fix(
        "maxclients in the sentinel's configuration and a restart, one at a time; clients should hold one \
         connection to one sentinel, not one for each of theirs",
    )
}
