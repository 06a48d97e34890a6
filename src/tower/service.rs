//! The service that a [`GuardLayer`] makes.

use std::task::{Context, Poll};

use tower::Service;

use super::classify::{ByError, Classify};
use super::future::ResponseFuture;
use super::layer::{EndpointOf, Fixed, GuardLayer};
use crate::Error;

/// A service behind a [`Guard`](crate::Guard); see [`GuardLayer`].
///
/// It is ready when the inner service is. A clone is as ready as a clone of the inner service.
///
/// A refused call leaves the inner service uncalled although it was ready: what it reserved in
/// `poll_ready` serves the next call.
#[derive(Clone, Debug)]
pub struct GuardService<S, N = Fixed, C = ByError> {
    pub(super) inner: S,
    pub(super) layer: GuardLayer<N, C>,
}

impl<S, N, C> GuardService<S, N, C> {
    /// The inner service.
    #[must_use]
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the inner service out.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, Req, N, C> Service<Req> for GuardService<S, N, C>
where
    S: Service<Req>,
    N: EndpointOf<Req>,
    C: Classify<Result<S::Response, S::Error>> + Clone,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Error::Inner)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let GuardLayer { guard, endpoint, classify } = &self.layer;
        match guard.admit_to(endpoint.account(guard, &request)) {
            // The permit is there before the inner service is called, which may panic.
            Ok(permit) => {
                ResponseFuture::running(permit, || self.inner.call(request), classify.clone())
            }
            Err(rejection) => ResponseFuture::refused(rejection),
        }
    }
}
