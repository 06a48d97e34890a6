//! A real `redis-server` for one test, example or benchmark.
//!
//! Include it with `#[path = "../tests/support/server.rs"] mod server;`. It needs `tempfile` and
//! `rcgen`, and nothing of the crate under test.
#![allow(
    dead_code,
    reason = "every test, example and benchmark uses its own part of the support code"
)]

#[path = "admin.rs"]
mod admin;
#[path = "launch.rs"]
mod launch;
#[path = "occupants.rs"]
mod occupants;
#[path = "program.rs"]
mod program;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use launch::{
    Ports, START_LIMIT, copy_certificates, free_ports, kill, launch, signal, write_certificates,
    write_config,
};

#[allow(
    unused_imports,
    reason = "every test, example and benchmark uses its own part of the support code"
)]
pub(crate) use self::{
    admin::{Admin, Connection, Reply, poll},
    launch::{StartError, quoted},
    occupants::{OCCUPANT_PREFIX, Occupants},
    program::{LOADS_SLOWLY, Maker, Program, SEVEN, lacks, lacks_tls, program, skip},
};

const PORT_TRIES: usize = 50;
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running `redis-server` with a temporary folder of its own, killed on drop.
///
/// It listens on a loopback port and on a Unix socket. All methods take `&self`, so that tasks can
/// share it.
#[derive(Debug)]
pub(crate) struct TestServer {
    dir: TempDir,
    settings: TestServerBuilder,
    ports: Ports,
    ca_pem: Option<String>,
    socket: PathBuf,
    admin: Admin,
    child: Mutex<Option<Child>>,
    paused: AtomicBool,
}

impl TestServer {
    pub(crate) fn builder() -> TestServerBuilder {
        TestServerBuilder::default()
    }

    /// A server with default settings.
    ///
    /// # Errors
    /// See [`TestServerBuilder::start`].
    pub(crate) fn start() -> Result<Self, StartError> {
        Self::builder().start()
    }

    /// The operator's connection, held open from the start. It takes one slot.
    pub(crate) fn admin(&self) -> &Admin {
        &self.admin
    }

    pub(crate) fn port(&self) -> u16 {
        self.ports.plain
    }

    pub(crate) fn tls_port(&self) -> u16 {
        self.ports.tls
    }

    /// The port of the cluster bus.
    pub(crate) fn bus_port(&self) -> u16 {
        self.ports.bus
    }

    pub(crate) fn socket_path(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.settings.password.as_deref()
    }

    /// What it has logged since it was started last.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// It has been started, and not been stopped, killed or paused since.
    pub(crate) fn is_running(&self) -> bool {
        self.pid().is_some() && !self.paused.load(Ordering::SeqCst)
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.ca_pem.is_some()
    }

    /// The certificate of the authority that signed the server's, for the client's trust store.
    ///
    /// # Panics
    /// If the server was started without TLS.
    pub(crate) fn ca_pem(&self) -> &str {
        self.ca_pem.as_deref().expect("start the server with .tls(true)")
    }

    /// TCP, RESP2, no credentials, database 0.
    pub(crate) fn url(&self) -> String {
        self.url_with(Transport::Tcp, Resp::Resp2, Auth::None, 0)
    }

    /// Unix socket, RESP2, no credentials, database 0.
    pub(crate) fn unix_url(&self) -> String {
        self.url_with(Transport::Unix, Resp::Resp2, Auth::None, 0)
    }

    /// TLS, RESP2, no credentials, database 0.
    pub(crate) fn tls_url(&self) -> String {
        self.url_with(Transport::Tls, Resp::Resp2, Auth::None, 0)
    }

    pub(crate) fn url_with(
        &self,
        transport: Transport,
        resp: Resp,
        auth: Auth<'_>,
        db: u32,
    ) -> String {
        let protocol = match resp {
            Resp::Resp2 => "resp2",
            Resp::Resp3 => "resp3",
        };
        let (user, password) = match auth {
            Auth::None => (None, None),
            Auth::Password(password) => (None, Some(escaped(password))),
            Auth::User(user, password) => (Some(escaped(user)), Some(escaped(password))),
        };
        let (scheme, port) = match transport {
            Transport::Tcp => ("redis", self.ports.plain),
            Transport::Tls => ("rediss", self.ports.tls),
            Transport::Unix => {
                let mut url =
                    format!("redis+unix://{}?db={db}&protocol={protocol}", self.socket.display());
                if let Some(user) = user {
                    url = url + "&user=" + &user;
                }
                if let Some(password) = password {
                    url = url + "&pass=" + &password;
                }
                return url;
            }
        };
        let credentials = match (user, password) {
            (user, Some(password)) => format!("{}:{password}@", user.unwrap_or_default()),
            _ => String::new(),
        };
        format!("{scheme}://{credentials}127.0.0.1:{port}/{db}?protocol={protocol}")
    }

