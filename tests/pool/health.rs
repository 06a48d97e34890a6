//! Warm-up and health checks.

use std::time::Duration;

use redis_guard::{Backoff, BreakerState, Error};
use tokio::time::Instant;

use crate::support::{Auth, Resp, TestServer, Transport, dials, impatient, unhurried};
use crate::waiting::{HANG, clients, next_close, soon, until};
use crate::{pair, pair_with};

#[tokio::test]
async fn warm_up_dials_as_many_as_it_is_told() {
    let (server, pool) = pair(8);

    let live = soon("the warm-up", pool.warm_up(5)).await.unwrap();

    let status = pool.status();
    assert_eq!((live, status.live, status.idle), (5, 5, 5));
    assert_eq!(clients(&server), 5);
}

#[tokio::test]
async fn warm_up_dials_no_more_than_max_connections() {
    let (_server, pool) = pair(3);
    assert_eq!(soon("the warm-up", pool.warm_up(100)).await.unwrap(), 3);
}

#[tokio::test]
async fn warm_up_of_a_warm_pool_dials_nothing() {
    let (_server, pool) = pair(4);
    pool.warm_up(4).await.unwrap();
    assert_eq!(soon("the second", pool.warm_up(2)).await.unwrap(), 4);
    assert_eq!(dials(&pool), [("connected", 4)].into());
}

#[tokio::test]
async fn warm_up_of_a_full_server_fails_in_its_words() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = unhurried(server.url()).build().unwrap();

    let error = soon("the warm-up", pool.warm_up(4)).await.unwrap_err();

    assert_eq!(error.reason(), "breaker_open");
    assert!(error.to_string().contains("max number of clients reached"), "{error}");
}

#[tokio::test]
async fn warm_up_beyond_the_servers_slots_fails_and_keeps_what_it_got() {
    let server = TestServer::builder().maxclients(8).start().unwrap();
    let _occupants = server.fill_to_leave(2);
    let pool = unhurried(server.url()).watch(false).build().unwrap();

    let error = soon("the warm-up", pool.warm_up(4)).await.unwrap_err();

    assert_eq!(error.reason(), "connect_failed");
    assert!(error.to_string().contains("max number of clients reached"), "{error}");
    assert_eq!(pool.status().live, 2);
}

/// Growing a pool whose limit is frozen is tried, and fails or succeeds; it does not hang.
#[tokio::test]
async fn warm_up_of_a_frozen_pool_ends() {
    let server = TestServer::builder().maxclients(8).start().unwrap();
    let occupants = server.fill_to_leave(2);
    let pool = impatient(&server.url()).max_connections(4).watch(false).build().unwrap();
    soon("the warm-up", pool.warm_up(4)).await.unwrap_err();
    until("the back-off's end", &pool, || pool.status().breaker.next_dial_in.is_zero()).await;

    let again = soon("the second warm-up", pool.warm_up(4)).await;

    assert_eq!(again.unwrap_err().reason(), "connect_failed");
    occupants.free();
    until("the back-off's end", &pool, || pool.status().breaker.next_dial_in.is_zero()).await;
    assert_eq!(soon("the third warm-up", pool.warm_up(4)).await.unwrap(), 4);
}

#[tokio::test]
async fn warm_up_with_a_wrong_password_fails_in_the_servers_words() {
    let server = TestServer::builder().password("open sesame").start().unwrap();
    let url = server.url_with(Transport::Tcp, Resp::Resp3, Auth::Password("guess"), 0);
    let pool = unhurried(url).build().unwrap();

    let error = soon("the warm-up", pool.warm_up(1)).await.unwrap_err();

    assert_eq!(error.reason(), "connect_failed");
    assert!(error.to_string().contains("WRONGPASS"), "{error}");
}

#[tokio::test]
async fn warm_up_of_a_stopped_server_fails_and_the_pool_dials_again_when_it_is_back() {
    let server = TestServer::start().unwrap();
    server.stop();
    let pool = impatient(&server.url()).build().unwrap();
    let error = soon("the warm-up", pool.warm_up(1)).await.unwrap_err();
    assert_eq!(error.reason(), "breaker_open");

    server.restart().unwrap();

    drop(soon("a lease", pool.acquire("test")).await.unwrap());
}

