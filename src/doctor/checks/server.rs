//! Is the server itself well, and set up to part with connections that nobody uses?

use std::time::Duration;

use super::{Findings, above, skip_all, with_comment};
use crate::doctor::facts::{Config, Facts, Info, SlowLog};
use crate::doctor::report::{Check, Level};
use crate::vocabulary::words::{bytes, clean, count, counted, percent, seconds, span};

/// From here on the next burst is refused, or evicts.
const MUCH_MEMORY: f64 = 0.9;
const NO_MEMORY: f64 = 0.98;

/// A command that takes so long keeps every client waiting, and the kernel's queue of new ones.
const BLOCKING: Duration = Duration::from_millis(100);

/// The default of `tcp-backlog`: below it a scale-out waits for the kernel.
const BACKLOG: u64 = 511;

/// The checks that need CONFIG.
const SETTINGS: [&str; 5] = [
    "server.timeout",
    "server.tcp_keepalive",
    "server.tcp_backlog",
    "server.output_buffer_limits",
    "server.maxmemory_clients",
];

pub(super) fn checks(findings: Findings<'_>, facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    match &facts.info {
        Ok(info) => {
            checks.push(loading(info));
            checks.push(memory(findings, facts, info));
        }
        Err(why) => checks.extend(skip_all(["server.loading", "server.memory"], "INFO", why)),
    }
    checks.push(slow_log(findings, facts));
    match &facts.config {
        Ok(config) => checks.extend([
            timeout(config),
            keepalive(findings, config),
            backlog(facts, config),
            output_buffer_limits(findings, config),
            maxmemory_clients(config),
        ]),
        Err(why) => checks.extend(skip_all(SETTINGS, "CONFIG", why)),
    }
    checks
}

fn loading(info: &Info) -> Check {
    let check = Check::new("server.loading", "its data set is loaded");
    if info.seen.snapshot.loading != Some(true) {
        return check.ok("loaded");
    }
    let part = info.field::<f64>("loading_loaded_perc");
    let part =
        part.map_or_else(String::new, |part| format!(", {:.0} % so far", part.clamp(0.0, 100.0)));
    let left = loading_time_left(info);
    check
        .with(Level::Failed, format!("it loads its data set{part}{left}"))
        .fix("wait: a restart begins anew; or promote a replica")
}

/// `, about 12 s left`, where the server tells.
pub(in crate::doctor) fn loading_time_left(info: &Info) -> String {
    let left = info.field::<u64>("loading_eta_seconds");
    left.map_or_else(String::new, |left| format!(", about {} left", seconds(left)))
}

fn memory(findings: Findings<'_>, facts: &Facts, info: &Info) -> Check {
    let check = Check::new(
        "server.memory",
        format!("warning from {} of maxmemory on", percent(MUCH_MEMORY)),
    );
    let snapshot = &info.seen.snapshot;
    let Some(used) = snapshot.used_memory_bytes else {
        return check.skipped("the server does not tell");
    };
    let policy = facts.config.as_ref().ok().and_then(|config| config.text("maxmemory-policy"));
    let policy = policy.map(str::to_owned).or_else(|| info.field("maxmemory_policy"));
    let max = match snapshot.maxmemory_bytes {
        None => return check.skipped(format!("{} in use, its maxmemory unknown", bytes(used))),
        Some(0) => {
            return check
                .note(format!("{} in use, no maxmemory: the machine's is the limit", bytes(used)));
        }
        Some(max) => max,
    };
    let used_part = crate::server::ratio(used, max);
    // What evicts runs full for good, and means to.
    let evicts = policy.as_deref().is_some_and(|policy| policy != "noeviction");
    let level = match above(used_part, MUCH_MEMORY, NO_MEMORY) {
        Level::Ok => Level::Ok,
        _ if evicts => Level::Note,
        level => level,
    };
    let evidence = format!(
        "{} of {} ({}), {}",
        bytes(used),
        bytes(max),
        percent(used_part),
        clean(policy.as_deref().unwrap_or("policy unknown"))
    );
    check.with(level, evidence).fix(with_comment(
        findings.config_set("maxmemory", max.saturating_mul(3) / 2),
        "or a policy that evicts; clients' buffers count too (MEMORY STATS)",
    ))
}

