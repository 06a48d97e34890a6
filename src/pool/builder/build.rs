//! The end of the builder: checks all settings at once, and makes the pool.

use std::sync::Arc;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use super::{GuardedPoolBuilder, Topology};
use crate::Backoff;
use crate::dial::{Address, Certificates, Dialer, Target};
use crate::fleet::Fleet;
use crate::policy::{Common, FLOOR, MOST_LANES, Problems, ReplicaReads, default_queue_limit};
use crate::pool::cluster::{self, Cluster, keeper};
use crate::pool::context::{Context, Settings};
use crate::pool::factory::NodeFactory;
use crate::pool::guarded_pool::GuardedPool;
use crate::pool::handle::Handle;
use crate::pool::servers::Servers;
use crate::pool::tasks::Starters;
use crate::pool::topology::place::{Place, Resolve};
use crate::pool::topology::sentinel::Sentinel;
use crate::pool::topology::settings::ClusterSettings;
use crate::pool::topology::single::Single;
use crate::pool::{dialer, maintenance, status};
use crate::sentinel::{FIRST_BACKOFF, Sentinels};
use crate::server::gate::DialPolicy;
use crate::server::{Role, Server};
use crate::vocabulary::BuildError;

/// Where a pool begins, and who says where it goes on.
type Start = (Arc<Place>, Box<dyn Resolve>);

impl GuardedPoolBuilder {
    /// Makes the pool. Opens no connection: the first caller, or
    /// [`warm_up`](GuardedPool::warm_up), does.
    ///
    /// # Errors
    ///
    /// [`BuildError`] with everything that is wrong: a malformed URL, a limit or timeout that is zero or
    /// beyond its bound, a reserve above its max, reserves above the total, an invalid, reserved or
    /// repeated endpoint name, sentinels that cannot be asked.
    pub fn build(mut self) -> Result<GuardedPool, BuildError> {
        let (inherited, connect_timeout) = (self.inherited.take(), self.connect_timeout);
        let pool = self.make()?;
        if let Some(inherited) = inherited {
            inherited.log(&pool.handle.servers.context().settings, connect_timeout);
        }
        Ok(pool)
    }

    fn make(self) -> Result<GuardedPool, BuildError> {
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        if let Topology::Cluster(settings) = &self.topology {
            let settings = self.cluster(settings, seed).map_err(BuildError::new)?;
            let factory = self.factory(seed);
            let cluster = Cluster::new(factory, settings, keeper::run, status::status);
            return Ok(GuardedPool { handle: Handle::new(Servers::Cluster(Arc::new(cluster))) });
        }
        let (place, resolver) = self.place(seed).map_err(BuildError::new)?;
        Ok(self.build_at(place, resolver, seed))
    }

    /// Where the nodes of the cluster are; or everything that is wrong.
    fn cluster(
        &self,
        settings: &ClusterSettings,
        seed: u64,
    ) -> Result<cluster::Settings, Vec<String>> {
        let mut problems = self.problems();
        let seeds = settings.seeds(self.certificates());
        let seeds = seeds.map_err(|more| problems.extend(more));
        let names = settings.names().map_err(|more| problems.extend(more));
        match (seeds, names, &*problems) {
            (Ok(seeds), Ok(names), []) => Ok(cluster::Settings {
                seeds,
                names,
                replica_reads: settings.replica_reads,
                own_gate: self.own_gate,
                seed,
            }),
            _ => Err(problems),
        }
    }

    /// Where the pool begins, and who says where it goes on; or everything that is wrong.
    fn place(&self, seed: u64) -> Result<Start, Vec<String>> {
        let mut problems = self.problems();
        let address = self.address().map_err(|problem| problems.push(problem));
        match &self.topology {
            Topology::Single => {
                let (Ok(address), []) = (address, &*problems) else { return Err(problems) };
                let server = match self.own_gate {
                    true => Server::alone(&address.to_string(), seed),
                    false => Server::shared(&address, seed),
                };
                let place = Arc::new(Place::new(Target::new(address), server));
                Ok((Arc::clone(&place), Box::new(Single(place))))
            }
            Topology::Cluster(_) => unreachable!("it has several places"),
            Topology::Sentinel(settings) => {
                let sentinels = settings.targets(self.certificates());
                let sentinels = sentinels.map_err(|more| problems.extend(more));
                let (Ok(address), Ok(sentinels), []) = (address, sentinels, &*problems) else {
                    return Err(problems);
                };
                let name = settings.client_name.clone();
                let name = name.unwrap_or_else(|| self.name_for_clients());
                // Each sentinel has a login of its own.
                let nobody = RedisConnectionInfo::default();
                let mut dialer = Dialer::new(nobody, name, self.connect_timeout);
                dialer.plain = self.plain_handshake;
                dialer.link_timeout = self.settings.link_timeout;
                dialer.tcp = settings.tcp();
                let trust = settings.trust(self.certificates());
                let set = Sentinels::shared(sentinels, trust, dialer, seed);
                let (master, role) = (&*settings.master, self.settings.role);
                let resolver = Sentinel::new(set, master, role, address, self.own_gate, seed);
                let server = Server::alone(master, seed);
                let place = Arc::new(Place::new(Target::unknown(master), server));
                Ok((place, Box::new(resolver)))
            }
        }
    }

