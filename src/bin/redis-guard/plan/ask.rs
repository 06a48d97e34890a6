//! What a server says of itself, over one connection; and the other nodes of its cluster, over one each.

use futures_util::stream::{StreamExt, iter};
use redis_guard::doctor::{Probe, Target, WatchedMaster};
use redis_guard::server::{Role, ServerSnapshot};
use redis_guard::{DialFailure, Outcome};
use serde_json::{Value, json};

use super::PlanArgs;
use super::report::SCHEMA_VERSION;
use crate::cli::{Access, Exit, Output, complain, print_json};
use redis_guard::internal::words;

/// How many nodes of a cluster are asked at a time.
const AT_ONCE: usize = 16;

/// What the server of the URL said, and the other nodes of its cluster.
pub(super) struct Asked {
    /// That of the URL first.
    pub(super) seen: Vec<Seen>,
    pub(super) cluster: Option<Cluster>,
}

/// That the server is in one.
#[derive(Default)]
pub(super) struct Cluster {
    /// Nodes that could not be asked, and why.
    missed: Vec<(String, String)>,
    /// Why it does not tell which nodes there are.
    refusal: Option<String>,
}

/// What a server said of itself.
pub(super) struct Seen {
    server: String,
    pub(super) snapshot: ServerSnapshot,
    /// Its words where it did not want to.
    pub(super) refusal: Option<String>,
}

/// Why there was no connection.
pub(super) struct Failure(DialFailure);

/// Asks for one INFO over one connection, which is dialed once: a full server is not to be pressed. The same
/// of the other nodes, if it is one of a cluster.
///
/// # Errors
/// The URL or the flags make no sense; the server is a sentinel.
pub(super) async fn ask(url: &str, access: &Access) -> Result<Result<Asked, Failure>, String> {
    let target = Target::parse(url, &access.resolve()?).map_err(|why| format!("the URL: {why}"))?;
    let mut probe = match Probe::connect(&target).await {
        Ok(probe) => probe,
        Err(failure) => return Ok(Err(Failure(failure))),
    };
    let first = Seen::of(&target, &mut probe).await;
    if let Some(masters) = probe.watched_masters() {
        return Err(a_sentinel(target.server(), masters));
    }
    let nodes = probe.cluster_nodes(&target).await;
    // Its slot is not for us.
    drop(probe);
    let mut asked = Asked { seen: vec![first], cluster: None };
    match nodes {
        Ok(None) => {}
        Ok(Some(nodes)) => asked.ask_others(nodes).await,
        Err(error) => {
            let refusal = Some(error.to_string());
            asked.cluster = Some(Cluster { refusal, ..Cluster::default() });
        }
    }
    Ok(Ok(asked))
}

impl Asked {
    async fn ask_others(&mut self, nodes: Vec<Target>) {
        let asked = nodes.into_iter().map(|node| async move {
            match Probe::connect(&node).await {
                Ok(mut probe) => Ok(Seen::of(&node, &mut probe).await),
                Err(failure) => Err((node.server().to_owned(), failure.message)),
            }
        });
        let mut cluster = Cluster::default();
        for node in iter(asked).buffered(AT_ONCE).collect::<Vec<_>>().await {
            match node {
                Ok(seen) => self.seen.push(seen),
                Err(missed) => cluster.missed.push(missed),
            }
        }
        self.cluster = Some(cluster);
    }

    /// Whether a node may have less room than those that told.
    pub(super) fn is_partial(&self) -> bool {
        let unheard =
            |Cluster { missed, refusal }: &Cluster| !missed.is_empty() || refusal.is_some();
        self.cluster.as_ref().is_some_and(unheard)
            || self.seen.iter().any(|seen| seen.snapshot.maxclients.is_none())
    }

    /// What is said beside what is said of `tightest`.
    pub(super) fn notes(&self, tightest: &Seen) -> Vec<String> {
        let Some(cluster) = &self.cluster else { return Vec::new() };
        let asked = self.seen.len() + cluster.missed.len();
        let mut notes = match &cluster.refusal {
            Some(why) => vec![format!(
                "this is one node of a cluster, which does not tell of the others ({}): the smallest decides",
                words::clean(why)
            )],
            None => vec![format!(
                "a cluster, {} asked: planned for the one with the least room, {}; max_connections is for each node",
                words::counted(asked, "node"),
                tightest.server
            )],
        };
        notes.extend(cluster.missed.iter().map(|(server, why)| {
            format!("{server} could not be asked ({}): it may have less room", words::clean(why))
        }));
        let others = self.seen.iter().filter(|seen| seen.server != tightest.server);
        notes.extend(others.filter(|seen| seen.snapshot.maxclients.is_none()).map(|seen| {
            let why = seen.refusal.as_deref().unwrap_or("INFO has none");
            let (server, why) = (&seen.server, words::clean(why));
            format!("{server} does not tell its maxclients ({why}): it may have less room")
        }));
        notes
    }

    /// The nodes of a cluster.
    pub(super) fn json(&self) -> Option<Value> {
        let Cluster { missed, refusal } = self.cluster.as_ref()?;
        let missed = missed.iter().map(|(server, why)| json!({ "server": server, "message": why }));
        Some(json!({
            "nodes": self.seen.iter().map(Seen::json).collect::<Vec<_>>(),
            "not_asked": missed.collect::<Vec<_>>(),
            "nodes_refused": refusal,
        }))
    }
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
    async fn of(target: &Target, probe: &mut Probe) -> Self {
        let (snapshot, refusal) = match probe.observe().await {
            Ok(observation) => (observation.snapshot, None),
            Err(error) => (ServerSnapshot::default(), Some(error.to_string())),
        };
        Self { server: target.server().to_owned(), snapshot, refusal }
    }

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
        if snapshot.kept_slots() > 0 {
            notes.push(format!(
                "{} of its slots are not for ordinary clients (maxclients-reserved): they are added to the reserve",
                words::count(snapshot.kept_slots())
            ));
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
        // In a cluster all are planned for.
        if snapshot.role == Some(Role::Replica) && snapshot.cluster_connections.unwrap_or(0) == 0 {
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
