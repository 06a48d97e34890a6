//! What stands before a service that is always ready and answers at once: our layer, and the others.
//!
//! All are set up as their documentation has it: no listeners, no metrics, 64 calls in flight where
//! they bound them, five failures in a row or the closest that they know, and a wait when open that
//! outlasts the run. failsafe and recloser are no layers, so a service of a few lines makes them one.

use std::fmt::Debug;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use failsafe::failure_policy::ConsecutiveFailures;
use failsafe::futures::CircuitBreaker as _;
use recloser::{AnyError, AsyncRecloser, Recloser, RecloserFuture};
use redis::{ErrorKind, RedisError};
use redis_guard::tower::GuardLayer;
use redis_guard::{Backoff, Guard};
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

use crate::{ENDPOINT, Failure};

pub(crate) const BARE: &str = "bare";
pub(crate) const GUARD_LAYER: &str = "guard-layer";
pub(crate) const TOWER: &str = "tower-limit-shed";
pub(crate) const TOWER_RESILIENCE: &str = "tower-resilience";
pub(crate) const FAILSAFE: &str = "failsafe";
pub(crate) const RECLOSER: &str = "recloser";
pub(crate) const TOWER_RECLOSER: &str = "tower+recloser";

const IN_FLIGHT: usize = 64;
const FAILURES: u32 = 5;
const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Clone, Copy)]
pub(crate) enum Request {
    Work,
    Fail,
}

/// A service, and what stands before it. Clones share their breaker and their limit.
pub(crate) trait Stack:
    Service<Request, Response = u64, Error: Debug> + Clone + 'static
{
}

impl<S: Service<Request, Response = u64, Error: Debug> + Clone + 'static> Stack for S {}

/// One call, as tower's users make it.
pub(crate) async fn call<S: Stack>(service: &mut S, request: Request) -> Result<u64, S::Error> {
    service.ready().await?.call(black_box(request)).await
}

/// Lets calls fail until one that would work is refused.
pub(crate) async fn tripped<S: Stack>(mut service: S) -> Result<S, Failure> {
    for _ in 0..200 {
        let _ = call(&mut service, Request::Fail).await;
    }
    match call(&mut service, Request::Work).await {
        Ok(_) => Err("200 failures in a row have not opened the breaker".into()),
        Err(_) => Ok(service),
    }
}

#[derive(Clone)]
struct Inner;

impl Service<Request> for Inner {
    type Response = u64;
    type Error = RedisError;
    type Future = Ready<Result<u64, RedisError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RedisError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ready(match request {
            Request::Work => Ok(black_box(7)),
            Request::Fail => Err((ErrorKind::Io, "connection reset").into()),
        })
    }
}

pub(crate) fn bare() -> impl Stack {
    Inner
}

pub(crate) fn guard_layer() -> Result<impl Stack, Failure> {
    let guard = Guard::builder()
        .max_in_flight(IN_FLIGHT)
        .backoff(Backoff::equal_jitter(HOUR, HOUR))
        .build()?;
    Ok(ServiceBuilder::new().layer(GuardLayer::new(&guard, ENDPOINT)).service(Inner))
}

/// tower's own limit, which sheds what is above it. It has no breaker.
pub(crate) fn tower_limit_shed() -> impl Stack {
    limit_shed(IN_FLIGHT)
}

/// The same with its whole limit taken.
pub(crate) fn tower_limit_shed_taken() -> impl Stack {
    limit_shed(0)
}

fn limit_shed(free: usize) -> impl Stack {
    let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::new(Semaphore::new(free)));
    ServiceBuilder::new().load_shed().layer(limit).service(Inner)
}

/// Breaker before bulkhead, as its README stacks them.
pub(crate) fn tower_resilience() -> Result<impl Stack, Failure> {
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(FAILURES.try_into()?)
        .wait_duration_in_open(HOUR)
        .build()?;
    let bulkhead = BulkheadLayer::builder().max_concurrent_calls(IN_FLIGHT).build()?;
    Ok(ServiceBuilder::new().layer(breaker).layer(bulkhead).service(Inner))
}

/// A breaker without a limit.
pub(crate) fn failsafe() -> impl Stack {
    let policy =
        failsafe::failure_policy::consecutive_failures(FAILURES, failsafe::backoff::constant(HOUR));
    Failsafe { breaker: failsafe::Config::new().failure_policy(policy).build(), inner: Inner }
}

#[derive(Clone)]
struct Failsafe {
    breaker: failsafe::StateMachine<FailsafePolicy, ()>,
    inner: Inner,
}

type FailsafePolicy = ConsecutiveFailures<std::iter::Repeat<Duration>>;

impl Service<Request> for Failsafe {
    type Response = u64;
    type Error = failsafe::Error<RedisError>;
    type Future = failsafe::futures::ResponseFuture<
        <Inner as Service<Request>>::Future,
        FailsafePolicy,
        (),
        failsafe::Any,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(failsafe::Error::Inner)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.breaker.call(self.inner.call(request))
    }
}

/// A breaker without a limit. It goes by the rate of failures over the last 100 calls.
pub(crate) fn recloser() -> impl Stack {
    reclosing(Inner)
}

/// The two halves that cost least, put together: recloser before tower's limit.
pub(crate) fn tower_recloser() -> impl Stack {
    reclosing(tower_limit_shed())
}

fn reclosing<S>(inner: S) -> Reclosing<S> {
    Reclosing { breaker: Recloser::custom().open_wait(HOUR).build().into(), inner }
}

#[derive(Clone)]
struct Reclosing<S> {
    breaker: AsyncRecloser,
    inner: S,
}

impl<S: Stack> Service<Request> for Reclosing<S> {
    type Response = u64;
    type Error = recloser::Error<S::Error>;
    type Future = RecloserFuture<S::Future, AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(recloser::Error::Inner)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.breaker.call(self.inner.call(request))
    }
}
