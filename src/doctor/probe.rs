//! One connection, to look at one server with.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{
    Cmd, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, RedisResult, Value, from_redis_value,
};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::cluster;
use super::holders::Holders;
use super::registry::Registry;
use super::sentinel::WatchedMaster;
use crate::dial::{self, Address, Certificates, Dialer, Trace};
use crate::policy::LONGEST;
use crate::sentinel::Named;
use crate::server::{
    ClientList, Observation, PRIORITY, RESERVED, ServerObserver, ServerSnapshot, reserved_line,
};
use crate::vocabulary::DialFailure;
use crate::vocabulary::words::clean;

/// How CLIENT LIST shows us.
pub(super) const CLIENT_NAME: &str = "redis-guard:doctor";

/// What one needs beside a URL to get to a server.
#[derive(Clone)]
pub struct Access {
    timeout: Duration,
    password: Option<String>,
    certificates: Option<Certificates>,
    /// For the servers that sentinels name.
    connect_as: Option<ConnectionInfo>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            password: None,
            certificates: None,
            connect_as: None,
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Access {
    /// The longest that connecting, or one command, may take. Default 5 s: a server that takes
    /// longer to answer is of no use to its clients either. A year at most.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(LONGEST);
        self
    }

    /// The password of URLs that have none; with [`connect_as`](Self::connect_as) it is that URL's
    /// alone. Default none.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The user, password, database, protocol and TLS for the masters and replicas that a sentinel
    /// names, such as `rediss://app:secret@any/2`; its host and port are not used. What is in the
    /// sentinel's own URL is for the sentinels. Default: no TLS, and the [`password`](Self::password).
    ///
    /// # Errors
    ///
    /// What is wrong with the URL, without any part of it that may be a password.
    pub fn connect_as(mut self, url: &str) -> Result<Self, String> {
        let info = url.into_connection_info().map_err(|error| explain(url, &error))?;
        Address::new(info.addr(), self.certificates.as_ref())?;
        self.connect_as = Some(info);
        Ok(self)
    }

    /// Whom to trust, and who we are. Default: the platform's certificate authorities, and nobody.
    #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
    #[must_use]
    pub fn tls_certificates(mut self, certificates: redis::TlsCertificates) -> Self {
        self.certificates = Some(certificates);
        self
    }
}

/// A server to look at: its URL, parsed, and how to get there.
#[derive(Debug)]
pub struct Target {
    at: dial::Target,
    dialer: Dialer,
    /// An authority of its own has to be trusted.
    has_own_authority: bool,
}

impl Target {
    /// Parses a URL as redis-rs takes it: `redis://`, `rediss://`, `redis+unix://`, `unix://`. Without a
    /// scheme it is `redis://`, where it is `localhost`, an IP address, a name with a dot in it, or any of
    /// these with a port: another word alone may be a mistake, or somebody's password.
    ///
    /// # Errors
    ///
    /// What is wrong with it, without any part of the URL that may be a password.
    pub fn parse(url: &str, access: &Access) -> Result<Self, String> {
        let url = &*with_scheme(url);
        let info = url.into_connection_info().map_err(|error| explain(url, &error))?;
        let password = access.password.as_ref().filter(|_| access.connect_as.is_none());
        Self::of(&info, password, access)
    }

    /// What the servers that a sentinel names are reached with; its own address is nobody's.
    pub(super) fn named_by_sentinel(access: &Access) -> Result<Self, String> {
        match &access.connect_as {
            Some(info) => Self::of(info, access.password.as_ref(), access),
            None => Self::parse("redis://any", access),
        }
    }

    fn of(
        info: &ConnectionInfo,
        password: Option<&String>,
        access: &Access,
    ) -> Result<Self, String> {
        let address = Address::new(info.addr(), access.certificates.as_ref())?;
        let mut redis = info.redis_settings().clone();
        if let (None, Some(password)) = (redis.password(), password) {
            redis = redis.set_password(password);
        }
        let dialer = dialer(redis, access.timeout);
        let own = access.certificates.is_some();
        Ok(Self { at: dial::Target::new(address), dialer, has_own_authority: own })
    }

