//! What the doctor found: data, to be read by people and programs.

use std::time::Duration;

use serde::Serialize;

use super::cluster::ClusterReport;
use super::holders::Holders;
use super::sentinel::{SentinelReport, WatchedMaster};
use crate::server::{Product, ServerSnapshot};
use crate::vocabulary::serialize::{maybe_seconds, seconds};

/// The version of the report's JSON: raised when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// What [`Doctor::examine`](super::Doctor::examine) found. Serialises with serde; displayed, it is
/// the report in plain text, with `{:#}` in colours.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Who wrote it: `redis-guard 0.1.0`.
    pub tool: String,
    /// When, in seconds since the Unix epoch.
    pub at: u64,
    /// What [`exit_code`](Self::exit_code) says without `strict`.
    pub exit_code: u8,
    /// Of several servers the one with the highest saturation.
    pub worst: Option<String>,
    /// One for each URL, in their order; then one for each master that sentinels among them watch, and one
    /// for each other node of the clusters among them, the worst first.
    pub servers: Vec<ServerReport>,
}

/// What was found of one server.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServerReport {
    /// Its address, without credentials.
    pub server: String,
    /// What is wrong above all.
    pub verdict: Verdict,
    /// What else is.
    pub also: Vec<Verdict>,
    /// Every check, in the order of its groups.
    pub checks: Vec<Check>,
    /// How the connection came about.
    pub reachability: Reachability,
    /// The rest is what a connection brought; `None` without one.
    pub product: Option<Product>,
    /// Its version, in its own form.
    pub version: Option<String>,
    /// Seconds since it started.
    pub uptime_seconds: Option<u64>,
    /// Who holds its slots, and how many there are.
    pub capacity: Option<Capacity>,
    /// Who is connected; `None` where the server does not tell.
    pub holders: Option<Holders>,
    /// Its INFO, parsed.
    pub snapshot: Option<ServerSnapshot>,
    /// Of a master that a sentinel led to: what the sentinels say of it.
    pub sentinel: Option<SentinelReport>,
    /// Of a sentinel: the masters that it watches.
    pub watched_masters: Option<Vec<WatchedMaster>>,
    /// Of the node of a cluster whose URL led to the others: all of them.
    pub cluster: Option<ClusterReport>,
    /// Of those others: the node that led there.
    pub named_by: Option<String>,
    /// Of a pool's server to which nothing is live: what the pool's watch saw last, which is old.
    pub last_seen: Option<LastSeen>,
}

/// One check: what was seen, what it was held against, what would mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// Its name, which does not change between versions: `capacity.saturation`.
    pub id: &'static str,
    /// How it went.
    pub level: Level,
    /// What was seen.
    pub evidence: String,
    /// Where it would be worse, or better.
    pub threshold: String,
    /// A command, or what to do where there is none, that would mend it. The doctor runs none.
    pub fix: Option<String>,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Level {
    /// Fine.
    Ok,
    /// Worth knowing; nothing to do.
    Note,
    /// Could not be checked; the evidence says why.
    Skipped,
    /// Will hurt, or hurts a little.
    Warning,
    /// Hurts.
    Failed,
}

/// What it comes down to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// Which.
    pub kind: VerdictKind,
    /// It in one sentence.
    pub summary: String,
    /// Why: what was seen.
    pub reasons: Vec<String>,
    /// What to do, first things first.
    pub actions: Vec<String>,
}

/// The doctor's verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VerdictKind {
    /// All is well.
    NothingWrong,
    /// Connections are opened and never used again.
    Leak,
    /// Connections were not used since they were new, and are too young to say whether they will be.
    Unused,
    /// Pools hold far more than they use.
    OversizedPools,
    /// Clients that are refused redial at once.
    RetryStorm,
    /// The connections are used, and there are too few.
    CeilingTooLow,
    /// Clients in blocking commands hold the slots.
    BlockedConsumers,
    /// Replicas and links of the cluster bus hold the slots.
    InternalConnections,
    /// A replica has gone, or does not follow.
    ReplicaLost,
    /// What the sentinels name as the master is none.
    NotMaster,
    /// The sentinels do not name the same master.
    SentinelsDisagree,
    /// The sentinels hold the master for down.
    MasterDown,
    /// The sentinels could not fail over now, or a master of a cluster has no replica that could take over.
    NoFailover,
    /// What sentinels, or a cluster, name cannot be reached under the address that they announce.
    AnnouncedUnreachable,
    /// A cluster does not serve all of its slots.
    ClusterDown,
    /// The nodes of a cluster do not agree on whose a slot is.
    NodesDisagree,
    /// Nothing of that, but checks failed.
    ChecksFailed,
    /// It loads its data set.
    Loading,
    /// It told too little, or stopped telling, to say anything.
    Unknown,

    /// No slot was left for the doctor.
    Full,
    /// Nothing listens there.
    Refused,
    /// No route to the host.
    Unreachable,
    /// The name does not resolve.
    Dns,
    /// Nothing answered the connect.
    TimedOut,
    /// The connect was answered, by the kernel it seems, and then nothing.
    Unresponsive,
    /// Protected mode.
    ProtectedMode,
    /// Wrong or missing credentials.
    AuthFailed,
    /// The certificate was not accepted.
    TlsFailed,
    /// Something else listens there.
    NotRedis,
    /// What the URL asks for does not exist.
    Misconfigured,
    /// This process or this machine has no file or port left to dial with.
    LocalLimit,
    /// It is no URL.
    BadUrl,
    /// Something else; the summary tells.
    Other,
}

