//! What a cluster tells in metrics as a whole; what there is at each node, that node tells.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::Cluster;
use crate::telemetry::metrics::publish_cluster;

/// As often as the nodes: a recorder may be installed at any time.
const EVERY: Duration = Duration::from_secs(1);

impl Cluster {
    /// Publishes once a second, and whenever it has been asked who the nodes are.
    pub(super) async fn keep_publishing(&self) {
        let mut answers = self.known.subscribe();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {}
                // The sender is ours, so it cannot be gone.
                _ = answers.changed() => {}
            }
            self.publish();
        }
    }

    pub(super) fn publish(&self) {
        let status = self.status(Vec::new(), Instant::now());
        publish_cluster(self.context.name(), &status, self.is_closed());
    }
}
