//! The stream of events, in the order in which things happen.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis_guard::{Backoff, BreakerState, CloseReason, Event, GuardedPool, Outcome};

use crate::pair;
use crate::support::{TestServer, unhurried};
use crate::waiting::{next, soon};

/// An event in one word.
fn word(event: &Event) -> String {
    match event {
        Event::BreakerChanged { from, to, .. } => format!("{from} → {to}"),
        Event::Connected { live, .. } => format!("connected, {live} live"),
        Event::DialFailed { failure, .. } => failure.outcome.to_string(),
        Event::LimitChanged { from, to, limited_by, .. } => {
            format!("limit {from} → {to} by {}", limited_by.as_str())
        }
        Event::ConnectionClosed { reason, .. } => format!("closed: {}", reason.as_str()),
        Event::Rejected { rejection, .. } => format!("rejected: {}", rejection.reason()),
        other => format!("{other:?}"),
    }
}

async fn words(events: &mut redis_guard::Events, last: &str) -> Vec<String> {
    let mut words = Vec::new();
    let listening = async {
        while words.last().is_none_or(|word: &String| word != last) {
            words.push(word(&events.next().await.expect("the pool lives")));
        }
    };
    soon(last, listening).await;
    words
}

#[tokio::test]
async fn an_outage_reads_as_a_story() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let occupants = server.fill();
    let backoff = Backoff::without_jitter(Duration::from_millis(25), Duration::from_millis(50));
    let pool =
        unhurried(server.url()).max_connections(8).watch(false).backoff(backoff).build().unwrap();
    let mut events = pool.events();

    pool.acquire("test").await.unwrap_err();
    assert_eq!(
        words(&mut events, "rejected: breaker_open").await,
        ["limit 8 → 1 by refused", "max_clients", "closed → open", "rejected: breaker_open"]
    );
    // Those who were refused want the probe.
    assert_eq!(
        words(&mut events, "half_open → open").await,
        ["open → half_open", "max_clients", "half_open → open"]
    );
    occupants.free();
    pool.acquire("test").await.unwrap_err();
    assert_eq!(
        words(&mut events, "connected, 1 live").await,
        [
            "rejected: breaker_open",
            "open → half_open",
            "limit 1 → 8 by max_connections",
            "half_open → closed",
            "connected, 1 live"
        ]
    );
    drop(pool.acquire("test").await.unwrap());
    pool.close().await;
    assert_eq!(
        soon("the close", events.next()).await.map(|e| word(&e)).unwrap(),
        "closed: pool_closed"
    );
}

#[tokio::test]
async fn a_failed_dial_says_how_in_whose_words_and_when_the_next_one_is() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = unhurried(server.url()).build().unwrap();
    let mut events = pool.events();
    pool.acquire("test").await.unwrap_err();

    let failed =
        next("a failed dial", &mut events, |e| matches!(e, Event::DialFailed { .. })).await;

    let Event::DialFailed { failure, next_dial_in, .. } = failed else { unreachable!() };
    assert_eq!(failure.outcome, Outcome::MaxClients);
    assert_eq!(failure.message, "ERR max number of clients reached");
    assert!(next_dial_in > Duration::ZERO && next_dial_in <= Duration::from_millis(100));
}

#[tokio::test]
async fn a_restart_is_closes_by_the_peer_and_a_new_connection() {
    let (server, pool) = pair(2);
    pool.warm_up(2).await.unwrap();
    let mut events = pool.events();

    server.restart().unwrap();
    crate::waiting::until("both closed", &pool, || pool.status().live == 0).await;
    drop(crate::support::ask_until_served(&pool).await);

    let words = words(&mut events, "connected, 1 live").await;
    assert_eq!(words.iter().filter(|word| *word == "closed: peer").count(), 2, "{words:?}");
}

#[tokio::test]
async fn a_subscriber_hears_what_happens_from_its_subscription_on() {
    let (_server, pool) = pair(1);
    drop(pool.acquire("test").await.unwrap());
    let mut events = pool.events();

    pool.close().await;

    let event = soon("the close", events.next()).await;
    assert!(
        matches!(event, Some(Event::ConnectionClosed { reason: CloseReason::PoolClosed, .. })),
        "{event:?}"
    );
}

