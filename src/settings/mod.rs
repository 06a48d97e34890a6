//! Settings of a pool from a file or the environment.
//!
//! [`PoolSettings`] keeps what was read; every look at it goes through [`Fields`], once to check it and once to
//! make a builder of it.

mod fields;

use std::fmt;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo, RedisResult};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use self::fields::{Fields, List};
use crate::server::Role;
use crate::vocabulary::BuildError;
use crate::{Backoff, Breaker, Budget, Fleet, GuardedPool, GuardedPoolBuilder, ReplicaReads};

/// All that [`GuardedPoolBuilder`] knows, as it stands in a file or the environment: a part of a service's own
/// settings, read by serde from TOML, YAML, JSON, or what a crate like `config` or `figment` layers together.
///
/// Each setter is a key of the same name, and means the same; what is left out has the setter's default. Times are
/// text with a unit (`"250ms"`, `"5s"`, `"30m"`). Numbers and booleans may be text, and lists text with commas, as
/// they are in environment variables.
///
/// ```
/// use redis_guard::{GuardedPool, PoolSettings};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     redis: PoolSettings,
/// }
/// let text = r#"{ "redis": {
///     "url": "redis://10.0.0.1:6379",
///     "max_connections": 32,
///     "acquire_timeout": "250ms",
///     "endpoints": { "checkout": { "max": 8, "reserve": 2 } }
/// } }"#;
/// let settings: Settings = serde_json::from_str(text)?;
/// let pool = GuardedPool::from_config(settings.redis).build()?;
/// # Ok(()) }
/// ```
///
/// | key | |
/// |---|---|
/// | `url` | of one server; or |
/// | `sentinels`, `master` | URLs, and the master's name, with `connect_as`, `sentinel_client_name`, `sentinel_username`, `sentinel_password`, `sentinel_tls`; or |
/// | `nodes` | URLs of a cluster, with `replica_reads` (`off`, `prefer`, `only`) and `map_address` (a table: announced = dialed) |
/// | `username`, `password` | of the servers, instead of those in `url`, `connect_as` or `nodes`: a secret has a variable of its own |
/// | `tls`, `sentinel_tls` | tables of paths of PEM files: `roots`, instead of the platform's; `client_certificate` and `client_key` |
/// | `endpoints`, `default_budget` | by name, a table of `max` (needed), `reserve`, `in_flight` |
/// | `fleet` | its name, or a table of `name` and `reserve` |
/// | `backoff` | a table of `jitter` (`equal`, `full`, `decorrelated`, `none`), `base`, `cap` |
/// | `breaker` | a table of `max_clients`, `suspected`, `suspected_within`, `failures` |
/// | `role` | `master`, `replica`, `active_replica` |
/// | `acquire_timeout`, `connect_timeout`, `response_timeout`, `link_timeout`, `leak_after`, `revoke_after`, `idle_timeout`, `max_lifetime`, `drain_timeout` | times |
/// | `max_connections`, `queue_limit`, `min_idle`, `shared_lanes`, `min_limit`, `seed` | numbers |
/// | `own_gate`, `multiplex`, `watch`, `adaptive_limit`, `plain_handshake` | booleans |
/// | `name`, `client_name` | texts |
///
/// A runtime and a provider of credentials are values of the program's: set them on the builder, as whatever else
/// is to win over the file.
///
/// # Errors
///
/// Deserializing fails with everything that is wrong at once: unknown keys, values of another kind, and what
/// [`build`](GuardedPoolBuilder::build) would refuse. Files of certificates are read for that, and again for the
/// builder. No password is in an error or in `Debug`.
#[derive(Clone)]
pub struct PoolSettings {
    values: Map<String, Value>,
}

impl<'de> Deserialize<'de> for PoolSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let settings = Self { values: Map::deserialize(deserializer)? };
        let (builder, mut mistakes) = settings.read();
        mistakes.extend(builder.mistakes());
        match &*mistakes {
            [] => Ok(settings),
            _ => Err(D::Error::custom(BuildError::new(mistakes))),
        }
    }
}

/// A pool from what stands in a file or the environment.
impl From<PoolSettings> for GuardedPoolBuilder {
    fn from(settings: PoolSettings) -> Self {
        let (builder, mistakes) = settings.read();
        // A file of certificates may be gone since it was checked.
        builder.mistaken(mistakes)
    }
}

impl fmt::Debug for PoolSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (key, value) in &self.values {
            match fields::is_secret(key) {
                true => map.entry(key, &fields::shown(value)),
                false => map.entry(key, &format_args!("{value}")),
            };
        }
        map.finish()
    }
}

/// A URL, and the login that is set beside it.
#[derive(Clone)]
struct Url {
    text: String,
    username: Option<String>,
    password: Option<String>,
}

impl IntoConnectionInfo for Url {
    fn into_connection_info(self) -> RedisResult<ConnectionInfo> {
        let info = self.text.into_connection_info()?;
        let mut redis = info.redis_settings().clone();
        if let Some(username) = self.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = self.password {
            redis = redis.set_password(password);
        }
        Ok(info.set_redis_settings(redis))
    }
}

