//! What the report has of sentinels.

use serde::Serialize;

use super::{Look, Named, Peer, Set, Word};
use crate::server::Role;
use crate::vocabulary::words::{clean, host_and_port};

/// A master that a sentinel watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WatchedMaster {
    /// What the sentinels call it.
    pub name: String,
    /// Where it says that it is.
    pub host: String,
    /// With this port.
    pub port: u16,
}

impl WatchedMaster {
    /// Its address, as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        host_and_port(&clean(&self.host), self.port)
    }

    /// Of INFO; `None` where it is no sentinel's.
    pub(in crate::doctor) fn all(info: &str) -> Option<Vec<Self>> {
        let field =
            |line: &str| line.trim().split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned()));
        let fields = || info.lines().filter_map(field);
        // Valkey's is `server_mode`.
        let is_mode = |name: &str| matches!(name, "redis_mode" | "server_mode");
        fields().any(|(name, value)| is_mode(&name) && value == "sentinel").then_some(())?;
        let of = |(name, value): (String, String)| {
            name.strip_prefix("master")?.parse::<u32>().ok()?;
            let part = |name: &str| {
                value.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
            };
            let (host, port) = part("address")?.rsplit_once(':')?;
            let Named { host, port } = Named::new(host, port)?;
            Some(Self { name: part("name")?.to_owned(), host, port })
        };
        Some(fields().filter_map(of).collect())
    }

    pub(in crate::doctor) fn of(word: &Word) -> Vec<Self> {
        let of = |(name, Named { host, port }): &(String, Named)| Self {
            name: clean(name),
            host: clean(host),
            port: *port,
        };
        word.listed.iter().map(of).collect()
    }
}

/// What the sentinels say of a master, and what was found of its replicas.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SentinelReport {
    /// What the sentinels call it.
    pub master: String,
    /// The sentinel of the URL, which led here.
    pub named_by: String,
    /// How many sentinels have to agree that it is down.
    pub quorum: Option<u64>,
    /// The sentinels that are known, the one of the URL first.
    pub sentinels: Vec<SentinelSeen>,
    /// The replicas that the sentinel of the URL knows; `None` where it does not tell.
    pub replicas: Option<Vec<ReplicaSeen>>,
}

/// A sentinel, and its word on the master.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SentinelSeen {
    /// Its address, as the sentinel of the URL announces it.
    pub server: String,
    /// True where it let us in.
    pub connected: bool,
    /// Why not, or why it does not say where the master is.
    pub message: Option<String>,
    /// Where it says that the master is.
    pub master: Option<String>,
    /// What it thinks of the master: `s_down`, `o_down`, `failover_in_progress`.
    pub flags: Vec<String>,
    /// Whether it could have a failover authorised now.
    pub can_fail_over: Option<bool>,
    /// Its slots taken.
    pub used: Option<u64>,
    /// How many it has.
    pub maxclients: Option<u64>,
}

/// A replica of the master.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ReplicaSeen {
    /// Its address, as the sentinel of the URL announces it.
    pub server: String,
    /// What that sentinel thinks of it: `s_down`, `disconnected`.
    pub flags: Vec<String>,
    /// True where it let us in.
    pub connected: bool,
    /// Why not, or why it tells nothing.
    pub message: Option<String>,
    /// What it says it is.
    pub role: Option<Role>,
    /// Whether its link to the master is up, in its own words or else the sentinel's.
    pub master_link_up: Option<bool>,
    /// Zero: it is never made the master.
    pub priority: Option<u64>,
    /// Its slots taken.
    pub used: Option<u64>,
    /// How many it has.
    pub maxclients: Option<u64>,
}

impl SentinelReport {
    pub(in crate::doctor) fn of(set: &Set) -> Self {
        let replicas = set.replicas.as_ref().ok();
        Self {
            master: clean(&set.name),
            named_by: set.sentinels.first().map(|peer| peer.server.clone()).unwrap_or_default(),
            quorum: set.said().and_then(|said| said.field("quorum")),
            sentinels: set.sentinels.iter().map(SentinelSeen::of).collect(),
            replicas: replicas.map(|all| all.iter().map(ReplicaSeen::of).collect()),
        }
    }
}

impl SentinelSeen {
    fn of(peer: &Peer) -> Self {
        let word = peer.word.as_ref();
        let view = word.ok().map(|word| &word.view);
        let slots = word.ok().and_then(|word| word.slots.as_ref().ok()).copied();
        let slots = slots.unwrap_or_default();
        let flags = view.and_then(|view| view.said.as_ref().ok());
        let message = match word {
            Ok(word) => word.view.address.as_ref().err().map(ToString::to_string),
            Err(missed) => Some(clean(&missed.failure.message)),
        };
        Self {
            server: peer.server.clone(),
            connected: word.is_ok(),
            message,
            master: view
                .and_then(|view| view.address.as_ref().ok())
                .and_then(|address| address.as_ref().map(ToString::to_string)),
            flags: flags.map(|said| said.flags().map(clean).collect()).unwrap_or_default(),
            can_fail_over: view
                .and_then(|view| view.quorum.as_ref().ok())
                .map(|quorum| quorum.is_reached),
            used: slots.used,
            maxclients: slots.ceiling,
        }
    }
}

impl ReplicaSeen {
    fn of(look: &Look) -> Self {
        let snapshot = look.info().map(|info| &info.seen.snapshot);
        let message = match &look.info {
            Ok(Ok(_)) => None,
            Ok(Err(why)) => Some(why.to_string()),
            Err(missed) => Some(clean(&missed.failure.message)),
        };
        let flags = look.said.as_ref().map(|said| said.flags().map(clean).collect());
        Self {
            server: look.at.to_string(),
            flags: flags.unwrap_or_default(),
            connected: look.info.is_ok(),
            message,
            role: snapshot.and_then(|snapshot| snapshot.role),
            master_link_up: look.link_up(),
            priority: look.priority(),
            used: snapshot.and_then(|snapshot| snapshot.used()),
            maxclients: look.info().and_then(|info| info.seen.ceiling),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_masters_of_a_sentinel_are_read_from_its_info() {
        let info = "# Server\r\nredis_mode:sentinel\r\n# Sentinel\r\nsentinel_masters:3\r\n\
                    master0:name=mymaster,status=ok,address=127.0.0.1:17001,slaves=1,sentinels=3\r\n\
                    master1:name=six,status=sdown,address=fe80::1:6379,slaves=0,sentinels=1\r\n\
                    master2:name=broken,status=ok\r\nmaster_host:10.0.0.1\r\n";
        let masters = WatchedMaster::all(info).expect("a sentinel's");
        let masters: Vec<_> =
            masters.iter().map(|it| (it.name.as_str(), it.host.as_str(), it.port)).collect();
        assert_eq!(masters, [("mymaster", "127.0.0.1", 17001), ("six", "fe80::1", 6379)]);
    }

    #[test]
    fn any_other_server_is_no_sentinel() {
        assert_eq!(WatchedMaster::all("redis_mode:standalone\r\nmaster0:name=a"), None);
        assert_eq!(WatchedMaster::all(""), None);
        let none = WatchedMaster::all("server_mode:sentinel\n");
        assert_eq!(none.map(|masters| masters.len()), Some(0));
    }
}
