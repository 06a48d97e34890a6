//! Sentinels: what they say of the masters that they watch, of the replicas, and of each other.

mod ask;
mod follow;
mod report;

use std::collections::HashMap;
use std::net::IpAddr;

use super::facts::{Answer, Info, Missed, NoAnswer};
use crate::sentinel::{Instance, Named};
use crate::server::ServerSnapshot;
use crate::sizing::wide;

pub(super) use ask::ask;
pub(super) use follow::follow;
pub use report::{ReplicaSeen, SentinelReport, SentinelSeen, WatchedMaster};

/// True where whoever dials it dials its own machine.
pub(super) fn is_loopback(named: &Named) -> bool {
    match named.host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => named.host.eq_ignore_ascii_case("localhost"),
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
        own.or_else(|| self.said.as_ref()?.link_up())
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

    #[test]
    fn an_address_that_everybody_has_is_known() {
        for host in ["127.0.0.1", "127.3.2.1", "::1", "localhost"] {
            assert!(is_loopback(&named(host, 1)), "{host}");
        }
        for host in ["10.0.0.1", "redis-1", "fe80::1", "128.0.0.1"] {
            assert!(!is_loopback(&named(host, 1)), "{host}");
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
