//! What the pools of one process share at one server, and what they do not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../watch/fake.rs"]
mod fake;
#[path = "../pool/proxy.rs"]
mod proxy;
#[path = "../watch/spy.rs"]
mod spy;
#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod at_once;
mod events;
mod full;
mod gone;
mod own;
mod question;
mod replies;
mod servers;
mod slow_proxy;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis_guard::{Backoff, Error, GuardedPool, GuardedPoolBuilder};
use support::TestServer;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::waiting::poll_once;

/// What a full server says.
const WORDS: &str = "ERR max number of clients reached";

/// A back-off that no test sits out: what happens meanwhile is not its doing.
const NEVER: Duration = Duration::from_secs(3600);

fn never() -> Backoff {
    Backoff::without_jitter(NEVER, NEVER)
}

fn full_server() -> TestServer {
    TestServer::builder().maxclients(100).start().unwrap()
}

/// A pool whose callers have patience.
fn builder(server: &TestServer) -> GuardedPoolBuilder {
    GuardedPool::builder(server.url()).acquire_timeout(NEVER)
}

fn rejected(server: &TestServer) -> u64 {
    server.admin().info_u64("rejected_connections")
}

/// The breaker's changes so far, by the states before and after.
fn transitions(pool: &GuardedPool) -> Vec<((&'static str, &'static str), u64)> {
    pool.status().breaker.transitions.into_iter().collect()
}

/// A caller who waits for a connection, until it is dropped.
fn waiter(pool: &GuardedPool) -> impl Future<Output = ()> + use<> {
    let mut waiting = Box::pin(pool.acquire("waiter"));
    assert!(poll_once(&mut waiting).is_pending(), "nobody can be served at once");
    async { drop(waiting.await.unwrap()) }
}

/// Callers who want a connection all the time, and what they heard instead.
struct Callers {
    heard: Arc<Mutex<Vec<Error>>>,
    tasks: JoinSet<()>,
}

impl Callers {
    /// So many, each of whom keeps a connection for so long.
    fn of(pool: &GuardedPool, callers: usize, hold: Duration) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (pool, heard) = (pool.clone(), Arc::clone(&heard));
            tasks.spawn(async move {
                loop {
                    match pool.acquire("work").await {
                        Ok(_lease) => sleep(hold).await,
                        Err(error) => {
                            heard.lock().unwrap().push(error);
                            sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            });
        }
        Self { heard, tasks }
    }

    /// Ends them.
    async fn heard(mut self) -> Vec<Error> {
        self.tasks.shutdown().await;
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

/// A runtime that goes on only while it is made to.
fn own_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
