//! Maintenance: one task a pool, which once a second closes what is too old or idle, checks what
//! was long idle, reports leaks and publishes metrics. No timer a lease, none a connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::RedisResult;
use tokio::time::{Instant, MissedTickBehavior};

use super::context::Settings;
use super::leaks::Seat;
use super::moving;
use super::node::Node;
use super::patience::owed;
use super::status::publish;
use super::store::{Connection, Socket};
use super::tasks::Task;
use super::watch;
use crate::ledger::AccountId;
use crate::telemetry::history::Counted;
use crate::telemetry::status::CloseReason;
use crate::vocabulary::reply::unanswered;
use crate::vocabulary::{Outcome, Reason};

/// A connection idle for longer is PINGed before it is lent again: NATs and load balancers forget
/// connections without a word, the common ones after minutes, careless ones after one.
const CHECK_AFTER: Duration = Duration::from_secs(30);

/// So many endpoints and reasons of refused callers are named in a line of the log, the most frequent
/// ones.
const REFUSALS_NAMED: usize = 8;

/// How often everything is looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// How long after a failed dial the next background dial is made, which nobody waits for: the successor of a
/// connection that works, or one that is to be kept up.
const BACKGROUND_RETRY: Duration = Duration::from_secs(30);

/// Sweeps while there is something to look after.
pub(super) fn run(node: Arc<Node>) -> Task {
    // Made before the first poll: a task may be dropped without one.
    let running = Running(node);
    Box::pin(look_after(running))
}

async fn look_after(running: Running) {
    let node = &running.0;
    let follow = async {
        #[cfg(feature = "credentials")]
        super::credentials::follow(Arc::clone(node)).await;
    };
    let place = moving::follow(Arc::clone(node));
    tokio::join!(sweep(Arc::clone(node)), watch::run(Arc::clone(node)), follow, place);
}

async fn sweep(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(period(&node));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retry = Instant::now();
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let coarse = node.advance_coarse(now);
        // What another pool has learned of the server is told, though nobody waits.
        node.change(|state| state.swept(now.into_std(), SystemTime::now()));
        outdate_expired(&node, now);
        allow_background_dials(&node, &mut retry, now);
        close_idle(&node, coarse);
        node.authenticate_free();
        check_idle(&node, coarse);
        let longest = find_leaks(&node, now, coarse);
        // Before the last publication, so that nothing is counted after it.
        let over = is_over(&node);
        publish(&node, longest);
        report_refusals(&node);
        record_rates(&node, now);
        if over {
            return;
        }
    }
}

/// Says that maintenance has stopped, also when its runtime is shut down under it.
struct Running(Arc<Node>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().maintenance_stopped();
    }
}

/// Over when the pool is closed and empty. An open pool keeps its sweep: gauges must not freeze at
/// their last value.
fn is_over(node: &Node) -> bool {
    let state = node.lock();
    state.ledger.is_closed() && state.ledger.is_drained()
}

/// A second, or a quarter of the shortest time that is watched.
fn period(node: &Node) -> Duration {
    let settings = node.settings();
    let watched = [Some(settings.leak_after), settings.revoke_after, Some(settings.idle_timeout)];
    let shortest = watched.into_iter().flatten().min().map_or(SWEEP, |shortest| shortest / 4);
    shortest.clamp(Duration::from_millis(10), SWEEP)
}

/// Sees to it that what has outlived its lifetime is replaced; a subscriber listens for as long as it
/// likes.
fn outdate_expired(node: &Arc<Node>, now: Instant) {
    let expired = |socket: &&Arc<Socket>| socket.expires <= now && !socket.is_subscriber();
    node.sockets().iter().filter(expired).for_each(|socket| socket.outdate(CloseReason::Lifetime));
    node.count_outdated();
}

/// Lets successors, and what is to be kept up, be dialed. `retry`: when they may be next while dials fail. A pool
/// that has never had a connection keeps none up.
fn allow_background_dials(node: &Arc<Node>, retry: &mut Instant, now: Instant) {
    node.change(|state| {
        if now < *retry && state.gate.failure().is_some() {
            return;
        }
        *retry = now + BACKGROUND_RETRY;
        state.ledger.retry_successors();
        if state.dials[Outcome::Connected as usize] > 0 {
            state.ledger.keep_up(node.settings().min_idle);
        }
    });
}

/// Closes what was idle for too long, down to `min_idle`.
fn close_idle(node: &Node, coarse: u64) {
    let timeout = millis(node.settings().idle_timeout);
    let idle = node.lock().ledger.counts().idle;
    let mut spare = idle.saturating_sub(node.settings().min_idle);
    let withdrawn = node.withdraw(|socket| {
        let wanted = spare > 0 && coarse.saturating_sub(socket.used_at()) >= timeout;
        spare -= usize::from(wanted);
        wanted
    });
    for connection in withdrawn {
        close(connection, CloseReason::Idle);
    }
}

