//! A server that says what a real one cannot be made to say.
#![allow(dead_code, reason = "every test uses its own part of it")]

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Answers what a doctor asks; each answer can be another one. Gone when dropped.
pub(crate) struct Fake {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// The beginning of a command, in upper case, and the reply as it stands on the wire. The first
    /// that fits is given.
    replies: Vec<(String, Vec<u8>)>,
    accepted: AtomicU64,
    over: AtomicBool,
}

#[derive(Default)]
pub(crate) struct FakeBuilder {
    replies: Vec<(String, Vec<u8>)>,
}

impl FakeBuilder {
    pub(crate) fn info(self, text: impl AsRef<[u8]>) -> Self {
        self.reply("INFO", bulk(text))
    }

    pub(crate) fn client_list(self, text: impl AsRef<[u8]>) -> Self {
        self.reply("CLIENT LIST", bulk(text))
    }

    /// What a command that begins so is answered with.
    pub(crate) fn reply(mut self, command: &str, reply: impl AsRef<[u8]>) -> Self {
        self.replies.push((command.to_owned(), reply.as_ref().to_vec()));
        self
    }

    pub(crate) fn start(mut self) -> Fake {
        for (command, reply) in [
            ("PING", "+PONG\r\n"),
            ("CLIENT ID", ":1\r\n"),
            ("CLIENT LIST", "$0\r\n\r\n"),
            ("CLIENT", "+OK\r\n"),
            ("AUTH", "+OK\r\n"),
            ("SELECT", "+OK\r\n"),
            ("CONFIG GET", "*0\r\n"),
            ("TIME", "*2\r\n$10\r\n1795252228\r\n$1\r\n0\r\n"),
            ("SLOWLOG LEN", ":0\r\n"),
            ("SLOWLOG GET", "*0\r\n"),
            ("", "-ERR unknown command\r\n"),
        ] {
            self.replies.push((command.to_owned(), reply.as_bytes().to_vec()));
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            replies: self.replies,
            accepted: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.over.load(Ordering::SeqCst) {
                    break;
                }
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                let state = Arc::clone(&shared);
                // A client that hangs up is none of this server's business.
                thread::spawn(move || stream.and_then(|it| serve(it, &state)).unwrap_or_default());
            }
        });
        Fake { address, state }
    }
}

impl Fake {
    pub(crate) fn builder() -> FakeBuilder {
        FakeBuilder::default()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

pub(crate) fn bulk(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat()
}

pub(crate) fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat()
}

fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(command) = read_command(&mut stream)? {
        let command = command.join(" ").to_ascii_uppercase();
        let reply = state.replies.iter().find(|(start, _)| command.starts_with(start.as_str()));
        let (_, reply) = reply.expect("every command begins with nothing");
        stream.get_mut().write_all(reply)?;
    }
    Ok(())
}

/// `None` at the end of the stream.
fn read_command(stream: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let Some(length) = read_length(stream)? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..length {
        let Some(length) = read_length(stream)? else { return Ok(None) };
        let mut word = vec![0; length + 2];
        io::Read::read_exact(stream, &mut word)?;
        word.truncate(length);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Ok(Some(words))
}

fn read_length(stream: &mut impl BufRead) -> io::Result<Option<usize>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let length = line.get(1..).and_then(|length| length.trim_end().parse().ok());
    length.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
