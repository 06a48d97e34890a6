//! A shop whose Redis is behind redis-rs's `ConnectionManager`.

use std::error::Error;
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, RedisError, Script};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const SESSION_TTL: u64 = 3600;

/// At most three requests a user in a minute.
const LIMITER: &str = "local n = redis.call('INCR', KEYS[1])
    if n == 1 then redis.call('EXPIRE', KEYS[1], 60) end
    return n <= tonumber(ARGV[1])";

#[derive(Clone)]
pub(crate) struct Shop {
    redis: ConnectionManager,
    client: Client,
}

impl Shop {
    pub(crate) async fn open(url: &str) -> Result<Self, Box<dyn Error>> {
        let client = Client::open(url)?;
        let config =
            ConnectionManagerConfig::new().set_response_timeout(Some(Duration::from_secs(2)));
        let redis = ConnectionManager::new_with_config(client.clone(), config).await?;
        Ok(Self { redis, client })
    }

    /// For what nobody else may send on.
    async fn own_connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    pub(crate) async fn log_in(&self, session: &str, user: &str) -> Result<(), RedisError> {
        let mut redis = self.redis.clone();
        redis.set_ex(format!("session:{session}"), user, SESSION_TTL).await
    }

    pub(crate) async fn user(&self, session: &str) -> Result<Option<String>, RedisError> {
        let mut redis = self.redis.clone();
        redis.get(format!("session:{session}")).await
    }

    pub(crate) async fn admits(&self, user: &str) -> Result<bool, RedisError> {
        let mut redis = self.redis.clone();
        let limiter = Script::new(LIMITER);
        limiter.key(format!("limit:{user}")).arg(3).invoke_async(&mut redis).await
    }

    pub(crate) async fn order(&self, order: &str) -> Result<(), RedisError> {
        let mut redis = self.redis.clone();
        redis.rpush("orders", order).await
    }

    /// Packs so many orders, as they come.
    pub(crate) async fn pack(&self, orders: usize) -> Result<Vec<String>, RedisError> {
        let mut conn = self.own_connection().await?;
        let mut packed = Vec::new();
        while packed.len() < orders {
            let order: Option<(String, String)> = conn.blpop("orders", 30.0).await?;
            packed.extend(order.map(|(_, order)| order));
        }
        Ok(packed)
    }

    /// Takes one from the stock, if there is one.
    pub(crate) async fn take(&self, item: &str) -> Result<bool, RedisError> {
        let mut conn = self.own_connection().await?;
        let key = format!("stock:{item}");
        loop {
            redis::cmd("WATCH").arg(&key).exec_async(&mut conn).await?;
            let stock: Option<u64> = conn.get(&key).await?;
            if stock.unwrap_or(0) == 0 {
                return Ok(false);
            }
            let mut transaction = redis::pipe();
            transaction.atomic().decr(&key, 1).ignore().publish("sold", item).ignore();
            if transaction.query_async::<Option<()>>(&mut conn).await?.is_some() {
                return Ok(true);
            }
        }
    }

    /// What is sold from now on.
    pub(crate) async fn sales(&self) -> Result<UnboundedReceiver<String>, RedisError> {
        let (sender, sales) = unbounded_channel();
        let mut pubsub = self.client.get_async_pubsub().await?;
        pubsub.subscribe("sold").await?;
        tokio::spawn(async move {
            while let Some(message) = pubsub.on_message().next().await {
                if sender.send(message.get_payload().unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
        Ok(sales)
    }
}
