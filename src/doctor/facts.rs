//! What an examination brought to light, before anybody judges it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use redis::{ErrorKind, RedisError, Value, from_redis_value};

use super::holders::Holders;
use super::local::{OwnFiles, Sockets};
use super::probe::{CLIENT_NAME, text_of};
use super::report::Latency;
use super::{cluster, sentinel};
use crate::Outcome;
use crate::dial::{Trace, of_error_line};
use crate::server::Observation;
use crate::vocabulary::DialFailure;
use crate::vocabulary::words::clean;

/// What the server answered, or why it did not.
pub(super) type Answer<T> = Result<T, NoAnswer>;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The server does not let us, or does not know the question.
    Denied(String),
    /// It is at something else: a script, its data set.
    Busy(String),
    /// Its answer has another form than it should.
    Unreadable(String),
    /// It had no slot, it said: a proxy's answer for a server behind it.
    Full(String),
    /// It said nothing, or the connection ended.
    Lost(String),
    /// Not asked, as it had said nothing before.
    NotAsked,
}

impl NoAnswer {
    pub(super) fn of(error: &RedisError) -> Self {
        if let Some(code) = error.code() {
            let words = format!("{code} {}", error.detail().unwrap_or_default());
            // Some servers repeat the question.
            let words = words.split(", with args beginning").next().unwrap_or_default().to_owned();
            return match of_error_line(&words) {
                Some(Outcome::MaxClients) => Self::Full(words),
                _ if matches!(code, "NOPERM" | "ERR") => Self::Denied(words),
                _ => Self::Busy(words),
            };
        }
        // The probe asks nothing more once there was no answer.
        match error.kind() {
            ErrorKind::Client => Self::NotAsked,
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => {
                Self::Unreadable("an answer of another form than expected".to_owned())
            }
            _ => Self::Lost(error.to_string()),
        }
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(words)
            | Self::Busy(words)
            | Self::Unreadable(words)
            | Self::Full(words)
            | Self::Lost(words) => f.write_str(&clean(words)),
            Self::NotAsked => f.write_str("not asked, as there was no answer before"),
        }
    }
}

/// The dials that were made to get a connection.
pub(super) struct Dials {
    /// Of the last one.
    pub(super) trace: Trace,
    pub(super) count: u32,
    /// Of the last one, where it failed.
    pub(super) failure: Option<DialFailure>,
    /// Of this machine, towards the server, after it.
    pub(super) sockets: Option<Sockets>,
    /// Of this process, beside what its pool may still open.
    pub(super) own_files: Option<OwnFiles>,
}

impl Dials {
    /// Over a connection that was there.
    pub(super) fn none(own_files: Option<OwnFiles>) -> Self {
        Self { trace: Trace::default(), count: 0, failure: None, sockets: None, own_files }
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.failure.as_ref().map_or(Outcome::Connected, |failure| failure.outcome)
    }
}

/// A dial that did not lead to a connection.
#[derive(Clone, Debug)]
pub(super) struct Missed {
    pub(super) failure: DialFailure,
    /// The connect itself was answered.
    pub(super) connected: bool,
}

/// What a connection brought.
pub(super) struct Facts {
    /// The last INFO, with what had changed since the first.
    pub(super) info: Answer<Info>,
    /// Why there was one INFO only.
    pub(super) last_look: Option<NoAnswer>,
    pub(super) holders: Answer<Holders>,
    pub(super) ping: Answer<Latency>,
    pub(super) config: Answer<Config>,
    pub(super) slow: Answer<SlowLog>,
    /// Of a sentinel.
    pub(super) sentinel: Option<sentinel::Word>,
    /// Of a node of a cluster.
    pub(super) cluster: Option<cluster::Word>,
    pub(super) open_files_limit: Option<u64>,
    pub(super) somaxconn: Option<u64>,
}

impl Facts {
    /// Why there was no answer, in the order of the questions.
    fn unanswered(&self) -> impl Iterator<Item = &NoAnswer> {
        [
            self.config.as_ref().err(),
            self.info.as_ref().err(),
            self.ping.as_ref().err(),
            self.slow.as_ref().err(),
            self.sentinel.as_ref().and_then(|word| word.refused.as_ref()),
            self.last_look.as_ref(),
            self.cluster.as_ref().and_then(|word| word.nodes.as_ref().err()),
            self.holders.as_ref().err(),
        ]
        .into_iter()
        .flatten()
    }

