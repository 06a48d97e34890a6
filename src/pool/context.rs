//! What all nodes of a pool have in common: its settings, and where it tells what happens.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::leaks::Lease;
use crate::fleet::Fleet;
use crate::policy::Budgets;
use crate::server::gate::Transition;
use crate::telemetry::event::{Event, EventBus};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::Leak;
use crate::{Endpoint, Rejection};

/// The settings that matter after the pool is built.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) max_connections: usize,
    pub(super) acquire_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) leak_after: Duration,
    pub(super) revoke_after: Option<Duration>,
    pub(super) idle_timeout: Duration,
    pub(super) min_idle: usize,
    pub(super) max_lifetime: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) shared_lanes: usize,
    pub(super) budgets: Budgets,
    pub(super) watch: bool,
    pub(super) adaptive_limit: bool,
    pub(super) min_limit: usize,
    pub(super) fleet: Option<Fleet>,
    pub(super) seed: u64,
}

#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) events: EventBus,
    pub(super) metrics: Metrics,
}

impl Context {
    pub(super) fn new(settings: Settings, server: &Arc<str>) -> Self {
        Self { events: EventBus::new(), metrics: Metrics::new(&settings.name, server), settings }
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn limit_changed(&self, server: &Arc<str>, from: usize, to: usize) {
        tracing::info!(pool = %self.name(), %server, from, to, "limit changed");
        self.events.send(Event::LimitChanged { server: Arc::clone(server), from, to });
    }

    pub(super) fn breaker_changed(&self, server: &Arc<str>, transition: Transition) {
        let Transition { from, to } = transition;
        tracing::warn!(pool = %self.name(), %server, %from, %to, "breaker changed");
        self.events.send(Event::BreakerChanged { server: Arc::clone(server), from, to });
    }

    /// `second`: of any clock; only the first refusal in each is remembered.
    pub(super) fn rejected(&self, endpoint: &Endpoint, rejection: &Rejection, second: u64) {
        tracing::debug!(
            pool = %self.name(), %endpoint, reason = rejection.reason(), %rejection,
            "caller refused"
        );
        let event = || Event::Rejected { endpoint: endpoint.clone(), rejection: rejection.clone() };
        self.events.send_rejection(second, event);
    }

    pub(super) fn leak_suspected(&self, leak: Leak) {
        tracing::warn!(
            pool = %self.name(), endpoint = %leak.endpoint, location = leak.location,
            age = ?leak.age, "suspected leak: a connection is held for too long"
        );
        self.events.send(Event::LeakSuspected(leak));
    }

    pub(super) fn leak_resolved(&self, leak: Leak) {
        tracing::info!(
            pool = %self.name(), endpoint = %leak.endpoint, location = leak.location,
            age = ?leak.age, "a suspected leak came back"
        );
        self.events.send(Event::LeakResolved(leak));
    }
}

/// A lease as a status tells of it.
pub(super) fn leak_of(endpoint: &Endpoint, lease: &Lease, now: Instant) -> Leak {
    Leak { endpoint: endpoint.clone(), location: lease.location.to_string(), age: lease.age(now) }
}
