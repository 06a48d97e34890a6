//! Flights: commands on their way on shared connections.

use std::sync::Arc;

use tokio::sync::SemaphorePermit;

use super::in_flight::InFlight;
use super::lanes::Carrier;
use crate::pool::node::Node;
use crate::telemetry::status::CloseReason;

/// A lane on which nothing at all was answered for so many response timeouts, with commands
/// outstanding, is given up: 5 s with the default, so that one slow command on the server does not
/// cost everybody their connection.
const SILENCE: u32 = 10;

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
    pub(super) fn start(
        node: &'a Arc<Node>,
        in_flight: &'a Arc<InFlight>,
        carrier: &'a Arc<Carrier>,
        permit: SemaphorePermit<'a>,
    ) -> Self {
        carrier.socket.sent();
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
    /// Waits until the server has answered, or closes a lane on which nothing comes any more: a
    /// NAT that has forgotten it, say, which no side is told of.
    async fn settle(self) {
        let mut redis = self.carrier.redis.clone();
        let ping = redis::cmd("PING");
        let mut answer = std::pin::pin!(redis.send_packed_command(&ping));
        let mut answers = self.carrier.socket.answers();
        // An error means that the lane is gone, and its commands with it.
        let silence = self.node.settings().response_timeout * SILENCE;
        while tokio::time::timeout(silence, &mut answer).await.is_err() {
            let before = std::mem::replace(&mut answers, self.carrier.socket.answers());
            if answers == before {
                self.node.revoke(&self.carrier.socket, CloseReason::HealthCheck);
                return;
            }
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.in_flight.leave();
        self.carrier.answered();
    }
}
