//! The builder: collects settings. What comes of them is in [`build`].

mod build;
mod cluster;
mod from_deadpool;
mod inherited;
mod sentinel;

#[cfg(feature = "credentials")]
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

use super::context::Settings;
use super::guarded_pool::GuardedPool;
use super::topology::settings::{ClusterSettings, SentinelSettings};
#[cfg(feature = "credentials")]
use crate::dial::Provider;
use crate::dial::{LINK_TIMEOUT, connection_info};
use crate::fleet::Fleet;
use crate::policy::{Budgets, FLOOR};
use crate::server::Role;
use crate::{Backoff, Breaker, Budget, Endpoint};

pub(crate) use inherited::Inherited;

/// Settings of a [`GuardedPool`]; see [`GuardedPool::builder`].
///
/// No setter fails: [`build`](Self::build) reports everything that is wrong, at once.
///
/// ```
/// use std::time::Duration;
///
/// use redis_guard::{Budget, GuardedPool};
///
/// # fn main() -> Result<(), redis_guard::BuildError> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379")
///     .max_connections(32)
///     .endpoint("checkout", Budget::max(8).reserve(2))
///     .acquire_timeout(Duration::from_millis(250))
///     .build()?; // no I/O
/// let mistakes = GuardedPool::builder("redis://127.0.0.1:6379")
///     .max_connections(0)
///     .response_timeout(Duration::ZERO)
///     .build();
/// assert_eq!(mistakes.unwrap_err().problems().len(), 2);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "call `build` to get the pool"]
pub struct GuardedPoolBuilder {
    /// Where the server is, or how those are spoken to that sentinels name.
    info: Result<ConnectionInfo, String>,
    topology: Topology,
    /// Setters that say nothing about this topology.
    misplaced: Vec<&'static str>,
    /// What was wrong with what the settings were read from.
    #[cfg(feature = "settings")]
    mistakes: Vec<String>,
    settings: Settings,
    connect_timeout: Duration,
    min_limit: Option<usize>,
    queue_limit: Option<usize>,
    backoff: Option<Backoff>,
    breaker: Breaker,
    own_gate: bool,
    client_name: Option<String>,
    plain_handshake: bool,
    seed: Option<u64>,
    inherited: Option<Inherited>,
    #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
    certificates: Option<redis::TlsCertificates>,
    #[cfg(feature = "credentials")]
    credentials_provider: Option<Provider>,
}

/// Who says where the server is.
#[derive(Debug)]
enum Topology {
    /// The URL.
    Single,
    Sentinel(SentinelSettings),
    Cluster(ClusterSettings),
}

impl GuardedPool {
    /// Starts a pool for a URL, a [`redis::ConnectionInfo`] or whatever else redis-rs takes.
    ///
    /// `redis://[user][:password@]host[:port][/db][?protocol=resp3]`, `rediss://…` for TLS (feature
    /// `tls-rustls` or `tls-native-tls`), `unix:///path?db=1&user=…&pass=…`.
    ///
    /// **TCP settings** of a [`ConnectionInfo`](redis::ConnectionInfo::set_tcp_settings) hold for all sockets of
    /// the pool, a cluster's nodes and subscribers included; those to sentinels have what the first sentinel's
    /// says, and the servers that they name what [`connect_as`](GuardedPoolBuilder::connect_as)'s says. What they
    /// leave out of keepalive and user timeout is the [`link_timeout`](GuardedPoolBuilder::link_timeout)'s.
    /// Nagle's algorithm is off whatever they say. A linger time cannot be read back from them: it is not
    /// set, and a warning in the log says so.
    ///
    /// ```
    /// use redis_guard::{GuardedPool, redis};
    /// use redis::IntoConnectionInfo;
    /// use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(120));
    /// let info = "redis://127.0.0.1:6379".into_connection_info()?;
    /// let info = info.set_tcp_settings(TcpSettings::default().set_keepalive(keepalive));
    /// let pool = GuardedPool::builder(info).build()?;
    /// # Ok(()) }
    /// ```
    pub fn builder(params: impl IntoConnectionInfo) -> GuardedPoolBuilder {
        GuardedPoolBuilder::new(params)
    }

