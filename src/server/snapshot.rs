//! INFO, as any server of the family sends it, parsed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::ratio;
use crate::vocabulary::serialize::maybe_seconds;

/// No process has more sockets than this, as file descriptors are ints. What is above is a counter
/// that ran below zero: Dragonfly has sent `connected_clients:4294964742` (its issue 4693).
const MOST_SOCKETS: u64 = i32::MAX as u64;

/// The setting that is asked for beside INFO, and its line in the text that is parsed.
pub(crate) const RESERVED: &str = "maxclients-reserved";
/// Valkey reserves slots for clients from there, and none where it is empty.
pub(crate) const PRIORITY: &str = "priority-subnets";

/// The line of the slots that a server reserves, for the end of its INFO: from what CONFIG GET said of
/// [`RESERVED`] and of [`PRIORITY`], which KeyDB does not know.
pub(crate) fn reserved_line(reserved: Option<&str>, priority: Option<&str>) -> Option<String> {
    let reserved =
        if priority.is_some_and(|subnets| subnets.trim().is_empty()) { "0" } else { reserved? };
    Some(format!("\r\n{RESERVED}:{reserved}\r\n"))
}

/// What a server said of itself in one INFO.
///
/// Every field is `None` where the server did not send it, sent something that is no number, or
/// sent a number that cannot be. The field of INFO that it comes from is named with each.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServerSnapshot {
    /// Which of the servers that speak this protocol it is.
    pub product: Option<Product>,
    /// The product's version, in its own form (`df-v1.31.0`): `valkey_version`,
    /// `dragonfly_version` and so on, or `redis_version` where there is no other.
    pub version: Option<String>,
    /// The version of Redis it is, or says to be compatible with: `redis_version`.
    pub redis_version: Option<String>,
    /// A random name that lasts as long as the process: `run_id`.
    pub run_id: Option<String>,
    /// Seconds since the process started: `uptime_in_seconds`.
    pub uptime_seconds: Option<u64>,
    /// True while it loads its data set: `loading`.
    pub loading: Option<bool>,

    /// Client connections, without those of replicas: `connected_clients`. Zero is unknown, as
    /// whoever asked is a client; Garnet sends it while its metrics are switched off.
    pub connected_clients: Option<u64>,
    /// Connections of replicas, whatever their state: `connected_slaves`.
    pub connected_replicas: Option<u64>,
    /// An estimate of the sockets of the cluster bus, which take slots too: `cluster_connections`
    /// (Redis 6.2 and later).
    pub cluster_connections: Option<u64>,
    /// The ceiling of connections: `maxclients` (Redis 6.2 and later), or Dragonfly's
    /// `max_clients`. Zero is unknown.
    ///
    /// Valkey and KeyDB can [reserve](Self::reserved_slots) some of them: ordinary clients are then refused
    /// below it, at the [`ceiling`](Self::ceiling).
    pub maxclients: Option<u64>,
    /// Those of them that ordinary clients do not get, which INFO does not show: the setting
    /// `maxclients-reserved` of KeyDB (for clients on 127.0.0.1), and of Valkey from 9.2 on (for its
    /// `priority-subnets`, without which it reserves none). The pool and the doctor ask for it where INFO
    /// says that there may be one; where CONFIG is denied it is unknown.
    pub reserved_slots: Option<u64>,
    /// Those of `connected_clients` that wait in a blocking command: `blocked_clients`.
    pub blocked_clients: Option<u64>,
    /// Those that use client-side caching: `tracking_clients`.
    pub tracking_clients: Option<u64>,
    /// Those that are subscribed to something: `pubsub_clients` (Redis 7.4 and later).
    pub pubsub_clients: Option<u64>,
    /// Those that WATCH keys: `watching_clients` (Redis 7.4 and later).
    pub watching_clients: Option<u64>,
    /// Those from Valkey's `priority-subnets`, who may use reserved slots:
    /// `connected_priority_clients`.
    pub priority_clients: Option<u64>,
    /// Connections refused since the process started or its statistics were reset, most of them
    /// because of `maxclients`, those of protected mode among them: `rejected_connections`.
    pub rejected_connections: Option<u64>,
    /// Connections accepted since then, refused ones not among them:
    /// `total_connections_received`.
    pub total_connections_received: Option<u64>,
    /// Commands served since then: `total_commands_processed`. Of what the doctor and `redis-guard watch` have
    /// seen, their own are not among them.
    pub total_commands_processed: Option<u64>,
    /// Processor time that the process has used in the kernel, in seconds: `used_cpu_sys`.
    #[serde(rename = "cpu_system_seconds", serialize_with = "maybe_seconds")]
    pub cpu_system: Option<Duration>,
    /// The same outside of it: `used_cpu_user`.
    #[serde(rename = "cpu_user_seconds", serialize_with = "maybe_seconds")]
    pub cpu_user: Option<Duration>,

    /// Its part in replication: `role`.
    pub role: Option<Role>,
    /// On a replica, whether it is connected to its master: `master_link_status`.
    pub master_link_up: Option<bool>,
    /// On a replica, the seconds for which it has not been: `master_link_down_since_seconds`.
    pub master_link_down_seconds: Option<u64>,
    /// On a replica, whether it receives the whole data set now: `master_sync_in_progress`.
    pub master_sync_in_progress: Option<bool>,
    /// Bytes of the replication stream produced so far: `master_repl_offset`. Less a replica's
    /// [`offset`](Replica::offset), it is how far that one is behind.
    pub repl_offset: Option<u64>,
    /// Bytes that a replica may be behind and still come back without a full sync:
    /// `repl_backlog_size`.
    pub repl_backlog_bytes: Option<u64>,
    /// Its replicas, in its order: `slave0`, `slave1`, …. One that receives the whole data set can
    /// be there twice, with a second connection for that.
    pub replicas: Vec<Replica>,

    /// Bytes in use: `used_memory`.
    pub used_memory_bytes: Option<u64>,
    /// The most it may use, in bytes; zero is no limit: `maxmemory`.
    pub maxmemory_bytes: Option<u64>,
}

