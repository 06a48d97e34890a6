//! Could a replica take over, and can all that is announced be reached?

use super::{above, is_no_way, is_unreached, list};
use crate::Outcome;
use crate::doctor::checks::Findings;
use crate::doctor::checks::capacity::{FULL, PRESSURE};
use crate::doctor::report::{Check, Level};
use crate::doctor::sentinel::{Look, Set, is_loopback};
use crate::sentinel::Instance;
use crate::server::Role;
use crate::vocabulary::words::{clean, count, counted, percent};

pub(super) const ANNOUNCE_FIX: &str = "announce an address that clients reach: replica-announce-ip and -port on servers, sentinel announce-ip \
     and -port on sentinels (in containers: the host's, and ports published unchanged)";

/// Is there one to fail over to?
pub(super) fn replicas(findings: Findings<'_>, set: &Set) -> Check {
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
    let is_up = findings.facts.is_some()
        && !set.views().any(|(_, view)| {
            view.said.as_ref().is_ok_and(|said| said.has("s_down") || said.has("o_down"))
        });
    let unfit: Vec<(&Look, String)> =
        replicas.iter().filter_map(|look| Some((look, why_unfit(look, is_up)?))).collect();
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

/// Why a sentinel would not choose it. Where the master is down its link is too, which is no reason.
fn why_unfit(look: &Look, master_is_up: bool) -> Option<String> {
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
    (master_is_up && look.link_up() == Some(false))
        .then(|| "its link to the master is down".to_owned())
}

/// Would a replica take the master's clients?
pub(super) fn room(findings: Findings<'_>, set: &Set) -> Option<Check> {
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
pub(super) fn addresses(findings: Findings<'_>, set: &Set) -> Check {
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
        if !set.here && is_loopback(at) {
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