    /// Takes every slot that is left. The refusal that ends it is counted in
    /// `rejected_connections`.
    ///
    /// # Panics
    /// If the server does not answer.
    #[track_caller]
    pub(crate) fn fill(&self) -> Occupants<'_> {
        let mut occupants = Occupants::none(self);
        occupants.top_up();
        occupants
    }

    /// Takes all but `slots` of the slots that are left, without a refusal.
    ///
    /// # Panics
    /// If the server does not answer, or has fewer slots left than that.
    #[track_caller]
    pub(crate) fn fill_to_leave(&self, slots: u64) -> Occupants<'_> {
        let left = self.admin.maxclients().checked_sub(self.admin.used_slots() + slots);
        let take = left.unwrap_or_else(|| panic!("the server has less than {slots} slots left"));
        let mut occupants = Occupants::none(self);
        occupants.take(usize::try_from(take).expect("maxclients fits a usize"));
        occupants
    }

    /// SIGTERM, and waits until the process has gone.
    pub(crate) fn stop(&self) {
        let mut held = self.child();
        self.admin.disconnect();
        if let Some(mut child) = held.take() {
            signal(&child, "CONT");
            signal(&child, "TERM");
            if poll(STOP_LIMIT, || child.try_wait().ok().flatten()).is_none() {
                kill(&mut child);
            }
        }
    }

    /// SIGKILL, as when a machine runs out of memory.
    pub(crate) fn crash(&self) {
        let mut held = self.child();
        self.admin.disconnect();
        if let Some(mut child) = held.take() {
            kill(&mut child);
        }
    }

    /// Stops the server if it runs, and starts it on the same ports and in the same folder.
    ///
    /// # Errors
    /// The server does not come up within ten seconds.
    pub(crate) fn restart(&self) -> Result<(), StartError> {
        self.restart_until(&[], |reply| !reply.is_error())
    }

    /// Starts the server again with so many keys to load that it answers `LOADING` to everybody
    /// until [`finish_loading`](Self::finish_loading).
    ///
    /// # Errors
    /// The server does not come up within ten seconds.
    pub(crate) fn restart_into_loading(&self) -> Result<(), StartError> {
        self.admin.text(&["DEBUG", "POPULATE", "100000", "key", "64"]);
        self.admin.text(&["SAVE"]);
        // 1 ms a key is 100 s in all; looking at its clients every 1,024 bytes keeps the server
        // quick to answer.
        let slow = [("key-load-delay", "1000"), ("loading-process-events-interval-bytes", "1024")];
        self.restart_until(
            &slow,
            |reply| matches!(reply, Reply::Error(message) if message.starts_with("LOADING")),
        )
    }

    /// Lets a server that loads come to its end.
    ///
    /// # Panics
    /// If it has not loaded everything within ten seconds.
    #[track_caller]
    pub(crate) fn finish_loading(&self) {
        self.admin.text(&["CONFIG", "SET", "key-load-delay", "0"]);
        let loaded = || self.admin.ping().is_ok_and(|reply| !reply.is_error()).then_some(());
        poll(START_LIMIT, loaded).expect("the server should have loaded its keys");
    }

    /// SIGSTOP: the kernel still accepts connections, nobody answers.
    pub(crate) fn pause(&self) {
        if let Some(child) = self.child().as_ref() {
            self.paused.store(true, Ordering::SeqCst);
            signal(child, "STOP");
        }
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        if let Some(child) = self.child().as_ref() {
            signal(child, "CONT");
            self.paused.store(false, Ordering::SeqCst);
        }
    }

    fn restart_until(
        &self,
        extra: &[(&str, &str)],
        ready: impl Fn(&Reply) -> bool,
    ) -> Result<(), StartError> {
        self.stop();
        self.paused.store(false, Ordering::SeqCst);
        // A sentinel keeps what it has learned in its configuration.
        if !self.settings.sentinel {
            write_config(&self.settings, self.dir.path(), self.ports, extra)?;
        }
        let program = &Program::get()?.path;
        let launch = || launch(program, &self.settings, self.dir.path(), &self.admin, &ready);
        // Somebody else may hold the port for a moment.
        let child = poll(START_LIMIT, || match launch() {
            Err(StartError::PortTaken) => None,
            launched => Some(launched),
        });
        *self.child() = Some(child.unwrap_or(Err(StartError::PortTaken))?);
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(child) = self.child().as_mut() {
            kill(child);
        }
    }
}

