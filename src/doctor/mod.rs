//! What is wrong with a server's connections, and on what evidence: the library behind
//! `redis-guard doctor`.
//!
//! ```no_run
//! use redis_guard::doctor::{Doctor, VerdictKind};
//!
//! # async fn example() {
//! let report = Doctor::new(["redis://10.0.0.1:6379"]).examine().await;
//! println!("{report}"); // as the binary shows it; `{:#}` in colours
//! if report.servers[0].verdict.kind == VerdictKind::Leak {
//!     println!("{:?}", report.servers[0].holders);
//! }
//! # }
//! ```
//!
//! A sentinel's URL leads to the masters that it watches: each is examined as if it had been named itself, and
//! what the sentinels say of it, of its replicas and of each other is in that master's report
//! ([`SentinelReport`]).
//!
//! The URL of one node of a cluster leads to all of them: each is examined too, and what they say of each other
//! is in the report of the node whose URL it was ([`ClusterReport`]).
//!
//! It **reads only**: INFO, CLIENT LIST, CONFIG GET, SLOWLOG GET, PING, and of a sentinel SENTINEL MYID, MASTERS,
//! MASTER, SENTINELS, REPLICAS, GET-MASTER-ADDR-BY-NAME, CKQUORUM, of a node CLUSTER INFO, NODES, SLOTS, MYID, over
//! one connection per server. What would
//! mend something is in the report, as text. A server that lets it in answers in full, or as far as it is
//! allowed to; one that does not is told apart by the first bytes it sent, as every dial of this crate
//! ([`Outcome`](crate::Outcome)).
//!
//! The verdicts and the checks are plain functions of what was seen, with their thresholds beside them
//! in each [`Check`].

mod checks;
mod cluster;
mod examine;
mod facts;
mod holders;
mod local;
mod probe;
mod registry;
mod report;
mod sentinel;
mod text;
mod unused;
mod verdict;

use std::cmp::Ordering;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;

pub use cluster::{ClusterNode, ClusterReport};
pub use holders::{Holder, Holders};
pub use probe::{Access, Probe, Target};
pub use registry::{Fleets, Registry, RegistryMember};
pub use report::{
    Capacity, Check, LastSeen, Latency, Level, Reachability, Report, SCHEMA_VERSION, ServerReport,
    Verdict, VerdictKind,
};
pub use sentinel::{ReplicaSeen, SentinelReport, SentinelSeen, WatchedMaster};

use checks::Findings;
use cluster::{Cluster, Group};
use examine::Examined;
use facts::{Dials, Facts};
use local::OwnFiles;
use probe::Location;
use sentinel::{Set, follow};

use crate::policy::LONGEST;
use crate::sizing::wide;
use crate::{Error, GuardedPool};

/// Examines servers; see the [module](self). The default one has no URLs:
/// [`examine_pool`](Self::examine_pool) needs none.
///
/// ```no_run
/// use redis_guard::{GuardedPool, doctor::Doctor};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
/// let report = Doctor::default().examine_pool(&pool).await?;
/// println!("{report}");
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "call `examine` to get the report"]
pub struct Doctor {
    urls: Vec<String>,
    access: Access,
    options: Options,
}

impl Default for Doctor {
    fn default() -> Self {
        Self::new([""; 0])
    }
}

impl fmt::Debug for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs may have passwords.
        f.debug_struct("Doctor").field("options", &self.options).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Options {
    sample: Duration,
    wait: Duration,
    idle_after: Duration,
    expect_replicas: Option<u64>,
    top: usize,
    master: Option<String>,
}

