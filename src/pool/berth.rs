//! A subscriber's socket: one whose driver is redis-rs's own task, and that has to be counted and
//! closed all the same.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::dialing::Slot;

/// Where the slot of a socket is put once its dial has succeeded: the stream holds one copy, and the
/// slot is free when the last copy is dropped.
#[derive(Clone, Default)]
pub(super) struct Berth(Arc<Inner>);

#[derive(Default)]
struct Inner {
    slot: OnceLock<Slot>,
    /// Until the dial has ended.
    signal: Mutex<Option<oneshot::Sender<()>>>,
}

impl Berth {
    pub(super) fn signal(&self, signal: oneshot::Sender<()>) {
        *self.0.signal.lock().unwrap_or_else(PoisonError::into_inner) = Some(signal);
    }

    pub(super) fn take_signal(&self) -> Option<oneshot::Sender<()>> {
        self.0.signal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn fill(&self, slot: Slot) {
        let _ = self.0.slot.set(slot);
    }
}

/// A stream that ends when it is told to, and whose slot is free once it is closed: the order of
/// the fields is the order in which they are dropped.
pub(super) struct Berthed<S> {
    stream: S,
    end: oneshot::Receiver<()>,
    ended: bool,
    _berth: Berth,
}

impl<S> Berthed<S> {
    pub(super) fn new(stream: S, end: oneshot::Receiver<()>, berth: Berth) -> Self {
        Self { stream, end, ended: false, _berth: berth }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Berthed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ended {
            self.ended = Pin::new(&mut self.end).poll(cx).is_ready();
        }
        match self.ended {
            // Nothing more: the driver takes that for the end of the connection.
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut self.stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Berthed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
