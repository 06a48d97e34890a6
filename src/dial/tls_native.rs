//! TLS over the system's library.

use std::fmt;
use std::io;

use redis::{ClientTlsConfig, RedisError, TlsCertificates};

use super::stream::Stream;

/// A TLS client configuration; see the rustls one for why it is ours.
#[derive(Clone)]
pub(crate) struct Tls(tokio_native_tls::TlsConnector);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(native-tls)")
    }
}

impl Tls {
    /// Trusts `certificates`, or the platform's roots where there are none.
    pub(crate) fn new(
        certificates: Option<&TlsCertificates>,
        insecure: bool,
    ) -> Result<Self, String> {
        let mut builder = native_tls::TlsConnector::builder();
        if insecure {
            builder
                .danger_accept_invalid_certs(true)
                .danger_accept_invalid_hostnames(true)
                .use_sni(false);
        }
        if let Some(pem) = certificates.and_then(|certificates| certificates.root_cert.as_ref()) {
            // Given roots replace the platform's, as with rustls.
            builder.disable_built_in_roots(true);
            let roots = native_tls::Certificate::stack_from_pem(pem)
                .map_err(|error| format!("the root certificate does not parse: {error}"))?;
            if roots.is_empty() {
                return Err("the root certificate's PEM holds no certificate".to_owned());
            }
            for root in roots {
                builder.add_root_certificate(root);
            }
        }
        let client = certificates.and_then(|certificates| certificates.client_tls.as_ref());
        if let Some(ClientTlsConfig { client_cert, client_key }) = client {
            let identity = native_tls::Identity::from_pkcs8(client_cert, client_key)
                .map_err(|error| format!("the client certificate does not parse: {error}"))?;
            builder.identity(identity);
        }
        let connector =
            builder.build().map_err(|error| format!("TLS cannot be set up: {error}"))?;
        Ok(Self(connector.into()))
    }

    pub(crate) async fn wrap(&self, host: &str, stream: Stream) -> Result<Stream, RedisError> {
        let Stream::Tcp(stream) = stream else {
            return Ok(stream);
        };
        let stream = self.0.connect(host, stream).await.map_err(as_io)?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// The I/O error inside where there is one; otherwise the handshake itself failed. OpenSSL has no
/// I/O error for a peer that closes in the middle of it, only words.
fn as_io(error: native_tls::Error) -> io::Error {
    let inside = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    let kind = match inside {
        Some(kind) => kind,
        None if error.to_string().to_ascii_lowercase().contains("unexpected eof") => {
            io::ErrorKind::UnexpectedEof
        }
        None => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}