impl Doctor {
    /// A doctor for the servers at these URLs, which are looked at side by side. A URL that is none
    /// is a finding, and the others are examined all the same.
    pub fn new(urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            urls: urls.into_iter().map(Into::into).collect(),
            access: Access::default(),
            options: Options {
                sample: Duration::from_secs(2),
                wait: Duration::ZERO,
                idle_after: Duration::from_secs(300),
                expect_replicas: None,
                top: 10,
                master: None,
            },
        }
    }

    /// What one needs beside the URLs to get there.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// The time between the two looks that rejections and churn are told from. Default 2 s: a storm
    /// of ten refusals a second shows twenty. A year at most, as every time here.
    pub fn sample(mut self, sample: Duration) -> Self {
        self.options.sample = sample.min(LONGEST);
        self
    }

    /// How long to go on trying where a server does not let us in: at a full one, the first slot that
    /// comes free is ours. With back-off, two seconds at most between two dials. And for how long to look
    /// again where the slots are held by connections that are too young to be judged
    /// ([`VerdictKind::Unused`]). Default zero: one dial, and no look more.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.options.wait = wait.min(LONGEST);
        self
    }

    /// From when on a client without a command is idle. Default 5 min: no pool that is in use leaves
    /// one alone for so long, unless it is too large.
    pub fn idle_after(mut self, idle_after: Duration) -> Self {
        self.options.idle_after = idle_after.min(LONGEST);
        self
    }

    /// How many replicas there should be. Default: one where the server still keeps a backlog for one
    /// that has gone.
    pub fn expect_replicas(mut self, replicas: u64) -> Self {
        self.options.expect_replicas = Some(replicas);
        self
    }

    /// How many of the largest holders are listed. Default 10.
    pub fn top(mut self, top: usize) -> Self {
        self.options.top = top;
        self
    }

    /// Of the masters that a sentinel watches, the one of this name. Default: all. A sentinel that does
    /// not know it, and a server that is no sentinel, say so under `sentinel.watched`.
    pub fn master(mut self, name: impl Into<String>) -> Self {
        self.options.master = Some(name.into());
        self
    }

    /// Examines all of them. Takes the time of a sample, twice where there is a sentinel or a node of a
    /// cluster among them, and as long as the servers make it wait: every step has the [`Access`]'s timeout.
    /// Of a cluster 128 nodes are examined at most, 32 at a time, masters first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connections.
    pub async fn examine(&self) -> Report {
        let examined = self.urls.iter().map(|url| self.examine_one(url));
        let (mut urls, mut problems) = (Vec::new(), Vec::new());
        for examined in join_all(examined).await {
            problems.push(examined.as_ref().err().cloned());
            urls.push(examined.ok());
        }
        let groups = Box::pin(cluster::follow(&mut urls, &self.options)).await;
        let followed = match &Target::named_by_sentinel(&self.access) {
            Ok(servers) => Box::pin(follow(urls.iter().flatten(), servers, &self.options)).await,
            // It was looked at when it was given.
            Err(_) => Vec::new(),
        };
        let cluster = |at| groups.iter().find(|group| group.led_by == at).map(|it| &it.cluster);
        let of_urls = urls.into_iter().zip(problems).enumerate().map(|(at, url)| match url {
            (Some(examined), _) => self.judge_examined(examined, None, cluster(at)),
            (None, problem) => ServerReport::bad_url(at + 1, &problem.unwrap_or_default()),
        });
        let mut servers: Vec<ServerReport> = of_urls.collect();
        let followed = followed
            .into_iter()
            .map(|(set, examined)| self.judge_examined(examined, Some(&set), None));
        servers.extend(followed);
        for Group { led_by, found, .. } in groups {
            let found: Vec<_> =
                found.into_iter().map(|it| self.judge_examined(it, None, None)).collect();
            worst_first(&mut servers, led_by, found);
        }
        Report::of(servers)
    }

    /// Examines the server of a pool **over one of the pool's own connections**: what is left to look
    /// with when the server is full and lets nobody in. The [URLs](Self::new) have no part in it. Of a
    /// cluster's pool it is the worst node, the `server` of its [`Status`](crate::Status), alone.
    ///
    /// The connection is leased like any other, under the endpoint `doctor`.
    ///
    /// # Errors
    ///
    /// The pool has no connection for it either.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the connection back.
    pub async fn examine_pool(&self, pool: &GuardedPool) -> Result<Report, Error> {
        let examined = pool.examined();
        let lease = examined.acquire("doctor".into()).await?;
        let location = Location::of(examined.dialer(), &examined.target());
        let probe = Probe::over(lease, location.timeout);
        let facts = examine::examine(probe, &self.options, location.is_unix).await;
        let status = pool.status();
        let wanted = status.max_connections.saturating_sub(status.live);
        let dials = Dials::none(OwnFiles::of_this_process(wide(wanted)));
        let report = self.judge(&location, &dials, Some(facts), None, None);
        Ok(Report::of(vec![report]))
    }

    /// What a pool knows of a server that it has no connection to: why, in the server's own words, and what its
    /// watch saw last. `None` while something is live, or no dial has failed.
    #[cfg(feature = "axum")]
    pub(crate) fn without_connection(&self, pool: &GuardedPool) -> Option<Report> {
        let examined = pool.examined();
        let status = examined.status();
        let failure = status.breaker.last_failure.filter(|_| status.live == 0)?;
        let location = Location::of(examined.dialer(), &examined.target());
        let dials = Dials { failure: Some((*failure).clone()), ..Dials::none(None) };
        let mut report = self.judge(&location, &dials, None, None, None);
        report.last_seen = LastSeen::of(&status.watch);
        Some(Report::of(vec![report]))
    }

    async fn examine_one(&self, url: &str) -> Result<Examined, String> {
        let target = Target::parse(url, &self.access)?;
        Ok(Examined::new(target, &self.options).await)
    }

    fn judge_examined(
        &self,
        examined: Examined,
        set: Option<&Set>,
        cluster: Option<&Cluster>,
    ) -> ServerReport {
        let Examined { target, dials, facts } = examined;
        self.judge(&target.location(), &dials, facts, set, cluster)
    }

    fn judge(
        &self,
        location: &Location,
        dials: &Dials,
        facts: Option<Facts>,
        set: Option<&Set>,
        cluster: Option<&Cluster>,
    ) -> ServerReport {
        let options = &self.options;
        let findings = Findings { location, options, dials, facts: facts.as_ref(), set, cluster };
        let checks = checks::all(findings);
        let (verdict, also) = verdict::of(findings, &checks);
        let info = facts.as_ref().and_then(|facts| facts.info.as_ref().ok());
        let snapshot = info.map(|info| info.seen.snapshot.clone());
        ServerReport {
            server: location.server.to_string(),
            verdict,
            also,
            checks,
            reachability: Reachability::of(dials, facts.as_ref()),
            product: snapshot.as_ref().and_then(|snapshot| snapshot.product),
            version: snapshot.as_ref().and_then(|snapshot| snapshot.version.clone()),
            uptime_seconds: snapshot.as_ref().and_then(|snapshot| snapshot.uptime_seconds),
            capacity: facts.as_ref().and_then(Capacity::of),
            sentinel: set.map(SentinelReport::of),
            cluster: cluster.filter(|it| it.refused.is_none()).map(ClusterReport::of),
            named_by: None,
            last_seen: None,
            watched_masters: facts
                .as_ref()
                .and_then(|facts| facts.sentinel.as_ref())
                .map(WatchedMaster::of),
            holders: facts.and_then(|facts| facts.holders.ok()),
            snapshot,
        }
    }
}

