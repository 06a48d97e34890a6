//! A name that can move, or go silent: an address that leads to one server and, from then on, to another.
//! What is open stays with the server it was opened to, as after a DNS change or a moved service address.
#![allow(dead_code, reason = "every test uses its own part of the support code")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::TestServer;

pub(crate) struct Name {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    leads_to: AtomicU16,
    dials: AtomicUsize,
    /// Nothing is passed on, and nothing is closed.
    silent: watch::Sender<bool>,
}

impl Name {
    pub(crate) async fn of(server: &TestServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            leads_to: AtomicU16::new(server.port()),
            dials: AtomicUsize::new(0),
            silent: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(lead(listener, Arc::clone(&state)));
        Self { address, state, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn move_to(&self, server: &TestServer) {
        self.state.leads_to.store(server.port(), Ordering::SeqCst);
    }

    /// From now on no byte passes, and no connection is closed.
    pub(crate) fn go_silent(&self) {
        self.state.silent.send_replace(true);
    }

    pub(crate) fn speak_again(&self) {
        self.state.silent.send_replace(false);
    }

    /// How many dials it has had.
    pub(crate) fn dials(&self) -> usize {
        self.state.dials.load(Ordering::SeqCst)
    }
}

async fn lead(listener: TcpListener, state: Arc<State>) {
    // Ended with the name.
    let mut pairs = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        state.dials.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&state);
        pairs.spawn(async move {
            let port = state.leads_to.load(Ordering::SeqCst);
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = pass(from_client, to_server, state.silent.subscribe()) => {}
                () = pass(from_server, to_client, state.silent.subscribe()) => {}
            }
        });
    }
}

/// Passes bytes on while the name is not silent.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut silent: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 * 1_024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let speaks = silent.wait_for(|silent| !silent).await.is_ok();
        if !speaks || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
