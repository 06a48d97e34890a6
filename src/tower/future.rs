//! The future of a guarded call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::classify::Classify;
use crate::guard::Permit;
use crate::{Error, Rejection};

/// The response of a [`GuardService`](super::GuardService): it holds the call's permit.
///
/// # Cancel safety
///
/// Dropping it gives the permit back; nothing is learned from the call.
#[pin_project::pin_project]
pub struct ResponseFuture<F, C> {
    #[pin]
    state: State<F, C>,
}

#[pin_project::pin_project(project = StateProj)]
enum State<F, C> {
    Refused {
        /// `None` once it was told.
        rejection: Option<Rejection>,
    },
    Running {
        #[pin]
        inner: F,
        /// `None` once the call is over.
        permit: Option<Permit>,
        classify: C,
    },
}

impl<F, C> ResponseFuture<F, C> {
    pub(super) fn refused(rejection: Rejection) -> Self {
        Self { state: State::Refused { rejection: Some(rejection) } }
    }

    pub(super) fn running(permit: Permit, call: impl FnOnce() -> F, classify: C) -> Self {
        let inner = call();
        Self { state: State::Running { inner, permit: Some(permit), classify } }
    }
}

impl<F, C, Res, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    C: Classify<Result<Res, E>>,
{
    type Output = Result<Res, Error<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Refused { rejection } => {
                let rejection = rejection.take().expect("polled after it was ready");
                Poll::Ready(Err(rejection.into()))
            }
            StateProj::Running { inner, permit, classify } => {
                let result = ready!(inner.poll(cx));
                if let Some(permit) = permit.take() {
                    permit.finish(classify.classify(&result));
                }
                Poll::Ready(result.map_err(Error::Inner))
            }
        }
    }
}

impl<F, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = matches!(self.state, State::Refused { .. });
        f.debug_struct("ResponseFuture").field("refused", &refused).finish_non_exhaustive()
    }
}