/// The servers that tell themselves apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Product {
    /// Redis, or one that does not say that it is another, as most managed services.
    Redis,
    /// Valkey.
    Valkey,
    /// KeyDB.
    KeyDb,
    /// Dragonfly.
    Dragonfly,
    /// Upstash.
    Upstash,
    /// Redis Enterprise and Redis Cloud.
    RedisEnterprise,
    /// Garnet.
    Garnet,
    /// Pika, also known as PikiwiDB.
    Pika,
    /// Apache Kvrocks.
    Kvrocks,
}

impl fmt::Display for Product {
    /// As its maker writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
            Self::KeyDb => "KeyDB",
            Self::Dragonfly => "Dragonfly",
            Self::Upstash => "Upstash",
            Self::RedisEnterprise => "Redis Enterprise",
            Self::Garnet => "Garnet",
            Self::Pika => "Pika",
            Self::Kvrocks => "Kvrocks",
        })
    }
}

/// A server's part in replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Takes writes; also one without replicas.
    Master,
    /// Follows a master.
    Replica,
    /// KeyDB's: follows, and takes writes.
    ActiveReplica,
}

/// A replica, as its master sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Replica {
    /// Its host: `ip`.
    pub host: Option<String>,
    /// Its port: `port`.
    pub port: Option<u16>,
    /// How far it has come, in the server's words: `state`. Pika sends none.
    pub state: Option<String>,
    /// Bytes of the replication stream it has acknowledged: `offset`.
    pub offset: Option<u64>,
    /// Seconds since its last acknowledgement (in Dragonfly, entries of its journal that the
    /// replica has yet to see): `lag`.
    pub lag: Option<u64>,
}

impl Replica {
    /// True where it follows the stream, rather than waiting for the data set or receiving it.
    /// One whose state is not told is taken to.
    #[must_use]
    pub fn is_online(&self) -> bool {
        // The second is Dragonfly's word.
        matches!(self.state.as_deref(), None | Some("online" | "stable_sync"))
    }

