//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::run::PerPhase;

pub(crate) const HELP: &str = "\
usage: retry_storm [--start cold|warm] [--url URL] [--svg PATH] [--json PATH] [--quick]
                   [--tasks N] [--maxclients N] [--pools N]

  --start cold|warm   what the application holds when the server fills: nothing (default), or
                      four connections (one where it is shared)
  --url URL           use this server instead of starting one. It has to be on this machine, and
                      every slot it has left will be held for some seconds. Its configuration is
                      not touched
  --svg PATH          where to draw the chart (default target/retry_storm.svg)
  --json PATH         write the numbers there, too
  --quick             shorter phases: 40 s instead of 95 s
  --tasks N           sources of requests, each sending one request every 5 ms (default 64)
  --maxclients N      slots of the server that is started (default 32)
  --pools N           pools the tasks are spread over, which share its connections (default 1)
  --help              this text
";

/// Connections the application may hold, the same for all clients.
const CONNECTIONS: usize = 16;

pub(crate) enum Command {
    Run(Args),
    Help,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Cold,
    Warm,
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) start: Start,
    pub(crate) url: Option<String>,
    pub(crate) svg: PathBuf,
    pub(crate) json: Option<PathBuf>,
    pub(crate) tasks: usize,
    pub(crate) maxclients: u32,
    /// Pools the tasks are spread over.
    pub(crate) pools: usize,
    /// How long each phase lasts.
    pub(crate) phases: PerPhase<Duration>,
}

impl Start {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cold" => Ok(Self::Cold),
            "warm" => Ok(Self::Warm),
            _ => Err("expected cold or warm".to_owned()),
        }
    }
}

/// `recovered` has to last longer than the guard may wait for its next dial: at most 5 s. After a
/// full phase of two seconds it has not yet come to waits over 3.2 s (they double each time).
const FULL_LENGTH: PerPhase<Duration> =
    PerPhase([Duration::from_secs(2), Duration::from_secs(8), Duration::from_secs(6)]);
const QUICK: PerPhase<Duration> =
    PerPhase([Duration::from_millis(700), Duration::from_secs(2), Duration::from_millis(3_300)]);

pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut args = Args {
        start: Start::Cold,
        url: None,
        svg: PathBuf::from("target/retry_storm.svg"),
        json: None,
        tasks: 64,
        maxclients: 32,
        pools: 1,
        phases: FULL_LENGTH,
    };
    let mut maxclients = None;
    while let Some(word) = words.next() {
        // Both `--flag value` and `--flag=value`.
        let (flag, mut attached) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let mut value = || {
            attached.take().or_else(|| words.next()).ok_or_else(|| format!("{flag} needs a value"))
        };
        match flag {
            "--start" => args.start = parsed(flag, &value()?)?,
            "--url" => args.url = Some(value()?),
            "--svg" => args.svg = value()?.into(),
            "--json" => args.json = Some(value()?.into()),
            "--tasks" => args.tasks = parsed(flag, &value()?)?,
            "--maxclients" => maxclients = Some(parsed(flag, &value()?)?),
            "--pools" => args.pools = parsed(flag, &value()?)?,
            "--quick" => args.phases = QUICK,
            "--help" | "-h" => return Ok(Command::Help),
            _ => return Err(format!("unknown argument `{word}`")),
        }
        if attached.is_some() {
            return Err(format!("{flag} takes no value"));
        }
    }
    if !(1..=4_096).contains(&args.tasks) {
        return Err("--tasks: expected 1 to 4096".to_owned());
    }
    if !(1..=64).contains(&args.pools) {
        return Err("--pools: expected 1 to 64".to_owned());
    }
    if args.pools > args.tasks {
        return Err(format!(
            "--pools: {} pools need a task each, and there are {}",
            args.pools, args.tasks
        ));
    }
    if let Some(n) = maxclients {
        if args.url.is_some() {
            return Err("--maxclients is for the server we start; yours has its own".to_owned());
        }
        if !(24..=4_000).contains(&n) {
            return Err(format!(
                "--maxclients: expected 24 (a pool of {CONNECTIONS} and some room) to 4000"
            ));
        }
        args.maxclients = n;
    }
    Ok(Command::Run(args))
}

fn parsed<T: FromStr<Err: ToString>>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| format!("{flag} {text}: {}", e.to_string()))
}

impl Args {
    /// Connections each pool may hold: its share of what one pool would have, at least one.
    pub(crate) fn pool_size(&self) -> usize {
        (CONNECTIONS / self.pools).max(1)
    }

    /// The pools, in words.
    pub(crate) fn pools(&self) -> String {
        match self.pools {
            1 => format!("pools of {}", self.pool_size()),
            n => format!("{n} pools of {}", self.pool_size()),
        }
    }
}