    /// Makes the pool, whose server `resolver` knows.
    pub(in crate::pool) fn build_at(
        self,
        place: Arc<Place>,
        resolver: Box<dyn Resolve>,
        seed: u64,
    ) -> GuardedPool {
        let node = self.factory(seed).node(place, resolver, seed);
        GuardedPool { handle: Handle::new(Servers::One(node)) }
    }

    /// What the pool's nodes are made of.
    fn factory(self, seed: u64) -> NodeFactory {
        let client_name = self.name_for_clients();
        let min_limit = self.floor();
        let Self { mut settings, info, plain_handshake, connect_timeout, .. } = self;
        (settings.seed, settings.min_limit) = (seed, min_limit);
        let is_cluster = matches!(self.topology, Topology::Cluster(_));
        if is_cluster {
            // A replica is none by mistake: a cluster redirects whoever wants a primary.
            settings.role = Role::ActiveReplica;
        }
        let (mut redis, tcp) = info
            .map(|info| (info.redis_settings().clone(), info.tcp_settings().clone()))
            .unwrap_or_default();
        if plain_handshake {
            redis = redis.set_skip_set_lib_name();
        }
        let mut dial = Dialer::new(redis, client_name, connect_timeout);
        (dial.plain, dial.link_timeout) = (plain_handshake, settings.link_timeout);
        warn_of_linger(&tcp, &settings.name);
        dial.tcp = tcp;
        dial.reads_replicas = matches!(
            &self.topology,
            Topology::Cluster(cluster) if cluster.replica_reads != ReplicaReads::Off
        );
        #[cfg(feature = "credentials")]
        let dial = dial.provided(self.credentials_provider);
        let (backoff, breaker) = (self.backoff, self.breaker);
        let (first_backoff, breaker) = match self.topology {
            Topology::Single | Topology::Cluster(_) => (Backoff::default().base(), breaker),
            // One sentinel may name the wrong server, and the next one knows better.
            Topology::Sentinel(_) => (FIRST_BACKOFF, breaker.as_patient_with_none_live()),
        };
        let policy = DialPolicy { backoff, first_backoff, breaker, connect_timeout };
        let queue_limit = self.queue_limit.unwrap_or_else(|| {
            default_queue_limit(settings.max_connections, settings.acquire_timeout)
        });
        let context = Arc::new(Context::new(settings));
        let starters = Starters {
            dialer: dialer::run,
            maintenance: maintenance::run,
            check: maintenance::check_first,
        };
        NodeFactory { context, dialer: dial, policy, queue_limit, starters }
    }

    fn certificates(&self) -> Option<&Certificates> {
        #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
        return self.certificates.as_ref();
        #[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
        None
    }

    fn name_for_clients(&self) -> String {
        self.client_name.clone().unwrap_or_else(default_client_name)
    }

    /// What was wrong with what the settings were read from, for [`build`](Self::build) to report.
    #[cfg(feature = "settings")]
    pub(crate) fn mistaken(mut self, mistakes: Vec<String>) -> Self {
        self.mistakes = mistakes;
        self
    }

    /// Everything that [`build`](Self::build) would report.
    #[cfg(feature = "settings")]
    pub(crate) fn mistakes(&self) -> Vec<String> {
        match &self.topology {
            Topology::Cluster(settings) => self.cluster(settings, 0).err(),
            Topology::Single | Topology::Sentinel(_) => self.place(0).err(),
        }
        .unwrap_or_default()
    }