/// Adds the nodes that a URL led to, the worst first, in which order its own report names them all.
fn worst_first(servers: &mut Vec<ServerReport>, led_by: usize, mut found: Vec<ServerReport>) {
    let url = servers[led_by].server.clone();
    found.iter_mut().for_each(|report| report.named_by = Some(url.clone()));
    found.sort_by(ServerReport::worse);
    servers.extend(found);
    let Some(mut cluster) = servers[led_by].cluster.take() else { return };
    let report = |node: &ClusterNode| servers.iter().find(|it| it.server == node.server);
    cluster.nodes.sort_by(|one, other| match (report(one), report(other)) {
        (Some(one), Some(other)) => one.worse(other),
        (one, other) => one.is_none().cmp(&other.is_none()),
    });
    servers[led_by].cluster = Some(cluster);
}

impl Report {
    fn of(servers: Vec<ServerReport>) -> Self {
        let saturation = ServerReport::saturation;
        let worst = servers
            .iter()
            .filter(|server| saturation(server).is_some())
            .max_by(|one, other| {
                saturation(one).unwrap_or(0.0).total_cmp(&saturation(other).unwrap_or(0.0))
            })
            .filter(|_| servers.len() > 1)
            .map(|server| server.server.clone());
        let mut report = Report {
            schema_version: SCHEMA_VERSION,
            tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            exit_code: 0,
            worst,
            servers,
        };
        report.exit_code = report.exit_code(false);
        report
    }
}

