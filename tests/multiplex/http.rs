//! Leases of the extractor's.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::routing::get;
use redis_guard::axum::{Redis, RedisLayer};
use redis_guard::{AsyncCommands, Budget, Error, redis};
use tower::ServiceExt;

use crate::waiting::{soon, until};
use crate::{at_rest, connections, endpoint, leases, pair_with};

async fn body(app: &Router, path: &str) -> String {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = soon(path, app.clone().oneshot(request)).await.unwrap();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.into()).unwrap()
}

#[tokio::test]
async fn a_handlers_lease_shares_until_it_needs_a_connection() {
    let (server, pool) = pair_with(|builder| builder.endpoint("/a/{b}", Budget::max(1)));
    let handler = async |redis: Redis| -> Result<String, Error> {
        let mut one = redis.acquire().await?;
        let mut other = redis.try_acquire()?;
        let visits: u64 = one.incr("visits", 1).await?;
        let () = redis::cmd("WATCH").arg("visits").query_async(&mut other).await?;
        Ok(format!("{visits} {} {}", one.is_exclusive(), other.is_exclusive()))
    };
    let app = Router::new().route("/a/{b}", get(handler)).layer(RedisLayer::new(pool.clone()));

    assert_eq!(body(&app, "/a/1").await, "1 false true");
    at_rest(&pool, &server).await;
    assert_eq!(body(&app, "/a/2").await, "2 false true");

    assert_eq!(endpoint(&pool, "/a/{b}").acquired, 2, "the connection of each WATCH");
    assert_eq!(leases(&pool, "/a/{b}"), (0, 0));
    assert_eq!(connections(&server), 2);
}

#[tokio::test]
async fn idle_leases_name_the_line_of_the_handler() {
    let leak_after = std::time::Duration::from_millis(40);
    let (_server, pool) = pair_with(|builder| builder.leak_after(leak_after));
    let line = line!() + 2;
    let leak = async |redis: Redis| {
        std::mem::forget(redis.acquire().await.unwrap());
    };
    let app = Router::new().route("/leak", get(leak)).layer(RedisLayer::new(pool.clone()));
    for _ in 0..3 {
        body(&app, "/leak").await;
    }

    until("they are idle", &pool, || {
        pool.status().idle_leases.first().is_some_and(|idle| idle.count == 3)
    })
    .await;

    let idle = pool.status().idle_leases.remove(0);
    assert!(idle.location.starts_with(&format!("{}:{line}:", file!())), "{idle:?}");
    assert_eq!(leases(&pool, "/leak"), (3, 0));
}
