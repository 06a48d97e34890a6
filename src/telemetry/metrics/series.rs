//! The series that name a server, and what becomes of them when a pool's server moves.

use std::collections::HashMap;
use std::sync::Arc;

use metrics::{Key, Label, Level, Metadata, SharedString};

use crate::BreakerState;

const METADATA: Metadata<'_> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// The gauges and counters of a pool at its server.
///
/// No recorder takes a series back. So when the server moves, as after a failover, the gauges of the one
/// before get the values that are true of it from then on, and the counters of the new one begin at zero:
/// the pool's own counts go on, and a series that begins with all of them would look like as many events
/// at once. The counters of the one before stand still and never fall, so that `rate()` takes no move for
/// a restart, and go on where they were if it becomes the server again. Over all servers they add up to
/// the pool's counts. What was counted since the last publication, a second's worth with the closing of
/// the connections to the one before, is published as the new one's.
#[derive(Debug)]
pub(super) struct Series {
    pool: SharedString,
    server: Arc<str>,
    /// The gauges of `server` that were published last.
    gauges: Vec<Key>,
    /// Counts as of the last publication, by what they are counts of.
    totals: HashMap<Key, u64>,
    /// What of them is each server's.
    counts: HashMap<Key, u64>,
}

impl Series {
    pub(super) fn new(pool: SharedString, server: Arc<str>) -> Self {
        Self { pool, server, gauges: Vec::new(), totals: HashMap::new(), counts: HashMap::new() }
    }

    /// Starts a publication: what follows is of this server.
    pub(super) fn start(&mut self, server: &Arc<str>) {
        let gauges = std::mem::take(&mut self.gauges);
        if self.server != *server {
            self.server = Arc::clone(server);
            gauges.iter().for_each(|key| set(key, once_left(key)));
        }
    }

    pub(super) fn gauge(&mut self, name: &'static str, labels: &[Label], value: f64) {
        let key = self.key(name, labels);
        set(&key, value);
        self.gauges.push(key);
    }

    /// Publishes what of the pool's count, `total`, is this server's.
    pub(super) fn counter(&mut self, name: &'static str, labels: &[Label], total: u64) {
        let key = self.key(name, labels);
        self.count(key, Key::from_parts(name, labels.to_vec()), total);
    }

    /// Publishes a count that is the server's own, whatever the pool has seen at others.
    pub(super) fn servers_counter(&mut self, name: &'static str, total: u64) {
        let key = self.key(name, &[]);
        self.count(key.clone(), key, total);
    }

    fn count(&mut self, key: Key, of: Key, total: u64) {
        let before = self.totals.insert(of, total).unwrap_or(0);
        // Less than before is a count that was started anew.
        let new = total.checked_sub(before).unwrap_or(total);
        let count = self.counts.entry(key.clone()).or_default();
        *count += new;
        metrics::with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
            .absolute(*count);
    }

    fn key(&self, name: &'static str, labels: &[Label]) -> Key {
        let own = [
            Label::new("pool", self.pool.clone()),
            Label::new("server", SharedString::from_shared(Arc::clone(&self.server))),
        ];
        Key::from_parts(name, [&own, labels].concat())
    }
}

fn set(key: &Key, value: f64) {
    metrics::with_recorder(|recorder| recorder.register_gauge(key, &METADATA)).set(value);
}

/// The value of a gauge of a server that the pool has left. It has nothing there, and no dial to hold
/// back; of what it knew it knows nothing: what is not a number passes no comparison, so that no rule
/// takes it for a server that is full, or for a share of nothing.
fn once_left(key: &Key) -> f64 {
    let name = key.name();
    let was_known = ["redis_guard_server_", "redis_guard_fleet_"];
    let is_closed = || key.labels().any(|label| label.value() == BreakerState::Closed.as_str());
    match name {
        _ if was_known.iter().any(|prefix| name.starts_with(prefix)) => f64::NAN,
        "redis_guard_breaker_state" if is_closed() => 1.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;

    /// Values by name and server.
    type Seen = BTreeMap<(String, String), DebugValue>;

    /// What a recorder has of the pool after these publications.
    fn published(publish: impl FnOnce(&mut Series)) -> Seen {
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || {
            publish(&mut Series::new("shop".into(), "a:1".into()));
        });
        let samples = recorder.snapshotter().snapshot().into_vec().into_iter();
        let named = samples.map(|(key, _, _, value)| {
            let label = |name| key.key().labels().find(|label| label.key() == name).unwrap();
            assert_eq!(label("pool").value(), "shop");
            ((key.key().name().to_owned(), label("server").value().to_owned()), value)
        });
        named.collect()
    }

    fn at(name: &str, server: &str) -> (String, String) {
        (name.to_owned(), server.to_owned())
    }

    fn gauge(seen: &Seen, name: &str, server: &str) -> f64 {
        match &seen[&at(name, server)] {
            DebugValue::Gauge(value) => value.into_inner(),
            other => panic!("{name} is {other:?}"),
        }
    }

    fn count(series: &mut Series, server: &str, total: u64) {
        series.start(&server.into());
        series.counter("dials", &[], total);
    }

    #[test]
    fn each_server_gets_what_was_counted_at_it() {
        let seen = published(|series| {
            count(series, "a:1", 46);
            count(series, "b:1", 46);
            count(series, "b:1", 50);
            count(series, "a:1", 51);
        });
        assert_eq!(seen[&at("dials", "a:1")], DebugValue::Counter(47));
        assert_eq!(seen[&at("dials", "b:1")], DebugValue::Counter(4));
    }

    #[test]
    fn a_count_of_the_servers_own_goes_on_where_it_was_started_anew() {
        let name = "redis_guard_server_rejected_connections_total";
        let seen = published(|series| {
            for (server, total) in [("a:1", 46), ("b:1", 50), ("a:1", 0), ("a:1", 2)] {
                series.start(&server.into());
                series.servers_counter(name, total);
            }
        });
        assert_eq!(seen[&at(name, "a:1")], DebugValue::Counter(48));
        assert_eq!(seen[&at(name, "b:1")], DebugValue::Counter(50));
    }

    #[test]
    fn the_gauges_of_a_server_that_was_left_say_that_nothing_is_there() {
        let gauges = |series: &mut Series, server: &str| {
            series.start(&server.into());
            series.gauge("db_client_connection_max", &[], 8.0);
            series.gauge("redis_guard_server_saturation_ratio", &[], 1.0);
            series.gauge("redis_guard_fleet_share", &[], 3.0);
        };
        let seen = published(|series| {
            gauges(series, "a:1");
            gauges(series, "b:1");
        });
        assert_eq!(gauge(&seen, "db_client_connection_max", "a:1"), 0.0);
        assert!(gauge(&seen, "redis_guard_server_saturation_ratio", "a:1").is_nan());
        assert!(gauge(&seen, "redis_guard_fleet_share", "a:1").is_nan());
        assert_eq!(gauge(&seen, "db_client_connection_max", "b:1"), 8.0);
        assert_eq!(gauge(&seen, "redis_guard_server_saturation_ratio", "b:1"), 1.0);
    }

    #[test]
    fn the_breaker_at_a_server_that_was_left_is_closed() {
        for (state, value) in [("closed", 1.0), ("open", 0.0), ("half_open", 0.0)] {
            let seen = published(|series| {
                let state = [Label::from_static_parts("state", state)];
                series.gauge("redis_guard_breaker_state", &state, 1.0 - value);
                series.start(&"b:1".into());
            });
            assert_eq!(gauge(&seen, "redis_guard_breaker_state", "a:1"), value, "{state}");
        }
    }
}
