//! A blocking RESP client of its own, opened before anybody else: it still works when the server is
//! full.
#![allow(
    dead_code,
    reason = "every test, example and benchmark uses its own part of the support code"
)]

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A server that has been paused must not hang the test that asks it something.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The operator's view of a [`TestServer`](super::TestServer).
///
/// Takes one of the server's `maxclients` slots for as long as the server runs.
#[derive(Debug)]
pub(crate) struct Admin {
    socket: PathBuf,
    password: Option<String>,
    connection: Mutex<Option<Connection>>,
}

impl Admin {
    pub(crate) fn new(socket: PathBuf, password: Option<String>) -> Self {
        Self { socket, password, connection: Mutex::new(None) }
    }

    /// Runs one command; an error reply comes back as [`Reply::Error`].
    ///
    /// # Errors
    /// The server is stopped, paused for more than five seconds, or has dropped the connection.
    pub(crate) fn command(&self, args: &[&str]) -> io::Result<Reply> {
        if let ["CLIENT", "LIST"] = args {
            self.turn()?;
        }
        let mut held = self.held();
        let connection = match held.as_mut() {
            Some(connection) => connection,
            None => held.insert(Connection::open(&self.socket, self.password.as_deref())?),
        };
        let reply = connection.command(args);
        if reply.is_err() {
            // Whatever is still on its way would answer the next question.
            *held = None;
        }
        reply
    }

    /// Returns when the server no longer counts the connections that have ended before this: it
    /// does so until the end of the turn in which it reads the end.
    fn turn(&self) -> io::Result<Reply> {
        self.command(&["CLIENT", "GETNAME"])
    }

    /// Runs one command and gives its reply as text.
    ///
    /// # Panics
    /// If there is no answer, or it is an error.
    #[track_caller]
    pub(crate) fn text(&self, args: &[&str]) -> String {
        match self.command(args) {
            Ok(Reply::Error(message)) => panic!("{args:?} was answered with: {message}"),
            Ok(reply) => reply.text(),
            Err(error) => panic!("{args:?} was not answered: {error}"),
        }
    }

    /// A number out of `INFO`, such as `rejected_connections`.
    ///
    /// # Panics
    /// If the server has no such field.
    #[track_caller]
    pub(crate) fn info_u64(&self, field: &str) -> u64 {
        // Not `everything`: a sentinel of 6.2 knows no such section.
        self.text(&["INFO", "all"])
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok())
            .unwrap_or_else(|| panic!("INFO has no number called {field}"))
    }

    /// What the server compares with `maxclients`.
    #[track_caller]
    pub(crate) fn used_slots(&self) -> u64 {
        self.turn().expect("a server to ask");
        self.info_u64("connected_clients")
            + self.info_u64("connected_slaves")
            + self.info_u64("cluster_connections")
    }

    /// `CLIENT LIST`, each client as its fields.
    #[track_caller]
    pub(crate) fn client_list(&self) -> Vec<HashMap<String, String>> {
        self.text(&["CLIENT", "LIST"])
            .lines()
            .map(|line| {
                let fields = line.split(' ').filter_map(|field| field.split_once('='));
                fields.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
            })
            .collect()
    }

    /// How many clients have a name that starts so.
    #[track_caller]
    pub(crate) fn clients_named(&self, prefix: &str) -> usize {
        let named = |client: &HashMap<String, String>| {
            client.get("name").is_some_and(|name| name.starts_with(prefix))
        };
        self.client_list().iter().filter(|client| named(client)).count()
    }

    #[track_caller]
    pub(crate) fn set_maxclients(&self, maxclients: u32) {
        self.text(&["CONFIG", "SET", "maxclients", &maxclients.to_string()]);
    }

    #[track_caller]
    pub(crate) fn maxclients(&self) -> u64 {
        self.info_u64("maxclients")
    }

    /// Opens the connection again if there is none, and says whether the server is at work
    /// (`PONG`), or what it says instead.
    pub(crate) fn ping(&self) -> io::Result<Reply> {
        self.command(&["PING"])
    }

    pub(crate) fn disconnect(&self) {
        *self.held() = None;
    }

    fn held(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reply of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Nil,
    Int(i64),
    Text(String),
    Error(String),
    Array(Vec<Reply>),
}

impl Reply {
    /// The reply as a person would write it down; an array has one line an item.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Nil => String::new(),
            Self::Int(number) => number.to_string(),
            Self::Text(text) | Self::Error(text) => text.clone(),
            Self::Array(items) => items.iter().map(Self::text).collect::<Vec<_>>().join("\n"),
        }
    }

    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

/// What a connection goes over.
pub(crate) trait Stream: Read + Write + Debug + Send {}

impl<S: Read + Write + Debug + Send> Stream for S {}

/// One blocking connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<Box<dyn Stream>>,
}

impl Connection {
    /// Connects over the server's Unix socket and, with a password, logs in.
    ///
    /// # Errors
    /// Nobody listens, or the server takes no more clients.
    pub(crate) fn open(socket: &Path, password: Option<&str>) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        let mut connection = Self::over(stream);
        if let Some(password) = password {
            connection.expect(&["AUTH", password])?;
        }
        Ok(connection)
    }

    /// Over a socket that is connected.
    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: BufReader::new(Box::new(stream)) }
    }

    /// Like [`command`](Self::command), with an error reply as an error.
    pub(crate) fn expect(&mut self, args: &[&str]) -> io::Result<Reply> {
        match self.command(args)? {
            Reply::Error(message) => Err(io::Error::other(message)),
            reply => Ok(reply),
        }
    }

    /// Sends one command and reads no reply: one that blocks, or one nobody listens to.
    pub(crate) fn send(&mut self, args: &[&str]) -> io::Result<()> {
        self.stream.get_mut().write_all(&packed(args)?)
    }

    /// Sends one command and reads one reply. What a rejecting server wrote before it closed is
    /// read even where the write fails.
    pub(crate) fn command(&mut self, args: &[&str]) -> io::Result<Reply> {
        let written = self.send(args);
        let reply = self.read_reply();
        match (written, reply) {
            (_, Ok(reply)) => Ok(reply),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// Reads one reply, or what is published.
    pub(crate) fn read_reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let Some(line) = line.strip_suffix("\r\n") else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, line.to_owned());
        let (kind, rest) = line.split_at_checked(1).ok_or_else(invalid)?;
        let number = || rest.parse::<i64>().map_err(|_| invalid());
        match kind {
            "+" => Ok(Reply::Text(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => Ok(Reply::Int(number()?)),
            "$" => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Nil),
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Nil),
                Ok(length) => (0..length)
                    .map(|_| self.read_reply())
                    .collect::<io::Result<_>>()
                    .map(Reply::Array),
            },
            _ => Err(invalid()),
        }
    }
}

fn packed(args: &[&str]) -> io::Result<Vec<u8>> {
    let mut request = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        write!(request, "${}\r\n{arg}\r\n", arg.len())?;
    }
    Ok(request)
}

/// Asks again and again until there is an answer, for at most `limit`.
pub(crate) fn poll<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if now() >= deadline {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a server process lives in real time, also where the test's own is paused"
)]
fn now() -> Instant {
    Instant::now()
}
