//! What the watch knows, and whom it tells.

use std::sync::Arc;

use tokio::time::Instant;

use super::Watch;
use crate::policy::QUIET;
use crate::server::Observation;
use crate::telemetry::event::Event;
use crate::telemetry::status::{FleetStatus, LimitedBy, WatchStatus};

/// What the watch knows, for status and metrics.
#[derive(Debug, Default)]
pub(in crate::pool) struct Watched {
    pub(super) latest: Option<(Arc<Observation>, Instant)>,
    pub(super) rejections_seen: u64,
    pub(super) trouble: Option<String>,
    pub(super) source: LimitedBy,
    /// When the limit was set last.
    pub(super) steered: Option<Instant>,
    pub(super) fleet: Option<FleetStatus>,
}

impl Watched {
    /// True if the limit was set since then for good, and not as a step on the way up.
    pub(in crate::pool) fn has_settled(&self, since: Instant) -> bool {
        let heard = self.latest.as_ref().is_some_and(|(_, at)| *at >= since);
        let steered = self.steered.is_some_and(|at| at >= since);
        heard && steered && self.saturation().is_some_and(|saturation| saturation >= QUIET)
    }

    pub(in crate::pool) fn status(&self, now: Instant) -> WatchStatus {
        let latest = self.latest.as_ref();
        WatchStatus {
            observation: latest.map(|(observation, _)| Arc::clone(observation)),
            saturation: self.saturation(),
            age: latest.map(|(_, at)| now.saturating_duration_since(*at)),
            rejections_seen: self.rejections_seen,
            trouble: self.trouble.clone(),
        }
    }

    pub(super) fn saturation(&self) -> Option<f64> {
        self.latest.as_ref().and_then(|(observation, _)| observation.saturation())
    }

    /// True if it would be seen whether there is room.
    pub(super) fn tells_room(&self) -> bool {
        self.latest.as_ref().is_some_and(|(observation, _)| {
            observation.snapshot.rejected_connections.is_some() && observation.free().is_some()
        })
    }

    /// True if the server has told since then that it had room, and refused nobody.
    pub(super) fn sees_room(&self, since: Instant) -> bool {
        self.latest.as_ref().is_some_and(|(observation, at)| {
            *at >= since
                && observation.new_rejections == Some(0)
                && observation.free().is_some_and(|free| free > 0)
        })
    }

    pub(in crate::pool) fn fleet(&self) -> Option<FleetStatus> {
        self.fleet.clone()
    }

    pub(in crate::pool) fn source(&self) -> LimitedBy {
        self.source
    }
}

impl Watch {
    pub(super) fn report(&self, observation: Observation, now: Instant) {
        let events = observation.events.clone();
        let found = {
            let mut state = self.core.lock();
            state.watch.rejections_seen += observation.new_rejections.unwrap_or(0);
            state.watch.latest = Some((Arc::new(observation), now));
            state.watch.trouble.take().is_some()
        };
        if found {
            self.core.events.send(Event::WatchFound);
        }
        for event in events {
            let (pool, server) = (&self.core.settings.name, &self.core.dialer.server);
            tracing::warn!(%pool, %server, ?event, "the server changed");
            self.core.events.send(Event::Server(event));
        }
    }

    pub(super) fn report_trouble(&self, reason: String) {
        let new = self.core.lock().watch.trouble.replace(reason.clone()).is_none();
        if new {
            tracing::warn!(pool = %self.core.settings.name, reason, "the server cannot be watched");
            self.core.events.send(Event::WatchLost { reason });
        }
    }
}
