//! A subscriber's turn in a full pool: first come, first served.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use redis_guard::GuardedPool;

use crate::support::TestServer;
use crate::support::log::at_message;
use crate::waiting::{HANG, poll_once, soon, until};
use crate::watch_service::Service;

/// A server, and a pool of so many connections on it that has them all.
async fn full(connections: usize) -> (TestServer, GuardedPool) {
    let server = TestServer::start().unwrap();
    let pool = GuardedPool::builder(server.url()).max_connections(connections);
    let pool = pool.watch(false).acquire_timeout(Duration::from_secs(5)).build().unwrap();
    pool.warm_up(connections).await.unwrap();
    (server, pool)
}

#[tokio::test]
async fn whoever_came_before_a_caller_is_served_before_it() {
    let (_server, pool) = full(1).await;
    let lease = pool.acquire("work").await.unwrap();
    let mut subscriber = Box::pin(pool.pubsub("orders"));
    assert!(poll_once(&mut subscriber).is_pending());
    let mut caller = Box::pin(pool.acquire("work"));
    assert!(poll_once(&mut caller).is_pending());

    drop(lease);

    tokio::select! {
        served = &mut subscriber => drop(served.unwrap()),
        _ = &mut caller => panic!("the caller came after the subscriber"),
    }
    soon("the caller's turn", caller).await.unwrap();
}

#[tokio::test]
async fn whoever_came_after_a_caller_is_served_after_it() {
    let (_server, pool) = full(1).await;
    let lease = pool.acquire("work").await.unwrap();
    let mut caller = Box::pin(pool.acquire("work"));
    assert!(poll_once(&mut caller).is_pending());
    let mut subscriber = Box::pin(pool.pubsub("orders"));
    assert!(poll_once(&mut subscriber).is_pending());

    drop(lease);

    tokio::select! {
        served = &mut caller => drop(served.unwrap()),
        _ = &mut subscriber => panic!("the subscriber came after the caller"),
    }
    soon("the subscriber's turn", subscriber).await.unwrap();
}

#[tokio::test]
async fn where_somebody_always_waits_a_subscriber_gets_its_turn_all_the_same() {
    let (_server, pool) = full(2).await;
    let callers = Service::of(pool.clone(), 8, Duration::from_millis(1));
    until("a queue", &pool, || pool.status().waiting > 0).await;

    let subscriber = pool.pubsub("orders").await;

    subscriber.unwrap_or_else(|error| panic!("{error}, with {} served", callers.served()));
}

#[tokio::test]
async fn a_connection_that_was_to_make_room_and_is_taken_makes_it_when_it_comes_back() {
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let pool = GuardedPool::builder(server.url()).max_connections(4).watch(false);
    let pool = pool.acquire_timeout(HANG / 2).build().unwrap();
    pool.warm_up(2).await.unwrap();
    let _lease = pool.acquire("work").await.unwrap();
    let _occupants = server.fill();
    // Takes the idle connection the moment the limit is said to have changed.
    let taken = Arc::new(OnceLock::new());
    let (theft, victim) = (Arc::clone(&taken), pool.clone());
    let _listening = at_message("limit changed", move || {
        theft.get_or_init(|| Mutex::new(victim.try_acquire("work").ok()));
    });

    // Its dial is refused, so the limit falls to what there is: two, of which one is idle.
    let subscriber = tokio::spawn(pool.pubsub("orders"));
    until("the theft", &pool, || taken.get().is_some() || subscriber.is_finished()).await;
    drop(taken.get().and_then(|taken| taken.lock().unwrap().take()));

    soon("the subscriber's turn", subscriber).await.unwrap().unwrap();
}
