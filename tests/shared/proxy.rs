//! A proxy between a pool and its server that forgets connections, as a NAT does: no byte passes
//! any more, and nothing is closed.

use std::net::SocketAddr;

use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::TestServer;

pub(crate) struct Proxy {
    address: SocketAddr,
    /// Connections of an earlier generation are forgotten.
    generation: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: &TestServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let generation = watch::Sender::new(0);
        let accepting = tokio::spawn(accept(listener, server.port(), generation.clone()));
        Self { address, generation, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Forgets the connections that are open now; new ones work.
    pub(crate) fn forget_all(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, generation: watch::Sender<u64>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        let mut forgotten = generation.subscribe();
        tokio::spawn(async move {
            {
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                tokio::select! {
                    biased;
                    _ = forgotten.changed() => {}
                    _ = copy(&mut from_client, &mut to_server) => return,
                    _ = copy(&mut from_server, &mut to_client) => return,
                }
            }
            std::future::pending::<()>().await;
            drop((client, server));
        });
    }
}
