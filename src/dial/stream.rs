//! The socket of a connection.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use redis::RedisError;
use redis::io::tcp::TcpSettings;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// After how long a link that carries nothing is dead, where nothing else is set. What a network gets
/// over by itself (a route that changes, a machine that is moved) takes seconds, and six
/// retransmissions fit into half of it; left alone, Linux takes 15 min to give up what was sent, and 2 h to ask
/// on a connection that is idle.
pub(crate) const LINK_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the kernel asks before it takes a silent peer for dead.
const PROBES: u32 = 3;

/// The longest that all systems take, for the times of keepalive and for the user timeout.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);
#[cfg(any(target_os = "linux", target_os = "android"))]
const LONGEST_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// An open socket, plain or under TLS.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    #[cfg(feature = "tls-rustls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    #[cfg(all(feature = "tls-native-tls", not(feature = "tls-rustls")))]
    Tls(Box<tokio_native_tls::TlsStream<TcpStream>>),
    #[cfg(any(test, fuzzing))]
    Memory(super::memory::Pipe),
}

impl Stream {
    /// Connects over TCP, with Nagle's algorithm off: a request is one write, and waiting for more
    /// only adds latency.
    pub(crate) async fn connect_tcp(address: SocketAddr) -> Result<Self, RedisError> {
        #[cfg(any(test, fuzzing))]
        if let Some(connecting) = super::memory::connect(address) {
            return Ok(Self::Memory(connecting.await?));
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Has the kernel close a connection over TCP whose peer has not acknowledged anything for so long,
    /// unless redis-rs's settings say otherwise. What they set of it is theirs, and the rest stays ours.
    ///
    /// An idle one is asked (keepalive) after half of that, three times in the other half; in whole
    /// seconds, as the systems count. That also keeps it known to NATs and load balancers, which forget
    /// what is idle (AWS NLB after 350 s, Azure after 240 s). Where something was sent, keepalive waits
    /// for the retransmissions to end, so `TCP_USER_TIMEOUT` bounds those, on systems that have it: to
    /// half of the time as well, for they may begin when the link has been dead for the other half.
    pub(crate) fn set_link_timeout(
        &self,
        timeout: Duration,
        given: &TcpSettings,
    ) -> Result<(), RedisError> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        let socket = socket2::SockRef::from(stream);
        socket.set_tcp_keepalive(&keepalive(timeout))?;
        if let Some(keepalive) = given.keepalive() {
            socket.set_tcp_keepalive(keepalive).map_err(not_taken)?;
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let ours = (timeout / 2).clamp(Duration::from_millis(1), LONGEST_USER_TIMEOUT);
            let user_timeout = given.user_timeout().unwrap_or(ours);
            socket.set_tcp_user_timeout(Some(user_timeout)).map_err(not_taken)?;
        }
        Ok(())
    }

    #[cfg(unix)]
    pub(crate) async fn connect_unix(path: &Path) -> Result<Self, RedisError> {
        Ok(Self::Unix(UnixStream::connect(path).await?))
    }

    #[cfg(not(unix))]
    pub(crate) async fn connect_unix(_path: &Path) -> Result<Self, RedisError> {
        let unsupported = "this platform has no Unix sockets";
        Err(io::Error::new(io::ErrorKind::Unsupported, unsupported).into())
    }
}

/// The system takes no such value.
fn not_taken(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the TCP settings of the ConnectionInfo: {error}"))
}

fn keepalive(timeout: Duration) -> socket2::TcpKeepalive {
    let whole = |time: Duration| {
        Duration::from_secs(time.as_secs()).clamp(Duration::from_secs(1), LONGEST_KEEPALIVE)
    };
    let keepalive = socket2::TcpKeepalive::new().with_time(whole(timeout / 2));
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "macos",
        target_os = "ios",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "dragonfly",
        target_os = "illumos",
        windows
    ))]
    let keepalive = keepalive.with_interval(whole(timeout / (2 * PROBES))).with_retries(PROBES);
    keepalive
}

/// Calls the same method on whichever stream it is.
macro_rules! on_stream {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            #[cfg(unix)]
            Stream::Unix($stream) => $call,
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Stream::Tls($stream) => $call,
            #[cfg(any(test, fuzzing))]
            Stream::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn stream() -> Stream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Stream::connect_tcp(listener.local_addr().unwrap()).await.unwrap()
    }

    /// Idle time, interval and number of keepalive, and the user timeout.
    async fn times(
        timeout: Duration,
        given: TcpSettings,
    ) -> (Duration, Duration, u32, Option<Duration>) {
        let stream = stream().await;
        stream.set_link_timeout(timeout, &given).unwrap();
        let Stream::Tcp(stream) = stream else { panic!("it is TCP") };
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        (
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
            socket.tcp_user_timeout().unwrap(),
        )
    }

    #[tokio::test]
    async fn the_kernel_is_told_how_long_a_link_may_be_silent() {
        let seconds = Duration::from_secs;
        let times = |timeout| times(timeout, TcpSettings::default());
        let default = times(LINK_TIMEOUT).await;
        assert_eq!(default, (seconds(15), seconds(5), 3, Some(LINK_TIMEOUT / 2)));
        let shortest = times(Duration::from_nanos(1)).await;
        assert_eq!(shortest, (seconds(1), seconds(1), 3, Some(Duration::from_millis(1))));
        let year = times(seconds(365 * 24 * 3600)).await;
        assert_eq!(year, (LONGEST_KEEPALIVE, LONGEST_KEEPALIVE, 3, Some(LONGEST_USER_TIMEOUT)));
    }

    #[tokio::test]
    async fn what_the_settings_of_redis_rs_say_counts_and_the_rest_is_ours() {
        let seconds = Duration::from_secs;
        let keepalive = socket2::TcpKeepalive::new;
        for (given, taken) in [
            (
                TcpSettings::default().set_keepalive(keepalive().with_time(seconds(70))),
                (seconds(70), seconds(5), 3, Some(LINK_TIMEOUT / 2)),
            ),
            (
                TcpSettings::default().set_keepalive(
                    keepalive().with_time(seconds(70)).with_interval(seconds(7)).with_retries(9),
                ),
                (seconds(70), seconds(7), 9, Some(LINK_TIMEOUT / 2)),
            ),
            (
                TcpSettings::default().set_user_timeout(seconds(99)),
                (seconds(15), seconds(5), 3, Some(seconds(99))),
            ),
            (
                TcpSettings::default().set_nodelay(false),
                (seconds(15), seconds(5), 3, Some(LINK_TIMEOUT / 2)),
            ),
        ] {
            assert_eq!(times(LINK_TIMEOUT, given.clone()).await, taken, "{given:?}");
        }
    }

    #[tokio::test]
    async fn the_other_side_hears_that_a_stream_was_shut_down() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = Stream::Unix(ours);
        ours.write_all(b"PING\r\n").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"PING\r\n");
    }

    #[tokio::test]
    async fn what_the_system_does_not_take_is_an_error_that_says_whose_it_is() {
        let keepalive = socket2::TcpKeepalive::new().with_retries(1_000);
        let given = TcpSettings::default().set_keepalive(keepalive);
        let error = stream().await.set_link_timeout(LINK_TIMEOUT, &given).unwrap_err();
        assert!(error.to_string().contains("TCP settings"), "{error}");
    }
}
