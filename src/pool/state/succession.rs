//! Replacing connections that work: which is closed, or handed over, once its successor is live.

use super::State;
use crate::BreakerState;
use crate::pool::store::{Connection, Socket};
use crate::pool::waiting::{LeasePlace, Succession};
use crate::sync::oneshot;

impl State {
    /// Whether dials work, as far as is known.
    fn dials_work(&self) -> bool {
        let closed = self.gate.state() == BreakerState::Closed && !self.gate.is_held();
        closed && self.gate.failure().is_none() && !self.ledger.is_frozen()
    }

    /// Closes idle connections that are to be replaced, and lets go of those of lanes, as far as there
    /// are successors for them.
    pub(super) fn retire(&mut self) {
        if !self.ledger.is_replacing() || self.ledger.is_closed() || !self.dials_work() {
            return;
        }
        while self.ledger.has_successor()
            && let Some(connection) = self.store.withdraw(1, Socket::is_outdated).pop()
        {
            self.ledger.withdrawn(1);
            self.ledger.retires();
            connection.socket.retire();
            self.closing.push(connection);
        }
        while self.ledger.has_successor() && self.has_succession() {
            // It came before the lane had asked.
            let Some(successor) = self.store.withdraw(1, |idle| !idle.is_outdated()).pop() else {
                break;
            };
            self.ledger.withdrawn(1);
            self.opened(successor);
        }
        if !self.ledger.must_close_first() {
            return;
        }
        if let Some(connection) = self.store.withdraw(1, Socket::is_outdated).pop() {
            self.ledger.withdrawn(1);
            self.ledger.closes_first();
            connection.socket.blame_age();
            self.closing.push(connection);
            return;
        }
        while let Some(lane) = self.successions.pop_front() {
            if lane.send(Succession::CloseFirst).is_ok() {
                return self.ledger.closes_first();
            }
        }
    }

    /// Whether a connection that comes back, and is to be replaced, is closed now; if so, that is noted.
    /// One that works stays while its successor cannot be had.
    pub(in crate::pool) fn retires(&mut self, socket: &Socket) -> bool {
        if self.dials_work() && self.ledger.has_successor() {
            self.ledger.retires();
            socket.retire();
            return true;
        }
        if self.dials_work() && self.ledger.must_close_first() {
            self.ledger.closes_first();
            socket.blame_age();
            return true;
        }
        false
    }

    /// Whether the holder of this place may have another one beside it for a while, by its budget, and
    /// dials work.
    pub(in crate::pool) fn may_have_another(&self, place: LeasePlace) -> bool {
        self.dials_work() && !self.ledger.holds_its_max(place.account)
    }

    /// A lane waits for the successor of its connection.
    pub(in crate::pool) fn await_succession(&mut self) -> oneshot::Receiver<Succession> {
        let (sender, succession) = oneshot::channel();
        self.has_succession();
        self.successions.push_back(sender);
        succession
    }

    fn has_succession(&mut self) -> bool {
        self.successions.retain(|lane| !lane.is_closed());
        !self.successions.is_empty()
    }

    /// A new connection: for a lane that waits for a successor, if it was dialed as one, or else for the
    /// store.
    pub(in crate::pool) fn opened(&mut self, mut connection: Connection) {
        while self.ledger.has_successor()
            && let Some(lane) = self.successions.pop_front()
        {
            // Until it has taken its place: it may still be dropped on the way.
            connection.socket.set_surplus(true);
            match lane.send(Succession::Successor(connection)) {
                Ok(()) => return self.ledger.retires(),
                Err(Succession::Successor(unclaimed)) => connection = unclaimed,
                Err(Succession::CloseFirst) => return,
            }
            connection.socket.set_surplus(false);
        }
        self.restore(connection);
    }
}
