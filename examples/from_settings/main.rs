//! A pool whose settings stand in a file, and in the environment where they differ or are secret.
//!
//! ```sh
//! cargo run --example from_settings --features settings
//! SHOP__REDIS__MAX_CONNECTIONS=64 SHOP__REDIS__PASSWORD=secret cargo run --example from_settings --features settings
//! ```
//!
//! Without `SHOP__REDIS__URL` it starts a redis-server of its own, in whose place the file's would be. The crate
//! `config` layers file and environment; `PoolSettings` takes what any serde format gives.

use std::error::Error;

use config::{Config, Environment, File, FileFormat};
use redis_guard::{AsyncCommands, GuardedPool, PoolSettings};
use serde::Deserialize;

/// Starts a redis-server for us; the integration tests use the same.
#[path = "../../tests/support/server.rs"]
mod server;

const FILE: &str = include_str!("settings.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: String,
    redis: PoolSettings,
}

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let own = match std::env::var_os("SHOP__REDIS__URL") {
        Some(_) => None,
        None => Some(server::TestServer::start()?),
    };
    let settings: Settings = Config::builder()
        .add_source(File::from_str(FILE, FileFormat::Toml))
        .add_source(Environment::with_prefix("SHOP").separator("__"))
        .set_override_option("redis.url", own.as_ref().map(|server| server.url()))?
        .build()?
        .try_deserialize()?;
    println!("{settings:?}");

    let pool = GuardedPool::from_config(settings.redis).build()?;
    let mut checkout = pool.acquire("checkout").await?;
    checkout.set::<_, _, ()>("from_settings:cart", "two apples").await?;
    let cart: String = checkout.get("from_settings:cart").await?;
    let status = pool.status();
    println!("{cart}, over a pool of at most {} for {}", status.max_connections, settings.listen);
    Ok(())
}
