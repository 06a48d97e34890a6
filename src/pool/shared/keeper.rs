//! The keepers of lanes: one task a lane, which replaces its connection when that dies; callers wait
//! for the keeper, they never dial (single flight). One that the server closes while nobody uses it is
//! replaced for the next caller: a server with a `timeout` would close the replacement, too, and so on.
//!
//! A lane is a lease like any other, taken from the pool's own budget under [`Endpoint::LANES`] and
//! dialed behind the same gate.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::lanes::{Carrier, Lane, Line, Pick};
use crate::ledger::AccountId;
use crate::pool::acquire::{acquire_as, late};
use crate::pool::lease::NodeLease;
use crate::pool::node::Node;
use crate::pool::store::{Connection, Socket};
use crate::pool::waiting::Succession;
use crate::sync::atomic::Ordering;
use crate::sync::{timeout, timeout_at};
use crate::telemetry::status::CloseReason;
use crate::{Budget, Endpoint, Rejection};

/// A lane that was used so lately, by the coarse clock's milliseconds, is missed at once when the server
/// closes it. More than two ticks of that clock, and short beside the `timeout` of a server, which is minutes
/// where it is set.
const LATELY: u64 = 3_000;

/// A lane to send on: `home`, or else any, or else `home` once it is up.
pub(super) async fn pick(
    node: &Arc<Node>,
    home: usize,
    account: AccountId,
    since: Instant,
) -> Result<Pick, Rejection> {
    let mut line = node.lanes.lane(home).line.subscribe();
    // From here on a refusal is news.
    line.mark_unchanged();
    if let Some(pick) = pick_now(node, home) {
        return Ok(pick);
    }
    if let Some(rejection) = refusal(node) {
        return Err(node.reject(account, rejection));
    }
    let timeout = node.settings().acquire_timeout;
    let deadline = since + timeout;
    let rejection = loop {
        match timeout_at(deadline, line.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break Rejection::Closed,
            Err(_) => break late(node, &node.lock(), timeout),
        }
        let news = line.borrow_and_update().clone();
        if let Some(carrier) = news.carrier() {
            return Ok(Pick::Own(carrier));
        }
        match news {
            Line::Refused(rejection) => break rejection,
            _ if node.is_closed() => break Rejection::Closed,
            // The keeper may have ended with its runtime.
            _ => want(node, home),
        }
    };
    Err(node.reject(account, rejection))
}

/// A lane that is up, `home` if it is, which is wanted otherwise.
pub(super) fn pick_now(node: &Arc<Node>, home: usize) -> Option<Pick> {
    if let Some(carrier) = node.lanes.carrier(home) {
        return Some(Pick::Own(carrier));
    }
    want(node, home);
    node.lanes.any().map(Pick::Other)
}

/// Why there is none, for somebody who does not wait.
pub(in crate::pool) fn none_now(node: &Arc<Node>, account: AccountId) -> Rejection {
    let rejection = refusal(node).unwrap_or_else(|| late(node, &node.lock(), Duration::ZERO));
    node.reject(account, rejection)
}

/// Sees to it that the lane's keeper runs, and tries again if it was refused.
fn want(node: &Arc<Node>, at: usize) {
    let lane = node.lanes.lane(at);
    if !lane.keeper_runs.swap(true, Ordering::AcqRel) {
        // Made before the first poll: a task may be dropped without one.
        let keeper = Keeper { node: Arc::clone(node), at };
        node.spawn(keep(keeper));
    }
    lane.wanted.notify_one();
}

fn refusal(node: &Arc<Node>) -> Option<Rejection> {
    node.change(|state| {
        let refusal = state.refusal();
        if refusal.is_some() {
            state.ledger.request_dial();
        }
        refusal
    })
}

/// A lease for a lane: in the budget of the lanes, which has a reserve for each, exempt from leak
/// detection.
async fn lease(node: &Arc<Node>) -> Result<NodeLease, Rejection> {
    // One more than there are lanes, so that an old one can be replaced before it is closed.
    let lanes = node.lanes.count();
    let budget = Budget::max(lanes + 1).reserve(lanes);
    let account = node.lock().ledger.internal_account(&Endpoint::LANES, budget);
    let lease = acquire_as(Arc::clone(node), |_| account, Location::caller()).await?;
    if let Some(place) = lease.place() {
        node.lock().leases.exempt(place.seat);
    }
    Ok(lease)
}

/// Says that the lane is down when its keeper ends, however that comes.
struct Keeper {
    node: Arc<Node>,
    at: usize,
}

impl Keeper {
    fn lane(&self) -> &Lane {
        self.node.lanes.lane(self.at)
    }

