//! Looking at a pool: its status, its health, and whether it is warm or empty.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::time::Instant;

use super::core::Core;
use super::lease::within;
use super::maintenance;
use super::state::{State, Tally};
use crate::telemetry::status::{
    BreakerStatus, CloseReason, EndpointStatus, Health, LimitedBy, RequestOutcome, Status, named,
};
use crate::vocabulary::Reason;
use crate::{Endpoint, Error, Outcome, Rejection};

impl Core {
    pub(super) fn status(&self) -> Status {
        let now = Instant::now();
        let calls = self.calls_in_flight();
        let suspected = self.lock().leases.suspected();
        let leaks = suspected.iter().map(|lease| self.leak(lease, now)).collect();
        let state = self.lock();
        let counts = state.ledger.counts();
        Status {
            pool: self.settings.name.clone(),
            server: Arc::clone(&self.dialer.server),
            max_connections: self.settings.max_connections,
            limit: counts.limit,
            limited_by: match state.ledger.frozen() {
                Some(frozen) if counts.limit == frozen.max(1) => LimitedBy::Refused,
                _ => state.watch.source(),
            },
            watch: state.watch.status(now),
            fleet: state.watch.fleet(),
            live: counts.live,
            idle: counts.idle,
            in_use: counts.in_use,
            dialing: counts.dialing,
            waiting: counts.waiting,
            closed: state.ledger.is_closed(),
            breaker: BreakerStatus::of(&state.gate, &state.transitions, now),
            dials: named(Outcome::ALL, Outcome::as_str, &state.dials),
            connections_closed: named(CloseReason::ALL, CloseReason::as_str, &state.closed),
            lanes: self.lanes.status(),
            endpoints: self.endpoints(&state, &calls),
            leaks,
        }
    }

    fn endpoints(&self, state: &State, calls: &HashMap<Endpoint, usize>) -> Vec<EndpointStatus> {
        let none = Tally::default();
        let tallies = state.tallies.iter().chain(std::iter::repeat(&none));
        state
            .ledger
            .accounts()
            .zip(tallies)
            .map(|(account, tally)| {
                let flights = self.lanes.flights_of(&account.name);
                EndpointStatus {
                    max: account.max,
                    reserve: account.reserve,
                    in_use: account.in_use,
                    waiting: account.waiting + flights.as_ref().map_or(0, |f| f.waiting()),
                    shared_in_flight: flights.as_ref().map_or(0, |f| f.in_flight()),
                    calls_in_flight: calls.get(&account.name).copied().unwrap_or(0),
                    shared_in_flight_max: flights.as_ref().map_or(0, |f| f.max),
                    acquired: account.acquired,
                    rejected: named(&Reason::ALL, Reason::as_str, &tally.rejected),
                    leaks_suspected: tally.leaks_suspected,
                    leaks_resolved: tally.leaks_resolved,
                    requests: named(&RequestOutcome::ALL, RequestOutcome::as_str, &tally.requests),
                    name: account.name,
                }
            })
            .collect()
    }

    /// Publishes the pool's metrics.
    pub(super) fn publish(&self, oldest_lease: Duration) {
        self.metrics.publish(&self.status(), oldest_lease);
    }

    pub(super) async fn health(self: &Arc<Self>) -> Result<Health, Error> {
        let latency = match self.withdraw_one() {
            // In a task, so that a caller who loses patience does not take the connection along.
            Some(connection) => {
                let check = tokio::spawn(maintenance::check(Arc::clone(self), connection));
                Some(check.await.map_err(|_| Rejection::Closed)??)
            }
            None => self.ping_lane().await?,
        };
        let state = self.lock();
        let counts = state.ledger.counts();
        Ok(Health { latency, live: counts.live, idle: counts.idle, breaker: state.gate.state() })
    }

    /// The round trip of a PING over a lane; `None` if none is up.
    async fn ping_lane(&self) -> RedisResult<Option<Duration>> {
        let Some(mut redis) = self.lanes.connection() else { return Ok(None) };
        let started = Instant::now();
        let ping = redis::cmd("PING");
        within(Some(self.settings.response_timeout), redis.send_packed_command(&ping)).await?;
        Ok(Some(started.elapsed()))
    }

    /// Whether `wanted` connections are live, or cannot be; `None` while that is open.
    pub(super) fn warmth(&self, wanted: usize, since: Instant) -> Option<Result<usize, Rejection>> {
        let state = self.lock();
        let live = state.ledger.live();
        let all_there_is = live > 0
            && live >= state.ledger.counts().limit
            && !state.ledger.is_frozen()
            && state.watch.has_settled(since);
        if (live >= wanted || all_there_is) && !state.ledger.is_closed() {
            return Some(Ok(live));
        }
        state.hopeless(Instant::now()).map(Err)
    }

    /// Waits until `done`; checked whenever a dial or a connection ends, and when a lease of a
    /// closed pool does.
    pub(super) async fn until(&self, done: impl Fn(&State) -> bool) {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            if done(&self.lock()) {
                return;
            }
            progress.await;
        }
    }
}

/// Wants some connections live for as long as it lives.
pub(super) struct Goal {
    core: Arc<Core>,
    connections: usize,
}

impl Goal {
    pub(super) fn set(core: &Arc<Core>, connections: usize) -> Self {
        let start_maintenance = core.change(|state| {
            state.ledger.add_goal(connections);
            state.wants_maintenance()
        });
        if start_maintenance {
            core.start_maintenance();
        }
        Self { core: Arc::clone(core), connections }
    }
}

impl Drop for Goal {
    fn drop(&mut self) {
        self.core.change(|state| state.ledger.remove_goal(self.connections));
    }
}
