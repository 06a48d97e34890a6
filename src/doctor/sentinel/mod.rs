//! Sentinels: what they say of the masters that they watch, of the replicas, and of each other.

mod ask;
mod follow;
mod report;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use redis::{RedisResult, Value, from_redis_value};

use super::facts::{Answer, Info, NoAnswer};
use super::probe::text_of;
use crate::server::ServerSnapshot;
use crate::sizing::wide;
use crate::vocabulary::DialFailure;
use crate::vocabulary::words::{clean, host_and_port};

pub(super) use ask::ask;
pub(super) use follow::{Examined, follow};
pub use report::{ReplicaSeen, SentinelReport, SentinelSeen, WatchedMaster};

/// A server's address as a sentinel announces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Named {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Named {
    fn new(host: &str, port: &str) -> Option<Self> {
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (!host.is_empty()).then(|| Self { host: host.to_owned(), port })
    }

    /// True where whoever dials it dials its own machine.
    pub(super) fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_and_port(&clean(&self.host), self.port))
    }
}

/// What a sentinel knows of a master, of a replica, or of another sentinel: fields and their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Instance(HashMap<String, String>);

impl Instance {
    pub(super) fn parse(reply: Value) -> RedisResult<Self> {
        let fields: HashMap<Vec<u8>, Value> = from_redis_value(reply)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let fields = fields.into_iter().map(|(name, value)| Ok((text(name), text_of(value)?)));
        fields.collect::<RedisResult<_>>().map(Self)
    }

    pub(super) fn field<T: FromStr>(&self, name: &str) -> Option<T> {
        self.0.get(name)?.parse().ok()
    }

    pub(super) fn address(&self) -> Option<Named> {
        Named::new(self.0.get("ip")?, self.0.get("port")?)
    }

    pub(super) fn flags(&self) -> impl Iterator<Item = &str> {
        self.0.get("flags").map_or("", String::as_str).split(',').filter(|flag| !flag.is_empty())
    }

    pub(super) fn has(&self, flag: &str) -> bool {
        self.flags().any(|it| it == flag)
    }

    /// True where the sentinel does not reach it either.
    pub(super) fn is_down(&self) -> bool {
        ["s_down", "o_down", "disconnected"].iter().any(|flag| self.has(flag))
    }
}

/// All that the sentinel of a URL says.
pub(super) struct Word {
    /// Its own name among sentinels; before 6.2 it does not tell.
    pub(super) id: Option<String>,
    /// Those that it watches, by name.
    pub(super) listed: Vec<(String, Named)>,
    /// Of these, all or the one that was asked for.
    pub(super) masters: Vec<Master>,
    /// Why SENTINEL MASTERS was not answered. The masters are those of INFO then.
    pub(super) refused: Option<NoAnswer>,
    /// It does not know the master that was asked for.
    pub(super) missing: Option<String>,
    /// It has stood still, or its clock has jumped, and it acts on nothing it sees.
    pub(super) in_tilt: bool,
}

/// A master that the sentinel of a URL watches.
pub(super) struct Master {
    pub(super) name: String,
    /// Where SENTINEL MASTERS, or INFO, says that it is.
    pub(super) listed: Named,
    pub(super) view: View,
    pub(super) sentinels: Answer<Vec<Instance>>,
    pub(super) replicas: Answer<Vec<Instance>>,
}

/// What one sentinel says of one master.
#[derive(Clone)]
pub(super) struct View {
    /// What it tells clients; `Ok(None)`: it knows no such master.
    pub(super) address: Answer<Option<Named>>,
    pub(super) said: Answer<Instance>,
    pub(super) quorum: Answer<Quorum>,
}

/// Whether a failover could be authorised now, in a sentinel's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quorum {
    pub(super) is_reached: bool,
    pub(super) words: String,
}

impl Quorum {
    /// `OK 3 usable Sentinels.`, `NOQUORUM 1 usable Sentinels.`
    pub(super) fn usable(&self) -> Option<u64> {
        self.words.split(' ').nth(1)?.parse().ok()
    }
}

/// A sentinel's slots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slots {
    pub(super) used: Option<u64>,
    pub(super) ceiling: Option<u64>,
}

impl Slots {
    fn of(info: &Info) -> Self {
        Self { used: info.seen.snapshot.used(), ceiling: info.seen.ceiling }
    }

    pub(super) fn saturation(self) -> Option<f64> {
        let snapshot = ServerSnapshot {
            connected_clients: self.used,
            maxclients: self.ceiling,
            ..ServerSnapshot::default()
        };
        snapshot.saturation()
    }
}

/// A dial that did not lead to a connection.
#[derive(Clone, Debug)]
pub(super) struct Missed {
    pub(super) failure: DialFailure,
    /// The connect itself was answered.
    pub(super) connected: bool,
}

/// A sentinel that watches the master.
pub(super) struct Peer {
    pub(super) server: String,
    /// As the sentinel of the URL names it; `None` for that one itself.
    pub(super) named: Option<(Named, Instance)>,
    pub(super) word: Result<PeerWord, Missed>,
}

