//! A socket's slot: what frees it when the socket is closed, however that comes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::intake::Intake;
use super::node::Node;
use super::store::Socket;

/// One of the server's slots: counted as live until this is dropped, which is when the socket is
/// closed.
pub(super) struct Slot {
    node: Arc<Node>,
    pub(super) socket: Arc<Socket>,
}

impl Slot {
    /// For a socket that the ledger has counted as live.
    pub(super) fn new(node: Arc<Node>, socket: Arc<Socket>) -> Self {
        Self { node, socket }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.node.socket_closed(&self.socket);
    }
}

/// Where the slot of a subscriber's socket is put once its dial has succeeded: its driver is redis-rs's
/// own task, so the stream holds one copy, and the slot is free when the last copy is dropped.
#[derive(Clone, Default)]
pub(super) struct SlotCell(Arc<Inner>);

#[derive(Default)]
struct Inner {
    slot: OnceLock<Slot>,
    /// Ends the stream; here until the dial has ended.
    signal: Mutex<Option<oneshot::Sender<()>>>,
    intake: Arc<Intake>,
}

impl SlotCell {
    /// Wraps the stream, and keeps what ends it.
    pub(super) fn wrap<S>(&self, stream: S) -> SlottedStream<S> {
        let (signal, end) = oneshot::channel();
        *self.0.signal.lock().unwrap_or_else(PoisonError::into_inner) = Some(signal);
        SlottedStream { stream, end, ended: false, cell: self.clone() }
    }

    pub(super) fn intake(&self) -> Arc<Intake> {
        Arc::clone(&self.0.intake)
    }

    pub(super) fn take_signal(&self) -> Option<oneshot::Sender<()>> {
        self.0.signal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn fill(&self, slot: Slot) {
        let _ = self.0.slot.set(slot);
    }
}

/// A stream that ends when it is told to, that is not read while too much waits for the subscriber,
/// and whose slot is free once it is closed: the order of
/// the fields is the order in which they are dropped.
pub(super) struct SlottedStream<S> {
    stream: S,
    end: oneshot::Receiver<()>,
    ended: bool,
    cell: SlotCell,
}

impl<S: AsyncRead + Unpin> AsyncRead for SlottedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ended {
            self.ended = Pin::new(&mut self.end).poll(cx).is_ready();
        }
        if self.ended {
            // Nothing more: the driver takes that for the end of the connection.
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        let intake = &this.cell.0.intake;
        ready!(intake.poll_room(cx));
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        intake.received(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SlottedStream<S> {
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
