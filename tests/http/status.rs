//! The routes for operators and orchestrators.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{Method, StatusCode};
use redis_guard::axum::{StatusRoutes, status_routes};
use redis_guard::{BreakerState, Budget, GuardedPool};

use crate::support::TestServer;
use crate::waiting::until;
use crate::{builder, cold, get, send};

fn app(routes: StatusRoutes) -> Router {
    Router::new().merge(routes)
}

fn absent() -> GuardedPool {
    GuardedPool::builder("redis://127.0.0.1:1").build().unwrap()
}

#[tokio::test]
async fn status_is_the_pools_snapshot() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).endpoint("a", Budget::max(3).reserve(1)).build().unwrap();
    let _held = pool.acquire("a").await.unwrap();

    let mut page = get(&app(status_routes(pool.clone())), "/status").await.json();

    let mut snapshot = serde_json::to_value(pool.status()).unwrap();
    page.as_object_mut().unwrap().remove("events");
    for status in [&mut page, &mut snapshot] {
        // Time went on.
        status["breaker"]["next_dial_in_seconds"].take();
    }
    assert_eq!(page, snapshot);
}

#[tokio::test]
async fn status_has_the_recent_events_with_their_time() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = seconds();
    pool.warm_up(1).await.unwrap();
    pool.breaker().force_open();

    let page = get(&app(status_routes(pool)), "/status").await.json();

    let events = page["events"].as_array().unwrap();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["connected", "breaker_changed"]);
    assert_eq!((&events[0]["live"], &events[1]["to"]), (&1.into(), &"open".into()));
    let at = events[0]["at"].as_f64().unwrap();
    assert!((before..=seconds()).contains(&at), "{at}");
}

#[tokio::test]
async fn a_pool_that_has_not_been_asked_for_anything_is_ready() {
    let answer = get(&app(status_routes(absent())), "/readyz").await;

    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, r#"{"status":"ready"}"#));
}

#[tokio::test]
async fn while_nobody_can_be_served_it_is_ready_but_degraded_and_says_why() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;

    let answer = get(&app(status_routes(pool)), "/readyz").await;

    assert_eq!(answer.status, StatusCode::OK);
    let page = answer.json();
    assert_eq!((&page["status"], &page["reason"]), (&"degraded".into(), &"breaker_open".into()));
    assert!(page["detail"].as_str().unwrap().contains("max number of clients"), "{page}");
}

#[tokio::test]
async fn degraded_is_503_where_redis_is_required() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;

    let answer = get(&app(status_routes(pool).require_redis()), "/readyz").await;

    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["status"], "degraded");
}

#[tokio::test]
async fn where_redis_is_required_being_asked_is_enough_to_become_ready() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let app = app(status_routes(pool.clone()).require_redis());

    let first = get(&app, "/readyz").await;
    assert_eq!(first.json()["reason"], "not_connected");
    assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE);

    // Nobody but the probe asked.
    until("a connection", &pool, || pool.status().live == 1).await;
    assert_eq!(get(&app, "/readyz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn with_a_live_connection_it_is_ready_though_the_breaker_is_open() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    pool.warm_up(1).await.unwrap();
    pool.breaker().force_open();

    let answer = get(&app(status_routes(pool).require_redis()), "/readyz").await;

    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, r#"{"status":"ready"}"#));
}

#[tokio::test]
async fn a_closed_pool_is_never_ready() {
    let pool = absent();
    pool.close().await;

    let answer = get(&app(status_routes(pool)), "/readyz").await;

    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["status"], "closed");
}

#[tokio::test]
async fn without_overrides_there_is_nothing_to_force() {
    let pool = absent();
    let app = app(status_routes(pool.clone()));

    for path in ["/breaker/open", "/breaker/closed", "/breaker/auto"] {
        assert_eq!(send(&app, Method::POST, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(pool.breaker().state(), BreakerState::Closed);
}

#[tokio::test]
async fn overrides_force_the_breaker_and_take_that_back() {
    let pool = absent();
    let app = app(status_routes(pool.clone()).overrides());
    for (path, state, forced) in [
        ("/breaker/open", "open", true),
        ("/breaker/closed", "closed", true),
        ("/breaker/auto", "closed", false),
    ] {
        let answer = send(&app, Method::POST, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(answer.json()["state"], state, "{path}");
        assert_eq!(answer.json()["forced"], forced, "{path}");
    }
}

#[tokio::test]
async fn an_override_is_not_to_be_had_by_following_a_link() {
    let app = app(status_routes(absent()).overrides());

    assert_eq!(get(&app, "/breaker/open").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn each_pool_of_a_process_can_have_its_own_prefix() {
    let named =
        |name: &str| GuardedPool::builder("redis://127.0.0.1:1").name(name).build().unwrap();
    let app: Router = Router::new()
        .nest("/a", status_routes(named("first")).into())
        .nest("/b", status_routes(named("second")).into());

    assert_eq!(get(&app, "/a/status").await.json()["pool"], "first");
    assert_eq!(get(&app, "/b/status").await.json()["pool"], "second");
}
