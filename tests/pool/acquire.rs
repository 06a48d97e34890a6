//! Acquire and its kin: what a caller gets, and what it hears when it gets nothing.

use std::time::Duration;

use redis::IntoConnectionInfo;
use redis_guard::{
    Backoff, Breaker, BreakerState, Budget, Event, GuardedPool, Phase, Rejection, deadpool_redis,
    redis,
};
use tokio::time::{Instant, sleep};

use crate::support::{
    Auth, Resp, TestServer, Transport, VendorScript, VendorServer, dials, impatient, unhurried,
};
use crate::waiting::{HANG, clients, cmd, echo, field, id, let_pass, next, next_close, poll_once};
use crate::waiting::{ready, soon, until};
use crate::{pair, pair_with};

const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_free_connection_is_taken_on_the_first_poll() {
    let (_server, pool) = pair(2);
    drop(pool.acquire("test").await.unwrap());

    let lease = ready(pool.acquire("test"));

    assert!(matches!(lease, Some(Ok(_))));
    assert_eq!(pool.status().live, 1);
}

#[tokio::test]
async fn get_counts_as_the_default_endpoint() {
    let (_server, pool) = pair(2);

    let mut lease = pool.get().await.unwrap();

    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
    let status = pool.status();
    assert_eq!(status.endpoints.len(), 1);
    assert_eq!((status.endpoints[0].name.as_str(), status.endpoints[0].in_use), ("default", 1));
}

#[tokio::test]
async fn try_acquire_never_waits_and_dials_for_the_next_caller() {
    let (_server, pool) = pair(2);
    let mut events = pool.events();

    let error = pool.try_acquire("test").unwrap_err();

    let Some(Rejection::AcquireTimeout { waited, phase, .. }) = error.rejection() else {
        panic!("{error:?}")
    };
    assert_eq!((*waited, *phase), (Duration::ZERO, Phase::Dial));
    next("a connection", &mut events, |event| matches!(event, Event::Connected { .. })).await;
    pool.try_acquire("test").unwrap();
}

#[tokio::test]
async fn try_acquire_tells_an_exhausted_budget_from_a_busy_pool() {
    let (_server, pool) = pair_with(2, |builder| builder.endpoint("one", Budget::max(1)));
    pool.warm_up(2).await.unwrap();
    let _one = pool.try_acquire("one").unwrap();
    assert_eq!(pool.try_acquire("one").unwrap_err().reason(), "budget_exhausted");
    let _other = pool.try_acquire("other").unwrap();

    let error = pool.try_acquire("other").unwrap_err();

    let phase = match error.rejection() {
        Some(Rejection::AcquireTimeout { phase, .. }) => *phase,
        _ => panic!("{error:?}"),
    };
    assert_eq!(phase, Phase::Connection);
}

#[tokio::test]
async fn a_queue_that_is_full_refuses_at_once() {
    let (_server, pool) = pair_with(1, |builder| builder.queue_limit(2));
    let _lease = pool.acquire("test").await.unwrap();
    let mut queue = [Box::pin(pool.acquire("test")), Box::pin(pool.acquire("test"))];
    assert!(queue.iter_mut().all(|waiter| poll_once(waiter).is_pending()));

    let error = ready(pool.acquire("test")).expect("told on the first poll").unwrap_err();

    assert!(matches!(error.rejection(), Some(Rejection::QueueFull { limit: 2, .. })), "{error:?}");
    assert_eq!(pool.status().waiting, 2);
}

#[tokio::test]
async fn a_caller_that_waited_in_vain_for_a_lease_hears_that_all_were_in_use() {
    let (_server, pool) = pair_with(1, |builder| builder.acquire_timeout(SHORT));
    let _lease = pool.acquire("holder").await.unwrap();

    let error = soon("the timeout", pool.acquire("test")).await.unwrap_err();

    let Some(Rejection::AcquireTimeout { waited, phase, failure, .. }) = error.rejection() else {
        panic!("{error:?}")
    };
    assert!(*waited >= SHORT, "{waited:?}");
    assert_eq!((*phase, failure), (Phase::Connection, &None));
    assert_eq!(pool.status().waiting, 0);
}

#[tokio::test]
async fn a_caller_that_waited_in_vain_for_a_dial_hears_so() {
    let server = VendorServer::start(VendorScript::Nothing).await.unwrap();
    let builder = impatient(&server.url()).acquire_timeout(SHORT).connect_timeout(HANG);
    let pool = builder.build().unwrap();

    let error = soon("the timeout", pool.acquire("test")).await.unwrap_err();
    let subscriber = soon("the timeout", pool.pubsub("test")).await.unwrap_err();
    let get = pool.shared("test").send(redis::cmd("GET").arg("key")).await.unwrap_err();

    let Some(Rejection::AcquireTimeout { phase, .. }) = error.rejection() else {
        panic!("{error:?}")
    };
    assert_eq!(*phase, Phase::Dial);
    assert_eq!(pool.status().dialing, 1, "the dial goes on");
    // Which server, and how far the dial has come.
    let stage = format!(
        "redis at {} [timeout]: connected, but the first commands have had no answer yet",
        server.address()
    );
    for told in [error.to_string(), subscriber.to_string(), get.to_string()] {
        assert!(told.contains(&stage), "{told}");
    }
}