#[tokio::test]
async fn every_subscriber_hears_everything() {
    let (_server, pool) = pair(1);
    let mut subscribers = [pool.events(), pool.events(), pool.events()];
    pool.warm_up(1).await.unwrap();
    for events in &mut subscribers {
        let event = soon("a connection", events.next()).await;
        assert!(matches!(event, Some(Event::Connected { live: 1, .. })), "{event:?}");
    }
}

#[tokio::test]
async fn a_subscriber_that_falls_behind_hears_how_much_it_has_missed() {
    let (_server, pool) = pair(1);
    pool.breaker().force_open();
    let mut events = pool.events();
    for _ in 0..2_000 {
        pool.acquire("test").await.unwrap_err();
    }

    let event = soon("an event", events.next()).await;

    let Some(Event::Missed { count, .. }) = event else { panic!("{event:?}") };
    assert_eq!(count, 2_000 - 1_024);
}

#[tokio::test]
async fn the_stream_ends_with_the_pool() {
    let (_server, pool) = pair(1);
    pool.warm_up(1).await.unwrap();
    let events = pool.events();

    drop(pool);

    let all: Vec<Event> = soon("the end", events.collect()).await;
    assert_eq!(all.iter().map(word).collect::<Vec<_>>(), ["closed: pool_closed"]);
}

#[tokio::test]
async fn events_serialise_with_a_tag() {
    let (server, pool) = pair(1);
    let mut events = pool.events();
    pool.breaker().force_open();
    let event = soon("an event", events.next()).await.unwrap();
    assert_eq!(
        serde_json::to_value(&event).unwrap(),
        serde_json::json!({
            "event": "breaker_changed", "server": format!("127.0.0.1:{}", server.port()), "from": "closed", "to": "open"
        })
    );
    assert!(matches!(event, Event::BreakerChanged { to: BreakerState::Open, .. }));
}

fn recent(pool: &GuardedPool) -> Vec<String> {
    pool.recent_events().iter().map(|recent| word(&recent.event)).collect()
}

#[tokio::test]
async fn a_pool_remembers_its_story_though_nobody_listened() {
    let (server, pool) = pair(2);
    pool.warm_up(1).await.unwrap();
    pool.breaker().force_open();
    server.stop();
    crate::waiting::until("the close", &pool, || pool.status().live == 0).await;
    pool.acquire("test").await.unwrap_err();

    let story = recent(&pool);

    assert_eq!(
        story,
        ["connected, 1 live", "closed → open", "closed: peer", "rejected: breaker_open"]
    );
}

#[tokio::test]
async fn of_the_rejections_of_a_second_it_remembers_the_first() {
    let (_server, pool) = pair(1);
    pool.breaker().force_open();
    // No second begins while this task does not yield.
    pool.try_acquire("first").unwrap_err();
    for _ in 0..1_000 {
        pool.try_acquire("later").unwrap_err();
    }

    let recent = pool.recent_events();

    let rejected = |event: &Event| match event {
        Event::Rejected { endpoint, .. } => Some(endpoint.to_string()),
        _ => None,
    };
    let rejected: Vec<_> = recent.iter().filter_map(|recent| rejected(&recent.event)).collect();
    assert_eq!(rejected, ["first"]);
}

#[tokio::test(start_paused = true)]
async fn rejections_of_many_seconds_do_not_push_out_what_came_before() {
    let pool = GuardedPool::builder("redis://127.0.0.1:1").build().unwrap();
    pool.breaker().force_open();

    for _ in 0..200 {
        pool.acquire("test").await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    let words = recent(&pool);
    assert_eq!(words[0], "closed → open");
    assert_eq!(words.len(), 1 + 20, "and the last twenty: {words:?}");
}

#[tokio::test]
async fn it_remembers_a_hundred_events() {
    let (_server, pool) = pair(1);
    for _ in 0..80 {
        pool.breaker().force_open();
        pool.breaker().force_closed();
    }

    let recent = recent(&pool);

    assert_eq!(recent.len(), 100);
    assert_eq!(recent.last().unwrap(), "open → closed");
}
