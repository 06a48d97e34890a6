//! The examination: dials, and asks all that the checks go by.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{StreamExt, iter};
use redis::{RedisError, Value};
use tokio::time::{Instant, sleep, sleep_until};

use super::facts::{Answer, Config, Dials, Facts, Info, Missed, NoAnswer, SlowLog};
use super::local::{self, Sockets};
use super::report::Latency;
use super::{Options, Probe, Target, checks, cluster, sentinel};
use crate::Backoff;
use crate::dial::Trace;
use crate::server::Observation;

/// Round trips that are timed.
const PINGS: usize = 20;

/// Entries of the slow log that are looked at: all it has by default.
const SLOWLOG: usize = 128;

/// Between two looks at connections that are too young to be judged: they are as old then as those that count
/// as abandoned.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

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

/// A server, and what a connection brought.
pub(super) struct Examined {
    pub(super) target: Target,
    pub(super) dials: Dials,
    pub(super) facts: Option<Facts>,
}

impl Examined {
    /// Dials, and asks.
    pub(super) async fn new(target: Target, options: &Options) -> Self {
        let (dials, probe) = connect(&target, options).await;
        let mut examined = Self { target, dials, facts: None };
        if let Some(probe) = probe {
            examined.facts = Some(examine(probe, options, examined.is_here()).await);
        }
        examined
    }

    /// It runs on this machine.
    pub(super) fn is_here(&self) -> bool {
        let addresses = &self.dials.trace.addresses;
        addresses.iter().any(|address| address.ip().is_loopback()) || self.target.location().is_unix
    }
}

/// One dial, of a server that is not examined in full.
pub(super) async fn dial(target: &Target) -> Result<Probe, Missed> {
    let mut trace = Trace::default();
    let dialed = Probe::connect_traced(target, &mut trace).await;
    dialed.map_err(|failure| Missed { failure, connected: trace.connected.is_some() })
}

/// All of them, in their order, so many at a time.
pub(super) async fn at_most<F: Future>(
    many: usize,
    futures: impl IntoIterator<Item = F>,
) -> Vec<F::Output> {
    iter(futures).buffered(many).collect().await
}

/// Dials until there is a connection, a failure that waiting does not mend, or `options.wait` is
/// over.
async fn connect(target: &Target, options: &Options) -> (Dials, Option<Probe>) {
    let deadline = Instant::now() + options.wait;
    let backoff = Backoff::equal_jitter(Duration::from_millis(200), Duration::from_secs(2));
    let mut pauses = backoff.delays(fastrand::u64(..));
    let mut count = 0;
    let (trace, probe) = loop {
        let mut trace = Trace::default();
        count += 1;
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
    (Dials { trace, count, failure, sockets, own_files: None }, probe)
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
    let sentinel = match &first {
        Ok((text, seen)) if probe.watched_masters().is_some() => {
            let info = Info::new(text, seen.clone(), None);
            Some(sentinel::ask(&mut probe, &info, options.master.as_deref()).await)
        }
        _ => None,
    };
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
    // Asked last: a node that has just been met has its links by then.
    let cluster = match info {
        Ok(_) if probe.is_in_cluster => Some(cluster::ask(&mut probe).await),
        _ => None,
    };
    let holders = probe.holders(options.idle_after, options.top).await;
    let since = Instant::now();
    let pid = info.as_ref().ok().and_then(|info| info.field("process_id")).filter(|_| here);
    let mut facts = Facts {
        info,
        last_look,
        holders: holders.map_err(|error| NoAnswer::of(&error)),
        ping,
        config,
        slow,
        sentinel,
        cluster,
        open_files_limit: pid.and_then(local::open_files_limit),
        somaxconn: local::somaxconn().filter(|_| here),
    };
    look_again(&mut probe, &mut facts, options, maxclients, since).await;
    facts
}

/// Looks again while what holds the slots is too young to be judged, for as long as `options.wait`. `since`: when
/// the server was looked at last.
async fn look_again(
    probe: &mut Probe,
    facts: &mut Facts,
    options: &Options,
    maxclients: Option<u64>,
    mut since: Instant,
) {
    let deadline = Instant::now() + options.wait;
    while checks::are_unused_and_young(facts) && Instant::now() + LOOK_AGAIN <= deadline {
        sleep(LOOK_AGAIN).await;
        match sample(probe, maxclients).await {
            Ok((text, seen)) => facts.info = Ok(Info::new(&text, seen, Some(since.elapsed()))),
            Err(why) => {
                facts.last_look = Some(why);
                return;
            }
        }
        since = Instant::now();
        let holders = probe.holders(options.idle_after, options.top).await;
        facts.holders = holders.map_err(|error| NoAnswer::of(&error));
    }
}

async fn sample(probe: &mut Probe, maxclients: Option<u64>) -> Answer<(String, Observation)> {
    let mut text = probe.info().await.map_err(|error| NoAnswer::of(&error))?;
    // Before Redis 6.2 INFO does not have it.
    if let Some(maxclients) = maxclients {
        text.push_str(&format!("\r\nmaxclients:{maxclients}\r\n"));
    }
    let seen = probe.observe_in(&text);
    Ok((text, seen))
}

async fn time_pings(probe: &mut Probe) -> Answer<Latency> {
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let started = Instant::now();
        let pong = probe.ask::<Value>(&redis::cmd("PING")).await;
        pong.map_err(|error| NoAnswer::of(&error))?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(Latency { samples: times.len(), p50: at(50), p90: at(90), max: at(100) })
}

/// Older servers do not know all.
async fn read_config(probe: &mut Probe) -> Answer<Config> {
    let mut config = Config::default();
    for name in SETTINGS {
        let value = probe.setting(name).await.map_err(|error| NoAnswer::of(&error))?;
        config.0.extend(value.map(|value| (name, value)));
    }
    Ok(config)
}

async fn read_slow_log(probe: &mut Probe) -> Answer<SlowLog> {
    let why = |error: RedisError| NoAnswer::of(&error);
    let local = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time: Result<(u64, u64), RedisError> = probe.ask(&redis::cmd("TIME")).await;
    let now = time.map_or_else(|_| local(), |(now, _)| now);
    let get = redis::cmd("SLOWLOG").arg("GET").arg(SLOWLOG).to_owned();
    Ok(SlowLog::of(probe.ask(&get).await.map_err(why)?, now))
}
