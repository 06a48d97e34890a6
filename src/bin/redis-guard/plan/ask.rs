//! What a server says of itself, over one connection.

use std::time::Duration;

use redis_guard::redis::{self, IntoConnectionInfo, TlsCertificates};
use redis_guard::server::{Role, ServerSnapshot};
use redis_guard::{Breaker, Error, GuardedPool, Rejection};
use serde_json::{Value, json};

use super::PlanArgs;
use super::report::{SCHEMA_VERSION, Thousands, print};
use crate::cli::{Access, Exit, Output};

/// Longer than anybody waits, and within what the pool takes.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a server said of itself.
pub(super) struct Seen {
    server: String,
    pub(super) snapshot: ServerSnapshot,
    /// Its words where it did not want to.
    pub(super) refusal: Option<String>,
}

/// Why there was no connection.
pub(super) struct Failure {
    outcome: &'static str,
    words: String,
}

/// Asks for one INFO over one connection, which is dialed once: a full server is not to be pressed.
///
/// # Errors
/// The URL or the flags make no sense.
pub(super) async fn ask(url: &str, access: &Access) -> Result<Result<Seen, Failure>, String> {
    let mut info = url.into_connection_info().map_err(|error| format!("the URL: {error}"))?;
    if info.redis_settings().password().is_none()
        && let Ok(password) = std::env::var("REDISCLI_AUTH")
        && !password.is_empty()
    {
        let settings = info.redis_settings().clone().set_password(password);
        info = info.set_redis_settings(settings);
    }
    let mut builder = GuardedPool::builder(info)
        .name("plan")
        .max_connections(1)
        .watch(false)
        .breaker(Breaker::default().suspected(1, Duration::from_secs(1)).failures(1))
        .connect_timeout(access.timeout)
        .response_timeout(access.timeout)
        // The dial's own timeout says more, so it comes first.
        .acquire_timeout(access.timeout.saturating_mul(2).min(LONGEST));
    if let Some(file) = &access.cacert {
        let pem = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem) };
        builder = builder.tls_certificates(certificates);
    }
    let pool = builder.build().map_err(|error| error.to_string())?;
    let server = pool.status().server.to_string();
    let answer = async {
        let mut connection = pool.acquire("plan").await?;
        let info: redis::Value = redis::cmd("INFO").query_async(&mut connection).await?;
        Ok::<_, Error>(info)
    };
    let answer = answer.await;
    pool.close().await;
    Ok(match answer {
        Ok(info) => Ok(Seen { server, snapshot: snapshot(info), refusal: None }),
        Err(Error::Inner(error)) if error.code().is_some() => {
            let (snapshot, refusal) = (ServerSnapshot::default(), Some(error.to_string()));
            Ok(Seen { server, snapshot, refusal })
        }
        Err(Error::Rejected(rejection)) => Err(Failure::of(&rejection)),
        Err(error) => {
            Err(Failure { outcome: "other", words: format!("redis at {server}: {error}") })
        }
    })
}

/// INFO is a verbatim string in RESP3.
fn snapshot(info: redis::Value) -> ServerSnapshot {
    match info {
        redis::Value::BulkString(bytes) => ServerSnapshot::parse(bytes),
        redis::Value::VerbatimString { text, .. } => ServerSnapshot::parse(text),
        _ => ServerSnapshot::default(),
    }
}

impl Failure {
    fn of(rejection: &Rejection) -> Self {
        match rejection.failure() {
            Some(failure) => Self { outcome: failure.outcome.as_str(), words: failure.to_string() },
            None => Self { outcome: "other", words: rejection.to_string() },
        }
    }

    fn advice(&self) -> &'static str {
        match self.outcome {
            "max_clients" => {
                "the server is full, for this too: plan without it, with --maxclients N, or free a slot"
            }
            "suspected_max_clients" => {
                "it hung up without a word, as a full server does over TLS; without it: --maxclients N"
            }
            _ => "without the server: --maxclients N",
        }
    }

    pub(super) fn report(&self, output: Output) {
        eprintln!("redis-guard: {}\n{}", self.words, self.advice());
        if let Output::Json = output {
            let json = json!({
                "schema_version": SCHEMA_VERSION,
                "command": "plan",
                "exit_code": Exit::NotConnected as u8,
                "error": { "outcome": self.outcome, "message": self.words, "advice": self.advice() },
            });
            print(&format!("{json:#}\n"));
        }
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
                let (given, told) = (Thousands(given), Thousands(told));
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
                Thousands(used),
                Thousands(clients),
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
