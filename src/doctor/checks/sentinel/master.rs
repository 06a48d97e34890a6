//! Is it the master, and is it up?

use super::servers::ANNOUNCE_FIX;
use crate::doctor::checks::Findings;
use crate::doctor::report::{Check, Level};
use crate::doctor::sentinel::Set;
use crate::server::Role;
use crate::vocabulary::words::{clean, count, counted, host_and_port};

/// A server that was started a moment ago is not the one of which a sentinel knows the run id, until it has
/// asked again.
const JUST_STARTED_SECONDS: u64 = 30;

/// Is it one?
pub(super) fn role(findings: Findings<'_>, set: &Set) -> Check {
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
        Some(Role::ActiveReplica) => check.ok("a replica that takes writes, it says itself"),
        Some(Role::Master) => check.ok("a master, it says itself"),
        None => check.skipped("it does not tell its role"),
    }
}

/// Is it up, in the sentinels' eyes?
pub(super) fn state(set: &Set) -> Check {
    let check =
        Check::new("sentinel.state", "no sentinel holds it for down, no failover is under way");
    let views: Vec<_> = set.views().filter_map(|(_, view)| view.said.as_ref().ok()).collect();
    let flagged = |flag: &str| views.iter().filter(|said| said.has(flag)).count();
    let (o_down, s_down) = (flagged("o_down"), flagged("s_down"));
    let told = |number: usize, what: &str| {
        let all = counted(views.len(), "sentinel");
        format!("held for down ({what}) by {} of {all}", count(number))
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

/// The first characters of a run id.
fn short(id: &str) -> String {
    clean(id).chars().take(8).collect()
}
