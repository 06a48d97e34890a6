//! What is common to the commands: flags, exit codes, output.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use redis_guard::doctor;
use redis_guard::redis::TlsCertificates;
use tracing_subscriber::EnvFilter;

use crate::{doctor as doctor_command, plan, watch};

pub(crate) const NO_SERVER: &str =
    "no server is named: give its URL or host:port, or set REDIS_URL";

pub(crate) const AFTER_HELP: &str = "\
Exit codes: 0 fine, 1 warnings (with --strict), 2 a check failed, 3 could not connect, 64 wrong usage or
a URL that is none, 74 the report could not be written.
Reads only: what would mend something is printed, never run.
REDIS_URL is the server where none is named, REDISCLI_AUTH the password of URLs that have none.
NO_COLOR switches colours off.";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Who holds Redis's connections, why, and what to change.
#[derive(Debug, Parser)]
#[command(name = "redis-guard", version, after_help = AFTER_HELP, styles = STYLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Say on stderr what is done; twice says more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 1000)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Examine servers: what is wrong, on what evidence, and what would mend it
    Doctor(doctor_command::DoctorArgs),
    /// Work out how many connections a fleet may have
    Plan(Box<plan::PlanArgs>),
    /// Watch servers live
    Watch(watch::WatchArgs),
    /// Print a completion script: source <(redis-guard completions bash)
    Completions { shell: Shell },
    /// Print a man page, of all or of one command: redis-guard man doctor | man -l -
    Man { command: Option<String> },
}

/// How to reach a server.
#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Trust this certificate authority (PEM) instead of the platform's
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<std::path::PathBuf>,

    /// The longest that one step (connecting, a command) may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = some_time)]
    pub(crate) timeout: Duration,
}

/// The servers that are named on the command line, or else the one that `REDIS_URL` names.
pub(crate) fn servers(named: Vec<String>) -> Option<Vec<String>> {
    if !named.is_empty() {
        return Some(named);
    }
    std::env::var("REDIS_URL").ok().filter(|url| !url.is_empty()).map(|url| vec![url])
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Nothing to say.
    Fine = 0,
    /// Warnings, under `--strict`.
    Warnings = 1,
    /// A check failed.
    Failed = 2,
    /// There was no connection.
    NotConnected = 3,
    /// The command line makes no sense: `EX_USAGE` of sysexits.h, as 2 is taken.
    Usage = 64,
    /// The report could not be written: `EX_IOERR`.
    Unwritten = 74,
}

impl Exit {
    /// Of a report's own code.
    pub(crate) const fn of(code: u8) -> Self {
        match code {
            0 => Self::Fine,
            1 => Self::Warnings,
            2 => Self::Failed,
            64 => Self::Usage,
            _ => Self::NotConnected,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Cli {
    /// Logs go to stderr: warnings, or more with `-v`, or what `RUST_LOG` says.
    pub(crate) fn log(&self) {
        let level = match self.verbose {
            0 => "warn",
            1 => "info",
            _ => "debug",
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal() && !plain)
            .init();
    }
}

impl Access {
    /// With what the environment adds.
    pub(crate) fn resolve(&self) -> Result<doctor::Access, String> {
        let mut access = doctor::Access::default().timeout(self.timeout);
        if let Some(password) = std::env::var("REDISCLI_AUTH").ok().filter(|it| !it.is_empty()) {
            access = access.password(password);
        }
        if let Some(path) = &self.cacert {
            let problem = |error| format!("--cacert {}: {error}", path.display());
            let pem = std::fs::read(path).map_err(problem)?;
            if !String::from_utf8_lossy(&pem).contains("BEGIN CERTIFICATE") {
                return Err(format!("--cacert {}: there is no certificate in it", path.display()));
            }
            access =
                access.tls_certificates(TlsCertificates { client_tls: None, root_cert: Some(pem) });
        }
        Ok(access)
    }
}

/// Writes a report, with its colours where stdout shows them, and gives `exit`. Whoever closes stdout
/// has read enough; a report that could not be written is no report.
pub(crate) fn print(text: &str, exit: Exit) -> Exit {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("the report cannot be written: {error}"));
            Exit::Unwritten
        }
        _ => exit,
    }
}

/// Says on stderr what is wrong, if anybody can hear it.
pub(crate) fn complain(problem: &str) {
    let _ = writeln!(io::stderr(), "redis-guard: {problem}");
}

/// Writes a report as one JSON value, indented.
pub(crate) fn print_json(report: &impl serde::Serialize, exit: Exit) -> Exit {
    let text = serde_json::to_string_pretty(report).expect("reports have text keys only");
    print(&format!("{text}\n"), exit)
}

/// A time in which something can happen.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it has to be longer than zero".to_owned()),
        time => Ok(time),
    }
}

/// A time such as `2s`, `500ms` or `5m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    let time: Duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > LONGEST { Err("longer than a year".to_owned()) } else { Ok(time) }
}
