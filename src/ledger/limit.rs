//! The limit: how many sockets may be open, who says so, and what we have too much of.

use super::Ledger;
use crate::policy::{FLOOR, Load};

/// How many sockets may be open now: the least of what the pool may ever have, what it is allowed, and
/// what it had when the server refused one more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) max_connections: usize,
    /// What the watch or the fleet allows us; `None` while nobody says.
    share: Option<usize>,
    /// How many were live when the server refused one more; `None` while it has not.
    pub(super) frozen: Option<usize>,
    /// The watch says when there is room, so nobody has to try.
    pub(super) watched: bool,
    /// The least of them, as of the last change.
    in_force: usize,
}

impl Limit {
    pub(super) fn new(max_connections: usize) -> Self {
        let in_force = max_connections;
        Self { max_connections, share: None, frozen: None, watched: false, in_force }
    }

    pub(super) fn in_force(&self) -> usize {
        self.in_force
    }

    /// What there could be if the server did not refuse.
    pub(super) fn unfrozen(&self) -> usize {
        self.share.map_or(self.max_connections, |share| share.min(self.max_connections))
    }

    /// Below what the pool may ever have.
    pub(super) fn is_lowered(&self) -> bool {
        self.in_force < self.max_connections
    }

    fn update(&mut self) {
        // At least one, so that there is something to dial for.
        let frozen = self.frozen.map_or(usize::MAX, |frozen| frozen.max(1));
        self.in_force = self.unfrozen().min(frozen);
    }
}

impl<W> Ledger<W> {
    fn change_limit(&mut self, change: impl FnOnce(&mut Limit)) {
        let before = self.limit.in_force;
        change(&mut self.limit);
        self.limit.update();
        if self.limit.in_force != before {
            self.share_reserves();
        }
    }

    /// Whether the watch says when there is room.
    pub(crate) fn set_watched(&mut self, watched: bool) {
        self.limit.watched = watched;
    }

    /// What the watch or the fleet allows us; `None`: nobody says, so all we may ever have.
    pub(crate) fn allow(&mut self, share: Option<usize>) {
        self.change_limit(|limit| limit.share = share);
    }

    /// If somebody waits for it, one more than there are may be tried.
    pub(crate) fn allow_one_more(&mut self) {
        let one_more = self.sockets() + 1;
        if self.is_hungry() {
            self.change_limit(|limit| limit.share = limit.share.map(|share| share.max(one_more)));
        }
    }

    /// What we were allowed and do not hold is not ours any more, for a connection was lost or
    /// refused: it is somebody else's by now.
    pub(crate) fn void_share(&mut self) {
        let sockets = self.sockets();
        let voided = |share: usize| share.min(sockets).max(FLOOR.min(share));
        self.change_limit(|limit| limit.share = limit.share.map(voided));
    }

    /// The server has no slot left, somebody heard.
    pub(crate) fn freeze(&mut self) {
        let live = self.live;
        self.change_limit(|limit| limit.frozen = Some(live));
    }

    /// There is room again.
    pub(crate) fn thaw(&mut self) {
        self.room_lost = false;
        self.change_limit(|limit| limit.frozen = None);
    }

    /// True if the limit is frozen until the watch sees room.
    pub(crate) fn waits_for_room(&self) -> bool {
        let frozen = self.is_frozen() && self.sockets() >= self.limit.in_force();
        self.limit.watched && self.live > 0 && frozen
    }

    /// True if there are more connections than may be.
    pub(crate) fn is_over(&self) -> bool {
        self.live > self.limit.in_force() + self.shedding + self.successors_ready()
    }

    /// Notes that one connection is closed because there are too many, if there are.
    pub(crate) fn shed(&mut self) -> bool {
        let over = self.is_over();
        self.shedding += usize::from(over);
        over
    }

    /// True if somebody waits for a connection that only a higher limit could give.
    pub(crate) fn is_hungry(&self) -> bool {
        let sockets = self.sockets();
        let wanted = self.queued > 0 || self.goals.iter().any(|goal| sockets < *goal);
        wanted && sockets >= self.limit.in_force() && sockets < self.limit.max_connections
    }

