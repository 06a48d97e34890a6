//! The clients that are compared, each as a service would use it.

use std::time::Duration;

use deadpool_redis::Runtime;
use deadpool_redis::cluster::{ClusterClient, ClusterConnection, Config, Pool};
use redis::{AsyncCommands as _, RedisResult};
use redis_guard::{GuardedPool, SharedConnection};

use crate::Failure;
use crate::args::POOL_SIZE;

/// How long a caller waits for a connection, where the client lets one say so.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client under test. Every task has a clone of its own; clones share the same connections.
pub(crate) trait Contender: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// How long it waits for what.
    const TERMS: &'static str;

    /// Sets the client up, with these nodes to ask for the others.
    fn open(seeds: Vec<String>) -> impl Future<Output = Result<Self, Failure>> + Send + 'static;

    /// One request: acquire a connection where the client lends them, `SET`. Gives the reason if it
    /// failed.
    fn set(&mut self, key: &str) -> impl Future<Output = Result<(), String>> + Send;
}

/// What every request does with its connection.
async fn set(
    connection: &mut (impl redis::aio::ConnectionLike + Send + Sync),
    key: &str,
) -> RedisResult<()> {
    // The servers end with the run, and the keys with them.
    connection.set(key, "value").await
}

/// `deadpool_redis::cluster`.
#[derive(Clone)]
pub(crate) struct BareDeadpool(Pool);

impl Contender for BareDeadpool {
    const NAME: &'static str = "deadpool-redis-cluster";
    const TERMS: &'static str = "1 s to wait for a connection, to create one, to recycle one (its \
                                 default is none of these); none for a reply, which it does not let one set";

    async fn open(seeds: Vec<String>) -> Result<Self, Failure> {
        let pool = Config::from_urls(seeds)
            .builder()?
            .max_size(POOL_SIZE)
            .wait_timeout(Some(ACQUIRE_TIMEOUT))
            .create_timeout(Some(ACQUIRE_TIMEOUT))
            .recycle_timeout(Some(ACQUIRE_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self(pool))
    }

    async fn set(&mut self, key: &str) -> Result<(), String> {
        let mut connection = self.0.get().await.map_err(|error| error.to_string())?;
        set(&mut connection, key).await.map_err(|error| error.to_string())
    }
}

/// redis-rs' `ClusterConnection`, as it comes: one that all tasks share.
#[derive(Clone)]
pub(crate) struct Cluster(ClusterConnection);

impl Contender for Cluster {
    const NAME: &'static str = "redis-cluster";
    const TERMS: &'static str = "its own: 1 s to connect, none for a reply, 16 retries";

    async fn open(seeds: Vec<String>) -> Result<Self, Failure> {
        Ok(Self(ClusterClient::new(seeds)?.get_async_connection().await?))
    }

    async fn set(&mut self, key: &str) -> Result<(), String> {
        set(&mut self.0, key).await.map_err(|error| error.to_string())
    }
}

/// The same with the time for a reply that redis-rs' other connections have.
#[derive(Clone)]
pub(crate) struct TimedCluster(Cluster);

impl Contender for TimedCluster {
    const NAME: &'static str = "redis-cluster-timeouts";
    const TERMS: &'static str = "1 s to connect, 0.5 s for a reply, with all retries";

    async fn open(seeds: Vec<String>) -> Result<Self, Failure> {
        let client = ClusterClient::builder(seeds)
            .connection_timeout(Duration::from_secs(1))
            .response_timeout(Duration::from_millis(500))
            .build()?;
        Ok(Self(Cluster(client.get_async_connection().await?)))
    }

    async fn set(&mut self, key: &str) -> Result<(), String> {
        self.0.set(key).await
    }
}

/// redis-guard, with a lease of the key's node for each request.
#[derive(Clone)]
pub(crate) struct Leases(GuardedPool);

impl Contender for Leases {
    const NAME: &'static str = "redis-guard";
    const TERMS: &'static str = "1 s to wait for a connection, 2 s to connect, 0.5 s for a reply";

    async fn open(seeds: Vec<String>) -> Result<Self, Failure> {
        Ok(Self(guarded(seeds)?))
    }

    async fn set(&mut self, key: &str) -> Result<(), String> {
        let lease = self.0.acquire_for("storm", key).await;
        set(&mut lease.map_err(|error| error.to_string())?, key)
            .await
            .map_err(|error| error.to_string())
    }
}

/// redis-guard, through a handle on its shared connections.
#[derive(Clone)]
pub(crate) struct Shared(SharedConnection);

impl Contender for Shared {
    const NAME: &'static str = "redis-guard-shared";
    const TERMS: &'static str = Leases::TERMS;

    async fn open(seeds: Vec<String>) -> Result<Self, Failure> {
        Ok(Self(guarded(seeds)?.shared("storm")))
    }

    async fn set(&mut self, key: &str) -> Result<(), String> {
        set(&mut self.0, key).await.map_err(|error| error.to_string())
    }
}

fn guarded(seeds: Vec<String>) -> Result<GuardedPool, Failure> {
    Ok(GuardedPool::cluster(seeds).max_connections(POOL_SIZE).build()?)
}