impl VerdictKind {
    /// The name, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NothingWrong => "nothing_wrong",
            Self::Leak => "leak",
            Self::Unused => "unused",
            Self::OversizedPools => "oversized_pools",
            Self::RetryStorm => "retry_storm",
            Self::CeilingTooLow => "ceiling_too_low",
            Self::BlockedConsumers => "blocked_consumers",
            Self::InternalConnections => "internal_connections",
            Self::ReplicaLost => "replica_lost",
            Self::NotMaster => "not_master",
            Self::SentinelsDisagree => "sentinels_disagree",
            Self::MasterDown => "master_down",
            Self::NoFailover => "no_failover",
            Self::AnnouncedUnreachable => "announced_unreachable",
            Self::ClusterDown => "cluster_down",
            Self::NodesDisagree => "nodes_disagree",
            Self::ChecksFailed => "checks_failed",
            Self::Loading => "loading",
            Self::Unknown => "unknown",
            Self::Full => "full",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Dns => "dns",
            Self::TimedOut => "timed_out",
            Self::Unresponsive => "unresponsive",
            Self::ProtectedMode => "protected_mode",
            Self::AuthFailed => "auth_failed",
            Self::TlsFailed => "tls_failed",
            Self::NotRedis => "not_redis",
            Self::Misconfigured => "misconfigured",
            Self::LocalLimit => "local_limit",
            Self::BadUrl => "bad_url",
            Self::Other => "other",
        }
    }
}

/// How the connection came about, step by step; a step that was not reached, or is not needed, is
/// `None`.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Reachability {
    /// True where the server let us in.
    pub connected: bool,
    /// How the last dial ended: an [`Outcome`](crate::Outcome).
    pub outcome: Option<&'static str>,
    /// In whose words, where it failed.
    pub message: Option<String>,
    /// Dials that were made; more than one only with a time to wait.
    pub dials: u32,
    /// What the name resolved to.
    pub addresses: Vec<String>,
    /// To resolve it.
    #[serde(rename = "dns_seconds", serialize_with = "maybe_seconds")]
    pub dns: Option<Duration>,
    /// To connect.
    #[serde(rename = "connect_seconds", serialize_with = "maybe_seconds")]
    pub connect: Option<Duration>,
    /// For the TLS handshake.
    #[serde(rename = "tls_seconds", serialize_with = "maybe_seconds")]
    pub tls: Option<Duration>,
    /// To authenticate and answer once.
    #[serde(rename = "auth_seconds", serialize_with = "maybe_seconds")]
    pub auth: Option<Duration>,
    /// Round trips of a PING.
    pub ping: Option<Latency>,
    /// Sockets of this machine towards the server in TIME_WAIT.
    pub time_wait: Option<u64>,
    /// Open sockets of this machine towards the server, ours among them.
    pub established: Option<u64>,
}

/// How long a round trip took, by percentile.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Latency {
    /// How many were made.
    pub samples: usize,
    /// Half took no longer.
    #[serde(rename = "p50_seconds", serialize_with = "seconds")]
    pub p50: Duration,
    /// Nine of ten took no longer.
    #[serde(rename = "p90_seconds", serialize_with = "seconds")]
    pub p90: Duration,
    /// The longest.
    #[serde(rename = "max_seconds", serialize_with = "seconds")]
    pub max: Duration,
}

/// What was seen of a server while there was a connection.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct LastSeen {
    /// How old it is.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// Slots that were taken.
    pub used: Option<u64>,
    /// How many there were for ordinary clients.
    pub maxclients: Option<u64>,
    /// Connections that it was seen to refuse since the watch began.
    pub rejections_seen: u64,
}

/// The server's slots.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Capacity {
    /// Slots taken: clients, replicas, links of the cluster bus.
    pub used: Option<u64>,
    /// How many there are for ordinary clients.
    pub maxclients: Option<u64>,
    /// `used` over `maxclients`.
    pub saturation: Option<f64>,
    /// What is left.
    pub free: Option<u64>,
    /// The soft limit of open files of the server's process, where it runs on this machine and that
    /// can be read.
    pub open_files_limit: Option<u64>,
    /// Connections refused between the two samples.
    pub new_rejections: Option<u64>,
    /// Of those, a second.
    pub rejections_per_second: Option<f64>,
    /// Connections refused since the server started.
    pub rejections_total: Option<u64>,
    /// Connections accepted between the two samples, a second; the doctor's own is not among them.
    pub connections_per_second: Option<f64>,
    /// Commands served between the two samples, a second; the doctor's own are not among them.
    pub commands_per_second: Option<f64>,
    /// Processor time that the server used between the two samples, per second: 1 is one core.
    pub cpu_cores: Option<f64>,
    /// It refused connections meanwhile, and hardly served a command: it is full, not idle.
    pub stands_still: bool,
    /// The time between the two samples.
    #[serde(rename = "sampled_seconds", serialize_with = "maybe_seconds")]
    pub sampled: Option<Duration>,
}

impl Report {
    /// What a process that shows this report ends with: 64 where a URL is none, 3 where a server could
    /// not be connected to, 2 where a check failed, 1 where there are warnings and `strict` is asked for,
    /// 0 otherwise.
    #[must_use]
    pub fn exit_code(&self, strict: bool) -> u8 {
        let code = |server: &ServerReport| match server.level() {
            _ if server.verdict.kind == VerdictKind::BadUrl => 64,
            _ if !server.reachability.connected => 3,
            Level::Failed => 2,
            Level::Warning if strict => 1,
            _ => 0,
        };
        self.servers.iter().map(code).max().unwrap_or(0)
    }
}

impl ServerReport {
    /// How the worst of its checks went.
    #[must_use]
    pub fn level(&self) -> Level {
        self.checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
    }

    /// The check of this name.
    #[must_use]
    pub fn check(&self, id: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.id == id)
    }

    /// Its verdicts, the main one first.
    pub fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        std::iter::once(&self.verdict).chain(&self.also)
    }
}
