//! The ledger's side of dialing: whether one more connection is wanted, and for whom.

use super::{Account, AccountId, Fresh, Ledger, Ticket, subtract};

impl<W> Ledger<W> {
    /// Notes that a caller was turned away for want of a connection, so that the next dial is made
    /// although nobody waits for it.
    pub(crate) fn request_dial(&mut self) {
        self.dial_requested = true;
    }

    /// Wants at least `goal` connections live until it is removed.
    pub(crate) fn add_goal(&mut self, goal: usize) {
        self.goals.push(goal.min(self.limit.max_connections));
    }

    /// Removes a goal that was added before.
    pub(crate) fn remove_goal(&mut self, goal: usize) {
        let goal = goal.min(self.limit.max_connections);
        if let Some(at) = self.goals.iter().position(|other| *other == goal) {
            self.goals.swap_remove(at);
        }
    }

    /// Wants at least so many connections open although nobody waits for them, until they are or a dial fails:
    /// not from a server that is full, whose slots are for those who wait.
    pub(crate) fn keep_up(&mut self, connections: usize) {
        self.kept_up = connections;
    }

    /// Whether a dial would serve somebody and the limit has room for it. While the limit is frozen
    /// and nobody watches the server, the only way to learn that there is room again is to try: one
    /// dial per tick of the back-off, and only for a caller who waits.
    pub(crate) fn wants_dial(&self) -> bool {
        self.wants_more() || self.wants_successor()
    }

    /// Whether the next dial is for a successor, and for nobody who waits.
    pub(crate) fn next_is_successor(&self) -> bool {
        !self.wants_more() && self.wants_successor()
    }

    /// Whether one more would serve somebody.
    fn wants_more(&self) -> bool {
        let sockets = self.sockets();
        let limit = self.limit.in_force();
        let watched = self.limit.watched && self.live > 0;
        let most = if watched { limit } else { self.limit.unfrozen() };
        if self.closed || sockets >= most {
            return false;
        }
        // Whoever still queues could not be served with what there is; could they with one more than
        // what is being dialed?
        let waited_for = self.longest_waiting(limit.max(sockets + 1)).is_some()
            && self.dialing - self.dialing_fresh < self.servable();
        let goal = self.goals.iter().any(|goal| sockets < *goal);
        let kept_up = sockets < self.kept_up && !self.is_frozen();
        waited_for
            || goal
            || kept_up
            || self.fresh_due().is_some()
            || (self.dial_requested && self.idle == 0 && sockets < limit)
    }

    /// How many of those who wait their budgets would let have a connection now, at the most.
    fn servable(&self) -> usize {
        let servable = |account: &Account<W>| {
            account.queue.len().min(account.budget.max_connections().saturating_sub(account.in_use))
        };
        self.accounts.iter().map(servable).sum()
    }

    /// A dial starts, for whoever comes first, or, where one of those is the first in line, for the
    /// waiter that wants a socket of its own.
    pub(crate) fn dial_started(&mut self) -> Option<Fresh<W>> {
        if self.next_is_successor() {
            self.successor_dial_started();
            self.dialing += 1;
            return None;
        }
        let sockets = self.sockets();
        self.dialing += 1;
        if let Some((ticket, account)) = self.fresh_due() {
            let first =
                |id: AccountId| self.accounts[id.0].queue.first_key_value().map(|(t, _)| *t);
            let other =
                self.longest_waiting(self.limit.in_force().max(sockets + 1)).and_then(first);
            if other.is_none_or(|other| ticket < other)
                && let Some(waiter) = self.accounts[account.0].fresh.remove(&ticket)
            {
                self.queued -= 1;
                self.dialing_fresh += 1;
                self.take(account);
                return Some(Fresh { account, ticket, waiter });
            }
        }
        self.dial_requested = false;
        None
    }

    /// Queues a waiter that wants a socket of its own, or gives it back if the queue is full.
    pub(crate) fn enqueue_fresh(&mut self, account: AccountId, waiter: W) -> Result<Ticket, W> {
        if self.queued >= self.queue_limit {
            return Err(waiter);
        }
        let ticket = self.new_ticket();
        self.queued += 1;
        self.accounts[account.0].fresh.insert(ticket, waiter);
        Ok(ticket)
    }

    /// The dial for it [failed](Self::dial_failed): back to its place. `None`: it has left.
    pub(crate) fn fresh_failed(&mut self, account: AccountId, ticket: Ticket, waiter: Option<W>) {
        self.released(account, false);
        if let Some(waiter) = waiter {
            self.queued += 1;
            self.accounts[account.0].fresh.insert(ticket, waiter);
        }
    }

    /// Who of those waits longest, if one more socket could be theirs.
    fn fresh_due(&self) -> Option<(Ticket, AccountId)> {
        if self.queued == 0 {
            return None;
        }
        let limit = self.limit.in_force().max(self.sockets() + 1);
        (0..self.accounts.len())
            .map(AccountId)
            .filter(|id| self.is_eligible(*id, limit))
            .filter_map(|id| Some((*self.accounts[id.0].fresh.first_key_value()?.0, id)))
            .min_by_key(|(ticket, _)| *ticket)
    }

    /// The first who waits for a socket of its own, if an idle connection has to be closed for it.
    /// While the server is full the slot is anybody's who comes first: never the last connection's, and
    /// none any more once one was lost so.
    pub(super) fn room_due(&self) -> Option<Ticket> {
        let sockets = self.sockets().saturating_sub(self.making_room);
        let last = self.is_frozen() && self.live <= 1;
        if self.closed || last || self.room_lost || sockets < self.limit.in_force() {
            return None;
        }
        Some(self.fresh_due()?.0)
    }

    /// The dial ended with a connection. It counts as idle once it is
    /// [`restored`](Self::restored) to the store. True if the server had room for one more than it
    /// let us have before, and did not only take a replacement. `fresh`: it is for the one waiter that
    /// [`dial_started`](Self::dial_started) gave.
    pub(crate) fn connected(&mut self, fresh: bool) -> bool {
        subtract(&mut self.dialing_fresh, usize::from(fresh));
        subtract(&mut self.dialing, 1);
        self.live += 1;
        self.room_made = false;
        if self.live >= self.kept_up {
            self.kept_up = 0;
        }
        if !fresh {
            self.successor_connected();
            // Whoever was turned away meanwhile has it in this one.
            self.dial_requested = false;
        }
        let room = self.limit.frozen.is_none_or(|frozen| self.live > frozen);
        if room {
            self.thaw();
        }
        room
    }

    /// The dial ended without a connection. `full`: the server has no slot for it, so the limit
    /// freezes at what we have (at least 1, so that there is something to dial for). `fresh`: as for
    /// [`connected`](Self::connected).
    pub(crate) fn dial_failed(&mut self, full: bool, fresh: bool) {
        subtract(&mut self.dialing_fresh, usize::from(fresh));
        subtract(&mut self.dialing, 1);
        self.successor_dial_failed();
        self.kept_up = 0;
        if full {
            self.room_lost |= std::mem::take(&mut self.room_made);
            self.freeze();
        }
    }
}