    /// Another server, reached in the same way.
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        let host = host.to_owned();
        let address = match &self.at.address {
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Address::Tls { tls, .. } => Address::Tls { host, port, tls: tls.clone() },
            Address::Tcp { .. } | Address::Unix(_) => Address::Tcp { host, port },
        };
        Self {
            at: dial::Target::new(address),
            dialer: dialer(self.dialer.login().redis.clone(), self.dialer.connect_timeout),
            has_own_authority: self.has_own_authority,
        }
    }

    /// Its address, without credentials.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.at.name
    }

    /// Its host and port; `None` of a path.
    pub(super) fn named(&self) -> Option<Named> {
        match &self.at.address {
            Address::Tcp { host, port } => Some(Named { host: host.clone(), port: *port }),
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Address::Tls { host, port, .. } => Some(Named { host: host.clone(), port: *port }),
            Address::Unix(_) => None,
        }
    }

    pub(super) fn location(&self) -> Location {
        let mut location = Location::of(&self.dialer, &self.at);
        if self.has_own_authority {
            // Which file it is in, only the operator knows.
            location.redis_cli = location.redis_cli.replace("--tls", "--tls --cacert FILE");
        }
        location
    }
}

fn dialer(redis: RedisConnectionInfo, timeout: Duration) -> Dialer {
    let mut dialer = Dialer::new(redis, CLIENT_NAME.to_owned(), timeout);
    dialer.admits_loading = true;
    dialer
}

/// The URL of what people type: `localhost`, `redis:6379`, `::1`, `[::1]:6379/2`. Whatever has more in it is left
/// as it is.
fn with_scheme(text: &str) -> Cow<'_, str> {
    let (host, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]/".contains(&byte);
    let is_host = host == "localhost" || host.contains(['.', ':']);
    match is_host && !rest.starts_with("//") && text.bytes().all(is_plain) {
        true if host.parse::<Ipv6Addr>().is_ok() => format!("redis://[{host}]{rest}").into(),
        true => format!("redis://{text}").into(),
        false => text.into(),
    }
}

/// Why a URL is none, without quoting more of it than its scheme: the rest may be a password.
fn explain(url: &str, error: &RedisError) -> String {
    const SCHEMES: [&str; 6] = ["redis", "rediss", "valkey", "valkeys", "redis+unix", "unix"];
    match url.split_once("://") {
        None => "it has no scheme, such as redis://, and is no host:port either".to_owned(),
        Some((scheme, _)) if !SCHEMES.contains(&scheme) => {
            format!("its scheme is {:?}, which is none of redis, rediss, redis+unix", clean(scheme))
        }
        Some(_) => format!(
            "{error}: is the port a number, and is what is special in the password written as %XX?"
        ),
    }
}

/// Where a server is, for what is said of it.
#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) server: Arc<str>,
    /// The command that gets there; the password is the operator's to add (`REDISCLI_AUTH`).
    pub(super) redis_cli: String,
    pub(super) is_tls: bool,
    pub(super) is_unix: bool,
    /// The longest that a step may take.
    pub(super) timeout: Duration,
}

impl Location {
    pub(super) fn of(dialer: &Dialer, at: &dial::Target) -> Self {
        let address = &at.address;
        let mut redis_cli = match address {
            Address::Tcp { host, port } => format!("redis-cli -h {} -p {port}", quoted(host)),
            #[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
            Address::Tls { host, port, .. } => {
                format!("redis-cli --tls -h {} -p {port}", quoted(host))
            }
            Address::Unix(path) => format!("redis-cli -s {}", quoted(&path.to_string_lossy())),
        };
        if let Some(user) = dialer.login().redis.username() {
            redis_cli.push_str(&format!(" --user {}", quoted(user)));
        }
        Self {
            server: Arc::clone(&at.name),
            redis_cli,
            is_tls: !matches!(address, Address::Tcp { .. } | Address::Unix(_)),
            is_unix: matches!(address, Address::Unix(_)),
            timeout: dialer.connect_timeout,
        }
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", clean(word).replace('\'', "'\\''")),
    }
}

