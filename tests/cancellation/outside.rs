//! Leases and handles that are dropped where no runtime is.

use redis_guard::redis;
use tokio::runtime::Builder;

use crate::support::{self, TestServer};
use crate::waiting::{self, at_rest, clients, cmd, soon, until};
use crate::{pool, runtime};

/// A lease, with this done on it, dropped on a thread that is in no runtime; its own still runs,
/// or not. The counts come right, and the pool still serves.
fn a_lease_dropped_outside(command: &str, its_runtime_runs: bool) {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);
    let threads = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut lease = threads.block_on(pool.acquire("test")).unwrap();
    threads.block_on(cmd(command).query_async::<redis::Value>(&mut lease)).unwrap();
    let threads = its_runtime_runs.then_some(threads);

    std::thread::spawn(move || drop(lease)).join().expect("no panic");

    let next = runtime();
    next.block_on(async {
        at_rest(&pool, &server).await;
        assert_eq!(pool.status().live, usize::from(its_runtime_runs));
        drop(soon("the next caller", pool.acquire("test")).await.unwrap());
        soon("close", pool.close()).await;
        until("no client", &pool, || clients(&server) == 0).await;
    });
    drop(threads);
}

#[test]
fn a_lease_can_be_dropped_on_a_thread_without_a_runtime() {
    a_lease_dropped_outside("PING", true);
}

#[test]
fn a_dirty_lease_can_be_dropped_on_a_thread_without_a_runtime() {
    a_lease_dropped_outside("SELECT 3", true);
}

#[test]
fn a_lease_can_be_dropped_after_its_runtime_was_shut_down() {
    a_lease_dropped_outside("PING", false);
}

#[test]
fn a_dirty_lease_can_be_dropped_after_its_runtime_was_shut_down() {
    a_lease_dropped_outside("SELECT 3", false);
}

#[test]
fn the_pool_can_be_dropped_on_a_thread_without_a_runtime() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);
    let first = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    first.block_on(pool.warm_up(2)).unwrap();

    std::thread::spawn(move || drop(pool)).join().expect("no panic");

    let gone = support::server::poll(waiting::HANG, || (clients(&server) == 0).then_some(()));
    assert!(gone.is_some(), "the server still has {} of our sockets", clients(&server));
}
