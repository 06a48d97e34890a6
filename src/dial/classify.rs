//! Classification: from what a dial saw to what it means.

use std::io;

use redis::{ErrorKind, RedisError};

use crate::vocabulary::redis_error::{io_error, is_refusal};
use crate::vocabulary::{Class, Outcome};

/// How far a dial had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Resolving the name.
    Resolve,
    /// Waiting for the kernel to connect.
    Connect,
    /// The socket is open: TLS.
    Tls,
    /// Set-up commands, the first round trip.
    Handshake,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Resolve, Self::Connect, Self::Tls, Self::Handshake];

    /// The stage that `stage as u8` is of.
    pub(super) fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// What has not come yet in this stage.
    pub(super) const fn awaits(self) -> &'static str {
        match self {
            Self::Resolve => "the name has not been resolved",
            Self::Connect => "nothing has answered the connect",
            Self::Tls => "connected, but the TLS handshake has had no answer",
            Self::Handshake => "connected, but the first commands have had no answer",
        }
    }
}

/// What an error line of the server means, or `None` where it says nothing about the connection.
///
/// Vendors word the refusal differently, and proxies add to it, so this matches on the meaning,
/// without regard to case.
pub(crate) fn of_error_line(line: &str) -> Option<Outcome> {
    let text = line.to_ascii_lowercase();
    let code = text.split(' ').next().unwrap_or_default();
    if (text.contains("max number of clients") && text.contains("reached"))
        || text.contains("max concurrent connections exceeded")
    {
        return Some(Outcome::MaxClients);
    }
    match code {
        "denied" => return Some(Outcome::Denied),
        "loading" => return Some(Outcome::Loading),
        "noauth" | "wrongpass" => return Some(Outcome::Auth),
        "noproto" => return Some(Outcome::Misconfigured),
        _ => {}
    }
    const AUTH: [&str; 4] =
        ["invalid password", "invalid username-password", "sent auth", "auth <password>"];
    const MISCONFIGURED: [&str; 5] = [
        "db index",
        "select is not allowed",
        "unknown command `hello`",
        "unknown command 'hello'",
        "unknown command \"hello\"",
    ];
    const NO_BACKEND: [&str; 2] = ["no upstream host", "upstream failure"];
    let any = |texts: &[&str]| texts.iter().any(|part| text.contains(part));
    // First: such a line may echo our own arguments, whatever they contain.
    if any(&MISCONFIGURED) {
        Some(Outcome::Misconfigured)
    } else if any(&AUTH) {
        Some(Outcome::Auth)
    } else if any(&NO_BACKEND) {
        Some(Outcome::Unreachable)
    } else {
        None
    }
}

/// The error lines among the first bytes of the server, without their `-`. The last one may be cut
/// short: KeyDB sends some without an end of line.
fn error_lines(heard: &[u8]) -> impl Iterator<Item = String> + '_ {
    heard
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"-"))
        .map(|line| String::from_utf8_lossy(line).trim_end().to_owned())
}

/// The refusal among the first bytes of the server, if it said one.
pub(crate) fn refusal(heard: &[u8]) -> Option<String> {
    error_lines(heard).find(|line| of_error_line(line) == Some(Outcome::MaxClients))
}

/// The first error line that says that we are not let in.
pub(crate) fn bad_news(heard: &[u8]) -> Option<String> {
    error_lines(heard).find(|line| of_error_line(line).is_some())
}

