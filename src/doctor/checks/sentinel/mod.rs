//! What the sentinels say: of a master's set, and, of a sentinel itself, which masters it watches.

mod master;
mod sentinels;
mod servers;
#[cfg(test)]
mod tests;

use super::{Check, Findings, above};
use crate::Outcome;
use crate::doctor::facts::Missed;
use crate::doctor::report::Level;
use crate::doctor::sentinel::{Peer, Word};
use crate::vocabulary::words::{clean, counted};

/// Names that a list in one line has.
const NAMED_AT_MOST: usize = 5;

pub(super) fn checks(findings: Findings<'_>) -> Vec<Check> {
    let word = findings.facts.and_then(|facts| facts.sentinel.as_ref());
    let own = match word {
        Some(word) => Some(watched(findings, word)),
        None => no_sentinel(findings),
    };
    let Some(set) = findings.set else { return own.into_iter().collect() };
    let of_set = [
        Some(master::role(findings, set)),
        Some(master::state(set)),
        Some(sentinels::agreement(set)),
        Some(sentinels::quorum(set)),
        Some(servers::replicas(findings, set)),
        servers::room(findings, set),
        Some(servers::addresses(findings, set)),
        Some(sentinels::capacity(set)),
    ];
    own.into_iter().chain(of_set.into_iter().flatten()).collect()
}

/// A master's name was given, and the server of the URL knows of none.
fn no_sentinel(findings: Findings<'_>) -> Option<Check> {
    let name = findings.options.master.as_ref().filter(|_| findings.set.is_none())?;
    let is_told = findings.facts.is_some_and(|facts| facts.info.is_ok());
    (is_told && findings.dials.count > 0).then(|| {
        Check::new("sentinel.watched", "a sentinel, as a master's name was given")
            .with(Level::Warning, format!("no sentinel: it leads to no master {}", clean(name)))
            .fix("a sentinel's URL: its port is 26379, where nobody has chosen another")
    })
}

/// Of a sentinel itself.
fn watched(findings: Findings<'_>, word: &Word) -> Check {
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

/// In the eyes of the sentinel of the URL.
fn is_down(peer: &Peer) -> bool {
    peer.named.as_ref().is_some_and(|(_, said)| said.is_down())
}

pub(super) fn is_unreached(missed: &Missed) -> bool {
    is_no_way(missed.failure.outcome, missed.connected)
}

fn is_no_way(outcome: Outcome, connected: bool) -> bool {
    match outcome {
        Outcome::Refused | Outcome::Unreachable | Outcome::Dns => true,
        Outcome::Timeout => !connected,
        _ => false,
    }
}

/// The first few, and how many more.
pub(super) fn list(items: impl Iterator<Item = impl ToString>) -> String {
    let all: Vec<String> = items.map(|item| item.to_string()).collect();
    let first = all.iter().take(NAMED_AT_MOST).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED_AT_MOST) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
