//! What a subscriber's connection has received, and how much of it waits for the subscriber.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes may wait for a subscriber before its socket is not read any more. Enough for a burst
/// of thousands of messages; beyond it the server holds them, whose own limit
/// (`client-output-buffer-limit`, by default 32 MB, or 8 MB for 60 s) then ends the connection.
const ROOM: usize = 1024 * 1024;

/// Shared by a subscriber's stream, which the driver reads, and the subscriber, who takes messages.
///
/// The driver hands messages over by a channel without a bound. So the stream counts the bytes that were
/// read since the subscriber last found the channel empty, and is not read past [`ROOM`]: the driver
/// then wakes the subscriber, who empties the channel and lets it go on. A single message may be longer
/// than that: the channel is empty while it arrives, so the driver goes on for as long as the subscriber
/// waits for it.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Bytes that were read since the channel was last empty.
    waiting: AtomicUsize,
    /// Bytes that were read in all.
    received: AtomicU64,
    /// The subscriber waits for an answer, which comes behind the messages.
    unbounded: AtomicBool,
    driver: AtomicWaker,
    subscriber: AtomicWaker,
}

impl Intake {
    /// Ready when the stream may be read.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        self.driver.register(cx.waker());
        if self.has_room() {
            return Poll::Ready(());
        }
        self.subscriber.wake();
        Poll::Pending
    }

    fn has_room(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) < ROOM || self.unbounded.load(Ordering::SeqCst)
    }

    /// Notes what the driver has read.
    fn received(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::SeqCst);
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many bytes were received so far.
    pub(super) fn total(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The subscriber is about to look for a message.
    pub(super) fn looks(&self, cx: &Context<'_>) {
        self.subscriber.register(cx.waker());
    }

    /// The subscriber has found the channel empty.
    pub(super) fn emptied(&self) {
        if self.waiting.swap(0, Ordering::SeqCst) >= ROOM {
            self.driver.wake();
        }
    }

    /// There is room for whatever comes until this is dropped, for an answer that comes behind it.
    pub(super) fn unbounded(&self) -> Unbounded<'_> {
        self.unbounded.store(true, Ordering::SeqCst);
        self.driver.wake();
        Unbounded(self)
    }
}

/// See [`Intake::unbounded`].
#[derive(Debug)]
pub(super) struct Unbounded<'a>(&'a Intake);

impl Drop for Unbounded<'_> {
    fn drop(&mut self) {
        self.0.unbounded.store(false, Ordering::SeqCst);
    }
}

/// A stream that is not read while too much waits for the subscriber.
pub(super) struct Bounded<S> {
    pub(super) stream: S,
    pub(super) intake: Arc<Intake>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.intake.poll_room(cx));
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.intake.received(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
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
