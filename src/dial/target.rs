//! Where to dial: addresses, and how far the dials of each came.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

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

/// What the caller gave, or why it is not usable. The driver says that a feature is missing, and not whose.
pub(crate) fn connection_info(params: impl IntoConnectionInfo) -> Result<ConnectionInfo, String> {
    params.into_connection_info().map_err(|error| {
        let words = error.to_string();
        let names_no_feature = words.contains("TLS, the feature is not enabled");
        if names_no_feature { NO_TLS.to_owned() } else { words }
    })
}

const NO_TLS: &str = "TLS needs the feature tls-rustls or tls-native-tls of redis-guard";

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
            ConnectionAddr::TcpTls { .. } if certificates.is_none() => Err(NO_TLS.to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        let info = connection_info(url).unwrap();
        Address::new(info.addr(), None).unwrap()
    }

    #[test]
    fn an_address_is_shown_as_it_is_dialed() {
        for (url, shown, host) in [
            ("redis://10.0.0.7", "10.0.0.7:6379", Some("10.0.0.7")),
            ("redis://[fe80::1]:7000", "[fe80::1]:7000", Some("fe80::1")),
            ("unix:///run/redis.sock", "/run/redis.sock", None),
        ] {
            let address = address(url);
            assert_eq!((address.to_string().as_str(), address.host()), (shown, host));
            assert_eq!(&*Target::new(address).name, shown);
        }
    }

    #[test]
    fn what_is_no_address_is_an_error_in_the_drivers_words() {
        let problem = connection_info("http://10.0.0.7").unwrap_err();
        assert!(!problem.is_empty() && problem != NO_TLS, "{problem}");
    }

    #[cfg(feature = "tls-rustls")]
    #[test]
    fn another_address_is_spoken_to_alike() {
        let trusted = rcgen::generate_simple_self_signed(["redis".to_owned()]).unwrap();
        let root_cert = Some(trusted.cert.pem().into_bytes());
        let certificates = Certificates { client_tls: None, root_cert };
        let info = connection_info("rediss://redis:6380").unwrap();
        let secure = Address::new(info.addr(), Some(&certificates)).unwrap();
        assert_eq!((secure.to_string().as_str(), secure.host()), ("redis:6380", Some("redis")));
        for (from, is_tls) in
            [(secure, true), (address("redis://redis"), false), (address("unix:///s"), false)]
        {
            assert_eq!(from.is_tls(), is_tls, "{from}");
            let other = from.at("10.0.0.8", 7001);
            assert_eq!((other.to_string().as_str(), other.is_tls()), ("10.0.0.8:7001", is_tls));
        }
    }

    #[test]
    fn a_dial_under_way_tells_what_it_waits_for() {
        let target = Target::new(address("redis://10.0.0.7"));
        assert_eq!(target.unanswered(), None, "nobody has dialed");
        for (stage, words) in [
            (Stage::Resolve, "the name has not been resolved yet"),
            (Stage::Connect, "nothing has answered the connect yet"),
            (Stage::Tls, "connected, but the TLS handshake has had no answer yet"),
            (Stage::Handshake, "connected, but the first commands have had no answer yet"),
        ] {
            target.progress.reach(stage);
            let failure = DialFailure::new("10.0.0.7:6379", Outcome::Timeout, words);
            assert_eq!(target.unanswered(), Some(failure));
        }
        assert_eq!(&*Target::unknown("the-master").name, "the-master");
    }

    #[test]
    fn the_address_that_was_reached_last_is_known_to_the_next_dial() {
        let progress = Progress::default();
        assert_eq!(progress.last_reached(), None);
        let address = "10.0.0.7:6379".parse().unwrap();
        let reached = Reached { address, took: std::time::Duration::from_millis(3) };
        progress.reached(reached);
        assert_eq!(progress.last_reached(), Some(reached));
    }
}
