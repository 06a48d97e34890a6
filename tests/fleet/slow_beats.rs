//! A proxy that holds heartbeats back.

use std::time::Duration;

use redis_guard::{Fleet, GuardedPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::support::TestServer;

pub(crate) struct SlowBeats {
    url: String,
    /// How many it has held back; `None`: it lets them pass.
    held: watch::Sender<Option<usize>>,
}

impl SlowBeats {
    pub(crate) async fn start(server: &TestServer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (held, port) = (watch::Sender::new(None), server.port());
        let slow = Self { url, held };
        let held = slow.held.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Self::relay(client, port, held.clone()));
            }
        });
        slow
    }

    async fn relay(client: TcpStream, port: u16, held: watch::Sender<Option<usize>>) {
        let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            let request = String::from_utf8_lossy(&buffer[..read]);
            if request.contains("EVAL") && !request.contains("leave") {
                let note =
                    |held: &mut Option<usize>| held.as_mut().map(|held| *held += 1).is_some();
                if held.send_if_modified(note) {
                    sleep(Duration::from_millis(300)).await;
                }
            }
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    /// From now on.
    pub(crate) fn hold(&self) {
        self.held.send_replace(Some(0));
    }

    pub(crate) async fn held(&self) {
        self.held.subscribe().wait_for(|held| held.is_some_and(|held| held > 0)).await.unwrap();
    }

    pub(crate) fn member(&self) -> GuardedPool {
        GuardedPool::builder(self.url.as_str())
            .max_connections(4)
            .fleet(Fleet::named("test"))
            .build()
            .unwrap()
    }
}
