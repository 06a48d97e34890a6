//! The guard of a pool, on a real server.

use std::time::Duration;

use redis_guard::tower::GuardLayer;
use redis_guard::{
    Backoff, BreakerState, Budget, Class, Error, Event, Guard, GuardedPool, GuardedPoolBuilder,
    Outcome, Rejection,
};
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::support::{TestServer, dials, unhurried};
use crate::waiting::{HANG, cmd, next, soon, until};
use crate::{SECOND, Told, assert_at_rest, endpoint, failed};

fn server() -> TestServer {
    TestServer::builder().maxclients(16).start().unwrap()
}

fn builder(server: &TestServer) -> GuardedPoolBuilder {
    unhurried(server.url())
        .name("shop")
        .max_connections(8)
        // So that the limit is what the pool's own dials, and the calls, make of it.
        .watch(false)
        .endpoint("checkout", Budget::max(4).reserve(2))
}

/// A pool that dials once and no more.
fn patient(server: &TestServer) -> GuardedPool {
    builder(server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap()
}

fn calls_in_flight(pool: &GuardedPool, name: &str) -> usize {
    let status = pool.status();
    let mut endpoints = status.endpoints.iter();
    endpoints.find(|endpoint| endpoint.name.as_str() == name).unwrap().calls_in_flight
}

#[tokio::test]
async fn it_admits_while_nothing_was_dialed_and_nothing_is_wrong() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    let permit = pool.guard().admit("search").unwrap();
    assert!(dials(&pool).is_empty(), "a call is not a lease");
    permit.finish(Class::Worked);
}

#[tokio::test]
async fn it_has_the_pools_budgets_counting_calls_beside_its_leases() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    let guard = pool.guard();
    let permits: Vec<_> = (0..4).map(|_| guard.admit("checkout").unwrap()).collect();
    assert_eq!(guard.admit("checkout").unwrap_err().reason(), "budget_exhausted");
    // A call may lease one and does not wait for itself.
    let leases = [pool.acquire("checkout").await.unwrap(), pool.acquire("checkout").await.unwrap()];
    let others: Vec<_> = (0..4).map(|_| guard.admit("search").unwrap()).collect();
    assert!(guard.admit("search").is_err(), "all 8 places are taken");
    assert_eq!((guard.status().limit, guard.status().in_flight), (8, 8));
    drop((permits, others, leases));
    assert_at_rest(&guard);
}

#[tokio::test]
async fn its_calls_are_in_the_pools_status() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    drop(pool.acquire("search").await.unwrap());
    let guard = pool.guard();
    let permits = [guard.admit("search").unwrap(), guard.admit("search").unwrap()];
    assert_eq!(calls_in_flight(&pool, "search"), 2);
    drop(permits);
    assert_eq!(calls_in_flight(&pool, "search"), 0);
    assert_eq!(endpoint(&guard, "search").admitted, 2);
}

#[tokio::test]
async fn all_guards_of_a_pool_are_one() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    let (one, other) = (pool.guard(), pool.clone().guard());
    let permits: Vec<_> = (0..4).map(|_| one.admit("checkout").unwrap()).collect();
    assert_eq!(other.admit("checkout").unwrap_err().reason(), "budget_exhausted");
    drop(one);
    assert_eq!(other.status().in_flight, 4);
    drop(other);
    assert_eq!(pool.guard().status().in_flight, 4, "the permits keep it");
    drop(permits);
    assert_at_rest(&pool.guard());
}

#[tokio::test]
async fn cold_on_a_full_server_it_refuses_at_once_in_the_servers_words() {
    let server = server();
    let _occupants = server.fill();
    let pool = patient(&server);
    let guard = pool.guard();
    pool.acquire("search").await.unwrap_err();

    for _ in 0..100 {
        let Err(Rejection::BreakerOpen { retry_after, failure: Some(failure), .. }) =
            guard.admit("search")
        else {
            panic!("not BreakerOpen")
        };
        assert!(retry_after > HANG / 2 && retry_after <= HANG, "{retry_after:?}");
        assert_eq!(failure.message, "ERR max number of clients reached");
    }

    assert_eq!(dials(&pool), [("max_clients", 1)].into());
    assert_eq!(endpoint(&guard, "search").rejected, [("breaker_open", 101)].into());
    assert_eq!(guard.status().breaker.state, BreakerState::Open);
    assert_at_rest(&guard);
}