impl PoolSettings {
    /// The builder, and everything that could not be read.
    fn read(&self) -> (GuardedPoolBuilder, Vec<String>) {
        let mut fields = Fields::new(&self.values);
        let builder = topology(&mut fields);
        let builder = policies(&mut fields, builder);
        let builder = plain(&mut fields, builder);
        let builder = tls(&mut fields, builder);
        (builder, fields.finish())
    }
}

/// Who says where the server is.
fn topology(fields: &mut Fields<'_>) -> GuardedPoolBuilder {
    let username = fields.get::<String>("username");
    let password = fields.get::<String>("password");
    let server = |text| Url { text, username: username.clone(), password: password.clone() };
    let url = fields.get::<String>("url");
    let sentinels = fields.get::<List>("sentinels");
    let nodes = fields.get::<List>("nodes");
    let of_sentinels = sentinels.is_some();
    let login = ["sentinel_username", "sentinel_password"].map(|key| fields.get::<String>(key));
    let master = fields.get::<String>("master");
    if !of_sentinels && (master.is_some() || login.iter().any(Option::is_some)) {
        fields.mistake("master, sentinel_username and sentinel_password are for sentinels");
    }
    let connect_as = fields.get::<String>("connect_as");
    let builder = match (url, sentinels, nodes) {
        (Some(url), None, None) => GuardedPool::builder(server(url)),
        (None, Some(List(sentinels)), None) => {
            let [username, password] = login;
            let sentinel =
                |text| Url { text, username: username.clone(), password: password.clone() };
            let sentinels = sentinels.into_iter().map(sentinel);
            let any = connect_as.clone().unwrap_or_else(|| "redis://any".to_owned());
            GuardedPool::sentinel(sentinels, master.unwrap_or_default()).connect_as(server(any))
        }
        (None, None, Some(List(nodes))) => GuardedPool::cluster(nodes.into_iter().map(server)),
        (None, None, None) => {
            fields.mistake("url, sentinels or nodes has to say where the server is");
            GuardedPool::builder("redis://nowhere")
        }
        _ => {
            fields.mistake("url, sentinels and nodes exclude one another");
            GuardedPool::builder("redis://nowhere")
        }
    };
    let builder = match connect_as {
        Some(url) if !of_sentinels => builder.connect_as(url),
        _ => builder,
    };
    let builder =
        fields.set(builder, "sentinel_client_name", |builder: GuardedPoolBuilder, name: String| {
            builder.sentinel_client_name(name)
        });
    let reads = [
        ("off", ReplicaReads::Off),
        ("prefer", ReplicaReads::Prefer),
        ("only", ReplicaReads::Only),
    ];
    let builder =
        fields.set_one_of(builder, "replica_reads", &reads, GuardedPoolBuilder::replica_reads);
    let names = fields.table("map_address", |names| {
        let announced = names.keys();
        announced.into_iter().filter_map(|name| Some((name, names.get::<String>(name)?))).collect()
    });
    let names: Vec<(&str, String)> = names.unwrap_or_default();
    names
        .into_iter()
        .fold(builder, |builder, (announced, dialed)| builder.map_address(announced, dialed))
}

/// Budgets, and how dials are paced and refused.
fn policies(fields: &mut Fields<'_>, builder: GuardedPoolBuilder) -> GuardedPoolBuilder {
    let endpoints = fields.table("endpoints", |endpoints| {
        let names = endpoints.keys();
        let budget = |name| Some((name, endpoints.table(name, budget).flatten()?));
        names.into_iter().filter_map(budget).collect()
    });
    let endpoints: Vec<(&str, Budget)> = endpoints.unwrap_or_default();
    let builder = endpoints
        .into_iter()
        .fold(builder, |builder, (name, budget)| builder.endpoint(name.to_owned(), budget));
    let default = fields.table("default_budget", budget).flatten();
    let builder = match default {
        Some(budget) => builder.default_budget(budget),
        None => builder,
    };
    let fleet = match fields.is_table("fleet") {
        true => fields.table("fleet", fleet).flatten(),
        false => fields.get::<String>("fleet").map(Fleet::named),
    };
    let builder = match fleet {
        Some(fleet) => builder.fleet(fleet),
        None => builder,
    };
    let builder = match fields.table("backoff", backoff) {
        Some(backoff) => builder.backoff(backoff),
        None => builder,
    };
    match fields.table("breaker", breaker) {
        Some(breaker) => builder.breaker(breaker),
        None => builder,
    }
}

fn budget(fields: &mut Fields<'_>) -> Option<Budget> {
    let max = fields.needed::<usize>("max").map(Budget::max);
    let (reserve, in_flight) = (fields.get::<usize>("reserve"), fields.get::<usize>("in_flight"));
    let reserved = |budget: Budget| reserve.map_or(budget, |slots| budget.reserve(slots));
    let bounded = |budget: Budget| in_flight.map_or(budget, |commands| budget.in_flight(commands));
    max.map(reserved).map(bounded)
}