    fn put_up(&self, mut lease: NodeLease) -> Carried {
        let (redis, socket) = lease.share();
        let carrier = self.lane().put_up(redis, socket);
        // Whoever wanted it until now has it.
        let _ = self.lane().wanted.notified().now_or_never();
        Carried { carrier, lease: Some(lease) }
    }

    /// Waits until a caller wants the lane, or the pool is closed.
    async fn wanted(&self) {
        tokio::select! {
            biased;
            () = self.node.closed() => {}
            () = self.lane().wanted.notified() => {}
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let Lane { line, keeper_runs, .. } = self.lane();
        let mut last = Line::Down;
        // As one: whoever hears the news may start the next keeper, and what that one puts up is put up after it.
        line.send_modify(|line| {
            std::mem::swap(line, &mut last);
            keeper_runs.swap(false, Ordering::AcqRel);
        });
    }
}

/// A lane's connection and its lease. Dropped, by a runtime that goes down, say, the connection is
/// closed, and nobody sends on it any more.
struct Carried {
    carrier: Arc<Carrier>,
    /// `Some` until the drop.
    lease: Option<NodeLease>,
}

impl Carried {
    /// Puts the successor in the place of the connection, which is closed once what is in flight on it
    /// has ended.
    fn succeed(&mut self, keeper: &Keeper, successor: Connection) {
        let Some(lease) = &mut self.lease else { return };
        let old = lease.succeed(successor);
        let (redis, socket) = lease.share();
        let carrier = std::mem::replace(&mut self.carrier, keeper.lane().put_up(redis, socket));
        let node = Arc::clone(&keeper.node);
        keeper.node.spawn(async move {
            carrier.retire();
            emptied(&carrier, &node).await;
            drop(old);
        });
    }

    /// Lets what is in flight end, for the drain timeout at most, and closes the connection.
    async fn drain(mut self, node: Arc<Node>, reason: CloseReason) {
        self.carrier.retire();
        emptied(&self.carrier, &node).await;
        if let Some(lease) = self.lease.take() {
            lease.discard(reason);
        }
    }
}

/// Waits until what is in flight on it has ended, for the drain timeout at most.
async fn emptied(carrier: &Carrier, node: &Node) {
    let over = async {
        tokio::select! {
            biased;
            () = carrier.emptied() => {}
            () = carrier.socket.until(|_| false) => {}
        }
    };
    let _ = timeout(node.settings().drain_timeout, over).await;
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.carrier.retire();
    }
}

/// Keeps a lane up for as long as the pool is open.
async fn keep(keeper: Keeper) {
    let node = &keeper.node;
    while !node.is_closed() {
        match lease(node).await {
            Ok(lease) => {
                if carry(&keeper, keeper.put_up(lease)).await {
                    continue;
                }
            }
            Err(rejection) => {
                keeper.lane().line.send_replace(Line::Refused(rejection));
            }
        }
        // Nobody dials for nobody: the next attempt is for the next caller.
        keeper.wanted().await;
    }
}

/// Whether a lane's connection that has died is to be replaced at once: unless the server closed it and
/// nobody has used it lately.
fn is_missed(node: &Node, socket: &Socket) -> bool {
    let used = socket.answers() > 0 || socket.in_flight() > 0;
    let idle_for = node.coarse_now().saturating_sub(socket.used_at());
    socket.reason() != CloseReason::Peer || (used && idle_for < LATELY)
}

/// Lets the lane run over its connection until that dies or the pool is closed; one that is to be
/// replaced is so before it is closed, where there is room for two. Whether the last one is to be
/// replaced at once.
async fn carry(keeper: &Keeper, mut carried: Carried) -> bool {
    let node = &keeper.node;
    let (missed, reason) = loop {
        let socket = Arc::clone(&carried.carrier.socket);
        tokio::select! {
            biased;
            () = node.closed() => break (false, CloseReason::PoolClosed),
            () = socket.until(|socket| socket.is_outdated()) => {}
        }
        if !socket.is_alive() {
            break (is_missed(node, &socket), CloseReason::Peer);
        }
        tokio::select! {
            biased;
            () = node.closed() => break (false, CloseReason::PoolClosed),
            // First, for a connection that is closed under its commands once the successor is there.
            succession = node.succession() => match succession {
                Succession::Successor(successor) => carried.succeed(keeper, successor),
                // The callers wait for the dial.
                Succession::CloseFirst => {
                    socket.blame_age();
                    break (true, socket.reason());
                }
            },
            () = socket.until(|_| false) => break (is_missed(node, &socket), CloseReason::Peer),
        }
    };
    carried.carrier.retire();
    keeper.lane().line.send_replace(Line::Down);
    node.spawn(carried.drain(Arc::clone(node), reason));
    missed
}

#[cfg(test)]
#[cfg(guard_loom)]
mod interleavings;