    /// What the callers made of it so far; the peak is that since the last look.
    pub(crate) fn load(&mut self) -> Load {
        // What still waits for its last reply is no less needed than what is lent: a server that stalls
        // must not look like callers who have gone.
        let in_use = self.in_use.max(self.live.saturating_sub(self.idle));
        let peak = std::mem::replace(&mut self.peak, in_use + self.queued).max(in_use);
        Load {
            arrivals: self.arrivals,
            acquired: self.acquired,
            in_use,
            waiting: self.queued,
            peak,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ledger::tests::{ledger, stocked};
    use crate::ledger::{Admission, Closed};

    #[test]
    fn what_is_above_a_lowered_limit_is_closed_and_no_more() {
        let mut ledger = stocked(8, 4, &[]);
        assert!(!ledger.shed());
        ledger.allow(Some(2));
        assert_eq!(ledger.counts().limit, 2);
        assert!(ledger.is_over() && ledger.shed() && ledger.shed());
        assert!(!ledger.is_over() && !ledger.shed(), "two are being closed");
        ledger.withdrawn(2);
        ledger.died(Closed::Shed);
        ledger.died(Closed::Shed);
        assert!(!ledger.is_over());
        ledger.allow(Some(1));
        assert!(ledger.is_over());
        ledger.allow(Some(9));
        assert_eq!(ledger.counts().limit, 8, "never more than the pool may have");
    }

    #[test]
    fn a_limit_of_none_is_no_overflow() {
        let mut ledger = stocked(4, 1, &[]);
        ledger.allow(Some(0));
        assert_eq!(ledger.counts().limit, 0);
        let a = ledger.account(&"a".into());
        assert_eq!(ledger.acquire(a), Admission::NoneFree);
    }

    #[test]
    fn what_was_allowed_and_is_not_held_is_void_down_to_the_floor() {
        let limit = |live, share| {
            let mut ledger = stocked(8, live, &[]);
            ledger.allow(share);
            ledger.void_share();
            ledger.counts().limit
        };
        assert_eq!(limit(3, Some(6)), 3);
        assert_eq!(limit(0, Some(6)), 2);
        assert_eq!(limit(3, Some(1)), 1, "it raises nothing");
        assert_eq!(limit(3, None), 8, "nobody shares anything out");
    }

    #[test]
    fn one_more_than_the_limit_is_allowed_where_somebody_waits_for_it() {
        let mut ledger = stocked(8, 2, &[]);
        let a = ledger.account(&"a".into());
        ledger.allow(Some(2));
        ledger.allow_one_more();
        assert_eq!(ledger.counts().limit, 2, "nobody waits");
        assert_eq!([ledger.acquire(a), ledger.acquire(a)], [Admission::Granted; 2]);
        ledger.enqueue(a, 1).unwrap();
        ledger.allow_one_more();
        assert_eq!(ledger.counts().limit, 3);
        ledger.allow_one_more();
        assert_eq!(ledger.counts().limit, 3, "that one is not dialed yet");
    }

    #[test]
    fn hungry_is_who_waits_for_what_only_a_higher_limit_gives() {
        let mut ledger = stocked(3, 2, &[]);
        ledger.allow(Some(2));
        ledger.add_goal(2);
        assert!(!ledger.is_hungry());
        ledger.add_goal(3);
        assert!(ledger.is_hungry());
        ledger.remove_goal(3);
        assert!(!ledger.is_hungry());
        let a = ledger.account(&"a".into());
        let ticket = ledger.enqueue(a, 1).unwrap();
        assert!(ledger.is_hungry());
        ledger.allow(None);
        assert!(!ledger.is_hungry(), "the limit has room");
        ledger.dial_started();
        ledger.connected(false);
        assert!(!ledger.is_hungry(), "there can be no higher one");
        assert!(ledger.cancelled(a, ticket).is_some());
    }

    #[test]
    fn a_full_server_that_is_watched_is_left_in_peace_until_there_is_room() {
        let mut ledger = stocked(4, 2, &[]);
        let a = ledger.account(&"a".into());
        ledger.set_watched(true);
        assert!(!ledger.waits_for_room());
        assert_eq!([ledger.acquire(a), ledger.acquire(a)], [Admission::Granted; 2]);
        ledger.enqueue(a, 1).unwrap();
        ledger.freeze();
        assert!(ledger.waits_for_room() && !ledger.wants_dial());
        ledger.set_watched(false);
        assert!(!ledger.waits_for_room() && ledger.wants_dial(), "nobody else says when");
        ledger.set_watched(true);
        ledger.released(a, false);
        ledger.died(Closed::Otherwise);
        assert!(!ledger.waits_for_room() && ledger.wants_dial(), "the slot was ours");
        ledger.dial_started();
        ledger.connected(false);
        assert!(ledger.waits_for_room());
        ledger.thaw();
        assert!(!ledger.waits_for_room() && ledger.wants_dial());
    }

    #[test]
    fn without_any_connection_a_full_server_is_tried_although_it_is_watched() {
        let mut ledger = ledger(4, &[]);
        let a = ledger.account(&"a".into());
        ledger.set_watched(true);
        ledger.freeze();
        ledger.enqueue(a, 1).unwrap();
        assert_eq!(ledger.counts().limit, 1);
        assert!(!ledger.waits_for_room() && ledger.wants_dial());
        ledger.dial_started();
        assert!(!ledger.waits_for_room(), "that dial says whether there is");
    }

    #[test]
    fn the_peak_is_the_most_in_use_or_waited_for_since_the_last_look() {
        let mut ledger = stocked(2, 2, &[]);
        let a = ledger.account(&"a".into());
        assert_eq!([ledger.acquire(a), ledger.acquire(a)], [Admission::Granted; 2]);
        ledger.released(a, true);
        assert_eq!(ledger.load().peak, 2);
        assert_eq!(ledger.acquire(a), Admission::Granted);
        let ticket = ledger.enqueue(a, 1).unwrap();
        assert!(ledger.cancelled(a, ticket).is_some());
        ledger.enqueue(a, 2).unwrap();
        let load = ledger.load();
        assert_eq!((load.arrivals, load.acquired), (3, 3));
        assert_eq!((load.in_use, load.waiting, load.peak), (2, 1, 3));
        ledger.drain_queue();
        ledger.released(a, true);
        assert_eq!(ledger.load().peak, 3, "so many there were a moment ago");
        assert_eq!(ledger.load().peak, 1);
    }
}
