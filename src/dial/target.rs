//! Where to dial: addresses, and how far the dials of each came.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redis::ConnectionAddr;

#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
use super::Tls;
use super::classify::Stage;
use super::race::Reached;
use crate::vocabulary::words::host_and_port;
use crate::vocabulary::{DialFailure, Outcome};

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

    /// Whether it is spoken to over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
        return matches!(self, Self::Tls { .. });
        #[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
        false
    }

    /// The host, unless it is a path.
    pub(crate) fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } => Some(host),
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Self::Tls { host, .. } => Some(host),
            Self::Unix(_) => None,
        }
    }

    /// Another one that is spoken to alike.
    pub(crate) fn at(&self, host: &str, port: u16) -> Self {
        let host = host.to_owned();
        match self {
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Self::Tls { tls, .. } => Self::Tls { host, port, tls: tls.clone() },
            Self::Tcp { .. } | Self::Unix(_) => Self::Tcp { host, port },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => f.write_str(&host_and_port(host, *port)),
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Self::Tls { host, port, .. } => f.write_str(&host_and_port(host, *port)),
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
    pub(super) progress: Arc<Progress>,
}

impl Target {
    pub(crate) fn new(address: Address) -> Self {
        Self { name: address.to_string().into(), address, progress: Arc::default() }
    }

    /// A server that is not found yet, by whatever name it has.
    pub(crate) fn unknown(name: &str) -> Self {
        let address = Address::Tcp { host: String::new(), port: 0 };
        Self { name: name.into(), address, progress: Arc::default() }
    }

    /// What a dial under way waits for, as the failure that it is to those who do not wait so long.
    pub(crate) fn unanswered(&self) -> Option<DialFailure> {
        let stage = Stage::of(self.progress.stage.load(Ordering::Relaxed))?;
        let message = format!("{} yet", stage.awaits());
        Some(DialFailure { server: Arc::clone(&self.name), outcome: Outcome::Timeout, message })
    }
}

/// How far the dials of a target came.
#[derive(Debug)]
pub(super) struct Progress {
    /// Of a name's addresses, the one that was connected to last: the next dial begins with it.
    reached: Mutex<Option<Reached>>,
    /// The [`Stage`] that a dial came to last.
    stage: AtomicU8,
}

impl Default for Progress {
    fn default() -> Self {
        Self { reached: Mutex::new(None), stage: AtomicU8::new(u8::MAX) }
    }
}

impl Progress {
    pub(super) fn last_reached(&self) -> Option<Reached> {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reached(&self, reached: Reached) {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(reached);
    }

    pub(super) fn reach(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }
}
