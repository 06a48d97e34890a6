//! What one node says of another: a line of CLUSTER NODES. Pure.

use std::ops::RangeInclusive;

use redis::{Value, from_redis_value};

use crate::sentinel::Named;

/// What a node says of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::doctor) struct Said {
    pub(in crate::doctor) id: String,
    /// Empty: wherever the one that says so was dialed.
    pub(super) host: String,
    pub(super) port: String,
    flags: Vec<String>,
    /// Of a replica, its master's id.
    pub(in crate::doctor) master: Option<String>,
    pub(in crate::doctor) epoch: u64,
    /// It has a link to it.
    pub(in crate::doctor) is_linked: bool,
    pub(in crate::doctor) ranges: Vec<RangeInclusive<u16>>,
    /// Of itself: slots that are on their way.
    pub(in crate::doctor) open: Vec<OpenSlot>,
}

/// A slot that is being moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) struct OpenSlot {
    pub(in crate::doctor) slot: u16,
    pub(in crate::doctor) way: Way,
    /// The node at the other end.
    pub(in crate::doctor) other: String,
}

/// Out of the node that says so, or into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum Way {
    Migrating,
    Importing,
}

impl Said {
    /// `id host:port@bus,hostname flags master ping pong epoch link slots…`. `None` for what is none.
    pub(in crate::doctor) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (id, address, flags, master) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        let (epoch, link) = (words.nth(2)?, words.next()?);
        let address = address.split(['@', ',']).next()?;
        let (host, port) = address.rsplit_once(':')?;
        let mut said = Self {
            id: id.to_owned(),
            host: host.to_owned(),
            port: port.to_owned(),
            flags: flags.split(',').map(str::to_owned).collect(),
            master: (master != "-").then(|| master.to_owned()),
            epoch: epoch.parse().ok()?,
            is_linked: link == "connected",
            ranges: Vec::new(),
            open: Vec::new(),
        };
        for word in words {
            said.ranges.extend(range(word));
            said.open.extend(OpenSlot::parse(word));
        }
        Some(said)
    }

    /// Of CLUSTER SLOTS, for a server that denies CLUSTER NODES: masters with slots, and their replicas.
    pub(super) fn all_in(ranges: &[SlotRange]) -> Vec<Self> {
        let mut all = Vec::<Self>::new();
        for SlotRange { range, nodes } in ranges {
            let master = nodes.first().map(|node| node.id.clone());
            for (nth, endpoint) in nodes.iter().enumerate() {
                let at = all.iter().position(|said| said.id == endpoint.id);
                let at = at.unwrap_or_else(|| {
                    all.push(Self {
                        id: endpoint.id.clone(),
                        host: endpoint.host.clone(),
                        port: endpoint.port.clone(),
                        flags: vec![if nth == 0 { "master" } else { "slave" }.to_owned()],
                        master: master.clone().filter(|_| nth > 0),
                        is_linked: true,
                        ..Self::default()
                    });
                    all.len() - 1
                });
                if nth == 0 {
                    all[at].ranges.push(range.clone());
                }
            }
        }
        all
    }

    /// Where it is; `dialed`: where the one that says so was found.
    pub(super) fn at(&self, dialed: Option<&Named>) -> Option<Named> {
        let host = match self.host.as_str() {
            "" => dialed.map_or("127.0.0.1", |dialed| dialed.host.as_str()),
            host => host,
        };
        Named::new(host, &self.port).filter(|_| !self.has("noaddr") && !self.has("handshake"))
    }

    pub(in crate::doctor) fn flags(&self) -> impl Iterator<Item = &str> {
        self.flags.iter().map(String::as_str)
    }

    pub(in crate::doctor) fn has(&self, flag: &str) -> bool {
        self.flags().any(|it| it == flag)
    }

    pub(in crate::doctor) fn is_master(&self) -> bool {
        self.has("master")
    }

    /// The one that says so does not reach it, or nobody does.
    pub(in crate::doctor) fn is_down(&self) -> bool {
        ["fail", "fail?", "noaddr"].iter().any(|flag| self.has(flag))
    }

    /// How many slots it has.
    pub(in crate::doctor) fn slots(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }
}

impl OpenSlot {
    /// `[77->-id]` on its way there, `[77-<-id]` from there.
    fn parse(word: &str) -> Option<Self> {
        let word = word.strip_prefix('[')?.strip_suffix(']')?;
        let (way, (slot, other)) = match word.split_once("->-") {
            Some(parts) => (Way::Migrating, parts),
            None => (Way::Importing, word.split_once("-<-")?),
        };
        Some(Self { slot: slot.parse().ok()?, way, other: other.to_owned() })
    }
}

