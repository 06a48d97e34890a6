//! Who is compared. All of them hold their connections before they are measured.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use futures_util::future::try_join_all;
use redis::AsyncCommands;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis_guard::{Backoff, Error, GuardedPool, Rejection, SharedConnection};

use crate::Failure;

/// Connections of each pool, where its name does not say another number.
pub(crate) const POOL_SIZE: usize = 16;
pub(crate) const ENDPOINT: &str = "compare";

/// Something with a call that is too short to be timed alone.
pub(crate) trait Pool: 'static {
    const NAME: &'static str;

    fn call(&self) -> impl Future<Output = ()>;
}

/// A Redis client. Every task has a clone of its own; clones share the same connections.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    /// Connects.
    fn open(url: &str) -> impl Future<Output = Result<Self, Failure>>;

    /// A connection acquired, where the client lends them, and the work done on it.
    fn operation(&mut self, work: &Work) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What is done on a connection.
#[derive(Clone)]
pub(crate) struct Work {
    verb: Verb,
    pub(crate) key: Arc<str>,
    pub(crate) value: Arc<[u8]>,
}

#[derive(Clone, Copy)]
pub(crate) enum Verb {
    Get,
    Set,
}

impl Work {
    /// With a value of so many bytes, at a key of its own.
    pub(crate) fn new(verb: Verb, bytes: usize) -> Self {
        Self::at(verb, &format!("compare:{bytes}"), bytes)
    }

    pub(crate) fn at(verb: Verb, key: &str, bytes: usize) -> Self {
        Self { verb, key: key.into(), value: vec![b'v'; bytes].into() }
    }

    pub(crate) async fn on(
        &self,
        connection: &mut (impl ConnectionLike + Send + Sync),
    ) -> Result<(), Failure> {
        match self.verb {
            Verb::Get => {
                let value: Vec<u8> = connection.get(&*self.key).await?;
                assert_eq!(value.len(), self.value.len());
            }
            Verb::Set => connection.set(&*self.key, &*self.value).await?,
        }
        Ok(())
    }
}

/// redis-guard's shared connection.
#[derive(Clone)]
pub(crate) struct GuardShared(SharedConnection);

impl Client for GuardShared {
    const NAME: &'static str = "guard-shared";

    async fn open(url: &str) -> Result<Self, Failure> {
        let mut connection = GuardedPool::builder(url).build()?.shared(ENDPOINT);
        let () = connection.ping().await?;
        Ok(Self(connection))
    }

    async fn operation(&mut self, work: &Work) -> Result<(), Failure> {
        work.on(&mut self.0).await
    }
}

/// redis-rs' multiplexed connection, by itself.
#[derive(Clone)]
pub(crate) struct Multiplexed(MultiplexedConnection);

impl Client for Multiplexed {
    const NAME: &'static str = "redis-multiplexed";

    async fn open(url: &str) -> Result<Self, Failure> {
        Ok(Self(redis::Client::open(url)?.get_multiplexed_async_connection().await?))
    }

    async fn operation(&mut self, work: &Work) -> Result<(), Failure> {
        work.on(&mut self.0).await
    }
}

/// redis-guard's leases, whose users' code is the same whether they share or not.
#[derive(Clone)]
pub(crate) struct GuardLeases<const MULTIPLEX: bool>(GuardedPool);

/// Each with a connection of its own.
pub(crate) type GuardExclusive = GuardLeases<false>;
/// On the pool's shared connection until one needs its own.
pub(crate) type GuardMultiplex = GuardLeases<true>;

impl<const MULTIPLEX: bool> Client for GuardLeases<MULTIPLEX> {
    const NAME: &'static str = if MULTIPLEX { "guard-multiplex" } else { "guard-exclusive" };

    async fn open(url: &str) -> Result<Self, Failure> {
        let builder = GuardedPool::builder(url).max_connections(POOL_SIZE).multiplex(MULTIPLEX);
        let pool = builder.build()?;
        if !MULTIPLEX {
            pool.warm_up(POOL_SIZE).await?;
        }
        drop(pool.acquire(ENDPOINT).await?);
        Ok(Self(pool))
    }

    async fn operation(&mut self, work: &Work) -> Result<(), Failure> {
        let mut connection = self.0.acquire(ENDPOINT).await?;
        work.on(&mut connection).await
    }
}

impl<const MULTIPLEX: bool> Pool for GuardLeases<MULTIPLEX> {
    const NAME: &'static str = <Self as Client>::NAME;

    async fn call(&self) {
        drop(self.0.acquire(ENDPOINT).await.expect("a connection"));
    }
}