    /// What ended the examination before its time.
    pub(super) fn lost(&self) -> Option<&str> {
        let words = self.unanswered().find_map(|reason| match reason {
            NoAnswer::Lost(words) => Some(words.as_str()),
            _ => None,
        });
        // Lost before the first of these was asked.
        let silent = self.unanswered().any(|reason| *reason == NoAnswer::NotAsked);
        words.or(silent.then_some("the connection ended"))
    }

    /// A refusal that came over a connection that works.
    pub(super) fn full(&self) -> Option<&str> {
        self.unanswered().find_map(|reason| match reason {
            NoAnswer::Full(words) => Some(words.as_str()),
            _ => None,
        })
    }

    /// What the server is at, where it does not even answer INFO.
    pub(super) fn busy(&self) -> Option<&str> {
        match &self.info {
            Err(NoAnswer::Busy(words)) => Some(words),
            _ => None,
        }
    }

    /// True where the server keeps CONFIG from us, as managed services do.
    pub(super) fn is_managed(&self) -> bool {
        matches!(self.config, Err(NoAnswer::Denied(_)))
    }
}

/// INFO, and what had changed between two of them.
pub(super) struct Info {
    pub(super) seen: Observation,
    /// Between the two; `None` where there was one only.
    pub(super) sampled: Option<Duration>,
    fields: HashMap<String, String>,
}

impl Info {
    pub(super) fn new(text: &str, seen: Observation, sampled: Option<Duration>) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Self { seen, sampled, fields: fields.collect() }
    }

    /// A ceiling half as high again: room to find the cause in.
    pub(super) fn raised_ceiling(&self) -> u64 {
        // Of all slots, those that are reserved among them.
        let slots = self.seen.snapshot.maxclients.or(self.seen.ceiling);
        let now = slots.max(self.seen.snapshot.used()).unwrap_or(10_000);
        now.saturating_add(now / 2)
    }

    /// A field that the snapshot does not have.
    pub(super) fn field<T: FromStr>(&self, name: &str) -> Option<T> {
        self.fields.get(name)?.parse().ok()
    }

    /// Refusals a second between the two samples.
    pub(super) fn rejections_per_second(&self) -> Option<f64> {
        let sampled = self.sampled?.as_secs_f64();
        let new = u32::try_from(self.seen.new_rejections?).unwrap_or(u32::MAX);
        (sampled > 0.0).then(|| f64::from(new) / sampled)
    }
}

/// CONFIG, as far as it is told.
#[derive(Default)]
pub(super) struct Config(pub(super) BTreeMap<&'static str, String>);

impl Config {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

/// The slow log, summed up. Commands' arguments are left out: they may be anybody's data.
#[derive(Clone, Debug, Default)]
pub(super) struct SlowLog {
    /// Entries in it, of the latest 128.
    pub(super) entries: usize,
    /// Those of the last five minutes.
    pub(super) recent: usize,
    /// The slowest of those, and the command's name.
    pub(super) slowest: Option<(Duration, String)>,
}

impl SlowLog {
    pub(super) const RECENT: Duration = Duration::from_secs(300);

    pub(super) fn of(entries: Vec<Value>, now: u64) -> Self {
        let mut log = Self { entries: entries.len(), ..Self::default() };
        for entry in entries.into_iter().filter_map(SlowCommand::parse) {
            let is_recent = now.saturating_sub(entry.at) <= Self::RECENT.as_secs();
            if !is_recent || entry.client.as_deref() == Some(CLIENT_NAME) {
                continue;
            }
            log.recent += 1;
            if log.slowest.as_ref().is_none_or(|(slowest, _)| *slowest < entry.took) {
                log.slowest = Some((entry.took, entry.command));
            }
        }
        log
    }
}

/// An entry of the slow log: `id, time, microseconds, command and arguments, address, client's name`.
struct SlowCommand {
    /// Seconds since the Unix epoch, by the server's clock.
    at: u64,
    took: Duration,
    command: String,
    client: Option<String>,
}

impl SlowCommand {
    fn parse(entry: Value) -> Option<Self> {
        let mut fields = from_redis_value::<Vec<Value>>(entry).ok()?.into_iter().skip(1);
        let at = from_redis_value(fields.next()?).ok()?;
        let took = Duration::from_micros(from_redis_value(fields.next()?).ok()?);
        let words = fields.next().and_then(|words| from_redis_value::<Vec<Value>>(words).ok());
        let command = words.and_then(|words| text_of(words.into_iter().next()?).ok());
        let command = command.unwrap_or_default().to_ascii_uppercase().chars().take(32).collect();
        // Before Redis 4 there is neither an address nor a name.
        let client = fields.nth(1).and_then(|name| text_of(name).ok());
        Some(Self { at, took, command, client })
    }
}