/// `5461-10922`, `7`.
fn range(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// An entry of CLUSTER SLOTS.
#[derive(Debug)]
pub(super) struct SlotRange {
    range: RangeInclusive<u16>,
    /// The master first.
    pub(super) nodes: Vec<Endpoint>,
}

/// Where clients are told to go.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) id: String,
    /// Empty: wherever the server that says so was dialed.
    pub(super) host: String,
    pub(super) port: String,
}

impl SlotRange {
    /// `[first, last, [host, port, id, …], …]`
    pub(super) fn parse(entry: Value) -> Option<Self> {
        let mut entry = from_redis_value::<Vec<Value>>(entry).ok()?.into_iter();
        let mut number = || from_redis_value::<u16>(entry.next()?).ok();
        let range = number()?..=number()?;
        Some(Self { range, nodes: entry.filter_map(Endpoint::parse).collect() })
    }
}

impl Endpoint {
    /// Before Redis 4 there is no id, and nothing to recognise a node by.
    fn parse(node: Value) -> Option<Self> {
        let mut node = from_redis_value::<Vec<Value>>(node).ok()?.into_iter();
        let host = from_redis_value::<Option<String>>(node.next()?).ok()?.unwrap_or_default();
        let port = from_redis_value::<u16>(node.next()?).ok()?.to_string();
        Some(Self { id: from_redis_value(node.next()?).ok()?, host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Said {
        Said::parse(line).expect("a node")
    }

    #[test]
    fn a_line_of_cluster_nodes_is_read_as_every_version_writes_it() {
        let old =
            parse("a 10.0.0.1:7000 myself,master - 0 0 3 connected 0-5460 7000 [5->-b] [9-<-c]");
        assert_eq!((old.host.as_str(), old.port.as_str(), old.epoch), ("10.0.0.1", "7000", 3));
        assert!(old.is_master() && old.is_linked && !old.is_down());
        assert_eq!(old.slots(), 5462);
        let open = |slot, way, other: &str| OpenSlot { slot, way, other: other.to_owned() };
        assert_eq!(old.open, [open(5, Way::Migrating, "b"), open(9, Way::Importing, "c")]);

        let new = parse("b ::1:7000@17000,node-1,shard-id=x slave,fail a 0 0 3 disconnected");
        assert_eq!((new.host.as_str(), new.master.as_deref()), ("::1", Some("a")));
        assert!(new.is_down() && !new.is_linked && !new.is_master());
    }

    #[test]
    fn an_empty_host_is_the_one_that_was_dialed_and_some_nodes_are_nowhere() {
        let dialed = Named::new("redis-1", "6379");
        let at = |line| parse(line).at(dialed.as_ref()).map(|at| at.to_string());
        assert_eq!(
            at("a :7000@17000 myself,master - 0 0 0 connected").as_deref(),
            Some("redis-1:7000")
        );
        assert_eq!(at("a :0@0 master,noaddr - 0 0 0 disconnected"), None);
        assert_eq!(at("a 10.0.0.1:1@2 handshake - 0 0 0 connected"), None);
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in ["", "a", "a b c - 0 0 0 connected", "a h:1 master - 0 0 x connected"] {
            assert_eq!(Said::parse(line), None, "{line:?}");
        }
        assert_eq!(parse("a h:1 master - 0 0 0 connected x 5-y [a->-b] [1-b] 9-3").slots(), 0);
    }

    #[test]
    fn the_nodes_are_read_from_cluster_slots_where_there_is_nothing_else() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node = |host: Value, id: &str| Value::Array(vec![host, Value::Int(7000), text(id)]);
        let entry = |first, last, nodes: Vec<Value>| {
            let range = vec![Value::Int(first), Value::Int(last)];
            Value::Array([range, nodes].concat())
        };
        let ranges: Vec<_> = [
            entry(0, 9, vec![node(text("h"), "a"), node(Value::Nil, "b")]),
            entry(20, 20, vec![node(text("h"), "a"), node(Value::Nil, "b")]),
            entry(10, 11, vec![]),
        ]
        .into_iter()
        .map(|entry| SlotRange::parse(entry).expect("an entry"))
        .collect();
        let all = Said::all_in(&ranges);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].id.as_str(), all[0].slots(), all[0].is_master()), ("a", 11, true));
        assert_eq!((all[1].host.as_str(), all[1].master.as_deref()), ("", Some("a")));
        assert!(SlotRange::parse(Value::Array(vec![Value::Int(1)])).is_none());
    }
}
