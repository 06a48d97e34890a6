//! A proxy between a pool and its server that goes silent on command, as a NAT that forgets a
//! connection does.
#![allow(dead_code, reason = "every test uses its own part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::TestServer;

pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Nothing is forwarded any more, and nothing is closed.
    silent: watch::Sender<bool>,
    /// Connections of an earlier generation are forgotten.
    generation: watch::Sender<u64>,
    mute_new: AtomicBool,
    muted: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn start(server: &TestServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let accepting = tokio::spawn(accept(listener, server.port(), Arc::clone(&state)));
        Self { address, state, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// From now on, new connections are accepted and never answered.
    pub(crate) fn mute_new(&self) {
        self.state.mute_new.store(true, Ordering::SeqCst);
    }

    /// How many were accepted since.
    pub(crate) fn muted(&self) -> usize {
        self.state.muted.load(Ordering::SeqCst)
    }

    /// From now on, no byte passes; no connection is closed.
    pub(crate) fn go_silent(&self) {
        self.state.silent.send_replace(true);
    }

    /// No byte passes any more on the connections that are open now; new ones work.
    pub(crate) fn forget_all(&self) {
        self.state.generation.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn speak_again(&self) {
        self.state.silent.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, state: Arc<State>) {
    let mut muted = Vec::new();
    while let Ok((client, _)) = listener.accept().await {
        if state.mute_new.load(Ordering::SeqCst) {
            muted.push(client);
            state.muted.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(forward(from_client, to_server, Arc::clone(&state)));
        tokio::spawn(forward(from_server, to_client, Arc::clone(&state)));
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    state: Arc<State>,
) {
    let (mut silent, generation) = (state.silent.subscribe(), state.generation.subscribe());
    let mut bytes = [0; 4_096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if generation.has_changed().unwrap_or(true) {
            return std::future::pending().await;
        }
        // What was read while it is silent is held back, as on a route that is down.
        if silent.wait_for(|silent| !silent).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
