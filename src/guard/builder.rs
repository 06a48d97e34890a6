//! The guard's builder: collects settings, then checks all of them at once.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::calls::Calls;
use super::{Guard, Home, Own};
use crate::ledger::Ledger;
use crate::policy::{Budgets, Common, Problems, default_queue_limit};
use crate::server::gate::Gate;
use crate::telemetry::event::EventBus;
use crate::telemetry::metrics::Metrics;
use crate::{Backoff, Breaker, Budget, BuildError, Endpoint};

/// A probe that is not over by then is given up, so that a call that hangs does not keep the breaker
/// half open.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of a [`Guard`]; see [`Guard::builder`].
///
/// No setter fails: [`build`](Self::build) reports everything that is wrong, at once.
#[derive(Clone, Debug)]
#[must_use = "call `build` to get the guard"]
pub struct GuardBuilder {
    name: String,
    server: Option<String>,
    max_in_flight: usize,
    budgets: Budgets,
    acquire_timeout: Duration,
    queue_limit: Option<usize>,
    backoff: Backoff,
    breaker: Breaker,
    seed: Option<u64>,
}

impl Default for GuardBuilder {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            server: None,
            max_in_flight: 64,
            budgets: Budgets::default(),
            acquire_timeout: Duration::from_secs(1),
            queue_limit: None,
            backoff: Backoff::default(),
            breaker: Breaker::default(),
            seed: None,
        }
    }
}

impl GuardBuilder {
    /// The guard's name: the `pool` label of its metrics, and its name in logs. Default `default`. Not
    /// empty, and without control characters.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The server's address, without credentials, as refusals and the `server` label of metrics name it.
    /// Default: the guard's name.
    pub fn server(mut self, address: impl Into<String>) -> Self {
        self.server = Some(address.into());
        self
    }

    /// The most calls in flight, over all endpoints. Default 64: four for each connection of a pool
    /// of 16, this crate's default. Where every call holds a connection, as many as those. From 1 to
    /// 1,000,000.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// Gives an endpoint its own budget, in calls in flight; see [`Budget`]. The name
    /// [`Endpoint::LANES`] takes none.
    pub fn endpoint(mut self, endpoint: impl Into<Endpoint>, budget: Budget) -> Self {
        self.budgets.named.push((endpoint.into(), budget));
        self
    }

    /// The budget of each endpoint that has none of its own. Default: all of `max_in_flight`, no
    /// reserve.
    pub fn default_budget(mut self, budget: Budget) -> Self {
        self.budgets.default = Some(budget);
        self
    }

    /// How long a caller waits that may ([`Guard::wait`],
    /// [`GuardLayer::queued`](crate::tower::GuardLayer::queued)). Default 1 s, the patience of an
    /// interactive request. Zero never waits; at most a year.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// How many callers may wait at a time. Default: as many as could be served within the acquire
    /// timeout at 1 ms a call, between 64 and 65,536; whoever came after them would time out anyway. From
    /// 1 to 1,000,000.
    pub fn queue_limit(mut self, limit: usize) -> Self {
        self.queue_limit = Some(limit);
        self
    }

    /// The back-off between probes. Default: equal jitter, 50 ms to 5 s; see [`Backoff`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// When the breaker trips; see [`Breaker`].
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = breaker;
        self
    }

    /// Seeds the jitter, for tests that must repeat. Default: random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the guard. It publishes its metrics once a second from the first call on.
    ///
    /// # Errors
    ///
    /// [`BuildError`] with everything that is wrong: a limit that is zero or beyond its bound, a reserve
    /// above its max, reserves above the total, an invalid, reserved or repeated endpoint name.
    pub fn build(self) -> Result<Guard, BuildError> {
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(BuildError::new(problems));
        }
        let queue_limit = self
            .queue_limit
            .unwrap_or_else(|| default_queue_limit(self.max_in_flight, self.acquire_timeout));
        let ledger = Ledger::new(self.max_in_flight, queue_limit, &self.budgets);
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        let gate = Gate::alone(Some(self.backoff), self.breaker, PROBE_TIMEOUT, seed);
        let server = self.server.unwrap_or_else(|| self.name.clone()).into();
        let own = Own {
            metrics: Metrics::new(&self.name, &server, Arc::default()),
            server,
            acquire_timeout: self.acquire_timeout,
            events: EventBus::new(),
            seconds: AtomicU64::new(0),
            name: self.name,
        };
        Ok(Guard::new(Calls::new(ledger, Some(gate)), Home::Own(Box::new(own))))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        problems.common(&Common {
            name: &self.name,
            total: ("max_in_flight", self.max_in_flight),
            budgets: &self.budgets,
            acquire_timeout: self.acquire_timeout,
            queue_limit: self.queue_limit,
            backoff: Some(self.backoff),
            breaker: &self.breaker,
        });
        problems.into_vec()
    }
}
