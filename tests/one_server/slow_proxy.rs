//! A proxy that keeps every new connection waiting, and knows which of them were under way together.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::support::TestServer;

pub(crate) struct SlowProxy {
    address: SocketAddr,
    dials: Arc<Mutex<Vec<Dial>>>,
    accepting: JoinHandle<()>,
}

/// From the connection until the first byte of an answer is passed on.
#[derive(Clone, Copy, Debug)]
struct Dial {
    begun: Instant,
    ended: Option<Instant>,
}

impl Dial {
    /// One that is still under way ends after all others.
    fn is_under_way(&self, at: Instant) -> bool {
        self.begun <= at && self.ended.is_none_or(|ended| at < ended)
    }
}

impl SlowProxy {
    /// Passes nothing on before a connection is so old.
    pub(crate) async fn start(server: &TestServer, hold: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let dials = Arc::default();
        let accepting = tokio::spawn(accept(listener, server.port(), hold, Arc::clone(&dials)));
        Self { address, dials, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// How many have begun.
    pub(crate) fn dials(&self) -> usize {
        self.dials.lock().unwrap().len()
    }

    /// The most that were under way at a time.
    pub(crate) fn most_at_once(&self) -> usize {
        let dials = self.dials.lock().unwrap();
        let at_once = |at: Instant| dials.iter().filter(|dial| dial.is_under_way(at)).count();
        dials.iter().map(|dial| at_once(dial.begun)).max().unwrap_or(0)
    }

    /// The most of them of which each began after the one before had ended: how often one held the
    /// pool up, whatever the machine's speed.
    pub(crate) fn rounds(&self) -> usize {
        let mut dials = self.dials.lock().unwrap().clone();
        dials.sort_by_key(|dial| (dial.ended.is_none(), dial.ended));
        let (mut rounds, mut last) = (0, None);
        for dial in dials {
            if last.is_none_or(|last| dial.begun >= last) {
                rounds += 1;
                let Some(ended) = dial.ended else { break };
                last = Some(ended);
            }
        }
        rounds
    }
}

impl Drop for SlowProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, hold: Duration, dials: Arc<Mutex<Vec<Dial>>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let number = {
            let mut dials = dials.lock().unwrap();
            dials.push(Dial { begun: Instant::now(), ended: None });
            dials.len() - 1
        };
        let dials = Arc::clone(&dials);
        connections.spawn(async move {
            let ended = || {
                dials.lock().unwrap()[number].ended.get_or_insert_with(Instant::now);
            };
            sleep(hold).await;
            pass(client, port, &ended).await.unwrap_or_default();
            ended();
        });
    }
}

/// Passes bytes on until the server has no more to say.
async fn pass(mut client: TcpStream, port: u16, answers: impl Fn()) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        // A server that has closed takes no more; its words may still be on their way.
        let gone = copy(&mut from_client, &mut to_server).await.is_ok();
        if !gone {
            std::future::pending::<()>().await;
        }
    };
    let replies = async {
        let mut first = [0; 4_096];
        let count = from_server.read(&mut first).await?;
        answers();
        to_client.write_all(&first[..count]).await?;
        copy(&mut from_server, &mut to_client).await.map(drop)
    };
    tokio::select! {
        biased;
        ended = replies => ended,
        () = requests => Ok(()),
    }
}
