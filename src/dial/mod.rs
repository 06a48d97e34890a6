//! Dialing: from an address to an authenticated connection, or to what the server said instead.

mod classify;
mod end_notice;
mod login;
#[cfg(any(test, fuzzing))]
pub(crate) mod memory;
mod notice;
mod race;
mod stream;
mod subscriber;
mod tap;
mod target;
#[cfg(all(feature = "tls-native-tls", not(feature = "tls-rustls")))]
mod tls_native;
#[cfg(feature = "tls-rustls")]
mod tls_rustls;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, Value,
    parse_redis_value_async,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::vocabulary::{DialFailure, Outcome};
use classify::{Stage, classify, refusal};
use tap::FirstBytes;
use target::Progress;

pub(crate) use end_notice::EndNotice;
pub(crate) use login::Login;
pub(crate) use notice::Notice;
pub(crate) use stream::{LINK_TIMEOUT, Stream};
pub(crate) use subscriber::{Kind, Sink, Subscriber};
pub(crate) use tap::Tap;
pub(crate) use target::{Address, Certificates, Target, connection_info};

#[cfg(feature = "doctor")]
pub(crate) use classify::{HUNG_UP, SPEAKS_HTTP};
pub(crate) use classify::{of_call, of_error_line, of_io_error};

#[cfg(all(feature = "tls-native-tls", not(feature = "tls-rustls")))]
pub(crate) use tls_native::Tls;
#[cfg(feature = "tls-rustls")]
pub(crate) use tls_rustls::Tls;

/// The future that moves a connection's bytes. The connection is dead when it ends.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Dials servers.
pub(crate) struct Dialer {
    login: ArcSwap<Login>,
    /// For CLIENT SETNAME, so that an operator finds us in CLIENT LIST.
    pub(crate) client_name: String,
    /// No CLIENT command is sent: some proxies hang up at one.
    pub(crate) plain: bool,
    pub(crate) connect_timeout: Duration,
    /// After how long a link that carries nothing is dead.
    pub(crate) link_timeout: Duration,
    /// What redis-rs was told of its sockets; it comes first.
    pub(crate) tcp: TcpSettings,
    /// Nodes of a cluster that are replicas are to answer reads (READONLY).
    pub(crate) reads_replicas: bool,
    /// A server that loads its data set will do: it answers INFO.
    pub(crate) admits_loading: bool,
    #[cfg(feature = "credentials")]
    pub(crate) provider: Option<Provider>,
    /// Nothing is to be dialed before the provider has given any.
    awaits_credentials: AtomicBool,
}

/// Who says what to log in with.
#[cfg(feature = "credentials")]
#[derive(Clone)]
pub(crate) struct Provider(pub(crate) Arc<dyn redis::StreamingCredentialsProvider>);

#[cfg(feature = "credentials")]
impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("client_name", &self.client_name).finish_non_exhaustive()
    }
}

/// How far a dial came, and how long each step took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    /// What the name resolved to, in the order they are tried.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) resolved: Option<Duration>,
    /// Of these, those that did not answer a connect before the next was tried.
    pub(crate) silent: Vec<SocketAddr>,
    /// Of the address that answered.
    pub(crate) connected: Option<Duration>,
    #[cfg(any(feature = "doctor", feature = "tls-rustls", feature = "tls-native-tls"))]
    pub(crate) secured: Option<Duration>,
    /// Authenticated, and one answer.
    pub(crate) answered: Option<Duration>,
}

/// A connection that has answered us once.
pub(crate) struct Dialed {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) driver: Driver,
    /// Whom to tell of its end.
    pub(crate) end_notice: EndNotice,
}

impl Dialed {
    /// The reply to a command, while nobody runs the driver yet.
    async fn ask(&mut self, command: &redis::Cmd) -> Result<Value, RedisError> {
        tokio::select! {
            biased;
            reply = self.connection.send_packed_command(command) => reply,
            () = &mut self.driver => Err(closed()),
        }
    }
}

/// How a dial failed, before it is put into words.
struct Failed {
    stage: Stage,
    heard: Vec<u8>,
    error: RedisError,
}

impl Failed {
    fn at(stage: Stage) -> impl FnOnce(RedisError) -> Self {
        move |error| Self { stage, heard: Vec::new(), error }
    }
}

impl Dialer {
    pub(crate) fn new(
        redis: RedisConnectionInfo,
        client_name: String,
        connect_timeout: Duration,
    ) -> Self {
        Self {
            login: ArcSwap::from_pointee(Login::new(redis)),
            client_name,
            connect_timeout,
            plain: false,
            reads_replicas: false,
            link_timeout: LINK_TIMEOUT,
            tcp: TcpSettings::default(),
            admits_loading: false,
            #[cfg(feature = "credentials")]
            provider: None,
            awaits_credentials: AtomicBool::new(false),
        }
    }

