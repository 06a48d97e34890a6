//! Flights: commands on their way on shared connections.

use std::sync::Arc;

use tokio::sync::SemaphorePermit;

use super::in_flight::InFlight;
use super::lanes::Carrier;
use crate::pool::node::Node;
use crate::pool::patience::owed;

/// A command on its way. Given up before its reply has come, it keeps its place until then: a
/// trailing PING is answered after it.
pub(super) struct Flight<'a> {
    node: &'a Arc<Node>,
    in_flight: &'a Arc<InFlight>,
    carrier: &'a Arc<Carrier>,
    /// `Some` until the reply has come.
    permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Flight<'a> {
    /// Of a command that has [begun](Carrier::begin).
    pub(super) fn start(
        node: &'a Arc<Node>,
        in_flight: &'a Arc<InFlight>,
        carrier: &'a Arc<Carrier>,
        permit: SemaphorePermit<'a>,
    ) -> Self {
        carrier.socket.used(node.coarse_now());
        Self { node, in_flight, carrier, permit: Some(permit) }
    }

    pub(super) fn answered(mut self) {
        self.permit = None;
        self.carrier.answered();
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        permit.forget();
        let unanswered = Unanswered {
            node: Arc::clone(self.node),
            in_flight: Arc::clone(self.in_flight),
            carrier: Arc::clone(self.carrier),
        };
        self.node.spawn(unanswered.settle());
    }
}

/// A place in flight that is free again when this is dropped.
struct Unanswered {
    node: Arc<Node>,
    in_flight: Arc<InFlight>,
    carrier: Arc<Carrier>,
}

impl Unanswered {
    /// Waits until the server has answered, or closes a lane on which nothing comes any more.
    async fn settle(self) {
        let mut redis = self.carrier.redis.clone();
        let ping = redis::cmd("PING");
        let socket = &self.carrier.socket;
        // An error means that the lane is gone, and its commands with it.
        let given_up = owed(&self.node, socket, redis.send_packed_command(&ping)).await.is_none();
        // A closed pool's lane ends with its last command.
        if given_up && !self.node.is_closed() {
            self.node.revoke(socket, socket.reason());
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.in_flight.leave();
        self.carrier.answered();
    }
}
