//! What is taken from deadpool-redis's configuration.

use deadpool_redis::{PoolConfig, QueueMode, Timeouts};

use super::{GuardedPoolBuilder, Inherited};
use crate::dial::connection_info;

/// A pool from deadpool-redis's configuration; see [`from_config`](crate::GuardedPool::from_config).
impl From<deadpool_redis::Config> for GuardedPoolBuilder {
    fn from(config: deadpool_redis::Config) -> Self {
        let deadpool_redis::Config { url, connection, pool } = config;
        let info = match (url, connection) {
            (Some(url), None) => connection_info(url),
            (None, connection) => Ok(connection.unwrap_or_default().into()),
            (Some(_), Some(_)) => {
                Err("the deadpool-redis configuration has both a url and a connection".to_owned())
            }
        };
        Self::from_info(info).with_pool_config(pool)
    }
}

impl GuardedPoolBuilder {
    pub(super) fn with_pool_config(self, pool: Option<PoolConfig>) -> Self {
        let timeouts = pool.map(|pool| pool.timeouts).unwrap_or_default();
        // Whether its `queue_mode` was set cannot be told.
        self.with_pool_settings(pool.map(|pool| pool.max_size), timeouts, None)
    }

    /// Takes over deadpool's settings of a pool, as far as they were set.
    pub(crate) fn with_pool_settings(
        mut self,
        max_size: Option<usize>,
        Timeouts { wait, create, recycle }: Timeouts,
        queue_mode: Option<QueueMode>,
    ) -> Self {
        let mut inherited = Inherited::of("deadpool-redis");
        match max_size {
            Some(max_size) => self.settings.max_connections = max_size,
            None => inherited.not_set("max_size (there 2 for each CPU)"),
        }
        match wait {
            Some(wait) => self.settings.acquire_timeout = wait,
            None => inherited.not_set("wait (there no end)"),
        }
        match create {
            Some(create) => self.connect_timeout = create,
            None => inherited.not_set("create (there no end)"),
        }
        if recycle.is_some() {
            inherited.without_effect("recycle (a connection is lent without a round trip)");
        }
        if let Some(QueueMode::Fifo) = queue_mode {
            inherited.without_effect("queue_mode Fifo (what came back last is lent first)");
        }
        self.inherited(inherited)
    }

    /// Notes the configuration that it was made from.
    pub(crate) fn inherited(mut self, inherited: Inherited) -> Self {
        self.inherited = Some(inherited);
        self
    }
}