/// A connection that looks at one server. It reads, and changes nothing.
pub struct Probe {
    connection: Box<dyn ConnectionLike + Send>,
    /// Of a connection of our own.
    driver: Option<AbortHandle>,
    observer: ServerObserver,
    /// Of a connection of our own, which is left out where clients are counted.
    id: Option<u64>,
    pub(super) timeout: Duration,
    /// Commands of ours.
    asked: u64,
    /// A question had no answer, and none is asked any more.
    given_up: bool,
    /// What the last INFO said of the masters that it watches.
    watched_masters: Option<Vec<WatchedMaster>>,
    /// It said that it is a node of a cluster.
    pub(super) is_in_cluster: bool,
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Probe {
    /// Dials once. A server that loads its data set will do.
    ///
    /// # Errors
    ///
    /// How the dial failed, and in whose words.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn connect(target: &Target) -> Result<Self, DialFailure> {
        Self::connect_traced(target, &mut Trace::default()).await
    }

    pub(super) async fn connect_traced(
        target: &Target,
        trace: &mut Trace,
    ) -> Result<Self, DialFailure> {
        let dialed = target.dialer.dial_traced(&target.at, &target.dialer.login(), trace).await?;
        let mut probe = Self::over(dialed.connection, target.dialer.connect_timeout);
        probe.driver = Some(tokio::spawn(dialed.driver).abort_handle());
        Ok(probe)
    }

    /// Over a connection that somebody has: at a full server there is no other.
    pub(super) fn over(
        connection: impl ConnectionLike + Send + 'static,
        timeout: Duration,
    ) -> Self {
        Self {
            connection: Box::new(connection),
            driver: None,
            observer: ServerObserver::default(),
            id: None,
            timeout,
            asked: 0,
            given_up: false,
            watched_masters: None,
            is_in_cluster: false,
        }
    }

    /// Asks for INFO, and compares it with the time before.
    ///
    /// # Errors
    ///
    /// The server does not answer, or not this.
    pub async fn observe(&mut self) -> Result<Observation, RedisError> {
        let info = self.info().await?;
        Ok(self.observe_in(&info))
    }

    /// INFO, with a line for the slots that the server reserves, where it may, and tells.
    pub(super) async fn info(&mut self) -> Result<String, RedisError> {
        let mut info = text_of(self.ask(&redis::cmd("INFO")).await?)?;
        if ServerSnapshot::parse(&info).may_reserve_slots() {
            let reserved = self.setting(RESERVED).await.ok().flatten();
            let priority = self.setting(PRIORITY).await.ok().flatten();
            info.extend(reserved_line(reserved.as_deref(), priority.as_deref()));
        }
        Ok(info)
    }

