//! The variant of the layer that lets callers wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower::{Layer, Service};

use super::classify::{ByError, Classify};
use super::future::ResponseFuture;
use super::layer::{EndpointOf, Fixed, GuardLayer};
use crate::Error;
use crate::guard::{Entry, Waiter};

/// Puts a [`Guard`](crate::Guard) before a service whose callers wait for their turn; see
/// [`GuardLayer::queued`].
///
/// The inner service is called when the turn has come, which is after `call` has returned: that is
/// why it has to be `Clone`. Only a caller who waits keeps a clone.
#[derive(Clone, Debug)]
pub struct QueuedGuardLayer<N = Fixed, C = ByError>(pub(super) GuardLayer<N, C>);

impl<S, N: Clone, C: Clone> Layer<S> for QueuedGuardLayer<N, C> {
    type Service = QueuedGuardService<S, N, C>;

    fn layer(&self, inner: S) -> Self::Service {
        QueuedGuardService { inner, layer: self.0.clone() }
    }
}

/// A service behind a [`Guard`](crate::Guard) whose callers wait for their turn; see
/// [`QueuedGuardLayer`].
#[derive(Clone, Debug)]
pub struct QueuedGuardService<S, N = Fixed, C = ByError> {
    inner: S,
    layer: GuardLayer<N, C>,
}

impl<S, Req, N, C> Service<Req> for QueuedGuardService<S, N, C>
where
    S: Service<Req> + Clone,
    N: EndpointOf<Req>,
    C: Classify<Result<S::Response, S::Error>> + Clone,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = QueuedFuture<S, Req, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Error::Inner)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let GuardLayer { guard, endpoint, classify } = &self.layer;
        let classify = classify.clone();
        let state = match guard.enter(endpoint.account(guard, &request)) {
            Ok(Entry::Permit(permit)) => State::Called {
                future: ResponseFuture::running(permit, || self.inner.call(request), classify),
            },
            Ok(Entry::Wait(waiter)) => {
                // The one that was found ready goes along; its clone stays, and will be asked again.
                let clone = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, clone);
                State::Waiting { waiter, call: Some((inner, request, classify)) }
            }
            Err(rejection) => State::Called { future: ResponseFuture::refused(rejection) },
        };
        QueuedFuture { state }
    }
}

/// The response of a [`QueuedGuardService`].
///
/// # Cancel safety
///
/// Dropping it leaves the queue, or gives the permit back.
#[pin_project::pin_project]
pub struct QueuedFuture<S: Service<Req>, Req, C> {
    #[pin]
    state: State<S, Req, C>,
}

#[pin_project::pin_project(project = StateProj)]
enum State<S: Service<Req>, Req, C> {
    Waiting {
        #[pin]
        waiter: Waiter,
        /// `None` once it is made.
        call: Option<(S, Req, C)>,
    },
    Called {
        #[pin]
        future: ResponseFuture<S::Future, C>,
    },
}

impl<S, Req, C> Future for QueuedFuture<S, Req, C>
where
    S: Service<Req>,
    C: Classify<Result<S::Response, S::Error>>,
{
    type Output = Result<S::Response, Error<S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Called { future } => return future.poll(cx),
                StateProj::Waiting { waiter, call } => {
                    let permit = ready!(waiter.poll(cx))?;
                    let (mut inner, request, classify) =
                        call.take().expect("polled after it was ready");
                    let future = ResponseFuture::running(permit, || inner.call(request), classify);
                    state.set(State::Called { future });
                }
            }
        }
    }
}

impl<S: Service<Req>, Req, C> fmt::Debug for QueuedFuture<S, Req, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = matches!(self.state, State::Waiting { .. });
        f.debug_struct("QueuedFuture").field("waiting", &waiting).finish_non_exhaustive()
    }
}
