//! What an examination brought to light, before anybody judges it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{ErrorKind, RedisError, Value, from_redis_value};
use tokio::time::{Instant, sleep, sleep_until};

use super::holders::Holders;
use super::local::{self, Sockets};
use super::probe::CLIENT_NAME;
use super::report::Latency;
use super::{Options, Probe, Target};
use crate::dial::{Trace, of_error_line};
use crate::server::Observation;
use crate::vocabulary::DialFailure;
use crate::vocabulary::words::clean;
use crate::{Backoff, Outcome};

/// Round trips that are timed.
const PINGS: usize = 20;

/// Entries of the slow log that are looked at: all it has by default.
const SLOWLOG: usize = 128;

/// What of the configuration the checks go by.
const SETTINGS: [&str; 8] = [
    "maxclients",
    "timeout",
    "tcp-keepalive",
    "tcp-backlog",
    "client-output-buffer-limit",
    "maxmemory-clients",
    "maxmemory-policy",
    "repl-backlog-ttl",
];

/// Something that was asked of the server, or why there is no answer.
pub(super) type Asked<T> = Result<T, Why>;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The server does not let us, or does not know the question.
    Denied(String),
    /// It is at something else: a script, its data set.
    Busy(String),
    /// Its answer makes no sense.
    Odd(String),
    /// It had no slot, it said: a proxy's answer for a server behind it.
    Full(String),
    /// It said nothing, or the connection ended.
    Lost(String),
    /// Not asked, as it had said nothing before.
    NotAsked,
}

impl Why {
    fn of(error: &RedisError) -> Self {
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
                Self::Odd("an answer of another form than expected".to_owned())
            }
            _ => Self::Lost(error.to_string()),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(words)
            | Self::Busy(words)
            | Self::Odd(words)
            | Self::Full(words)
            | Self::Lost(words) => f.write_str(&clean(words)),
            Self::NotAsked => f.write_str("not asked, as there was no answer before"),
        }
    }
}

/// How the connection came about, or did not.
pub(super) struct Arrival {
    pub(super) trace: Trace,
    pub(super) dials: u32,
    pub(super) failure: Option<DialFailure>,
    pub(super) sockets: Option<Sockets>,
}

/// What a connection brought.
pub(super) struct Facts {
    /// The last INFO, with what had changed since the first.
    pub(super) info: Asked<Info>,
    /// Why there was one INFO only.
    pub(super) last_look: Option<Why>,
    pub(super) holders: Asked<Holders>,
    pub(super) ping: Asked<Latency>,
    pub(super) config: Asked<Config>,
    pub(super) slow: Asked<SlowLog>,
    pub(super) open_files_limit: Option<u64>,
    pub(super) somaxconn: Option<u64>,
}

impl Facts {
    fn whys(&self) -> impl Iterator<Item = &Why> {
        [
            self.config.as_ref().err(),
            self.info.as_ref().err(),
            self.ping.as_ref().err(),
            self.slow.as_ref().err(),
            self.last_look.as_ref(),
            self.holders.as_ref().err(),
        ]
        .into_iter()
        .flatten()
    }

    /// What ended the examination before its time.
    pub(super) fn lost(&self) -> Option<&str> {
        let words = self.whys().find_map(|why| match why {
            Why::Lost(words) => Some(words.as_str()),
            _ => None,
        });
        // Lost before the first of these was asked.
        let silent = self.whys().any(|why| *why == Why::NotAsked);
        words.or(silent.then_some("the connection ended"))
    }

    /// A refusal that came over a connection that works.
    pub(super) fn full(&self) -> Option<&str> {
        self.whys().find_map(|why| match why {
            Why::Full(words) => Some(words.as_str()),
            _ => None,
        })
    }

    /// What the server is at, where it does not even answer INFO.
    pub(super) fn busy(&self) -> Option<&str> {
        match &self.info {
            Err(Why::Busy(words)) => Some(words),
            _ => None,
        }
    }

