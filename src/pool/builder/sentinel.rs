//! The builder's settings for a pool whose server sentinels name.

use deadpool_redis::sentinel::SentinelServerType;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::{GuardedPoolBuilder, Topology};
use crate::GuardedPool;
use crate::dial::connection_info;
use crate::pool::topology::settings::SentinelSettings;
use crate::server::Role;

impl GuardedPool {
    /// Starts a pool for the server that sentinels call `master`, wherever that is just then.
    ///
    /// `sentinels`: their URLs, or whatever else redis-rs takes, as many of them as there are. User and
    /// password in them, and `rediss://`, are for the sentinels alone; for the server see
    /// [`connect_as`](GuardedPoolBuilder::connect_as).
    ///
    /// ```
    /// use redis_guard::GuardedPool;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sentinels = ["redis://10.0.0.1:26379", "redis://10.0.0.2:26379", "redis://10.0.0.3:26379"];
    /// let pool = GuardedPool::sentinel(sentinels, "mymaster").max_connections(32).build()?;
    /// # Ok(()) }
    /// ```
    ///
    /// **What it costs.** One sentinel is asked, over one connection for all pools of the process that have
    /// the same sentinels, and is listened to for `+switch-master`; if it does not answer within half a
    /// second, the next one is. On the master it is one slot a connection: nothing is dialed to find out
    /// what is there.
    ///
    /// **A failover.** What a sentinel says counts once the server itself says so (`ROLE`). From then on
    /// nothing goes to the server before: idle connections, leases and lanes to it are closed, a command
    /// under way there fails as one that may have run, and subscribers get their new connection before they
    /// leave the old one. Until then what is open goes on working. The pool asks again when a
    /// connection is lost, a dial fails, or a write is answered with READONLY.
    ///
    /// What the old master acknowledges after the new one was promoted, and before a sentinel says so, is lost:
    /// Redis replicates without waiting. `min-replicas-to-write` and `WAIT` bound that.
    ///
    /// **Without sentinels** the pool goes on with the server that was named last, and dials it again if it
    /// has to. `status().sentinel` says what is wrong.
    ///
    /// With [`role(Role::Replica)`](GuardedPoolBuilder::role) the pool is for one of the master's replicas:
    /// one at random that is up and in step with the master, and another one once it is not. It never dials
    /// the master; while no replica is up, what is open goes on.
    pub fn sentinel<T: IntoConnectionInfo>(
        sentinels: impl IntoIterator<Item = T>,
        master: impl Into<String>,
    ) -> GuardedPoolBuilder {
        let sentinels = sentinels.into_iter().map(connection_info).collect();
        GuardedPoolBuilder::of_sentinels(sentinels, master.into())
    }
}

/// A pool from deadpool-redis's configuration for sentinels; see [`from_config`](GuardedPool::from_config).
impl From<deadpool_redis::sentinel::Config> for GuardedPoolBuilder {
    fn from(config: deadpool_redis::sentinel::Config) -> Self {
        let deadpool_redis::sentinel::Config {
            urls,
            server_type,
            master_name,
            connections,
            node_connection_info,
            pool,
        } = config;
        let sentinels = match (urls, connections) {
            (Some(urls), None) => urls.into_iter().map(connection_info).collect(),
            (None, Some(connections)) => {
                connections.into_iter().map(|connection| Ok(connection.into())).collect()
            }
            (None, None) => vec![Ok(deadpool_redis::ConnectionInfo::default().into())],
            (Some(_), Some(_)) => vec![Err("the deadpool-redis configuration has both urls and \
                                            connections"
                .to_owned())],
        };
        let mut builder = Self::of_sentinels(sentinels, master_name);
        if let Some(node) = node_connection_info {
            let host = "any".to_owned();
            let addr = match node.tls_mode {
                None => ConnectionAddr::Tcp(host, 0),
                Some(mode) => ConnectionAddr::TcpTls {
                    host,
                    port: 0,
                    insecure: matches!(mode, deadpool_redis::sentinel::TlsMode::Insecure),
                    tls_params: None,
                },
            };
            let redis = node.redis_connection_info.map(Into::into).unwrap_or_default();
            let info = addr.into_connection_info().map(|info| info.set_redis_settings(redis));
            builder.info = info.map_err(|error| error.to_string());
        }
        if matches!(server_type, SentinelServerType::Replica) {
            builder = builder.role(Role::Replica);
        }
        builder.with_pool_config(pool)
    }
}

impl GuardedPoolBuilder {
    fn of_sentinels(sentinels: Vec<Result<ConnectionInfo, String>>, master: String) -> Self {
        let anywhere = ConnectionAddr::Tcp("any".to_owned(), 0).into_connection_info();
        let mut builder = Self::from_info(anywhere.map_err(|error| error.to_string()));
        builder.topology = Topology::Sentinel(SentinelSettings::new(sentinels, master));
        builder
    }

    /// How the servers that [sentinels](GuardedPool::sentinel) name are spoken to: user, password, database,
    /// protocol, and TLS, from a URL or whatever else redis-rs takes, of which the host and the port are
    /// not used: `rediss://app:secret@any/2?protocol=resp3`. Default: no password, database 0, RESP2, no TLS.
    pub fn connect_as(mut self, params: impl IntoConnectionInfo) -> Self {
        match &self.topology {
            Topology::Sentinel(_) => {
                self.info = connection_info(params);
            }
            Topology::Single | Topology::Cluster(_) => self.misplaced.push("connect_as"),
        }
        self
    }

    /// The name that the connection to a [sentinel](GuardedPool::sentinel) gives itself. Default: that of
    /// the pool's connections. Printable ASCII without spaces. Of the pools of a process that share the
    /// connection the first one's counts.
    pub fn sentinel_client_name(mut self, name: impl Into<String>) -> Self {
        match &mut self.topology {
            Topology::Sentinel(settings) => settings.client_name = Some(name.into()),
            Topology::Single | Topology::Cluster(_) => self.misplaced.push("sentinel_client_name"),
        }
        self
    }

    /// Roots to trust, and a client certificate, for [sentinels](GuardedPool::sentinel) at `rediss://`.
    /// Default: [`tls_certificates`](Self::tls_certificates).
    #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))))]
    pub fn sentinel_tls_certificates(mut self, certificates: redis::TlsCertificates) -> Self {
        match &mut self.topology {
            Topology::Sentinel(settings) => settings.certificates = Some(certificates),
            Topology::Single | Topology::Cluster(_) => {
                self.misplaced.push("sentinel_tls_certificates")
            }
        }
        self
    }
}
