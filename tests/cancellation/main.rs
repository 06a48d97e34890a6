//! Whatever is dropped, and whenever: every count comes right, and so do the server's sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod acquire;
mod command;
mod dial;
mod outside;
mod whole;

use redis_guard::GuardedPool;
use support::impatient;
use tokio::runtime::{Builder, Runtime};

/// More polls than any of the futures here needs to its end.
const POLLS: usize = 6;

fn pool(url: &str, connections: usize) -> GuardedPool {
    impatient(url).max_connections(connections).build().unwrap()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}