/// What a sentinel answered.
pub(super) struct PeerWord {
    pub(super) view: View,
    pub(super) slots: Answer<Slots>,
}

/// A server that is not examined in full: a replica, or what some other sentinel takes for the master.
pub(super) struct Look {
    pub(super) at: Named,
    /// As the sentinel of the URL names it, where it does.
    pub(super) said: Option<Instance>,
    pub(super) info: Result<Answer<Info>, Missed>,
}

impl Look {
    pub(super) fn info(&self) -> Option<&Info> {
        self.info.as_ref().ok()?.as_ref().ok()
    }

    /// In its own words, or else the sentinel's.
    pub(super) fn link_up(&self) -> Option<bool> {
        let own = self.info().and_then(|info| info.seen.snapshot.master_link_up);
        let said = self.said.as_ref().and_then(|said| said.field::<String>("master-link-status"));
        own.or(said.map(|status| status == "ok"))
    }

    /// Zero: it is never made the master.
    pub(super) fn priority(&self) -> Option<u64> {
        let own = self.info().and_then(|info| info.field("slave_priority"));
        own.or(self.said.as_ref().and_then(|said| said.field("slave-priority")))
    }
}

/// A master and all that belongs to it.
pub(super) struct Set {
    pub(super) name: String,
    /// Where it is.
    pub(super) at: Named,
    /// The sentinel of the URL first.
    pub(super) sentinels: Vec<Peer>,
    pub(super) replicas: Answer<Vec<Look>>,
    /// What other sentinels take for the master, and is neither it nor among the replicas.
    pub(super) others: Vec<Look>,
    /// The addresses of names, for two ways to say the same to be the same.
    pub(super) resolved: HashMap<Named, Named>,
    /// The sentinels of the URL are on this machine.
    pub(super) here: bool,
}

impl Set {
    /// What each sentinel that answered says, the one of the URL first.
    pub(super) fn views(&self) -> impl Iterator<Item = (&str, &View)> {
        self.sentinels
            .iter()
            .filter_map(|peer| Some((&*peer.server, &peer.word.as_ref().ok()?.view)))
    }

    /// What the sentinel of the URL knows of the master.
    pub(super) fn said(&self) -> Option<&Instance> {
        self.views().next().and_then(|(_, view)| view.said.as_ref().ok())
    }

    /// The sentinels that there are, as the one of the URL knows.
    pub(super) fn known(&self) -> u64 {
        let others = self.said().and_then(|said| said.field("num-other-sentinels"));
        let listed = wide(self.sentinels.len());
        others.map_or(listed, |others: u64| others.saturating_add(1)).max(listed)
    }

    pub(super) fn same(&self, one: &Named, other: &Named) -> bool {
        self.place(one) == self.place(other)
    }

    /// The address that a name stands for.
    pub(super) fn place<'a>(&'a self, named: &'a Named) -> &'a Named {
        self.resolved.get(named).unwrap_or(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(host: &str, port: u16) -> Named {
        Named { host: host.to_owned(), port }
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_instance_is_read_in_both_protocols() {
        let words = ["ip", "::1", "port", "6379", "flags", "slave,s_down", "slave-priority", "0"];
        let flat = Value::Array(words.map(bulk).to_vec());
        let pairs = words.chunks(2).map(|pair| (bulk(pair[0]), bulk(pair[1])));
        for reply in [flat, Value::Map(pairs.collect())] {
            let instance = Instance::parse(reply).expect("an instance");
            assert_eq!(instance.address(), Some(named("::1", 6379)));
            assert!(instance.is_down() && instance.has("slave") && !instance.has("down"));
            assert_eq!(instance.field("slave-priority"), Some(0_u8));
        }
    }

    #[test]
    fn what_is_no_instance_is_an_error_and_what_has_no_address_has_none() {
        for reply in [Value::Okay, Value::Int(3), Value::Array(vec![Value::Int(1)])] {
            assert!(Instance::parse(reply).is_err());
        }
        let without = |words: [&str; 4]| Instance::parse(Value::Array(words.map(bulk).to_vec()));
        for words in [["ip", "", "port", "1"], ["ip", "a", "port", "0"], ["ip", "a", "port", "x"]] {
            assert_eq!(without(words).expect("an instance").address(), None, "{words:?}");
        }
    }

    #[test]
    fn an_address_that_everybody_has_is_known() {
        for host in ["127.0.0.1", "127.3.2.1", "::1", "localhost"] {
            assert!(named(host, 1).is_loopback(), "{host}");
        }
        for host in ["10.0.0.1", "redis-1", "fe80::1", "128.0.0.1"] {
            assert!(!named(host, 1).is_loopback(), "{host}");
        }
    }

    #[test]
    fn the_number_of_usable_sentinels_is_read() {
        let usable = |words: &str| Quorum { is_reached: true, words: words.to_owned() }.usable();
        assert_eq!(usable("OK 3 usable Sentinels. Quorum and"), Some(3));
        assert_eq!(usable("NOQUORUM 1 usable Sentinels. Not"), Some(1));
        assert_eq!((usable("OK"), usable("")), (None, None));
    }
}
