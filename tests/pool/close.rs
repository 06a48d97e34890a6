//! The end of a pool.

use std::time::Duration;

use redis_guard::{CloseReason, Event};
use tokio::time::Instant;

use crate::support::{VendorScript, VendorServer, impatient};
use crate::waiting::{HANG, clients, cmd, echo, next, poll_once, ready, soon, until};
use crate::{pair, pair_with};

const DRAIN: Duration = Duration::from_millis(100);
/// What a pool takes that was told nothing else.
const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn close_of_an_idle_pool_leaves_no_socket() {
    let (server, pool) = pair(4);
    pool.warm_up(4).await.unwrap();

    soon("close", pool.close()).await;

    let status = pool.status();
    assert!(status.closed);
    assert_eq!((status.live, status.idle, status.in_use, status.dialing), (0, 0, 0, 0));
    assert_eq!(status.connections_closed, [("pool_closed", 4)].into());
    until("an empty CLIENT LIST", &pool, || clients(&server) == 0).await;
}

#[tokio::test]
async fn close_refuses_new_callers_and_those_who_wait() {
    let (_server, pool) = pair_with(1, |builder| builder.drain_timeout(DRAIN));
    let _lease = pool.acquire("test").await.unwrap();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());

    soon("close", pool.close()).await;

    assert_eq!(ready(waiter).unwrap().unwrap_err().reason(), "closed");
    assert_eq!(ready(pool.acquire("test")).unwrap().unwrap_err().reason(), "closed");
    assert_eq!(pool.try_acquire("test").unwrap_err().reason(), "closed");
    assert_eq!(pool.health().await.unwrap_err().reason(), "closed");
}

#[tokio::test]
async fn close_waits_for_the_leases_to_end() {
    let (server, pool) = pair(2);
    let mut lease = pool.acquire("test").await.unwrap();
    let mut closing = Box::pin(pool.close());
    assert!(poll_once(&mut closing).is_pending());

    assert_eq!(echo(&mut lease, "still here").await.unwrap(), "still here");
    assert!(poll_once(&mut closing).is_pending());
    drop(lease);

    soon("close", closing).await;
    assert_eq!(pool.status().live, 0);
    until("an empty CLIENT LIST", &pool, || clients(&server) == 0).await;
}

#[tokio::test]
async fn close_revokes_what_is_left_after_the_drain_timeout() {
    let (server, pool) = pair_with(2, |builder| builder.drain_timeout(DRAIN));
    let mut events = pool.events();
    let mut lease = pool.acquire("test").await.unwrap();
    let begun = Instant::now();

    soon("close", pool.close()).await;

    assert!(begun.elapsed() >= DRAIN && begun.elapsed() < DEFAULT_DRAIN);
    assert_eq!(pool.status().live, 0);
    let closed = next("the close", &mut events, |event| {
        matches!(event, Event::ConnectionClosed { reason: CloseReason::PoolClosed, .. })
    });
    closed.await;
    cmd("PING").query_async::<String>(&mut lease).await.unwrap_err();
    until("an empty CLIENT LIST", &pool, || clients(&server) == 0).await;
    drop(lease);
    assert_eq!(pool.status().in_use, 0);
}

#[tokio::test]
async fn close_with_a_drain_timeout_of_zero_waits_for_nobody() {
    let (_server, pool) = pair_with(1, |builder| builder.drain_timeout(Duration::ZERO));
    let _lease = pool.acquire("test").await.unwrap();
    let begun = Instant::now();

    soon("close", pool.close()).await;

    assert!(begun.elapsed() < DEFAULT_DRAIN, "{:?}", begun.elapsed());
    assert_eq!(pool.status().live, 0);
}

#[tokio::test]
async fn close_waits_for_a_connection_that_is_being_reset() {
    let (server, pool) = pair(1);
    let mut lease = pool.acquire("test").await.unwrap();
    let _: String = cmd("SELECT 3").query_async(&mut lease).await.unwrap();
    drop(lease);

    soon("close", pool.close()).await;

    assert_eq!(pool.status().live, 0);
    until("an empty CLIENT LIST", &pool, || clients(&server) == 0).await;
}

/// No socket is open when it returns, that of a dial in flight included.
#[tokio::test]
async fn close_ends_a_dial_that_hangs() {
    let server = VendorServer::start(VendorScript::Nothing).await.unwrap();
    let builder = impatient(&server.url()).connect_timeout(10 * HANG).acquire_timeout(10 * HANG);
    // There is nothing to drain, so that is nothing to wait for.
    let pool = builder.drain_timeout(10 * HANG).build().unwrap();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    until("the dial", &pool, || server.accepted() == 1).await;

    soon("close", pool.close()).await;

    assert_eq!(pool.status().dialing, 0);
    soon("the socket's end", server.all_closed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_in_the_middle_of_everything_leaves_no_socket_and_no_caller() {
    for round in 0..20 {
        let (server, pool) = pair_with(4, |builder| builder.drain_timeout(DRAIN));
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    loop {
                        match pool.acquire("test").await {
                            Ok(mut lease) => {
                                let _ = cmd("SELECT 3").query_async::<String>(&mut lease).await;
                            }
                            Err(error) => break error.reason(),
                        }
                    }
                })
            })
            .collect();
        until("some work", &pool, || {
            pool.status().endpoints.iter().any(|endpoint| endpoint.acquired > round * 5)
        })
        .await;

        soon("close", pool.close()).await;

        let status = pool.status();
        assert_eq!((status.live, status.dialing), (0, 0), "{status:#?}");
        for caller in callers {
            assert_eq!(soon("a caller", caller).await.unwrap(), "closed");
        }
        assert_eq!((pool.status().in_use, pool.status().waiting), (0, 0));
        until("an empty CLIENT LIST", &pool, || clients(&server) == 0).await;
    }
}

#[tokio::test]
async fn close_twice_or_at_the_same_time_is_close() {
    let (_server, pool) = pair(2);
    pool.warm_up(2).await.unwrap();

    soon("both", async { tokio::join!(pool.close(), pool.close()) }).await;
    soon("once more", pool.close()).await;

    assert_eq!(pool.status().live, 0);
}

#[tokio::test]
async fn close_of_a_pool_that_was_never_used_returns_at_once() {
    let (_server, pool) = pair(2);
    soon("close", pool.close()).await;
    assert_eq!(pool.acquire("test").await.unwrap_err().reason(), "closed");
}

#[tokio::test]
async fn every_clone_is_the_same_pool() {
    let (_server, pool) = pair(2);
    let clone = pool.clone();
    drop(pool);
    drop(clone.acquire("test").await.unwrap());

    clone.clone().close().await;

    assert!(clone.status().closed);
}
