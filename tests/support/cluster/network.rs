//! The network between the nodes of a cluster, which may be cut. On Linux, where the whole of 127.0.0.0/8 is
//! the loopback network.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener as Listener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::super::server::{TestServer, TestServerBuilder};

/// Each node has a host of its own, from which it dials the others and where they dial it, for the bus as for
/// replication: a proxy there passes everything on. Clients are at none of these hosts; they are told no host,
/// so they dial a node where it listens, and no cut is one for them.
#[derive(Debug)]
pub(super) struct Network {
    sides: watch::Sender<Sides>,
    /// Its own: those who start a cluster block their thread.
    proxies: Option<Runtime>,
}

/// The side that a node is on by its number; 0 if it is not listed.
type Sides = BTreeMap<usize, usize>;

impl Network {
    pub(super) fn new() -> io::Result<Self> {
        let proxies = Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
        Ok(Self { sides: watch::Sender::default(), proxies: Some(proxies) })
    }

    /// What a node has to be started with.
    pub(super) fn settings(settings: TestServerBuilder, node: usize) -> TestServerBuilder {
        let host = host(node).to_string();
        settings
            .arg("bind-source-addr", &host)
            .arg("cluster-announce-ip", &host)
            .arg("cluster-preferred-endpoint-type", "unknown-endpoint")
    }

    /// Lets the others reach a node. It listens on these ports of 127.0.0.1, so nobody else does at its host.
    pub(super) fn connect(&self, node: usize, server: &TestServer) -> io::Result<()> {
        for port in [server.port(), server.bus_port()] {
            let listener = TcpListener::bind((host(node), port))?;
            listener.set_nonblocking(true)?;
            let proxies = self.proxies.as_ref().expect("it is there until the drop");
            let _entered = proxies.enter();
            let listener = Listener::from_std(listener)?;
            proxies.spawn(accept(listener, node, port, self.sides.subscribe()));
        }
        Ok(())
    }

    pub(super) fn cut_off(&self, nodes: &[usize]) {
        self.sides.send_modify(|sides| {
            let side = 1 + sides.values().max().unwrap_or(&0);
            sides.extend(nodes.iter().map(|node| (*node, side)));
        });
    }

    pub(super) fn heal(&self) {
        self.sides.send_modify(BTreeMap::clear);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(proxies) = self.proxies.take() {
            // It waits for nothing, as a test's own runtime demands.
            proxies.shutdown_background();
        }
    }
}

/// 127.0.0.1 is everybody's.
pub(super) fn host(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(node + 2).expect("a cluster has a few nodes"))
}

/// A node's number, by where it dials from.
fn number(from: SocketAddr) -> Option<usize> {
    match from.ip() {
        IpAddr::V4(from) => usize::from(from.octets()[3]).checked_sub(2),
        IpAddr::V6(_) => None,
    }
}

/// The way between two nodes.
#[derive(Clone)]
struct Way {
    from: Option<usize>,
    to: usize,
    sides: watch::Receiver<Sides>,
}

impl Way {
    /// Completes as soon as it is not cut.
    async fn open(&mut self) {
        let (from, to) = (self.from, self.to);
        let is_open = |sides: &Sides| {
            let side = |node: usize| sides.get(&node);
            from.is_none_or(|from| side(from) == side(to))
        };
        if self.sides.wait_for(is_open).await.is_err() {
            // The cluster is going.
            std::future::pending().await
        }
    }
}

async fn accept(listener: Listener, node: usize, port: u16, sides: watch::Receiver<Sides>) {
    while let Ok((dialer, from)) = listener.accept().await {
        let mut way = Way { from: number(from), to: node, sides: sides.clone() };
        tokio::spawn(async move {
            way.open().await;
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            let ((from_dialer, to_dialer), (from_server, to_server)) =
                (dialer.into_split(), server.into_split());
            tokio::join!(
                pass(from_dialer, to_server, way.clone()),
                pass(from_server, to_dialer, way)
            );
        });
    }
}

/// Passes bytes on, and the end. A cut holds up what is under way and tells nobody, as where packets are lost
/// and sent again.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: Way) {
    let mut bytes = vec![0; 1 << 14];
    loop {
        let count = from.read(&mut bytes).await.unwrap_or(0);
        way.open().await;
        if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
