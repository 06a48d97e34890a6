//! A client that reaches Redis through tower stacks, on a server that has room and on one that has not.
//!
//! ```sh
//! cargo run --example tower_client                                  # starts its own redis-server
//! cargo run --example tower_client -- --redis redis://127.0.0.1:6379
//! ```
//!
//! - `search` goes over a [`GuardedPool`], which is a service: a timeout over all attempts, retries
//!   under it, and the pool.
//! - `session` goes over a redis-rs `ConnectionManager`, which is not ours: the same, with a
//!   [`GuardLayer`] whose [`Guard`] bounds the calls in flight and hears what becomes of them.
//!
//! Both retry under one [`RetryBudget`], for it is one server that the retries fall on.
//!
//! Two instances run. The first has connections when the server's last slots are taken, and goes on
//! with them. The second has none: soon its guards answer for the server, at once, and say when to ask
//! again. A server named with `--redis` is not filled: the breakers are forced open instead.

use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, Value};
use redis_guard::tower::{GuardLayer, RetryPolicy};
use redis_guard::{BreakerHandle, Budget, Guard, GuardedPool, RetryBudget};
use tokio::time::{Instant, timeout};
use tower::util::BoxCloneService;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

/// Starts a redis-server for us; the integration tests use the same.
#[path = "../tests/support/server.rs"]
mod server;

use server::TestServer;

/// One call, its retries included: what a user waits for without noticing.
const CALL: Duration = Duration::from_secs(1);

type Commands = BoxCloneService<Cmd, Value, BoxError>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = match words.as_slice() {
        [] => None,
        [flag, url] if flag == "--redis" => Some(url.clone()),
        _ => return Err("usage: tower_client [--redis URL]".into()),
    };
    timeout(Duration::from_secs(30), run(named)).await?
}

async fn run(named: Option<String>) -> Result<(), BoxError> {
    let own = match named {
        Some(_) => None,
        None => Some(TestServer::builder().maxclients(16).start()?),
    };
    let url = named.or(own.as_ref().map(TestServer::url)).unwrap_or_default();
    let (first, second) = (Instance::start(&url)?, Instance::start(&url)?);
    println!("the server has room");
    first.call_both().await;

    let occupants = own.as_ref().map(TestServer::fill);
    if let Some(occupants) = &occupants {
        println!("\nthe server is full: {} more connections", occupants.len());
    } else {
        println!("\nthe second instance's breakers are forced open");
        second.breakers().for_each(|breaker| breaker.force_open());
    }
    println!("the first instance");
    first.call_both().await;
    println!("the second instance");
    for _ in 0..3 {
        second.call_both().await;
    }

    drop(occupants);
    println!("\nall is well again");
    second.breakers().for_each(|breaker| breaker.auto());
    while let Some(wait) = second.call_both().await {
        tokio::time::sleep(wait).await;
    }
    Ok(())
}

/// What one process of a service would have.
struct Instance {
    pool: GuardedPool,
    search: Commands,
    guard: Guard,
    session: Commands,
}

impl Instance {
    fn start(url: &str) -> Result<Self, BoxError> {
        let budget = RetryBudget::default();
        let retries = |name: &str| {
            // A refusal that asks for more is passed on at once: the caller may have a better idea.
            RetryPolicy::default().name(name).budget(budget.clone()).longest_wait(CALL / 4)
        };
        let pool = GuardedPool::builder(url).max_connections(4).build()?;
        let search = ServiceBuilder::new()
            .timeout(CALL)
            .retry(retries("default"))
            .service(pool.service("search"));

        let client = Client::open(url)?;
        let guard = Guard::builder()
            .name("sessions")
            .server(client.get_connection_info().addr().to_string())
            .max_in_flight(16)
            .endpoint("session", Budget::max(16).reserve(4))
            .build()?;
        // The guard's back-off is enough. The manager still dials once after a call that failed, and the
        // next call hears what came of it: after an outage it is one try late.
        let config = ConnectionManagerConfig::new().set_number_of_retries(0);
        let manager = ConnectionManager::new_lazy_with_config(client, config)?;
        let session = ServiceBuilder::new()
            .timeout(CALL)
            .retry(retries("sessions"))
            .layer(GuardLayer::new(&guard, "session"))
            .service(service_fn(move |cmd: Cmd| {
                let mut manager = manager.clone();
                async move { manager.req_packed_command(&cmd).await }
            }));
        Ok(Self { pool, search: search.boxed_clone(), guard, session: session.boxed_clone() })
    }

    fn breakers(&self) -> impl Iterator<Item = BreakerHandle> {
        [self.pool.breaker(), self.guard.breaker()].into_iter()
    }

    /// One call each. If one fails, how long to wait before the next try.
    async fn call_both(&self) -> Option<Duration> {
        let search = call("search", &self.search, Cmd::get("tower_client:hits")).await;
        let session = call("session", &self.session, Cmd::get("tower_client:user")).await;
        search.err().max(session.err())
    }
}

async fn call(name: &str, service: &Commands, cmd: Cmd) -> Result<(), Duration> {
    let started = Instant::now();
    let answer = service.clone().oneshot(cmd).await;
    let took = started.elapsed();
    let Err(error) = answer else {
        println!("  {name:<8} {took:>7.0?}  answered");
        return Ok(());
    };
    println!("  {name:<8} {took:>7.0?}  {error}");
    let refusal = error.downcast_ref::<redis_guard::Error>();
    Err(refusal.and_then(redis_guard::Error::retry_after).unwrap_or(CALL / 10))
}