/// A guard with nothing live and its breaker open, because the server is full.
pub(crate) struct RefusingGuard {
    pool: GuardedPool,
}

impl RefusingGuard {
    pub(crate) async fn open(url_of_full_server: &str) -> Result<Self, Failure> {
        // So long a back-off that no probe comes in between: refusals only.
        let minute = Duration::from_secs(60);
        let pool = GuardedPool::builder(url_of_full_server)
            .backoff(Backoff::equal_jitter(minute, minute))
            .build()?;
        match pool.acquire(ENDPOINT).await {
            Ok(_) => Err("the full server had a slot left".into()),
            Err(_) => Ok(Self { pool }),
        }
    }
}

impl Pool for RefusingGuard {
    const NAME: &'static str = <GuardExclusive as Client>::NAME;

    async fn call(&self) {
        let refused = self.pool.acquire(ENDPOINT).await;
        assert!(
            matches!(refused, Err(Error::Rejected(Rejection::BreakerOpen { .. }))),
            "the breaker should be open"
        );
    }
}

/// deadpool by itself: neither its `create` nor its `recycle` ever awaits.
pub(crate) struct Deadpool(managed::Pool<Ready>);

impl Deadpool {
    pub(crate) async fn open(url: &str) -> Result<Self, Failure> {
        let client = redis::Client::open(url)?;
        let connections =
            try_join_all((0..POOL_SIZE).map(|_| client.get_multiplexed_async_connection())).await?;
        let ready = connections
            .into_iter()
            .map(|connection| {
                let alive = Arc::new(AtomicBool::new(true));
                Box::new(Held { _connection: connection, alive })
            })
            .collect();
        let pool = managed::Pool::builder(Ready(Mutex::new(ready))).max_size(POOL_SIZE).build()?;
        try_join_all((0..POOL_SIZE).map(|_| pool.get())).await?;
        Ok(Self(pool))
    }
}

impl Pool for Deadpool {
    const NAME: &'static str = "deadpool";

    async fn call(&self) {
        drop(self.0.get().await.expect("a connection"));
    }
}

/// Connections made beforehand, boxed as the guard's are: deadpool moves its objects around.
pub(crate) struct Ready(Mutex<Vec<Connection>>);

type Connection = Box<Held>;

pub(crate) struct Held {
    _connection: MultiplexedConnection,
    alive: Arc<AtomicBool>,
}

impl managed::Manager for Ready {
    type Type = Connection;
    type Error = io::Error;

    async fn create(&self) -> Result<Connection, Self::Error> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .ok_or_else(|| io::Error::other("all connections are out"))
    }

    async fn recycle(&self, held: &mut Connection, _: &Metrics) -> RecycleResult<Self::Error> {
        if held.alive.load(Ordering::Acquire) { Ok(()) } else { Err(RecycleError::message("dead")) }
    }
}

#[derive(Clone)]
pub(crate) struct DeadpoolRedis<const SIZE: usize>(deadpool_redis::Pool);

impl<const SIZE: usize> Client for DeadpoolRedis<SIZE> {
    const NAME: &'static str =
        if SIZE == POOL_SIZE { "deadpool-redis" } else { "deadpool-redis-50" };

    async fn open(url: &str) -> Result<Self, Failure> {
        let pool = deadpool_redis::Config::from_url(url)
            .builder()?
            .max_size(SIZE)
            .runtime(deadpool_redis::Runtime::Tokio1)
            .build()?;
        try_join_all((0..SIZE).map(|_| pool.get())).await?;
        Ok(Self(pool))
    }

    async fn operation(&mut self, work: &Work) -> Result<(), Failure> {
        let mut connection = self.0.get().await?;
        work.on(&mut connection).await
    }
}

#[derive(Clone)]
pub(crate) struct Bb8Redis(bb8::Pool<bb8_redis::RedisConnectionManager>);

impl Client for Bb8Redis {
    const NAME: &'static str = "bb8-redis";

    async fn open(url: &str) -> Result<Self, Failure> {
        let manager = bb8_redis::RedisConnectionManager::new(url)?;
        let pool = bb8::Pool::builder().max_size(u32::try_from(POOL_SIZE)?).build(manager).await?;
        try_join_all((0..POOL_SIZE).map(|_| pool.get())).await?;
        Ok(Self(pool))
    }

    async fn operation(&mut self, work: &Work) -> Result<(), Failure> {
        let mut connection = self.0.get().await?;
        work.on(&mut *connection).await
    }
}
