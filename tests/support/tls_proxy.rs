//! A proxy that ends TLS, as managed services and stunnel have it in front of a plain Redis: what
//! the server says at accept arrives inside the encryption.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A TLS listener on a loopback port in front of one server, gone when dropped.
#[derive(Debug)]
pub(crate) struct TlsProxy {
    address: SocketAddr,
    certificate_pem: String,
    accepting: JoinHandle<()>,
}

impl TlsProxy {
    /// # Errors
    /// There is no free loopback port, or no certificate could be made.
    pub(crate) async fn start(backend: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der())?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let accepting =
            tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), backend));
        Ok(Self { address, certificate_pem: cert.pem(), accepting })
    }

    pub(crate) fn url(&self) -> String {
        format!("rediss://{}", self.address)
    }

    /// For the client's trust store.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, backend: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(Box::pin(pass(client, tls.clone(), backend)));
    }
}

/// Passes bytes on until the server has no more to say. What it said before it closed arrives,
/// whatever became of the client's own bytes.
async fn pass(client: TcpStream, tls: TlsAcceptor, backend: SocketAddr) {
    let Ok(client) = tls.accept(client).await else { return };
    let Ok(server) = TcpStream::connect(backend).await else { return };
    let (mut from_client, mut to_client) = split(client);
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        // A server that has closed takes no more; its words may still be on their way.
        let _ = copy(&mut from_client, &mut to_server).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = copy(&mut from_server, &mut to_client) => {}
        () = requests => {}
    }
    let _ = to_client.shutdown().await;
}
