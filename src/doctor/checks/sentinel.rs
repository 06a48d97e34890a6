//! What the sentinels say: of a master's set, and, of a sentinel itself, which masters it watches.

use std::collections::BTreeMap;

use super::capacity::{FULL, PRESSURE};
use super::{Findings, above};
use crate::Outcome;
use crate::doctor::facts::NoAnswer;
use crate::doctor::report::{Check, Level};
use crate::doctor::sentinel::{Instance, Look, Missed, Named, Peer, Set, Word};
use crate::server::Role;
use crate::sizing::wide;
use crate::vocabulary::words::{clean, count, counted, host_and_port, percent};

/// Names that a list in one line has.
const NAMED_AT_MOST: usize = 5;

/// A server that was started a moment ago is not the one of which a sentinel knows the run id, until it has
/// asked again.
const JUST_STARTED_SECONDS: u64 = 30;

const ANNOUNCE_FIX: &str = "announce an address that clients reach: replica-announce-ip and -port on servers, \
                            sentinel announce-ip and -port on sentinels (in containers: the host's, and ports \
                            published unchanged)";

pub(super) fn checks(findings: Findings<'_>) -> Vec<Check> {
    let word = findings.facts.and_then(|facts| facts.sentinel.as_ref());
    let own = word.map(|word| masters(findings, word));
    let Some(set) = findings.set else { return own.into_iter().collect() };
    let of_set = [
        Some(master(findings, set)),
        Some(state(set)),
        Some(agreement(set)),
        Some(quorum(set)),
        Some(replicas(set)),
        room(findings, set),
        Some(addresses(findings, set)),
        Some(capacity(set)),
    ];
    own.into_iter().chain(of_set.into_iter().flatten()).collect()
}

/// Of a sentinel itself.
fn masters(findings: Findings<'_>, word: &Word) -> Check {
    let check = Check::new(
        "sentinel.watched",
        "it tells which masters it watches, and acts on what it sees",
    );
    let named = word.listed.iter().map(|(name, at)| format!("{} ({at})", clean(name)));
    let watched = match word.listed.len() {
        0 => "it watches no master".to_owned(),
        all => format!("it watches {}: {}", counted(all, "master"), list(named)),
    };
    let ask = findings.redis_cli("SENTINEL MASTERS");
    match (&word.missing, &word.refused) {
        (Some(name), refused) if refused.is_none() || !word.listed.is_empty() => check
            .with(Level::Failed, format!("it knows no master {}; {watched}", clean(name)))
            .fix(format!("--master with a name that it knows, or none for all of them: {ask}")),
        (_, Some(why)) if word.listed.is_empty() => check
            .with(Level::Failed, format!("SENTINEL MASTERS: {why}"))
            .fix("this user may have to be allowed +sentinel: without it nobody is led to a master"),
        (_, Some(why)) => check
            .with(Level::Warning, format!("{watched}, says INFO; SENTINEL MASTERS: {why}"))
            .fix("allow this user +sentinel"),
        _ if word.in_tilt => check
            .with(Level::Warning, format!("{watched}, and does not act: it is in TILT mode"))
            .fix("its machine stood still, or its clock jumped: it trusts itself again after 30 s without that"),
        _ if word.listed.is_empty() => check
            .with(Level::Warning, watched)
            .fix("sentinel monitor NAME HOST PORT QUORUM in its configuration"),
        _ => check.ok(watched),
    }
}

