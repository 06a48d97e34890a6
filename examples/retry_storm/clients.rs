//! The clients that are compared, each as a service would use it.

use std::fmt::Display;
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Cmd, RedisResult, SetExpiry, SetOptions};
use redis_guard::{Error, GuardedPool, Rejection, SharedConnection};
use tokio::time::Instant;

use crate::Failure;

/// How long a caller waits for a connection, where the client lets one say so.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// A client under test: one pool, or what it has instead. Every task has a clone of its own; clones
/// share the same connections.
pub(crate) trait Contender: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    /// Sets the client up without dialing: the server may be full. It may hold `size` connections, if
    /// it is one that holds several; `nth` of the process's pools, counted from 1.
    fn open(url: &str, nth: usize, size: usize) -> Result<Self, Failure>;

    /// Comes to hold `n` connections, if it is one that holds several.
    fn warm_up(&mut self, n: usize) -> impl Future<Output = Result<(), Failure>> + Send;

    /// One request: acquire a connection where the client lends them, `SET`, `GET`.
    fn request(&mut self, key: &str) -> impl Future<Output = Result<(), Failed>> + Send;

    /// The time to the next dial, from a client that can say.
    fn next_dial_in(&self) -> Option<Duration> {
        None
    }
}

/// A request that failed.
pub(crate) struct Failed {
    pub(crate) message: String,
    /// Set when an open breaker refused the request: how long it took to say so.
    pub(crate) refused_within: Option<Duration>,
}

impl<E: Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), refused_within: None }
    }
}

/// What every request does with its connection.
async fn set_and_get(
    connection: &mut (impl ConnectionLike + Send + Sync),
    key: &str,
) -> RedisResult<()> {
    let () = connection.set_options(key, "value", expiring()).await?;
    let _: String = connection.get(key).await?;
    Ok(())
}

/// The keys are deleted at the end of the run. Should it be interrupted, they expire.
fn expiring() -> SetOptions {
    SetOptions::default().with_expiration(SetExpiry::EX(300))
}

/// `deadpool_redis`, bare.
#[derive(Clone)]
pub(crate) struct BareDeadpool(deadpool_redis::Pool);

impl Contender for BareDeadpool {
    const NAME: &'static str = "deadpool-redis";

    fn open(url: &str, _: usize, size: usize) -> Result<Self, Failure> {
        let pool = deadpool_redis::Config::from_url(url)
            .builder()?
            .max_size(size)
            .wait_timeout(Some(ACQUIRE_TIMEOUT))
            .runtime(deadpool_redis::Runtime::Tokio1)
            .build()?;
        Ok(Self(pool))
    }

    async fn warm_up(&mut self, n: usize) -> Result<(), Failure> {
        try_join_all((0..n).map(|_| self.0.get())).await?;
        Ok(())
    }

    async fn request(&mut self, key: &str) -> Result<(), Failed> {
        let mut connection = self.0.get().await?;
        Ok(set_and_get(&mut connection, key).await?)
    }
}

/// `bb8_redis`.
#[derive(Clone)]
pub(crate) struct Bb8(bb8::Pool<bb8_redis::RedisConnectionManager>);

impl Contender for Bb8 {
    const NAME: &'static str = "bb8-redis";

    fn open(url: &str, _: usize, size: usize) -> Result<Self, Failure> {
        let manager = bb8_redis::RedisConnectionManager::new(url)?;
        let pool = bb8::Pool::builder()
            .max_size(u32::try_from(size)?)
            .connection_timeout(ACQUIRE_TIMEOUT)
            .build_unchecked(manager);
        Ok(Self(pool))
    }

    async fn warm_up(&mut self, n: usize) -> Result<(), Failure> {
        try_join_all((0..n).map(|_| self.0.get())).await?;
        Ok(())
    }

    async fn request(&mut self, key: &str) -> Result<(), Failed> {
        let mut connection = self.0.get().await?;
        Ok(set_and_get(&mut *connection, key).await?)
    }
}

/// redis-rs' `ConnectionManager`: one connection that all tasks share, made anew when it dies.
#[derive(Clone)]
pub(crate) struct Manager(ConnectionManager);

impl Contender for Manager {
    const NAME: &'static str = "connection-manager";

    fn open(url: &str, _: usize, _: usize) -> Result<Self, Failure> {
        let client = redis::Client::open(url)?;
        Ok(Self(ConnectionManager::new_lazy_with_config(client, ConnectionManagerConfig::new())?))
    }

    async fn warm_up(&mut self, _: usize) -> Result<(), Failure> {
        let () = self.0.ping().await?;
        Ok(())
    }

    async fn request(&mut self, key: &str) -> Result<(), Failed> {
        Ok(set_and_get(&mut self.0, key).await?)
    }
}

/// redis-guard, with leases: each of a connection, or such that share one until they need their own.
#[derive(Clone)]
pub(crate) struct Guard<const MULTIPLEX: bool>(GuardedPool);

impl<const MULTIPLEX: bool> Contender for Guard<MULTIPLEX> {
    const NAME: &'static str = if MULTIPLEX { "redis-guard-multiplex" } else { "redis-guard" };

    fn open(url: &str, nth: usize, size: usize) -> Result<Self, Failure> {
        let pool = GuardedPool::builder(url)
            .name(format!("guard-{nth}"))
            .max_connections(size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .multiplex(MULTIPLEX)
            .build()?;
        Ok(Self(pool))
    }

    async fn warm_up(&mut self, n: usize) -> Result<(), Failure> {
        match MULTIPLEX {
            true => drop(self.0.get().await?),
            false => drop(self.0.warm_up(n).await?),
        }
        Ok(())
    }

    async fn request(&mut self, key: &str) -> Result<(), Failed> {
        let asked = Instant::now();
        let mut connection = self.0.get().await.map_err(|error| refusal(&error, asked))?;
        Ok(set_and_get(&mut connection, key).await?)
    }

    fn next_dial_in(&self) -> Option<Duration> {
        Some(self.0.status().breaker.next_dial_in)
    }
}

/// redis-guard, with the connection that everybody shares.
#[derive(Clone)]
pub(crate) struct GuardShared {
    pool: GuardedPool,
    connection: SharedConnection,
}

impl Contender for GuardShared {
    const NAME: &'static str = "redis-guard-shared";

    fn open(url: &str, nth: usize, size: usize) -> Result<Self, Failure> {
        let Guard::<false>(pool) = Guard::open(url, nth, size)?;
        Ok(Self { connection: pool.shared("storm"), pool })
    }

    async fn warm_up(&mut self, _: usize) -> Result<(), Failure> {
        let () = self.connection.ping().await?;
        Ok(())
    }

    async fn request(&mut self, key: &str) -> Result<(), Failed> {
        // As `set_and_get`, but with the guard's own errors, which tell a refusal from a failure.
        let asked = Instant::now();
        let set = Cmd::set_options(key, "value", expiring());
        self.connection.send(&set).await.map_err(|error| refusal(&error, asked))?;
        self.connection.send(&Cmd::get(key)).await.map_err(|error| refusal(&error, asked))?;
        Ok(())
    }

    fn next_dial_in(&self) -> Option<Duration> {
        Some(self.pool.status().breaker.next_dial_in)
    }
}

/// What the guard said to a request that was asked then.
fn refusal(error: &Error, asked: Instant) -> Failed {
    let heard = asked.elapsed();
    let refused = matches!(error, Error::Rejected(Rejection::BreakerOpen { .. }));
    Failed { refused_within: refused.then_some(heard), ..Failed::from(error) }
}
