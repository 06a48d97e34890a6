//! Verdicts on a server that did not let us in.

use crate::Outcome;
use crate::dial::{HUNG_UP, SPEAKS_HTTP};
use crate::doctor::checks::{self, Findings};
use crate::doctor::report::{Verdict, VerdictKind};
use crate::vocabulary::words::{clean, counted, span};

const PLAIN_HANDSHAKE: &str = "a proxy that knows no CLIENT (twemproxy) hangs up at it: in services, \
                               GuardedPoolBuilder::plain_handshake(true)";

/// What a sentinel's URL says of credentials and TLS is not for the servers that the sentinel names.
const CONNECT_AS: &str = "credentials and TLS of the servers that a sentinel names: --connect-as \
                          rediss://user:password@any, or REDISCLI_AUTH";

pub(super) fn verdict(findings: Findings<'_>) -> Verdict {
    let verdict = of_outcome(findings);
    let kinds = [
        VerdictKind::AuthFailed,
        VerdictKind::Full,
        VerdictKind::Misconfigured,
        VerdictKind::Other,
        VerdictKind::TlsFailed,
        VerdictKind::Unresponsive,
    ];
    match findings.set.is_some() && kinds.contains(&verdict.kind) {
        true if findings.dials.outcome() != Outcome::MaxClients => verdict.action(CONNECT_AS),
        _ => verdict,
    }
}

fn of_outcome(findings: Findings<'_>) -> Verdict {
    let failure = findings.dials.failure.as_ref();
    let words = failure.map(|failure| clean(&failure.message)).unwrap_or_default();
    match findings.dials.outcome() {
        Outcome::MaxClients => full(findings, words, "it has no slot left, not even for us"),
        Outcome::SuspectedMaxClients if findings.location.is_tls => {
            let summary = "it hung up before it said a word, as a full server does over TLS";
            full(findings, words, summary)
                .reason("it may also be a port that speaks no TLS (redis://)")
        }
        // The system's words for a timeout are ours.
        Outcome::Timeout => timeout(findings),
        Outcome::Auth => auth_failed(&words).reason(words),
        Outcome::Misconfigured => misconfigured(findings, &words).reason(words),
        Outcome::Other if words.starts_with(HUNG_UP) => Verdict::new(
            VerdictKind::Other,
            "it let us in, and hung up at one of our first commands",
        )
        .reason(words)
        .action(PLAIN_HANDSHAKE),
        outcome => other(findings, outcome).reason(words),
    }
}

fn full(findings: Findings<'_>, words: String, summary: &str) -> Verdict {
    let mut verdict = Verdict::new(VerdictKind::Full, summary).reason(words);
    if let Some(sockets) = findings.dials.sockets.filter(|sockets| sockets.established > 0) {
        verdict = verdict.reason(format!(
            "{} of this machine are open towards it",
            counted(sockets.established, "socket")
        ));
    }
    verdict
        .reason(
            "connections that are open already go on working: this is no reason to restart the server",
        )
        .action(
            "look through a connection that is open: /status of a service with redis-guard shows used, \
             maxclients and who was refused",
        )
        .action(
            "raise the ceiling through one (a redis-cli, a console): CONFIG SET maxclients <more>; a managed \
             service: its parameter group, or a larger plan",
        )
        .action("or free slots: scale in, or restart one instance of what holds most")
        .action("redis-guard doctor --wait 60s takes the first slot that comes free")
}

