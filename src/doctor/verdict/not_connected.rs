//! Verdicts on a server that did not let us in.

use crate::Outcome;
use crate::dial::SPEAKS_HTTP;
use crate::doctor::checks::{self, Case};
use crate::doctor::report::{Verdict, VerdictKind};
use crate::vocabulary::words::{clean, counted, span};

pub(super) fn verdict(case: Case<'_>) -> Verdict {
    use VerdictKind as Kind;
    let arrival = case.arrival;
    let trace = &arrival.trace;
    let words = arrival.failure.as_ref().map(|failure| clean(&failure.message)).unwrap_or_default();
    let handshake = case.place.is_tls && trace.connected.is_some() && trace.secured.is_none();
    let verdict = match arrival.outcome() {
        Outcome::MaxClients => return full(case, "it has no slot left, not even for us"),
        Outcome::SuspectedMaxClients if case.place.is_tls => {
            return full(case, "it hung up before it said a word, as a full server does over TLS")
                .because("it may also be a port that speaks no TLS (redis://)");
        }
        Outcome::SuspectedMaxClients => Verdict::new(
            Kind::Other,
            "it hung up before it said a word, and a full server would have said so",
        )
        .so("the port may speak TLS: try rediss://")
        .so("or it is a proxy, which has no slot left for us, or none behind it"),
        Outcome::Refused => Verdict::new(Kind::Refused, "nothing listens there")
            .so("is the server up? is this its address and port (INFO server, redis.conf `bind`)?"),
        Outcome::Unreachable => Verdict::new(Kind::Unreachable, "there is no way to it")
            .so("routes, security groups, and whether a proxy in between has a backend"),
        Outcome::Dns => Verdict::new(Kind::Dns, "its name does not resolve")
            .so("the name, and this machine's resolver"),
        Outcome::Timeout if checks::is_silent_about_tls(case) => Verdict::new(
            Kind::Unresponsive,
            "the connection was made, and the TLS handshake had no answer",
        )
        .because(format!("none within {}", span(case.place.patience)))
        .so("the port may speak no TLS: try redis://")
        .so("or the process is stopped, or cannot keep up with a storm of TLS dials"),
        Outcome::Timeout if trace.connected.is_some() => Verdict::new(
            Kind::Unresponsive,
            "the connection was made, and then nothing: the server does not come to answer",
        )
        .because(format!("no answer within {}", span(case.place.patience)))
        .so("on its machine: is the process stopped, swapping, forking, or in one long command?")
        .so("under a storm of TLS dials this is how a server looks that cannot keep up with them"),
        Outcome::Timeout => Verdict::new(Kind::TimedOut, "nothing answers there")
            .because(format!("no connection within {}", span(case.place.patience)))
            .so("a firewall that drops packets, a wrong address, or an accept queue that is full"),
        Outcome::Denied => Verdict::new(
            Kind::ProtectedMode,
            "protected mode lets nobody in from outside",
        )
        .so("give it a password (requirepass or an ACL), from its own machine")
        .so("each attempt counts as a rejected connection: maxclients has nothing to do with it"),
        Outcome::Auth if words.contains("without any password configured") => {
            Verdict::new(Kind::AuthFailed, "it has no password, and we sent one")
                .so("take it out of the URL, or unset REDISCLI_AUTH")
        }
        Outcome::Auth => {
            Verdict::new(Kind::AuthFailed, "it does not know us: wrong or missing credentials")
                .so("redis://user:password@host, or REDISCLI_AUTH")
        }
        Outcome::Loading => Verdict::new(Kind::Loading, "it loads its data set").so("wait"),
        Outcome::Misconfigured if handshake => {
            Verdict::new(Kind::TlsFailed, "the TLS handshake failed")
                .so("--cacert FILE with the authority that signed its certificate")
                .so("the name in the URL has to be in the certificate; a plain port speaks no TLS")
        }
        Outcome::Misconfigured if words == SPEAKS_HTTP => {
            Verdict::new(Kind::NotRedis, "something else listens there").so("look at the port")
        }
        Outcome::Misconfigured => {
            Verdict::new(Kind::Misconfigured, "what the URL asks for does not exist there")
                .so("the database's number, the protocol, the socket's permissions")
        }
        _ if trace.connected.is_some() && trace.answered.is_none() => {
            Verdict::new(Kind::NotRedis, "what answers there does not speak Redis's protocol")
                .so("look at the port")
        }
        _ => Verdict::new(Kind::Other, "it could not be connected to")
            .so("redis-cli -u <url> PING, from here and from the server's own machine"),
    };
    // The system's words for a timeout are ours.
    match arrival.outcome() {
        Outcome::Timeout => verdict,
        _ => verdict.because(words),
    }
}

fn full(case: Case<'_>, summary: &str) -> Verdict {
    let words = case.arrival.failure.as_ref().map(|failure| clean(&failure.message));
    let mut verdict = Verdict::new(VerdictKind::Full, summary).because(words.unwrap_or_default());
    if let Some(sockets) = case.arrival.sockets.filter(|sockets| sockets.established > 0) {
        verdict = verdict.because(format!(
            "{} of this machine are open towards it",
            counted(sockets.established, "socket")
        ));
    }
    verdict
        .because("connections that are open already go on working: this is no reason to restart the server")
        .so("look through a connection that is open: /status of a service with redis-guard shows used, \
             maxclients and who was refused")
        .so("raise the ceiling through one (a redis-cli, a console): CONFIG SET maxclients <more>; a managed \
             service: its parameter group, or a larger plan")
        .so("or free slots: scale in, or restart one instance of what holds most")
        .so("redis-guard doctor --wait 60s takes the first slot that comes free")
}
