//! Clusters: what the nodes say of each other, and what was found at each.

mod ask;
mod follow;
mod report;
mod said;

use std::collections::HashMap;

use super::facts::{Answer, Info, Missed, NoAnswer};
use super::holders::Holders;
use crate::sentinel::Named;

pub(super) use ask::{ask, is_node};
pub(super) use follow::{Group, MOST, follow};
pub use report::{ClusterNode, ClusterReport};
pub(super) use said::{Said, Way};

/// How many hash slots a cluster has.
pub(super) const SLOTS: usize = 16_384;

/// The largest sources of a node that are held against those of the others.
const SOURCES: usize = 200;

/// What a node says of its cluster.
pub(super) struct Word {
    pub(super) nodes: Answer<Vec<Said>>,
    /// The fields of CLUSTER INFO.
    pub(super) info: Answer<HashMap<String, String>>,
}

impl Word {
    /// What it says of itself.
    pub(super) fn own(&self) -> Option<&Said> {
        self.nodes.iter().flatten().find(|said| said.has("myself"))
    }

    /// `ok`, `fail`.
    pub(super) fn state(&self) -> Option<&str> {
        self.info.as_ref().ok()?.get("cluster_state").map(String::as_str)
    }
}

/// A cluster, seen from the node of a URL.
pub(super) struct Cluster {
    /// Those that node knows, itself first.
    pub(super) nodes: Vec<Node>,
    /// Why it tells of none.
    pub(super) refused: Option<NoAnswer>,
    /// The node of the URL is on this machine.
    pub(super) here: bool,
}

/// One node.
pub(super) struct Node {
    /// In the words of the URL's node.
    pub(super) said: Said,
    /// Where that announces it; `None` where nothing can be dialed.
    pub(super) at: Option<Named>,
    /// Where it was examined, or would be.
    pub(super) server: String,
    /// `None` where it was not looked at.
    pub(super) seen: Option<Result<Seen, Missed>>,
    /// Of a node of a URL: who answers at the address that is announced, where that is another.
    pub(super) announced: Option<Result<Option<String>, Missed>>,
}

/// What a node told itself.
#[derive(Default)]
pub(super) struct Seen {
    /// `None`: it says that it is in no cluster.
    pub(super) word: Option<Word>,
    pub(super) used: Option<u64>,
    pub(super) ceiling: Option<u64>,
    pub(super) links: Option<u64>,
    pub(super) replicas_online: Option<u64>,
    /// Of a replica, in its own words; neither up nor down while it receives the whole data set.
    pub(super) master_link_up: Option<bool>,
    /// Its largest sources, and what each holds.
    pub(super) sources: Vec<(String, usize)>,
}

impl Seen {
    fn of(word: Option<Word>, info: Option<&Info>, holders: Option<&Holders>) -> Self {
        let mut seen = Self { word, ..Self::default() };
        if let Some(info) = info {
            let snapshot = &info.seen.snapshot;
            seen.used = snapshot.used();
            seen.ceiling = info.seen.ceiling;
            seen.links = snapshot.cluster_connections;
            seen.replicas_online = snapshot.replicas_online();
            let syncing = snapshot.master_sync_in_progress == Some(true);
            seen.master_link_up = snapshot.master_link_up.filter(|_| !syncing);
        }
        let sources = holders.iter().flat_map(|holders| &holders.all_sources).take(SOURCES);
        seen.sources = sources.map(|source| (source.key.clone(), source.connections)).collect();
        seen
    }

    /// The part of its slots that is taken.
    pub(super) fn saturation(&self) -> Option<f64> {
        Some(crate::server::ratio(self.used?, self.ceiling?))
    }
}

impl Node {
    /// It answered.
    pub(super) fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()?.as_ref().ok()
    }

    pub(super) fn word(&self) -> Option<&Word> {
        self.seen()?.word.as_ref()
    }

    /// Has slots of its own.
    pub(super) fn is_serving(&self) -> bool {
        self.said.is_master() && self.said.slots() > 0
    }
}

impl Cluster {
    pub(super) fn by_id(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.said.id == id)
    }

    /// What it is called, for people: its address where it has one.
    pub(super) fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.by_id(id).map_or(id, |node| node.server.as_str())
    }

    pub(super) fn replicas_of<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(|it| it.said.master.as_ref() == Some(&node.said.id))
    }
}
