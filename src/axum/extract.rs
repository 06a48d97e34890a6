//! The extractor: Redis, as a handler sees it.

use std::convert::Infallible;
use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

#[expect(unused_imports, reason = "for the docs")]
use super::RedisLayer;
use crate::{Endpoint, Error, GuardedConnection, GuardedPool, SharedConnection};

/// The pool, for one request: what it acquires counts for the request's endpoint. An extractor, for
/// routes under a [`RedisLayer`].
///
/// ```
/// use redis_guard::axum::Redis;
/// use redis_guard::{AsyncCommands, Error};
///
/// async fn visits(redis: Redis) -> Result<String, Error> {
///     let visits: u64 = redis.shared().incr("visits", 1).await?;
///     Ok(format!("visit {visits}"))
/// }
/// # let _: axum::Router = axum::Router::new().route("/visits", axum::routing::get(visits));
/// ```
///
/// `Option<Redis>` is `None` without the layer.
#[derive(Clone, Debug)]
pub struct Redis {
    pub(super) pool: GuardedPool,
    pub(super) endpoint: Endpoint,
}

impl Redis {
    /// Leases a connection; see [`GuardedPool::acquire`].
    ///
    /// # Errors
    ///
    /// As [`GuardedPool::acquire`].
    ///
    /// # Cancel safety
    ///
    /// As [`GuardedPool::acquire`]. axum drops the future of a handler whose client has gone.
    #[track_caller]
    pub fn acquire(&self) -> impl Future<Output = Result<GuardedConnection, Error>> + Send + use<> {
        self.pool.acquire(self.endpoint.clone())
    }

    /// Leases a connection if one is free right now; see [`GuardedPool::try_acquire`].
    ///
    /// # Errors
    ///
    /// As [`GuardedPool::try_acquire`].
    #[track_caller]
    pub fn try_acquire(&self) -> Result<GuardedConnection, Error> {
        self.pool.try_acquire(self.endpoint.clone())
    }

    /// A handle on the shared connections; see [`GuardedPool::shared`].
    #[must_use]
    #[track_caller]
    pub fn shared(&self) -> SharedConnection {
        self.pool.shared(self.endpoint.clone())
    }

    /// What this request counts as.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The pool, for what counts elsewhere.
    #[must_use]
    pub const fn pool(&self) -> &GuardedPool {
        &self.pool
    }
}

impl<S: Sync> FromRequestParts<S> for Redis {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, MissingLayer> {
        parts.extensions.get().cloned().ok_or(MissingLayer)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Redis {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

/// A handler wants [`Redis`], and no [`RedisLayer`] is around its route: a mistake in the program, and
/// the one that is answered with 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingLayer;

impl fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no redis_guard::axum::RedisLayer is around this route")
    }
}

impl std::error::Error for MissingLayer {}

impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}
