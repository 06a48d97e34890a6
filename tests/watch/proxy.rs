//! A proxy with a ceiling of its own: above it, it closes without a word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::TestServer;

pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    ceiling: AtomicUsize,
    open: AtomicUsize,
    closed_silently: AtomicU64,
}

impl Proxy {
    pub(crate) async fn start(server: &TestServer, ceiling: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            ceiling: AtomicUsize::new(ceiling),
            open: AtomicUsize::new(0),
            closed_silently: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, server.port(), Arc::clone(&state)));
        Self { address, state, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn set_ceiling(&self, ceiling: usize) {
        self.state.ceiling.store(ceiling, Ordering::SeqCst);
    }

    /// How many it has closed without a word.
    pub(crate) fn closed_silently(&self) -> u64 {
        self.state.closed_silently.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        if state.open.load(Ordering::SeqCst) >= state.ceiling.load(Ordering::SeqCst) {
            state.closed_silently.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        state.open.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let _ = copy_bidirectional(&mut client, &mut server).await;
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}
