//! A name that can move: an address that leads to one server and, from then on, to another. What is
//! open stays with the server it was opened to, as after a DNS change or a moved service address.
#![allow(dead_code, reason = "every test uses its own part of the support code")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::TestServer;

pub(crate) struct Name {
    address: SocketAddr,
    leads_to: Arc<AtomicU16>,
    dials: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Name {
    pub(crate) async fn of(server: &TestServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let leads_to = Arc::new(AtomicU16::new(server.port()));
        let dials = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(lead(listener, Arc::clone(&leads_to), Arc::clone(&dials)));
        Self { address, leads_to, dials, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn move_to(&self, server: &TestServer) {
        self.leads_to.store(server.port(), Ordering::SeqCst);
    }

    /// How many dials it has had.
    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }
}

async fn lead(listener: TcpListener, leads_to: Arc<AtomicU16>, dials: Arc<AtomicUsize>) {
    // Ended with the name.
    let mut pairs = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        dials.fetch_add(1, Ordering::SeqCst);
        let port = leads_to.load(Ordering::SeqCst);
        pairs.spawn(async move {
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
