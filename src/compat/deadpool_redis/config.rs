//! The configuration of a pool of one server.

use std::fmt;

use ::deadpool_redis::{ConfigError, ConnectionInfo, PoolConfig, Runtime};
use redis::IntoConnectionInfo;
use serde::{Deserialize, Serialize};

use super::{CreatePoolError, Pool, PoolBuilder};
use crate::GuardedPoolBuilder;

/// Where the server is, and how large the pool: deadpool-redis's fields, also in files and the environment, through
/// serde. What comes of each stands at [`GuardedPool::from_config`](crate::GuardedPool::from_config).
#[derive(Clone, Serialize, Deserialize)]
pub struct Config {
    /// The server's URL.
    pub url: Option<String>,
    /// Or its address and login.
    pub connection: Option<ConnectionInfo>,
    /// How large the pool is, and how long its callers wait.
    pub pool: Option<PoolConfig>,
}

impl Config {
    /// Of a URL, `redis://127.0.0.1:6379` say.
    #[must_use]
    pub fn from_url<T: Into<String>>(url: T) -> Self {
        Self { url: Some(url.into()), connection: None, pool: None }
    }

    /// Of an address and a login.
    #[must_use]
    pub fn from_connection_info<T: Into<ConnectionInfo>>(connection_info: T) -> Self {
        Self { url: None, connection: Some(connection_info.into()), pool: None }
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
    /// A URL that is none, or both a URL and a connection.
    pub fn builder(&self) -> Result<PoolBuilder, ConfigError> {
        check(self.url.as_slice(), self.url.is_some() && self.connection.is_some())?;
        let config = Self { pool: None, ..self.clone() };
        Ok(PoolBuilder::new(config.into()).configured(self.pool))
    }

    /// What [`pool`](Self::pool) says, or deadpool's defaults.
    #[must_use]
    pub fn get_pool_config(&self) -> PoolConfig {
        self.pool.unwrap_or_default()
    }
}

/// What deadpool-redis finds wrong with where the servers are.
pub(super) fn check(urls: &[String], has_both: bool) -> Result<(), ConfigError> {
    if has_both {
        return Err(ConfigError::UrlAndConnectionSpecified);
    }
    urls.iter().try_for_each(|url| Ok(url.as_str().into_connection_info().map(drop)?))
}

/// `127.0.0.1:6379`.
impl Default for Config {
    fn default() -> Self {
        Self::from_connection_info(ConnectionInfo::default())
    }
}

impl From<Config> for GuardedPoolBuilder {
    fn from(Config { url, connection, pool }: Config) -> Self {
        ::deadpool_redis::Config { url, connection, pool }.into()
    }
}

// A URL may have a password in it.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("pool", &self.pool).finish_non_exhaustive()
    }
}
