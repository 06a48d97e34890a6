//! Clients of a server over TCP, by the dozen, each group from an address and under a name of its
//! own: what an operator finds in CLIENT LIST.
#![allow(dead_code, reason = "every test uses its own part of the support code")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::server::{Connection, Reply, TestServer, poll};

const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
const SEEN_LIMIT: Duration = Duration::from_secs(60);
/// How often a busy client asks something.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);
/// Between two dials of a client that is refused and knows no better.
const REDIAL_INTERVAL: Duration = Duration::from_millis(5);

/// Connections from one loopback address, under one name. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    server: SocketAddr,
    source: Ipv4Addr,
    name: Option<String>,
    password: Option<String>,
    connections: Arc<Mutex<Vec<Connection>>>,
    /// Asks for as long as it is there.
    busy: Option<Busy>,
}

#[derive(Debug)]
struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Crowd {
    /// Nobody yet, who will come from 127.0.0.`host`.
    pub(crate) fn from(server: &TestServer, host: u8) -> Self {
        Self {
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, server.port())),
            source: Ipv4Addr::new(127, 0, 0, host),
            name: None,
            password: server.password().map(str::to_owned),
            connections: Arc::default(),
            busy: None,
        }
    }

    /// What they call themselves.
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// So many more; each has had an answer.
    ///
    /// # Panics
    /// If one is not served.
    #[track_caller]
    pub(crate) fn open(self, count: usize) -> Self {
        self.add(count);
        self
    }

    #[track_caller]
    pub(crate) fn add(&self, count: usize) {
        for _ in 0..count {
            let opened = self.dial().unwrap_or_else(|error| panic!("no connection: {error}"));
            self.held().push(opened);
        }
    }

    /// One more, if the server lets it in.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn try_add(&self) -> io::Result<()> {
        let opened = self.dial()?;
        self.held().push(opened);
        Ok(())
    }

    fn dial(&self) -> io::Result<Connection> {
        let mut connection = Connection::over(connect(self.source, self.server)?);
        if let Some(password) = &self.password {
            connection.expect(&["AUTH", password])?;
        }
        if let Some(name) = &self.name {
            connection.expect(&["CLIENT", "SETNAME", name])?;
        }
        connection.expect(&["PING"])?;
        Ok(connection)
    }

    pub(crate) fn len(&self) -> usize {
        self.held().len()
    }

    pub(crate) fn source(&self) -> String {
        self.source.to_string()
    }

    /// Each sends a command, and waits for the answer.
    #[track_caller]
    pub(crate) fn ask(&self, command: &[&str]) {
        for connection in self.held().iter_mut() {
            connection.expect(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        }
    }

    /// Each sends a command; nobody listens to the answer.
    #[track_caller]
    pub(crate) fn send(&self, command: &[&str]) {
        for connection in self.held().iter_mut() {
            connection.send(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        }
    }

    /// Each sends a command that blocks; returns when the server says so.
    #[track_caller]
    pub(crate) fn block_in(self, server: &TestServer, command: &[&str]) -> Self {
        let before = server.admin().info_u64("blocked_clients");
        let wanted = before + self.len() as u64;
        self.send(command);
        let blocked = || (server.admin().info_u64("blocked_clients") == wanted).then_some(());
        poll(SEEN_LIMIT, blocked).unwrap_or_else(|| panic!("not all are blocked in {command:?}"));
        self
    }

    /// From now on each asks something twenty times a second.
    pub(crate) fn busy(self) -> Self {
        self.busy_every(BUSY_INTERVAL)
    }

    /// From now on nobody asks anything any more.
    pub(crate) fn still(mut self) -> Self {
        self.busy = None;
        self
    }

    /// From now on each asks something so often.
    pub(crate) fn busy_every(mut self, interval: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (connections, stopped) = (Arc::clone(&self.connections), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                for connection in held(&connections).iter_mut() {
                    // The server may have been paused or stopped: the test knows.
                    let _ = connection.command(&["PING"]);
                }
                thread::sleep(interval);
            }
        });
        self.busy = Some(Busy { stop, thread: Some(thread) });
        self
    }

    fn held(&self) -> MutexGuard<'_, Vec<Connection>> {
        held(&self.connections)
    }
}

fn held(connections: &Mutex<Vec<Connection>>) -> MutexGuard<'_, Vec<Connection>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients that a full server refuses, and that dial again at once: what a service without back-off
/// does. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Storm {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Storm {
    /// So many clients from 127.0.0.`host`. One that is let in leaves at once, as after one request.
    pub(crate) fn from(server: &TestServer, host: u8, clients: usize) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
        let source = Ipv4Addr::new(127, 0, 0, host);
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = || {
            let (stop, refused) = (Arc::clone(&stop), Arc::clone(&refused));
            move || {
                while !stop.load(Ordering::SeqCst) {
                    let reply = connect(source, address)
                        .and_then(|stream| Connection::over(stream).command(&["PING"]));
                    if !matches!(reply, Ok(Reply::Text(_))) {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    thread::sleep(REDIAL_INTERVAL);
                }
            }
        };
        let threads = (0..clients).map(|_| thread::spawn(client())).collect();
        Self { stop, refused, threads }
    }

    /// Refusals so far.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    /// Returns when so many have been refused.
    #[track_caller]
    pub(crate) fn rages(self, refused: u64) -> Self {
        let raging = || (self.refused() >= refused).then_some(());
        poll(SEEN_LIMIT, raging).expect("the server should refuse the storm");
        self
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// From an address of our own choice.
pub(crate) fn connect(source: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&server.into(), REPLY_TIMEOUT)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    Ok(stream)
}