/// What a failed dial means, and in whose words: `heard` are the first bytes the server sent,
/// `error` is what the driver, or the socket, made of it.
pub(crate) fn classify(stage: Stage, heard: &[u8], error: &RedisError) -> (Outcome, String) {
    // What the server said in so many words comes before anything the driver concluded.
    if let Some(said) = error_lines(heard).find_map(|line| Some((of_error_line(&line)?, line))) {
        return said;
    }
    if error.code().is_some() {
        let words = server_words(error);
        return (of_error_line(&words).unwrap_or(Outcome::Other), words);
    }
    if let Some(what) = io_error(error).and_then(local_limit) {
        return (Outcome::LocalLimit, format!("{what}: {error}"));
    }
    // The system's own timeout has a number.
    let ours = |error: &io::Error| {
        error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none()
    };
    let message = match io_error(error).is_some_and(ours) {
        true => format!("{} within the connect timeout", stage.awaits()),
        false => error.to_string(),
    };
    match stage {
        Stage::Resolve => (Outcome::Dns, message),
        Stage::Connect if io_kind(error) == Some(io::ErrorKind::PermissionDenied) => (
            Outcome::Misconfigured,
            format!(
                "this process may not connect there (the socket's permissions, a sandbox, a local \
                 firewall): {error}"
            ),
        ),
        Stage::Connect => (of_connect_error(error), message),
        Stage::Tls | Stage::Handshake if heard.is_empty() && was_closed(error) => (
            Outcome::SuspectedMaxClients,
            format!(
                "accepted, then closed before the first reply ({error}): the server may be full \
                 (over TLS and behind some proxies it does not say so), or expect TLS, or be a proxy \
                 that knows no CLIENT (plain_handshake)"
            ),
        ),
        Stage::Tls | Stage::Handshake => of_handshake_error(heard, error, message),
    }
}

/// What the error of a command, on whichever client's connection, says about the server.
pub(crate) fn of_call(error: &RedisError) -> Class {
    if is_refusal(error) {
        // Ours, made by what is known already.
        return Class::Unknown;
    }
    let failed = |outcome| Class::Failed { outcome, message: error.to_string() };
    if error.code().is_some() {
        let words = server_words(error);
        return match of_error_line(&words) {
            // About one command, not about the connection.
            Some(Outcome::Misconfigured) | None => Class::Worked,
            // A proxy may pass the refusal of what is behind it on to a connection that works.
            Some(outcome) => Class::Failed { outcome, message: words },
        };
    }
    if let Some(outcome) = io_error(error).and_then(of_io_error) {
        failed(outcome)
    } else if error.is_timeout() {
        failed(Outcome::Timeout)
    } else if error.is_connection_refusal() {
        failed(Outcome::Refused)
    } else if was_closed(error) {
        failed(Outcome::SuspectedMaxClients)
    } else if error.kind() == ErrorKind::AuthenticationFailed {
        failed(Outcome::Auth)
    } else if error.is_io_error() {
        failed(Outcome::Other)
    } else if error.kind() == ErrorKind::Client {
        // Decided on this side.
        Class::Unknown
    } else {
        Class::Worked
    }
}

/// What the error of a socket, whosever it is, says about the server; `None` where it speaks of something else.
pub(crate) fn of_io_error(error: &io::Error) -> Option<Outcome> {
    if local_limit(error).is_some() {
        return Some(Outcome::LocalLimit);
    }
    match error.kind() {
        io::ErrorKind::TimedOut => Some(Outcome::Timeout),
        io::ErrorKind::ConnectionRefused => Some(Outcome::Refused),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some(Outcome::Unreachable)
        }
        // What a full server looks like, and a restart too: two within a second count.
        kind if is_closed(kind) => Some(Outcome::SuspectedMaxClients),
        _ => None,
    }
}

/// The server's words in an error reply.
pub(super) fn server_words(error: &RedisError) -> String {
    let code = error.code().unwrap_or_default();
    error.detail().map_or_else(|| code.to_owned(), |detail| format!("{code} {detail}"))
}

fn io_kind(error: &RedisError) -> Option<io::ErrorKind> {
    io_error(error).map(io::Error::kind)
}

