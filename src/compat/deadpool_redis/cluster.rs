//! What a service names that uses `deadpool_redis::cluster`; see [the module above](super).
//!
//! ```
//! use redis_guard::compat::deadpool_redis::cluster::{Config, Runtime};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let nodes = ["redis://10.0.0.1:7000".to_owned(), "redis://10.0.0.2:7000".to_owned()];
//! let pool = Config::from_urls(nodes).create_pool(Some(Runtime::Tokio1))?;
//! # Ok(()) }
//! ```
//!
//! Sizes are each node's. What there is of clusters: [`GuardedPool::cluster`].

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

/// Where nodes of the cluster are, and how large the pool is at each: deadpool-redis's fields.
#[derive(Clone, Serialize, Deserialize)]
pub struct Config {
    /// URLs of some nodes.
    pub urls: Option<Vec<String>>,
    /// Or their addresses and login.
    pub connections: Option<Vec<ConnectionInfo>>,
    /// How large the pool is at each node, and how long its callers wait.
    pub pool: Option<PoolConfig>,
    /// Whether replicas answer reads: [`ReplicaReads::Prefer`](crate::ReplicaReads::Prefer).
    #[serde(default)]
    pub read_from_replicas: bool,
}

impl Config {
    /// Of the URLs of some nodes.
    #[must_use]
    pub fn from_urls<T: Into<Vec<String>>>(urls: T) -> Self {
        Self { urls: Some(urls.into()), connections: None, pool: None, read_from_replicas: false }
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

/// `127.0.0.1:6379`.
impl Default for Config {
    fn default() -> Self {
        let connections = Some(vec![ConnectionInfo::default()]);
        Self { urls: None, connections, pool: None, read_from_replicas: false }
    }
}

impl From<Config> for GuardedPoolBuilder {
    fn from(Config { urls, connections, pool, read_from_replicas }: Config) -> Self {
        ::deadpool_redis::cluster::Config { urls, connections, pool, read_from_replicas }.into()
    }
}

// A URL may have a password in it.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Config");
        f.field("pool", &self.pool).field("read_from_replicas", &self.read_from_replicas);
        f.finish_non_exhaustive()
    }
}
