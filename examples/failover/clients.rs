//! The clients that are compared, each as a service would use it.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_redis::sentinel::{Config, Pool, SentinelNodeConnectionInfo, SentinelServerType};
use deadpool_redis::{PoolError, RedisConnectionInfo, Runtime, TimeoutType};
use futures_util::future::try_join_all;
use redis::{AsyncCommands as _, Cmd, ErrorKind};
use redis_guard::{GuardedPool, SharedConnection};

use crate::Failure;
use crate::set::{PASSWORD, USER};

/// What the sentinels call the master.
const MASTER: &str = "mymaster";

/// How long a caller waits for a connection, where the client lets one say so.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client under test: one pool. Every task has a clone of its own; clones share the same
/// connections.
pub(crate) trait Contender: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// How long it waits for what.
    const TERMS: &'static str;

    /// Sets the client up to hold `size` connections, if it is one that holds several; `nth` of the
    /// process's pools, counted from 0.
    fn open(sentinels: &[String], nth: usize, size: usize) -> Result<Self, Failure>;

    /// Comes to hold `size` connections, if it is one that holds several.
    fn warm_up(&mut self, size: usize) -> impl Future<Output = Result<(), Failure>> + Send;

    /// One request: acquire a connection where the client lends them, `SET`. Gives the reason if it
    /// failed.
    fn write(&mut self, key: &str) -> impl Future<Output = Result<(), String>> + Send;

    /// What it counts itself of its dials to data servers.
    fn dialed(&self) -> Dialed;
}

/// Dials to data servers, as the client counts them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dialed {
    /// Nobody listened: no server counts these.
    pub(crate) refused: u64,
    /// All that came to nothing, the refused ones among them.
    pub(crate) failed: u64,
}

impl std::iter::Sum for Dialed {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            refused: sum.refused + one.refused,
            failed: sum.failed + one.failed,
        })
    }
}

/// `deadpool_redis::sentinel`. It does not count its dials. A connection that could not be made is at
/// least one that failed; it may be one for each sentinel.
#[derive(Clone)]
pub(crate) struct BareDeadpool {
    pool: Pool,
    refused: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Contender for BareDeadpool {
    const NAME: &'static str = "deadpool-redis-sentinel";
    const TERMS: &'static str = "timeouts of 1 s to wait, to create, to recycle (its default is none); \
                                 redis-rs' own: 1 s to connect, 0.5 s for a reply";

    fn open(sentinels: &[String], _: usize, size: usize) -> Result<Self, Failure> {
        let credentials = RedisConnectionInfo {
            username: Some(USER.to_owned()),
            password: Some(PASSWORD.to_owned()),
            ..RedisConnectionInfo::default()
        };
        let servers =
            SentinelNodeConnectionInfo { tls_mode: None, redis_connection_info: Some(credentials) };
        let config = Config::from_urls(sentinels, MASTER.to_owned(), SentinelServerType::Master)
            .with_node_connection_info(Some(servers));
        let pool = config
            .builder()?
            .max_size(size)
            .wait_timeout(Some(ACQUIRE_TIMEOUT))
            .create_timeout(Some(ACQUIRE_TIMEOUT))
            .recycle_timeout(Some(ACQUIRE_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self { pool, refused: Arc::default(), failed: Arc::default() })
    }

    async fn warm_up(&mut self, size: usize) -> Result<(), Failure> {
        try_join_all((0..size).map(|_| self.pool.get())).await?;
        Ok(())
    }

    async fn write(&mut self, key: &str) -> Result<(), String> {
        let mut connection = self.pool.get().await.map_err(|error| {
            let (refused, failed) = match &error {
                // No sentinel named one that could be dialed.
                PoolError::Backend(e) if e.kind() == ErrorKind::MasterNameNotFoundBySentinel => {
                    (false, false)
                }
                PoolError::Backend(e) => (e.is_connection_refusal(), true),
                PoolError::Timeout(TimeoutType::Create) => (false, true),
                _ => (false, false),
            };
            self.refused.fetch_add(refused.into(), Ordering::Relaxed);
            self.failed.fetch_add(failed.into(), Ordering::Relaxed);
            reason(&error)
        })?;
        connection.set(key, 1).await.map_err(|error| reason(&error))
    }

    fn dialed(&self) -> Dialed {
        Dialed {
            refused: self.refused.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// redis-guard, with leases of its own connections.
#[derive(Clone)]
pub(crate) struct Guard(GuardedPool);

impl Contender for Guard {
    const NAME: &'static str = "redis-guard";
    const TERMS: &'static str =
        "1 s to wait for a connection; its own: 2 s to connect, 0.5 s for a reply";

    fn open(sentinels: &[String], nth: usize, size: usize) -> Result<Self, Failure> {
        let pool = GuardedPool::sentinel(sentinels.iter().map(String::as_str), MASTER)
            .connect_as(format!("redis://{USER}:{PASSWORD}@any"))
            .name(format!("guard-{nth}"))
            .max_connections(size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .build()?;
        Ok(Self(pool))
    }

    async fn warm_up(&mut self, size: usize) -> Result<(), Failure> {
        self.0.warm_up(size).await?;
        Ok(())
    }

    async fn write(&mut self, key: &str) -> Result<(), String> {
        let mut connection = self.0.get().await.map_err(|error| reason(&error))?;
        connection.set(key, 1).await.map_err(|error| reason(&error))
    }

    fn dialed(&self) -> Dialed {
        let dials = self.0.status().dials;
        let all: u64 = dials.values().sum();
        let of = |outcome| dials.get(outcome).copied().unwrap_or(0);
        Dialed { refused: of("refused"), failed: all - of("connected") }
    }
}

/// redis-guard, with the connection that everybody shares.
#[derive(Clone)]
pub(crate) struct GuardShared {
    pool: Guard,
    connection: SharedConnection,
}

impl Contender for GuardShared {
    const NAME: &'static str = "redis-guard-shared";
    const TERMS: &'static str = Guard::TERMS;

    fn open(sentinels: &[String], nth: usize, size: usize) -> Result<Self, Failure> {
        let pool = Guard::open(sentinels, nth, size)?;
        Ok(Self { connection: pool.0.shared("failover"), pool })
    }

    async fn warm_up(&mut self, _: usize) -> Result<(), Failure> {
        let () = self.connection.ping().await?;
        Ok(())
    }

    async fn write(&mut self, key: &str) -> Result<(), String> {
        let set = self.connection.send(&Cmd::set(key, 1)).await;
        set.map(drop).map_err(|error| reason(&error))
    }

    fn dialed(&self) -> Dialed {
        self.pool.dialed()
    }
}

fn reason(error: &dyn Display) -> String {
    error.to_string()
}
