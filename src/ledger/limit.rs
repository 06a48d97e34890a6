//! The ledger's side of the limit: what we have too much of, and what we would need.

use super::Ledger;
use crate::policy::{FLOOR, Load};

impl<W> Ledger<W> {
    /// Whether the watch says when there is room.
    pub(crate) fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// What the watch or the fleet allows us; `None`: nobody says, so all we may ever have.
    pub(crate) fn allow(&mut self, share: Option<usize>) {
        self.allowed = share.is_some();
        self.set_share(share.unwrap_or(self.max_connections));
    }

    /// If somebody waits for it, one more than there are may be tried.
    pub(crate) fn allow_one_more(&mut self) {
        if self.is_hungry() {
            self.set_share(self.share.max(self.sockets() + 1));
        }
    }

    /// True if the limit is frozen until the watch sees room.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.watched && self.live > 0 && self.is_frozen() && self.sockets() >= self.limit
    }

    /// What we were allowed and do not hold is not ours any more, for a connection was lost or
    /// refused: it is somebody else's by now.
    pub(crate) fn void_share(&mut self) {
        if self.allowed {
            let floor = FLOOR.min(self.share);
            self.set_share(self.share.min(self.sockets()).max(floor));
        }
    }

    /// True if there are more connections than may be.
    pub(crate) fn is_over(&self) -> bool {
        self.live > self.limit + self.shedding
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
        wanted && sockets >= self.limit && sockets < self.max_connections
    }

    /// What the callers made of it so far; the peak is that since the last look.
    pub(crate) fn load(&mut self) -> Load {
        let peak = std::mem::replace(&mut self.peak, self.in_use + self.queued);
        Load {
            arrivals: self.arrivals,
            acquired: self.acquired,
            in_use: self.in_use,
            waiting: self.queued,
            peak,
        }
    }
}
