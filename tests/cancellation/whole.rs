//! The futures of the pool itself, and its handles.

use crate::support::{self, TestServer};
use crate::waiting::{self, at_rest, clients, cmd, dropped_after, poll_once, ready, soon, until};
use crate::{POLLS, pool};

#[tokio::test]
async fn a_warm_up_dropped_after_any_number_of_polls_stops_dialing_and_keeps_what_is_live() {
    let server = TestServer::start().unwrap();
    for polls in 0..POLLS {
        let pool = pool(&server.url(), 4);

        let done = dropped_after(polls, pool.warm_up(4)).await.map(Result::unwrap);
        let then = pool.status();

        at_rest(&pool, &server).await;
        let status = pool.status();
        assert!(done.is_none() || status.live == 4, "{done:?} after {polls} polls");
        assert!(status.live <= then.live + then.dialing, "{then:?}, then {status:?}");
        soon("close", pool.close()).await;
    }
}

#[tokio::test]
async fn a_close_dropped_after_any_number_of_polls_leaves_the_pool_closed() {
    let server = TestServer::start().unwrap();
    for polls in 1..POLLS {
        let pool = pool(&server.url(), 4);
        pool.warm_up(4).await.unwrap();
        let lease = pool.acquire("test").await.unwrap();

        assert!(dropped_after(polls.min(2), pool.close()).await.is_none());

        assert_eq!(pool.acquire("test").await.unwrap_err().reason(), "closed");
        until("the idle ones closed", &pool, || clients(&server) == 1).await;
        drop(lease);
        until("the lease's connection closed", &pool, || clients(&server) == 0).await;
        at_rest(&pool, &server).await;
        assert_eq!(pool.status().live, 0);
    }
}

#[tokio::test]
async fn a_close_that_is_never_polled_closes_nothing() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);

    drop(pool.close());

    drop(pool.acquire("test").await.unwrap());
}

#[tokio::test]
async fn a_health_check_dropped_after_any_number_of_polls_leaves_every_count_right() {
    let server = TestServer::start().unwrap();
    for polls in 0..POLLS {
        let pool = pool(&server.url(), 2);
        drop(dropped_after(polls, pool.health()).await);
        at_rest(&pool, &server).await;
        soon("close", pool.close()).await;
    }
}

#[tokio::test]
async fn the_last_handle_closes_what_is_idle_at_once_and_each_lease_at_its_end() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 3);
    let mut events = pool.events();
    pool.warm_up(3).await.unwrap();
    let mut lease = pool.acquire("test").await.unwrap();

    drop(pool);

    waiting::next_close(&mut events).await;
    waiting::next_close(&mut events).await;
    let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
    drop(lease);
    waiting::next_close(&mut events).await;
    soon("the end of the events", async { while events.next().await.is_some() {} }).await;
    let gone = support::server::poll(waiting::HANG, || (clients(&server) == 0).then_some(()));
    assert!(gone.is_some(), "the server still has {} of our sockets", clients(&server));
}

#[tokio::test]
async fn a_waiter_of_a_dropped_pool_hears_that_it_is_closed() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let _lease = pool.acquire("test").await.unwrap();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());

    drop(pool);

    assert_eq!(ready(waiter).unwrap().unwrap_err().reason(), "closed");
}

#[tokio::test]
async fn a_dial_that_ends_after_the_last_handle_has_gone_is_closed() {
    let server = TestServer::start().unwrap();
    for turns in 0..10 {
        let pool = pool(&server.url(), 1);
        let mut events = pool.events();
        let mut caller = Box::pin(pool.acquire("test"));
        assert!(poll_once(&mut caller).is_pending());
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }

        drop((caller, pool));

        soon("the end of the events", async { while events.next().await.is_some() {} }).await;
        let gone = support::server::poll(waiting::HANG, || (clients(&server) == 0).then_some(()));
        assert!(gone.is_some(), "a socket is left after {turns} turns");
    }
}
