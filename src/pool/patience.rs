//! Patience with a connection whose reply is owed: a server that stalls has not died, and one that is
//! full gives nobody another connection for it.

use std::pin::pin;
use std::time::Duration;

use redis::RedisResult;
use tokio::time::{Instant, timeout};

use super::node::Node;
use super::store::Socket;
use crate::policy::LOW;
use crate::server::Seen;
use crate::telemetry::status::CloseReason;

/// A connection is given up that was silent for so many response timeouts: 5 s with the default, so that
/// one slow command on the server does not cost everybody their connection.
const SILENCE: u32 = 10;

/// In how many rounds of waiting others must have been answered: a reply that was on its way before the
/// server stalled shows nothing.
const ANSWERED: u32 = 2;

/// Waits for a reply that is owed, in the order of whatever was sent before it, for as long as the
/// connection may be expected to work. `None` where it is given up, for a reason that is noted: its owner
/// is to drop it.
///
/// It is given up
/// - after [`SILENCE`] response timeouts if the server answers others meanwhile; that is what a connection
///   looks like that a NAT has forgotten, which no side is told of;
/// - if the server answers nobody, likewise, but one for each link timeout, so that another one is dialed
///   in its place: what that one hears is the answer for the others;
/// - either only after the link timeout while the server is known to be full, or the last dial failed:
///   then this connection is worth more than the time that is lost with it.
///
/// Time is counted in rounds and not by the clock: if this process was stopped, the reply may be there.
pub(super) async fn owed<T>(
    node: &Node,
    socket: &Socket,
    reply: impl Future<Output = RedisResult<T>>,
) -> Option<RedisResult<T>> {
    let reply = wait(node, socket, reply).await;
    if matches!(reply, Some(Ok(_))) {
        node.replies.heard();
    }
    reply
}

async fn wait<T>(
    node: &Node,
    socket: &Socket,
    reply: impl Future<Output = RedisResult<T>>,
) -> Option<RedisResult<T>> {
    let round = node.settings().response_timeout;
    let mut reply = pin!(reply);
    let mut own = socket.answers();
    if let Ok(reply) = timeout(round, &mut reply).await {
        return Some(reply);
    }
    let listener = node.replies.listen();
    let (mut silent, mut answered, mut heard) = (round, 0_u32, listener.count());
    loop {
        if node.is_closed() {
            socket.blame(CloseReason::PoolClosed);
            return None;
        }
        let period = node.settings().link_timeout;
        if silent >= patience(node, round)
            && (answered >= ANSWERED || node.replies.give_one_up(period, Instant::now()))
        {
            socket.blame(CloseReason::HealthCheck);
            return None;
        }
        if let Ok(reply) = timeout(round, &mut reply).await {
            return Some(reply);
        }
        let (before, own_before) = (heard, own);
        (heard, own) = (listener.count(), socket.answers());
        if own == own_before {
            silent = silent.saturating_add(round);
            answered += u32::from(heard != before);
        } else {
            // It works; it is only slow.
            (silent, answered) = (Duration::ZERO, 0);
        }
    }
}

fn patience(node: &Node, round: Duration) -> Duration {
    let longest = node.settings().link_timeout.max(round);
    if is_irreplaceable(node) { longest } else { (round * SILENCE).min(longest) }
}

/// Whether a connection that is closed now could hardly be had again.
fn is_irreplaceable(node: &Node) -> bool {
    let refused = {
        let state = node.lock();
        state.ledger.is_frozen() || state.gate.failure().is_some()
    };
    let saturation = || node.server().seen().as_ref().and_then(Seen::saturation);
    refused || saturation().is_some_and(|saturation| saturation > LOW)
}
