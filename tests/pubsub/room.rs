//! A subscriber's turn in a full pool: first come, first served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis_guard::{GuardedConnection, GuardedPool};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};

use crate::support::TestServer;
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

/// Takes the idle connection the moment the limit is said to have changed.
#[derive(Clone, Default)]
struct Thief(Arc<Theft>);

#[derive(Default)]
struct Theft {
    pool: Mutex<Option<GuardedPool>>,
    tried: AtomicBool,
    taken: Mutex<Option<GuardedConnection>>,
}

/// Whether an event's message says so.
struct Says(&'static str, bool);

impl Visit for Says {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.1 |= field.name() == "message" && format!("{value:?}") == self.0;
    }
}

impl tracing::Subscriber for Thief {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut says = Says("limit changed", false);
        event.record(&mut says);
        let pool = self.0.pool.lock().unwrap().take_if(|_| says.1);
        if let Some(pool) = pool {
            *self.0.taken.lock().unwrap() = pool.try_acquire("work").ok();
            self.0.tried.store(true, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn a_connection_that_was_to_make_room_and_is_taken_makes_it_when_it_comes_back() {
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let pool = GuardedPool::builder(server.url()).max_connections(4).watch(false);
    let pool = pool.acquire_timeout(HANG / 2).build().unwrap();
    pool.warm_up(2).await.unwrap();
    let _lease = pool.acquire("work").await.unwrap();
    let _occupants = server.fill();
    let thief = Thief::default();
    *thief.0.pool.lock().unwrap() = Some(pool.clone());
    let _listening = tracing::subscriber::set_default(thief.clone());

    // Its dial is refused, so the limit falls to what there is: two, of which one is idle.
    let subscriber = tokio::spawn(pool.pubsub("orders"));
    until("the theft", &pool, || thief.0.tried.load(Ordering::Relaxed) || subscriber.is_finished())
        .await;
    drop(thief.0.taken.lock().unwrap().take());

    soon("the subscriber's turn", subscriber).await.unwrap().unwrap();
}
