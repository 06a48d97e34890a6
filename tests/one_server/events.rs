//! Events name the server that they are about.

use std::time::Duration;

use redis_guard::{Backoff, Event, Events, GuardedPool, LimitedBy};

use crate::fake::Fake;
use crate::waiting::{next, soon, until};
use crate::{Callers, builder, full_server};

const TICK: Duration = Duration::from_millis(1);

fn address_of(url: &str) -> &str {
    url.trim_start_matches("redis://").split('/').next().unwrap()
}

/// The server that the event is about, if it names one.
fn server_of(event: &Event) -> Option<&str> {
    Some(match event {
        Event::BreakerChanged { server, .. }
        | Event::Connected { server, .. }
        | Event::ConnectionClosed { server, .. }
        | Event::LimitChanged { server, .. }
        | Event::WatchLost { server, .. }
        | Event::WatchFound { server, .. }
        | Event::Server { server, .. } => server,
        Event::DialFailed { failure, .. } => &failure.server,
        _ => return None,
    })
}

/// The next event of this kind is about that server.
async fn names(what: &str, events: &mut Events, url: &str, kind: fn(&Event) -> bool) {
    let event = next(what, events, kind).await;
    assert_eq!(server_of(&event), Some(address_of(url)), "{event:?}");
}

#[tokio::test]
async fn what_happens_to_a_pool_and_its_connections_happens_at_a_server() {
    let server = full_server();
    let url = server.url();
    let occupants = server.fill();
    let builder = builder(&server).backoff(Backoff::without_jitter(TICK, TICK)).watch(false);
    let pool = builder.build().unwrap();
    let mut events = pool.events();

    soon("the refusal", pool.acquire("test")).await.unwrap_err();
    names("the lower limit", &mut events, &url, |it| matches!(it, Event::LimitChanged { .. }))
        .await;
    names("the failure", &mut events, &url, |it| matches!(it, Event::DialFailed { .. })).await;
    names("the breaker", &mut events, &url, |it| matches!(it, Event::BreakerChanged { .. })).await;
    // Somebody has to want it.
    let _callers = Callers::of(&pool, 1, TICK);
    occupants.free();
    names("a connection", &mut events, &url, |it| matches!(it, Event::Connected { .. })).await;
    server.admin().text(&["CLIENT", "KILL", "TYPE", "normal"]);
    names("the close", &mut events, &url, |it| matches!(it, Event::ConnectionClosed { .. })).await;
}

#[tokio::test]
async fn a_server_that_cannot_be_watched_and_one_that_can_again_are_named() {
    let fake = Fake::start("").await;
    fake.replies("-ERR try again later\r\n");
    let pool = GuardedPool::builder(fake.url()).build().unwrap();
    let mut events = pool.events();

    drop(soon("a connection", pool.acquire("test")).await.unwrap());

    names("the loss", &mut events, &fake.url(), |it| matches!(it, Event::WatchLost { .. })).await;
    fake.says("connected_clients:3 maxclients:1000 rejected_connections:0");
    names("the find", &mut events, &fake.url(), |it| matches!(it, Event::WatchFound { .. })).await;
}

/// Only one of them has asked.
#[tokio::test]
async fn what_happens_to_the_server_is_an_event_of_every_pool() {
    let fake = Fake::start("connected_clients:3 maxclients:1000 rejected_connections:0").await;
    let pools = [(); 3].map(|()| GuardedPool::builder(fake.url()).build().unwrap());
    let mut events = pools.each_ref().map(GuardedPool::events);
    for pool in &pools {
        soon("a connection", pool.acquire("test")).await.unwrap();
        // It has taken in what was heard, by whichever of them.
        until("the first word", pool, || pool.status().limited_by == LimitedBy::PriceLaw).await;
    }

    fake.says("connected_clients:3 maxclients:500 rejected_connections:0");

    for events in &mut events {
        names("the change", events, &fake.url(), |it| matches!(it, Event::Server { .. })).await;
    }
}