    /// True where the server keeps CONFIG from us, as managed services do.
    pub(super) fn is_managed(&self) -> bool {
        matches!(self.config, Err(Why::Denied(_)))
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

    /// Half as many slots again: room to find the cause in.
    pub(super) fn more(&self) -> u64 {
        let now = self.seen.ceiling.max(self.seen.snapshot.used()).unwrap_or(10_000);
        now.saturating_add(now / 2)
    }

    /// A field that the snapshot has no place for.
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
pub(super) struct Config(BTreeMap<&'static str, String>);

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

    fn of(entries: Vec<Value>, now: u64) -> Self {
        let mut log = Self { entries: entries.len(), ..Self::default() };
        for entry in entries {
            let Ok(fields) = from_redis_value::<Vec<Value>>(entry) else { continue };
            let mut fields = fields.into_iter().skip(1);
            let mut number = || from_redis_value::<u64>(fields.next()?).ok();
            let (Some(at), Some(micros)) = (number(), number()) else { continue };
            if now.saturating_sub(at) > Self::RECENT.as_secs() {
                continue;
            }
            let words = fields.next().map(from_redis_value::<Vec<String>>);
            // The address, and the client's name.
            let name = fields.nth(1).and_then(|name| from_redis_value::<String>(name).ok());
            if name.as_deref() == Some(CLIENT_NAME) {
                continue;
            }
            log.recent += 1;
            let took = Duration::from_micros(micros);
            if log.slowest.as_ref().is_none_or(|(slowest, _)| *slowest < took) {
                let words = words.and_then(Result::ok).unwrap_or_default();
                let command = words.into_iter().next().unwrap_or_default().to_ascii_uppercase();
                log.slowest = Some((took, command.chars().take(32).collect()));
            }
        }
        log
    }
}

/// Dials until there is a connection, a failure that waiting does not mend, or `options.wait` is
/// over.
pub(super) async fn arrive(target: &Target, options: &Options) -> (Arrival, Option<Probe>) {
    let deadline = Instant::now() + options.wait;
    let backoff = Backoff::equal_jitter(Duration::from_millis(200), Duration::from_secs(2));
    let mut pauses = backoff.delays(fastrand::u64(..));
    let mut dials = 0;
    let (trace, probe) = loop {
        let mut trace = Trace::default();
        dials += 1;
        let failure = match Probe::connect_traced(target, &mut trace).await {
            Ok(probe) => break (trace, Ok(probe)),
            Err(failure) => failure,
        };
        let pause = pauses.next().unwrap_or_default();
        if failure.outcome.is_permanent() || Instant::now() + pause >= deadline {
            break (trace, Err(failure));
        }
        tracing::info!(server = %target.server(), %failure, ?pause, "not connected, trying again");
        sleep(pause).await;
    };
    let sockets = match trace.addresses.is_empty() {
        true => None,
        false => sockets(trace.addresses.clone()).await,
    };
    let (probe, failure) = match probe {
        Ok(probe) => (Some(probe), None),
        Err(failure) => (None, Some(failure)),
    };
    (Arrival { trace, dials, failure, sockets }, probe)
}

async fn sockets(addresses: Vec<SocketAddr>) -> Option<Sockets> {
    tokio::task::spawn_blocking(move || Sockets::towards(&addresses)).await.ok().flatten()
}

/// Asks a server all there is to ask. What it does not answer is left out, and said. `here`: it runs on
/// this machine.
pub(super) async fn examine(mut probe: Probe, options: &Options, here: bool) -> Facts {
    let config = read_config(&mut probe).await;
    let maxclients = config.as_ref().ok().and_then(|config| config.number("maxclients"));
    let first = sample(&mut probe, maxclients).await;
    let since = Instant::now();
    let ping = time_pings(&mut probe).await;
    let slow = read_slow_log(&mut probe).await;
    let mut last_look = None;
    let info = match first {
        Ok((text, seen)) => {
            sleep_until(since + options.sample).await;
            Ok(match sample(&mut probe, maxclients).await {
                Ok((text, seen)) => Info::new(&text, seen, Some(since.elapsed())),
                Err(why) => {
                    last_look = Some(why);
                    Info::new(&text, seen, None)
                }
            })
        }
        Err(why) => Err(why),
    };
    let holders = probe.holders(options.idle_after, options.top).await;
    let pid = info.as_ref().ok().and_then(|info| info.field("process_id")).filter(|_| here);
    Facts {
        info,
        last_look,
        holders: holders.map_err(|error| Why::of(&error)),
        ping,
        config,
        slow,
        open_files_limit: pid.and_then(local::open_files_limit),
        somaxconn: local::somaxconn().filter(|_| here),
    }
}

async fn sample(probe: &mut Probe, maxclients: Option<u64>) -> Asked<(String, Observation)> {
    let mut text = probe.info().await.map_err(|error| Why::of(&error))?;
    // Before Redis 6.2 INFO does not have it.
    if let Some(maxclients) = maxclients {
        text.push_str(&format!("\r\nmaxclients:{maxclients}\r\n"));
    }
    let seen = probe.observe_in(&text);
    Ok((text, seen))
}

async fn time_pings(probe: &mut Probe) -> Asked<Latency> {
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let started = Instant::now();
        let pong = probe.ask::<Value>(&redis::cmd("PING")).await;
        pong.map_err(|error| Why::of(&error))?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(Latency { samples: times.len(), p50: at(50), p90: at(90), max: at(100) })
}

/// One at a time: before Redis 7 CONFIG GET takes one name, and older servers do not know all.
async fn read_config(probe: &mut Probe) -> Asked<Config> {
    let mut config = Config::default();
    for name in SETTINGS {
        let pairs: Result<Vec<(String, String)>, RedisError> =
            probe.ask(redis::cmd("CONFIG").arg("GET").arg(name)).await;
        let pairs = pairs.map_err(|error| Why::of(&error))?;
        config.0.extend(pairs.into_iter().next().map(|(_, value)| (name, value)));
    }
    Ok(config)
}

async fn read_slow_log(probe: &mut Probe) -> Asked<SlowLog> {
    let why = |error: RedisError| Why::of(&error);
    let local = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time: Result<(u64, u64), RedisError> = probe.ask(&redis::cmd("TIME")).await;
    let now = time.map_or_else(|_| local(), |(now, _)| now);
    let get = redis::cmd("SLOWLOG").arg("GET").arg(SLOWLOG).to_owned();
    Ok(SlowLog::of(probe.ask(&get).await.map_err(why)?, now))
}

impl Arrival {
    /// It was there.
    pub(super) fn of_a_lease() -> Self {
        Self { trace: Trace::default(), dials: 0, failure: None, sockets: None }
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.failure.as_ref().map_or(Outcome::Connected, |failure| failure.outcome)
    }
}
