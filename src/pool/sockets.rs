//! Sockets: every one is counted from its dial until it is closed, however that comes.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use redis::aio::PubSub;
use tokio::time::Instant;

use super::admission::Grant;
use super::core::Core;
use super::leak::Seat;
use super::pubsub::Subscriber;
use super::state::{Answer, State, Waiting};
use super::store::{Connection, DEAD_LEASES, Shared};
use crate::ledger::{AccountId, Fresh, Ticket};
use crate::telemetry::event::Event;
use crate::telemetry::status::CloseReason;

/// A dial for one waiter.
#[derive(Debug)]
pub(super) struct Reserved {
    account: AccountId,
    ticket: Ticket,
    seat: Seat,
    waiting: Waiting,
}

impl Core {
    /// Notes that a dial starts; for whom, if it is for somebody in particular.
    pub(super) fn dial_started(state: &mut State) -> Option<Reserved> {
        let Fresh { account, ticket, waiter: waiting } = state.ledger.dial_started()?;
        let seat = state.leases.begin(account, waiting.location);
        state.leases.exempt(seat);
        Some(Reserved { account, ticket, seat, waiting })
    }

    /// The dial failed: the waiter goes back to its place, unless it has left.
    pub(super) fn dial_failed(state: &mut State, reserved: Reserved) -> Option<Waiting> {
        let Reserved { account, ticket, seat, waiting } = reserved;
        state.leases.end(seat);
        let gone = waiting.answer.is_gone();
        let (gone, waiting) = if gone { (Some(waiting), None) } else { (None, Some(waiting)) };
        state.ledger.fresh_failed(account, ticket, waiting);
        // To be dropped outside the lock.
        gone
    }

    /// The dial succeeded: hands the socket over.
    pub(super) fn deliver(
        self: &Arc<Self>,
        reserved: Reserved,
        redis: PubSub,
        shared: Arc<Shared>,
    ) {
        let Reserved { account, seat, waiting, .. } = reserved;
        shared.lent_to(Some(seat));
        let grant = Grant::for_subscriber(Arc::clone(self), account, seat);
        let subscriber = Subscriber { redis, shared, grant };
        if let Answer::Subscriber(waiter) = waiting.answer {
            // Where the waiter is gone, this closes the socket.
            let _ = waiter.send(Ok(subscriber));
        }
    }

    pub(super) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn registry(&self) -> MutexGuard<'_, HashMap<u64, Arc<Shared>>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, shared: &Arc<Shared>) {
        self.registry().insert(shared.id, Arc::clone(shared));
    }

    /// Every open connection.
    pub(super) fn connections(&self) -> Vec<Arc<Shared>> {
        self.registry().values().cloned().collect()
    }

    /// Marks a connection dead before it is closed, so that nobody is granted it.
    pub(super) fn retire(&self, shared: &Shared, reason: CloseReason) {
        shared.blame(reason);
        let mut state = self.lock();
        if shared.bury() {
            state.ledger.withdrawn(1);
        }
    }

    /// Closes the socket under whoever holds the connection.
    pub(super) fn revoke(&self, shared: &Shared, reason: CloseReason) {
        self.retire(shared, reason);
        shared.abort();
    }

    /// Closes the socket under one lease, unless it ended meanwhile.
    pub(super) fn revoke_lease(&self, shared: &Shared, seat: Seat) {
        let still_held = {
            let state = self.lock();
            let held = state.leases.is_out(seat) && shared.holder() == Some(seat);
            held && !shared.bury()
        };
        if still_held {
            shared.blame(CloseReason::Revoked);
            shared.abort();
        }
    }

    /// Whether a connection past its lifetime is to be closed now. Not while the server is full:
    /// the slot would go to somebody else, and the connection works.
    pub(super) fn may_expire(&self) -> bool {
        let mut state = self.lock();
        // If it is, its successor is dialed now, and not when a caller misses it.
        let may = !state.ledger.is_frozen();
        if may {
            state.ledger.ask();
        }
        may
    }

    /// A connection's socket is closed; called by the last thing the driver's task drops.
    pub(super) fn socket_closed(self: &Arc<Self>, shared: &Shared) {
        self.registry().remove(&shared.id);
        let reason = shared.reason();
        let (was_idle, lease) = self.change(|state| {
            let was_idle = shared.bury();
            state.ledger.withdrawn(usize::from(was_idle));
            state.ledger.died();
            if shared.is_shed() {
                state.ledger.shed_is_closed();
            } else if reason != CloseReason::Lifetime {
                // One at the end of its lifetime is replaced at once.
                state.ledger.void_share();
                state.lost = true;
            }
            state.closed[reason as usize] += 1;
            // A budget counts sockets: the place of a lease whose socket is gone is free.
            // As far as the store has room for leases that nobody lets go of.
            let room = state.dead_leases < DEAD_LEASES;
            let lease = shared.holder().filter(|_| room).and_then(|seat| state.leases.end(seat));
            if let Some(lease) = &lease {
                state.dead_leases += 1;
                state.ledger.released(lease.account, false);
            }
            let now = Instant::now();
            if reason == CloseReason::Peer {
                state.gate.disconnected(now);
            } else if state.ledger.has_spare_slot() {
                state.gate.excuse();
            }
            if state.ledger.live() == 0 {
                state.gate.lost_all(now);
            }
            (was_idle, lease)
        });
        if was_idle {
            self.store.purge();
        }
        if let Some(lease) = lease.filter(|lease| lease.suspected) {
            self.report_resolved(&lease);
        }
        tracing::debug!(pool = %self.settings.name, reason = reason.as_str(), "connection closed");
        self.events.send(Event::ConnectionClosed { reason });
        self.progress.notify_waiters();
    }

    /// Takes the idle connections out of the store that `wanted` picks.
    pub(super) fn withdraw(&self, wanted: impl FnMut(&Shared) -> bool) -> Vec<Connection> {
        let mut state = self.lock();
        // No more than are free: others have been granted already, and are about to be taken.
        let withdrawn = self.store.withdraw(state.ledger.counts().idle, wanted);
        state.ledger.withdrawn(withdrawn.len());
        drop(state);
        withdrawn
    }

    /// Takes one idle connection out of the store, if there is one.
    pub(super) fn withdraw_one(&self) -> Option<Connection> {
        let mut left = 1;
        self.withdraw(|_| std::mem::take(&mut left) > 0).pop()
    }

    /// Puts a new, or a withdrawn, connection into the store. One that died meanwhile is dropped.
    pub(super) fn restore(self: &Arc<Self>, connection: Connection) {
        if !connection.shared.give_back() {
            return;
        }
        self.store.put(connection);
        let closed = self.change(|state| {
            state.ledger.restored();
            state.ledger.is_closed()
        });
        if closed {
            self.close_idle();
        }
    }

    /// Refuses everybody from now on, and closes what is idle. Leases stay valid.
    pub(super) fn shut(self: &Arc<Self>) {
        self.change(|state| state.ledger.close());
        self.close_idle();
        for shared in self.connections() {
            if shared.is_subscriber() {
                // It would listen for ever.
                self.revoke(&shared, CloseReason::PoolClosed);
            }
        }
        self.schedule_changed.notify_one();
        self.attention.notify_one();
        self.progress.notify_waiters();
    }

    /// Closes what nobody holds, of a pool that is closed.
    pub(super) fn close_idle(self: &Arc<Self>) {
        self.say_goodbye();
        for connection in self.withdraw(|_| true) {
            connection.shared.blame(CloseReason::PoolClosed);
        }
    }
}
