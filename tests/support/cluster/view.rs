//! Who has what, in the nodes' own words.

use super::super::server::{Admin, poll};
use super::{Cluster, SLOTS, WHOLE_LIMIT};

/// One line of `CLUSTER NODES`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    id: String,
    /// The id of the one that it follows, or a dash.
    master: String,
    slots: Vec<(u16, u16)>,
    is_well: bool,
}

/// The slot that the key is in.
pub(crate) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tag.map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag });
    crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes()) % SLOTS
}

impl Cluster {
    /// The number of the slot's master, once all nodes that run say the same.
    ///
    /// # Panics
    /// If they do not within a minute.
    #[track_caller]
    pub(crate) fn primary_of(&self, slot: u16) -> usize {
        self.agreed(|cluster| cluster.said_of(slot))
    }

    #[track_caller]
    pub(crate) fn primary_of_key(&self, key: &str) -> usize {
        self.primary_of(slot_of(key))
    }

    /// The slot's new master, once all nodes that run say that it is not `old`, and serve it.
    ///
    /// # Panics
    /// If they do not within a minute.
    #[track_caller]
    pub(crate) fn moved_from(&self, slot: u16, old: usize) -> usize {
        self.agreed(|cluster| {
            let serves = |&index: &usize| is_ok(cluster.nodes[index].admin());
            let new = cluster.said_of(slot).filter(|&new| new != old);
            new.filter(|_| cluster.running().iter().all(serves))
        })
    }

    /// The numbers of those that follow this node, also of those that do not run, in a view of a
    /// node that does.
    #[track_caller]
    pub(crate) fn replicas_of(&self, index: usize) -> Vec<usize> {
        let lines = self.view(self.running()[0]);
        let following = lines.iter().filter(|line| line.master == self.ids[index]);
        let mut numbers: Vec<_> = following.filter_map(|line| self.number(&line.id)).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The slots that this node has, in its own view.
    #[track_caller]
    pub(crate) fn slots_of(&self, index: usize) -> Vec<u16> {
        let lines = self.view(index);
        let own = lines.iter().find(|line| line.id == self.ids[index]);
        own.into_iter().flat_map(|line| &line.slots).flat_map(|(from, to)| *from..=*to).collect()
    }

    /// A key in this slot.
    pub(crate) fn key_in(&self, slot: u16) -> String {
        let mut keys = (0..).map(|number| format!("key:{number}"));
        keys.find(|key| slot_of(key) == slot).expect("there is no end of keys")
    }

    /// A key that this node serves.
    #[track_caller]
    pub(crate) fn key_on(&self, index: usize) -> String {
        self.keys_on(index, 1).remove(0)
    }

    /// So many keys that this node serves.
    #[track_caller]
    pub(crate) fn keys_on(&self, index: usize, count: usize) -> Vec<String> {
        let slots = self.slots_of(index);
        assert!(!slots.is_empty(), "node {index} has no slots: {}", self.views());
        let keys = (0..).map(|number| format!("key:{number}"));
        keys.filter(|key| slots.binary_search(&slot_of(key)).is_ok()).take(count).collect()
    }

    /// Returns when the members that run see each other well and agree on who has which slots and
    /// follows whom, when all of them serve, and the replicas are online.
    ///
    /// # Panics
    /// If that is not so within a minute.
    #[track_caller]
    pub(crate) fn until_whole(&self) {
        self.until("a whole cluster", || self.is_whole());
    }

    /// The members that run see each other well.
    pub(super) fn are_acquainted(&self) -> bool {
        self.common_view().is_some()
    }

    fn is_whole(&self) -> bool {
        let Some(lines) = self.common_view() else { return false };
        let admin = |id: &str| self.number(id).map(|index| self.nodes[index].admin());
        let serve = lines.iter().all(|line| admin(&line.id).is_some_and(is_ok));
        serve
            && lines.iter().all(|line| {
                let follow = |other: &&Line| other.master == line.id;
                let replicas = lines.iter().filter(follow).count();
                let Some(replication) = admin(&line.id).map(|it| info(it, "replication")) else {
                    return false;
                };
                replication.matches("state=online").count() == replicas
                    && (line.master == "-" || replication.contains("master_link_status:up"))
            })
    }

    /// What the members that run say of each other, if it is the same and well.
    fn common_view(&self) -> Option<Vec<Line>> {
        let running = self.running();
        let mut ids: Vec<&String> = running.iter().map(|&index| &self.ids[index]).collect();
        ids.sort_unstable();
        let mut views = running.iter().map(|&index| {
            let mut lines = self.view(index);
            lines.retain(|line| ids.contains(&&line.id));
            lines.sort_unstable();
            lines
        });
        let first = views.next()?;
        let all_well = first.iter().map(|line| &line.id).eq(ids.iter().copied())
            && first.iter().all(|l| l.is_well);
        (all_well && views.all(|view| view == first)).then_some(first)
    }

    /// What all that run say of the slot, if it is the same.
    fn said_of(&self, slot: u16) -> Option<usize> {
        let mut words = self.running().into_iter().map(|index| {
            let has =
                |line: &Line| line.slots.iter().any(|(from, to)| (from..=to).contains(&&slot));
            self.number(&self.view(index).into_iter().find(has)?.id)
        });
        let first = words.next()??;
        words.all(|word| word == Some(first)).then_some(first)
    }

    fn agreed<T>(&self, word: impl Fn(&Self) -> Option<T>) -> T {
        let agreed = poll(WHOLE_LIMIT, || word(self));
        agreed.unwrap_or_else(|| panic!("the nodes do not agree: {}", self.views()))
    }

    pub(super) fn number(&self, id: &str) -> Option<usize> {
        self.ids.iter().position(|known| known == id)
    }

    /// Empty while the node is away.
    fn view(&self, index: usize) -> Vec<Line> {
        let reply = self.nodes[index].admin().command(&["CLUSTER", "NODES"]);
        reply.map_or_else(|_| Vec::new(), |reply| reply.text().lines().filter_map(line).collect())
    }

    /// For the message of a test that has failed.
    pub(super) fn views(&self) -> String {
        let view = |&index: &usize| {
            let nodes = self.nodes[index].admin().command(&["CLUSTER", "NODES"]);
            let nodes = nodes.map_or_else(|error| error.to_string(), |reply| reply.text());
            format!("\nnode {index}:\n{nodes}{}", self.nodes[index].log())
        };
        self.running().iter().map(view).collect()
    }
}

/// `id address flags master ping pong epoch link slots…`; a slot on its way stands in brackets.
fn line(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split(' ').collect();
    let [id, _, flags, master, _, _, _, link, slots @ ..] = &words[..] else { return None };
    let ranges = slots.iter().filter(|word| !word.starts_with('[')).filter_map(|word| {
        let (from, to) = word.split_once('-').unwrap_or((word, word));
        Some((from.parse().ok()?, to.parse().ok()?))
    });
    let ill = ["fail", "handshake", "noaddr"];
    Some(Line {
        id: (*id).to_owned(),
        master: (*master).to_owned(),
        slots: ranges.collect(),
        is_well: *link == "connected" && !ill.iter().any(|flag| flags.contains(flag)),
    })
}

fn is_ok(node: &Admin) -> bool {
    let info = node.command(&["CLUSTER", "INFO"]);
    info.is_ok_and(|reply| reply.text().contains("cluster_state:ok"))
}

fn info(node: &Admin, section: &str) -> String {
    node.command(&["INFO", section]).map_or_else(|_| String::new(), |reply| reply.text())
}
