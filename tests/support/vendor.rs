//! One small TCP server that says to its clients what the servers and proxies of the field say when
//! they are full, closed to us, broken, or not a Redis at all.
#![allow(dead_code, reason = "every test uses its own part of the support code")]

use std::io;
use std::net::SocketAddr;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the server does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VendorScript {
    /// Redis and Valkey: one line at accept, then close.
    OssMaxClients,
    /// Redis 6.2 and later in cluster mode.
    ClusterMaxClients,
    /// Upstash.
    Upstash,
    /// Redis in protected mode.
    Denied,
    /// KeyDB while it shuts down.
    KeyDbShutdownNoCrlf,
    /// Garnet, Pika, twemproxy: closed at accept, no word said.
    SilentClose,
    /// The same with a reset.
    SilentReset,
    /// Envoy without a healthy upstream: the error is the reply to each command.
    EnvoyNoUpstream,
    /// Redis Enterprise's proxy: the shard's text is the reply to the first command; the connection
    /// stays open.
    ReplyOnHealthy,
    /// Redis Enterprise's proxy once more: the set-up goes well, and every later command gets the
    /// shard's text.
    ReplyAfterSetup,
    /// Redis 5 asked for what it does not know: the error repeats the arguments, and so the
    /// password.
    UnknownCommandEcho,
    /// Bytes of no protocol; the connection stays open.
    Garbage,
    /// The beginning of the text, then silence.
    HalfLine,
    /// The beginning of the text, then the end.
    HalfLineClose,
    /// An error line without an end.
    HugeLine,
    /// An array of 2^63 − 1 items.
    HugeArrayHeader,
    /// A bulk string of 2^63 − 1 bytes.
    HugeBulkHeader,
    /// A map of 2^63 − 1 entries.
    HugeMapHeader,
    /// An array in an array in an array, and so on.
    DeepNesting,
    /// Sizes below −1.
    NegativeSizes,
    /// One byte of an error line at a time, for ever.
    Drip,
    /// Accepts, and says nothing.
    Nothing,
    /// A web server.
    HttpServer,
    /// twemproxy: answers commands on keys, AUTH and PING, and hangs up at any other.
    Twemproxy,
}

impl VendorScript {
    pub(crate) const ALL: [Self; 24] = [
        Self::OssMaxClients,
        Self::ClusterMaxClients,
        Self::Upstash,
        Self::Denied,
        Self::KeyDbShutdownNoCrlf,
        Self::SilentClose,
        Self::SilentReset,
        Self::EnvoyNoUpstream,
        Self::ReplyOnHealthy,
        Self::ReplyAfterSetup,
        Self::UnknownCommandEcho,
        Self::Garbage,
        Self::HalfLine,
        Self::HalfLineClose,
        Self::HugeLine,
        Self::HugeArrayHeader,
        Self::HugeBulkHeader,
        Self::HugeMapHeader,
        Self::DeepNesting,
        Self::NegativeSizes,
        Self::Drip,
        Self::Nothing,
        Self::HttpServer,
        Self::Twemproxy,
    ];
}

pub(crate) const OSS_TEXT: &str = "max number of clients reached";
pub(crate) const CLUSTER_TEXT: &str = "max number of clients + cluster connections reached";
pub(crate) const UPSTASH_TEXT: &str = "max concurrent connections exceeded";
/// Word for word what Redis 7 sends.
pub(crate) const DENIED_TEXT: &str = "\
     -DENIED Redis is running in protected mode because protected mode is enabled and no \
     password is set for the default user. In this mode connections are only accepted from the \
     loopback interface. If you want to connect from external computers to Redis you may adopt \
     one of the following solutions: 1) Just disable protected mode sending the command 'CONFIG \
     SET protected-mode no' from the loopback interface by connecting to Redis from the same \
     host the server is running, however MAKE SURE Redis is not publicly accessible from \
     internet if you do so. Use CONFIG REWRITE to make this change permanent. 2) Alternatively \
     you can just disable the protected mode by editing the Redis configuration file, and \
     setting the protected mode option to 'no', and then restarting the server. 3) If you \
     started the server manually just for testing, restart it with the '--protected-mode no' \
     option. 4) Setup a an authentication password for the default user. NOTE: You only need to \
     do one of the above things in order for the server to start accepting connections from the \
     outside.\r\n";

