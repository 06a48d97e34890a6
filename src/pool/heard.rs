//! What replies, other clients and dials tell of the server: that it is full, or a replica.

use std::sync::Arc;

use tokio::time::Instant;

use super::node::{Node, SECOND};
use super::store::Socket;
use super::topology::place::Doubt;
use crate::Outcome;
use crate::dial::Notice;
use crate::server::Role;
use crate::vocabulary::DialFailure;

impl Node {
    /// A reply that says something about the server.
    #[cold]
    pub(super) fn heard(self: &Arc<Self>, socket: &Socket, (notice, message): (Notice, String)) {
        let second = self.coarse_now() / SECOND;
        let first = self.change(|state| state.count_notice(notice, second));
        let server = self.address();
        if first {
            self.context.noticed(&server, notice, &message);
        }
        if socket.server != server {
            // It is left anyway, and says nothing of the one that it is left for.
            return;
        }
        if matches!(notice, Notice::ReadOnly | Notice::MasterDown) {
            self.heard_replica(socket);
        }
        if notice == Notice::MaxClients {
            let outcome = Outcome::MaxClients;
            self.heard_refusal(&Arc::new(DialFailure { server, outcome, message }));
        }
    }

    /// A connection's server has answered as a replica does.
    fn heard_replica(self: &Arc<Self>, socket: &Socket) {
        let found = !self.lock().demotion.is_suspected();
        if socket.is_outdated() && found && self.settings().role == Role::Master {
            // A primary was found since it was opened.
            socket.expire();
            self.count_outdated();
        } else {
            self.suspect_demotion();
        }
    }

    /// There is a sign that the server has become a replica: once a dial finds a primary, all that was
    /// opened before is replaced by what is dialed then.
    pub(super) fn suspect_demotion(self: &Arc<Self>) {
        if self.settings().role != Role::Master {
            return;
        }
        let now = Instant::now();
        self.resolver.doubt(&self.place.load(), Doubt::Lost);
        let replaces = self.change(|state| {
            let replaces = state.demotion.suspect(now);
            state.ledger.doubt_successors(state.demotion.is_suspected());
            replaces
        });
        if replaces {
            self.context.demoted(&self.address());
            self.replace_opened_before(now);
        }
    }

    /// What was dialed for somebody who waits is a replica's as well: no successor of any other.
    pub(super) fn opened_replica(self: &Arc<Self>) {
        self.change(|state| state.ledger.successor_lost());
        self.count_outdated();
    }

    /// A dial that began then has found a primary.
    pub(super) fn found_primary(self: &Arc<Self>, dialed: Instant) {
        let was_suspected = self.change(|state| {
            let was_suspected = state.demotion.is_suspected();
            state.demotion.found_primary(Instant::now());
            state.ledger.doubt_successors(state.moves.is_under_way());
            was_suspected
        });
        if was_suspected {
            self.replace_opened_before(dialed);
        }
    }

    /// The server refused somebody else's connection: it is full.
    pub(super) fn heard_refusal(self: &Arc<Self>, failure: &Arc<DialFailure>) {
        self.change(|state| {
            state.heard_refusal();
            state.gate.heard_now(Arc::clone(failure), Instant::now());
        });
    }
}