/// What this process or this machine has run out of, if that is what the error says.
pub(super) fn local_limit(error: &io::Error) -> Option<&'static str> {
    const FILES: &str = "this process has no file descriptor left (ulimit -n)";
    // std has no kinds for these; the numbers are those of Unix and of Winsock.
    match error.raw_os_error() {
        #[cfg(unix)]
        Some(24) => return Some(FILES),
        #[cfg(unix)]
        Some(23) => return Some("this machine has no file descriptor left (fs.file-max)"),
        #[cfg(target_os = "linux")]
        Some(105) => return Some("this machine has no memory left for sockets"),
        #[cfg(windows)]
        Some(10024) => return Some(FILES),
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => Some(
            "this machine has no local port left towards the server, or no address of its kind \
             (IPv4, IPv6)",
        ),
        io::ErrorKind::OutOfMemory => Some("this machine has no memory left for sockets"),
        _ => None,
    }
}

/// True where there is no way from here to the address at all, so that another one's error says more.
pub(super) fn is_no_way(error: &RedisError) -> bool {
    io_error(error).is_some_and(|error| {
        let no_route = [
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::NetworkUnreachable,
            io::ErrorKind::AddrNotAvailable,
        ];
        no_route.contains(&error.kind())
    })
}

fn of_connect_error(error: &RedisError) -> Outcome {
    match io_kind(error) {
        // A Unix socket that is not there is a server that is not there.
        Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Outcome::Refused,
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            Outcome::Unreachable
        }
        // A Unix socket whose backlog is full says so at once: the server does not accept.
        Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Outcome::Timeout,
        // It was accepted, and reset before we came to look: a port where nobody listens refuses.
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted) => {
            Outcome::SuspectedMaxClients
        }
        _ => Outcome::Other,
    }
}

/// True where the driver or the socket reports that the other side closed the connection.
fn was_closed(error: &RedisError) -> bool {
    match io_kind(error) {
        Some(kind) => is_closed(kind),
        None => error.is_connection_dropped(),
    }
}

/// True where the other side closed the connection.
fn is_closed(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

/// What is said of a port where an HTTP server listens.
pub(crate) const SPEAKS_HTTP: &str = "this port speaks HTTP, not Redis's protocol";

/// What is said of a connection that ended in the middle of the handshake.
pub(crate) const HUNG_UP: &str = "closed in the middle of the handshake";
const AT_A_COMMAND: &str = "a proxy that knows no CLIENT does so (plain_handshake)";

fn of_handshake_error(heard: &[u8], error: &RedisError, message: String) -> (Outcome, String) {
    let timed_out = io_kind(error) == Some(io::ErrorKind::TimedOut);
    if heard.starts_with(b"HTTP/") {
        return (Outcome::Misconfigured, SPEAKS_HTTP.to_owned());
    }
    // Servers before 7.2 answer so to the driver's own CLIENT SETINFO, which it does not mind.
    let harmless = |line: &String| line.to_ascii_lowercase().contains("unknown subcommand");
    if let Some(words) = error_lines(heard).find(|line| !harmless(line)) {
        // Not `Auth` even where the driver says "authentication failed": it says so of any
        // error it meets there, and the words do not speak of credentials.
        return (if timed_out { Outcome::Timeout } else { Outcome::Other }, words);
    }
    if was_closed(error) {
        return (Outcome::Other, format!("{HUNG_UP} ({error}): {AT_A_COMMAND}"));
    }
    let outcome = match (error.kind(), io_kind(error)) {
        (ErrorKind::AuthenticationFailed, _) => Outcome::Auth,
        (ErrorKind::RESP3NotSupported | ErrorKind::InvalidClientConfig, _) => {
            Outcome::Misconfigured
        }
        // rustls reports a certificate it does not accept as invalid data.
        (_, Some(io::ErrorKind::InvalidData)) if heard.is_empty() => Outcome::Misconfigured,
        _ if timed_out => Outcome::Timeout,
        _ => Outcome::Other,
    };
    let is_gibberish = matches!(error.kind(), ErrorKind::Parse) && !heard.is_empty();
    let message = match is_gibberish {
        true => format!("this is not Redis's protocol: {:?}", first_line(heard)),
        false => message,
    };
    (outcome, message)
}

/// What it said first, as far as it is fit to be shown.
fn first_line(heard: &[u8]) -> String {
    let line = heard.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).trim_end().chars().take(60).collect()
}

#[cfg(test)]
mod tests;