    /// Everything that is wrong with the settings, apart from the address.
    fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        #[cfg(feature = "settings")]
        self.mistakes.iter().for_each(|mistake| problems.add(mistake));
        let settings = &self.settings;
        problems.common(&Common {
            name: &settings.name,
            total: ("max_connections", settings.max_connections),
            budgets: &settings.budgets,
            acquire_timeout: settings.acquire_timeout,
            queue_limit: self.queue_limit,
            backoff: self.backoff,
            breaker: &self.breaker,
        });
        self.check_connections(&mut problems);
        self.check_times(&mut problems);
        if let Some(name) = &self.client_name
            && (name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            problems.add("client_name must be printable ASCII without spaces");
        }
        if self.plain_handshake {
            self.check_plain_handshake(&mut problems);
        }
        problems.policy("fleet", settings.fleet.as_ref().and_then(Fleet::problem));
        if settings.fleet.is_some() && !settings.watch {
            problems.add("fleet: it beats over the watch, which is off");
        }
        if settings.fleet.is_some() && settings.role == Role::Replica {
            problems.add("fleet: its registry is written to, and a replica takes no writes");
        }
        if let Topology::Sentinel(sentinels) = &self.topology {
            sentinels.check(&mut problems);
        }
        if let Topology::Cluster(_) = &self.topology {
            self.check_cluster(&mut problems);
        }
        for setter in &self.misplaced {
            let has = match &self.topology {
                Topology::Single => "a server of its own, no sentinels and no cluster",
                Topology::Sentinel(_) => "sentinels, and no cluster",
                Topology::Cluster(_) => "a cluster, and no sentinels",
            };
            problems.add(format!("{setter}: the pool has {has}"));
        }
        problems.into_vec()
    }

    /// What no pressure takes from the pool.
    fn floor(&self) -> usize {
        let Settings { max_connections: max, budgets, .. } = &self.settings;
        self.min_limit.unwrap_or_else(|| FLOOR.max(budgets.reserved().min(max / 2)))
    }

    /// The numbers of connections beside `max_connections` itself, which none may pass.
    fn check_connections(&self, problems: &mut Problems) {
        let Settings { max_connections: max, shared_lanes, .. } = self.settings;
        let min_limit = self.floor();
        problems.limit(
            "shared_lanes",
            shared_lanes,
            MOST_LANES,
            "no shared command could ever be sent",
        );
        if shared_lanes <= MOST_LANES && shared_lanes > max.max(1) {
            problems.add(format!("shared_lanes {shared_lanes} is above max_connections {max}"));
        }
        if min_limit == 0 {
            problems.add("min_limit is 0, so the last connection might be given back");
        } else if min_limit > max.max(FLOOR) {
            problems.add(format!("min_limit {min_limit} is above max_connections {max}"));
        }
    }

    /// What a cluster has no use for.
    fn check_cluster(&self, problems: &mut Problems) {
        if self.settings.role != Role::Master {
            problems.add("role: a cluster says itself which node is what; see replica_reads");
        }
        if self.info.as_ref().is_ok_and(|info| info.redis_settings().db() != 0) {
            problems.add("a cluster has no database but 0");
        }
    }

    /// What was asked for beside a handshake that leaves it out.
    fn check_plain_handshake(&self, problems: &mut Problems) {
        if self.client_name.is_some() {
            problems.add("client_name: a plain_handshake does not send it");
        }
        let resp3 =
            |info: &ConnectionInfo| info.redis_settings().protocol() == ProtocolVersion::RESP3;
        if self.info.as_ref().is_ok_and(resp3) {
            problems.add("plain_handshake: RESP3 needs HELLO, which it does not send");
        }
    }

    fn check_times(&self, problems: &mut Problems) {
        let settings = &self.settings;
        for (setter, time) in [
            ("connect_timeout", Some(self.connect_timeout)),
            ("response_timeout", Some(settings.response_timeout)),
            ("link_timeout", Some(settings.link_timeout)),
            ("leak_after", Some(settings.leak_after)),
            ("revoke_after", settings.revoke_after),
            ("idle_timeout", Some(settings.idle_timeout)),
            ("max_lifetime", Some(settings.max_lifetime)),
        ] {
            if let Some(time) = time {
                problems.time(setter, time);
            }
        }
        // Zero closes what is left at once.
        problems.time_or_zero("drain_timeout", settings.drain_timeout);
    }

    /// Where to dial, or how.
    fn address(&self) -> Result<Address, String> {
        let info =
            self.info.as_ref().map_err(|problem| format!("the URL is not usable: {problem}"))?;
        let address = Address::new(info.addr(), self.certificates())?;
        match (&self.topology, &address) {
            (Topology::Sentinel(_), Address::Unix(_)) => {
                Err("connect_as: no sentinel names a Unix socket".to_owned())
            }
            _ => Ok(address),
        }
    }
}

/// `redis-guard:<process>`, with what `CLIENT SETNAME` does not take left out.
fn default_client_name() -> String {
    let process = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .unwrap_or_default();
    let process: String = process.chars().filter(char::is_ascii_graphic).take(64).collect();
    format!("redis-guard:{process}")
}

/// Of redis-rs's settings this one cannot be read, only that it is set.
fn warn_of_linger(tcp: &TcpSettings, pool: &str) {
    if format!("{tcp:?}").contains("linger_time: Some") {
        tracing::warn!(
            pool,
            "the linger time of the ConnectionInfo's TCP settings is not set: redis-rs does not give it back"
        );
    }
}