fn timeout(findings: Findings<'_>) -> Verdict {
    let timeout = span(findings.location.timeout);
    if checks::is_before_tls(findings) {
        return Verdict::new(
            VerdictKind::Unresponsive,
            "the connection was made, and the TLS handshake had no answer",
        )
        .reason(format!("none within {timeout}"))
        .action("the port may speak no TLS: try redis://")
        .action("or the process is stopped, or cannot keep up with a storm of TLS dials");
    }
    if findings.dials.trace.connected.is_some() {
        return Verdict::new(
            VerdictKind::Unresponsive,
            "the connection was made, and then nothing: the server does not come to answer",
        )
        .reason(format!("no answer within {timeout}"))
        .action(super::LOOK_AT_ITS_PROCESS)
        .action(
            "under a storm of TLS dials this is how a server looks that cannot keep up with them",
        );
    }
    Verdict::new(VerdictKind::TimedOut, "nothing answers there")
        .reason(format!("no connection within {timeout}"))
        .action("a firewall that drops packets, a wrong address, or an accept queue that is full")
}

fn auth_failed(words: &str) -> Verdict {
    if words.contains("without any password configured") {
        return Verdict::new(VerdictKind::AuthFailed, "it has no password, and we sent one")
            .action("take it out of the URL, or unset REDISCLI_AUTH")
            .action(
                "if it is a sentinel: --connect-as redis://any keeps REDISCLI_AUTH for the servers that it names",
            );
    }
    Verdict::new(VerdictKind::AuthFailed, "it does not know us: wrong or missing credentials")
        .action("redis://user:password@host, or REDISCLI_AUTH")
}

fn misconfigured(findings: Findings<'_>, words: &str) -> Verdict {
    if checks::is_before_tls(findings) {
        return Verdict::new(VerdictKind::TlsFailed, "the TLS handshake failed")
            .action("--cacert FILE with the authority that signed its certificate")
            .action(
                "the name in the URL has to be in the certificate; a plain port speaks no TLS",
            );
    }
    if words == SPEAKS_HTTP {
        return Verdict::new(VerdictKind::NotRedis, "something else listens there")
            .action("look at the port");
    }
    Verdict::new(VerdictKind::Misconfigured, "what the URL asks for does not exist there")
        .action("the database's number, the protocol, the socket's permissions")
}

fn other(findings: Findings<'_>, outcome: Outcome) -> Verdict {
    let trace = &findings.dials.trace;
    match outcome {
        Outcome::SuspectedMaxClients => Verdict::new(
            VerdictKind::Other,
            "it hung up before it said a word, and a full server would have said so",
        )
        .action("the port may speak TLS: try rediss://")
        .action("or it is a proxy, which has no slot left for us, or none behind it")
        .action(PLAIN_HANDSHAKE),
        Outcome::Refused => Verdict::new(VerdictKind::Refused, "nothing listens there").action(
            "is the server up? is this its address and port (INFO server, redis.conf `bind`)?",
        ),
        Outcome::Unreachable => Verdict::new(VerdictKind::Unreachable, "there is no way to it")
            .action("routes, security groups, and whether a proxy in between has a backend"),
        Outcome::Dns => Verdict::new(VerdictKind::Dns, "its name does not resolve")
            .action("the name, and this machine's resolver"),
        Outcome::LocalLimit => {
            Verdict::new(VerdictKind::LocalLimit, "nothing was sent to it: there is nothing left to dial with here")
                .action("raise the limit of open files (ulimit -n; systemd: LimitNOFILE), or find what leaves them open: ls /proc/<pid>/fd")
                .action("no local port: connections that are opened for every request hold theirs for a minute (ss -s: timewait)")
        }
        Outcome::Denied => Verdict::new(
            VerdictKind::ProtectedMode,
            "protected mode lets nobody in from outside",
        )
        .action("give it a password (requirepass or an ACL), from its own machine")
        .action(
            "each attempt counts as a rejected connection: maxclients has nothing to do with it",
        ),
        Outcome::Loading => {
            Verdict::new(VerdictKind::Loading, "it loads its data set").action("wait")
        }
        _ if trace.connected.is_some() && trace.answered.is_none() => Verdict::new(
            VerdictKind::NotRedis,
            "what answers there does not speak Redis's protocol",
        )
        .action("look at the port"),
        _ => Verdict::new(VerdictKind::Other, "it could not be connected to")
            .action("redis-cli -u <url> PING, from here and from the server's own machine"),
    }
}
