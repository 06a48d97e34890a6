//! Classification: from what a dial saw to what it means.

use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

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
    if io_error(error).and_then(local_limit).is_some() {
        failed(Outcome::LocalLimit)
    } else if error.is_timeout() {
        failed(Outcome::Timeout)
    } else if error.is_connection_refusal() {
        failed(Outcome::Refused)
    } else if was_closed(error) {
        // What a full server looks like to redis-rs, and a restart too: two within a second count.
        failed(Outcome::SuspectedMaxClients)
    } else if error.kind() == ErrorKind::AuthenticationFailed {
        failed(Outcome::Auth)
    } else if error.is_io_error() {
        failed(Outcome::Other)
    } else if error.kind() == ErrorKind::Client {
        // Decided on this side, ours included.
        Class::Unknown
    } else {
        Class::Worked
    }
}

/// The server's words in an error reply.
pub(super) fn server_words(error: &RedisError) -> String {
    let code = error.code().unwrap_or_default();
    error.detail().map_or_else(|| code.to_owned(), |detail| format!("{code} {detail}"))
}

/// The I/O error inside. redis-rs keeps it behind an `Arc`, which is what `source` hands out.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    type Shared = Arc<dyn std::error::Error + Send + Sync>;
    let source = std::error::Error::source(error)?.downcast_ref::<Shared>()?;
    source.downcast_ref::<io::Error>()
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
        Some(kind) => matches!(
            kind,
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
        ),
        None => error.is_connection_dropped(),
    }
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
mod tests {
    use super::*;

    fn io_error(kind: io::ErrorKind) -> RedisError {
        io::Error::from(kind).into()
    }

    #[test]
    fn every_vendors_refusal_is_heard() {
        for line in [
            "ERR max number of clients reached",
            "ERR max number of clients + cluster connections reached",
            "ERR max concurrent connections exceeded",
            "err Max Number Of Clients Reached (limit 10000)",
        ] {
            assert_eq!(of_error_line(line), Some(Outcome::MaxClients), "{line}");
        }
        assert_eq!(
            of_error_line("DENIED Redis is running in protected mode because"),
            Some(Outcome::Denied)
        );
        assert_eq!(of_error_line("no upstream host"), Some(Outcome::Unreachable));
        assert_eq!(of_error_line("ERR unknown subcommand 'SETINFO'"), None);
    }

    #[test]
    fn the_servers_words_come_before_the_drivers() {
        let heard = b"-ERR max number of clients reached\r\n";
        for error in [
            io_error(io::ErrorKind::BrokenPipe),
            RedisError::from((ErrorKind::AuthenticationFailed, "Password authentication failed")),
        ] {
            let (outcome, words) = classify(Stage::Handshake, heard, &error);
            assert_eq!(
                (outcome, words.as_str()),
                (Outcome::MaxClients, "ERR max number of clients reached")
            );
        }
    }

    #[test]
    fn an_unrelated_error_line_before_the_refusal_does_not_hide_it() {
        let heard = b"-ERR Unknown subcommand 'SETINFO'\r\n-ERR max number of clients reached\r\n";
        let (outcome, _) = classify(Stage::Handshake, heard, &io_error(io::ErrorKind::BrokenPipe));
        assert_eq!(outcome, Outcome::MaxClients);
    }

    #[test]
    fn a_silent_close_is_suspected_only_before_the_first_byte() {
        let eof = io_error(io::ErrorKind::UnexpectedEof);
        assert_eq!(classify(Stage::Handshake, b"", &eof).0, Outcome::SuspectedMaxClients);
        assert_eq!(classify(Stage::Handshake, b"+OK\r\n", &eof).0, Outcome::Other);
        let refused = io_error(io::ErrorKind::ConnectionRefused);
        assert_eq!(classify(Stage::Connect, b"", &refused).0, Outcome::Refused);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_ran_out_on_this_side_is_not_the_servers() {
        for (number, words) in [
            (24, "this process has no file descriptor"),
            (23, "this machine has no file descriptor"),
            (99, "no local port"),
            (105, "memory"),
            (12, "memory"),
        ] {
            let error = RedisError::from(io::Error::from_raw_os_error(number));
            for stage in [Stage::Resolve, Stage::Connect, Stage::Handshake] {
                let (outcome, said) = classify(stage, b"", &error);
                assert_eq!(outcome, Outcome::LocalLimit, "{number} {stage:?}");
                assert!(said.contains(words), "{number}: {said}");
            }
            let class = of_call(&error);
            assert!(
                matches!(class, Class::Failed { outcome: Outcome::LocalLimit, .. }),
                "{class:?}"
            );
        }
        for number in [1, 13] {
            let denied = RedisError::from(io::Error::from_raw_os_error(number));
            let (outcome, said) = classify(Stage::Connect, b"", &denied);
            assert_eq!(outcome, Outcome::Misconfigured, "{number}");
            assert!(said.starts_with("this process may not connect"), "{said}");
        }
    }

    #[test]
    fn a_port_that_speaks_http_is_told_so() {
        let heard = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        let error = RedisError::from((ErrorKind::Parse, "not a reply"));
        assert_eq!(classify(Stage::Handshake, heard, &error).0, Outcome::Misconfigured);
    }

    #[test]
    fn a_line_without_an_end_is_read_too() {
        let eof = io_error(io::ErrorKind::UnexpectedEof);
        let (outcome, words) = classify(Stage::Handshake, b"-SHUTDOWN", &eof);
        assert_eq!((outcome, words.as_str()), (Outcome::Other, "SHUTDOWN"));
    }
}
