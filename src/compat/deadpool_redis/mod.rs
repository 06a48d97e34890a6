//! What a service names that uses deadpool-redis 0.23, over a [`GuardedPool`]: the same names, constructors and
//! errors.
//!
//! ```
//! use std::time::Duration;
//!
//! use redis_guard::compat::deadpool_redis::redis::AsyncCommands;
//! use redis_guard::compat::deadpool_redis::{
//!     Config, Connection, CreatePoolError, Pool, PoolConfig, PoolError, Runtime, TimeoutType, Timeouts,
//! };
//!
//! fn connect(url: &str) -> Result<Pool, CreatePoolError> {
//!     let mut config = Config::from_url(url);
//!     config.pool = Some(PoolConfig { timeouts: Timeouts::wait_millis(250), ..PoolConfig::new(16) });
//!     config.create_pool(Some(Runtime::Tokio1))
//! }
//!
//! async fn visits(pool: &Pool) -> Result<Option<u64>, PoolError> {
//!     let mut conn: Connection = pool.get().await?;
//!     Ok(conn.get("visits").await?)
//! }
//!
//! fn status_code(error: &PoolError) -> u16 {
//!     match error {
//!         PoolError::Timeout(TimeoutType::Wait) | PoolError::Closed => 503,
//!         _ => 500,
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = connect("redis://127.0.0.1:6379")?;
//! assert_eq!((pool.status().max_size, pool.status().size), (16, 0));
//! // What deadpool-redis has no name for.
//! let sessions = pool.guarded().shared("sessions");
//! # Ok(()) }
//! ```
//!
//! # What is different
//!
//! - **The settings**: what is taken from them, what has no effect, and the defaults that are others, stands at
//!   [`GuardedPool::from_config`]. A runtime need not be named; it is tokio's.
//! - **[`Connection`]** dereferences to a [`GuardedConnection`](crate::GuardedConnection), and not to a
//!   `MultiplexedConnection`, which could be cloned out of the pool. Code that names that type, or clones a
//!   connection, does not compile: what is to be cloned is a
//!   [`shared`](GuardedPool::shared) handle.
//! - **[`Connection::take`]** takes nothing out of the pool's budget, because a slot of the server's is taken as long
//!   as the socket is open.
//! - **[`Pool::close`]** is deadpool's, which does not wait; [`GuardedPool::close`] does.
//! - **[`Pool::retain`]** sees only when a connection was opened and used.
//! - **Errors** say what they say in deadpool; which refusal becomes which is listed at [`PoolError`].
//!
//! Not here are `Pool::resize` (the most connections are fixed, and the pool itself keeps to what the server has room
//! for), hooks (nothing of the caller's runs while a connection is dialed or lent), `Pool::manager`, `Pool::weak`,
//! `Object` and `Manager::new_with_config` (a response timeout is the pool's, see
//! [`response_timeout`](crate::GuardedPoolBuilder::response_timeout)).

mod builder;
mod config;
mod connection;
mod error;
mod pool;

pub mod cluster;
pub mod sentinel;

pub use ::deadpool_redis::{
    ConfigError, ConnectionAddr, ConnectionInfo, Metrics, PoolConfig, ProtocolVersion, QueueMode,
    RedisConnectionInfo, Runtime, Status, TimeoutType, Timeouts, redis,
};

pub use builder::{Manager, PoolBuilder};
pub use config::Config;
pub use connection::Connection;
pub use error::{BuildError, CreatePoolError, PoolError};
pub use pool::{IdleConnection, Pool, RetainResult};

#[expect(unused_imports, reason = "for the docs")]
use crate::GuardedPool;
