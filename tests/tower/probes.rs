//! Services that watch how they are used.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tower::Service;

use crate::Told;

/// Panics when it is called without having been found ready, on this very instance: a clone is not
/// as ready as what it was cloned from. Its future panics when polled after its end.
#[derive(Debug, Default)]
pub(crate) struct Strict {
    ready: bool,
    calls: Rc<Cell<usize>>,
}

impl Strict {
    pub(crate) fn calls(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.calls)
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, calls: self.calls() }
    }
}

impl Service<u32> for Strict {
    type Response = u32;
    type Error = Told;
    type Future = Once;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Told>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u32) -> Once {
        assert!(std::mem::take(&mut self.ready), "called without having been found ready");
        self.calls.set(self.calls.get() + 1);
        Once(Some(request))
    }
}

/// Ready with the request itself, after one turn.
#[derive(Debug)]
pub(crate) struct Once(Option<u32>);

impl Future for Once {
    type Output = Result<u32, Told>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(self.0.take().expect("polled after its end")))
    }
}

/// Neither `Clone` nor `Send`, and it borrows.
#[derive(Debug)]
pub(crate) struct Borrowing<'a>(pub(crate) &'a Rc<Cell<u32>>);

impl<'a> Service<&'a str> for Borrowing<'a> {
    type Response = (&'a str, Rc<Cell<u32>>);
    type Error = Told;
    type Future = Lent<'a>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Told>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: &'a str) -> Lent<'a> {
        self.0.set(self.0.get() + 1);
        Lent(request, self.0)
    }
}

/// Borrows, and is not `Send`.
#[derive(Debug)]
pub(crate) struct Lent<'a>(&'a str, &'a Rc<Cell<u32>>);

impl<'a> Future for Lent<'a> {
    type Output = Result<(&'a str, Rc<Cell<u32>>), Told>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok((self.0, Rc::clone(self.1))))
    }
}

/// The words of the panic that `run` ends in.
#[track_caller]
pub(crate) fn panics<T>(run: impl FnOnce() -> T) -> &'static str {
    let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else { panic!("it did not panic") };
    panic.downcast_ref::<&str>().copied().unwrap_or_default()
}
