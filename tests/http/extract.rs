//! Redis, as a handler sees it.

use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get as on_get;
use redis_guard::axum::{Redis, RedisLayer};
use redis_guard::{AsyncCommands as _, Budget, Error};
use tower::ServiceExt as _;

use crate::support::TestServer;
use crate::waiting::{poll_once, until};
use crate::{builder, get};

#[tokio::test]
async fn a_lease_counts_for_the_route() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).endpoint("/a/{b}", Budget::max(1)).build().unwrap();
    let handler = async |redis: Redis| -> Result<&'static str, Error> {
        let _one = redis.acquire().await?;
        // The budget's only one.
        Ok(redis.try_acquire().unwrap_err().reason())
    };
    let app = Router::new().route("/a/{b}", on_get(handler)).layer(RedisLayer::new(pool.clone()));

    assert_eq!(get(&app, "/a/1").await.body, "budget_exhausted");
    assert_eq!(pool.status().endpoints[0].acquired, 1);
}

#[tokio::test]
async fn shared_commands_count_for_the_route() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).endpoint("/a", Budget::max(1).in_flight(7)).build().unwrap();
    let handler = async |redis: Redis| -> Result<String, Error> {
        let visits: u64 = redis.shared().incr("visits", 1).await?;
        Ok(visits.to_string())
    };
    let app = Router::new().route("/a", on_get(handler)).layer(RedisLayer::new(pool.clone()));

    assert_eq!(get(&app, "/a").await.body, "1");
    let status = pool.status();
    let endpoint = status.endpoints.iter().find(|e| e.name.as_str() == "/a").unwrap();
    assert_eq!(endpoint.shared_in_flight_max, 7, "its own in-flight limit was opened");
}

#[tokio::test]
async fn a_leak_names_the_line_of_the_handler() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).leak_after(Duration::from_millis(40)).build().unwrap();
    let line = line!() + 2;
    let leak = async |redis: Redis| {
        let _held = redis.acquire().await.unwrap();
        pending::<()>().await;
    };
    let app = Router::new().route("/", on_get(leak)).layer(RedisLayer::new(pool.clone()));
    let request = Request::builder().uri("/").body(Body::empty()).unwrap();
    let mut response = Box::pin(app.oneshot(request));

    until("the leak", &pool, || {
        assert!(poll_once(&mut response).is_pending());
        !pool.status().leaks.is_empty()
    })
    .await;

    let leak = pool.status().leaks.remove(0);
    assert!(leak.location.starts_with(&format!("{}:{line}:", file!())), "{leak}");
}

#[tokio::test]
async fn without_the_layer_the_answer_says_what_is_missing() {
    let app = Router::new().route("/", on_get(async |_: Redis| "never"));

    let answer = get(&app, "/").await;

    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.body.contains("RedisLayer"), "{}", answer.body);
}

#[tokio::test]
async fn an_optional_extractor_is_none_without_the_layer_and_some_with_it() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let handler = async |redis: Option<Redis>| redis.is_some().to_string();
    let without = Router::new().route("/", on_get(handler));
    let with = without.clone().layer(RedisLayer::new(pool));

    assert_eq!(
        (get(&without, "/").await.body, get(&with, "/").await.body),
        ("false".into(), "true".into())
    );
}