    /// Starts a pool from deadpool-redis's configuration, be it of one server
    /// ([`deadpool_redis::Config`]), of sentinels ([`deadpool_redis::sentinel::Config`]) or of a cluster
    /// ([`deadpool_redis::cluster::Config`]). What it says and what it leaves out:
    ///
    /// | there | here | where it is not set |
    /// |---|---|---|
    /// | URLs or connections, the master's name, `server_type`, `node_connection_info`, `read_from_replicas` | the same | the same |
    /// | `max_size` | [`max_connections`](GuardedPoolBuilder::max_connections); of a cluster each node's | 16, whatever the machine, instead of 2 for each CPU: it is a share of the server's `maxclients` |
    /// | `timeouts.wait` | [`acquire_timeout`](GuardedPoolBuilder::acquire_timeout), dialing included | 1 s instead of no end |
    /// | `timeouts.create` | [`connect_timeout`](GuardedPoolBuilder::connect_timeout) | 2 s instead of no end |
    /// | `timeouts.recycle` | no effect: a connection is lent without a round trip, so there is nothing to wait for | |
    /// | `queue_mode` | no effect: the connection that came back last is lent first, so that those not needed become idle; callers are served first come first served | |
    /// | hooks | no effect: they belong to deadpool's pool, and not to its configuration | |
    ///
    /// [`build`](GuardedPoolBuilder::build) logs once what came of it: at the level `info`, or `warn` where
    /// something was set that has no effect.
    ///
    /// For a service that names deadpool-redis's own types see [`compat::deadpool_redis`](crate::compat::deadpool_redis).
    ///
    /// A lease is a connection of its own then, as it was. With [`multiplex(true)`](GuardedPoolBuilder::multiplex)
    /// the same code shares one connection, and a lease takes its own, from `max_size`, only when a command needs
    /// it (WATCH, BLPOP, SELECT, …):
    ///
    /// ```no_run
    /// # use redis_guard::{AsyncCommands, GuardedPool, deadpool_redis};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = deadpool_redis::Config::from_url("redis://127.0.0.1:6379");
    /// let pool = GuardedPool::from_config(config).multiplex(true).build()?;
    /// let mut conn = pool.get().await?; // costs no slot
    /// let name: Option<String> = conn.get("name").await?;
    /// # Ok(()) }
    /// ```
    pub fn from_config(config: impl Into<GuardedPoolBuilder>) -> GuardedPoolBuilder {
        config.into()
    }

    /// Starts a pool for the server of a [`redis::Client`].
    pub fn from_client(client: &redis::Client) -> GuardedPoolBuilder {
        GuardedPoolBuilder::new(client.get_connection_info().clone())
    }
}

impl GuardedPoolBuilder {
    pub(super) fn new(params: impl IntoConnectionInfo) -> Self {
        Self::from_info(connection_info(params))
    }

    fn from_info(info: Result<ConnectionInfo, String>) -> Self {
        Self {
            info,
            topology: Topology::Single,
            misplaced: Vec::new(),
            #[cfg(feature = "settings")]
            mistakes: Vec::new(),
            settings: Settings {
                name: "default".to_owned(),
                max_connections: 16,
                acquire_timeout: Duration::from_secs(1),
                response_timeout: Duration::from_millis(500),
                link_timeout: LINK_TIMEOUT,
                leak_after: Duration::from_secs(30),
                revoke_after: None,
                idle_timeout: Duration::from_secs(5 * 60),
                min_idle: 1,
                max_lifetime: Duration::from_secs(30 * 60),
                drain_timeout: Duration::from_secs(10),
                shared_lanes: 1,
                multiplex: false,
                budgets: Budgets::default(),
                watch: true,
                adaptive_limit: true,
                min_limit: FLOOR,
                fleet: None,
                role: Role::Master,
                runtime: None,
                seed: 0,
            },
            connect_timeout: Duration::from_secs(2),
            min_limit: None,
            queue_limit: None,
            backoff: None,
            own_gate: false,
            breaker: Breaker::default(),
            client_name: None,
            plain_handshake: false,
            seed: None,
            inherited: None,
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            certificates: None,
            #[cfg(feature = "credentials")]
            credentials_provider: None,
        }
    }

