//! A server that says what the input says: over connections in memory, on paused time.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Builder;

use crate::dial::memory::{
    Connecting, HangUp, Network, Peer, Words, pipe, set_network, take_command,
};

/// Ends a piece of the input; no text of the protocol has it.
const END: u8 = 0xff;

/// What the servers say, and what was asked of them.
pub(super) struct Script {
    /// What is left of the input: a reply each, for whoever asks next.
    pieces: Mutex<VecDeque<Vec<u8>>>,
    /// The handshake is answered as a server does.
    greets: bool,
    dials: AtomicUsize,
    open: AtomicUsize,
}

impl Script {
    pub(super) fn new(data: &[u8], greets: bool) -> Arc<Self> {
        let pieces = data.split(|byte| *byte == END).map(<[u8]>::to_vec).collect();
        Arc::new(Self {
            pieces: Mutex::new(pieces),
            greets,
            dials: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        })
    }

    pub(super) fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn next_piece(&self) -> Option<Vec<u8>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// The reply to a command; `None`: none any more.
    fn reply(&self, words: &Words) -> Option<Vec<u8>> {
        let first = words.first().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        match &*first {
            b"HELLO" if self.greets => Some(b"%1\r\n+proto\r\n:3\r\n".to_vec()),
            b"AUTH" | b"SELECT" | b"CLIENT" | b"READONLY" if self.greets => {
                Some(b"+OK\r\n".to_vec())
            }
            _ => self.next_piece(),
        }
    }

    async fn serve(self: Arc<Self>, peer: Peer) {
        if !self.greets
            && let Some(piece) = self.next_piece()
        {
            peer.write(&piece);
        }
        let mut input = Vec::new();
        while let Some(bytes) = peer.read(|| false).await {
            input.extend(bytes);
            while let Some(words) = take_command(&mut input) {
                match self.reply(&words) {
                    Some(reply) => peer.write(&reply),
                    None => return peer.hang_up(HangUp::End),
                }
            }
        }
    }
}

/// Servers at every address, all with the same script.
struct Everywhere(Arc<Script>);

impl Network for Everywhere {
    fn connect(&self, _: SocketAddr) -> Connecting {
        let script = Arc::clone(&self.0);
        Box::pin(async move {
            if script.dials.fetch_add(1, Ordering::Relaxed) % 8 == 7 {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            script.open.fetch_add(1, Ordering::Relaxed);
            let closed = Arc::clone(&script);
            let (pipe, peer) = pipe(move || {
                closed.open.fetch_sub(1, Ordering::Relaxed);
            });
            tokio::spawn(script.serve(peer));
            Ok(pipe)
        })
    }
}

/// Runs on paused time, where whatever is dialed has this script.
pub(super) fn against(script: &Arc<Script>, run: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    set_network(Some(Arc::new(Everywhere(Arc::clone(script)))));
    runtime.expect("a runtime").block_on(run);
    set_network(None);
}