impl ServerReport {
    fn saturation(&self) -> Option<f64> {
        self.capacity.as_ref()?.saturation
    }

    /// `Less` where this one is: not connected, then by its own checks, then by how full it is.
    fn worse(&self, other: &Self) -> Ordering {
        let own = |it: &Self| {
            let checks = it.checks.iter().filter(|check| !check.id.starts_with("cluster."));
            let level = checks.map(|check| check.level).filter(|level| *level >= Level::Warning);
            (!it.reachability.connected, level.max())
        };
        let full = |it: &Self| it.saturation().unwrap_or(0.0);
        own(other).cmp(&own(self)).then_with(|| full(other).total_cmp(&full(self)))
    }

    fn bad_url(nth: usize, problem: &str) -> Self {
        Self {
            // Not the text: it may be a password.
            server: format!("URL no. {nth}"),
            verdict: Verdict::bad_url(problem),
            also: Vec::new(),
            checks: vec![checks::bad_url(problem)],
            reachability: Reachability::default(),
            product: None,
            version: None,
            uptime_seconds: None,
            capacity: None,
            holders: None,
            snapshot: None,
            sentinel: None,
            cluster: None,
            named_by: None,
            last_seen: None,
            watched_masters: None,
        }
    }
}

impl Reachability {
    fn of(dials: &Dials, facts: Option<&Facts>) -> Self {
        let trace = &dials.trace;
        Self {
            connected: dials.failure.is_none(),
            outcome: Some(dials.outcome().as_str()),
            message: dials.failure.as_ref().map(|failure| failure.message.clone()),
            dials: dials.count,
            addresses: trace.addresses.iter().map(ToString::to_string).collect(),
            dns: trace.resolved,
            connect: trace.connected,
            tls: trace.secured,
            auth: trace.answered,
            ping: facts.and_then(|facts| facts.ping.as_ref().ok().copied()),
            time_wait: dials.sockets.map(|sockets| sockets.time_wait),
            established: dials.sockets.map(|sockets| sockets.established),
        }
    }
}

impl LastSeen {
    #[cfg(feature = "axum")]
    fn of(watch: &crate::server::WatchStatus) -> Option<Self> {
        let seen = watch.observation.as_ref()?;
        Some(Self {
            age: watch.age?,
            used: seen.snapshot.used(),
            maxclients: seen.ceiling,
            rejections_seen: watch.rejections_seen,
        })
    }
}

impl Capacity {
    fn of(facts: &Facts) -> Option<Self> {
        let info = facts.info.as_ref().ok()?;
        let seen = &info.seen;
        Some(Self {
            used: seen.snapshot.used(),
            maxclients: seen.ceiling,
            saturation: seen.saturation(),
            free: seen.free(),
            open_files_limit: facts.open_files_limit,
            new_rejections: seen.new_rejections,
            rejections_per_second: info.rejections_per_second(),
            rejections_total: seen.snapshot.rejected_connections,
            connections_per_second: seen.connections_per_second,
            commands_per_second: seen.commands_per_second,
            cpu_cores: seen.cpu_cores,
            stands_still: seen.stands_still,
            sampled: info.sampled,
        })
    }
}
