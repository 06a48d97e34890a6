//! What a guard shows: its status, and its metrics once a second.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::{Home, Shared};
use crate::telemetry::status::{BreakerStatus, CallsStatus, GuardStatus};
use crate::vocabulary::Reason;

/// How often a guard publishes its metrics.
const PUBLISH: Duration = Duration::from_secs(1);

impl Shared {
    /// Publishes once a second for as long as somebody holds the guard; false without a runtime.
    pub(super) fn spawn_publisher(self: &Arc<Self>) -> bool {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return false };
        runtime.spawn(publish(Publishing(Arc::downgrade(self))));
        true
    }

    pub(super) fn status(&self) -> GuardStatus {
        let now = Instant::now();
        let (name, pools) = match &self.home {
            Home::Own(own) => (own.name.clone(), None),
            Home::Pool(pool) => (pool.name().to_owned(), Some(pool.status())),
        };
        let state = self.lock();
        let counts = state.calls.ledger.counts();
        let breaker =
            state.calls.gate().map(|gate| BreakerStatus::of(gate, &state.transitions, now));
        let none = [0; Reason::ALL.len()];
        let own = state.rejected.iter().chain(std::iter::repeat(&none));
        let calls = state.calls.ledger.accounts().zip(own).map(|(account, rejected)| CallsStatus {
            rejected: crate::telemetry::status::named(&Reason::ALL, Reason::as_str, rejected),
            name: account.name,
            max: account.max,
            reserve: account.reserve,
            in_flight: account.in_use,
            waiting: account.waiting,
            admitted: account.acquired,
        });
        let mut status = GuardStatus {
            guard: name,
            limit: counts.limit,
            in_flight: counts.in_use,
            waiting: counts.waiting,
            endpoints: calls.collect(),
            breaker: breaker.unwrap_or_default(),
        };
        if let Some(pools) = pools {
            for endpoint in &mut status.endpoints {
                let pools = pools.endpoints.iter().find(|pools| pools.name == endpoint.name);
                endpoint.rejected = pools.map(|pools| pools.rejected.clone()).unwrap_or_default();
            }
            status.breaker = pools.breaker;
        }
        status
    }
}

async fn publish(publishing: Publishing) {
    let mut ticks = tokio::time::interval(PUBLISH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = publishing.0.upgrade() else { return };
        // The back-off may allow a probe that no call's end would start.
        shared.settle();
        if let Home::Own(own) = &shared.home {
            own.seconds.fetch_add(1, Ordering::Relaxed);
            own.metrics.publish_guard(&shared.status(), &own.server);
        }
    }
}

/// Says that nobody publishes any more when its runtime is shut down under it.
struct Publishing(Weak<Shared>);

impl Drop for Publishing {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.lock().publishes = false;
        }
    }
}