    /// The pool's name: the `pool` label of its metrics and logs. Default `default`. Not empty, and
    /// without control characters. Give each pool of a process its own, or their metrics mix.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// The most connections this pool opens: this process's share of the server's `maxclients`.
    /// Default 16: on one core of client and server, more connections add nothing to throughput. From 1
    /// to 1,000,000: a process on Linux can have no more sockets.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.settings.max_connections = max;
        self
    }

    /// Gives an endpoint its own budget; see [`Budget`]. The name of the shared connections,
    /// [`Endpoint::LANES`], takes none: theirs is a connection for each of
    /// [`shared_lanes`](Self::shared_lanes), and one to replace it.
    pub fn endpoint(mut self, endpoint: impl Into<Endpoint>, budget: Budget) -> Self {
        self.settings.budgets.named.push((endpoint.into(), budget));
        self
    }

    /// The budget of each endpoint that has none of its own. Default: all of `max_connections`, no
    /// reserve.
    pub fn default_budget(mut self, budget: Budget) -> Self {
        self.settings.budgets.default = Some(budget);
        self
    }

    /// How long [`acquire`](GuardedPool::acquire) waits for a connection, dialing included.
    /// Default 1 s, the patience of an interactive request. Zero never waits; at most a year, as every
    /// time here.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.settings.acquire_timeout = timeout;
        self
    }

    /// How long one dial may take, from the name lookup to the first answer. Default 2 s: a lost
    /// SYN is sent again after 1 s, and the second one gets its chance. More than zero. Where the name has
    /// several addresses and one is silent, the next is tried beside it after 250 ms (RFC 8305), and the
    /// next dial begins with the one that answered.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a command waits for its reply. Default 500 ms, as in redis-rs. More than zero. One that
    /// blocks by design (BLPOP, XREAD BLOCK, WAIT, …) waits for its own timeout and this one; with a
    /// timeout of 0 only the [link](Self::link_timeout) ends it.
    ///
    /// The connection of a command that was not answered is not closed for that: it is lent again once
    /// the reply has come. It is given up after ten of these timeouts if others are answered meanwhile;
    /// where nobody is, one is given up in each link timeout, so that a new one shows whether the server
    /// is there. While the server is known to be full, or the last dial failed, the link timeout counts
    /// instead of the ten.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.settings.response_timeout = timeout;
        self
    }

    /// After how long a link that carries nothing is dead. Default 30 s: what a network gets over by
    /// itself takes seconds, and six retransmissions fit into half of it, while Linux, left alone, takes
    /// 15 min to give up what was sent and 2 h to ask on an idle connection. More than zero.
    ///
    /// Over TCP the kernel watches it, for idle connections and for commands that block for ever, too:
    /// keepalive after half of it, with three probes in the other half, in whole seconds, and
    /// `TCP_USER_TIMEOUT` on Linux, half of it; TCP settings of a [`ConnectionInfo`](redis::ConnectionInfo) come
    /// first. A subscriber that hears nothing sends a PING after a
    /// quarter to half of it; if no byte comes, its connection is replaced, and it hears
    /// [`Gap`](crate::PubSubEvent::Gap). A silent connection of a server that is full is kept for so long,
    /// too; see [`response_timeout`](Self::response_timeout).
    pub fn link_timeout(mut self, timeout: Duration) -> Self {
        self.settings.link_timeout = timeout;
        self
    }

    /// How many callers may wait at a time; past it they hear
    /// [`QueueFull`](crate::Rejection::QueueFull) at once. Default: as many as could be served
    /// within the acquire timeout if each held its connection for 1 ms
    /// (`max_connections × acquire_timeout / 1 ms`), between 64 and 65,536. Whoever came after them
    /// would time out anyway. From 1 to 1,000,000, each of whom takes memory.
    pub fn queue_limit(mut self, limit: usize) -> Self {
        self.queue_limit = Some(limit);
        self
    }

    /// The back-off between failed dials; see [`Backoff`]. Default: equal jitter from 50 ms, up to 5 s,
    /// or, once the [watch](Self::watch) or the [fleet](Self::fleet) has told how many processes share
    /// the server, up to 5.3 ms for each of them, between 5 s and 30 s: the server then sees a probe
    /// every 4 ms, whatever their number. At a server that has never let this process in it is 600 ms at first, and
    /// a fifteenth of the outage so far once that is more: nothing is served, so a slot that is free is found within
    /// 0.6 s, for about 20 refused dials in 8 s. Behind [sentinels](GuardedPool::sentinel), who tell of every move,
    /// it begins with 300 ms. One that is set is kept as it is.
    ///
    /// Pools of one process at one server share its schedule: of those that wait for a dial, the one
    /// with the longest back-off decides.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// What the server is to be. Default [`Role::Master`]: when it turns out to have become a replica (it
    /// answers a write with READONLY, or the [watch](Self::watch) sees its role change), the pool dials
    /// its address until that leads to a primary, at once and then every quarter to half second, and then
    /// replaces what it had opened before, make before break. Nothing is closed before that: reads go on.
    /// The command that was answered with READONLY is not repeated, except under a
    /// [`RetryPolicy`](crate::tower::RetryPolicy).
    ///
    /// [`Role::Replica`], for a pool that reads from replicas, takes READONLY for an answer like any
    /// other, and so does [`Role::ActiveReplica`]. Of a pool of [sentinels](GuardedPool::sentinel) the role
    /// says which server is asked for: the master, or one of its replicas.
    pub fn role(mut self, role: Role) -> Self {
        self.settings.role = role;
        self
    }

    /// Whether the pool keeps a dial schedule and a breaker of its own. Default false: all pools of the
    /// process at one address share them, so that one refusal is enough for all, they take turns at
    /// the dials, and one INFO tells all of them how the server is. What is wrong with one pool's
    /// credentials or configuration, and an operator's override, is that pool's alone in either case.
    pub fn own_gate(mut self, own: bool) -> Self {
        self.own_gate = own;
        self
    }

    /// When callers stop waiting for the next dial; see [`Breaker`]. Of pools that share a schedule
    /// and wait for a dial, the most impatient decides.
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = breaker;
        self
    }

    /// A lease that is left without a command for longer is reported as a suspected leak, once, with the
    /// place where it was acquired. Default 30 s: a hundred times what Redis work takes. More than zero.
    /// Checked once a second, or four times in this time if that is shorter. A command under way counts as
    /// use, however long it blocks: a worker that loops over BLPOP is no leak.
    pub fn leak_after(mut self, age: Duration) -> Self {
        self.settings.leak_after = age;
        self
    }

    /// Closes the connection under a lease held for longer, used or not; its next command gets an error.
    /// Default: never, because a slow job is not a leak. More than zero.
    pub fn revoke_after(mut self, age: Duration) -> Self {
        self.settings.revoke_after = Some(age);
        self
    }

    /// A connection idle for longer is closed, down to [`min_idle`](Self::min_idle), and its slot
    /// is free for others. Default 5 min: longer than a lull between two requests of a service in use,
    /// and short enough that what a peak has opened is given back. More than zero.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// How many connections are kept up although nobody needs them. Default 1: a service that gives its last
    /// connection back has to win a slot again, perhaps from a full server. As many as `max_connections`,
    /// or more, keeps all.
    ///
    /// `idle_timeout` leaves so many idle ones open; one that expires gets its
    /// [successor](Self::max_lifetime); one that the server, a link or a failover has ended is dialed again within
    /// a second or so. Connections in use count, where `bb8` counts idle ones only. The first ones are dialed once a
    /// caller has had one, or by [`warm_up`](crate::GuardedPool::warm_up). While nobody waits, a failed dial is
    /// repeated after 30 s, and a server that was full when it was last dialed is not dialed: its slots are for those
    /// who wait. Under pressure the [adaptive limit](Self::adaptive_limit) or the
    /// [fleet](Self::fleet) takes idle ones back all the same, down to [`min_limit`](Self::min_limit).
    pub fn min_idle(mut self, connections: usize) -> Self {
        self.settings.min_idle = connections;
        self
    }

    /// A connection older than this, ± 10 % at random so that a fleet does not redial together, is
    /// replaced once nobody holds it. Default 30 min, so that a fleet spreads over new replicas and
    /// DNS changes in that time. More than zero.
    ///
    /// Its successor is dialed first, at once, whether anybody waits or not: within a second of its time, one
    /// after the other where several expire together. At the pool's limit that is one connection too many for a
    /// moment, if the watch says that the server is less than half full and the pool is in no fleet;
    /// otherwise one at a time is closed, and then dialed. Put off while the server is full, and while
    /// dials fail: then one is tried every 30 s, and what works stays. Subscribers have no lifetime.
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.settings.max_lifetime = lifetime;
        self
    }

    /// How long [`close`](GuardedPool::close) waits for leases before it closes the connections
    /// under them. Default 10 s: well inside the 30 s that Kubernetes leaves a container to end. Zero
    /// does not wait.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = timeout;
        self
    }

    /// How many multiplexed connections carry the commands of [`shared`](GuardedPool::shared)
    /// handles. Default 1: on one machine one connection carried 418,000 GETs a second for 64 tasks
    /// and four carried 360,000, because fewer, larger writes cost less. More help where one
    /// connection's core or window is the limit. They count among `max_connections`, and are opened on
    /// first use. From 1 to 1,024, and to `max_connections`: a few carry all that one server can answer.
    pub fn shared_lanes(mut self, lanes: usize) -> Self {
        self.settings.shared_lanes = lanes;
        self
    }

    /// Whether leases send on the [shared lanes](Self::shared_lanes) until they need a connection of their own;
    /// see [`GuardedConnection`](crate::GuardedConnection). Default false: a lease is one connection, as in any
    /// other pool.
    ///
    /// With it code that leases a connection for each request needs a slot or two instead of one a request, and
    /// one that forgets to give leases back costs no slot: no line of it changes. A budget's
    /// [`max`](crate::Budget::max) bounds the leases that have a connection then, and
    /// [`in_flight`](crate::Budget::in_flight) the commands on lanes. Give it to code whose commands are short:
    /// a large reply on a lane holds up those behind it, and a lease that is to be spared that can
    /// [`make_exclusive`](crate::GuardedConnection::make_exclusive).
    pub fn multiplex(mut self, multiplex: bool) -> Self {
        self.settings.multiplex = multiplex;
        self
    }

    /// Whether the pool asks the server how it is: `INFO`, over a connection it holds anyway, every
    /// 3 to 15 s, and when callers wait for more connections. Default true. It costs the server about
    /// 10 µs each time, and one dial less wherever a full server need not be tried. What it says is in
    /// [`status`](GuardedPool::status), [`events`](GuardedPool::events) and the metrics. A server that
    /// denies `INFO` is asked again every minute.
    pub fn watch(mut self, watch: bool) -> Self {
        self.settings.watch = watch;
        self
    }

    /// Whether the pool sets itself a limit below `max_connections` by the server's own pressure, so
    /// that slots are given back before anybody is refused, and newcomers get theirs. Default true,
    /// where the server can be [watched](Self::watch). Below half of the server's `maxclients` nothing
    /// is held back; above nine tenths everybody gives back a part of what it holds, down to
    /// [`min_limit`](Self::min_limit).
    pub fn adaptive_limit(mut self, adaptive: bool) -> Self {
        self.settings.adaptive_limit = adaptive;
        self
    }

    /// The connections below which the [adaptive limit](Self::adaptive_limit) never falls, however full
    /// the server is. Default: the sum of the endpoints' [reserves](crate::Budget::reserve), which are promises,
    /// up to half of [`max_connections`](Self::max_connections); at least 2, one that works while the other
    /// is replaced. Each pool's floor is a part of `maxclients` that no pressure moves:
    /// [`Plan::min_limit`](crate::sizing::Plan::min_limit) says whether all of them fit. From 1 to
    /// `max_connections`, which narrows the default, too. A [fleet](Self::fleet)'s registry goes by its own
    /// floor, and takes this one for need.
    pub fn min_limit(mut self, connections: usize) -> Self {
        self.min_limit = Some(connections);
        self
    }

    /// Makes the pool a member of a [`Fleet`], whose members share the server's connections by
    /// agreement, by need, and without ever asking for more than there are. Needs the
    /// [watch](Self::watch). Default: of none.
    pub fn fleet(mut self, fleet: Fleet) -> Self {
        self.settings.fleet = Some(fleet);
        self
    }

    /// The runtime on which the pool's connections live, and its background work runs. Default: that of
    /// whichever caller they were dialed for; when it ends they are closed, also under a caller on another
    /// runtime, whose command then fails with an I/O error. One runtime a process needs no more. Where
    /// several use one pool (a pool in a `static` and a runtime a thread, or a runtime a `#[tokio::test]`),
    /// give it one that outlives them and that runs by itself, so a multi-threaded one, with I/O and time
    /// enabled:
    ///
    /// ```
    /// use std::sync::LazyLock;
    ///
    /// use redis_guard::GuardedPool;
    /// use tokio::runtime::{Builder, Runtime};
    ///
    /// static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    ///     Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    /// });
    /// static POOL: LazyLock<GuardedPool> = LazyLock::new(|| {
    ///     let pool = GuardedPool::builder("redis://127.0.0.1/").runtime(RUNTIME.handle().clone());
    ///     pool.build().expect("settings that are right")
    /// });
    /// ```
    ///
    /// Once it has been shut down, the pool dials no more, and its callers wait for the acquire timeout.
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.settings.runtime = Some(runtime);
        self
    }

    /// The name every connection gives itself in `CLIENT LIST`. Default
    /// `redis-guard:<process>`. Printable ASCII without spaces.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = Some(name.into());
        self
    }

    /// Whether a dial sends `AUTH`, `SELECT` and `PING` only, each where it is needed, in RESP2: no
    /// `CLIENT SETNAME`, no `CLIENT SETINFO`, no `HELLO`. Default false: a name in `CLIENT LIST` tells
    /// an operator whose a connection is. For proxies that hang up at a command they do not know, such
    /// as twemproxy; these do not know `INFO` either, so set [`watch`](Self::watch) to false as well.
    pub fn plain_handshake(mut self, plain: bool) -> Self {
        self.plain_handshake = plain;
        self
    }

    /// Roots to trust instead of the platform's, and a client certificate, for `rediss://`. The same
    /// value that [`redis::Client::build_with_tls`] takes; a client built so does not give it back.
    #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))))]
    pub fn tls_certificates(mut self, certificates: redis::TlsCertificates) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// Where the pool's credentials come from, and come anew when they change: short-lived tokens, say,
    /// such as redis-rs's `EntraIdCredentialsProvider` gives (its feature `entra-id`). Default: those of
    /// the URL, until [`set_credentials`](GuardedPool::set_credentials) changes them.
    ///
    /// Nothing is dialed before the provider has given some; if it fails first, callers hear why. It is
    /// followed from the first use of the pool on. What new credentials do to those who are connected:
    /// see [`set_credentials`](GuardedPool::set_credentials). If the provider fails later, the pool goes
    /// on with the last ones and says [`Event::CredentialsFailed`](crate::Event::CredentialsFailed); a
    /// stream that ends is subscribed to again after a second.
    #[cfg(feature = "credentials")]
    #[cfg_attr(docsrs, doc(cfg(feature = "credentials")))]
    pub fn credentials_provider<P>(mut self, provider: P) -> Self
    where
        P: redis::StreamingCredentialsProvider + 'static,
    {
        self.credentials_provider = Some(Provider(Arc::new(provider)));
        self
    }

    /// Seeds the jitter, for tests that must repeat. Default: random. Of pools that share a schedule
    /// the first one's counts.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}
