//! The layer: names the endpoint of each request, and counts how the request ended.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwap;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use pin_project::pin_project;
use tower::{Layer, Service};

use super::Redis;
use super::fallback::IsFallback;
use super::problem::Refusal;
use crate::telemetry::status::RequestOutcome;
use crate::{Endpoint, GuardedPool};

/// Gives each request a [`Redis`] handle that is bound to its endpoint, and counts how it ended in
/// `redis_guard_requests_total{endpoint,outcome}`; see the [module](super) for an example.
///
/// The endpoint is the route that matched, as it was given to [`Router::route`](axum::Router::route):
/// `/session/{id}`. That is also the name by which to give it a budget. A request that matched no route
/// counts as [`Endpoint::OTHER`], and so does a route longer than the 64 bytes of an endpoint's name;
/// [`endpoint_by`](Self::endpoint_by) names them otherwise.
///
/// The service adds no readiness and no error of its own: axum polls a service for readiness only once
/// it has a request for it, so that a middleware that refuses does so in `call`, with a response.
#[derive(Clone)]
#[must_use = "a layer does nothing until it is added to a router"]
pub struct RedisLayer {
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    pool: GuardedPool,
    naming: Naming,
    shed: bool,
    status: StatusCode,
}

#[derive(Clone)]
enum Naming {
    /// The routes seen so far, so that no name is made for each request. As many as the router has.
    ByRoute(Arc<ArcSwap<HashSet<Endpoint>>>),
    By(Arc<dyn Fn(&Request) -> Endpoint + Send + Sync>),
}

impl RedisLayer {
    /// A layer over `pool`, which names endpoints after routes, lets every request through to its
    /// handler, and refuses with 503.
    pub fn new(pool: GuardedPool) -> Self {
        let naming = Naming::ByRoute(Arc::default());
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { settings: Arc::new(Settings { pool, naming, shed: false, status }) }
    }

    /// Names the endpoint by the request instead of the route. It is called for each request, and
    /// names are labels of metrics: choose among a few literals, never what the client sent.
    pub fn endpoint_by<F, E>(mut self, name: F) -> Self
    where
        F: Fn(&Request) -> E + Send + Sync + 'static,
        E: Into<Endpoint>,
    {
        let name = move |request: &Request| name(request).into();
        Arc::make_mut(&mut self.settings).naming = Naming::By(Arc::new(name));
        self
    }

    /// Refuses requests before their handler runs while [`acquire`](GuardedPool::acquire) would
    /// refuse at once: nothing is live and the breaker is open, or the pool is closed. It counts as a
    /// rejection of the endpoint in the same way.
    ///
    /// Default: the handler runs, and may do without Redis. Shed where it cannot, and where its work
    /// before it asks for Redis (a body to read, another backend to call) would be in vain.
    pub fn shed_when_open(mut self) -> Self {
        Arc::make_mut(&mut self.settings).shed = true;
        self
    }

    /// The status of refusals. Default 503, which load balancers and clients know how to treat:
    /// 429 would blame the client.
    pub fn status(mut self, status: StatusCode) -> Self {
        Arc::make_mut(&mut self.settings).status = status;
        self
    }
}

impl Naming {
    fn endpoint(&self, request: &Request) -> Endpoint {
        let routes = match self {
            Self::By(name) => return name(request),
            Self::ByRoute(routes) => routes,
        };
        let Some(route) = request.extensions().get::<MatchedPath>() else {
            return Endpoint::OTHER;
        };
        if let Some(known) = routes.load().get(route.as_str()) {
            return known.clone();
        }
        let endpoint = Endpoint::from(route.as_str().to_owned());
        routes.rcu(|known| {
            let mut known = HashSet::clone(known);
            known.insert(endpoint.clone());
            known
        });
        endpoint
    }
}

impl fmt::Debug for RedisLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { pool, naming: _, shed, status } = &*self.settings;
        f.debug_struct("RedisLayer")
            .field("pool", pool)
            .field("shed_when_open", shed)
            .field("status", status)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for RedisLayer {
    type Service = RedisMiddleware<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RedisMiddleware { inner, layer: self.clone() }
    }
}

/// The service of a [`RedisLayer`].
#[derive(Clone, Debug)]
pub struct RedisMiddleware<S> {
    inner: S,
    layer: RedisLayer,
}

impl<S> Service<Request> for RedisMiddleware<S>
where
    S: Service<Request, Response: IntoResponse>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Settings { pool, naming, shed, status } = &*self.layer.settings;
        let redis = Redis { pool: pool.clone(), endpoint: naming.endpoint(&request) };
        let rejection = if *shed { pool.shed(&redis.endpoint) } else { None };
        let state = match rejection {
            Some(rejection) => State::Refused { refusal: Refusal::of(&rejection) },
            None => {
                request.extensions_mut().insert(redis.clone());
                State::Handler { future: self.inner.call(request) }
            }
        };
        ResponseFuture { state, redis, status: *status }
    }
}

/// The response to come of a [`RedisMiddleware`].
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
    redis: Redis,
    status: StatusCode,
}

#[pin_project(project = StateProjection)]
#[derive(Debug)]
enum State<F> {
    Refused {
        refusal: Refusal,
    },
    Handler {
        #[pin]
        future: F,
    },
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: IntoResponse,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.state.project() {
            StateProjection::Refused { refusal } => refusal.into_response(*this.status),
            StateProjection::Handler { future } => ready!(future.poll(cx))?.into_response(),
        };
        let outcome = if let Some(refusal) = response.extensions().get::<Refusal>().copied() {
            refusal.set_status(*this.status, &mut response);
            RequestOutcome::Shed
        } else if response.extensions().get::<IsFallback>().is_some() {
            RequestOutcome::Fallback
        } else {
            RequestOutcome::Served
        };
        let Redis { pool, endpoint } = &*this.redis;
        pool.count_request(endpoint, outcome);
        Poll::Ready(Ok(response))
    }
}
