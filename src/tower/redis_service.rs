//! A pool as a service of commands.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use redis::{Cmd, Pipeline, Value};
use tower::Service;

use crate::pool::{GuardedConnection, GuardedPool, SharedConnection};
use crate::{Endpoint, Error, Rejection};

/// A [`GuardedPool`] as a service: `Service<redis::Cmd, Response = redis::Value>` and
/// `Service<redis::Pipeline, Response = Vec<redis::Value>>`, for any tower stack to wrap; from
/// [`GuardedPool::service`].
///
/// Commands go over the pool's shared connections, with everything that
/// [`SharedConnection`] says of them, or each over a lease of its own
/// ([`exclusive`](Self::exclusive)). It is always ready: who may go is decided when a command is
/// sent, so that a caller who is ready and never calls holds nothing. A pipeline's response is the
/// replies of its commands, or the one of EXEC where it is atomic.
///
/// # Errors
///
/// [`Error::Rejected`] if nothing was sent, otherwise [`Error::Inner`].
///
/// # Cancel safety
///
/// Dropping a response future does not recall a command that was sent.
///
/// ```no_run
/// use redis_guard::{GuardedPool, redis::Cmd};
/// use tower::ServiceExt;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
/// let redis = pool.service("search");
/// let hits = redis.oneshot(Cmd::get("hits")).await?;
/// # let _ = hits;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisService {
    pool: GuardedPool,
    shared: SharedConnection,
    exclusive: bool,
    location: &'static Location<'static>,
}

impl GuardedPool {
    /// The pool as a [`tower::Service`](::tower::Service) of commands and pipelines, for `endpoint`,
    /// over the shared connections; see [`RedisService`].
    #[must_use]
    #[track_caller]
    pub fn service(&self, endpoint: impl Into<Endpoint>) -> RedisService {
        let location = Location::caller();
        let shared = self.shared_at(&endpoint.into(), location);
        RedisService { pool: self.clone(), shared, exclusive: false, location }
    }
}

impl RedisService {
    /// Sends each command, or pipeline, over an exclusive lease: for what changes the connection
    /// within a pipeline, or to bound commands by the endpoint's connections. A lease of a pool that
    /// [multiplexes](crate::GuardedPoolBuilder::multiplex) has a connection only where it needs one.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    fn lease(&self) -> impl Future<Output = Result<GuardedConnection, Rejection>> + Send + use<> {
        self.pool.acquire_at(self.shared.endpoint().clone(), self.location)
    }
}

impl Service<Cmd> for RedisService {
    type Response = Value;
    type Error = Error;
    type Future = RedisFuture<Value>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, cmd: Cmd) -> Self::Future {
        if self.exclusive {
            let lease = self.lease();
            return RedisFuture::new(async move {
                Ok(lease.await?.command(&cmd).await?.extract_error()?)
            });
        }
        let mut shared = self.shared.fork();
        RedisFuture::new(async move { shared.send(&cmd).await })
    }
}

impl Service<Pipeline> for RedisService {
    type Response = Vec<Value>;
    type Error = Error;
    type Future = RedisFuture<Vec<Value>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, pipeline: Pipeline) -> Self::Future {
        if self.exclusive {
            let lease = self.lease();
            return RedisFuture::new(async move { lease.await?.send_pipeline(&pipeline).await });
        }
        let mut shared = self.shared.fork();
        RedisFuture::new(async move { shared.send_pipeline(&pipeline).await })
    }
}

/// The response of a [`RedisService`].
#[must_use = "futures do nothing unless polled"]
pub struct RedisFuture<T>(Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>);

impl<T> RedisFuture<T> {
    fn new(future: impl Future<Output = Result<T, Error>> + Send + 'static) -> Self {
        Self(Box::pin(future))
    }
}

impl<T> Future for RedisFuture<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for RedisService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisService")
            .field("endpoint", self.shared.endpoint())
            .field("exclusive", &self.exclusive)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for RedisFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisFuture")
    }
}
