//! The socket of a connection.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use redis::RedisError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// Idle time before the kernel probes a silent peer: under the idle limits of common NATs and load
/// balancers (AWS NLB 350 s, Azure 240 s), and Redis's own default is 300 s.
const KEEPALIVE: Duration = Duration::from_secs(60);

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
}

impl Stream {
    /// Connects over TCP, with Nagle's algorithm off (a request is one write, and waiting for more
    /// only adds latency) and keepalive on.
    pub(crate) async fn connect_tcp(address: SocketAddr) -> Result<Self, RedisError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Self::Tcp(stream))
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

/// Calls the same method on whichever stream it is.
macro_rules! on_stream {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            #[cfg(unix)]
            Stream::Unix($stream) => $call,
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Stream::Tls($stream) => $call,
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
