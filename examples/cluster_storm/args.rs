//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::run::PerPhase;

pub(crate) const HELP: &str = "\
usage: cluster_storm [--svg PATH] [--json PATH] [--quick] [--tasks N]

  --svg PATH    where to draw the chart (default target/cluster_storm.svg)
  --json PATH   write the numbers there, too
  --quick       shorter phases: half a minute instead of one and a half
  --tasks N     sources of requests, each sending one request every 5 ms (default 64)
  --help        this text
";

/// Connections a pool may hold, the same for all clients that have one.
pub(crate) const POOL_SIZE: usize = 16;

pub(crate) enum Command {
    Run(Args),
    Help,
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) svg: PathBuf,
    pub(crate) json: Option<PathBuf>,
    pub(crate) tasks: usize,
    /// How long each phase lasts.
    pub(crate) phases: PerPhase<Duration>,
}

/// `freed` has to last longer than the guard may wait for its next dial, which finds the node's slots free.
/// After the n-th refusal in a row it waits between half and all of 50 ms · 2ⁿ, and never more than 5 s. The
/// sixth refusal is heard 1.55 s after the first at the earliest, so in 1.5 s there are five, and the longest
/// wait is of 1.6 s; in 8 s there are seven or eight, and it is of 5 s.
const FULL_LENGTH: PerPhase<Duration> =
    PerPhase([Duration::from_secs(3), Duration::from_secs(8), Duration::from_secs(6)]);
const QUICK: PerPhase<Duration> = PerPhase([
    Duration::from_millis(800),
    Duration::from_millis(1_500),
    Duration::from_millis(2_500),
]);

pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut args = Args {
        svg: PathBuf::from("target/cluster_storm.svg"),
        json: None,
        tasks: 64,
        phases: FULL_LENGTH,
    };
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
            "--svg" => args.svg = value()?.into(),
            "--json" => args.json = Some(value()?.into()),
            "--quick" => args.phases = QUICK,
            "--tasks" => args.tasks = parsed(flag, &value()?)?,
            "--help" | "-h" => return Ok(Command::Help),
            _ => return Err(format!("unknown argument `{word}`")),
        }
        if attached.is_some() {
            return Err(format!("{flag} takes no value"));
        }
    }
    if !(1..=1_024).contains(&args.tasks) {
        return Err("--tasks: expected 1 to 1024".to_owned());
    }
    Ok(Command::Run(args))
}

fn parsed<T: FromStr<Err: ToString>>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| format!("{flag} {text}: {}", e.to_string()))
}
