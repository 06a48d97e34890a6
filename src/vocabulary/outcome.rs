//! How a dial ended, and what a call says about the server.

use std::fmt;
use std::sync::Arc;

/// How a dial ended.
///
/// redis-rs alone cannot tell these apart: it answers a full server with "broken pipe" or
/// "connection reset", and sometimes with "authentication failed".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// An authenticated round trip succeeded.
    Connected,
    /// The server said that it has no slot left ("max number of clients reached" and the vendors'
    /// wordings of it).
    MaxClients,
    /// The socket was accepted, then closed or reset before the first reply, as a full server
    /// does over TLS, or a proxy that closes silently.
    SuspectedMaxClients,
    /// Protected mode.
    Denied,
    /// Nothing listens there.
    Refused,
    /// No route to the host, or a proxy said that it has no backend.
    Unreachable,
    /// The name did not resolve.
    Dns,
    /// No answer within the connect timeout.
    Timeout,
    /// Wrong or missing credentials.
    Auth,
    /// The server is loading its data set.
    Loading,
    /// The server is a replica, and the pool wants a primary: it was demoted, and its name, or what the
    /// sentinels say, has not moved yet; or it is a primary, and the pool wants a replica. Asked of servers
    /// that sentinels name, after a write was answered with READONLY, and after the watch saw it demoted.
    WrongRole,
    /// The server answered that what we asked for does not exist (database number, protocol
    /// version, …), or its TLS certificate was not accepted.
    Misconfigured,
    /// Nothing was sent to the server: this process or this machine has nothing left to dial with, be it
    /// file descriptors (`ulimit -n`), local ports or memory for sockets.
    LocalLimit,
    /// Anything else; the message tells.
    Other,
}

impl Outcome {
    /// Every outcome, in the order of the metric's `outcome` label.
    pub const ALL: &'static [Self] = &[
        Self::Connected,
        Self::MaxClients,
        Self::SuspectedMaxClients,
        Self::Denied,
        Self::Refused,
        Self::Unreachable,
        Self::Dns,
        Self::Timeout,
        Self::Auth,
        Self::Loading,
        Self::WrongRole,
        Self::Misconfigured,
        Self::LocalLimit,
        Self::Other,
    ];

    /// The `outcome` label of `redis_guard_dials_total`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::MaxClients => "max_clients",
            Self::SuspectedMaxClients => "suspected_max_clients",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Dns => "dns",
            Self::Timeout => "timeout",
            Self::Auth => "auth",
            Self::Loading => "loading",
            Self::WrongRole => "wrong_role",
            Self::Misconfigured => "misconfigured",
            Self::LocalLimit => "local_limit",
            Self::Other => "other",
        }
    }

    /// True for what waiting does not mend: credentials, protected mode, configuration.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        matches!(self, Self::Auth | Self::Denied | Self::Misconfigured)
    }

    /// True for a server without a slot, said or suspected.
    pub(crate) const fn is_full(self) -> bool {
        matches!(self, Self::MaxClients | Self::SuspectedMaxClients)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A dial that failed: to which server, how, and in whose words.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DialFailure {
    /// The server's address, without credentials.
    pub server: Arc<str>,
    /// How the dial ended.
    pub outcome: Outcome,
    /// The server's own words where it said something, otherwise ours. Never a secret.
    pub message: String,
}

impl DialFailure {
    /// A dial of `server` that ended so, for tests of code that handles one. Never put a secret into the
    /// message: it is logged.
    #[must_use]
    pub fn new(server: impl Into<Arc<str>>, outcome: Outcome, message: impl Into<String>) -> Self {
        Self { server: server.into(), outcome, message: message.into() }
    }
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis at {} [{}]: {}", self.server, self.outcome, self.message)
    }
}

/// What the result of a call says about the server; see [`Classify`](crate::tower::Classify).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// The server answered, be it with an error of its own: it is there, and has room for us.
    Worked,
    /// The call failed because of the connection.
    Failed {
        /// How.
        outcome: Outcome,
        /// In whose words: the server's where it said something.
        message: String,
    },
    /// The result says nothing about the server.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(are: fn(Outcome) -> bool) -> Vec<Outcome> {
        Outcome::ALL.iter().copied().filter(|outcome| are(*outcome)).collect()
    }

    #[test]
    fn waiting_mends_all_but_credentials_protected_mode_and_configuration() {
        let permanent = [Outcome::Denied, Outcome::Auth, Outcome::Misconfigured];
        assert_eq!(all(Outcome::is_permanent), permanent);
    }

    #[test]
    fn a_server_without_a_slot_is_full_whether_it_says_so_or_not() {
        assert_eq!(all(Outcome::is_full), [Outcome::MaxClients, Outcome::SuspectedMaxClients]);
    }

    #[test]
    fn every_outcome_has_a_label_of_its_own_the_one_it_is_serialised_as() {
        let labels: Vec<_> = Outcome::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(serde_json::to_value(Outcome::ALL).expect("words"), serde_json::json!(labels));
    }
}
