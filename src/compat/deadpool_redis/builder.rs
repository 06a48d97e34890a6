//! The builder, and what it is given.

use std::time::Duration;

use ::deadpool_redis::{PoolConfig, QueueMode, Runtime, Timeouts};
use redis::{ConnectionInfo, IntoConnectionInfo, RedisResult};

use super::{BuildError, CreatePoolError, Pool};
use crate::{GuardedPool, GuardedPoolBuilder};

/// Where the server is, for [`Pool::builder`].
#[derive(Clone, Debug)]
pub struct Manager {
    info: ConnectionInfo,
}

impl Manager {
    /// Opens nothing.
    ///
    /// # Errors
    ///
    /// A URL that is none.
    pub fn new<T: IntoConnectionInfo>(params: T) -> RedisResult<Self> {
        Ok(Self { info: params.into_connection_info()? })
    }
}

/// Settings of a [`Pool`], as deadpool has them. What comes of each stands at [`GuardedPool::from_config`].
#[derive(Debug)]
#[must_use = "call `build` to get the pool"]
pub struct PoolBuilder {
    servers: GuardedPoolBuilder,
    max_size: Option<usize>,
    timeouts: Timeouts,
    queue_mode: Option<QueueMode>,
    runtime: Option<Runtime>,
}

impl From<Manager> for PoolBuilder {
    fn from(manager: Manager) -> Self {
        Self::new(GuardedPool::builder(manager.info))
    }
}

impl PoolBuilder {
    pub(super) fn new(servers: GuardedPoolBuilder) -> Self {
        let timeouts = Timeouts::new();
        Self { servers, max_size: None, timeouts, queue_mode: None, runtime: None }
    }

    /// Makes the pool. Opens no connection: the first caller does.
    ///
    /// # Errors
    ///
    /// Everything that is wrong: a size that is zero or beyond its bound, a `create` timeout of zero, a runtime that is
    /// not tokio's.
    pub fn build(self) -> Result<Pool, BuildError> {
        let Self { servers, max_size, timeouts, queue_mode, runtime } = self;
        if !matches!(runtime, None | Some(Runtime::Tokio1)) {
            return Err(BuildError::new(vec!["the runtime must be tokio's".to_owned()]));
        }
        Ok(servers.with_pool_settings(max_size, timeouts, queue_mode).build()?.into())
    }

    /// What a configuration says of the pool.
    pub(super) fn configured(self, pool: Option<PoolConfig>) -> Self {
        match pool {
            Some(pool) => self.config(pool),
            None => self,
        }
    }

    pub(super) fn create(mut self, runtime: Option<Runtime>) -> Result<Pool, CreatePoolError> {
        self.runtime = runtime;
        Ok(self.build()?)
    }

    /// All that it says counts as set.
    pub fn config(mut self, value: PoolConfig) -> Self {
        (self.max_size, self.timeouts) = (Some(value.max_size), value.timeouts);
        self
    }

    /// The most connections.
    pub fn max_size(mut self, value: usize) -> Self {
        self.max_size = Some(value);
        self
    }

    /// All timeouts.
    pub fn timeouts(mut self, value: Timeouts) -> Self {
        self.timeouts = value;
        self
    }

    /// How long callers wait for a connection, the dial included. `None`: a second.
    pub fn wait_timeout(mut self, value: Option<Duration>) -> Self {
        self.timeouts.wait = value;
        self
    }

    /// How long a dial may take. `None`: two seconds.
    pub fn create_timeout(mut self, value: Option<Duration>) -> Self {
        self.timeouts.create = value;
        self
    }

    /// Has no effect; a warning says so.
    pub fn recycle_timeout(mut self, value: Option<Duration>) -> Self {
        self.timeouts.recycle = value;
        self
    }

    /// The connection that came back last is lent first; where this says otherwise, a warning says so.
    pub fn queue_mode(mut self, value: QueueMode) -> Self {
        self.queue_mode = Some(value);
        self
    }

    /// Tokio's is the only one, and need not be named.
    pub fn runtime(mut self, value: Runtime) -> Self {
        self.runtime = Some(value);
        self
    }
}
