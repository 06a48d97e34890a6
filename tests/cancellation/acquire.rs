//! An acquire that is dropped: before its first poll, in the queue, with a grant on its way.

use crate::support::TestServer;
use crate::waiting::{self, at_rest, dropped_after, id, poll_once, ready, soon};
use crate::{POLLS, pool};

#[tokio::test]
async fn an_acquire_dropped_after_any_number_of_polls_leaves_every_count_right() {
    let server = TestServer::start().unwrap();
    for polls in 0..POLLS {
        let pool = pool(&server.url(), 2);

        drop(dropped_after(polls, pool.acquire("test")).await);

        at_rest(&pool, &server).await;
        drop(soon("the next caller", pool.acquire("test")).await.unwrap());
        soon("close", pool.close()).await;
    }
}

#[tokio::test]
async fn an_acquire_that_is_never_polled_dials_nothing() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);

    drop(pool.acquire("test"));

    let status = pool.status();
    assert_eq!((status.live, status.dialing, status.waiting), (0, 0, 0));
    assert!(status.endpoints.is_empty(), "nobody has called");
}

#[tokio::test]
async fn a_dropped_waiter_leaves_the_queue_and_the_next_one_moves_up() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let lease = pool.acquire("test").await.unwrap();
    let mut first = Box::pin(pool.acquire("test"));
    let mut second = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut first).is_pending() && poll_once(&mut second).is_pending());

    drop(first);

    assert_eq!(pool.status().waiting, 1);
    drop(lease);
    assert!(poll_once(&mut second).is_ready());
}

#[tokio::test]
async fn a_grant_that_was_sent_but_not_received_serves_the_next_waiter() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let lease = pool.acquire("test").await.unwrap();
    let mut first = Box::pin(pool.acquire("test"));
    let mut second = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut first).is_pending() && poll_once(&mut second).is_pending());
    drop(lease);
    assert_eq!((pool.status().in_use, pool.status().waiting), (1, 1), "the first has its grant");

    drop(first);

    assert!(matches!(ready(second), Some(Ok(_))));
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_grant_that_nobody_receives_goes_back_to_the_pool() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let lease = pool.acquire("test").await.unwrap();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    drop(lease);

    drop(waiter);

    let status = pool.status();
    assert_eq!((status.in_use, status.waiting, status.idle, status.live), (0, 0, 1, 1));
}

#[tokio::test]
async fn a_grant_whose_connection_died_before_it_was_received_is_made_good() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let mut events = pool.events();
    let mut lease = pool.acquire("test").await.unwrap();
    let id = id(&mut lease).await;
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    drop(lease);
    server.admin().text(&["CLIENT", "KILL", "ID", &id.to_string()]);
    waiting::next_close(&mut events).await;

    let mut lease = soon("another connection", waiter).await.unwrap();

    assert_ne!(waiting::id(&mut lease).await, id);
    drop(lease);
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_thousand_waiters_dropped_in_any_order_leave_an_empty_queue() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let lease = pool.acquire("test").await.unwrap();
    let mut waiters: Vec<_> = (0..1_000).map(|_| Box::pin(pool.acquire("test"))).collect();
    assert!(waiters.iter_mut().all(|waiter| poll_once(waiter).is_pending()));
    assert_eq!(pool.status().waiting, 1_000);

    fastrand::Rng::with_seed(7).shuffle(&mut waiters);
    drop(lease);
    drop(waiters);

    at_rest(&pool, &server).await;
}
