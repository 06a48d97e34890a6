//! What the watch has last said of a pool's limit.

use tokio::time::Instant;

use crate::policy::QUIET;
use crate::server::Seen;
use crate::telemetry::status::{FleetStatus, LimitedBy};

/// For status, metrics and those who wait for a higher limit.
#[derive(Debug, Default)]
pub(in crate::pool) struct Steering {
    /// Who set the limit.
    pub(in crate::pool) source: LimitedBy,
    /// When it was set last.
    pub(in crate::pool) steered: Option<Instant>,
    /// Why the server cannot be watched, if that is so.
    pub(in crate::pool) trouble: Option<String>,
    /// Why nothing was asked for long, though the server may be well.
    pub(in crate::pool) unasked: Option<&'static str>,
    pub(in crate::pool) fleet: Option<FleetStatus>,
}

impl Steering {
    /// Why there is nothing newer of the server.
    pub(in crate::pool) fn why_unseen(&self) -> Option<String> {
        self.trouble.clone().or_else(|| self.unasked.map(str::to_owned))
    }

    /// True if the limit was set since then for good, and not as a step on the way up.
    pub(in crate::pool) fn has_settled(&self, seen: Option<&Seen>, since: Instant) -> bool {
        let steered = self.steered.is_some_and(|at| at >= since);
        steered
            && seen.is_some_and(|seen| {
                seen.at >= since && seen.saturation().is_some_and(|saturation| saturation >= QUIET)
            })
    }
}
