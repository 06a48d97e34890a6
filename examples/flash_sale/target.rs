//! The server.

use std::time::Duration;

use redis::InfoDict;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::plan::Plan;
use crate::server::TestServer;
use crate::usage::cpu_time;

/// How long the server may take to forget the connections of a policy that is done.
const FORGET_WITHIN: Duration = Duration::from_secs(20);

/// A redis-server of our own, on this machine, and an operator's connection to it that was opened
/// first. Stopped on drop.
pub(crate) struct Target {
    server: TestServer,
    /// How often it was asked for INFO since its statistics were reset.
    questions: u64,
}

/// What the server says at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Slots in use, as it counts when it decides whom to refuse.
    pub(crate) used: u64,
    pub(crate) rejected: u64,
}

/// What watch and lease had it do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Commands {
    pub(crate) heartbeats: u64,
    pub(crate) infos: u64,
    pub(crate) heartbeats_took: Duration,
    pub(crate) infos_took: Duration,
}

impl Commands {
    pub(crate) fn took(&self) -> Duration {
        self.heartbeats_took + self.infos_took
    }
}

impl Target {
    pub(crate) fn start(plan: &Plan) -> Result<Self, Failure> {
        // A backlog for a step of the autoscaler, all callers at once: it is the ceiling that is
        // to turn them away.
        let server =
            TestServer::builder().maxclients(plan.maxclients).arg("tcp-backlog", "4096").start()?;
        let mut target = Self { server, questions: 0 };
        let info = target.info("clients")?;
        let maxclients = number(&info, "maxclients")?;
        if maxclients != u64::from(plan.maxclients) {
            return Err(format!(
                "the server takes {maxclients} clients instead of {}: too few open files",
                plan.maxclients
            )
            .into());
        }
        Ok(target)
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) fn read(&mut self) -> Result<Reading, Failure> {
        let info = self.info("everything")?;
        let of = |name| info.get(name).unwrap_or(0);
        let used = number(&info, "connected_clients")?
            + of("connected_slaves")
            + of("cluster_connections");
        Ok(Reading { used, rejected: number(&info, "rejected_connections")? })
    }

    /// A fresh start: no statistics, no registry of an earlier fleet, nobody but us.
    pub(crate) async fn reset(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + FORGET_WITHIN;
        loop {
            let used = self.read()?.used;
            if used <= 1 {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{} connections are still open {FORGET_WITHIN:?} after their pools were closed",
                    used - 1
                )
                .into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.ask(&["FLUSHALL"])?;
        self.ask(&["CONFIG", "RESETSTAT"])?;
        self.questions = 0;
        Ok(())
    }

    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        cpu_time(&self.server.pid()?.to_string())
    }

    /// What watch and lease had the server do since the reset. Redis counts a script's own INFO with
    /// the others, and ours too: those are taken out.
    pub(crate) fn commands(&mut self) -> Result<Commands, Failure> {
        let text = self.ask(&["INFO", "commandstats"])?;
        let of = |name: &str| {
            let line = text.lines().find_map(|line| {
                line.strip_prefix("cmdstat_")?.strip_prefix(name)?.strip_prefix(':')
            });
            let field = |name: &str| -> Option<u64> {
                let fields = line?.split(',');
                fields
                    .filter_map(|field| field.split_once('='))
                    .find(|(key, _)| *key == name)?
                    .1
                    .parse()
                    .ok()
            };
            (field("calls").unwrap_or(0), field("usec").unwrap_or(0))
        };
        let (evalsha, eval, info) = (of("evalsha"), of("eval"), of("info"));
        let heartbeats = evalsha.0 + eval.0;
        let infos = info.0.saturating_sub(2 * heartbeats + self.questions);
        let of_infos = (info.1 * infos).checked_div(info.0).unwrap_or(0);
        Ok(Commands {
            heartbeats,
            infos,
            heartbeats_took: Duration::from_micros(evalsha.1 + eval.1),
            infos_took: Duration::from_micros(of_infos),
        })
    }

    fn info(&mut self, section: &str) -> Result<InfoDict, Failure> {
        self.questions += 1;
        Ok(InfoDict::new(&self.ask(&["INFO", section])?))
    }

    fn ask(&self, command: &[&str]) -> Result<String, Failure> {
        let reply = self.server.admin().command(command);
        let reply = reply.map_err(|e| format!("the server does not answer {command:?}: {e}"))?;
        if reply.is_error() {
            return Err(format!("{command:?}: {}", reply.text()).into());
        }
        Ok(reply.text())
    }
}

fn number(info: &InfoDict, name: &str) -> Result<u64, Failure> {
    info.get(name).ok_or_else(|| format!("INFO has no {name}").into())
}
