//! TLS over rustls.

use std::fmt;
use std::io;
use std::sync::Arc;

use redis::{ClientTlsConfig, RedisError, TlsCertificates};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::stream::Stream;

/// A TLS client configuration.
///
/// Ours and not redis-rs's own connect: under it the tap could not listen inside the encryption,
/// where managed services say that they are full, and a dead connection would go unnoticed until
/// the next command.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(rustls)")
    }
}

impl Tls {
    /// Trusts `certificates`, or the platform's roots where there are none.
    pub(crate) fn new(
        certificates: Option<&TlsCertificates>,
        insecure: bool,
    ) -> Result<Self, String> {
        // The application's choice of provider where it made one; otherwise ring, rather than the
        // panic that rustls's default builder answers with.
        let provider = CryptoProvider::get_default()
            .cloned()
            .unwrap_or_else(|| Arc::new(ring::default_provider()));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("the rustls provider has no TLS version: {error}"))?;
        let builder = if insecure {
            insecure_verifier(builder, &provider)?
        } else {
            builder.with_root_certificates(roots(certificates)?)
        };
        let client = certificates.and_then(|certificates| certificates.client_tls.as_ref());
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(ClientTlsConfig { client_cert, client_key }) => {
                let chain = CertificateDer::pem_slice_iter(client_cert)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| format!("the client certificate does not parse: {error}"))?;
                let key = PrivateKeyDer::from_pem_slice(client_key)
                    .map_err(|error| format!("the client key does not parse: {error}"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| format!("the client certificate does not fit: {error}"))?
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(crate) async fn wrap(&self, host: &str, stream: Stream) -> Result<Stream, RedisError> {
        let Stream::Tcp(stream) = stream else {
            return Ok(stream);
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Stream::Tls(Box::new(self.0.connect(name, stream).await?)))
    }
}

fn roots(certificates: Option<&TlsCertificates>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    if let Some(pem) = certificates.and_then(|certificates| certificates.root_cert.as_ref()) {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let added = certificate
                .map_err(|error| error.to_string())
                .and_then(|certificate| store.add(certificate).map_err(|error| error.to_string()));
            added.map_err(|error| format!("the root certificate does not parse: {error}"))?;
        }
        if store.is_empty() {
            return Err("the root certificate's PEM holds no certificate".to_owned());
        }
    } else {
        let native = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(native.certs);
        if store.is_empty() {
            return Err("the platform has no root certificates (install ca-certificates, \
                        or give your own with tls_certificates)"
                .to_owned());
        }
    }
    Ok(store)
}

type WantsClientCert = tokio_rustls::rustls::ConfigBuilder<
    ClientConfig,
    tokio_rustls::rustls::client::WantsClientCert,
>;
type WantsVerifier =
    tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::WantsVerifier>;

#[cfg(not(feature = "tls-rustls-insecure"))]
fn insecure_verifier(
    _builder: WantsVerifier,
    _provider: &CryptoProvider,
) -> Result<WantsClientCert, String> {
    Err("`#insecure` needs the feature tls-rustls-insecure".to_owned())
}

#[cfg(feature = "tls-rustls-insecure")]
fn insecure_verifier(
    builder: WantsVerifier,
    provider: &CryptoProvider,
) -> Result<WantsClientCert, String> {
    let verifier = insecure::AcceptAll(provider.signature_verification_algorithms);
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

#[cfg(feature = "tls-rustls-insecure")]
mod insecure {
    use tokio_rustls::rustls::client::danger::{
        HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
    };
    use tokio_rustls::rustls::crypto::WebPkiSupportedAlgorithms;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use tokio_rustls::rustls::{DigitallySignedStruct, Error, SignatureScheme};

    /// Accepts any certificate: what `#insecure` in the URL asks for.
    #[derive(Debug)]
    pub(super) struct AcceptAll(pub(super) WebPkiSupportedAlgorithms);

    impl ServerCertVerifier for AcceptAll {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }
}
