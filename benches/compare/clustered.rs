//! Who is compared on a cluster. All of them hold their connections before they are measured.

use deadpool_redis::cluster::{ClusterClient, Config, Pool};
use futures_util::future::try_join_all;
use redis::cluster_async;
use redis_guard::{GuardedPool, SharedConnection};

use crate::Failure;
use crate::contenders::{Client, ENDPOINT, POOL_SIZE, Work};

/// redis-guard's shared connections.
#[derive(Clone)]
pub(crate) struct GuardCluster(SharedConnection);

impl Client for GuardCluster {
    const NAME: &'static str = "guard-shared";

    async fn open(seed: &str) -> Result<Self, Failure> {
        Ok(Self(GuardedPool::cluster([seed]).build()?.shared(ENDPOINT)))
    }

    async fn operation(&mut self, work: &Work) -> Result<(), Failure> {
        work.on(&mut self.0).await
    }
}

/// redis-rs' own.
#[derive(Clone)]
pub(crate) struct ClusterConnection(cluster_async::ClusterConnection);

impl Client for ClusterConnection {
    const NAME: &'static str = "redis-cluster";

    async fn open(seed: &str) -> Result<Self, Failure> {
        Ok(Self(ClusterClient::new([seed])?.get_async_connection().await?))
    }

    async fn operation(&mut self, work: &Work) -> Result<(), Failure> {
        work.on(&mut self.0).await
    }
}

#[derive(Clone)]
pub(crate) struct DeadpoolCluster(Pool);

impl Client for DeadpoolCluster {
    const NAME: &'static str = "deadpool-cluster";

    async fn open(seed: &str) -> Result<Self, Failure> {
        let pool = Config::from_urls([seed.to_owned()])
            .builder()?
            .max_size(POOL_SIZE)
            .runtime(deadpool_redis::Runtime::Tokio1)
            .build()?;
        try_join_all((0..POOL_SIZE).map(|_| pool.get())).await?;
        Ok(Self(pool))
    }

    async fn operation(&mut self, work: &Work) -> Result<(), Failure> {
        let mut connection = self.0.get().await?;
        work.on(&mut connection).await
    }
}
