//! What all nodes of a pool have in common: its settings, and where it tells what happens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::companion::{self, Companion};
use super::leaks::Lease;
use crate::dial::Notice;
use crate::fleet::Fleet;
use crate::policy::Budgets;
use crate::server::gate::Transition;
use crate::server::{Role, ServerEvent};
use crate::telemetry::event::{Event, EventBus};
use crate::telemetry::history::History;
use crate::telemetry::metrics::Counters;
use crate::telemetry::shielded;
use crate::telemetry::status::{CloseReason, Leak, LimitedBy, RequestOutcome};
use crate::vocabulary::DialFailure;
use crate::{Endpoint, Rejection};

/// The settings that matter after the pool is built.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) max_connections: usize,
    pub(super) acquire_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) link_timeout: Duration,
    pub(super) leak_after: Duration,
    pub(super) revoke_after: Option<Duration>,
    pub(super) idle_timeout: Duration,
    pub(super) min_idle: usize,
    pub(super) max_lifetime: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) shared_lanes: usize,
    /// Leases send on the lanes until they need a connection.
    pub(super) multiplex: bool,
    pub(super) budgets: Budgets,
    pub(super) watch: bool,
    pub(super) adaptive_limit: bool,
    pub(super) min_limit: usize,
    pub(super) fleet: Option<Fleet>,
    pub(super) role: Role,
    /// Where the pool's tasks and the drivers of its connections run, instead of where its callers do.
    pub(super) runtime: Option<Handle>,
    pub(super) seed: u64,
}

/// A pool's limit before and now, and who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LimitChange {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) limited_by: LimitedBy,
}

/// By [`RequestOutcome`].
type Requests = [u64; RequestOutcome::ALL.len()];

#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) events: EventBus,
    pub(super) counters: Arc<Counters>,
    /// Callers refused and dials of the last minutes.
    pub(super) history: History,
    /// What goes by the pool's budgets beside it, while somebody holds it; see [`Companion`].
    pub(super) companion: Mutex<Weak<dyn Companion>>,
    /// How HTTP requests ended, by endpoint.
    requests: Mutex<HashMap<Endpoint, Requests>>,
}

impl Context {
    pub(super) fn new(settings: Settings) -> Self {
        let (companion, requests) = (companion::nobody(), Mutex::default());
        let (events, counters) = (EventBus::new(), Arc::default());
        Self { events, counters, history: History::default(), companion, requests, settings }
    }

