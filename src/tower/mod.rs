//! The guard as [`tower`] layers and services: budgets, breaker and retries where a service
//! already stacks its timeouts and limits.
//!
//! - [`GuardLayer`] puts a [`Guard`](crate::Guard) before *any* service; where its error is none that the guard
//!   knows, [`ByAnyError`] or a closure reads it.
//! - [`RedisService`] makes a pool a service of commands, for any tower stack to wrap.
//! - [`RetryPolicy`] retries what is safe to, under a [`RetryBudget`](crate::RetryBudget).
//!
//! ```no_run
//! use std::time::Duration;
//! use redis_guard::{GuardedPool, redis::Cmd, tower::RetryPolicy};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
//! let redis = ServiceBuilder::new()
//!     .timeout(Duration::from_secs(1))    // over all attempts
//!     .retry(RetryPolicy::default().longest_wait(Duration::from_millis(250)))
//!     .service(pool.service("search"));
//! let hits = redis.clone().oneshot(Cmd::get("hits")).await?;
//! # let _ = hits; Ok(()) }
//! ```
//!
//! # Where to put it
//!
//! Outside of what it guards, inside of what should see its refusals: a timeout outside bounds the whole
//! call, one inside bounds each attempt and is heard by the breaker; a retry outside sees refusals
//! and honours their `retry_after` (keep its [`longest_wait`](RetryPolicy::longest_wait) well under the
//! timeout outside, or callers hear of that instead of the refusal); `Buffer` and `LoadShed` outside are not needed for its sake, for
//! it never makes a caller wait in `poll_ready`.
//!
//! Where the inner service has a boxed error, as under tower's `Timeout`, `map_err(Error::into_boxed)` outside
//! of the guard makes one of both again.
//!
//! # Why a permit is not taken in `poll_ready`
//!
//! A service that takes its permit in `poll_ready`, as tower's own `ConcurrencyLimit` does, keeps it
//! from then until `call`, and a caller may be ready and never call: a `Balance` with ready
//! endpoints, a `select!` that went the other way, a clone that is kept for later. Each such permit is a
//! slot that nobody uses, and a leak that no sweep can see. And a request's endpoint is not known
//! before the request is. So `poll_ready` passes the inner service's readiness through, and
//! `call` admits: the permit lives in the future that it returns, and in nothing else.

mod classify;
mod future;
#[cfg(feature = "http")]
mod http;
mod layer;
mod queued;
mod redis_service;
mod retry;
mod service;

pub use classify::{ByAnyError, ByError, Classify, ClassifyError, ErrorBy};
pub use future::ResponseFuture;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub use http::ByStatus;
#[cfg(feature = "axum")]
pub(crate) use http::OwnRefusal;
pub use layer::{ByRequest, EndpointOf, Fixed, GuardLayer};
pub use queued::{QueuedFuture, QueuedGuardLayer, QueuedGuardService};
pub use redis_service::{RedisFuture, RedisService};
pub use retry::{Attempt, RetryDelay, RetryError, RetryPolicy, RetryRequest};
pub use service::GuardService;