/// Is it one?
fn master(findings: Findings<'_>, set: &Set) -> Check {
    let check = Check::new(
        "sentinel.master",
        "a master in its own words, and the one that the sentinels mean",
    );
    let Some(facts) = findings.facts else { return check.skipped("not connected") };
    if facts.sentinel.is_some() {
        return check
            .with(Level::Failed, "the sentinels name a sentinel as the master")
            .fix("sentinel monitor takes the address of the server, not of a sentinel");
    }
    let info = match &facts.info {
        Ok(info) => info,
        Err(why) => return check.skipped(format!("INFO: {why}")),
    };
    let snapshot = &info.seen.snapshot;
    let old = snapshot.uptime_seconds.is_some_and(|up| up >= JUST_STARTED_SECONDS);
    let known: Option<String> = set.said().and_then(|said| said.field("runid"));
    let known = known.filter(|id| !id.is_empty() && old);
    let own = snapshot.run_id.as_ref();
    match snapshot.role {
        Some(Role::Replica) => {
            let host: String = info.field("master_host").unwrap_or_else(|| "?".to_owned());
            let of = host_and_port(&clean(&host), info.field("master_port").unwrap_or(0));
            let evidence = format!(
                "the sentinels name it as the master, and it says that it is a replica of {of}"
            );
            check.with(Level::Failed, evidence).fix(
                "right after a failover ask again; if it stays so, a sentinel has not heard of it, or somebody \
                 made it a replica by hand: SENTINEL RESET on each sentinel in turn, or REPLICAOF NO ONE here",
            )
        }
        _ if own.zip(known.as_ref()).is_some_and(|(own, known)| own != known) => {
            let [own, known] = [own, known.as_ref()].map(|id| short(id.map_or("", String::as_str)));
            let evidence = format!(
                "from here the address leads to another server: run id {own}…, the sentinels' has {known}…"
            );
            check.with(Level::Failed, evidence).fix(ANNOUNCE_FIX)
        }
        Some(_) => check.ok("a master, it says itself"),
        None => check.skipped("it does not tell its role"),
    }
}

/// Is it up, in the sentinels' eyes?
fn state(set: &Set) -> Check {
    let check =
        Check::new("sentinel.state", "no sentinel holds it for down, no failover is under way");
    let views: Vec<_> = set.views().filter_map(|(_, view)| view.said.as_ref().ok()).collect();
    let flagged = |flag: &str| views.iter().filter(|said| said.has(flag)).count();
    let (o_down, s_down) = (flagged("o_down"), flagged("s_down"));
    let told = |number: usize, what: &str| {
        format!(
            "{} of {} hold it for down ({what})",
            count(number),
            counted(views.len(), "sentinel")
        )
    };
    let failing_over = flagged("failover_in_progress") > 0;
    if views.is_empty() {
        return check.skipped("no sentinel tells");
    }
    if o_down > 0 || s_down == views.len() {
        let mut evidence = match o_down {
            0 => told(s_down, "s_down"),
            _ => told(o_down, "o_down"),
        };
        if failing_over {
            evidence.push_str("; a failover is under way");
        }
        return check.with(Level::Failed, evidence).fix(
            "is it up, and is the way to it from the sentinels' machines? if it is down and stays the \
             master: sentinel.quorum and sentinel.replicas say why nothing takes over",
        );
    }
    match s_down {
        _ if failing_over => {
            check.with(Level::Warning, "a failover is under way").fix("ask again in some seconds")
        }
        0 => check.ok(format!(
            "up, for {} of {}",
            count(views.len()),
            counted(views.len(), "sentinel")
        )),
        _ => check
            .with(Level::Warning, told(s_down, "s_down"))
            .fix("the network between those sentinels and the master"),
    }
}

/// Do they all name the same?
fn agreement(set: &Set) -> Check {
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
fn quorum(set: &Set) -> Check {
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
        () if known <= 2 => "three sentinels on three machines: of two neither may be lost, and one is no majority of anything",
        () if !lost.is_empty() => "that sentinel does not reach the others: its network, its password for them",
        () if !others.is_empty() => "the same quorum on all: SENTINEL SET <master> quorum <n>",
        () => "none may be lost now: bring back those that are down, or lower the quorum",
    })
}

/// In the eyes of the sentinel of the URL.
fn is_down(peer: &Peer) -> bool {
    peer.named.as_ref().is_some_and(|(_, said)| said.is_down())
}