/// What [`TestServer`] is started with. Every setter may be left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestServerBuilder {
    maxclients: Option<u32>,
    password: Option<String>,
    users: Vec<(String, String)>,
    tls: bool,
    certificates: Option<PathBuf>,
    cluster: bool,
    sentinel: bool,
    in_memory: bool,
    open_files: Option<u32>,
    args: Vec<(String, String)>,
}

impl TestServerBuilder {
    /// The server's own setting: the admin connection is one of them.
    pub(crate) fn maxclients(mut self, maxclients: u32) -> Self {
        self.maxclients = Some(maxclients);
        self
    }

    /// The default user's.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// One more user, who may do everything.
    pub(crate) fn acl_user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// A second port, with TLS, and a certificate for `localhost` and `127.0.0.1`.
    pub(crate) fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// TLS, with the key and the certificate of another server: who trusts that one trusts this one.
    pub(crate) fn tls_of(mut self, server: &TestServer) -> Self {
        self.certificates = Some(server.dir.path().to_owned());
        self.tls(true)
    }

    /// A sentinel; see [`SentinelSet`](super::SentinelSet). It keeps what it has learned over a
    /// restart.
    pub(crate) fn sentinel(mut self, sentinel: bool) -> Self {
        self.sentinel = sentinel;
        self
    }

    /// A node of a cluster; see [`Cluster`](super::Cluster).
    pub(crate) fn cluster(mut self, cluster: bool) -> Self {
        self.cluster = cluster;
        self
    }

    /// Keeps its folder in memory where the system has a place for that: a disk that is busy does not
    /// hold it up.
    pub(crate) fn in_memory(mut self, in_memory: bool) -> Self {
        self.in_memory = in_memory;
        self
    }

    /// What `ulimit -n` says in the shell that starts the server.
    pub(crate) fn open_files(mut self, limit: u32) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// Any other directive, with or without the dashes; the value as it would stand in
    /// `redis.conf`.
    pub(crate) fn arg(mut self, name: &str, value: &str) -> Self {
        self.args.push((name.trim_start_matches('-').to_owned(), value.to_owned()));
        self
    }

    /// Starts the server, and returns when it answers.
    ///
    /// # Errors
    /// There is no `redis-server`, it does not accept the settings, or it does not answer within
    /// ten seconds.
    pub(crate) fn start(self) -> Result<TestServer, StartError> {
        let program = Program::get()?;
        let mut settings = self;
        if program.redis_version() >= (7, 0) {
            settings.args.insert(0, ("enable-debug-command".to_owned(), "yes".to_owned()));
        }
        let memory = Path::new("/dev/shm");
        let folder = match settings.in_memory && memory.is_dir() {
            true => memory.to_owned(),
            false => env::temp_dir(),
        };
        let dir = tempfile::Builder::new().prefix("redis-guard-").tempdir_in(folder)?;
        let ca_pem = match &settings.certificates {
            Some(from) => {
                copy_certificates(from, dir.path())?;
                Some(fs::read_to_string(from.join("ca.pem"))?)
            }
            None => settings.tls.then(|| write_certificates(dir.path())).transpose()?,
        };
        let socket = dir.path().join("redis.sock");
        let admin = Admin::new(socket.clone(), settings.password.clone());
        let mut ports = free_ports()?;
        let mut tries = PORT_TRIES;
        let child = loop {
            write_config(&settings, dir.path(), ports, &[])?;
            match launch(&program.path, &settings, dir.path(), &admin, &|reply| !reply.is_error()) {
                Err(StartError::PortTaken) if tries > 0 => tries -= 1,
                launched => break launched?,
            }
            ports = free_ports()?;
        };
        Ok(TestServer {
            dir,
            settings,
            ports,
            ca_pem,
            socket,
            admin,
            child: Mutex::new(Some(child)),
            paused: AtomicBool::new(false),
        })
    }
}

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Unix,
    Tls,
}

/// The protocol a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resp {
    Resp2,
    Resp3,
}

/// The credentials a client brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth<'a> {
    None,
    Password(&'a str),
    User(&'a str, &'a str),
}

/// A word for a URL.
fn escaped(word: &str) -> String {
    word.bytes().fold(String::new(), |mut url, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => url.push(byte.into()),
            _ => write!(url, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
        url
    })
}
