//! What a client is told that cannot be served, and what it is not told.

use std::collections::HashSet;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get as on_get;
use redis_guard::axum::RedisLayer;
use redis_guard::redis::{RedisError, Value, cmd};
use redis_guard::{Backoff, Budget, Error, GuardedPool, Rejection};

use crate::support::TestServer;
use crate::waiting::poll_once;
use crate::{Answer, builder, cold, get};

const CAPACITY: &str = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";

/// What a client gets whose handler returned the error.
async fn answer(error: impl Into<Error>) -> Answer {
    let error = error.into();
    let app = Router::new().route("/", on_get(async move || Err::<(), Error>(error.clone())));
    get(&app, "/").await
}

/// An error as the server sends it.
async fn reply(pool: &GuardedPool, text: &str) -> RedisError {
    let mut lease = pool.acquire("test").await.unwrap();
    let script = "return redis.error_reply(ARGV[1])";
    cmd("EVAL").arg(script).arg(0).arg(text).query_async::<Value>(&mut lease).await.unwrap_err()
}

#[tokio::test]
async fn a_refusal_is_503_with_retry_after_and_problem_details() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;

    let answer = answer(pool.acquire("test").await.unwrap_err()).await;

    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["type"], CAPACITY);
    assert_eq!(problem["title"], "Temporary Reduced Capacity");
    assert_eq!(problem["status"], 503);
    assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
    assert_eq!(problem["reason"], "breaker_open");
    assert_eq!(problem["retry_after_seconds"], answer.retry_after());
}

#[tokio::test]
async fn no_time_is_too_long_for_the_header() {
    let answer = answer(Rejection::breaker_open(Duration::MAX)).await;
    assert_eq!(answer.header("retry-after"), Some(u64::MAX.to_string().as_str()));
}

#[tokio::test]
async fn the_client_hears_nothing_of_the_server() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;
    let error = pool.acquire("internal-job").await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1"), "{error}");

    let answer = answer(error).await;

    for secret in ["127.0.0.1", "max number", "internal-job", &server.port().to_string()] {
        assert!(!format!("{answer:?}").contains(secret), "{secret}: {answer:?}");
    }
}

#[tokio::test]
async fn retry_after_is_rounded_up_and_spread_at_random() {
    let pool = GuardedPool::builder("redis://127.0.0.1:1")
        .backoff(Backoff::without_jitter(Duration::from_millis(1), Duration::from_millis(2_500)))
        .build()
        .unwrap();
    pool.breaker().force_open();
    let error = pool.acquire("test").await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_millis(2_500)));

    let mut told = HashSet::new();
    for _ in 0..200 {
        told.insert(answer(error.clone()).await.retry_after());
    }

    assert_eq!(told, HashSet::from([3, 4, 5, 6]));
}

#[tokio::test]
async fn retry_after_is_at_least_a_second_where_the_wait_is_shorter_or_not_known() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).endpoint("one", Budget::max(1)).build().unwrap();
    let _held = pool.acquire("one").await.unwrap();
    let exhausted = pool.try_acquire("one").unwrap_err();
    assert_eq!(exhausted.retry_after(), None);

    for _ in 0..50 {
        assert!((1..=2).contains(&answer(exhausted.clone()).await.retry_after()));
    }
}

#[tokio::test]
async fn every_kind_of_refusal_is_503_and_says_which() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server)
        .max_connections(2)
        .queue_limit(1)
        .acquire_timeout(Duration::from_millis(20))
        .endpoint("one", Budget::max(1))
        .build()
        .unwrap();
    pool.warm_up(2).await.unwrap();
    let _held = [pool.acquire("one").await.unwrap(), pool.acquire("other").await.unwrap()];
    let mut waiter = Box::pin(pool.acquire("other"));
    assert!(poll_once(&mut waiter).is_pending());
    let mut refusals = vec![
        ("budget_exhausted", pool.try_acquire("one").unwrap_err()),
        ("queue_full", pool.acquire("other").await.unwrap_err()),
        ("acquire_timeout", waiter.await.unwrap_err()),
    ];
    assert!(poll_once(&mut Box::pin(pool.close())).is_pending(), "leases are out");
    refusals.push(("closed", pool.acquire("other").await.unwrap_err()));

    for (reason, error) in refusals {
        let answer = answer(error).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{reason}");
        assert_eq!(answer.json()["reason"], reason);
    }
}

#[tokio::test]
async fn a_refusal_that_became_a_redis_error_is_503_too() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;
    // As from a shared handle, which speaks only redis-rs's errors.
    let error = cmd("PING").query_async::<Value>(&mut pool.shared("test")).await.unwrap_err();

    let answer = answer(error).await;

    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["reason"], "redis_unavailable");
    assert!((1..=2).contains(&answer.retry_after()));
}

#[tokio::test]
async fn what_the_server_says_when_it_cannot_serve_anybody_is_503() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    for text in [
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOREPLICAS Not enough good replicas to write.",
        // A proxy that passes the shard's refusal on.
        "ERR max number of clients reached",
    ] {
        let answer = answer(reply(&pool, text).await).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
        assert!(answer.retry_after() >= 1, "{text}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_request_is_500_and_the_client_is_not_told_what() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    for text in [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "NOPERM this user has no permissions to run the 'get' command",
        "ERR syntax error",
        "NOSCRIPT No matching script",
    ] {
        let answer = answer(reply(&pool, text).await).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
        assert_eq!(answer.header("retry-after"), None, "{text}");
        assert!(!answer.body.contains(text.split_once(' ').unwrap().1), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_reply_of_another_type_than_asked_for_is_500() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let mut lease = pool.acquire("test").await.unwrap();
    let error = cmd("PING").query_async::<u64>(&mut lease).await.unwrap_err();

    assert_eq!(answer(error).await.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_pipeline_is_503_if_one_of_its_replies_says_so() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let mut lease = pool.acquire("test").await.unwrap();
    let mut pipeline = redis_guard::redis::pipe();
    for text in ["ERR syntax error", "OOM command not allowed"] {
        pipeline.cmd("EVAL").arg("return redis.error_reply(ARGV[1])").arg(0).arg(text);
    }
    let error = pipeline.query_async::<Value>(&mut lease).await.unwrap_err();

    assert_eq!(answer(error).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_connection_that_is_lost_is_503() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let mut lease = pool.acquire("test").await.unwrap();
    server.crash();
    let error = cmd("PING").query_async::<Value>(&mut lease).await.unwrap_err();

    assert_eq!(answer(error).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_command_that_is_not_answered_in_time_is_503() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).response_timeout(Duration::from_millis(20)).build().unwrap();
    let mut lease = pool.acquire("test").await.unwrap();
    server.pause();
    let error = cmd("PING").query_async::<Value>(&mut lease).await.unwrap_err();
    server.resume();

    assert_eq!(answer(error).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn headers_that_the_handler_set_beside_a_refusal_stay() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;
    let of = pool.clone();
    let handler = async move || -> Response {
        let refusal: Option<Rejection> = of.acquire("test").await.unwrap_err().rejection().cloned();
        ([("x-request-id", "7")], refusal.unwrap()).into_response()
    };
    let layer = RedisLayer::new(pool).status(StatusCode::TOO_MANY_REQUESTS);
    let app = Router::new().route("/", on_get(handler)).layer(layer);

    let answer = get(&app, "/").await;

    assert_eq!((answer.status.as_u16(), answer.header("x-request-id")), (429, Some("7")));
}