/// Is there one to fail over to?
fn replicas(set: &Set) -> Check {
    let check = Check::new("sentinel.replicas", "every replica could be made the master");
    let replicas = match &set.replicas {
        Ok(replicas) => replicas,
        Err(why) => return check.skipped(format!("SENTINEL REPLICAS: {why}")),
    };
    if replicas.is_empty() {
        return check
            .with(Level::Failed, "no replica is known: there is none to fail over to")
            .fix("a replica of this master (replicaof); the sentinels find it within 10 s");
    }
    let unfit: Vec<(&Look, String)> =
        replicas.iter().filter_map(|look| Some((look, why_unfit(look)?))).collect();
    let fit = replicas.len() - unfit.len();
    let unseen: Vec<String> = replicas.iter().filter_map(unseen).collect();
    let mut evidence = format!(
        "{} of {} could be made the master",
        count(fit),
        counted(replicas.len(), "replica")
    );
    for told in unfit.iter().map(|(look, why)| format!("{}: {why}", look.at)).chain(unseen.clone())
    {
        evidence.push_str("; ");
        evidence.push_str(&told);
    }
    // A backup's is never to be the master, and there are others.
    let are_meant = unfit.iter().all(|(look, _)| look.priority() == Some(0));
    let level = match () {
        () if fit == 0 => Level::Failed,
        () if !are_meant || !unseen.is_empty() => Level::Warning,
        () if !unfit.is_empty() => Level::Note,
        () => Level::Ok,
    };
    check.with(level, evidence).fix(match unfit.is_empty() {
        false => "bring it back, or its link to the master (INFO replication on both); replica-priority above 0",
        true => "credentials and TLS for the servers: --connect-as; or it is hung, or full",
    })
}

/// It is there, and we were not told what it is.
fn unseen(look: &Look) -> Option<String> {
    match &look.info {
        Ok(Ok(_)) => None,
        Ok(Err(why)) => Some(format!("{}: {why}", look.at)),
        // Told among the addresses.
        Err(missed)
            if is_unreached(missed) || look.said.as_ref().is_some_and(Instance::is_down) =>
        {
            None
        }
        Err(missed) => Some(format!("{}: {}", look.at, clean(&missed.failure.message))),
    }
}

/// Why a sentinel would not choose it.
fn why_unfit(look: &Look) -> Option<String> {
    let said = look.said.as_ref();
    if said.is_some_and(Instance::is_down) {
        let bad = said.iter().flat_map(|said| said.flags()).filter(|flag| *flag != "slave");
        return Some(format!("down for the sentinel ({})", list(bad.map(clean))));
    }
    if look.priority() == Some(0) {
        return Some("its priority is 0".to_owned());
    }
    if look.info().and_then(|info| info.seen.snapshot.role) == Some(Role::Master) {
        return Some("it says that it is a master itself".to_owned());
    }
    (look.link_up() == Some(false)).then(|| "its link to the master is down".to_owned())
}

/// Would a replica take the master's clients?
fn room(findings: Findings<'_>, set: &Set) -> Option<Check> {
    let check = Check::new(
        "sentinel.room",
        format!(
            "less than {} full, and a ceiling above what the master has in use",
            percent(PRESSURE)
        ),
    );
    let replicas = set.replicas.as_ref().ok().filter(|replicas| !replicas.is_empty())?;
    let master = findings.facts.and_then(|facts| facts.info.as_ref().ok());
    let needed = master.and_then(|info| info.seen.snapshot.used());
    let (mut level, mut tight, mut ceilings) = (Level::Ok, Vec::new(), Vec::new());
    for look in replicas {
        let refused = look.info.as_ref().err().map(|missed| &missed.failure);
        if let Some(failure) = refused.filter(|failure| failure.outcome == Outcome::MaxClients) {
            level = Level::Failed;
            tight.push(format!("{}: {}", look.at, clean(&failure.message)));
        }
        let Some((info, ceiling)) = look.info().and_then(|info| Some((info, info.seen.ceiling?)))
        else {
            continue;
        };
        ceilings.push(ceiling);
        let saturation = info.seen.saturation().unwrap_or(0.0);
        let is_lower = needed.is_some_and(|needed| needed > ceiling);
        let own = above(saturation, PRESSURE, FULL);
        level = level.max(own).max(if is_lower { Level::Warning } else { Level::Ok });
        if own > Level::Ok || is_lower {
            let used = info.seen.snapshot.used().unwrap_or(0);
            tight.push(format!("{}: {} of {} slots in use", look.at, count(used), count(ceiling)));
        }
    }
    let master = match needed {
        Some(needed) => format!("the master has {} in use", count(needed)),
        None => "what the master has in use is not known".to_owned(),
    };
    let evidence = match (tight.is_empty(), ceilings.iter().min()) {
        (false, _) => format!("{master}; {}", list(tight.iter())),
        (true, Some(least)) => {
            format!("{master}, and every replica takes {} at least", count(*least))
        }
        (true, None) => return Some(check.skipped("the replicas do not tell")),
    };
    Some(check.with(level, evidence).fix(
        "the same maxclients on every server of the set: each may be the master tomorrow, with all of its clients",
    ))
}

