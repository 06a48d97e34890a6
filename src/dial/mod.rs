//! Dialing: from an address to an authenticated connection, or to what the server said instead.

mod classify;
mod login;
mod notice;
mod stream;
mod tap;
#[cfg(all(feature = "tls-native-tls", not(feature = "tls-rustls")))]
mod tls_native;
#[cfg(feature = "tls-rustls")]
mod tls_rustls;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ErrorKind, RedisConnectionInfo, RedisError, Value,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::vocabulary::{DialFailure, Outcome};
use classify::{Stage, classify, refusal};
use tap::FirstBytes;

pub(crate) use login::Login;
pub(crate) use notice::Notice;
pub(crate) use stream::Stream;
pub(crate) use tap::Tap;

#[cfg(feature = "doctor")]
pub(crate) use classify::SPEAKS_HTTP;
pub(crate) use classify::{of_call, of_error_line};

#[cfg(all(feature = "tls-native-tls", not(feature = "tls-rustls")))]
pub(crate) use tls_native::Tls;
#[cfg(feature = "tls-rustls")]
pub(crate) use tls_rustls::Tls;

/// The future that moves a connection's bytes. The connection is dead when it ends.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whom to trust, and who we are.
#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
pub(crate) type Certificates = redis::TlsCertificates;
/// Without TLS there are none.
#[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
pub(crate) type Certificates = std::convert::Infallible;

/// Where to dial.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp {
        host: String,
        port: u16,
    },
    #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
    Tls {
        host: String,
        port: u16,
        tls: Tls,
    },
    Unix(PathBuf),
}

impl Address {
    /// Where `address` is; an error where this build cannot dial it.
    pub(crate) fn new(
        address: &ConnectionAddr,
        certificates: Option<&Certificates>,
    ) -> Result<Self, String> {
        match address {
            ConnectionAddr::Tcp(host, port) => Ok(Self::Tcp { host: host.clone(), port: *port }),
            ConnectionAddr::Unix(path) if cfg!(unix) => Ok(Self::Unix(path.clone())),
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            ConnectionAddr::TcpTls { host, port, insecure, tls_params } => {
                if tls_params.is_some() && certificates.is_none() {
                    return Err("a redis::Client does not give its certificates back: pass them \
                                to tls_certificates as well"
                        .to_owned());
                }
                let tls = Tls::new(certificates, *insecure)?;
                Ok(Self::Tls { host: host.clone(), port: *port, tls })
            }
            #[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
            ConnectionAddr::TcpTls { .. } if certificates.is_none() => {
                Err("TLS needs the feature tls-rustls or \
                                                  tls-native-tls of redis-guard"
                    .to_owned())
            }
            _ => Err("this kind of address is not supported".to_owned()),
        }
    }
}

impl Address {
    /// Whether it is spoken to over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
        return matches!(self, Self::Tls { .. });
        #[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
        false
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Self::Tls { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What to dial.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: Address,
    /// The address as text, for messages.
    pub(crate) name: Arc<str>,
}

impl Target {
    pub(crate) fn new(address: Address) -> Self {
        Self { name: address.to_string().into(), address }
    }
}

/// Dials servers.
pub(crate) struct Dialer {
    login: ArcSwap<Login>,
    /// For CLIENT SETNAME, so that an operator finds us in CLIENT LIST.
    pub(crate) client_name: String,
    pub(crate) connect_timeout: Duration,
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
    /// What the name resolved to.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) resolved: Option<Duration>,
    /// Of the address that answered, the last one tried.
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
            admits_loading: false,
            #[cfg(feature = "credentials")]
            provider: None,
            awaits_credentials: AtomicBool::new(false),
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

    /// Dials once: one address at a time, and at most one socket open at any moment.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub(crate) async fn dial(&self, target: &Target, login: &Login) -> Result<Dialed, DialFailure> {
        self.dial_traced(target, login, &mut Trace::default()).await
    }

    /// [`dial`](Self::dial), and what its steps took, also of one that fails.
    pub(crate) async fn dial_traced(
        &self,
        target: &Target,
        login: &Login,
        trace: &mut Trace,
    ) -> Result<Dialed, DialFailure> {
        let set_up = |tap, first_bytes| self.set_up(login, tap, first_bytes);
        self.attempt(target, login, trace, set_up).await
    }

