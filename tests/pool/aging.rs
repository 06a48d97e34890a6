//! Connections that are idle for long, or old, or silently gone.

use std::time::Duration;

use redis_guard::{CloseReason, Event, GuardedPool};

use crate::pair_with;
use crate::proxy::Proxy;
use crate::support::{TestServer, impatient};
use crate::waiting::{HANG, at_rest, clients, echo, id, let_pass, next, next_close, poll_once};
use crate::waiting::{ready, soon, swept, until};

#[tokio::test]
async fn idle_connections_are_closed_down_to_min_idle() {
    let (server, pool) =
        pair_with(6, |builder| builder.idle_timeout(Duration::from_millis(100)).min_idle(2));
    let mut events = pool.events();
    pool.warm_up(6).await.unwrap();

    for _ in 0..4 {
        assert_eq!(next_close(&mut events).await, CloseReason::Idle);
    }

    at_rest(&pool, &server).await;
    assert_eq!((pool.status().live, clients(&server)), (2, 2));
}

#[tokio::test]
async fn with_a_min_idle_of_zero_all_are_closed() {
    let (server, pool) =
        pair_with(3, |builder| builder.idle_timeout(Duration::from_millis(100)).min_idle(0));
    pool.warm_up(3).await.unwrap();

    until("an empty CLIENT LIST", &pool, || clients(&server) == 0).await;

    drop(soon("another connection", pool.acquire("test")).await.unwrap());
}

#[tokio::test]
async fn a_connection_in_use_is_not_idle() {
    let (server, pool) =
        pair_with(2, |builder| builder.idle_timeout(Duration::from_millis(50)).min_idle(0));
    let mut events = pool.events();
    let mut lease = pool.acquire("test").await.unwrap();
    let other = pool.acquire("test").await.unwrap();
    drop(other);

    next_close(&mut events).await;

    until("the server has noticed", &pool, || clients(&server) == 1).await;
    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn an_old_connection_is_closed_while_nobody_holds_it_and_has_a_successor() {
    let (_server, pool) = pair_with(1, |builder| builder.max_lifetime(Duration::from_secs(2)));
    let mut events = pool.events();
    let mut lease = pool.acquire("test").await.unwrap();
    let first = id(&mut lease).await;
    drop(lease);

    let_pass(Duration::from_secs(3)).await;

    assert_eq!(next_close(&mut events).await, CloseReason::Lifetime);
    next("a connection", &mut events, |event| matches!(event, Event::Connected { .. })).await;
    let mut lease = ready(pool.acquire("test")).expect("one is there").unwrap();
    assert_ne!(id(&mut lease).await, first);
}

#[tokio::test]
async fn an_old_connection_in_use_is_closed_when_it_comes_back() {
    let (_server, pool) = pair_with(2, |builder| {
        builder.max_lifetime(Duration::from_secs(10)).leak_after(Duration::from_millis(40))
    });
    let mut lease = pool.acquire("test").await.unwrap();
    let first = id(&mut lease).await;
    let_pass(Duration::from_secs(12)).await;
    swept(&pool).await;
    let mut events = pool.events();
    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello", "it works as long as it is held");

    drop(lease);

    assert_eq!(next_close(&mut events).await, CloseReason::Lifetime);
    let mut next = soon("another connection", pool.acquire("test")).await.unwrap();
    assert_ne!(id(&mut next).await, first);
}

fn pool_through(proxy: &Proxy) -> GuardedPool {
    impatient(&proxy.url()).max_connections(1).response_timeout(HANG).build().unwrap()
}

#[tokio::test]
async fn a_long_idle_connection_whose_peer_is_silently_gone_is_closed_and_never_lent() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    let pool = pool_through(&proxy);
    let mut events = pool.events();
    drop(pool.acquire("test").await.unwrap());
    proxy.go_silent();

    let_pass(Duration::from_secs(31)).await;
    until("the check", &pool, || pool.status().idle == 0).await;
    let_pass(HANG).await;

    assert_eq!(next_close(&mut events).await, CloseReason::HealthCheck);
    proxy.speak_again();
    let mut lease = soon("another connection", pool.acquire("test")).await.unwrap();
    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_long_idle_connection_that_answers_is_kept() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    let pool = pool_through(&proxy);
    let mut lease = pool.acquire("test").await.unwrap();
    let first = id(&mut lease).await;
    drop(lease);
    let asked = server.admin().info_u64("total_commands_processed");

    let_pass(Duration::from_secs(31)).await;

    let pinged = || {
        let ours = server.admin().client_list().into_iter().find(|c| c["id"] == first.to_string());
        ours.is_some_and(|client| client["cmd"] == "ping")
    };
    until("the PING", &pool, pinged).await;
    assert!(server.admin().info_u64("total_commands_processed") > asked);
    let mut again = soon("a lease", pool.acquire("test")).await.unwrap();
    assert_eq!(id(&mut again).await, first);
}

#[tokio::test]
async fn nobody_is_lent_a_connection_that_is_being_checked() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    let pool = pool_through(&proxy);
    drop(pool.acquire("test").await.unwrap());
    proxy.go_silent();
    let_pass(Duration::from_secs(31)).await;
    until("the check", &pool, || pool.status().idle == 0).await;

    let mut waiter = Box::pin(pool.acquire("test"));

    assert!(poll_once(&mut waiter).is_pending());
    proxy.speak_again();
    soon("the waiter", waiter).await.unwrap();
}
