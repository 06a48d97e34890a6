//! What the layer does to a request on its way in, and what it counts on its way out.

use std::convert::Infallible;
use std::future::{Pending, pending};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::get as on_get;
use redis_guard::axum::{Fallback, Redis, RedisLayer};
use redis_guard::{Backoff, Endpoint, Error, GuardedPool};
use tokio::time::sleep;
use tower::{Layer as _, Service, ServiceExt as _};

use crate::support::TestServer;
use crate::waiting::{at_rest, poll_once, soon, until};
use crate::{builder, cold, get, rejected, requests, send};

/// Says which endpoint it counts for.
async fn name(redis: Redis) -> String {
    redis.endpoint().to_string()
}

async fn ping(redis: Redis) -> Result<String, Error> {
    Ok(redis_guard::redis::cmd("PING").query_async(&mut redis.acquire().await?).await?)
}

fn pool() -> GuardedPool {
    GuardedPool::builder("redis://127.0.0.1:1").build().unwrap()
}

#[tokio::test]
async fn the_endpoint_is_the_route_that_matched() {
    let app = Router::new().route("/session/{id}", on_get(name)).layer(RedisLayer::new(pool()));

    assert_eq!(get(&app, "/session/1").await.body, "/session/{id}");
    assert_eq!(get(&app, "/session/2").await.body, "/session/{id}");
}

#[tokio::test]
async fn a_nested_route_is_named_in_full() {
    let inner = Router::new().route("/{id}", on_get(name));
    let app = Router::new().nest("/users", inner).layer(RedisLayer::new(pool()));

    assert_eq!(get(&app, "/users/7").await.body, "/users/{id}");
}

#[tokio::test]
async fn a_request_that_matched_no_route_counts_as_other() {
    let app = Router::new().fallback(name).layer(RedisLayer::new(pool()));

    assert_eq!(get(&app, "/nowhere").await.body, "other");
}

#[tokio::test]
async fn a_closure_names_the_endpoint() {
    let by_method = |request: &Request| match *request.method() {
        Method::GET => "read",
        _ => "write",
    };
    let app = Router::new()
        .route("/", on_get(name).put(name))
        .layer(RedisLayer::new(pool()).endpoint_by(by_method));

    assert_eq!(get(&app, "/").await.body, "read");
    assert_eq!(send(&app, Method::PUT, "/").await.body, "write");
}

#[tokio::test]
async fn no_name_is_made_for_a_route_that_is_known() {
    let seen = Arc::new(Mutex::new(Vec::<Endpoint>::new()));
    let note = Arc::clone(&seen);
    let handler = async move |redis: Redis| note.lock().unwrap().push(redis.endpoint().clone());
    let app = Router::new().route("/a/{b}", on_get(handler)).layer(RedisLayer::new(pool()));

    get(&app, "/a/1").await;
    get(&app, "/a/2").await;

    let seen = seen.lock().unwrap();
    assert!(std::ptr::eq(seen[0].as_str(), seen[1].as_str()), "the same text in memory");
}

#[tokio::test]
async fn while_nothing_is_live_the_handler_runs_all_the_same() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;
    let app = Router::new().route("/", on_get(name)).layer(RedisLayer::new(pool));

    assert_eq!(get(&app, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn shed_when_open_refuses_before_the_handler_runs() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let handler = async move || count.fetch_add(1, Ordering::Relaxed).to_string();
    let layer = RedisLayer::new(pool).shed_when_open();
    let app = Router::new().route("/", on_get(handler)).layer(layer);

    let answer = get(&app, "/").await;

    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["reason"], "breaker_open");
    assert_eq!(runs.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_request_that_is_shed_counts_as_a_rejection_of_its_endpoint() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;
    let layer = RedisLayer::new(pool.clone()).shed_when_open();
    let app = Router::new().route("/a", on_get(ping)).layer(layer);

    get(&app, "/a").await;
    get(&app, "/a").await;

    assert_eq!(rejected(&pool, "/a", "breaker_open"), 2);
    assert_eq!(requests(&pool, "/a", "shed"), 2);
}

#[tokio::test]
async fn with_something_live_nothing_is_shed_though_the_breaker_is_open() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    pool.warm_up(1).await.unwrap();
    pool.breaker().force_open();
    let layer = RedisLayer::new(pool).shed_when_open();
    let app = Router::new().route("/", on_get(ping)).layer(layer);

    assert_eq!(get(&app, "/").await.body, "PONG");
}

