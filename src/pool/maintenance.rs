//! Maintenance: one task a pool, which once a second closes what is too old or idle, checks what
//! was long idle, reports leaks and publishes metrics. No timer a lease, none a connection.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::time::{Instant, MissedTickBehavior};

use super::core::{Core, Settings};
use super::lease::within;
use super::store::{Connection, Shared};
use super::watching;
use crate::telemetry::status::CloseReason;

/// A connection idle for longer is PINGed before it is lent again: NATs and load balancers forget
/// connections without a word, the common ones after minutes, careless ones after one.
const CHECK_AFTER: Duration = Duration::from_secs(30);

/// How often everything is looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Sweeps while there is something to look after.
pub(super) fn run(core: Arc<Core>) -> impl Future<Output = ()> {
    // Made before the first poll: a task may be dropped without one.
    let running = Running(core);
    look_after(running)
}

async fn look_after(running: Running) {
    let core = &running.0;
    tokio::join!(sweep(Arc::clone(core)), watching::run(Arc::clone(core)));
}

async fn sweep(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(period(&core));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refused = 0;
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let coarse = core.advance_coarse(now);
        close_expired(&core, now);
        close_idle(&core, coarse);
        check_idle(&core, coarse);
        let oldest = find_leaks(&core, now);
        core.publish(oldest);
        report_refusals(&core, &mut refused);
        if is_over(&core) {
            return;
        }
    }
}

/// Says that maintenance has stopped, also when its runtime is shut down under it.
struct Running(Arc<Core>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().maintenance_stopped();
    }
}

/// Over when the pool is closed and empty. An open pool keeps its sweep: gauges must not freeze at
/// their last value.
fn is_over(core: &Core) -> bool {
    let state = core.lock();
    state.ledger.is_closed() && state.ledger.is_drained()
}

/// A second, or a quarter of the shortest time that is watched.
fn period(core: &Core) -> Duration {
    let settings = &core.settings;
    let watched = [Some(settings.leak_after), settings.revoke_after, Some(settings.idle_timeout)];
    let shortest = watched.into_iter().flatten().min().map_or(SWEEP, |shortest| shortest / 4);
    shortest.clamp(Duration::from_millis(10), SWEEP)
}

/// Closes what has outlived its lifetime: idle ones now, leases when they come back.
fn close_expired(core: &Core, now: Instant) {
    if core.lock().ledger.is_frozen() {
        return;
    }
    let expired = |shared: &Shared| shared.expires <= now;
    for connection in core.withdraw(expired) {
        core.may_expire();
        close(connection, CloseReason::Lifetime);
    }
    let mut doomed = false;
    for shared in core.connections() {
        if expired(&shared) {
            shared.doom();
            doomed = true;
        }
    }
    if doomed {
        // A lane's keeper replaces it.
        core.progress.notify_waiters();
    }
}

/// Closes what was idle for too long, down to `min_idle`.
fn close_idle(core: &Core, coarse: u64) {
    let timeout = millis(core.settings.idle_timeout);
    let idle = core.lock().ledger.counts().idle;
    let mut spare = idle.saturating_sub(core.settings.min_idle);
    let withdrawn = core.withdraw(|shared| {
        let wanted = spare > 0 && coarse.saturating_sub(shared.used_at()) >= timeout;
        spare -= usize::from(wanted);
        wanted
    });
    for connection in withdrawn {
        close(connection, CloseReason::Idle);
    }
}

pub(super) fn close(connection: Connection, reason: CloseReason) {
    connection.shared.blame(reason);
    drop(connection);
}

/// PINGs what was long idle, out of the store, so that nobody is lent a connection that is being
/// doubted. Half of what is idle at a time: a caller who comes meanwhile finds the other half.
fn check_idle(core: &Arc<Core>, coarse: u64) {
    let mut left = core.lock().ledger.counts().idle.div_ceil(2);
    let doubtful = |shared: &Shared| {
        let picked = left > 0 && coarse.saturating_sub(shared.heard_at()) >= millis(CHECK_AFTER);
        left -= usize::from(picked);
        picked
    };
    for connection in core.withdraw(doubtful) {
        tokio::spawn(check(Arc::clone(core), connection));
    }
}

/// PINGs a withdrawn connection, and puts it back or closes it; the round trip.
pub(super) async fn check(core: Arc<Core>, mut connection: Connection) -> RedisResult<Duration> {
    let started = Instant::now();
    let ping = redis::cmd("PING");
    let limit = Some(core.settings.response_timeout);
    // Any answer will do, an error too: the socket carries bytes both ways.
    match within(limit, connection.redis.send_packed_command(&ping)).await {
        Ok(_) => {
            connection.shared.checked(core.coarse_now());
            core.restore(connection);
            Ok(started.elapsed())
        }
        Err(error) => {
            close(connection, CloseReason::HealthCheck);
            Err(error)
        }
    }
}

/// Reports leases that are held for too long, and revokes those that may be; the age of the
/// oldest.
fn find_leaks(core: &Core, now: Instant) -> Duration {
    let Settings { leak_after, revoke_after, .. } = core.settings;
    let sweep = core.lock().leases.sweep(now, leak_after, revoke_after);
    for lease in &sweep.suspected {
        core.report_leak(lease, now);
    }
    if !sweep.overdue.is_empty() {
        for shared in core.connections() {
            if let Some(seat) = shared.holder().filter(|seat| sweep.overdue.contains(seat)) {
                core.revoke_lease(&shared, seat);
            }
        }
    }
    sweep.oldest
}

/// One line a sweep for all callers that were refused since the last one: a line a refusal would
/// be a storm of its own.
fn report_refusals(core: &Core, before: &mut u64) {
    let (total, failure) = {
        let state = core.lock();
        let total = state.tallies.iter().flat_map(|tally| tally.rejected).sum::<u64>();
        (total, state.gate.failure().cloned())
    };
    let count = total - std::mem::replace(before, total);
    if count > 0 {
        let failure = failure.map(|failure| failure.to_string());
        tracing::warn!(
            pool = %core.settings.name, count, last_failure = failure, "callers were refused"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
