//! For axum: a middleware that names the endpoint after the route, an extractor, refusals as HTTP
//! responses, and status routes.
//!
//! ```no_run
//! use axum::Router;
//! use axum::extract::Path;
//! use axum::routing::get;
//! use redis_guard::axum::{Redis, RedisLayer, status_routes};
//! use redis_guard::{AsyncCommands, Budget, Error, GuardedPool};
//!
//! async fn session(Path(id): Path<String>, redis: Redis) -> Result<String, Error> {
//!     let mut conn = redis.acquire().await?; // counts for "/session/{id}"
//!     Ok(conn.get(format!("session:{id}")).await?)
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = GuardedPool::builder("redis://127.0.0.1:6379")
//!     .max_connections(32)
//!     .endpoint("/session/{id}", Budget::max(16).reserve(8))
//!     .build()?;
//! let app: Router = Router::new()
//!     .route("/session/{id}", get(session))
//!     .layer(RedisLayer::new(pool.clone()));
//! let admin: Router = Router::new().merge(status_routes(pool)); // on a private listener
//! # let _ = (app, admin);
//! # Ok(()) }
//! ```
//!
//! # Refusals
//!
//! A [`Rejection`](crate::Rejection) and an [`Error`](crate::Error) are responses, so a handler can
//! use `?`. Whatever is for want of capacity, or will pass, is 503 with `Retry-After` in whole seconds
//! (at least one, and spread at random, so that clients do not come back together) and problem details:
//!
//! ```text
//! HTTP/1.1 503 Service Unavailable
//! content-type: application/problem+json
//! retry-after: 3
//!
//! {"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
//!  "title":"Temporary Reduced Capacity","status":503,
//!  "detail":"a service that this one depends on cannot be reached at the moment",
//!  "reason":"breaker_open","retry_after_seconds":3}
//! ```
//!
//! # Doing without Redis
//!
//! A refusal comes at once, so there is time to do something better than to pass it on: answer with
//! what was true a moment ago. Mark such a response as a [`Fallback`], and it counts as one:
//! `redis_guard_requests_total{endpoint,outcome}` tells `served`, `fallback` and `shed` (a refusal that
//! reached the client) apart. A request whose client left before the response counts as none of them.
//!
//! ```
//! use axum::response::{IntoResponse, Response};
//! use redis_guard::axum::{Fallback, Redis};
//! use redis_guard::{AsyncCommands, Error};
//! # fn last_known() -> Option<String> { None }
//! # fn remember(_: &str) {}
//!
//! async fn prices(redis: Redis) -> Result<Response, Error> {
//!     let fresh: Result<String, Error> = async { Ok(redis.acquire().await?.get("prices").await?) }.await;
//!     match (fresh, last_known()) {
//!         (Ok(prices), _) => {
//!             remember(&prices);
//!             Ok(prices.into_response())
//!         }
//!         (Err(_), Some(stale)) => Ok(Fallback(stale).into_response()),
//!         (Err(error), None) => Err(error), // 503 with Retry-After
//!     }
//! }
//! # let _: axum::Router = axum::Router::new().route("/prices", axum::routing::get(prices));
//! ```

mod extract;
mod fallback;
mod middleware;
mod problem;
mod same_origin;
mod status_page;
mod status_routes;

pub use extract::{MissingLayer, Redis};
pub use fallback::Fallback;
pub use middleware::{RedisLayer, RedisMiddleware, ResponseFuture};
pub use status_routes::{StatusRoutes, status_routes};