    fn parse(line: &str) -> Self {
        let mut replica = Self::default();
        for (field, value) in line.split(',').filter_map(|part| part.split_once('=')) {
            match field {
                "ip" => replica.host = text(value),
                "port" => replica.port = number(value),
                "state" => replica.state = text(value),
                "offset" => replica.offset = number(value),
                "lag" => replica.lag = number(value),
                _ => {}
            }
        }
        replica
    }
}

impl ServerSnapshot {
    /// Parses the reply to INFO, with whatever sections it has, or several such replies in a row
    /// (before Redis 7 an INFO takes one section at most).
    ///
    /// Never fails: what cannot be read is unknown. Where a field is there more than once the
    /// first that can be read counts, as what modules add comes last.
    #[must_use]
    pub fn parse(info: impl AsRef<[u8]>) -> Self {
        let mut snapshot = Self::default();
        for line in String::from_utf8_lossy(info.as_ref()).lines() {
            if let Some((field, value)) = line.split_once(':') {
                snapshot.read(field.trim(), value.trim());
            }
        }
        if let Some(version) = &snapshot.redis_version {
            snapshot.product.get_or_insert(Product::Redis);
            snapshot.version.get_or_insert_with(|| version.clone());
        }
        snapshot
    }

    fn read(&mut self, field: &str, value: &str) {
        match field {
            "redis_version" => first(&mut self.redis_version, text(value)),
            "valkey_version" => self.read_product(Product::Valkey, value),
            "dragonfly_version" => self.read_product(Product::Dragonfly, value),
            "upstash_version" => self.read_product(Product::Upstash, value),
            "rlec_version" => self.read_product(Product::RedisEnterprise, value),
            "garnet_version" => self.read_product(Product::Garnet, value),
            "pika_version" => self.read_product(Product::Pika, value),
            "kvrocks_version" => self.read_product(Product::Kvrocks, value),
            // KeyDB has no version field of its own, but fields that no other server has.
            "mvcc_depth" | "current_client_thread" => {
                first(&mut self.product, Some(Product::KeyDb))
            }
            "run_id" => first(&mut self.run_id, text(value)),
            "uptime_in_seconds" => first(&mut self.uptime_seconds, number(value)),
            "loading" => first(&mut self.loading, flag(value)),

            "connected_clients" => first(&mut self.connected_clients, some_sockets(value)),
            "connected_slaves" => first(&mut self.connected_replicas, sockets(value)),
            "cluster_connections" => first(&mut self.cluster_connections, sockets(value)),
            "maxclients" | "max_clients" => first(&mut self.maxclients, some_sockets(value)),
            // Not of INFO: a line of ours.
            RESERVED => first(&mut self.reserved_slots, sockets(value)),
            "blocked_clients" => first(&mut self.blocked_clients, sockets(value)),
            "tracking_clients" => first(&mut self.tracking_clients, sockets(value)),
            "pubsub_clients" => first(&mut self.pubsub_clients, sockets(value)),
            "watching_clients" => first(&mut self.watching_clients, sockets(value)),
            "connected_priority_clients" => first(&mut self.priority_clients, sockets(value)),
            "rejected_connections" => first(&mut self.rejected_connections, number(value)),
            "total_connections_received" => {
                first(&mut self.total_connections_received, number(value));
            }
            "total_commands_processed" => {
                first(&mut self.total_commands_processed, number(value));
            }
            "used_cpu_sys" => first(&mut self.cpu_system, time(value)),
            "used_cpu_user" => first(&mut self.cpu_user, time(value)),

            "role" => first(&mut self.role, role(value)),
            "master_link_status" => first(&mut self.master_link_up, link_status(value)),
            "master_link_down_since_seconds" => {
                first(&mut self.master_link_down_seconds, number(value));
            }
            "master_sync_in_progress" => first(&mut self.master_sync_in_progress, flag(value)),
            "master_repl_offset" => first(&mut self.repl_offset, number(value)),
            "repl_backlog_size" => first(&mut self.repl_backlog_bytes, number(value)),
            "used_memory" => first(&mut self.used_memory_bytes, number(value)),
            "maxmemory" => first(&mut self.maxmemory_bytes, number(value)),
            _ if is_replica(field) => self.replicas.push(Replica::parse(value)),
            _ => {}
        }
    }

