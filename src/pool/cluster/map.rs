//! Which node serves which slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::Value;

use crate::pool::node::Node;
use crate::server::Role;
use crate::vocabulary::routing::SLOTS;

/// The nodes of a cluster and their slots, as one of them told.
#[derive(Debug)]
pub(in crate::pool) struct Map {
    /// By slot: which shard, counted from 1; 0 for one that nobody serves.
    slots: Box<[u16]>,
    shards: Vec<Arc<Shard>>,
    /// A part of it is known from a redirection only, so that all that follows from it is still to be done.
    is_patched: bool,
}

/// What a node is in its cluster.
pub(in crate::pool) struct Part {
    pub(in crate::pool) node: Arc<Node>,
    pub(in crate::pool) role: Role,
    /// How many slots it serves.
    pub(in crate::pool) slots: usize,
    /// The primary that it follows.
    pub(in crate::pool) replica_of: Option<Arc<str>>,
}

/// A primary with its replicas.
#[derive(Debug)]
pub(in crate::pool) struct Shard {
    pub(super) primary: Arc<Node>,
    pub(super) replicas: Vec<Arc<Node>>,
    /// Whose turn it is among the replicas.
    turn: AtomicUsize,
}

impl Shard {
    pub(super) fn new(primary: Arc<Node>, mut replicas: Vec<Arc<Node>>) -> Self {
        // Each node tells of them in an order of its own.
        replicas.sort_by_cached_key(|replica| replica.address());
        Self { primary, replicas, turn: AtomicUsize::new(0) }
    }

    /// The next replica that `is_fit`.
    pub(super) fn replica(&self, is_fit: impl Fn(&Node) -> bool) -> Option<&Arc<Node>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let all =
            (0..self.replicas.len()).map(|at| &self.replicas[(turn + at) % self.replicas.len()]);
        all.into_iter().find(|replica| is_fit(replica))
    }
}

impl Map {
    pub(super) fn empty() -> Self {
        let slots = vec![0; usize::from(SLOTS)].into();
        Self { slots, shards: Vec::new(), is_patched: false }
    }

    /// Of shards and the ranges of slots that each serves.
    pub(super) fn new(shards: Vec<(Shard, Vec<(u16, u16)>)>) -> Self {
        let mut map = Self::empty();
        for (number, (shard, ranges)) in (1..).zip(shards) {
            for (first, last) in ranges {
                map.slots[usize::from(first)..=usize::from(last)].fill(number);
            }
            map.shards.push(Arc::new(shard));
        }
        map
    }

    /// The same, but that this slot is served by that node.
    pub(super) fn with(&self, slot: u16, node: &Arc<Node>) -> Self {
        let shard = self.shards.iter().position(|shard| Arc::ptr_eq(&shard.primary, node));
        let (slots, shards) = (self.slots.clone(), self.shards.clone());
        let mut map = Self { slots, shards, is_patched: true };
        if shard.is_none() {
            // Its replicas are told of later.
            map.shards.push(Arc::new(Shard::new(Arc::clone(node), Vec::new())));
        }
        let number = shard.unwrap_or(self.shards.len()) + 1;
        if let (Some(slot), Ok(number)) = (map.slots.get_mut(usize::from(slot)), number.try_into())
        {
            *slot = number;
        }
        map
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    pub(super) fn shard(&self, slot: u16) -> Option<&Shard> {
        let number = self.slots.get(usize::from(slot))?;
        self.shards.get(usize::from(*number).checked_sub(1)?).map(Arc::as_ref)
    }

    pub(super) fn primaries(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.shards.iter().map(|shard| &shard.primary)
    }

    /// Primaries first.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.primaries().chain(self.shards.iter().flat_map(|shard| &shard.replicas))
    }

    /// What each of them is.
    pub(super) fn roles(&self) -> Vec<Part> {
        let mut roles = Vec::new();
        for (at, shard) in self.shards.iter().enumerate() {
            let Shard { primary, replicas, .. } = &**shard;
            let (node, slots) = (Arc::clone(primary), self.slots_of(at));
            roles.push(Part { node, role: Role::Master, slots, replica_of: None });
            roles.extend(replicas.iter().map(|node| Part {
                node: Arc::clone(node),
                role: Role::Replica,
                slots: 0,
                replica_of: Some(primary.address()),
            }));
        }
        roles
    }

    fn slots_of(&self, shard: usize) -> usize {
        self.slots.iter().filter(|number| usize::from(**number) == shard + 1).count()
    }

    /// How many nodes serve slots.
    pub(super) fn serving(&self) -> usize {
        let mut serves = vec![false; self.shards.len() + 1];
        self.slots.iter().for_each(|number| serves[usize::from(*number)] = true);
        serves.iter().skip(1).filter(|serves| **serves).count()
    }

    pub(super) fn lacks_replicas(&self) -> bool {
        self.shards.iter().any(|shard| shard.replicas.is_empty())
    }

    pub(super) fn unserved(&self) -> usize {
        self.slots.iter().filter(|number| **number == 0).count()
    }

