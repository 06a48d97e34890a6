//! Error replies that say something about the server rather than about the command.

use redis::{RedisError, Value};

use super::classify::{of_error_line, server_words};
use crate::Outcome;

/// What a server says of itself in the reply to a command, on a connection that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// It is a replica, and was sent a write.
    ReadOnly,
    /// The key's slot is another node's.
    Moved,
    /// The key's slot is on its way to another node.
    Ask,
    /// Its cluster does not serve the slot.
    ClusterDown,
    /// It is a replica that has lost its master, and serves no old data.
    MasterDown,
    /// It is loading its data set.
    Loading,
    /// A proxy passes on that what is behind it has no slot.
    MaxClients,
}

impl Notice {
    /// Every notice, in the order of the metric's `error` label.
    pub(crate) const ALL: [Self; 7] = [
        Self::ReadOnly,
        Self::Moved,
        Self::Ask,
        Self::ClusterDown,
        Self::MasterDown,
        Self::Loading,
        Self::MaxClients,
    ];

    /// The `error` label of `redis_guard_server_errors_total`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "readonly",
            Self::Moved => "moved",
            Self::Ask => "ask",
            Self::ClusterDown => "clusterdown",
            Self::MasterDown => "masterdown",
            Self::Loading => "loading",
            Self::MaxClients => "max_clients",
        }
    }

    /// What a reply says, and in whose words; nearly always nothing, and then it costs one look.
    #[inline]
    pub(crate) fn of_reply(reply: &Value) -> Option<(Self, String)> {
        match reply {
            Value::ServerError(error) => Self::of_error(&RedisError::from(error.clone())),
            _ => None,
        }
    }

    /// What an error that the driver made of a reply says; of a pipeline or a transaction, in which
    /// several commands may have failed, the first that says something.
    #[cold]
    pub(crate) fn of_error(error: &RedisError) -> Option<(Self, String)> {
        let errors = error.clone().into_server_errors()?;
        errors.iter().find_map(|(_, error)| Self::of_one(&RedisError::from(error.clone())))
    }

    fn of_one(error: &RedisError) -> Option<(Self, String)> {
        let notice = match error.code()? {
            "READONLY" => Self::ReadOnly,
            "MOVED" => Self::Moved,
            "ASK" => Self::Ask,
            "CLUSTERDOWN" => Self::ClusterDown,
            "MASTERDOWN" => Self::MasterDown,
            "LOADING" => Self::Loading,
            _ if of_error_line(&server_words(error)) == Some(Outcome::MaxClients) => {
                Self::MaxClients
            }
            _ => return None,
        };
        Some((notice, server_words(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_says_something_of_the_server_is_noticed_in_its_own_words() {
        for (line, label) in [
            ("READONLY You can't write against a read only replica.", "readonly"),
            ("MOVED 866 10.0.0.2:6379", "moved"),
            ("ASK 866 10.0.0.2:6379", "ask"),
            ("CLUSTERDOWN The cluster is down", "clusterdown"),
            ("MASTERDOWN Link with MASTER is down", "masterdown"),
            ("LOADING Redis is loading the dataset in memory", "loading"),
            ("ERR max number of clients reached", "max_clients"),
        ] {
            let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            let (notice, words) = Notice::of_reply(&reply).expect(line);
            assert_eq!((notice.as_str(), words.as_str()), (label, line));
            assert!(Notice::ALL.contains(&notice));
        }
    }

    #[test]
    fn what_is_about_the_command_or_is_no_error_is_none() {
        for reply in ["-WRONGTYPE no\r\n", "-ERR syntax error\r\n", "+LOADING\r\n", "$-1\r\n"] {
            let reply = redis::parse_redis_value(reply.as_bytes()).unwrap();
            assert_eq!(Notice::of_reply(&reply), None, "{reply:?}");
        }
    }
}
