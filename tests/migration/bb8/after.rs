//! A shop whose Redis is behind a pool of bb8.

use std::fmt;
use std::time::Duration;

use bb8::{PooledConnection, RunError};
use redis_guard::PubSubEvent;
use redis_guard::compat::bb8::{self, RedisConnectionManager};
use redis_guard::redis::{self, AsyncCommands, RedisError, Script};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const SESSION_TTL: u64 = 3600;

/// At most three requests a user in a minute.
const LIMITER: &str = "local n = redis.call('INCR', KEYS[1])
    if n == 1 then redis.call('EXPIRE', KEYS[1], 60) end
    return n <= tonumber(ARGV[1])";

type Pool = bb8::Pool<RedisConnectionManager>;
type Connection<'a> = PooledConnection<'a, RedisConnectionManager>;

#[derive(Debug)]
pub(crate) enum Error {
    Pool(RunError<RedisError>),
    Redis(RedisError),
}

impl Error {
    pub(crate) fn status_code(&self) -> u16 {
        match self {
            Self::Pool(RunError::TimedOut) => 503,
            Self::Pool(RunError::User(_)) => 502,
            Self::Redis(_) => 500,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(error) => error.fmt(f),
            Self::Redis(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<RunError<RedisError>> for Error {
    fn from(error: RunError<RedisError>) -> Self {
        Self::Pool(error)
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

#[derive(Clone)]
pub(crate) struct Shop {
    pool: Pool,
}

impl Shop {
    pub(crate) async fn open(url: &str, connections: usize) -> Result<Self, Error> {
        let manager = RedisConnectionManager::new(url)?;
        let pool = bb8::Pool::builder()
            .max_size(connections as u32)
            .connection_timeout(Duration::from_secs(2))
            .build(manager)
            .await?;
        Ok(Self { pool })
    }

    async fn connection(&self) -> Result<Connection<'_>, RunError<RedisError>> {
        self.pool.get().await
    }

    pub(crate) async fn log_in(&self, session: &str, user: &str) -> Result<(), Error> {
        let mut conn = self.connection().await?;
        Ok(conn.set_ex(format!("session:{session}"), user, SESSION_TTL).await?)
    }

    pub(crate) async fn user(&self, session: &str) -> Result<Option<String>, Error> {
        let mut conn = self.connection().await?;
        Ok(conn.get(format!("session:{session}")).await?)
    }

    pub(crate) async fn admits(&self, user: &str) -> Result<bool, Error> {
        let mut conn = self.connection().await?;
        let limiter = Script::new(LIMITER);
        Ok(limiter.key(format!("limit:{user}")).arg(3).invoke_async(&mut *conn).await?)
    }

    pub(crate) async fn order(&self, order: &str) -> Result<(), Error> {
        let mut conn = self.connection().await?;
        Ok(conn.rpush("orders", order).await?)
    }

    /// Packs so many orders, as they come.
    pub(crate) async fn pack(&self, orders: usize) -> Result<Vec<String>, Error> {
        let mut conn = self.pool.get_owned().await?;
        let packing = tokio::spawn(async move {
            let mut packed = Vec::new();
            while packed.len() < orders {
                let order: Option<(String, String)> = conn.blpop("orders", 30.0).await?;
                packed.extend(order.map(|(_, order)| order));
            }
            Ok(packed)
        });
        packing.await.expect("it does not panic")
    }

    /// Takes one from the stock, if there is one.
    pub(crate) async fn take(&self, item: &str) -> Result<bool, Error> {
        let mut conn = self.connection().await?;
        let key = format!("stock:{item}");
        loop {
            redis::cmd("WATCH").arg(&key).exec_async(&mut *conn).await?;
            let stock: Option<u64> = conn.get(&key).await?;
            if stock.unwrap_or(0) == 0 {
                redis::cmd("UNWATCH").exec_async(&mut *conn).await?;
                return Ok(false);
            }
            let mut transaction = redis::pipe();
            transaction.atomic().decr(&key, 1).ignore().publish("sold", item).ignore();
            if transaction.query_async::<Option<()>>(&mut *conn).await?.is_some() {
                return Ok(true);
            }
        }
    }

    /// What is sold from now on.
    pub(crate) async fn sales(&self) -> Result<UnboundedReceiver<String>, Error> {
        let (sender, sales) = unbounded_channel();
        let mut pubsub = self.pool.guarded().pubsub("sales").await.map_err(RunError::from)?;
        pubsub.subscribe("sold").await.map_err(RunError::from)?;
        tokio::spawn(async move {
            while let Some(Ok(event)) = pubsub.next().await {
                let PubSubEvent::Message(message) = event else { continue };
                if sender.send(message.get_payload().unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
        Ok(sales)
    }

    /// For the metrics: connections, and how many of them are in use.
    pub(crate) fn connections(&self) -> (usize, usize) {
        let state = self.pool.state();
        (state.connections as usize, (state.connections - state.idle_connections) as usize)
    }
}