    /// The calls in flight beside the leases.
    pub(super) fn calls_in_flight(&self) -> HashMap<Endpoint, usize> {
        let companion = self.companion.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        companion.map(|companion| companion.calls_in_flight()).unwrap_or_default()
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<Endpoint, Requests>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `endpoint`: as a ledger names it, for there is a bound on how many names are told apart.
    #[cfg(feature = "axum")]
    pub(super) fn count_request(&self, endpoint: Endpoint, outcome: RequestOutcome) {
        self.requests().entry(endpoint).or_default()[outcome as usize] += 1;
    }

    pub(super) fn requests_of(&self, endpoint: &Endpoint) -> Requests {
        self.requests().get(endpoint).copied().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn limit_changed(&self, server: &Arc<str>, change: LimitChange) {
        let LimitChange { from, to, limited_by } = change;
        shielded(|| {
            let (pool, limited_by) = (self.name(), limited_by.as_str());
            tracing::info!(%pool, %server, from, to, limited_by, "limit changed");
        });
        let server = Arc::clone(server);
        self.events.send(Event::LimitChanged { server, from, to, limited_by });
    }

    pub(super) fn breaker_changed(&self, server: &Arc<str>, transition: Transition) {
        let Transition { from, to } = transition;
        shielded(|| tracing::warn!(pool = %self.name(), %server, %from, %to, "breaker changed"));
        self.events.send(Event::BreakerChanged { server: Arc::clone(server), from, to });
    }

    /// Sentinels say that the server is elsewhere, and it says so itself. `master`: the name of the master,
    /// if it is one.
    pub(super) fn moved(&self, master: Option<&str>, from: Arc<str>, to: Arc<str>) {
        let pool = self.name();
        shielded(|| tracing::warn!(%pool, master, %from, %to, "the server is another one now"));
        if let Some(master) = master {
            self.events.send(Event::MasterChanged { master: master.to_owned(), from, to });
        }
    }

    pub(super) fn sentinels_lost(&self, master: &str, reason: String) {
        let pool = self.name();
        shielded(|| tracing::warn!(%pool, master, reason, "no sentinel says where the server is"));
        self.events.send(Event::SentinelsLost { master: master.to_owned(), reason });
    }

    pub(super) fn sentinels_found(&self, master: &str) {
        let pool = self.name();
        shielded(|| tracing::info!(%pool, master, "a sentinel says again where the server is"));
        self.events.send(Event::SentinelsFound { master: master.to_owned() });
    }

    /// Other nodes serve the slots than before, or the same ones others.
    pub(super) fn cluster_changed(&self, primaries: Vec<Arc<str>>, told_by: &str) {
        let pool = self.name();
        shielded(|| tracing::info!(%pool, ?primaries, told_by, "the cluster is another one now"));
        self.events.send(Event::ClusterChanged { primaries });
    }

    pub(super) fn cluster_lost(&self, failure: &DialFailure) {
        let (pool, reason) = (self.name(), failure.to_string());
        shielded(|| tracing::warn!(%pool, reason, "no node says who the nodes of the cluster are"));
        self.events.send(Event::ClusterLost { reason });
    }

    pub(super) fn cluster_found(&self) {
        let pool = self.name();
        shielded(|| tracing::info!(%pool, "a node says again who the nodes of the cluster are"));
        self.events.send(Event::ClusterFound);
    }

    pub(super) fn demoted(&self, server: &str) {
        shielded(|| {
            tracing::warn!(
                pool = %self.name(), server,
                "the server is a replica: its connections are replaced once a dial finds a primary"
            );
        });
    }

    pub(super) fn connected(&self, server: Arc<str>, took: Duration, live: usize) {
        shielded(|| tracing::debug!(pool = %self.name(), %server, ?took, live, "connected"));
        self.events.send(Event::Connected { server, live });
    }

    pub(super) fn dial_failed(&self, failure: Arc<DialFailure>, next_dial_in: Duration) {
        shielded(|| {
            tracing::warn!(
                pool = %self.name(), server = %failure.server, outcome = %failure.outcome,
                error = failure.message, ?next_dial_in, "dial failed"
            );
        });
        self.events.send(Event::DialFailed { failure, next_dial_in });
    }

    pub(super) fn closed(&self, server: Arc<str>, reason: CloseReason) {
        shielded(|| {
            let (pool, reason) = (self.name(), reason.as_str());
            tracing::debug!(%pool, %server, reason, "connection closed");
        });
        self.events.send(Event::ConnectionClosed { server, reason });
    }

    /// The first reply of its kind that says something about the server.
    pub(super) fn noticed(&self, server: &str, notice: Notice, error: &str) {
        let (pool, kind) = (self.name(), notice.as_str());
        shielded(|| tracing::warn!(%pool, server, kind, error, "error replies about the server"));
    }

    pub(super) fn server_changed(&self, server: Arc<str>, event: ServerEvent) {
        shielded(|| tracing::warn!(pool = %self.name(), %server, ?event, "the server changed"));
        self.events.send(Event::Server { server, event });
    }

    pub(super) fn watch_lost(&self, server: Arc<str>, reason: String) {
        let pool = self.name();
        shielded(|| tracing::warn!(%pool, %server, reason, "the server cannot be watched"));
        self.events.send(Event::WatchLost { server, reason });
    }

    pub(super) fn credentials_failed(&self, server: Arc<str>, reason: String) {
        let pool = self.name();
        shielded(|| tracing::warn!(%pool, %server, reason, "new credentials have failed"));
        self.events.send(Event::CredentialsFailed { server, reason });
    }

    pub(super) fn registry_lost(&self, server: Arc<str>, reason: String) {
        let pool = self.name();
        shielded(|| tracing::warn!(%pool, %server, reason, "the fleet's registry is lost"));
        self.events.send(Event::FleetLost { server, reason });
    }

    /// So many since the last time, whose and why: a line a refusal would be a storm of its own.
    pub(super) fn callers_refused(
        &self,
        server: &str,
        count: u64,
        refused: &str,
        last_failure: Option<&str>,
    ) {
        let pool = self.name();
        shielded(|| {
            tracing::warn!(%pool, server, count, refused, last_failure, "callers were refused");
        });
    }

    /// `second`: of any clock; only the first refusal in each is remembered.
    pub(super) fn rejected(&self, endpoint: &Endpoint, rejection: &Rejection, second: u64) {
        shielded(|| {
            tracing::debug!(
                pool = %self.name(), %endpoint, reason = rejection.reason(), %rejection,
                "caller refused"
            );
        });
        let event = || Event::Rejected { endpoint: endpoint.clone(), rejection: rejection.clone() };
        self.events.send_rejection(second, event);
    }

    pub(super) fn leak_suspected(&self, leak: Leak) {
        shielded(|| {
            tracing::warn!(
                pool = %self.name(), endpoint = %leak.endpoint, location = leak.location,
                age = ?leak.age, idle = ?leak.idle, "suspected leak: a connection is held and not used"
            );
        });
        self.events.send(Event::LeakSuspected(leak));
    }

    pub(super) fn leak_resolved(&self, leak: Leak) {
        shielded(|| {
            tracing::info!(
                pool = %self.name(), endpoint = %leak.endpoint, location = leak.location,
                age = ?leak.age, "a suspected leak came back, or is used again"
            );
        });
        self.events.send(Event::LeakResolved(leak));
    }
}

/// A lease as a status tells of it.
pub(super) fn leak_of(endpoint: &Endpoint, lease: &Lease, now: Instant) -> Leak {
    Leak {
        endpoint: endpoint.clone(),
        location: lease.location.to_string(),
        age: lease.age(now),
        idle: lease.unused(now),
    }
}