#[tokio::test]
async fn warm_up_of_a_closed_pool_says_so() {
    let (_server, pool) = pair(2);
    pool.close().await;
    assert_eq!(pool.warm_up(1).await.unwrap_err().reason(), "closed");
}

#[tokio::test]
async fn two_warm_ups_at_once_both_get_what_they_want() {
    let (_server, pool) = pair(6);
    let both = async { tokio::join!(pool.warm_up(2), pool.warm_up(6), pool.warm_up(1)) };
    let (two, six, one) = soon("all of them", both).await;
    assert!(two.unwrap() >= 2 && one.unwrap() >= 1);
    assert_eq!(six.unwrap(), 6);
}

#[tokio::test]
async fn health_of_a_cold_pool_dials_and_pings() {
    let (_server, pool) = pair(2);

    let begun = Instant::now();
    let health = soon("the check", pool.health()).await.unwrap();

    let took = begun.elapsed();
    assert!(health.latency.is_some_and(|latency| latency <= took), "{health:?} in {took:?}");
    assert_eq!((health.live, health.idle), (1, 1));
    assert_eq!(health.breaker, BreakerState::Closed);
}

#[tokio::test]
async fn health_of_a_busy_pool_has_no_latency_and_takes_no_connection() {
    let (_server, pool) = pair(1);
    let _lease = pool.acquire("test").await.unwrap();

    let health = soon("the check", pool.health()).await.unwrap();

    assert_eq!((health.latency, health.live, health.idle), (None, 1, 0));
}

#[tokio::test]
async fn health_of_a_full_server_with_nothing_live_is_the_refusal() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = unhurried(server.url()).build().unwrap();

    let error = soon("the check", pool.health()).await.unwrap_err();

    assert!(error.to_string().contains("max number of clients reached"), "{error}");
}

#[tokio::test]
async fn health_of_a_warm_pool_is_good_although_the_server_is_full() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let pool = unhurried(server.url()).build().unwrap();
    pool.warm_up(1).await.unwrap();
    let _occupants = server.fill();

    let health = soon("the check", pool.health()).await.unwrap();

    assert!(health.latency.is_some());
}

#[tokio::test]
async fn health_of_a_server_that_does_not_answer_is_an_inner_timeout() {
    let (server, pool) =
        pair_with(1, |builder| builder.response_timeout(Duration::from_millis(50)));
    pool.warm_up(1).await.unwrap();
    server.pause();

    let error = soon("the check", pool.health()).await.unwrap_err();

    assert!(matches!(&error, Error::Inner(inner) if inner.is_timeout()), "{error:?}");
}

#[tokio::test]
async fn health_checks_leave_the_connection_to_the_callers() {
    let (_server, pool) = pair(1);
    let checks = futures_util::future::join_all((0..20).map(|_| pool.health()));
    assert!(soon("20 checks", checks).await.iter().all(Result::is_ok));
    let callers = async {
        for _ in 0..100 {
            let mut lease = pool.acquire("test").await.unwrap();
            assert_eq!(crate::waiting::echo(&mut lease, "mine").await.unwrap(), "mine");
        }
    };
    let checks = async {
        for _ in 0..100 {
            pool.health().await.unwrap();
        }
    };
    soon("both", async { tokio::join!(callers, checks) }).await;
}

#[tokio::test]
async fn health_after_the_last_connection_was_lost_dials_again() {
    let server = TestServer::start().unwrap();
    let slow = Backoff::equal_jitter(Duration::from_millis(1), Duration::from_millis(5));
    let pool = unhurried(server.url()).backoff(slow).acquire_timeout(HANG).build();
    let pool = pool.unwrap();
    let mut events = pool.events();
    pool.warm_up(1).await.unwrap();
    server.restart().unwrap();
    next_close(&mut events).await;

    assert!(soon("the check", pool.health()).await.unwrap().latency.is_some());
}

/// So that nobody hands it a command while its driver ends; see `dial::end_notice`.
#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_known_to_be_dead_before_its_driver_ends() {
    let (server, pool) = pair(1);
    // A thread that loses its processor just then may see the one with the other.
    let mut seen = false;
    for _ in 0..10 {
        pool.warm_up(1).await.unwrap();
        server.admin().command(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
        let closed = async {
            while pool.status().live == 1 {
                seen |= pool.status().idle == 0;
                tokio::task::yield_now().await;
            }
        };
        soon("the close", closed).await;
    }
    assert!(seen, "the driver ended first");
}
