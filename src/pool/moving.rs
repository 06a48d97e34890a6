//! A server that is elsewhere now: first one dial there has to show it, then all is cut that goes to the
//! one before.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::demotion::Demotion;
use super::node::Node;
use super::store::Socket;
use super::topology::place::{Arrival, Place, SentinelsSeen};
use crate::telemetry::status::CloseReason;

/// How long a subscriber may listen to the server before. Its successor takes a dial and a round trip; one
/// that has none by then, for its budget has no second place, say, is cut off like the others.
const SUBSCRIBERS_LEAVE: Duration = Duration::from_secs(2);

/// Follows what is said of the place of the server, for as long as the pool is open.
pub(super) async fn follow(node: Arc<Node>) {
    let hear = async {
        let mut are_lost = false;
        loop {
            let news = node.resolver.news();
            node.hear_of_place();
            node.hear_of_sentinels(&mut are_lost);
            news.await;
        }
    };
    tokio::select! {
        biased;
        () = node.closed() => {}
        () = node.resolver.listen() => {}
        () = hear => {}
    }
}

impl Node {
    /// Takes in what was said of the server's place.
    fn hear_of_place(self: &Arc<Self>) {
        let Some(place) = self.resolver.latest() else { return };
        self.change(|state| state.gate.resolved());
        self.dialer_wanted.notify_one();
        if !self.is_at(&place) {
            self.head_for(place);
        }
    }

    /// Tells when no sentinel says any more where the server is, and when one does again: each once, for they
    /// are asked several times a second.
    fn hear_of_sentinels(&self, are_lost: &mut bool) {
        let Some(SentinelsSeen { master, trouble, .. }) = self.resolver.sentinels() else { return };
        match (trouble, *are_lost) {
            (Some(reason), false) => self.context.sentinels_lost(&master, reason),
            (None, true) => self.context.sentinels_found(&master),
            _ => return,
        }
        *are_lost = !*are_lost;
    }

    /// The server is said to be there. Dials go there from now on, by its own schedule; what is open to the
    /// one before works on until a dial has shown that it is so; one is made for that.
    pub(super) fn head_for(self: &Arc<Self>, place: Arc<Place>) {
        let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_at(&place) {
            return;
        }
        let now = Instant::now();
        self.change(|state| {
            self.place.store(Arc::clone(&place));
            state.gate.move_to(Arc::clone(&place.server), now);
            if state.moves.since.is_some() {
                // Everybody comes from the one before, and at once.
                state.gate.disconnected(now);
            }
            state.ledger.thaw();
            state.demotion = Demotion::default();
            state.moves.head_for(&place.target.name);
            state.ledger.doubt_successors(state.moves.is_under_way());
            state.ledger.retry_successors();
        });
        for socket in self.sockets() {
            match socket.server == place.target.name {
                // It was said to be elsewhere, and was not.
                true => socket.keep(now),
                false => socket.outdate(CloseReason::Replaced),
            }
        }
        self.count_outdated();
        self.moved.notify_waiters();
        self.dialer_wanted.notify_one();
        self.mailbox.attention.notify_one();
    }

    /// Completes when dials go to another place than this.
    pub(super) async fn left(&self, place: &Place) {
        loop {
            let moved = self.moved.notified();
            if !self.is_at(place) {
                return;
            }
            moved.await;
        }
    }

    /// A dial has shown that the server is there: from here on nothing goes to another one. Idle connections
    /// to it, leases and lanes are closed, also under a command, which hears that it may have run; for
    /// a subscriber there is a successor first. `checked`: the server was asked what it is.
    pub(super) fn arrived(self: &Arc<Self>, place: &Place, checked: bool) {
        let server = &place.target.name;
        let before = {
            let _moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.is_at(place) {
                return;
            }
            if checked {
                self.resolver.confirm(place);
            }
            let arrival = self.change(|state| {
                let arrival = state.moves.arrive(server, Instant::now());
                if !matches!(arrival, Arrival::Known) {
                    state.ledger.doubt_successors(false);
                    // Under the same lock, so that nobody is lent one of them.
                    state.close_idle(CloseReason::Replaced, |socket| socket.server != *server);
                }
                arrival
            });
            if matches!(arrival, Arrival::Known) {
                return;
            }
            self.cut_off(server, |socket| !socket.is_subscriber());
            let Arrival::From(before) = arrival else { return };
            before
        };
        let seen = self.resolver.sentinels();
        let master = seen.as_ref().filter(|seen| seen.is_master).map(|seen| &*seen.master);
        self.context.moved(master, before, Arc::clone(server));
        let (node, server) = (Arc::clone(self), Arc::clone(server));
        self.spawn(async move {
            let _ = tokio::time::timeout(SUBSCRIBERS_LEAVE, node.closed()).await;
            if node.address() == server {
                node.cut_off(&server, |_| true);
            }
        });
    }

    /// Closes what is connected to any other server, and `wanted` picks.
    fn cut_off(self: &Arc<Self>, server: &Arc<str>, wanted: impl Fn(&Socket) -> bool) {
        let sockets = self.sockets().into_iter();
        for socket in sockets.filter(|socket| socket.server != *server && wanted(socket)) {
            self.revoke(&socket, CloseReason::Replaced);
        }
        self.count_outdated();
    }
}