#[tokio::test]
async fn a_caller_that_waited_in_vain_hears_how_the_dials_fail() {
    let server = TestServer::start().unwrap();
    server.stop();
    let slow = Backoff::without_jitter(HANG, HANG);
    let builder = unhurried(server.url()).backoff(slow).acquire_timeout(SHORT);
    let pool = builder.breaker(Breaker::default().failures(5)).build().unwrap();

    let error = soon("the timeout", pool.acquire("test")).await.unwrap_err();

    assert_eq!(error.reason(), "acquire_timeout");
    assert!(error.to_string().contains("[refused]"), "{error}");
}

#[tokio::test]
async fn an_acquire_timeout_of_zero_takes_what_is_free_and_waits_for_nothing() {
    let (_server, pool) = pair_with(1, |builder| builder.acquire_timeout(Duration::ZERO));
    pool.warm_up(1).await.unwrap();
    let _lease = pool.acquire("holder").await.unwrap();

    // Time passes only where somebody waits for it, and by the millisecond.
    tokio::time::pause();
    let begun = Instant::now();
    let error = pool.acquire("test").await.unwrap_err();

    assert_eq!(error.reason(), "acquire_timeout");
    assert!(begun.elapsed() <= Duration::from_millis(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_password_that_is_mended_is_found_so_after_the_time_that_was_told() {
    let server = TestServer::builder().password("old").start().unwrap();
    let url = server.url_with(Transport::Tcp, Resp::Resp3, Auth::Password("new"), 0);
    let pool = unhurried(url).build().unwrap();
    let error = pool.acquire("test").await.unwrap_err();
    assert_eq!(error.reason(), "connect_failed");

    server.admin().text(&["CONFIG", "SET", "requirepass", "new"]);
    sleep(error.retry_after().expect("a time to wait")).await;

    let mut lease = pool.acquire("test").await.unwrap();
    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
}

// The breaker in an operator's hands.

#[tokio::test]
async fn forced_open_a_cold_pool_refuses_at_once_and_dials_nothing() {
    let (_server, pool) = pair(2);
    pool.breaker().force_open();

    let error = ready(pool.acquire("test")).expect("told on the first poll").unwrap_err();

    assert!(error.to_string().contains("the breaker was forced open"), "{error}");
    assert!(error.retry_after().is_some_and(|wait| !wait.is_zero()));
    let status = pool.status();
    assert_eq!((status.breaker.state, status.breaker.forced), (BreakerState::Open, true));
    assert_eq!((status.dialing, dials(&pool)), (0, [].into()));
}

#[tokio::test]
async fn forced_open_a_warm_pool_serves_what_is_live() {
    let (_server, pool) = pair(2);
    pool.warm_up(1).await.unwrap();
    pool.breaker().force_open();

    let lease = pool.acquire("test").await.unwrap();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    drop(lease);

    assert!(poll_once(&mut waiter).is_ready());
    assert_eq!(dials(&pool), [("connected", 1)].into(), "and none since");
}

#[tokio::test]
async fn back_to_auto_it_dials_for_those_who_ask() {
    let (_server, pool) = pair(2);
    pool.breaker().force_open();
    pool.acquire("test").await.unwrap_err();

    pool.breaker().auto();

    soon("a lease", pool.acquire("test")).await.unwrap();
    assert_eq!(pool.breaker().state(), BreakerState::Closed);
    assert!(!pool.status().breaker.forced);
}

#[tokio::test]
async fn forced_closed_callers_wait_for_the_next_dial_although_the_last_was_refused() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let occupants = server.fill();
    let pool = impatient(&server.url()).acquire_timeout(HANG).build().unwrap();
    pool.acquire("test").await.unwrap_err();
    pool.breaker().force_closed();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());

    occupants.free();

    soon("the waiter", waiter).await.unwrap();
}

#[tokio::test]
async fn an_override_is_an_event() {
    let (_server, pool) = pair(1);
    let mut events = pool.events();
    pool.breaker().force_open();
    pool.breaker().auto();
    for (was, is) in
        [(BreakerState::Closed, BreakerState::Open), (BreakerState::Open, BreakerState::Closed)]
    {
        let event = soon("the event", events.next()).await;
        let Some(Event::BreakerChanged { from, to, .. }) = event else { panic!("{event:?}") };
        assert_eq!((from, to), (was, is));
    }
}

// Ways to build one.

#[tokio::test]
async fn a_pool_from_deadpools_configuration_takes_its_url_size_and_timeouts() {
    let server = TestServer::start().unwrap();
    let mut config = deadpool_redis::Config::from_url(server.url());
    let mut size = deadpool_redis::PoolConfig::new(3);
    // Far from the default of a second.
    let wait = Duration::from_secs(30);
    size.timeouts.wait = Some(wait);
    config.pool = Some(size);
    let pool = GuardedPool::from_config(config).watch(false).build().unwrap();

    pool.warm_up(3).await.unwrap();
    let leases = [pool.get().await, pool.get().await, pool.get().await];

    assert!(leases.iter().all(Result::is_ok));
    assert_eq!(pool.status().max_connections, 3);
    let mut waiter = Box::pin(pool.get());
    assert!(poll_once(&mut waiter).is_pending());
    let_pass(wait / 2).await;
    assert!(poll_once(&mut waiter).is_pending());
    let_pass(wait / 2).await;
    soon("its wait timeout", waiter).await.unwrap_err();
}

#[tokio::test]
async fn a_pool_from_a_client_dials_the_clients_server_and_database() {
    let server = TestServer::start().unwrap();
    let client = redis::Client::open(format!("{}&", server.url().replace("/0?", "/5?"))).unwrap();
    let pool = GuardedPool::from_client(&client).build().unwrap();

    let mut lease = pool.get().await.unwrap();

    let id = id(&mut lease).await;
    assert_eq!(field(&server, id, "db").as_deref(), Some("5"));
}

#[tokio::test]
async fn a_pool_from_a_connection_info_dials_its_server() {
    let server = TestServer::start().unwrap();
    let info: redis::ConnectionInfo = server.unix_url().into_connection_info().unwrap();
    let pool = unhurried(info).build().unwrap();

    let mut lease = pool.get().await.unwrap();

    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
    assert_eq!(clients(&server), 1);
}

#[tokio::test]
async fn every_connection_bears_the_clients_name() {
    let (server, pool) = pair_with(3, |builder| builder.client_name("my-service"));
    pool.warm_up(3).await.unwrap();
    assert_eq!(server.admin().clients_named("my-service"), 3);
}

#[tokio::test]
async fn without_a_name_every_connection_bears_the_processs() {
    let (server, pool) = pair(1);
    pool.warm_up(1).await.unwrap();
    assert_eq!(server.admin().clients_named("redis-guard:pool"), 1);
}

// Connections that the server closes.

#[tokio::test]
async fn an_idle_connection_that_was_killed_is_not_handed_out() {
    let (server, pool) = pair(2);
    let mut events = pool.events();
    let mut lease = pool.acquire("test").await.unwrap();
    let id = id(&mut lease).await;
    drop(lease);

    server.admin().text(&["CLIENT", "KILL", "ID", &id.to_string()]);
    assert_eq!(next_close(&mut events).await, redis_guard::CloseReason::Peer);

    assert_eq!(pool.status().idle, 0);
    let mut other = soon("another connection", pool.acquire("test")).await.unwrap();
    assert_ne!(crate::waiting::id(&mut other).await, id);
}

#[tokio::test]
async fn a_lease_whose_connection_was_killed_says_so_and_is_not_lent_again() {
    let (server, pool) = pair(1);
    let mut events = pool.events();
    let mut lease = pool.acquire("test").await.unwrap();
    let id = id(&mut lease).await;
    server.admin().text(&["CLIENT", "KILL", "ID", &id.to_string()]);
    next_close(&mut events).await;

    assert!(cmd("PING").query_async::<String>(&mut lease).await.is_err());
    drop(lease);

    let mut other = soon("another connection", pool.acquire("test")).await.unwrap();
    assert_ne!(crate::waiting::id(&mut other).await, id);
}

#[tokio::test]
async fn after_a_restart_of_the_server_the_pool_serves_again() {
    let (server, pool) = pair(4);
    pool.warm_up(4).await.unwrap();

    server.restart().unwrap();

    until("all four closed", &pool, || pool.status().connections_closed.get("peer") == Some(&4))
        .await;
    let mut lease = crate::support::ask_until_served(&pool).await;
    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_waiter_is_served_although_the_server_restarts_meanwhile() {
    let (server, pool) = pair_with(1, |builder| builder.acquire_timeout(HANG));
    let _lease = pool.acquire("test").await.unwrap();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());

    server.restart().unwrap();

    let mut lease = soon("the waiter", waiter).await.unwrap();
    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
}