    /// Another one alike, which logs in with what this one does by now.
    pub(crate) fn another(&self) -> Self {
        Self {
            login: ArcSwap::new(self.login()),
            client_name: self.client_name.clone(),
            tcp: self.tcp.clone(),
            #[cfg(feature = "credentials")]
            provider: self.provider.clone(),
            awaits_credentials: AtomicBool::new(self.awaits_credentials()),
            ..*self
        }
    }

    /// Dials nothing before the provider has given credentials.
    #[cfg(feature = "credentials")]
    pub(crate) fn provided(mut self, provider: Option<Provider>) -> Self {
        self.awaits_credentials = AtomicBool::new(provider.is_some());
        self.provider = provider;
        self
    }

    /// What to log in with.
    pub(crate) fn login(&self) -> Arc<Login> {
        self.login.load_full()
    }

    pub(crate) fn is_current(&self, login: &Arc<Login>) -> bool {
        Arc::ptr_eq(&self.login.load(), login)
    }

    pub(crate) fn db(&self) -> i64 {
        self.login.load().redis.db()
    }

    pub(crate) fn awaits_credentials(&self) -> bool {
        self.awaits_credentials.load(Ordering::Acquire)
    }

    /// Logs in with these from now on; false if nothing changes.
    pub(crate) fn set_credentials(&self, username: Option<&str>, password: &str) -> bool {
        let before = self.login();
        let changed = !before.has(username, password);
        if changed {
            self.login.store(Arc::new(before.with(username, password)));
        }
        self.awaits_credentials.swap(false, Ordering::AcqRel) || changed
    }