fn fleet(fields: &mut Fields<'_>) -> Option<Fleet> {
    let fleet = fields.needed::<String>("name").map(Fleet::named);
    let reserve = fields.get::<usize>("reserve");
    fleet.map(|fleet| reserve.map_or(fleet.clone(), |slots| fleet.reserve(slots)))
}

fn backoff(fields: &mut Fields<'_>) -> Backoff {
    type Jitter = fn(Duration, Duration) -> Backoff;
    let jitters: [(&str, Jitter); 4] = [
        ("equal", Backoff::equal_jitter),
        ("full", Backoff::full_jitter),
        ("decorrelated", Backoff::decorrelated_jitter),
        ("none", Backoff::without_jitter),
    ];
    let default = Backoff::default();
    let jitter = fields.one_of("jitter", &jitters).unwrap_or(Backoff::equal_jitter);
    let base = fields.get("base").unwrap_or(default.base());
    jitter(base, fields.get("cap").unwrap_or(default.cap()))
}

fn breaker(fields: &mut Fields<'_>) -> Breaker {
    let default = Breaker::default();
    let (count, within) = default.suspicion();
    let count = fields.get("suspected").unwrap_or(count);
    let within = fields.get("suspected_within").unwrap_or(within);
    let breaker = default.suspected(count, within);
    let breaker = fields.set(breaker, "max_clients", Breaker::max_clients);
    fields.set(breaker, "failures", Breaker::failures)
}

/// What is one value each.
fn plain(fields: &mut Fields<'_>, builder: GuardedPoolBuilder) -> GuardedPoolBuilder {
    type Setter<T> = (&'static str, fn(GuardedPoolBuilder, T) -> GuardedPoolBuilder);
    type B = GuardedPoolBuilder;
    let times: [Setter<Duration>; 9] = [
        ("acquire_timeout", B::acquire_timeout),
        ("connect_timeout", B::connect_timeout),
        ("response_timeout", B::response_timeout),
        ("link_timeout", B::link_timeout),
        ("leak_after", B::leak_after),
        ("revoke_after", B::revoke_after),
        ("idle_timeout", B::idle_timeout),
        ("max_lifetime", B::max_lifetime),
        ("drain_timeout", B::drain_timeout),
    ];
    let numbers: [Setter<usize>; 5] = [
        ("max_connections", B::max_connections),
        ("queue_limit", B::queue_limit),
        ("min_idle", B::min_idle),
        ("shared_lanes", B::shared_lanes),
        ("min_limit", B::min_limit),
    ];
    let switches: [Setter<bool>; 5] = [
        ("own_gate", B::own_gate),
        ("multiplex", B::multiplex),
        ("watch", B::watch),
        ("adaptive_limit", B::adaptive_limit),
        ("plain_handshake", B::plain_handshake),
    ];
    let texts: [Setter<String>; 2] = [("name", B::name), ("client_name", B::client_name)];
    let builder = times.into_iter().fold(builder, |b, (key, set)| fields.set(b, key, set));
    let builder = numbers.into_iter().fold(builder, |b, (key, set)| fields.set(b, key, set));
    let builder = switches.into_iter().fold(builder, |b, (key, set)| fields.set(b, key, set));
    let builder = texts.into_iter().fold(builder, |b, (key, set)| fields.set(b, key, set));
    let builder = fields.set(builder, "seed", B::seed);
    let roles = [
        ("master", Role::Master),
        ("replica", Role::Replica),
        ("active_replica", Role::ActiveReplica),
    ];
    fields.set_one_of(builder, "role", &roles, B::role)
}

/// Certificates, from files.
#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
fn tls(fields: &mut Fields<'_>, builder: GuardedPoolBuilder) -> GuardedPoolBuilder {
    type Setter = fn(GuardedPoolBuilder, redis::TlsCertificates) -> GuardedPoolBuilder;
    let setters: [(&str, Setter); 2] = [
        ("tls", GuardedPoolBuilder::tls_certificates),
        ("sentinel_tls", GuardedPoolBuilder::sentinel_tls_certificates),
    ];
    setters.into_iter().fold(builder, |builder, (key, set)| match fields.table(key, certificates) {
        Some(certificates) => set(builder, certificates),
        None => builder,
    })
}

#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
fn certificates(fields: &mut Fields<'_>) -> redis::TlsCertificates {
    let given = |fields: &Fields<'_>, key| fields.keys().contains(&key);
    let (has_certificate, has_key) =
        (given(fields, "client_certificate"), given(fields, "client_key"));
    if has_certificate != has_key {
        fields.mistake("client_certificate and client_key need each other");
    }
    let root_cert = fields.file("roots");
    let (certificate, key) = (fields.file("client_certificate"), fields.file("client_key"));
    let client_tls = certificate.zip(key);
    let client_tls = client_tls
        .map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
    redis::TlsCertificates { client_tls, root_cert }
}

#[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
fn tls(fields: &mut Fields<'_>, builder: GuardedPoolBuilder) -> GuardedPoolBuilder {
    for key in ["tls", "sentinel_tls"] {
        if fields.is_table(key) {
            fields.table(key, |_| ());
            fields.mistake(format!("{key} needs the feature tls-rustls or tls-native-tls"));
        }
    }
    builder
}