    fn read_product(&mut self, product: Product, version: &str) {
        first(&mut self.product, Some(product));
        first(&mut self.version, text(version));
    }

    /// Slots taken, as the server counts them when it decides whether to refuse: `connected_clients
    /// + connected_slaves + cluster_connections`.
    ///
    /// (`connected_clients` leaves the replicas out, the check does not: with `maxclients 6` and one
    /// replica the sixth client is refused.) Unknown without `connected_clients`; a server that does
    /// not send one of the others has none of those.
    #[must_use]
    pub fn used(&self) -> Option<u64> {
        let links = self
            .connected_replicas
            .unwrap_or(0)
            .saturating_add(self.cluster_connections.unwrap_or(0));
        Some(self.connected_clients?.saturating_add(links))
    }

    /// What an ordinary client is refused at: `maxclients`, less the slots that are reserved and not yet in
    /// use by those they are reserved for. At least 1.
    #[must_use]
    pub fn ceiling(&self) -> Option<u64> {
        Some(self.maxclients?.saturating_sub(self.kept_slots()).max(1))
    }

    /// Slots that are reserved, and not in use by those they are reserved for.
    #[must_use]
    pub fn kept_slots(&self) -> u64 {
        self.reserved_slots.unwrap_or(0).saturating_sub(self.priority_clients.unwrap_or(0))
    }

    /// [`used`](Self::used) over the [`ceiling`](Self::ceiling): 1 is full, and it can be more where that
    /// was lowered.
    #[must_use]
    pub fn saturation(&self) -> Option<f64> {
        Some(ratio(self.used()?, self.ceiling()?))
    }

    /// Slots left for ordinary clients.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        Some(self.ceiling()?.saturating_sub(self.used()?))
    }

    /// True of a server that may reserve slots, as far as its INFO tells.
    pub(crate) fn may_reserve_slots(&self) -> bool {
        self.product == Some(Product::KeyDb) || self.priority_clients.is_some()
    }

    /// Replicas that follow the stream: all that are connected, less those that are listed in
    /// another state. (Some services count their replicas and do not list them.)
    #[must_use]
    pub fn replicas_online(&self) -> Option<u64> {
        let syncing = self.replicas.iter().filter(|replica| !replica.is_online());
        Some(syncing.fold(self.connected_replicas?, |online, _| online.saturating_sub(1)))
    }
}

fn first<T>(field: &mut Option<T>, value: Option<T>) {
    if field.is_none() {
        *field = value;
    }
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// Seconds, with a fraction.
fn time(value: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(value.parse().ok()?).ok()
}

fn number<N: FromStr>(value: &str) -> Option<N> {
    value.parse().ok()
}

fn sockets(value: &str) -> Option<u64> {
    number(value).filter(|count| *count <= MOST_SOCKETS)
}

/// For the counts that cannot be zero.
fn some_sockets(value: &str) -> Option<u64> {
    sockets(value).filter(|count| *count > 0)
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn link_status(value: &str) -> Option<bool> {
    match value {
        "up" => Some(true),
        "down" => Some(false),
        _ => None,
    }
}

fn role(value: &str) -> Option<Role> {
    match value {
        // `single` is Pika's word for a master without replicas, `replica` Dragonfly's.
        "master" | "single" => Some(Role::Master),
        "slave" | "replica" => Some(Role::Replica),
        "active-replica" => Some(Role::ActiveReplica),
        _ => None,
    }
}

/// `slave0`, `slave1`, …, but not `slave_priority`.
fn is_replica(field: &str) -> bool {
    field.strip_prefix("slave").is_some_and(|index| index.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests;