    /// Dials once. Of a name's addresses the first that answers is taken; the others' sockets are closed
    /// before a byte is sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub(crate) async fn dial(&self, target: &Target, login: &Login) -> Result<Dialed, DialFailure> {
        self.dial_traced(target, login, &mut Trace::default()).await
    }

    /// Whether the server of a connection that was just dialed is a replica, within the connect timeout from
    /// when the dial `started`; `None` of one that does not say: its user may not ask, or it is a proxy.
    pub(crate) async fn is_replica(
        &self,
        dialed: &mut Dialed,
        target: &Target,
        started: Instant,
    ) -> Result<Option<bool>, DialFailure> {
        let deadline = started + self.connect_timeout;
        match by(deadline, dialed.ask(&redis::cmd("ROLE"))).await {
            Ok(reply) => Ok(is_replicas(&reply)),
            Err(error) => {
                let (outcome, message) = classify(Stage::Handshake, &[], &error);
                Err(DialFailure { server: Arc::clone(&target.name), outcome, message })
            }
        }
    }

    /// [`dial`](Self::dial), and what its steps took, also of one that fails.
    pub(crate) async fn dial_traced(
        &self,
        target: &Target,
        login: &Login,
        trace: &mut Trace,
    ) -> Result<Dialed, DialFailure> {
        let set_up = |tap, first_bytes| self.set_up(login, tap, first_bytes);
        self.attempt(target, login, self.connect_timeout, trace, set_up).await
    }

    /// Dials once for a subscriber, whose socket is wrapped by `wrap`. `asks_role`: also whether the server
    /// is a replica; see [`is_replica`](Self::is_replica).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub(crate) async fn dial_pubsub<W>(
        &self,
        target: &Target,
        login: &Login,
        asks_role: bool,
        wrap: impl FnOnce(Tap<Stream>) -> W,
    ) -> Result<(Subscriber, Option<bool>), DialFailure>
    where
        W: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let set_up = |mut tap, _| async move {
            self.greet(login, &mut tap).await?;
            let is_replica = set_session(login, &mut tap, asks_role).await?;
            Ok((Subscriber::over(wrap(tap)), is_replica))
        };
        self.attempt(target, login, self.connect_timeout, &mut Trace::default(), set_up).await
    }

    /// Dials once, logs in, and leaves what is spoken then to the caller; within so much time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub(crate) async fn open_within(
        &self,
        target: &Target,
        login: &Login,
        time: Duration,
    ) -> Result<Tap<Stream>, DialFailure> {
        let set_up = |mut tap, _| async move {
            self.greet(login, &mut tap).await?;
            Ok(tap)
        };
        self.attempt(target, login, time, &mut Trace::default(), set_up).await
    }

    async fn attempt<T, F>(
        &self,
        target: &Target,
        login: &Login,
        time: Duration,
        trace: &mut Trace,
        set_up: impl FnOnce(Tap<Stream>, FirstBytes) -> F,
    ) -> Result<T, DialFailure>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let deadline = Instant::now() + time;
        let result = match self.open(target, deadline, trace).await {
            Ok(stream) => {
                let (tap, first_bytes) = Tap::new(stream);
                target.progress.reach(Stage::Handshake);
                let started = Instant::now();
                let result = by(deadline, set_up(tap, first_bytes.clone())).await;
                trace.answered = result.is_ok().then(|| started.elapsed());
                let heard = first_bytes.close();
                result.map_err(|error| Failed { stage: Stage::Handshake, heard, error })
            }
            Err(failed) => Err(failed),
        };
        result.map_err(|failed| {
            let (outcome, message) = classify(failed.stage, &failed.heard, &failed.error);
            let message = login.redact(message);
            DialFailure { server: Arc::clone(&target.name), outcome, message }
        })
    }

    /// Opens the socket, and TLS over it.
    async fn open(
        &self,
        target: &Target,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Stream, Failed> {
        let progress = &target.progress;
        match &target.address {
            Address::Unix(path) => {
                let started = Instant::now();
                progress.reach(Stage::Connect);
                let stream = by(deadline, Stream::connect_unix(path)).await;
                trace.connected = stream.is_ok().then(|| started.elapsed());
                stream.map_err(Failed::at(Stage::Connect))
            }
            Address::Tcp { host, port } => {
                self.connect(host, *port, progress, deadline, trace).await
            }
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Address::Tls { host, port, tls } => {
                let stream = self.connect(host, *port, progress, deadline, trace).await?;
                let started = Instant::now();
                progress.reach(Stage::Tls);
                let stream = by(deadline, tls.wrap(host, stream)).await;
                trace.secured = stream.is_ok().then(|| started.elapsed());
                stream.map_err(Failed::at(Stage::Tls))
            }
        }
    }

    /// Connects to the first of the name's addresses that answers; see [`race`].
    async fn connect(
        &self,
        host: &str,
        port: u16,
        progress: &Progress,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Stream, Failed> {
        let started = Instant::now();
        progress.reach(Stage::Resolve);
        let lookup = async { Ok(tokio::net::lookup_host((host, port)).await?) };
        let addresses = by(deadline, lookup).await.map_err(|error| {
            let error = socket_limit().map_or(error, RedisError::from);
            Failed::at(Stage::Resolve)(error)
        })?;
        trace.resolved = Some(started.elapsed());
        progress.reach(Stage::Connect);
        let last = progress.last_reached();
        let addresses = race::ordered(addresses.collect(), last.map(|last| last.address));
        trace.addresses.clone_from(&addresses);
        let connecting =
            race::race(&addresses, last, deadline, &mut trace.silent, Stream::connect_tcp);
        match by(deadline, connecting).await {
            Ok((now, stream)) => {
                trace.connected = Some(now.took);
                stream
                    .set_link_timeout(self.link_timeout, &self.tcp)
                    .map_err(Failed::at(Stage::Connect))?;
                progress.reached(now);
                Ok(stream)
            }
            Err(error) => {
                let stage = if addresses.is_empty() { Stage::Resolve } else { Stage::Connect };
                Err(Failed::at(stage)(error))
            }
        }
    }

    /// Authenticates, selects the database, names the connection, and waits for one answer.
    async fn set_up(
        &self,
        login: &Login,
        tap: Tap<Stream>,
        first_bytes: FirstBytes,
    ) -> Result<Dialed, RedisError> {
        // Response timeouts are the lease's: it knows which commands block.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let end_notice = tap.end_notice();
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&login.redis, tap, config).await?;
        let mut driver: Driver = Box::pin(driver);
        let mut hello = redis::pipe();
        self.introduce(&mut hello);
        hello.cmd("PING");
        let replies = tokio::select! {
            biased;
            replies = connection.send_packed_commands(&hello, 0, hello.len()) => replies?,
            () = &mut driver => return Err(closed()),
        };
        // A proxy may pass a full shard's refusal on as the answer to any of our commands.
        if let Some(words) = refusal(&first_bytes.heard()) {
            return Err((ErrorKind::Client, "refused", words).into());
        }
        match replies.into_iter().next_back() {
            // Only what says that we are not let in: an ACL without PING, a proxy that does not
            // know it, or a script that runs too long is an answer from a server we are logged in to.
            Some(Value::ServerError(error)) => {
                let error = RedisError::from(error);
                let code = error.code().unwrap_or_default();
                let line = format!("{code} {}", error.detail().unwrap_or_default());
                match of_error_line(&line) {
                    None => Ok(()),
                    Some(Outcome::Loading) if self.admits_loading => Ok(()),
                    Some(_) => Err(error),
                }
            }
            Some(_) => Ok(()),
            None => Err(closed()),
        }?;
        Ok(Dialed { connection, driver, end_notice })
    }

    /// Authenticates and names a connection that is to become a subscriber's, whose driver can send
    /// nothing but subscriptions, and waits for the answers: one line each.
    async fn greet(&self, login: &Login, tap: &mut Tap<Stream>) -> Result<(), RedisError> {
        let mut greeting = redis::pipe();
        if let Some(password) = login.redis.password() {
            greeting.cmd("AUTH").arg(login.redis.username()).arg(password);
        }
        self.introduce(&mut greeting);
        greeting.cmd("PING");
        tap.write_all(&greeting.get_packed_pipeline()).await?;
        tap.flush().await?;
        let mut answers = Vec::new();
        while answers.iter().filter(|byte| **byte == b'\n').count() < greeting.len() {
            // The tap bounds how much that can be.
            if tap.read_buf(&mut answers).await? == 0 {
                return Err(closed());
            }
        }
        match classify::bad_news(&answers) {
            Some(words) => Err((ErrorKind::Client, "refused", words).into()),
            None => Ok(()),
        }
    }

    /// Adds the commands that name the connection, and have a replica answer reads. Their errors are no
    /// reason to do without the connection: a user may have no right to them.
    pub(crate) fn introduce(&self, pipe: &mut redis::Pipeline) {
        if !self.plain {
            pipe.cmd("CLIENT").arg("SETNAME").arg(&self.client_name);
        }
        if self.reads_replicas {
            pipe.cmd("READONLY");
        }
    }
}

