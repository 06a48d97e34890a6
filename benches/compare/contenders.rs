//! Who is compared. All of them hold [`CONNECTIONS`] connections before they are measured.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use futures_util::future::try_join_all;
use redis::AsyncCommands;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis_guard::{Backoff, Error, GuardedPool, Rejection};

use crate::Failure;

/// The key that is read.
pub(crate) const KEY: &str = "compare";
const CONNECTIONS: usize = 16;
const ENDPOINT: &str = "compare";

/// Something with a call that is too short to be timed alone.
pub(crate) trait Pool: 'static {
    const NAME: &'static str;

    fn call(&self) -> impl Future<Output = ()>;
}

/// A Redis client, as many tasks use it. Clones share the same connections.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    /// Connects.
    fn open(url: &str) -> impl Future<Output = Result<Self, Failure>>;

    /// A connection acquired, and a `GET` on it.
    fn operation(&self) -> impl Future<Output = ()> + Send;
}

async fn get(connection: &mut (impl ConnectionLike + Send + Sync)) {
    let value: String = connection.get(KEY).await.expect("GET on a healthy server");
    assert_eq!(value, "value");
}

#[derive(Clone)]
pub(crate) struct GuardExclusive(GuardedPool);

impl Client for GuardExclusive {
    const NAME: &'static str = "guard-exclusive";

    async fn open(url: &str) -> Result<Self, Failure> {
        let pool = GuardedPool::builder(url).max_connections(CONNECTIONS).build()?;
        pool.warm_up(CONNECTIONS).await?;
        Ok(Self(pool))
    }

    async fn operation(&self) {
        let mut connection = self.0.acquire(ENDPOINT).await.expect("a connection");
        get(&mut connection).await;
    }
}

impl Pool for GuardExclusive {
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
            try_join_all((0..CONNECTIONS).map(|_| client.get_multiplexed_async_connection()))
                .await?;
        let ready = connections
            .into_iter()
            .map(|connection| {
                let alive = Arc::new(AtomicBool::new(true));
                Box::new(Held { _connection: connection, alive })
            })
            .collect();
        let pool =
            managed::Pool::builder(Ready(Mutex::new(ready))).max_size(CONNECTIONS).build()?;
        try_join_all((0..CONNECTIONS).map(|_| pool.get())).await?;
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
pub(crate) struct DeadpoolRedis(deadpool_redis::Pool);

impl Client for DeadpoolRedis {
    const NAME: &'static str = "deadpool-redis";

    async fn open(url: &str) -> Result<Self, Failure> {
        let pool = deadpool_redis::Config::from_url(url)
            .builder()?
            .max_size(CONNECTIONS)
            .runtime(deadpool_redis::Runtime::Tokio1)
            .build()?;
        try_join_all((0..CONNECTIONS).map(|_| pool.get())).await?;
        Ok(Self(pool))
    }

    async fn operation(&self) {
        let mut connection = self.0.get().await.expect("a connection");
        get(&mut connection).await;
    }
}

#[derive(Clone)]
pub(crate) struct Bb8Redis(bb8::Pool<bb8_redis::RedisConnectionManager>);

impl Client for Bb8Redis {
    const NAME: &'static str = "bb8-redis";

    async fn open(url: &str) -> Result<Self, Failure> {
        let manager = bb8_redis::RedisConnectionManager::new(url)?;
        let pool =
            bb8::Pool::builder().max_size(u32::try_from(CONNECTIONS)?).build(manager).await?;
        try_join_all((0..CONNECTIONS).map(|_| pool.get())).await?;
        Ok(Self(pool))
    }

    async fn operation(&self) {
        let mut connection = self.0.get().await.expect("a connection");
        get(&mut *connection).await;
    }
}
