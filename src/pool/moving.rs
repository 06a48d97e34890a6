//! A server that is elsewhere now: first one dial there has to show it, then all is cut that goes to the
//! one before.

use std::sync::Arc;

use tokio::time::Instant;

use super::demotion::Demotion;
use super::node::Node;
use super::store::Socket;
use super::topology::place::{Place, SentinelsSeen};
use crate::telemetry::status::CloseReason;

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
        () = node.resolver.listen() => {}
        () = hear => {}
        () = node.closed() => {}
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
        let now = Instant::now();
        self.place.store(Arc::clone(&place));
        for socket in self.sockets() {
            match socket.server == place.target.name {
                // It was said to be elsewhere, and was not.
                true => socket.keep(now),
                false => socket.outdate(CloseReason::Replaced),
            }
        }
        self.change(|state| {
            state.gate.move_to(Arc::clone(&place.server));
            if state.moves.since.is_some() {
                // Everybody comes from there, and at once.
                state.gate.disconnected(now);
            }
            state.ledger.thaw();
            state.demotion = Demotion::default();
            state.moves.head_for(&place.target.name);
            state.ledger.doubt_successors(state.moves.is_under_way());
            state.ledger.retry_successors();
        });
        self.count_outdated();
        self.dialer_wanted.notify_one();
        self.mailbox.attention.notify_one();
    }

    /// A dial has shown that the server is there: from here on nothing goes to another one. Idle connections
    /// to it, leases and lanes are closed, also under a command, which hears that it may have run; for
    /// a subscriber there is a successor first.
    pub(super) fn arrived(self: &Arc<Self>, place: &Place) {
        self.resolver.confirm(place);
        let server = &place.target.name;
        let elsewhere = |socket: &Socket| socket.server != *server;
        let before = self.change(|state| {
            let before = state.moves.arrive(server, Instant::now())?;
            state.ledger.doubt_successors(false);
            // Under the same lock, so that nobody is lent one of them.
            state.close_idle(CloseReason::Replaced, elsewhere);
            Some(before)
        });
        let Some(Some(before)) = before else { return };
        let sockets = self.sockets().into_iter();
        for socket in sockets.filter(|socket| elsewhere(socket) && !socket.is_subscriber()) {
            self.revoke(&socket, CloseReason::Replaced);
        }
        self.count_outdated();
        let seen = self.resolver.sentinels();
        let master = seen.as_ref().filter(|seen| seen.is_master).map(|seen| &*seen.master);
        self.context.moved(master, before, Arc::clone(server));
    }
}
