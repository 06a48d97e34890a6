//! The end of a connection, which its owner hears of before the driver does.
//!
//! A command that is handed to the driver in the very moment in which the driver ends is not always answered: the end
//! drops the channel's receiver, which takes out what is in the channel up to a place that is taken and not filled yet,
//! and leaves what is behind it, whose senders would wait for the response timeout (`Drop for Rx` in tokio's
//! `sync/mpsc/chan.rs`; eight commands at once were seen). So the driver hears of the end a moment later than the owner,
//! after whose word nobody begins to hand over another.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// How long an end is kept back: a time slice of the system's scheduler, for a thread may lose its processor while
/// it hands over a command.
const KEPT_BACK: Duration = Duration::from_millis(5);

/// Whom to tell of a connection's end; nobody, until somebody wants to hear.
#[derive(Clone, Default)]
pub(crate) struct EndNotice(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl EndNotice {
    /// `hear` is called once, when the connection has ended and before its driver knows: from then on nothing is to be
    /// sent on it. It is not called where the driver is dropped.
    pub(crate) fn tell(&self, hear: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(hear));
    }

    /// Keeps an end back, if somebody wants to hear of it.
    pub(super) fn keep_back(&self, end: io::Result<()>) -> Result<KeptBack, io::Result<()>> {
        match self.0.get() {
            Some(hear) => {
                hear();
                Ok(KeptBack { end: Some(end), until: Box::pin(sleep(KEPT_BACK)) })
            }
            None => Err(end),
        }
    }
}

impl fmt::Debug for EndNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndNotice").field("is_told", &self.0.get().is_some()).finish()
    }
}

/// An end that the driver does not know of yet: there is nothing more to read, or an error.
#[derive(Debug)]
pub(super) struct KeptBack {
    end: Option<io::Result<()>>,
    until: Pin<Box<Sleep>>,
}

impl KeptBack {
    /// The end, once it is time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.until.as_mut().poll(cx).map(|()| self.end.take().unwrap_or(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::dial::Tap;

    /// A connection that is up, the server's side of it, and how often its end was told.
    fn connected() -> (Tap<DuplexStream>, DuplexStream, Arc<AtomicUsize>) {
        let (ours, theirs) = duplex(64);
        let (tap, first_bytes) = Tap::new(ours);
        first_bytes.close();
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        tap.end_notice().tell(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (tap, theirs, told)
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_told_before_the_driver_hears_of_it() {
        let (mut tap, mut theirs, told) = connected();
        theirs.write_all(b"+OK").await.unwrap();
        drop(theirs);
        let mut buf = [0; 64];
        assert_eq!(tap.read(&mut buf).await.unwrap(), 3, "what was sent before it");
        assert_eq!(told.load(Ordering::Relaxed), 0);

        let ended = Instant::now();
        assert!(tap.read(&mut buf).now_or_never().is_none());
        assert_eq!(told.load(Ordering::Relaxed), 1);
        assert!(tap.write(b"PING").now_or_never().is_none());
        assert_eq!(tap.read(&mut buf).await.unwrap(), 0);
        assert_eq!((ended.elapsed(), told.load(Ordering::Relaxed)), (KEPT_BACK, 1));
        assert!(tap.write(b"PING").await.is_err());
        assert_eq!(tap.read(&mut buf).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn so_is_a_write_that_fails_whose_error_is_kept() {
        let (mut tap, theirs, told) = connected();
        drop(theirs);
        let ended = Instant::now();
        let error = tap.write(b"PING").await.unwrap_err();
        assert_eq!((error.kind(), ended.elapsed()), (io::ErrorKind::BrokenPipe, KEPT_BACK));
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_wants_to_hear_the_end_comes_at_once() {
        let (ours, theirs) = duplex(64);
        let (mut tap, _first_bytes) = Tap::new(ours);
        drop(theirs);
        assert_eq!(tap.read(&mut [0; 64]).now_or_never().unwrap().unwrap(), 0);
    }
}
