//! The middleware, the extractor, refusals and status routes, in routers as services have them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../example/mod.rs"]
mod example;
#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod client;
#[cfg(feature = "doctor")]
mod doctor;
mod extract;
mod layer;
mod refusals;
mod service;
mod status;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use redis_guard::{Backoff, GuardedPool, GuardedPoolBuilder};
use serde_json::Value;
use support::{TestServer, unhurried};
use tower::ServiceExt as _;

/// What a client gets.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Seconds.
    fn retry_after(&self) -> u64 {
        let header = self.header("retry-after");
        header.unwrap_or_else(|| panic!("no Retry-After: {self:?}")).parse().unwrap()
    }
}

async fn send(app: &Router, method: Method, path: &str) -> Answer {
    send_with(app, method, path, &[]).await
}

async fn send_with(app: &Router, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = String::from_utf8(body.into()).unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn get(app: &Router, path: &str) -> Answer {
    send(app, Method::GET, path).await
}

/// A full server, and a pool that has nothing and dials again only after a long time.
async fn cold(server: &TestServer) -> GuardedPool {
    let backoff = Backoff::without_jitter(waiting::HANG, waiting::HANG);
    let pool = builder(server).backoff(backoff).build().unwrap();
    pool.acquire("setup").await.unwrap_err();
    pool
}

fn builder(server: &TestServer) -> GuardedPoolBuilder {
    unhurried(server.url()).max_connections(4)
}

/// How often requests of the endpoint ended so.
fn requests(pool: &GuardedPool, endpoint: &str, outcome: &str) -> u64 {
    counts(pool, endpoint, |endpoint| endpoint.requests.get(outcome).copied())
}

/// How often callers of the endpoint were refused for this reason.
fn rejected(pool: &GuardedPool, endpoint: &str, reason: &str) -> u64 {
    counts(pool, endpoint, |endpoint| endpoint.rejected.get(reason).copied())
}

fn counts(
    pool: &GuardedPool,
    name: &str,
    count: impl Fn(&redis_guard::EndpointStatus) -> Option<u64>,
) -> u64 {
    let status = pool.status();
    status
        .endpoints
        .iter()
        .find(|endpoint| endpoint.name.as_str() == name)
        .and_then(count)
        .unwrap_or(0)
}
