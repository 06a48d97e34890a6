//! Whose configuration a pool was made from, for the log.

use std::time::Duration;

use crate::pool::context::Settings;
use crate::telemetry::shielded;

/// The configuration of another crate's pool that a builder was made from, where it comes to something
/// else here.
#[derive(Debug)]
pub(crate) struct Inherited {
    from: &'static str,
    not_set: Vec<&'static str>,
    without_effect: Vec<&'static str>,
}

impl Inherited {
    pub(crate) fn of(from: &'static str) -> Self {
        Self { from, not_set: Vec::new(), without_effect: Vec::new() }
    }

    /// It leaves a setting to its default, and ours is another one. `setting`: its name there, and its
    /// default.
    pub(crate) fn not_set(&mut self, setting: &'static str) {
        self.not_set.push(setting);
    }

    /// It has a setting that has no effect here. `setting`: its name there, and why.
    pub(crate) fn without_effect(&mut self, setting: &'static str) {
        self.without_effect.push(setting);
    }

    pub(super) fn log(&self, settings: &Settings, connect_timeout: Duration) {
        let Settings { name, max_connections, acquire_timeout, .. } = settings;
        let (from, not_set) = (self.from, self.not_set.join(", "));
        let without_effect = self.without_effect.join(", ");
        shielded(|| match &*without_effect {
            "" => tracing::info!(
                pool = name,
                from,
                max_connections,
                ?acquire_timeout,
                ?connect_timeout,
                not_set,
                "built from another pool's configuration"
            ),
            without_effect => tracing::warn!(
                pool = name,
                from,
                max_connections,
                ?acquire_timeout,
                ?connect_timeout,
                not_set,
                without_effect,
                "built from another pool's configuration, of which a part has no effect"
            ),
        });
    }
}
