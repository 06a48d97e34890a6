//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

pub(crate) const HELP: &str = "\
usage: failover [--svg PATH] [--json PATH] [--quick] [--tasks N] [--pools N]

  --svg PATH    where to draw the chart (default target/failover.svg)
  --json PATH   write the numbers there, too
  --quick       sentinels that turn an old master into a replica after one second instead of
                eight: about a minute instead of two
  --tasks N     sources of writes, each sending one every 10 ms (default 64)
  --pools N     pools of 8 connections the tasks are spread over (default 4)
  --help        this text
";

/// Connections a pool may hold, the same for all clients.
pub(crate) const POOL_SIZE: usize = 8;

pub(crate) enum Command {
    Run(Args),
    Help,
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) svg: PathBuf,
    pub(crate) json: Option<PathBuf>,
    pub(crate) quick: bool,
    pub(crate) tasks: usize,
    pub(crate) pools: usize,
}

pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut args = Args {
        svg: PathBuf::from("target/failover.svg"),
        json: None,
        quick: false,
        tasks: 64,
        pools: 4,
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
            "--quick" => args.quick = true,
            "--tasks" => args.tasks = parsed(flag, &value()?)?,
            "--pools" => args.pools = parsed(flag, &value()?)?,
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
    if !(1..=32).contains(&args.pools) {
        return Err("--pools: expected 1 to 32".to_owned());
    }
    if args.pools > args.tasks {
        return Err(format!(
            "--pools: {} pools need a task each, and there are {}",
            args.pools, args.tasks
        ));
    }
    Ok(Command::Run(args))
}

fn parsed<T: FromStr<Err: ToString>>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| format!("{flag} {text}: {}", e.to_string()))
}