/// Adds the commands that bring a connection back to where the dial left it, but for its name.
pub(crate) fn reset_commands(pipe: &mut redis::Pipeline, redis: &RedisConnectionInfo) {
    pipe.cmd("RESET");
    if redis.protocol() == redis::ProtocolVersion::RESP3 {
        pipe.cmd("HELLO").arg(3);
        if let Some(password) = redis.password() {
            pipe.arg("AUTH").arg(redis.username().unwrap_or("default")).arg(password);
        }
    } else if let Some(password) = redis.password() {
        pipe.cmd("AUTH").arg(redis.username()).arg(password);
    }
    if redis.db() != 0 {
        pipe.cmd("SELECT").arg(redis.db());
    }
}

/// The error of a process that can open no socket. The system's resolver hides it: without files it
/// says that it does not know the name.
fn socket_limit() -> Option<io::Error> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
    socket.err().filter(|error| classify::local_limit(error).is_some())
}

/// The rest of a subscriber's login: the library's name, the database, and, if `asks_role`, whether the
/// server is a replica.
async fn set_session(
    login: &Login,
    tap: &mut Tap<Stream>,
    asks_role: bool,
) -> Result<Option<bool>, RedisError> {
    let redis = &login.redis;
    let mut session = redis::pipe();
    if !redis.skip_set_lib_name() {
        let name = redis.lib_name().unwrap_or("redis-rs");
        session.cmd("CLIENT").arg("SETINFO").arg("LIB-NAME").arg(name);
    }
    let named = session.len();
    if redis.db() != 0 {
        session.cmd("SELECT").arg(redis.db());
    }
    let selected = session.len();
    if asks_role {
        session.cmd("ROLE");
    }
    tap.write_all(&session.get_packed_pipeline()).await?;
    tap.flush().await?;
    let mut decoder = Default::default();
    let mut is_replica = None;
    for at in 0..session.len() {
        let reply = parse_redis_value_async(&mut decoder, tap).await?;
        if at >= selected {
            is_replica = is_replicas(&reply);
        } else if at >= named {
            reply.extract_error()?;
        }
    }
    Ok(is_replica)
}

/// Whether a reply to ROLE is a replica's.
fn is_replicas(reply: &Value) -> Option<bool> {
    match reply {
        Value::Array(role) => match role.first()? {
            Value::BulkString(name) if name == b"slave" => Some(true),
            Value::BulkString(name) if name == b"master" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn closed() -> RedisError {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

/// Runs `future` until `deadline`; past it, the error is a timeout.
async fn by<T>(
    deadline: Instant,
    future: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    match tokio::time::timeout_at(deadline, future).await {
        Ok(result) => result,
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within the connect timeout")
                .into())
        }
    }
}

#[cfg(test)]
mod tests;
