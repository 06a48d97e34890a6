//! The ledger's side of replacing connections that work: make before break.
//!
//! A connection that is to be replaced is closed once a successor has been dialed. The pool's own
//! limit is no obstacle: where the server is known to have plenty of room that is not shared out by a
//! fleet, the successor may be one connection too many until its predecessor is closed. Where there is
//! no room for two, a predecessor is closed first, one at a time, and only while dials are known to work.

use super::Ledger;

#[derive(Debug, Default)]
pub(super) struct Replacing {
    /// How many live connections are to be replaced, as of the last count.
    outdated: usize,
    /// Successors that are live, and whose predecessors are not being closed yet.
    ready: usize,
    /// A successor is being dialed.
    dialing: bool,
    /// A predecessor was closed before its successor was dialed.
    owed: bool,
    /// The last dial has failed, and it is not time to try again.
    put_off: bool,
    /// The server is known to have plenty of room, and nobody else was promised it.
    roomy: bool,
    /// Whether a successor would be any better, a dial has to show first.
    doubtful: bool,
}

impl<W> Ledger<W> {
    /// True if any connection is to be replaced.
    pub(crate) fn is_replacing(&self) -> bool {
        self.replacing.outdated > 0
    }

    /// How many of the live connections are to be replaced.
    pub(crate) fn set_outdated(&mut self, outdated: usize) {
        self.replacing.outdated = outdated;
        self.replacing.ready = self.replacing.ready.min(outdated);
    }

    /// One of them has been closed, or is no longer counted.
    pub(crate) fn replaced(&mut self) {
        self.set_outdated(self.replacing.outdated.saturating_sub(1));
    }

    /// Successors may be dialed although the last dial failed.
    pub(crate) fn retry_successors(&mut self) {
        self.replacing.put_off = false;
    }

    /// Whether the server is known to have plenty of room for whoever comes.
    pub(crate) fn set_roomy(&mut self, roomy: bool) {
        self.replacing.roomy = roomy;
    }

    /// Whether a successor would be any better, a dial has to show first: then none is closed before it.
    pub(crate) fn doubt_successors(&mut self, doubtful: bool) {
        self.replacing.doubtful = doubtful;
    }

    /// How many successors are live beside their predecessors.
    pub(super) fn successors_ready(&self) -> usize {
        self.replacing.ready
    }

    /// True if a predecessor can be closed, for its successor is live.
    pub(crate) fn has_successor(&self) -> bool {
        self.replacing.ready > 0
    }

    /// What may have been counted as a successor is none: it has died, or is to be replaced itself.
    pub(crate) fn successor_lost(&mut self) {
        self.replacing.ready = 0;
    }

    /// A predecessor is closed, or handed over, for its successor is live.
    pub(crate) fn retires(&mut self) {
        self.replacing.ready = self.replacing.ready.saturating_sub(1);
        self.replaced();
        // Until it is closed there may be one more than the limit.
        self.shedding += 1;
    }

    /// True if there is no room for a successor beside its predecessor, and nothing under way that
    /// would make some.
    pub(crate) fn must_close_first(&self) -> bool {
        let Replacing { outdated, ready, dialing, owed, put_off, doubtful, .. } = self.replacing;
        let nothing_under_way = ready == 0 && !dialing && !owed && self.shedding == 0;
        let wanted = outdated > 0 && nothing_under_way && !put_off && !self.is_frozen();
        wanted && !doubtful && !self.has_room_for_two() && !self.is_over()
    }

    /// A predecessor is closed before its successor is dialed.
    pub(crate) fn closes_first(&mut self) {
        self.replacing.owed = true;
        self.replaced();
    }

    /// Whether a successor should be dialed now.
    pub(super) fn wants_successor(&self) -> bool {
        let Replacing { outdated, ready, dialing, owed, put_off, doubtful, .. } = self.replacing;
        // What is doubted may not be what refuses.
        if self.closed || dialing || put_off || (self.is_frozen() && !doubtful) {
            return false;
        }
        let owed = owed && self.sockets() < self.limit.in_force();
        owed || (outdated > 0 && ready == 0 && self.has_room_for_two())
    }

    fn has_room_for_two(&self) -> bool {
        let Replacing { roomy, doubtful, .. } = self.replacing;
        self.sockets() < self.limit.in_force() + usize::from(roomy || doubtful)
    }

    /// A dial starts that nobody waits for.
    pub(super) fn successor_dial_started(&mut self) {
        self.replacing.dialing = true;
    }

    /// A dial that was for nobody in particular has succeeded.
    pub(super) fn successor_connected(&mut self) {
        let replacing = &mut self.replacing;
        replacing.put_off = false;
        let owed = std::mem::take(&mut replacing.owed);
        if std::mem::take(&mut replacing.dialing) && !owed {
            replacing.ready = (replacing.ready + 1).min(replacing.outdated);
        }
    }

    /// A dial has ended without a connection, or was given up.
    pub(super) fn successor_dial_failed(&mut self) {
        // Of several dials in flight any may be the successor's.
        self.replacing.dialing &= self.dialing > self.dialing_fresh;
        self.replacing.put_off = true;
    }
}

#[cfg(test)]
mod tests;