#[tokio::test]
async fn a_layer_of_it_sheds_before_the_handler_runs() {
    let server = server();
    let _occupants = server.fill();
    let pool = patient(&server);
    pool.acquire("search").await.unwrap_err();
    let layer = GuardLayer::new(&pool.guard(), "search");
    let handler = ServiceBuilder::new().layer(layer).service(service_fn(|()| async {
        panic!("reached");
        #[allow(unreachable_code, reason = "the type of the response")]
        Ok::<(), Told>(())
    }));
    let Error::Rejected(rejection) = handler.oneshot(()).await.unwrap_err() else { panic!() };
    assert_eq!(rejection.reason(), "breaker_open");
}

#[tokio::test]
async fn the_pool_dials_although_every_caller_is_shed() {
    let server = server();
    let occupants = server.fill();
    let backoff = Backoff::without_jitter(SECOND / 50, SECOND / 20);
    let pool = builder(&server).backoff(backoff).build().unwrap();
    let guard = pool.guard();
    pool.acquire("search").await.unwrap_err();
    let shed = async {
        while dials(&pool).get("max_clients").is_none_or(|dials| *dials < 4) {
            drop(guard.admit("search"));
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("more dials", shed).await;
    occupants.free();
    let shed = async {
        while pool.status().live == 0 {
            drop(guard.admit("search"));
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("recovery", shed).await;
    guard.admit("search").unwrap().finish(Class::Worked);
}

#[tokio::test]
async fn while_one_is_live_it_admits() {
    let server = server();
    let pool = patient(&server);
    drop(pool.acquire("search").await.unwrap());
    let _occupants = server.fill();
    let permits: Vec<_> = (0..6).map(|_| pool.guard().admit("search").unwrap()).collect();
    assert_eq!(permits.len(), 6, "8, less the reserve of checkout");
}

#[tokio::test]
async fn a_refusal_that_a_call_heard_freezes_the_pool() {
    let server = server();
    let pool = patient(&server);
    drop(pool.acquire("search").await.unwrap());
    let mut events = pool.events();
    assert_eq!(pool.status().limit, 8);

    pool.guard().admit("search").unwrap().finish(failed(Outcome::MaxClients));

    assert_eq!((pool.status().limit, pool.status().live), (1, 1));
    let change = |event: &Event| matches!(event, Event::BreakerChanged { .. });
    let event = next("a transition", &mut events, change).await;
    assert!(matches!(event, Event::BreakerChanged { to: BreakerState::Open, .. }), "{event:?}");
    let failure = pool.status().breaker.last_failure.unwrap();
    assert_eq!(
        (failure.outcome, failure.message.as_str()),
        (Outcome::MaxClients, "in its own words")
    );
    assert_eq!(failure.server, pool.status().server);
    drop(pool.acquire("search").await.unwrap());
}

#[tokio::test]
async fn other_failures_of_calls_are_left_to_the_pools_own_dials() {
    let server = server();
    let pool = patient(&server);
    drop(pool.acquire("search").await.unwrap());
    for outcome in [Outcome::Timeout, Outcome::Refused, Outcome::Loading, Outcome::Other] {
        for _ in 0..20 {
            pool.guard().admit("search").unwrap().finish(failed(outcome));
        }
        let status = pool.status();
        assert_eq!((status.breaker.state, status.breaker.failures), (BreakerState::Closed, 0));
        assert_eq!(status.limit, 8, "{outcome}");
        assert!(status.breaker.next_dial_in < SECOND, "{outcome}: {:#?}", status.breaker);
    }
}

#[tokio::test]
async fn a_connection_that_was_killed_under_a_call_does_not_freeze_the_pool() {
    let server = server();
    let pool = patient(&server);
    let guard = pool.guard();
    let redis = ServiceBuilder::new()
        .layer(GuardLayer::new(&guard, "search"))
        .service(pool.service("search"));
    let blocked = tokio::spawn(redis.oneshot(cmd("BLPOP list 0")));
    until("the call", &pool, || pool.status().in_use >= 1).await;
    let clients = || server.admin().client_list();
    let blpop = |client: &std::collections::HashMap<String, String>| client["cmd"] == "blpop";
    let blocked_client = || clients().into_iter().find(blpop);
    until("the command", &pool, || blocked_client().is_some()).await;
    let id = blocked_client().unwrap()["id"].clone();

    server.admin().text(&["CLIENT", "KILL", "ID", &id]);

    let error = soon("the error", blocked).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "inner");
    assert_eq!(pool.status().limit, 8, "{:#?}", pool.status().breaker);
    let leases = futures_util::future::try_join_all((0..6).map(|_| pool.acquire("search")));
    assert_eq!(soon("six leases", leases).await.unwrap().len(), 6);
}

#[tokio::test]
async fn its_breaker_is_the_pools() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    let guard = pool.guard();
    guard.breaker().force_open();
    assert_eq!(pool.breaker().state(), BreakerState::Open);
    assert_eq!(guard.admit("search").unwrap_err().reason(), "breaker_open");
    pool.breaker().auto();
    assert!(guard.admit("search").is_ok());
}

#[tokio::test]
async fn held_open_with_something_live_the_pool_serves_and_its_guard_admits() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    drop(pool.acquire("search").await.unwrap());
    pool.breaker().force_open();
    drop(pool.acquire("search").await.unwrap());
    assert!(pool.guard().admit("search").is_ok());
}

#[tokio::test]
async fn once_the_pool_is_closed_it_refuses() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    let guard = pool.guard();
    drop(pool.acquire("search").await.unwrap());
    pool.close().await;
    assert_eq!(guard.admit("search").unwrap_err(), Rejection::Closed);
    assert_eq!(guard.wait("search").await.unwrap_err(), Rejection::Closed);
}

