//! Slots that go from one node to another.

use super::Cluster;

const MIGRATE_TIMEOUT_MS: &str = "60000";
const BATCH: usize = 100;

/// A slot on its way. Its old node answers for the keys it still has and says `ASK` for all others.
#[derive(Debug)]
#[must_use = "a slot stays on its way until it is told to be there"]
pub(crate) struct Move<'a> {
    cluster: &'a Cluster,
    slot: u16,
    from: usize,
    to: usize,
}

impl Cluster {
    /// Opens the slot's way from its master to another.
    #[track_caller]
    pub(crate) fn begin_move(&self, slot: u16, to: usize) -> Move<'_> {
        let from = self.primary_of(slot);
        assert!(from != to, "node {to} has slot {slot} already");
        let number = slot.to_string();
        self.ask(to, &["CLUSTER", "SETSLOT", &number, "IMPORTING", &self.ids[from]]);
        self.ask(from, &["CLUSTER", "SETSLOT", &number, "MIGRATING", &self.ids[to]]);
        Move { cluster: self, slot, from, to }
    }

    /// Moves the slot with all its keys.
    #[track_caller]
    pub(crate) fn move_slot(&self, slot: u16, to: usize) {
        let moving = self.begin_move(slot, to);
        moving.move_all_keys();
        moving.finish();
    }

    /// The same with each of these that the node does not have.
    #[track_caller]
    pub(crate) fn give_slots(&self, slots: impl IntoIterator<Item = u16>, to: usize) {
        let has = self.slots_of(to);
        for slot in slots.into_iter().filter(|slot| has.binary_search(slot).is_err()) {
            self.move_slot(slot, to);
        }
    }
}

impl Move<'_> {
    /// Moves so many of the slot's keys, or all that there are. Returns how many.
    #[track_caller]
    pub(crate) fn move_keys(&self, count: usize) -> usize {
        let Self { cluster, slot, from, to } = *self;
        let question = ["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &count.to_string()];
        let list = cluster.ask(from, &question);
        let keys: Vec<&str> = list.lines().collect();
        if keys.is_empty() {
            return 0;
        }
        let target = cluster.node(to);
        let port = target.port().to_string();
        let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", MIGRATE_TIMEOUT_MS];
        command.extend(target.password().into_iter().flat_map(|password| ["AUTH", password]));
        command.push("KEYS");
        command.extend(&keys);
        cluster.ask(from, &command);
        keys.len()
    }

    #[track_caller]
    pub(crate) fn move_all_keys(&self) {
        while self.move_keys(BATCH) > 0 {}
    }

    /// The slot has arrived; all masters hear of it.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.give_to(self.to);
    }

    /// The slot stays where it was: the keys that have moved already must be moved back before.
    #[track_caller]
    pub(crate) fn cancel(self) {
        self.give_to(self.from);
    }

    fn give_to(&self, owner: usize) {
        let Self { cluster, slot, from, to } = *self;
        let (number, id) = (slot.to_string(), &cluster.ids[owner]);
        let others = cluster.running().into_iter().filter(|index| ![from, to].contains(index));
        for index in [to, from].into_iter().chain(others.filter(|&index| cluster.is_master(index)))
        {
            cluster.ask(index, &["CLUSTER", "SETSLOT", &number, "NODE", id]);
        }
    }
}