const DRIP_INTERVAL: Duration = Duration::from_millis(20);
const NESTING: usize = 200_000;
const ECHOED: usize = 128;

/// A server of one [`VendorScript`] on a loopback port, gone when dropped.
#[derive(Debug)]
pub(crate) struct VendorServer {
    address: SocketAddr,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    bytes_sent: AtomicU64,
    most_open: AtomicU64,
    open: watch::Sender<u64>,
}

/// One open connection.
#[derive(Debug)]
struct Open(Arc<Counts>);

impl Open {
    fn count(counts: &Arc<Counts>) -> Self {
        counts.accepted.fetch_add(1, Ordering::SeqCst);
        counts.open.send_modify(|open| *open += 1);
        counts.most_open.fetch_max(*counts.open.borrow(), Ordering::SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

impl VendorServer {
    /// # Errors
    /// There is no free loopback port.
    pub(crate) async fn start(script: VendorScript) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let accepting = tokio::spawn(accept(listener, script, Arc::clone(&counts)));
        Ok(Self { address, counts, accepting })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// `credentials` as they stand before the `@`.
    pub(crate) fn url_with(&self, credentials: &str, query: &str) -> String {
        format!("redis://{credentials}@{}/?{query}", self.address)
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// The most connections that were open at a time.
    pub(crate) fn most_open(&self) -> u64 {
        self.counts.most_open.load(Ordering::SeqCst)
    }

    /// Returns when no connection is open.
    pub(crate) async fn all_closed(&self) {
        let mut open = self.counts.open.subscribe();
        // The sender lives as long as this server.
        let _ = open.wait_for(|open| *open == 0).await;
    }

    /// Bytes the clients' side has taken so far, of the scripts without an end.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.counts.bytes_sent.load(Ordering::SeqCst)
    }
}

impl Drop for VendorServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, script: VendorScript, counts: Arc<Counts>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let open = Open::count(&counts);
        // A client that hangs up early is none of this server's business.
        connections.spawn(async move {
            Box::pin(play(script, stream, &open.0)).await.unwrap_or_default()
        });
    }
}

async fn play(script: VendorScript, mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    use VendorScript as S;
    stream.set_nodelay(true)?;
    match script {
        S::OssMaxClients => say(&mut stream, &format!("-ERR {OSS_TEXT}\r\n")).await,
        S::ClusterMaxClients => say(&mut stream, &format!("-ERR {CLUSTER_TEXT}\r\n")).await,
        S::Upstash => say(&mut stream, &format!("-ERR {UPSTASH_TEXT}\r\n")).await,
        S::Denied => say(&mut stream, DENIED_TEXT).await,
        S::KeyDbShutdownNoCrlf => say(&mut stream, "-SHUTDOWN").await,
        S::HalfLineClose => say(&mut stream, "-ERR max number of cli").await,
        S::SilentClose => Ok(()),
        S::SilentReset => stream.set_zero_linger(),
        S::HttpServer => {
            let body = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            stream.read_u8().await?;
            say(&mut stream, body).await
        }
        S::EnvoyNoUpstream => answer(stream, |_, _| "-no upstream host\r\n".to_owned()).await,
        S::ReplyOnHealthy => {
            let full = |count, _: &[String]| {
                if count == 0 { format!("-ERR {OSS_TEXT}\r\n") } else { "+OK\r\n".to_owned() }
            };
            answer(stream, full).await
        }
        S::ReplyAfterSetup => answer(stream, |_, command| reply_after_setup(command)).await,
        S::Twemproxy => answer(stream, |_, command| reply_of_twemproxy(command)).await,
        S::UnknownCommandEcho => answer(stream, |_, command| unknown_command(command)).await,
        S::Garbage => {
            let bytes: Vec<u8> = (0..=255).cycle().skip(1).step_by(37).take(4_096).collect();
            stream.write_all(&bytes).await?;
            until_closed(stream).await
        }
        S::HalfLine => say_and_wait(stream, "-ERR max number of cli").await,
        S::HugeArrayHeader => say_and_wait(stream, "*9223372036854775807\r\n").await,
        S::HugeBulkHeader => say_and_wait(stream, "$9223372036854775807\r\n").await,
        S::HugeMapHeader => say_and_wait(stream, "%9223372036854775807\r\n").await,
        S::DeepNesting => say_and_wait(stream, &"*1\r\n".repeat(NESTING)).await,
        S::NegativeSizes => say_and_wait(stream, "*-5\r\n$-7\r\n%-3\r\n").await,
        S::HugeLine => {
            stream.write_all(b"-ERR ").await?;
            let chunk = [b'a'; 16 * 1_024];
            loop {
                let sent = stream.write(&chunk).await?;
                counts
                    .bytes_sent
                    .fetch_add(u64::try_from(sent).unwrap_or_default(), Ordering::SeqCst);
            }
        }
        S::Drip => {
            stream.write_all(b"-ERR ").await?;
            loop {
                stream.write_all(b"a").await?;
                tokio::time::sleep(DRIP_INTERVAL).await;
            }
        }
        S::Nothing => until_closed(stream).await,
    }
}

/// Says it and closes; with the client's bytes unread, the close is a reset, as a real server's is.
async fn say(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await
}

async fn say_and_wait(mut stream: TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    until_closed(stream).await
}

async fn until_closed(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 1_024];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// Answers every command; `reply` gets its number, from 0, and its words. An empty reply hangs up.
async fn answer(stream: TcpStream, reply: impl Fn(u64, &[String]) -> String) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    for count in 0.. {
        let Some(command) = read_command(&mut stream).await? else { break };
        let reply = reply(count, &command);
        if reply.is_empty() {
            break;
        }
        stream.write_all(reply.as_bytes()).await?;
    }
    Ok(())
}

