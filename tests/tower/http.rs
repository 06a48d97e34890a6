//! A guard among tower-http's layers, over a service that speaks HTTP.

use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use redis_guard::tower::{ByStatus, GuardLayer};
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::ServiceBuilderExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::MakeRequestUuid;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use crate::{SECOND, assert_at_rest, endpoint, guard};

type Body = Full<bytes::Bytes>;

fn request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::default()).unwrap()
}

/// A handler of `/slow`, `/panic` and `/<status>`.
async fn handler(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let status = match request.uri().path().trim_start_matches('/') {
        "slow" => {
            sleep(SECOND).await;
            200
        }
        "panic" => panic!("in the handler"),
        status => status.parse().unwrap(),
    };
    Ok(Response::builder().status(status).body(Body::default()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn trace_request_id_and_timeout_around_and_inside_of_a_guard() {
    let guard = guard(4);
    let service = ServiceBuilder::new()
        .set_x_request_id(MakeRequestUuid)
        .layer(TraceLayer::new_for_http())
        .propagate_x_request_id()
        .layer(
            GuardLayer::by_request(&guard, |request: &Request<Body>| {
                request.uri().path().to_owned()
            })
            .classify(ByStatus),
        )
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, SECOND / 10))
        .service_fn(handler);

    let response = service.clone().oneshot(request("/200")).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers().contains_key("x-request-id"));
    assert_eq!(endpoint(&guard, "/200").admitted, 1);
    for _ in 0..5 {
        let response = service.clone().oneshot(request("/slow")).await.unwrap();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    }
    let refused = service.oneshot(request("/200")).await.err().unwrap();
    assert_eq!(refused.reason(), "breaker_open");
    assert_eq!(refused.rejection().unwrap().failure().unwrap().message, "HTTP 504 Gateway Timeout");
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_under_catch_panic_gives_its_place_back_and_counts_as_an_answer() {
    let guard = guard(1);
    let service = ServiceBuilder::new()
        .layer(GuardLayer::new(&guard, "search").classify(ByStatus))
        .layer(CatchPanicLayer::new())
        .service_fn(handler);
    for _ in 0..10 {
        let response = service.clone().oneshot(request("/panic")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(guard.status().limit, 1);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn catch_panic_outside_of_a_guard_gives_the_place_back_too() {
    let guard = guard(1);
    let service = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(GuardLayer::new(&guard, "search").classify(ByStatus))
        .service_fn(handler);
    for _ in 0..10 {
        let response = service.clone().oneshot(request("/panic")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_at_rest(&guard);
    }
}

#[tokio::test(start_paused = true)]
async fn five_bad_gateways_in_a_row_open_the_breaker_and_client_errors_do_not() {
    let guard = guard(4);
    let service = ServiceBuilder::new()
        .layer(GuardLayer::new(&guard, "search").classify(ByStatus))
        .service_fn(handler);
    for _ in 0..20 {
        service.clone().oneshot(request("/404")).await.unwrap();
    }
    for _ in 0..5 {
        service.clone().oneshot(request("/502")).await.unwrap();
    }
    let refused = service.clone().oneshot(request("/200")).await.unwrap_err();
    assert_eq!(refused.reason(), "breaker_open");
    tokio::time::advance(SECOND).await;
    service.clone().oneshot(request("/200")).await.unwrap();
    service.oneshot(request("/200")).await.unwrap();
}
