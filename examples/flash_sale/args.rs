//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use crate::policy::Policy;

pub(crate) const HELP: &str = "\
usage: flash_sale [--json PATH] [--svg PATH] [--quick] [--quiet] [--only POLICY[,POLICY..]]
                  [--maxclients N] [--workers N] [--rate N]

  --json PATH      write the numbers there, too
  --svg PATH       where to draw the chart (default target/flash_sale.svg)
  --quick          shorter steps: two and a half minutes instead of four
  --quiet          no progress on standard error
  --only POLICIES  of deadpool-redis, gate, price-law, lease, lease-shared, multiplex
                   (default all)
  --maxclients N   slots of the server, in steps of 200 (200 slots are one connection a pool).
                   Default: 10,000, or what the open-files limit and the cores allow
  --workers N      processes that hold the 240 pools (default: 4, or as many as the open-files
                   limit takes)
  --rate N         requests a second of all pools together, when they have their connections
                   (default: 10,000 a core, at most 40,000). Fewer means that each holds its connection for longer
  --help           this text
";

/// How `main` tells itself that it is a worker.
pub(crate) const WORKER: &str = "__worker";

pub(crate) enum Command {
    Run(Args),
    Worker,
    Help,
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) svg: PathBuf,
    pub(crate) json: Option<PathBuf>,
    pub(crate) quick: bool,
    pub(crate) quiet: bool,
    pub(crate) policies: Vec<Policy>,
    pub(crate) maxclients: Option<u32>,
    pub(crate) workers: Option<usize>,
    pub(crate) rate: Option<u32>,
}

pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut args = Args {
        svg: PathBuf::from("target/flash_sale.svg"),
        json: None,
        quick: false,
        quiet: false,
        policies: Policy::ALL.to_vec(),
        maxclients: None,
        workers: None,
        rate: None,
    };
    let mut words = words;
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
            "--quick" => args.quick = true,
            "--quiet" => args.quiet = true,
            "--only" => {
                let names = value()?;
                let policies = names.split(',').map(|name| parsed(flag, name));
                args.policies = policies.collect::<Result<_, _>>()?;
            }
            "--maxclients" => args.maxclients = Some(within(flag, &value()?, 400, 10_000)?),
            "--workers" => args.workers = Some(within(flag, &value()?, 1, 240)?),
            "--rate" => args.rate = Some(within(flag, &value()?, 100, 100_000)?),
            "--help" | "-h" => return Ok(Command::Help),
            WORKER => return Ok(Command::Worker),
            _ => return Err(format!("unknown argument `{word}`")),
        }
        if attached.is_some() {
            return Err(format!("{flag} takes no value"));
        }
    }
    if args.maxclients.is_some_and(|slots| slots % 200 != 0) {
        return Err("--maxclients: expected a multiple of 200".to_owned());
    }
    Ok(Command::Run(args))
}

fn parsed<T: FromStr<Err: ToString>>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| format!("{flag} {text}: {}", e.to_string()))
}

fn within<T>(flag: &str, text: &str, low: T, high: T) -> Result<T, String>
where
    T: FromStr<Err: ToString> + PartialOrd + std::fmt::Display,
{
    let number = parsed(flag, text)?;
    if number < low || number > high {
        return Err(format!("{flag} {text}: expected {low} to {high}"));
    }
    Ok(number)
}