/// Can what is announced be reached from here?
fn addresses(findings: Findings<'_>, set: &Set) -> Check {
    let check = Check::new(
        "sentinel.addresses",
        "what the sentinels hold for up can be reached from here, where they announce it",
    );
    let master = findings.dials.failure.as_ref().filter(|_| is_announced_only(findings, set));
    let mut announced = vec![("the master", &set.at, master)];
    for look in set.replicas.iter().flatten() {
        let is_up = !look.said.as_ref().is_some_and(Instance::is_down);
        let missed = look.info.as_ref().err().filter(|missed| is_up && is_unreached(missed));
        announced.push(("a replica", &look.at, missed.map(|missed| &missed.failure)));
    }
    for peer in &set.sentinels {
        let Some((at, said)) = &peer.named else { continue };
        let missed = peer.word.as_ref().err();
        let missed = missed.filter(|missed| !said.is_down() && is_unreached(missed));
        announced.push(("a sentinel", at, missed.map(|missed| &missed.failure)));
    }
    let unreached = announced.iter().filter_map(|&(what, at, failure)| {
        if !set.here && at.is_loopback() {
            Some((what, format!("{at}, announced as {what}, is everybody's own machine")))
        } else {
            let words = clean(&failure?.message);
            Some((what, format!("{at}, announced as {what}: {words}")))
        }
    });
    let (whats, unreached): (Vec<_>, Vec<_>) = unreached.unzip();
    let level = match () {
        () if whats.is_empty() => Level::Ok,
        // Whoever is told of servers by one sentinel can do without the others for a while.
        () if whats.iter().all(|what| *what == "a sentinel") => Level::Warning,
        () => Level::Failed,
    };
    let evidence = match unreached.is_empty() {
        true => format!("{} announced, and all that are up are reached", announced.len()),
        false => list(unreached.iter()),
    };
    check.with(level, evidence).fix(ANNOUNCE_FIX)
}

/// True where the sentinels reach the master, and we do not.
fn is_announced_only(findings: Findings<'_>, set: &Set) -> bool {
    let Some(failure) = &findings.dials.failure else { return false };
    let up = set.said().is_some_and(|said| !said.is_down());
    up && is_no_way(failure.outcome, findings.dials.trace.connected.is_some())
}

fn is_unreached(missed: &Missed) -> bool {
    is_no_way(missed.failure.outcome, missed.connected)
}

fn is_no_way(outcome: Outcome, connected: bool) -> bool {
    match outcome {
        Outcome::Refused | Outcome::Unreachable | Outcome::Dns => true,
        Outcome::Timeout => !connected,
        _ => false,
    }
}

/// Have the sentinels slots left? Every client of the masters comes to them.
fn capacity(set: &Set) -> Check {
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
                level = match level {
                    Level::Skipped => above(saturation, PRESSURE, FULL),
                    level => level.max(above(saturation, PRESSURE, FULL)),
                };
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

/// The first characters of a run id.
fn short(id: &str) -> String {
    clean(id).chars().take(8).collect()
}

/// The first few, and how many more.
fn list(items: impl Iterator<Item = impl ToString>) -> String {
    let all: Vec<String> = items.map(|item| item.to_string()).collect();
    let first = all.iter().take(NAMED_AT_MOST).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED_AT_MOST) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
