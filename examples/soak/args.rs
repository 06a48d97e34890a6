//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::faults::Fault;

pub(crate) const HELP: &str = "\
usage: soak [--minutes N] [--seed N] [--only TEXT] [--svg PATH] [--json PATH]

  --minutes N   how long faults go on, 0.1 to 10000 (default 5)
  --seed N      the order of the faults, and what callers do at random (default 1)
  --only TEXT   only faults whose name contains this: to play one again
  --svg PATH    where to draw the chart (default target/soak.svg)
  --json PATH   write the numbers there, too
  --help        this text
";

/// A longer run has longer times without a fault, up to this.
const QUIET_MAX: Duration = Duration::from_secs(8);
const QUIET_MIN: Duration = Duration::from_millis(1_200);
/// How long a fault lasts, likewise.
const HOLD_MAX: Duration = Duration::from_secs(4);
const HOLD_MIN: Duration = Duration::from_millis(500);
/// The samples of a run, at most and at least.
const SAMPLES_MAX: u32 = 3_600;
const SAMPLES_MIN: u32 = 200;
const SAMPLE: Duration = Duration::from_secs(1);

pub(crate) enum Command {
    Run(Args),
    Help,
}

#[derive(Clone, Debug)]
pub(crate) struct Args {
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    pub(crate) only: Option<String>,
    pub(crate) svg: PathBuf,
    pub(crate) json: Option<PathBuf>,
}

impl Args {
    /// Between two faults, once all callers are served again.
    pub(crate) fn quiet(&self) -> Duration {
        (self.time / 30).clamp(QUIET_MIN, QUIET_MAX)
    }

    /// The first part of it, which is not looked at: what a fault has opened or closed has a
    /// lifetime, too.
    pub(crate) fn settle(&self) -> Duration {
        self.quiet() * 2 / 5
    }

    pub(crate) fn hold(&self) -> Duration {
        (self.time / 60).clamp(HOLD_MIN, HOLD_MAX)
    }

    pub(crate) fn sample_every(&self) -> Duration {
        (self.time / SAMPLES_MIN).min(SAMPLE).max(self.time / SAMPLES_MAX)
    }

    /// What is not compared: pools fill, and the allocator learns what is asked of it.
    pub(crate) fn warm_up(&self) -> Duration {
        if self.time < Duration::from_secs(120) { Duration::ZERO } else { self.time / 10 }
    }
}

pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut minutes, mut seed, mut only) = (5.0, 1, None);
    let (mut svg, mut json) = (PathBuf::from("target/soak.svg"), None);
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
            "--minutes" => minutes = parsed(flag, &value()?)?,
            "--seed" => seed = parsed(flag, &value()?)?,
            "--only" => only = Some(value()?),
            "--svg" => svg = value()?.into(),
            "--json" => json = Some(value()?.into()),
            "--help" | "-h" => return Ok(Command::Help),
            _ => return Err(format!("unknown argument `{word}`")),
        }
        if attached.is_some() {
            return Err(format!("{flag} takes no value"));
        }
    }
    if !(0.1..=10_000.0).contains(&minutes) {
        return Err("--minutes: expected 0.1 to 10000".to_owned());
    }
    if let Some(only) = &only
        && !Fault::all().iter().any(|fault| fault.title().contains(only))
    {
        let titles: Vec<String> = Fault::all().iter().map(Fault::title).collect();
        return Err(format!(
            "--only {only}: there is no such fault; there are\n  {}",
            titles.join("\n  ")
        ));
    }
    let time = Duration::from_secs_f64(minutes * 60.0);
    Ok(Command::Run(Args { time, seed, only, svg, json }))
}

fn parsed<T: FromStr<Err: ToString>>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| format!("{flag} {text}: {}", e.to_string()))
}