#[tokio::test]
async fn its_refusals_are_the_pools_events() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    let mut events = pool.guard().events();
    let _permits: Vec<_> = (0..4).map(|_| pool.guard().admit("checkout").unwrap()).collect();
    let guard: Guard = pool.guard();
    guard.admit("checkout").unwrap_err();
    let event =
        next("a refusal", &mut events, |event| matches!(event, Event::Rejected { .. })).await;
    let Event::Rejected { endpoint, rejection, .. } = event else { unreachable!() };
    assert_eq!((endpoint.as_str(), rejection.reason()), ("checkout", "budget_exhausted"));
}

#[tokio::test]
async fn a_call_waits_in_the_guards_queue_for_the_pools_acquire_timeout() {
    let server = server();
    let pool = builder(&server).acquire_timeout(SECOND / 10).build().unwrap();
    let guard = pool.guard();
    let permits: Vec<_> = (0..4).map(|_| guard.admit("checkout").unwrap()).collect();
    assert_eq!(guard.wait("checkout").await.unwrap_err().reason(), "budget_exhausted");
    let waiting = tokio::spawn({
        let guard = guard.clone();
        async move { guard.wait("checkout").await }
    });
    until("a waiter", &pool, || guard.status().waiting == 1).await;
    drop(permits);
    drop(waiting.await.unwrap().unwrap());
    assert_at_rest(&guard);
}

#[tokio::test]
async fn a_pool_whose_guard_was_dropped_can_be_closed_and_dropped() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    drop(pool.acquire("search").await.unwrap());
    drop(pool.guard().admit("search").unwrap());
    let mut events = pool.events();
    drop(pool);
    let ended = async { while events.next().await.is_some() {} };
    soon("the end of the pool", ended).await;
}
