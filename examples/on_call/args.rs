//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub(crate) const HELP: &str = "\
usage: on_call [--seconds N] [--screenshots DIR [--lines N]]

  --seconds N         how long the incident takes (default 60; 30 to 600)
  --screenshots DIR   write doctor.png, watch.png, page.png and page-phone.png there while it is at
                      its worst. Needs Chromium (on PATH, or $CHROMIUM), script(1), and the binary:
                      cargo build --bin redis-guard --features cli
  --lines N           lines of the doctor's report in its picture (default 17)
  --help              this text
";

pub(crate) enum Command {
    Run(Args),
    Help,
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) length: Duration,
    pub(crate) screenshots: Option<PathBuf>,
    /// Of the report, in the picture.
    pub(crate) lines: usize,
}

pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut seconds, mut lines) = (60, None);
    let mut screenshots = None;
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
            "--seconds" => seconds = parsed(flag, &value()?)?,
            "--screenshots" => screenshots = Some(PathBuf::from(value()?)),
            "--lines" => lines = Some(parsed(flag, &value()?)?),
            "--help" | "-h" => return Ok(Command::Help),
            _ => return Err(format!("unknown argument `{word}`")),
        }
        if attached.is_some() {
            return Err(format!("{flag} takes no value"));
        }
    }
    if !(30..=600).contains(&seconds) {
        return Err("--seconds: expected 30 to 600".to_owned());
    }
    if lines.is_some() && screenshots.is_none() {
        return Err("--lines is for the pictures of --screenshots".to_owned());
    }
    let lines = lines.unwrap_or(17);
    if lines == 0 {
        return Err("--lines: expected 1 and more".to_owned());
    }
    Ok(Command::Run(Args { length: Duration::from_secs(seconds), screenshots, lines }))
}

fn parsed<T: FromStr<Err: ToString>>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| format!("{flag} {text}: {}", e.to_string()))
}