/// `None` at the end of the stream.
async fn read_command(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<String>>> {
    let Some(length) = read_length(stream, '*').await? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..length {
        let Some(length) = read_length(stream, '$').await? else { return Ok(None) };
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await?;
        word.truncate(length);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Ok(Some(words))
}

async fn read_length(stream: &mut BufReader<TcpStream>, kind: char) -> io::Result<Option<usize>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let length = line.strip_prefix(kind).and_then(|length| length.trim_end().parse().ok());
    length.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn reply_of_twemproxy(command: &[String]) -> String {
    match (command.first().map(|name| name.to_ascii_uppercase()).as_deref(), command.len()) {
        (Some("AUTH" | "SET"), _) => "+OK\r\n".to_owned(),
        (Some("GET"), _) => "$5\r\nvalue\r\n".to_owned(),
        (Some("PING"), 1) => "+PONG\r\n".to_owned(),
        _ => String::new(),
    }
}

fn reply_after_setup(command: &[String]) -> String {
    match command.first().map(|name| name.to_ascii_uppercase()).as_deref() {
        Some("HELLO") => "%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".to_owned(),
        Some("AUTH" | "CLIENT" | "SELECT") => "+OK\r\n".to_owned(),
        Some("PING") => "+PONG\r\n".to_owned(),
        _ => format!("-ERR {OSS_TEXT}\r\n"),
    }
}

/// Redis 5 and its forks; `PING` they know. As the original does, it stops after 128 characters of
/// arguments.
fn unknown_command(command: &[String]) -> String {
    let Some((name, args)) = command.split_first() else {
        return "-ERR Protocol error\r\n".to_owned();
    };
    if name.eq_ignore_ascii_case("PING") {
        return "+PONG\r\n".to_owned();
    }
    let mut echo = String::new();
    for arg in args {
        let room = ECHOED.saturating_sub(echo.len());
        if room == 0 {
            break;
        }
        let arg: String = arg.chars().take(room).collect();
        echo = echo + "`" + &arg + "`, ";
    }
    format!("-ERR unknown command `{name}`, with args beginning with: {echo}\r\n")
}
