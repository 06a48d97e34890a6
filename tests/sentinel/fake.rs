//! A sentinel of our own, which says what it is told to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};

/// Gone when dropped, and its connections with it.
pub(crate) struct FakeSentinel {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    /// Where the master is, in host and port; `None`: it knows no such master.
    says: Mutex<Option<(String, String)>>,
    silent: AtomicBool,
    published: broadcast::Sender<String>,
    accepted: AtomicU64,
    asked: AtomicU64,
}

impl FakeSentinel {
    /// `says`: the master's address, if it knows one.
    pub(crate) async fn start(says: Option<&str>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            says: Mutex::new(None),
            silent: AtomicBool::new(false),
            published: broadcast::channel(16).0,
            accepted: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        let sentinel = Self { address, state, accepting };
        sentinel.says(says);
        sentinel
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on it says this to whoever asks.
    pub(crate) fn says(&self, address: Option<&str>) {
        let parts = address.map(|address| {
            let (host, port) = address.rsplit_once(':').unwrap();
            (host.to_owned(), port.to_owned())
        });
        *self.state.says.lock().unwrap() = parts;
    }

    /// Says so to all who listen, and to those who ask from now on.
    pub(crate) fn switches(&self, master: &str, from: &str, to: &str) {
        self.says(Some(to));
        let words = |address: &str| address.replace(':', " ");
        let _ = self.state.published.send(format!("{master} {} {}", words(from), words(to)));
    }

    /// Answers nothing from now on, and closes nothing.
    pub(crate) fn go_silent(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// How often it was asked where the master is.
    pub(crate) fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::SeqCst)
    }
}

impl Drop for FakeSentinel {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.accepted.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&state);
        connections.spawn(async move { serve(stream, &state).await.unwrap_or_default() });
    }
}

async fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading);
    let mut published = state.published.subscribe();
    let (commands, mut pending) = tokio::sync::mpsc::unbounded_channel();
    let listening = async move {
        while let Some(command) = read_command(&mut lines).await? {
            let _ = commands.send(command);
        }
        Ok(())
    };
    let answering = async move {
        let mut channels: Vec<String> = Vec::new();
        loop {
            let reply = tokio::select! {
                command = pending.recv() => match command {
                    Some(command) => state.reply(&command, &mut channels),
                    None => return Ok(()),
                },
                message = published.recv() => match message {
                    Ok(message) if channels.iter().any(|channel| channel == "+switch-master") => {
                        bulks(&["message", "+switch-master", &message])
                    }
                    _ => continue,
                },
            };
            if !state.silent.load(Ordering::SeqCst) {
                writing.write_all(reply.as_bytes()).await?;
            }
        }
    };
    tokio::try_join!(listening, answering).map(drop)
}

impl State {
    fn reply(&self, command: &[String], channels: &mut Vec<String>) -> String {
        let words: Vec<String> = command.iter().map(|word| word.to_ascii_lowercase()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["subscribe", ref added @ ..] => {
                let each = added.iter().map(|channel| {
                    channels.push((*channel).to_owned());
                    subscription("subscribe", channel, channels.len())
                });
                each.collect()
            }
            ["unsubscribe", ref removed @ ..] => {
                let each = removed.iter().map(|channel| {
                    channels.retain(|subscribed| subscribed != channel);
                    subscription("unsubscribe", channel, channels.len())
                });
                each.collect()
            }
            ["sentinel", "get-master-addr-by-name", _] => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                match &*self.says.lock().unwrap() {
                    Some((host, port)) => bulks(&[host, port]),
                    None => "*-1\r\n".to_owned(),
                }
            }
            ["sentinel", ..] => "-ERR No such master with that name\r\n".to_owned(),
            ["ping"] if channels.is_empty() => "+PONG\r\n".to_owned(),
            ["ping"] => bulks(&["pong", ""]),
            ["hello", ..] => "-ERR unknown command 'hello'\r\n".to_owned(),
            _ => "+OK\r\n".to_owned(),
        }
    }
}

fn bulks(words: &[&str]) -> String {
    let each: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{each}", words.len())
}

fn subscription(kind: &str, channel: &str, count: usize) -> String {
    format!("*3\r\n${}\r\n{kind}\r\n${}\r\n{channel}\r\n:{count}\r\n", kind.len(), channel.len())
}

/// `None` at the end of the stream.
async fn read_command(
    stream: &mut (impl AsyncBufReadExt + Unpin),
) -> std::io::Result<Option<Vec<String>>> {
    let Some(count) = read_length(stream).await? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..count {
        let Some(length) = read_length(stream).await? else { return Ok(None) };
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await?;
        word.truncate(length);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Ok(Some(words))
}

async fn read_length(
    stream: &mut (impl AsyncBufReadExt + Unpin),
) -> std::io::Result<Option<usize>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let length = line.get(1..).and_then(|length| length.trim_end().parse().ok());
    length.map(Some).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