#[tokio::test]
async fn a_pool_whose_requests_are_all_shed_comes_back_when_the_server_has_room() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let occupants = server.fill();
    let tick = Duration::from_millis(5);
    let pool = builder(&server).backoff(Backoff::equal_jitter(tick, tick)).build().unwrap();
    pool.acquire("setup").await.unwrap_err();
    let layer = RedisLayer::new(pool.clone()).shed_when_open();
    let app = Router::new().route("/", on_get(ping)).layer(layer);
    assert_eq!(get(&app, "/").await.status, StatusCode::SERVICE_UNAVAILABLE);

    occupants.free();

    let served = async {
        while get(&app, "/").await.status != StatusCode::OK {
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("a served request", served).await;
}

#[tokio::test]
async fn the_status_of_refusals_is_the_layers() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;
    let layer = RedisLayer::new(pool).status(StatusCode::TOO_MANY_REQUESTS);
    let app = Router::new()
        .route("/shed", on_get(ping))
        .layer(layer.clone().shed_when_open())
        .merge(Router::new().route("/handled", on_get(ping)).layer(layer));

    for path in ["/shed", "/handled"] {
        let answer = get(&app, path).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
        assert_eq!(answer.json()["status"], 429, "{path}");
        assert_eq!(answer.json()["retry_after_seconds"], answer.retry_after(), "{path}");
    }
}

#[tokio::test]
async fn each_response_counts_as_served_fallback_or_shed() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;
    let app = Router::new()
        .route("/served", on_get(name))
        .route("/missing", on_get(async || StatusCode::NOT_FOUND))
        .route("/fallback", on_get(async || Fallback("stale")))
        .route("/shed", on_get(ping))
        .layer(RedisLayer::new(pool.clone()));

    for path in ["/served", "/missing", "/fallback", "/fallback", "/shed"] {
        get(&app, path).await;
    }

    let outcomes: Vec<_> = pool
        .status()
        .endpoints
        .into_iter()
        .flat_map(|endpoint| {
            let name = endpoint.name.to_string();
            endpoint
                .requests
                .into_iter()
                .map(move |(outcome, count)| (name.clone(), outcome, count))
        })
        .collect();
    let expected = [
        ("/served", "served", 1),
        ("/missing", "served", 1),
        ("/fallback", "fallback", 2),
        ("/shed", "shed", 1),
    ];
    assert_eq!(outcomes, expected.map(|(name, outcome, count)| (name.to_owned(), outcome, count)));
}

#[tokio::test]
async fn a_fallback_goes_out_as_it_is() {
    let app = Router::new()
        .route("/", on_get(async || Fallback((StatusCode::ACCEPTED, [("age", "7")], "stale"))))
        .layer(RedisLayer::new(pool()));

    let answer = get(&app, "/").await;

    assert_eq!(
        (answer.status, answer.header("age"), answer.body.as_str()),
        (StatusCode::ACCEPTED, Some("7"), "stale")
    );
}

#[tokio::test]
async fn a_request_whose_client_has_gone_gives_its_connection_back_and_counts_as_none() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let hold = async |redis: Redis| {
        let _held = redis.acquire().await.unwrap();
        pending::<()>().await;
    };
    let app = Router::new().route("/", on_get(hold)).layer(RedisLayer::new(pool.clone()));
    let request = Request::builder().uri("/").body(Body::empty()).unwrap();
    let mut response = Box::pin(app.oneshot(request));
    until("the lease", &pool, || {
        assert!(poll_once(&mut response).is_pending());
        pool.status().in_use == 1
    })
    .await;

    drop(response);

    at_rest(&pool, &server).await;
    assert!(pool.status().endpoints.iter().all(|endpoint| endpoint.requests.is_empty()));
}

/// A service that is never ready.
struct Busy;

impl Service<Request> for Busy {
    type Response = Response;
    type Error = Infallible;
    type Future = Pending<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request) -> Self::Future {
        pending()
    }
}

#[test]
fn it_passes_the_readiness_of_what_it_wraps_through() {
    let mut service = RedisLayer::new(pool()).layer(Busy);

    assert!(service.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending());
}
