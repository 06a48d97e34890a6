//! What a server says of itself, over one connection.

use redis_guard::doctor::{Probe, Target, WatchedMaster};
use redis_guard::server::{Role, ServerSnapshot};
use redis_guard::{DialFailure, Outcome};
use serde_json::{Value, json};

use super::PlanArgs;
use super::report::SCHEMA_VERSION;
use crate::cli::{Access, Exit, Output, complain, print_json};
use redis_guard::internal::words;

/// What a server said of itself.
pub(super) struct Seen {
    server: String,
    pub(super) snapshot: ServerSnapshot,
    /// Its words where it did not want to.
    pub(super) refusal: Option<String>,
}

/// Why there was no connection.
pub(super) struct Failure(DialFailure);

/// Asks for one INFO over one connection, which is dialed once: a full server is not to be pressed.
///
/// # Errors
/// The URL or the flags make no sense; the server is a sentinel.
pub(super) async fn ask(url: &str, access: &Access) -> Result<Result<Seen, Failure>, String> {
    let target = Target::parse(url, &access.resolve()?).map_err(|why| format!("the URL: {why}"))?;
    let mut probe = match Probe::connect(&target).await {
        Ok(probe) => probe,
        Err(failure) => return Ok(Err(Failure(failure))),
    };
    let (snapshot, refusal) = match probe.observe().await {
        Ok(observation) => (observation.snapshot, None),
        Err(error) => (ServerSnapshot::default(), Some(error.to_string())),
    };
    if let Some(masters) = probe.watched_masters() {
        return Err(a_sentinel(target.server(), masters));
    }
    Ok(Ok(Seen { server: target.server().to_owned(), snapshot, refusal }))
}

fn a_sentinel(server: &str, masters: &[WatchedMaster]) -> String {
    const NAMED: usize = 5;
    let named = masters.iter().take(NAMED);
    let named =
        named.map(|it| format!("\n  redis://{} ({})", it.address(), words::clean(&it.name)));
    let named: String = named.collect();
    let more = match masters.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    let instead = if masters.is_empty() { "" } else { "; plan for a master that it watches:" };
    format!("{server} is a sentinel, which serves no data{instead}{named}{more}")
}

impl Failure {
    fn advice(&self) -> &'static str {
        match self.0.outcome {
            Outcome::MaxClients => {
                "the server is full, for this too: plan without it, with --maxclients N, or free a slot"
            }
            Outcome::SuspectedMaxClients => {
                "it hung up without a word, as a full server does over TLS; without it: --maxclients N"
            }
            _ => "without the server: --maxclients N",
        }
    }

    pub(super) fn report(&self, output: Output) -> Exit {
        let words = self.0.to_string();
        complain(&format!("{words}\n{}", self.advice()));
        if let Output::Json = output {
            let json = json!({
                "schema_version": SCHEMA_VERSION,
                "command": "plan",
                "exit_code": Exit::NotConnected as u8,
                "error": { "outcome": self.0.outcome, "message": words, "advice": self.advice() },
            });
            return print_json(&json, Exit::NotConnected);
        }
        Exit::NotConnected
    }
}

impl Seen {
    pub(super) fn notes(&self, args: &PlanArgs) -> Vec<String> {
        let Self { snapshot, .. } = self;
        let mut notes = Vec::new();
        for (flag, given, told) in [
            ("maxclients", args.maxclients, snapshot.maxclients),
            ("replicas", args.replicas, snapshot.connected_replicas),
        ] {
            if let (Some(given), Some(told)) = (given, told)
                && given != told
            {
                let (given, told) = (words::count(given), words::count(told));
                notes.push(format!("planned for --{flag} {given}; the server says {told}"));
            }
        }
        if let Some(refusal) = &self.refusal {
            notes.push(format!(
                "replicas and cluster links are those given: INFO was refused ({refusal})"
            ));
        }
        if let (Some(used), Some(clients)) = (snapshot.used(), snapshot.connected_clients) {
            notes.push(format!(
                "in use on the server now: {}, {} of them clients. Those are not added, as they may be of \
                 this fleet; what is not goes into --others",
                words::count(used),
                words::count(clients),
            ));
        }
        if let Some(Role::Replica) = snapshot.role {
            notes.push("this server is a replica: writes need a plan for its master".to_owned());
        }
        notes
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "server": self.server,
            "used": self.snapshot.used(),
            "maxclients": self.snapshot.maxclients,
            "connected_clients": self.snapshot.connected_clients,
            "connected_replicas": self.snapshot.connected_replicas,
            "cluster_connections": self.snapshot.cluster_connections,
            "role": self.snapshot.role,
            "info_refused": self.refusal,
        })
    }
}