    /// Whether the same nodes serve the same slots, and were told of in the same way.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let same = |(ours, theirs): (&Arc<Node>, &Arc<Node>)| Arc::ptr_eq(ours, theirs);
        let alike = |(ours, theirs): (&Arc<Shard>, &Arc<Shard>)| {
            same((&ours.primary, &theirs.primary))
                && ours.replicas.len() == theirs.replicas.len()
                && ours.replicas.iter().zip(&theirs.replicas).all(same)
        };
        self.is_patched == other.is_patched
            && self.slots == other.slots
            && self.shards.len() == other.shards.len()
            && self.shards.iter().zip(&other.shards).all(alike)
    }

    /// Whether a primary serves the slot.
    pub(super) fn serves(&self, slot: u16, node: &Arc<Node>) -> bool {
        self.shard(slot).is_some_and(|shard| Arc::ptr_eq(&shard.primary, node))
    }
}

/// A range of slots, and who serves it: the primary first, then its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) nodes: Vec<Named>,
}

/// A node, as the cluster announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// `None`: at the host where it was asked.
    pub(super) host: Option<String>,
    pub(super) port: u16,
    pub(super) id: String,
}

/// What CLUSTER SLOTS says, or what is wrong with it.
pub(super) fn parse(reply: Value) -> Result<Vec<Range>, &'static str> {
    let Value::Array(ranges) = reply else { return Err("its CLUSTER SLOTS is no list") };
    ranges.into_iter().map(range).collect::<Option<_>>().ok_or("its CLUSTER SLOTS cannot be read")
}

fn range(entry: Value) -> Option<Range> {
    let Value::Array(fields) = entry else { return None };
    let mut fields = fields.into_iter();
    let mut number = || match fields.next()? {
        Value::Int(slot) => u16::try_from(slot).ok().filter(|slot| *slot < SLOTS),
        _ => None,
    };
    let (first, last) = (number()?, number()?);
    // A replica that cannot be reached, or has no port for how we speak, is left out.
    let nodes: Vec<_> = fields.map(named).collect::<Option<Vec<_>>>()?;
    (first <= last && !nodes.is_empty()).then_some(Range { first, last, nodes })
}

fn named(entry: Value) -> Option<Named> {
    let Value::Array(fields) = entry else { return None };
    let mut fields = fields.into_iter();
    let host = match fields.next()? {
        Value::Nil => None,
        host => text(host)?,
    };
    let port = match fields.next()? {
        Value::Int(port) => u16::try_from(port).ok()?,
        _ => return None,
    };
    let id = fields.next().and_then(|id| text(id)?).unwrap_or_default();
    let host = match host {
        // A host name is announced, and it has none: its address stands among the rest.
        Some(host) if host == "?" => fields.next().and_then(address).or(Some(host)),
        host => host,
    };
    Some(Named { host, port, id })
}

/// `Some(None)` for an empty one.
fn text(value: Value) -> Option<Option<String>> {
    let text = match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    Some(Some(text).filter(|text| !text.is_empty()))
}

/// The value of `ip` among names and values.
fn address(rest: Value) -> Option<String> {
    let pairs: Vec<(Value, Value)> = match rest {
        Value::Map(pairs) => pairs,
        Value::Array(values) => {
            let mut values = values.into_iter();
            std::iter::from_fn(|| Some((values.next()?, values.next()?))).collect()
        }
        _ => return None,
    };
    pairs.into_iter().find_map(|(name, value)| (text(name)?? == "ip").then(|| text(value))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn node(host: Value, rest: Vec<Value>) -> Value {
        let mut fields = vec![host, Value::Int(7000), bulk("id")];
        fields.extend(rest);
        Value::Array(fields)
    }

    fn host(host: Value, rest: Vec<Value>) -> Option<String> {
        let entry = Value::Array(vec![Value::Int(0), Value::Int(9), node(host, rest)]);
        parse(Value::Array(vec![entry])).unwrap()[0].nodes[0].host.clone()
    }

    #[test]
    fn a_node_without_a_host_is_where_it_was_asked() {
        assert_eq!(host(bulk("10.0.0.1"), vec![]).as_deref(), Some("10.0.0.1"));
        assert_eq!(host(Value::Nil, vec![]), None);
        assert_eq!(host(bulk(""), vec![]), None);
    }

    #[test]
    fn a_node_without_the_host_name_that_is_preferred_has_an_address() {
        let rest = Value::Array(vec![bulk("ip"), bulk("10.0.0.2")]);
        assert_eq!(host(bulk("?"), vec![rest]).as_deref(), Some("10.0.0.2"));
        let rest = Value::Map(vec![(bulk("ip"), bulk("::1"))]);
        assert_eq!(host(bulk("?"), vec![rest]).as_deref(), Some("::1"));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let entry = |first, last| {
            Value::Array(vec![Value::Int(first), Value::Int(last), node(bulk("a"), vec![])])
        };
        for reply in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![entry(5, 4)]),
            Value::Array(vec![entry(0, 16_384)]),
            Value::Array(vec![entry(-1, 3)]),
            Value::Array(vec![Value::Array(vec![Value::Int(0), Value::Int(1)])]),
        ] {
            assert!(parse(reply.clone()).is_err(), "{reply:?}");
        }
        assert_eq!(parse(Value::Array(vec![])), Ok(vec![]));
    }
}
