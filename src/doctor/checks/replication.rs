//! Are the replicas there that should be, and do they follow?

use super::{Findings, skip_all, with_comment};
use crate::doctor::facts::{Facts, Info};
use crate::doctor::report::{Check, Level};
use crate::server::{Role, ServerSnapshot};
use crate::vocabulary::words::{bytes, clean, count, counted, host_and_port, seconds};

/// Replicas acknowledge every second: ten of them in a row were missed.
const LATE_SECONDS: u64 = 10;

pub(super) fn checks(findings: Findings<'_>, facts: &Facts) -> Vec<Check> {
    let info = match &facts.info {
        Ok(info) => info,
        Err(why) => {
            return skip_all(["replication.role", "replication.replicas"], "INFO", why).collect();
        }
    };
    let snapshot = &info.seen.snapshot;
    let mut checks = vec![role(snapshot)];
    if let Some(Role::Replica | Role::ActiveReplica) = snapshot.role {
        checks.push(link(findings, info));
    }
    checks.push(replicas(findings, facts, info));
    if !snapshot.replicas.is_empty() {
        checks.push(lag(findings, snapshot));
    }
    checks
}

fn role(snapshot: &ServerSnapshot) -> Check {
    let check = Check::new("replication.role", "for information");
    match snapshot.role {
        None => check.skipped("the server does not tell"),
        Some(Role::Master) => check.ok("master"),
        Some(Role::Replica) => check.ok("replica"),
        Some(Role::ActiveReplica) => check.ok("replica that takes writes"),
    }
}

/// Its link is down, and neither is a data set on its way nor has it just started: a master waits for
/// five seconds before it sends a new replica anything.
pub(in crate::doctor) fn has_lost_its_master(info: &Info) -> bool {
    let snapshot = &info.seen.snapshot;
    let never_up = snapshot.master_link_down_seconds.is_none();
    let starting = never_up && snapshot.uptime_seconds.is_some_and(|uptime| uptime < 60);
    snapshot.master_link_up == Some(false)
        && snapshot.master_sync_in_progress != Some(true)
        && !starting
}

fn link(findings: Findings<'_>, info: &Info) -> Check {
    let check = Check::new("replication.link", "the link to the master is up");
    let snapshot = &info.seen.snapshot;
    let host: String = info.field("master_host").unwrap_or_else(|| "?".to_owned());
    let master = host_and_port(&clean(&host), info.field("master_port").unwrap_or(0));
    match (snapshot.master_link_up, snapshot.master_sync_in_progress) {
        (Some(true), _) => check.ok(format!("up, to {master}")),
        (Some(false), Some(true)) => {
            check.note(format!("it receives the whole data set from {master}"))
        }
        (Some(false), _) if !has_lost_its_master(info) => {
            check.note(format!("it has just started, and is about to connect to {master}"))
        }
        (Some(false), _) => {
            let since = snapshot.master_link_down_seconds;
            let since = since.map_or_else(String::new, |since| format!(" for {}", seconds(since)));
            check.with(Level::Failed, format!("down{since}, to {master}")).fix(format!(
                "is the master up, and has it a slot left for its replica? {}",
                findings.redis_cli("INFO replication")
            ))
        }
        (None, _) => check.skipped("the server does not tell"),
    }
}

/// How many there should be: what was asked for, what was there a moment ago, or, where none is, one
/// if the server still keeps the backlog that it made for one: it drops it `repl-backlog-ttl` after the
/// last has gone, by default an hour. (One that was loaded with the dump of such a server has a backlog
/// too, but has never synced anybody.)
pub(in crate::doctor) fn expected(findings: Findings<'_>, facts: &Facts, info: &Info) -> u64 {
    let seen = info.seen.replicas_expected.unwrap_or(0);
    let is_master = info.seen.snapshot.role == Some(Role::Master);
    let remembered = is_master
        && info.field("repl_backlog_active") == Some(1_u8)
        && ["sync_full", "sync_partial_ok"].iter().any(|name| info.field(name) > Some(0_u64))
        // Kept for ever with 0; then it says nothing of the last hour.
        && facts.config.as_ref().ok().and_then(|config| config.number("repl-backlog-ttl")) != Some(0);
    // A number that was asked for is the master's: its replicas need none of their own.
    let asked = findings.options.expect_replicas.filter(|_| is_master);
    asked.unwrap_or(0).max(seen).max(u64::from(remembered))
}

fn replicas(findings: Findings<'_>, facts: &Facts, info: &Info) -> Check {
    let snapshot = &info.seen.snapshot;
    let check = Check::new("replication.replicas", "as many online as there should be, or were");
    let Some(online) = snapshot.replicas_online() else {
        return check.skipped("the server does not tell");
    };
    let connected = snapshot.connected_replicas.unwrap_or(online);
    let expected = expected(findings, facts, info);
    let evidence = match connected > online {
        true => format!("{} online, {} still syncing", count(online), count(connected - online)),
        false => format!("{} online", counted(online, "replica")),
    };
    if online >= expected {
        return check.ok(evidence);
    }
    if connected >= expected {
        return check.note(evidence);
    }
    check.with(Level::Failed, format!("{evidence}, expected {}", count(expected))).fix(
        with_comment(
            findings.redis_cli("INFO replication"),
            "is the replica up, has its master a slot for it, are password and address right?",
        ),
    )
}

fn lag(findings: Findings<'_>, snapshot: &ServerSnapshot) -> Check {
    let backlog = snapshot.repl_backlog_bytes.filter(|bytes| *bytes > 0);
    let check = Check::new(
        "replication.lag",
        format!("acknowledged within {LATE_SECONDS} s, less than half the backlog behind"),
    );
    let following = snapshot.replicas.iter().filter(|replica| replica.is_online());
    let late = following.clone().filter_map(|replica| replica.lag).max();
    let behind =
        following.filter_map(|replica| snapshot.repl_offset?.checked_sub(replica.offset?)).max();
    let evidence = format!(
        "last acknowledged {} ago, {} behind",
        late.map_or_else(|| "an unknown time".to_owned(), seconds),
        behind.map_or_else(|| "unknown".to_owned(), bytes)
    );
    // Beyond all of it, one that loses its link needs the whole data set again.
    let far = behind.zip(backlog).is_some_and(|(behind, backlog)| behind >= backlog / 2);
    let bad = far || late.is_some_and(|late| late >= LATE_SECONDS);
    check.with(if bad { Level::Warning } else { Level::Ok }, evidence).fix(with_comment(
        findings.config_set("repl-backlog-size", backlog.unwrap_or(1 << 20).saturating_mul(4)),
        "spares a full sync; the replica, or the network to it, is too slow",
    ))
}