    /// One of the configuration; `None` where the server does not know it. One at a time: before Redis 7
    /// CONFIG GET takes one name.
    pub(super) async fn setting(&mut self, name: &str) -> RedisResult<Option<String>> {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> =
            self.ask(redis::cmd("CONFIG").arg("GET").arg(name)).await?;
        let value = pairs.into_iter().next().map(|(_, value)| value);
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    pub(super) fn observe_in(&mut self, info: &str) -> Observation {
        self.watched_masters = WatchedMaster::all(info);
        self.is_in_cluster = cluster::is_node(info);
        let mut snapshot = ServerSnapshot::parse(info);
        let total = snapshot.total_commands_processed;
        snapshot.total_commands_processed = total.map(|total| total.saturating_sub(self.asked));
        self.observer.observe(snapshot, Instant::now())
    }

    /// The masters that a sentinel watches, as its last INFO said; `None` for any other server, and
    /// before [`observe`](Self::observe).
    #[must_use]
    pub fn watched_masters(&self) -> Option<&[WatchedMaster]> {
        self.watched_masters.as_deref()
    }

    /// Asks for CLIENT LIST, and sums it up: the server builds that list in one go, a millisecond
    /// for a thousand clients. Groups of clients show their `top` largest.
    ///
    /// # Errors
    ///
    /// The server does not answer, or not this: managed services may deny it.
    pub async fn holders(
        &mut self,
        idle_after: Duration,
        top: usize,
    ) -> Result<Holders, RedisError> {
        if self.driver.is_some() && self.id.is_none() {
            self.id = self.ask(redis::cmd("CLIENT").arg("ID")).await.ok();
        }
        let list = bytes_of(self.ask(redis::cmd("CLIENT").arg("LIST")).await?)?;
        Ok(Holders::of(&ClientList::parse(list), self.id, idle_after, top))
    }

    /// Reads the registry of a fleet; `None` where there is none of that name.
    ///
    /// # Errors
    ///
    /// The server does not answer, or not this.
    pub async fn registry(&mut self, fleet: &str) -> Result<Option<Registry>, RedisError> {
        Registry::read(self, fleet).await
    }

    /// Asks again from now on. After a question that had no answer in time, none is asked until this is
    /// called: a connection that may be the last there is can be kept, and asked again later.
    pub fn ask_again(&mut self) {
        self.given_up = false;
    }

    /// One command, within the timeout. Past one, the rest is not asked: whoever waits for a report
    /// would wait for the sum of all timeouts.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        if self.given_up {
            return Err((ErrorKind::Client, "not asked, as there was no answer before").into());
        }
        self.asked += 1;
        let reply = self.connection.req_packed_command(command);
        let Ok(reply) = tokio::time::timeout(self.timeout, reply).await else {
            self.given_up = true;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time").into());
        };
        // After the end of the connection, as after a silence, there is nobody to ask.
        self.given_up =
            matches!(&reply, Err(error) if error.is_io_error() || error.is_connection_dropped());
        Ok(from_redis_value(reply?.extract_error()?)?)
    }
}

/// What may be in any encoding, or none: names of clients and users, values of settings.
pub(super) fn text_of(reply: Value) -> RedisResult<String> {
    Ok(String::from_utf8_lossy(&bytes_of(reply)?).into_owned())
}

/// In RESP3, INFO and CLIENT LIST are verbatim strings, which the driver gives as text only.
fn bytes_of(reply: Value) -> RedisResult<Vec<u8>> {
    match reply {
        Value::VerbatimString { text, .. } => Ok(text.into_bytes()),
        reply => Ok(from_redis_value(reply)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<String, String> {
        Target::parse(url, &Access::default()).map(|target| target.server().to_owned())
    }

    #[test]
    fn what_people_type_is_a_server() {
        for (typed, address) in [
            ("localhost", "localhost:6379"),
            ("localhost:7000/2", "localhost:7000"),
            ("10.0.0.7", "10.0.0.7:6379"),
            ("redis:6379", "redis:6379"),
            ("cache.example.org", "cache.example.org:6379"),
            ("::1", "[::1]:6379"),
            ("[::1]:7000", "[::1]:7000"),
        ] {
            assert_eq!(server(typed).as_deref(), Ok(address), "{typed}");
            assert_eq!(server(typed), server(&with_scheme(typed)), "{typed}");
        }
    }

    #[test]
    fn what_may_be_a_mistake_or_a_password_is_none() {
        for typed in ["", "nonsense", "me:secret@10.0.0.7", "s3cret.!", "/run/redis.sock", "a b.c"]
        {
            assert_eq!(with_scheme(typed), typed);
            assert!(server(typed).is_err(), "{typed}");
        }
        for typed in ["10.0.0.7:port", "10.0.0.7:99999", "10.0.0.7/db"] {
            assert!(server(typed).is_err(), "{typed}");
        }
    }
}