pub(super) fn close(connection: Connection, reason: CloseReason) {
    connection.socket.blame(reason);
    drop(connection);
}

/// PINGs what was long idle, out of the store, so that nobody is lent a connection that is being
/// doubted. Half of what is idle at a time: a caller who comes meanwhile finds the other half.
fn check_idle(node: &Arc<Node>, coarse: u64) {
    let mut left = node.lock().ledger.counts().idle.div_ceil(2);
    let doubtful = |socket: &Socket| {
        let picked = left > 0 && coarse.saturating_sub(socket.heard_at()) >= millis(CHECK_AFTER);
        left -= usize::from(picked);
        picked
    };
    for connection in node.withdraw(doubtful) {
        tokio::spawn(check(Arc::clone(node), connection));
    }
}

/// What has to be asked before anybody is lent it.
pub(super) fn check_first(node: Arc<Node>, connection: Connection) -> Task {
    Box::pin(async move { drop(check(node, connection).await) })
}

/// PINGs a withdrawn connection, and puts it back, or closes it if it is [given up](owed); the round
/// trip.
pub(super) async fn check(node: Arc<Node>, mut connection: Connection) -> RedisResult<Duration> {
    let started = Instant::now();
    let ping = redis::cmd("PING");
    let socket = Arc::clone(&connection.socket);
    // Any answer will do, an error too: the socket carries bytes both ways.
    match owed(&node, &socket, connection.redis.send_packed_command(&ping)).await {
        Some(Ok(_)) => {
            connection.socket.checked(node.coarse_now());
            node.restore(connection);
            Ok(started.elapsed())
        }
        Some(Err(error)) => {
            close(connection, CloseReason::HealthCheck);
            Err(error)
        }
        None => Err(unanswered()),
    }
}

/// Reports leases that are left without a command for too long, and revokes those that are held for too
/// long, if they may be; the longest time without a command.
fn find_leaks(node: &Arc<Node>, now: Instant, coarse: u64) -> Duration {
    let Settings { leak_after, revoke_after, .. } = *node.settings();
    // A command that has ended since the last sweep is noted with the time of that one.
    let sweep = millis(period(node));
    let unused =
        |socket: &Socket| Duration::from_millis(socket.unused(coarse).saturating_sub(sweep));
    let sockets = node.sockets();
    let seats: HashMap<Seat, Duration> =
        sockets.iter().filter_map(|socket| Some((socket.holder()?, unused(socket)))).collect();
    let unused = |seat| seats.get(&seat).copied();
    let sweep = node.lock().leases.sweep(now, leak_after, revoke_after, unused);
    for lease in &sweep.suspected {
        node.report_leak(lease, now);
    }
    for lease in &sweep.resolved {
        node.lock().tally(lease.account).leaks_resolved += 1;
        node.context.leak_resolved(node.leak(lease, now));
    }
    if !sweep.overdue.is_empty() {
        for socket in sockets {
            if let Some(seat) = socket.holder().filter(|seat| sweep.overdue.contains(seat)) {
                node.revoke_lease(&socket, seat);
            }
        }
    }
    sweep.longest
}

/// Adds what has been counted since the last time to the history.
fn record_rates(node: &Node, now: Instant) {
    let new = {
        let mut state = node.lock();
        let refused = state.tallies.iter().flat_map(|tally| tally.rejected).sum();
        let counted = Counted { refused, dials: state.dials.iter().sum() };
        counted.since(std::mem::replace(&mut state.recorded, counted))
    };
    node.context.history.add(new, now);
}

/// One line a sweep for all callers that were refused since the last one.
fn report_refusals(node: &Node) {
    let (mut refused, failure) = {
        let mut guard = node.lock();
        let state = &mut *guard;
        let mut refused = Vec::new();
        let tallies = state.tallies.iter_mut().enumerate();
        for (account, tally) in tallies.filter(|(_, tally)| tally.rejected != tally.reported) {
            let before = std::mem::replace(&mut tally.reported, tally.rejected);
            let new = Reason::ALL.into_iter().zip(tally.rejected.iter().zip(before));
            let endpoint = state.ledger.account_name(AccountId(account));
            refused.extend(
                new.filter(|(_, (now, old))| *now > old)
                    .map(|(reason, (now, old))| (now - old, endpoint.clone(), reason)),
            );
        }
        (refused, state.gate.failure())
    };
    if refused.is_empty() {
        return;
    }
    refused.sort_by_key(|(count, ..)| std::cmp::Reverse(*count));
    let named = refused.iter().take(REFUSALS_NAMED);
    let named =
        named.map(|(count, endpoint, reason)| format!("{endpoint} {} {count}", reason.as_str()));
    let mut named = named.collect::<Vec<_>>().join(", ");
    if refused.len() > REFUSALS_NAMED {
        named.push_str(", …");
    }
    let count = refused.iter().map(|(count, ..)| count).sum();
    let failure = failure.map(|failure| failure.to_string());
    node.context.callers_refused(&node.address(), count, &named, failure.as_deref());
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
