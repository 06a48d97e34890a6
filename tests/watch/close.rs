//! Closing, whatever the watch is doing.

use std::time::Duration;

use redis_guard::GuardedPool;
use tokio::time::{Instant, sleep};

use crate::fake::Fake;
use crate::proxy::Proxy;
use crate::support::{TestServer, unhurried, until_alone};
use crate::waiting::{HANG, soon, until};
use crate::{builder, heard, rejected, warm};

/// Less than the drain timeout, which is for leases: nobody holds one. The last word to a server that does
/// not answer may take a second.
const SOON: Duration = Duration::from_secs(9);

async fn closes(pool: GuardedPool) {
    let begun = Instant::now();
    soon("closing", pool.close()).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let status = pool.status();
    assert_eq!((status.live, status.dialing, status.waiting), (0, 0, 0), "{status:#?}");
}

#[tokio::test]
async fn while_the_first_answer_is_awaited() {
    let fake = Fake::start("connected_clients:3 maxclients:1000").await;
    fake.hold_info(true);
    let pool = unhurried(fake.url()).build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    closes(pool).await;
}

#[tokio::test]
async fn while_the_server_is_stopped() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    drop(warm(&pool, 4).await);
    heard("the first word", &pool, |_| true).await;
    server.pause();
    sleep(Duration::from_secs(1)).await;
    closes(pool).await;
    server.resume();
    until_alone(&server).await;
}

#[tokio::test]
async fn while_the_server_is_full() {
    let server = TestServer::builder().maxclients(30).start().unwrap();
    let _occupants = server.fill_to_leave(1);
    let pool = builder(&server).acquire_timeout(Duration::from_millis(100)).build().unwrap();
    let lease = pool.acquire("test").await.unwrap();
    let _ = pool.acquire("test").await;
    until("a refusal", &pool, || rejected(&server) > 0).await;
    drop(lease);
    closes(pool).await;
}

#[tokio::test]
async fn while_a_proxy_closes_silently() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server, 2).await;
    let pool = unhurried(proxy.url()).acquire_timeout(Duration::from_millis(200)).build().unwrap();
    let _ = futures_util::future::join_all((0..8).map(|_| pool.acquire("test"))).await;
    closes(pool).await;
    until_alone(&server).await;
}

#[tokio::test]
async fn while_all_leases_are_held_and_the_watch_waits_for_one() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(2).build().unwrap();
    let leases = warm(&pool, 2).await;
    sleep(crate::LOOK).await;
    let closing = tokio::spawn(closes(pool));
    sleep(Duration::from_millis(100)).await;
    drop(leases);
    soon("closing", closing).await.unwrap();
    until_alone(&server).await;
}

#[tokio::test]
async fn while_the_limit_is_being_lowered() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let pool = builder(&server).max_connections(40).build().unwrap();
    let mut leases = warm(&pool, 40).await;
    leases.truncate(20);
    server.admin().set_maxclients(30);
    until("a lower limit", &pool, || pool.status().limit < 30).await;
    drop(leases);
    closes(pool).await;
    until_alone(&server).await;
}

#[tokio::test]
async fn by_dropping_the_last_handle() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    drop(warm(&pool, 4).await);
    drop(pool);
    tokio::time::timeout(HANG, until_alone(&server)).await.unwrap();
}
