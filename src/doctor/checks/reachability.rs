//! Can it be reached, and how long does each step take?

use std::time::Duration;

use super::Findings;
use crate::Outcome;
use crate::doctor::local::OwnFiles;
use crate::doctor::report::{Check, Level};
use crate::vocabulary::words::{clean, count, counted, span};

/// A connect, or a name, that takes so long will hurt: a pool that redials spends its callers'
/// timeouts on it.
const SLOW_STEP: Duration = Duration::from_millis(250);

/// Half the round trips at 10 ms: a hundred commands a second and connection, where a healthy
/// server nearby does ten thousand.
const SLOW_PING: Duration = Duration::from_millis(10);

/// Sockets in TIME_WAIT, of the 28,000 ports that Linux has for one address: a service that opens a
/// connection for every request has 60 s worth of its requests there.
const MANY_TIME_WAIT: u64 = 1_000;

const HUNG_FIX: &str = "on the server's machine: is the process stopped, swapping, or in one long command \
                    (redis-cli SLOWLOG GET, once it answers)?";

const RAISE_OWN_FILES: &str = "raise this process's limit of open files (ulimit -n; systemd: LimitNOFILE), or \
                               lower max_connections";

pub(super) fn checks(findings: Findings<'_>) -> Vec<Check> {
    // Over somebody else's connection there is no way to it to be told of.
    if findings.dials.count == 0 {
        let checks = [pools_last_dial(findings), ping(findings), own_files(findings)];
        return checks.into_iter().flatten().collect();
    }
    [
        dns(findings),
        connect(findings),
        tls(findings),
        auth(findings),
        ping(findings),
        time_wait(findings),
        own_files(findings),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Of a pool that has no connection to its server: of how its dial failed, the words are known and not the steps.
fn pools_last_dial(findings: Findings<'_>) -> Option<Check> {
    // A full server is told of under capacity.
    if findings.dials.failure.is_none() || findings.is_full() {
        return None;
    }
    let check = Check::new("reachability.connect", "the pool's last dial succeeds");
    Some(check.with(Level::Failed, failure(findings)).fix(
        "redis-guard doctor <the server>, from this service's machine, tells at which step it fails",
    ))
}

fn dns(findings: Findings<'_>) -> Option<Check> {
    let trace = &findings.dials.trace;
    let check = Check::new("reachability.dns", format!("resolves within {}", span(SLOW_STEP)));
    if findings.location.is_unix {
        return None;
    }
    Some(
        match trace.resolved {
            None if findings.dials.outcome() == Outcome::LocalLimit => {
                check.skipped(failure(findings))
            }
            None => check.with(Level::Failed, failure(findings)).fix(
                "getent hosts <name>: is the name right, does this machine's resolver answer?",
            ),
            Some(took) => {
                let addresses = trace.addresses.len();
                check
                    .with(slow(took), format!("addresses: {addresses}, resolved in {}", span(took)))
            }
        }
        .fix("resolve the name once, or run a local resolver"),
    )
}

fn connect(findings: Findings<'_>) -> Option<Check> {
    let check = Check::new("reachability.connect", format!("connects within {}", span(SLOW_STEP)));
    let trace = &findings.dials.trace;
    match trace.connected {
        Some(took) if !trace.silent.is_empty() => {
            let silent: Vec<_> = trace.silent.iter().map(ToString::to_string).collect();
            let silent = silent.join(", ");
            Some(
                check
                    .with(Level::Warning, format!("connected in {}, but not to {silent}, where nothing answers", span(took)))
                    .fix("every process tries it first: let its packets through, or take it out of the name"),
            )
        }
        Some(took) => Some(
            check
                .with(slow(took), format!("connected in {}", span(took)))
                .fix("look at the network between here and the server, and at its accept queue"),
        ),
        None if trace.resolved.is_none() && !findings.location.is_unix => None,
        None if findings.dials.outcome() == Outcome::LocalLimit => {
            Some(check.skipped(failure(findings)))
        }
        None => Some(
            check
                .with(Level::Failed, failure(findings))
                .fix("is the server up, is this its address and port, does a firewall let us by?"),
        ),
    }
}

fn tls(findings: Findings<'_>) -> Option<Check> {
    let trace = &findings.dials.trace;
    if !findings.location.is_tls || trace.connected.is_none() {
        return None;
    }
    let check = Check::new("reachability.tls", format!("shakes hands within {}", span(SLOW_STEP)));
    Some(match trace.secured {
        Some(took) => check
            .with(slow(took), format!("handshake in {}", span(took)))
            .fix("look at the server's CPU: it has one thread for handshakes and commands"),
        // It hung up before it said a word, as a full server does.
        None if findings.is_full() => check.skipped(failure(findings)),
        None if findings.dials.outcome() == Outcome::Timeout => check
            .with(Level::Failed, failure(findings))
            .fix("a port that speaks no TLS waits for the rest of the command: try redis://"),
        None => check.with(Level::Failed, failure(findings)).fix(
            "--cacert FILE with the certificate authority that signed the server's, or a URL with \
             the name that is in it",
        ),
    })
}

/// The first answer: are we let in?
fn auth(findings: Findings<'_>) -> Option<Check> {
    let (dials, trace) = (findings.dials, &findings.dials.trace);
    let check = Check::new("reachability.auth", "let in, and one answer");
    if let Some(took) = trace.answered {
        return Some(check.ok(format!("let in after {}", span(took))));
    }
    if trace.connected.is_none() || is_before_tls(findings) {
        return None;
    }
    let failed = check.with(Level::Failed, failure(findings));
    match dials.outcome() {
        // Told under capacity, and under ping.
        Outcome::MaxClients | Outcome::Timeout => None,
        Outcome::SuspectedMaxClients => Some(failed.fix(
            "the port may speak TLS: try rediss://; or a proxy has no slot behind it, or knows no \
                 CLIENT (plain_handshake)",
        )),
        Outcome::Auth => Some(failed.fix(
            "the password, and the user of the URL: redis://user:password@host, or REDISCLI_AUTH",
        )),
        Outcome::Denied => Some(failed.fix(
            "on the server's own machine: redis-cli CONFIG SET requirepass <password>, or bind it \
             to an inside address; protected-mode no only where a firewall is before it",
        )),
        _ => Some(failed.fix("look at what listens there, and at what the URL asks for")),
    }
}

fn ping(findings: Findings<'_>) -> Option<Check> {
    let check = Check::new("reachability.ping", format!("half of them within {}", span(SLOW_PING)));
    let Some(facts) = findings.facts else {
        let hung = findings.dials.outcome() == Outcome::Timeout
            && findings.dials.trace.connected.is_some()
            && !is_before_tls(findings);
        return hung.then(|| {
            check
                .with(Level::Failed, format!("connected, then silence: {}", failure(findings)))
                .fix(HUNG_FIX)
        });
    };
    if let Some(words) = facts.lost() {
        return Some(
            check
                .with(
                    Level::Failed,
                    format!("it stopped answering in the middle: {}", clean(words)),
                )
                .fix(HUNG_FIX),
        );
    }
    Some(match &facts.ping {
        Ok(ping) => check
            .with(
                if ping.p50 >= SLOW_PING { Level::Warning } else { Level::Ok },
                format!(
                    "p50 {}, p90 {}, longest {}, of {}",
                    span(ping.p50),
                    span(ping.p90),
                    span(ping.max),
                    ping.samples
                ),
            )
            .fix(findings.redis_cli("--latency-history")),
        // It says so itself, and is told under server.
        Err(why) => check.skipped(why.to_string()),
    })
}

fn time_wait(findings: Findings<'_>) -> Option<Check> {
    let sockets = findings.dials.sockets?;
    let threshold = format!("fewer than {}", counted(MANY_TIME_WAIT, "socket"));
    let check = Check::new("reachability.time_wait", threshold);
    let level = if sockets.time_wait >= MANY_TIME_WAIT { Level::Warning } else { Level::Ok };
    let evidence = format!(
        "{} in TIME_WAIT, {} open, from this machine",
        counted(sockets.time_wait, "socket"),
        sockets.established
    );
    Some(check.with(level, evidence).fix(
        "something on this machine opens a connection for every request: give it a pool, or one \
         shared connection",
    ))
}

/// This process's files, which its connections are: what a pool may still open has to fit.
fn own_files(findings: Findings<'_>) -> Option<Check> {
    let dials = findings.dials;
    let check = Check::new("reachability.own_files", "what this process may open is enough");
    if dials.outcome() == Outcome::LocalLimit {
        return Some(check.with(Level::Failed, failure(findings)).fix(RAISE_OWN_FILES));
    }
    let OwnFiles { open, limit, wanted } = dials.own_files?;
    let evidence = format!(
        "this process may open {}, {} are open, and the pool may open {} more",
        counted(limit, "file"),
        count(open),
        counted(wanted, "connection")
    );
    let fits = open.saturating_add(wanted) <= limit;
    let level = if fits { Level::Ok } else { Level::Warning };
    Some(check.with(level, evidence).fix(RAISE_OWN_FILES))
}

/// True where there is a connection, and no TLS on it yet.
pub(in crate::doctor) fn is_before_tls(findings: Findings<'_>) -> bool {
    let trace = &findings.dials.trace;
    findings.location.is_tls && trace.connected.is_some() && trace.secured.is_none()
}

fn slow(took: Duration) -> Level {
    if took >= SLOW_STEP { Level::Warning } else { Level::Ok }
}

/// In the server's words, or the system's.
fn failure(findings: Findings<'_>) -> String {
    let failure = findings.dials.failure.as_ref();
    clean(&failure.map(|failure| failure.message.clone()).unwrap_or_default())
}
