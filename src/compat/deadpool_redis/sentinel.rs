//! What a service names that uses `deadpool_redis::sentinel`; see [the module above](super).
//!
//! ```
//! use redis_guard::compat::deadpool_redis::sentinel::{Config, Runtime, SentinelServerType};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sentinels = ["redis://10.0.0.1:26379".to_owned(), "redis://10.0.0.2:26379".to_owned()];
//! let config = Config::from_urls(sentinels, "mymaster".to_owned(), SentinelServerType::Master);
//! let pool = config.create_pool(Some(Runtime::Tokio1))?;
//! # Ok(()) }
//! ```
//!
//! What there is of sentinels: [`GuardedPool::sentinel`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::config::check;
use super::{ConfigError, ConnectionInfo};
#[expect(unused_imports, reason = "for the docs")]
use crate::GuardedPool;
use crate::GuardedPoolBuilder;

pub use super::{
    BuildError, Connection, CreatePoolError, Metrics, Pool, PoolBuilder, PoolConfig, PoolError,
    QueueMode, Runtime, Status, TimeoutType, Timeouts,
};
pub use ::deadpool_redis::sentinel::{SentinelNodeConnectionInfo, SentinelServerType, TlsMode};

/// Where the sentinels are, what they are asked for, and how large the pool is: deadpool-redis's fields.
#[derive(Clone, Serialize, Deserialize)]
pub struct Config {
    /// The sentinels' URLs.
    pub urls: Option<Vec<String>>,
    /// Whether the master is wanted, or one of its replicas.
    #[serde(default)]
    pub server_type: SentinelServerType,
    /// The master's name among the sentinels. In files `mymaster` where it is left out.
    #[serde(default = "default_master_name")]
    pub master_name: String,
    /// Or the sentinels' addresses and logins.
    pub connections: Option<Vec<ConnectionInfo>>,
    /// How the servers that they name are spoken to.
    pub node_connection_info: Option<SentinelNodeConnectionInfo>,
    /// How large the pool is, and how long its callers wait.
    pub pool: Option<PoolConfig>,
}

impl Config {
    /// Of the sentinels' URLs.
    #[must_use]
    pub fn from_urls<T: Into<Vec<String>>>(
        urls: T,
        master_name: String,
        server_type: SentinelServerType,
    ) -> Self {
        let urls = Some(urls.into());
        Self {
            urls,
            server_type,
            master_name,
            connections: None,
            node_connection_info: None,
            pool: None,
        }
    }

    /// How the servers that they name are spoken to.
    #[must_use]
    pub fn with_node_connection_info(
        mut self,
        node_connection_info: Option<SentinelNodeConnectionInfo>,
    ) -> Self {
        self.node_connection_info = node_connection_info;
        self
    }

    /// Makes the pool. Opens no connection: the first caller does.
    ///
    /// # Errors
    ///
    /// As [`builder`](Self::builder) and [`PoolBuilder::build`].
    pub fn create_pool(&self, runtime: Option<Runtime>) -> Result<Pool, CreatePoolError> {
        self.builder().map_err(CreatePoolError::Config)?.create(runtime)
    }

    /// A builder with these settings.
    ///
    /// # Errors
    ///
    /// A URL that is none, or both URLs and connections.
    pub fn builder(&self) -> Result<PoolBuilder, ConfigError> {
        let urls = self.urls.as_deref();
        check(urls.unwrap_or_default(), urls.is_some() && self.connections.is_some())?;
        let config = Self { pool: None, ..self.clone() };
        Ok(PoolBuilder::new(config.into()).configured(self.pool))
    }

    /// What [`pool`](Self::pool) says, or deadpool's defaults.
    #[must_use]
    pub fn get_pool_config(&self) -> PoolConfig {
        self.pool.unwrap_or_default()
    }
}

fn default_master_name() -> String {
    "mymaster".to_owned()
}

/// `mymaster`, of the sentinel at `127.0.0.1:26379`.
impl Default for Config {
    fn default() -> Self {
        ::deadpool_redis::sentinel::Config::default().into()
    }
}

impl From<::deadpool_redis::sentinel::Config> for Config {
    fn from(config: ::deadpool_redis::sentinel::Config) -> Self {
        let ::deadpool_redis::sentinel::Config {
            urls,
            server_type,
            master_name,
            connections,
            node_connection_info,
            pool,
        } = config;
        Self { urls, server_type, master_name, connections, node_connection_info, pool }
    }
}

impl From<Config> for GuardedPoolBuilder {
    fn from(config: Config) -> Self {
        let Config { urls, server_type, master_name, connections, node_connection_info, pool } =
            config;
        let config = ::deadpool_redis::sentinel::Config {
            urls,
            server_type,
            master_name,
            connections,
            node_connection_info,
            pool,
        };
        config.into()
    }
}

// A URL may have a password in it.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Config");
        f.field("master_name", &self.master_name).field("pool", &self.pool);
        f.finish_non_exhaustive()
    }
}
