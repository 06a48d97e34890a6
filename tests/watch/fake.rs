//! A server of our own, for what a real one cannot be made to say.
#![allow(dead_code, reason = "every test uses its own part of it")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Answers as much of the protocol as a pool speaks; gone when dropped.
pub(crate) struct Fake {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// The reply to INFO, as it stands on the wire.
    info: Mutex<String>,
    /// The reply to a script, likewise.
    eval: Mutex<String>,
    /// INFO is not answered meanwhile.
    held: watch::Sender<bool>,
    full: AtomicBool,
    accepted: AtomicU64,
    refused: AtomicU64,
    /// The reply to CONFIG GET, likewise, by the name that is asked for.
    settings: Mutex<HashMap<String, String>>,
    /// When INFO was asked for.
    infos: Mutex<Vec<Instant>>,
    /// What CONFIG GET was asked for.
    asked_settings: Mutex<Vec<String>>,
    /// The words of the last heartbeat.
    last_beat: Mutex<Vec<String>>,
    /// The heartbeats that were sent, the member's id and the number, and how often.
    heartbeats: Mutex<HashMap<(String, String), usize>>,
}

impl Fake {
    /// `info`: what INFO says, each field on its line; see [`says`](Self::says).
    pub(crate) async fn start(info: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        let fake = Self { address, state, accepting };
        fake.says(info);
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// From now on INFO says this.
    pub(crate) fn says(&self, info: &str) {
        let text = info.split_whitespace().collect::<Vec<_>>().join("\r\n");
        self.replies(&format!("${}\r\n{text}\r\n", text.len()));
    }

    /// From now on INFO is answered with these bytes.
    pub(crate) fn replies(&self, reply: &str) {
        reply.clone_into(&mut self.state.info.lock().unwrap());
    }

    /// From now on a script is answered with these bytes.
    pub(crate) fn replies_to_scripts(&self, reply: &str) {
        reply.clone_into(&mut self.state.eval.lock().unwrap());
    }

    /// From now on CONFIG GET of that name is answered with these bytes, and not with an empty list.
    pub(crate) fn replies_to_config(&self, name: &str, reply: &str) {
        self.state.settings.lock().unwrap().insert(name.to_owned(), reply.to_owned());
    }

    /// How often CONFIG GET asked for that name.
    pub(crate) fn questions_about(&self, name: &str) -> usize {
        self.state.asked_settings.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }

    /// The arguments of the last heartbeat that it was sent.
    pub(crate) fn last_beat(&self) -> Vec<String> {
        self.state.last_beat.lock().unwrap().clone()
    }

    pub(crate) fn hold_info(&self, held: bool) {
        self.state.held.send_replace(held);
    }

    /// From now on whoever connects is refused, as by a full server.
    pub(crate) fn set_full(&self, full: bool) {
        self.state.full.store(full, Ordering::SeqCst);
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::SeqCst)
    }

    /// How often it was asked for INFO, answered or not.
    pub(crate) fn infos(&self) -> usize {
        self.state.infos.lock().unwrap().len()
    }

    /// When it was asked for INFO, answered or not.
    pub(crate) fn asked_at(&self) -> Vec<Instant> {
        self.state.infos.lock().unwrap().clone()
    }

    /// Every heartbeat that it was sent, the member's id and the number, and how often.
    pub(crate) fn heartbeats(&self) -> HashMap<(String, String), usize> {
        self.state.heartbeats.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        if state.full.load(Ordering::SeqCst) {
            state.refused.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"-ERR max number of clients reached\r\n").await;
            continue;
        }
        state.accepted.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&state);
        connections.spawn(async move { serve(stream, &state).await.unwrap_or_default() });
    }
}

/// Reads on while a reply is held, so that it is known what was asked.
async fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.into_split();
    let (commands, mut pending) = mpsc::unbounded_channel();
    let listening = async move {
        let mut reading = BufReader::new(reading);
        while let Some(command) = read_command(&mut reading).await? {
            state.note(&command);
            let _ = commands.send(command);
        }
        Ok(())
    };
    let answering = async move {
        while let Some(command) = pending.recv().await {
            writing.write_all(state.reply(&command).await.as_bytes()).await?;
        }
        Ok(())
    };
    tokio::try_join!(listening, answering).map(drop)
}

fn name(command: &[String]) -> Option<String> {
    command.first().map(|word| word.to_ascii_uppercase())
}

impl State {
    fn note(&self, command: &[String]) {
        match name(command).as_deref() {
            Some("INFO") => self.infos.lock().unwrap().push(Instant::now()),
            Some("CONFIG") => {
                self.asked_settings.lock().unwrap().extend(command.get(2).cloned());
            }
            Some("EVAL" | "EVALSHA") => {
                let keys = command.get(2).and_then(|keys| keys.parse().ok()).unwrap_or(0);
                if let [kind, id, number, ..] = &command[(3 + keys).min(command.len())..]
                    && kind == "beat"
                {
                    *self.last_beat.lock().unwrap() = command[3 + keys..].to_vec();
                    let mut heartbeats = self.heartbeats.lock().unwrap();
                    *heartbeats.entry((id.clone(), number.clone())).or_default() += 1;
                }
            }
            _ => {}
        }
    }

    async fn reply(&self, command: &[String]) -> String {
        match name(command).as_deref() {
            Some("INFO") => {
                let _ = self.held.subscribe().wait_for(|held| !held).await;
                self.info.lock().unwrap().clone()
            }
            Some("PING") => match command.get(1) {
                Some(word) => format!("${}\r\n{word}\r\n", word.len()),
                None => "+PONG\r\n".to_owned(),
            },
            Some("EVAL" | "EVALSHA") => self.eval.lock().unwrap().clone(),
            Some("CONFIG") => {
                let settings = self.settings.lock().unwrap();
                let told = command.get(2).and_then(|name| settings.get(name));
                told.cloned().unwrap_or_else(|| "*0\r\n".to_owned())
            }
            _ => "+OK\r\n".to_owned(),
        }
    }
}

/// `None` at the end of the stream.
async fn read_command(
    stream: &mut BufReader<OwnedReadHalf>,
) -> std::io::Result<Option<Vec<String>>> {
    let Some(length) = read_length(stream).await? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..length {
        let Some(length) = read_length(stream).await? else { return Ok(None) };
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await?;
        word.truncate(length);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Ok(Some(words))
}

async fn read_length(stream: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Option<usize>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let length = line.get(1..).and_then(|length| length.trim_end().parse().ok());
    length.map(Some).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}
