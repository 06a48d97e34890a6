//! Who is what: one server, a master with replicas and sentinels, or a cluster.

use fastrand::Rng;

use crate::vocabulary::routing::SLOTS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Sentinel,
    Cluster,
}

/// Slots move in ranges of this many.
const RANGE: u16 = SLOTS / RANGES;
pub(super) const RANGES: u16 = 16;

/// Data hosts of a set that has sentinels, and its sentinels.
const DATA: usize = 3;
const SENTINELS: usize = 3;

/// Of a cluster: its hosts, and how many of them are primaries at first.
const NODES: usize = 5;
const PRIMARIES: usize = 3;

#[derive(Debug)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    /// Of the data hosts, by host: the host that it follows, if it is a replica.
    pub(super) follows: Vec<Option<usize>>,
    /// Whom the sentinels name, which may not be so yet.
    pub(super) named: usize,
    /// By range of slots: who serves them.
    owners: Vec<usize>,
    /// A range on its way to another host.
    pub(super) moving: Option<(u16, usize)>,
    /// Counts the changes.
    pub(super) epoch: u64,
}

impl Shape {
    pub(super) fn new(kind: Kind) -> Self {
        let data = match kind {
            Kind::Single => 1,
            Kind::Sentinel => DATA,
            Kind::Cluster => NODES,
        };
        let follows = |host| match kind {
            Kind::Single => None,
            Kind::Sentinel => (host > 0).then_some(0),
            Kind::Cluster => (host >= PRIMARIES).then(|| host - PRIMARIES),
        };
        let follows = (0..data).map(follows).collect();
        let owners = (0..usize::from(RANGES)).map(|range| range % PRIMARIES).collect();
        Self { kind, follows, named: 0, owners, moving: None, epoch: 1 }
    }

    /// How many hosts there are, sentinels included.
    pub(super) fn hosts(&self) -> usize {
        self.data() + if self.kind == Kind::Sentinel { SENTINELS } else { 0 }
    }

    /// How many of them, the first ones, have data.
    pub(super) fn data(&self) -> usize {
        self.follows.len()
    }

    pub(super) fn is_sentinel(&self, host: usize) -> bool {
        host >= self.data()
    }

    pub(super) fn is_replica(&self, host: usize) -> bool {
        self.follows.get(host).copied().flatten().is_some()
    }

    pub(super) fn primaries(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.data()).filter(|host| !self.is_replica(*host))
    }

    pub(super) fn replicas_of(&self, primary: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.data()).filter(move |host| self.follows[*host] == Some(primary))
    }

    pub(super) fn owner(&self, slot: u16) -> usize {
        self.owners[usize::from(slot / RANGE)]
    }

    /// Where a slot is going, if it is.
    pub(super) fn target(&self, slot: u16) -> Option<usize> {
        self.moving.filter(|(range, _)| *range == slot / RANGE).map(|(_, to)| to)
    }

    /// The first and the last slot of each range, and who serves it.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u16, u16, usize)> + '_ {
        (0..RANGES).map(|range| {
            let first = range * RANGE;
            (first, first + (RANGE - 1), self.owners[usize::from(range)])
        })
    }

    /// A range begins to move, or has moved, if one was on its way.
    pub(super) fn move_slots(&mut self, rng: &mut Rng) -> String {
        if let Some((range, to)) = self.moving.take() {
            self.owners[usize::from(range)] = to;
            self.epoch += 1;
            return format!("range {range} is at h{to}");
        }
        let range = rng.u16(..RANGES);
        let from = self.owners[usize::from(range)];
        let others: Vec<usize> = self.primaries().filter(|host| *host != from).collect();
        let Some(to) = rng.choice(others) else { return "nowhere to move to".to_owned() };
        self.moving = Some((range, to));
        format!("range {range} goes from h{from} to h{to}")
    }

    /// A replica takes its primary's place.
    pub(super) fn fail_over(&mut self, rng: &mut Rng) -> Option<(usize, usize)> {
        let replicas: Vec<usize> = (0..self.data()).filter(|host| self.is_replica(*host)).collect();
        let new = rng.choice(replicas)?;
        let old = self.follows[new]?;
        for follows in &mut self.follows {
            if *follows == Some(old) {
                *follows = Some(new);
            }
        }
        (self.follows[new], self.follows[old]) = (None, Some(new));
        for owner in &mut self.owners {
            if *owner == old {
                *owner = new;
            }
        }
        if let Some((_, to)) = &mut self.moving
            && *to == old
        {
            *to = new;
        }
        self.epoch += 1;
        Some((old, new))
    }
}
