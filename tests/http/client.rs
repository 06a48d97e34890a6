//! A keep-alive HTTP/1.1 client, just enough for answers that have a length, and a load of many of
//! them.
#![allow(dead_code, reason = "every test uses its own part of it")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// A request that takes longer hangs: the service itself gives up on Redis after half a second.
const HANG: Duration = Duration::from_secs(60);

/// Between two requests of one client of a load: 256 of them make 2,560 requests a second, about half
/// of what a debug build on two cores answers.
const PACE: Duration = Duration::from_millis(100);

/// And so many times what its last answer took: about 16 of 256 wait for an answer at a time, also of a
/// service that a busy machine has made slow. More would take all of its connections for themselves.
const PATIENCE: u32 = 16;

/// A phase takes a second or two where nothing else is going on.
const PHASE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: String,
    pub(crate) took: Duration,
}

pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, "").await
    }

    /// Sends one request. `path` is also its API key.
    pub(crate) async fn request(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let started = Instant::now();
        self.send(method, path, body).await;
        let (status, retry_after, body) = self.receive(&format!("{method} {path}")).await;
        Answer { status, retry_after, body, took: started.elapsed() }
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nx-api-key: {path}\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes()).await.unwrap();
    }

    /// Status, `Retry-After` and body of the next response.
    pub(crate) async fn receive(&mut self, what: &str) -> (u16, Option<u64>, String) {
        let received = timeout(HANG, self.read_response()).await;
        received
            .unwrap_or_else(|_| panic!("{what} hangs"))
            .unwrap_or_else(|e| panic!("{what}: {e}"))
    }

    async fn read_response(&mut self) -> std::io::Result<(u16, Option<u64>, String)> {
        let status = self.line().await?.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other("no status line"))?;
        let (mut length, mut retry_after) = (0, None);
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                None => break,
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("retry-after", value)) => retry_after = Some(value.parse().unwrap()),
                Some(_) => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok((status, retry_after, String::from_utf8(body).unwrap()))
    }

    async fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        Ok(line.trim_end().to_owned())
    }
}

/// How many answers came with which status, and with or without `Retry-After`.
pub(crate) type Seen = BTreeMap<(u16, bool), usize>;

/// Many clients, each with a connection and a path of its own.
pub(crate) struct Load {
    clients: JoinSet<()>,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    /// An answer to a request of an earlier phase says nothing about this one.
    phase: AtomicUsize,
    /// By the first part of the path.
    seen: Mutex<BTreeMap<String, Seen>>,
}

impl Log {
    fn note(&self, phase: usize, route: &str, answer: &Answer) {
        let mut seen = self.seen.lock().unwrap();
        if phase == self.phase.load(Ordering::Relaxed) {
            let kind = (answer.status, answer.retry_after.is_some());
            *seen.entry(route.to_owned()).or_default().entry(kind).or_default() += 1;
        }
    }
}

impl Load {
    pub(crate) async fn start(address: SocketAddr, paths: impl Iterator<Item = String>) -> Self {
        let mut load = Self { clients: JoinSet::new(), log: Arc::default() };
        for path in paths {
            let client = Client::connect(address).await;
            load.clients.spawn(ask_for_ever(client, path, Arc::clone(&load.log)));
        }
        load
    }

    /// The answers of a new phase, once there are so many for each of two routes.
    pub(crate) async fn phase(&mut self, answers: usize) -> [Seen; 2] {
        {
            let mut seen = self.log.seen.lock().unwrap();
            self.log.phase.fetch_add(1, Ordering::Relaxed);
            seen.clear();
        }
        let started = Instant::now();
        loop {
            sleep(Duration::from_millis(5)).await;
            if let Some(ended) = self.clients.try_join_next() {
                ended.unwrap();
            }
            let seen = self.log.seen.lock().unwrap();
            assert!(started.elapsed() < PHASE, "too few answers: {seen:?}");
            let enough = |seen: &Seen| seen.values().sum::<usize>() >= answers;
            if seen.len() == 2 && seen.values().all(enough) {
                let mut routes = seen.values().cloned();
                return [routes.next().unwrap(), routes.next().unwrap()];
            }
        }
    }
}

async fn ask_for_ever(mut client: Client, path: String, log: Arc<Log>) {
    sleep(PACE.mul_f64(fastrand::f64())).await;
    let route = path.split(['/', '?']).nth(1).unwrap().to_owned();
    loop {
        let phase = log.phase.load(Ordering::Relaxed);
        let answer = client.get(&path).await;
        log.note(phase, &route, &answer);
        sleep(PACE.max(PATIENCE * answer.took)).await;
    }
}