fn slow_log(findings: Findings<'_>, facts: &Facts) -> Check {
    let recent = span(SlowLog::RECENT);
    let check = Check::new(
        "server.slowlog",
        format!("none of {} and more in the last {recent}", span(BLOCKING)),
    );
    let log = match &facts.slow {
        Ok(log) => log,
        Err(why) => return check.skipped(format!("SLOWLOG: {why}")),
    };
    let Some((took, command)) = &log.slowest else {
        return check.ok(format!("none in the last {recent}, {} in all", count(log.entries)));
    };
    let evidence = format!(
        "{} in the last {recent}, the slowest {} took {}",
        counted(log.recent, "entry").replace("entrys", "entries"),
        clean(command),
        span(*took)
    );
    let level = if *took >= BLOCKING { Level::Warning } else { Level::Note };
    check
        .with(level, evidence)
        .fix(with_comment(findings.redis_cli("SLOWLOG GET 10"), "every client waits for it"))
}

fn timeout(config: &Config) -> Check {
    let check = Check::new("server.timeout", "for information: idle clients are closed after it");
    match config.number("timeout") {
        None => check.skipped("the server does not tell"),
        Some(0) => check.note("0: the server never closes an idle client"),
        Some(after) => check.ok(format!("idle clients are closed after {}", seconds(after))),
    }
}

fn keepalive(findings: Findings<'_>, config: &Config) -> Check {
    let check = Check::new("server.tcp_keepalive", "on: dead peers give their slots back");
    match config.number("tcp-keepalive") {
        None => check.skipped("the server does not tell"),
        Some(0) => check
            .with(Level::Warning, "0: a client whose machine has gone keeps its slot for ever")
            .fix(findings.config_set("tcp-keepalive", 300)),
        Some(after) => check.ok(format!("after {}", seconds(after))),
    }
}

fn backlog(facts: &Facts, config: &Config) -> Check {
    let check = Check::new("server.tcp_backlog", format!("{BACKLOG}, and the kernel allows it"));
    let Some(backlog) = config.number("tcp-backlog") else {
        return check.skipped("the server does not tell");
    };
    let allowed = facts.somaxconn.unwrap_or(u64::MAX);
    let evidence = match facts.somaxconn {
        Some(allowed) => format!("{backlog}; net.core.somaxconn {allowed}"),
        None => backlog.to_string(),
    };
    if backlog.min(allowed) >= BACKLOG {
        return check.ok(evidence);
    }
    check.note(format!(
        "{evidence}: a scale-out waits for the kernel (tcp-backlog in redis.conf and a restart; \
         sysctl -w net.core.somaxconn=1024)"
    ))
}

fn output_buffer_limits(findings: Findings<'_>, config: &Config) -> Check {
    let check = Check::new("server.output_buffer_limits", "subscribers and replicas have a limit");
    let Some(limits) = config.text("client-output-buffer-limit") else {
        return check.skipped("the server does not tell");
    };
    let words: Vec<&str> = limits.split_ascii_whitespace().collect();
    let open = words
        .chunks_exact(4)
        .find(|class| class[0] == "pubsub" && class[1] == "0" && class[2] == "0");
    match open {
        None => check.ok(clean(limits)),
        Some(_) => check
            .with(
                Level::Warning,
                format!("{}: a subscriber that does not read fills the memory", clean(limits)),
            )
            .fix(
                findings.config_set("client-output-buffer-limit", "\"pubsub 33554432 8388608 60\""),
            ),
    }
}

fn maxmemory_clients(config: &Config) -> Check {
    let check = Check::new(
        "server.maxmemory_clients",
        "for information: the most that all clients may use",
    );
    match config.text("maxmemory-clients") {
        None => check.skipped("the server has no such setting (Redis 7 and later)"),
        Some("0") => check.note("0: clients' buffers are bounded one by one only"),
        Some(limit) => check.ok(clean(limit)),
    }
}
