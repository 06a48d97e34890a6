//! The tap: keeps the first bytes a server sends, which the driver throws away.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::end_notice::{EndNotice, KeptBack};

/// How many of the first bytes are kept. A refusal is one line; the replies before it are short.
const KEPT: usize = 4 * 1024;

/// The most a server may send before the dial is done. The longest honest answer is HELLO's list
/// of modules. Without this bound an endless line would grow the driver's buffer until the connect
/// timeout.
const MOST: usize = 256 * 1024;

/// A stream whose first bytes are kept until [`FirstBytes::close`].
///
/// It also **holds write errors back** while it listens: a server that refuses writes its line and
/// closes, and over a Unix socket our own write then often fails first (`EPIPE`), with the line
/// still unread. Reported at once, the error would end the dial before the line is read (half of
/// 1,280 were missed so); held back, the next read brings the line and then the end.
///
/// Once it does not listen any more, the end is [told](EndNotice) before the driver hears of it.
#[derive(Debug)]
pub(crate) struct Tap<S> {
    stream: S,
    first_bytes: FirstBytes,
    received: usize,
    write_failed: bool,
    end_notice: EndNotice,
    kept_back: Option<KeptBack>,
}

/// What the tap has heard, shared with the dialer.
#[derive(Clone, Debug)]
pub(crate) struct FirstBytes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Read on every poll for as long as the connection lives, so an atomic beside the lock.
    listening: AtomicBool,
    /// Written by the driver's task, read by the dialer; only while listening.
    heard: Mutex<Vec<u8>>,
}

impl FirstBytes {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_listening(&self) -> bool {
        self.0.listening.load(Ordering::Relaxed)
    }

    fn hear(&self, bytes: &[u8]) {
        let mut heard = self.lock();
        let room = KEPT.saturating_sub(heard.len());
        heard.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The first bytes so far.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// Stops listening: the dial is done, and the stream only passes through from here on. The
    /// first bytes.
    pub(crate) fn close(&self) -> Vec<u8> {
        self.0.listening.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.lock())
    }
}

impl<S> Tap<S> {
    pub(crate) fn new(stream: S) -> (Self, FirstBytes) {
        let first_bytes = FirstBytes(Arc::new(Inner {
            listening: AtomicBool::new(true),
            heard: Mutex::new(Vec::new()),
        }));
        let tap = Self {
            stream,
            first_bytes: first_bytes.clone(),
            received: 0,
            write_failed: false,
            end_notice: EndNotice::default(),
            kept_back: None,
        };
        (tap, first_bytes)
    }

    /// Whom to tell of the end.
    pub(crate) fn end_notice(&self) -> EndNotice {
        self.end_notice.clone()
    }

    /// The stream has ended so: what the driver hears, and when.
    fn end(&mut self, end: io::Result<()>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.end_notice.keep_back(end) {
            Ok(kept_back) => self.kept_back.insert(kept_back).poll(cx),
            Err(end) => Poll::Ready(end),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(kept_back) = &mut self.kept_back {
            return kept_back.poll(cx);
        }
        if self.received > MOST && self.first_bytes.is_listening() {
            return Poll::Ready(Err(io::Error::other(format!(
                "the server sent more than {MOST} bytes before it was asked anything"
            ))));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if read.is_err() || (buf.filled().len() == before && buf.remaining() > 0) {
            return self.end(read, cx);
        }
        if self.first_bytes.is_listening() {
            let bytes = &buf.filled()[before..];
            self.first_bytes.hear(bytes);
            self.received += bytes.len();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.write_failed {
            return Poll::Ready(Ok(buf.len()));
        }
        if let Some(kept_back) = &mut self.kept_back {
            return kept_back.poll(cx).map(|end| end.and_then(|()| Err(ended())));
        }
        match ready!(Pin::new(&mut self.stream).poll_write(cx, buf)) {
            Err(_) if self.first_bytes.is_listening() => {
                self.write_failed = true;
                Poll::Ready(Ok(buf.len()))
            }
            Err(error) => self.end(Err(error), cx).map(|end| end.and_then(|()| Err(ended()))),
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kept_back) = &mut self.kept_back {
            return kept_back.poll(cx);
        }
        match ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
            Err(_) if self.first_bytes.is_listening() => {
                self.write_failed = true;
                Poll::Ready(Ok(()))
            }
            Err(error) => self.end(Err(error), cx),
            flushed => Poll::Ready(flushed),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What a write hears after the end of what there is to read.
fn ended() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_are_kept_and_still_delivered() {
        let (ours, mut theirs) = duplex(64);
        let (mut tap, first_bytes) = Tap::new(ours);
        theirs.write_all(b"-ERR max").await.unwrap();
        let mut buf = [0; 8];
        tap.read_exact(&mut buf).await.unwrap();
        assert_eq!((&buf, first_bytes.heard().as_slice()), (b"-ERR max", b"-ERR max".as_slice()));
    }

    #[tokio::test]
    async fn a_failed_write_is_held_back_until_the_line_is_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"-ERR full\r\n").await.unwrap();
        drop(theirs);
        let (mut tap, first_bytes) = Tap::new(ours);
        tap.write_all(b"HELLO 3\r\n").await.unwrap();
        tap.flush().await.unwrap();
        let mut line = Vec::new();
        tap.read_to_end(&mut line).await.unwrap();
        assert_eq!(
            (line.as_slice(), first_bytes.heard()),
            (b"-ERR full\r\n".as_slice(), line.clone())
        );
    }

    #[tokio::test]
    async fn once_closed_it_only_passes_through() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut tap, first_bytes) = Tap::new(ours);
        first_bytes.close();
        drop(theirs);
        assert!(tap.write_all(b"PING\r\n").await.is_err());
        assert!(first_bytes.heard().is_empty());
    }

    #[tokio::test]
    async fn an_endless_line_is_cut_off() {
        let (ours, mut theirs) = duplex(64 * 1024);
        let (mut tap, first_bytes) = Tap::new(ours);
        tokio::spawn(async move { while theirs.write_all(&[b'A'; 4096]).await.is_ok() {} });
        let mut sink = Vec::new();
        assert!(tap.read_to_end(&mut sink).await.is_err());
        assert!(sink.len() <= MOST + 64 * 1024 && first_bytes.heard().len() == KEPT);
    }

    #[tokio::test]
    async fn an_answer_may_have_so_many_bytes_and_nothing_is_read_once_it_has_more() {
        for piece in [4096, 1000] {
            let (ours, mut theirs) = duplex(64 * 1024);
            let (mut tap, _first_bytes) = Tap::new(ours);
            tokio::spawn(async move { theirs.write_all(&vec![b'A'; 2 * MOST]).await });
            let mut buf = vec![0; piece];
            for _ in 0..MOST / piece + 1 {
                tap.read_exact(&mut buf).await.unwrap();
            }
            assert!(tap.read(&mut buf).await.is_err());
        }
    }

    /// What is written to it is lost only when it is flushed.
    struct Buffered;

    impl AsyncWrite for Buffered {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_failed_flush_is_held_back_only_while_it_listens() {
        let (mut tap, first_bytes) = Tap::new(Buffered);
        tap.write_all(b"HELLO 3\r\n").await.unwrap();
        tap.flush().await.unwrap();
        first_bytes.close();
        assert!(tap.flush().await.is_err());
    }

    #[tokio::test]
    async fn the_other_side_hears_that_it_was_shut_down() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut tap, _first_bytes) = Tap::new(ours);
        tap.write_all(b"QUIT\r\n").await.unwrap();
        tap.shutdown().await.unwrap();
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"QUIT\r\n");
    }
}