    /// Dials once for a subscriber, whose socket is wrapped by `wrap`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub(crate) async fn dial_pubsub<W>(
        &self,
        target: &Target,
        login: &Login,
        wrap: impl FnOnce(Tap<Stream>) -> W,
    ) -> Result<PubSub, DialFailure>
    where
        W: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.attempt(target, login, &mut Trace::default(), |mut tap, _ear| async move {
            self.greet(login, &mut tap).await?;
            PubSub::new(&login.redis, wrap(tap)).await
        })
        .await
    }

    async fn attempt<T, F>(
        &self,
        target: &Target,
        login: &Login,
        trace: &mut Trace,
        set_up: impl FnOnce(Tap<Stream>, FirstBytes) -> F,
    ) -> Result<T, DialFailure>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let deadline = Instant::now() + self.connect_timeout;
        let result = match self.open(&target.address, deadline, trace).await {
            Ok(stream) => {
                let (tap, first_bytes) = Tap::new(stream);
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
        address: &Address,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Stream, Failed> {
        match address {
            Address::Unix(path) => {
                let started = Instant::now();
                let stream = by(deadline, Stream::connect_unix(path)).await;
                trace.connected = stream.is_ok().then(|| started.elapsed());
                stream.map_err(Failed::at(Stage::Connect))
            }
            Address::Tcp { host, port } => connect(host, *port, deadline, trace).await,
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Address::Tls { host, port, tls } => {
                let stream = connect(host, *port, deadline, trace).await?;
                let started = Instant::now();
                let stream = by(deadline, tls.wrap(host, stream)).await;
                trace.secured = stream.is_ok().then(|| started.elapsed());
                stream.map_err(Failed::at(Stage::Handshake))
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
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&login.redis, tap, config).await?;
        let mut driver: Driver = Box::pin(driver);
        let mut hello = redis::pipe();
        hello.cmd("CLIENT").arg("SETNAME").arg(&self.client_name).cmd("PING");
        let replies = tokio::select! {
            biased;
            replies = connection.send_packed_commands(&hello, 0, 2) => replies?,
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
        Ok(Dialed { connection, driver })
    }

    /// Authenticates and names a connection that is to become a subscriber's, whose driver can send
    /// nothing but subscriptions, and waits for the answers: one line each.
    async fn greet(&self, login: &Login, tap: &mut Tap<Stream>) -> Result<(), RedisError> {
        let mut greeting = redis::pipe();
        if let Some(password) = login.redis.password() {
            greeting.cmd("AUTH").arg(login.redis.username()).arg(password);
        }
        greeting.cmd("CLIENT").arg("SETNAME").arg(&self.client_name).cmd("PING");
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
}

/// Connects to the first of the name's addresses that answers. Each gets its share of the time
/// left, so that one that drops packets does not use up the others' turn.
async fn connect(
    host: &str,
    port: u16,
    deadline: Instant,
    trace: &mut Trace,
) -> Result<Stream, Failed> {
    let started = Instant::now();
    let lookup = async { Ok(tokio::net::lookup_host((host, port)).await?) };
    let addresses = by(deadline, lookup).await.map_err(Failed::at(Stage::Resolve))?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    trace.resolved = Some(started.elapsed());
    trace.addresses.clone_from(&addresses);
    let mut last = RedisError::from((ErrorKind::Io, "the name has no address"));
    for (tried, address) in (0_u32..).zip(&addresses) {
        let left = u32::try_from(addresses.len()).unwrap_or(u32::MAX).saturating_sub(tried);
        let now = Instant::now();
        let turn = now + deadline.saturating_duration_since(now) / left.max(1);
        match by(turn, Stream::connect_tcp(*address)).await {
            Ok(stream) => {
                trace.connected = Some(now.elapsed());
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    let stage = if addresses.is_empty() { Stage::Resolve } else { Stage::Connect };
    Err(Failed::at(stage)(last))
}

/// Adds the commands that bring a connection back to where the dial left it.
pub(crate) fn reset_commands(
    pipe: &mut redis::Pipeline,
    redis: &RedisConnectionInfo,
    client_name: &str,
) {
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
    pipe.cmd("CLIENT").arg("SETNAME").arg(client_name);
}

fn closed() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
}

/// Runs `future` until `deadline`; past it, the error is a timeout.
async fn by<T>(
    deadline: Instant,
    future: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    match tokio::time::timeout_at(deadline, future).await {
        Ok(result) => result,
        Err(_) => Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "no answer within the connect timeout",
        )
        .into()),
    }
}
