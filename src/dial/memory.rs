//! Connections in memory, for the simulation and for fuzzing: a thread that has a [`Network`] dials in it, and not the real one.
//!
//! A pipe carries what its ends write without a copy of either's scheduling: the server's end writes as many bytes
//! as it wants, and may hang up after any of them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A dial under way.
pub(crate) type Connecting = Pin<Box<dyn Future<Output = io::Result<Pipe>> + Send>>;

/// Whom one can connect to.
pub(crate) trait Network: Send + Sync {
    fn connect(&self, address: SocketAddr) -> Connecting;
}

thread_local! {
    static NETWORK: RefCell<Option<Arc<dyn Network>>> = const { RefCell::new(None) };
}

/// What this thread dials in from now on; `None`: the real network.
pub(crate) fn set_network(network: Option<Arc<dyn Network>>) {
    NETWORK.set(network);
}

/// A dial in this thread's network, if it has one.
pub(super) fn connect(address: SocketAddr) -> Option<Connecting> {
    let network = NETWORK.with_borrow(Clone::clone)?;
    Some(network.connect(address))
}

/// How the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HangUp {
    /// What was sent is read first, then the end.
    End,
    /// What was not read yet is lost.
    Reset,
}

/// The client's end.
pub(crate) struct Pipe {
    line: Arc<Line>,
    on_drop: Option<Box<dyn FnOnce() + Send>>,
}

/// The server's end.
#[derive(Clone)]
pub(crate) struct Peer(Arc<Line>);

#[derive(Default)]
struct Line(Mutex<State>);

#[derive(Default)]
struct State {
    to_client: VecDeque<u8>,
    to_server: VecDeque<u8>,
    client: Option<Waker>,
    server: Option<Waker>,
    hung_up: Option<HangUp>,
    client_is_gone: bool,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection; `on_drop` is called when the client has closed its end.
pub(crate) fn pipe(on_drop: impl FnOnce() + Send + 'static) -> (Pipe, Peer) {
    let line = Arc::new(Line::default());
    (Pipe { line: Arc::clone(&line), on_drop: Some(Box::new(on_drop)) }, Peer(line))
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipe")
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.line.lock();
            state.client_is_gone = true;
            state.server.take()
        };
        waker.into_iter().for_each(Waker::wake);
        self.on_drop.take().into_iter().for_each(|on_drop| on_drop());
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.line.lock();
        if state.hung_up == Some(HangUp::Reset) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if state.to_client.is_empty() && state.hung_up.is_none() {
            state.client = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while buf.remaining() > 0
            && let Some(byte) = state.to_client.pop_front()
        {
            buf.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.line.lock();
        if state.hung_up.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        state.to_server.extend(buf);
        let waker = state.server.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Peer {
    /// What the client has written since; `None` once either end is closed. Ready at once with nothing in it
    /// where `awake` says so.
    pub(crate) async fn read(&self, awake: impl Fn() -> bool) -> Option<Vec<u8>> {
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.hung_up.is_some() || (state.client_is_gone && state.to_server.is_empty()) {
                return Poll::Ready(None);
            }
            if state.to_server.is_empty() && !awake() {
                state.server = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Some(state.to_server.drain(..).collect()))
        })
        .await
    }

    /// Completes when either end is closed.
    pub(crate) async fn over(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.hung_up.is_some() || state.client_is_gone {
                return Poll::Ready(());
            }
            state.server = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Wakes whoever reads, to look whether it is `awake`.
    pub(crate) fn wake(&self) {
        let waker = self.0.lock().server.take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Lets the client read that.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let waker = {
            let mut state = self.0.lock();
            if state.hung_up.is_some() {
                return;
            }
            state.to_client.extend(bytes);
            state.client.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn hang_up(&self, how: HangUp) {
        let (client, server) = {
            let mut state = self.0.lock();
            state.hung_up.get_or_insert(how);
            (state.client.take(), state.server.take())
        };
        client.into_iter().chain(server).for_each(Waker::wake);
    }

    /// Either end is closed.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.hung_up.is_some() || state.client_is_gone
    }
}

/// A command: its words.
pub(crate) type Words = Vec<Vec<u8>>;

/// Takes the first command out of what a client has sent; `None` while it is not complete.
pub(crate) fn take_command(input: &mut Vec<u8>) -> Option<Words> {
    let mut rest = input.as_slice();
    let count = number(&mut rest, b'*')?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(&mut rest, b'$')?;
        words.push(rest.get(..length)?.to_vec());
        rest = rest.get(length + 2..)?;
    }
    let used = input.len() - rest.len();
    input.drain(..used);
    Some(words)
}

/// The number in a line that begins so.
fn number(rest: &mut &[u8], prefix: u8) -> Option<usize> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    assert_eq!(rest[0], prefix, "clients send arrays of strings");
    let digits = std::str::from_utf8(&rest[1..end - 1]).expect("digits");
    *rest = &rest[end + 1..];
    Some(digits.parse().expect("a number"))
}
