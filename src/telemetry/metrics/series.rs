//! The series that name a server, and what becomes of them when the pool leaves it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Key, Label, Level, Metadata, SharedString};

use crate::BreakerState;

const METADATA: Metadata<'_> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// The gauges and counters of a pool at its server.
///
/// No recorder takes a series back. So when the server moves, as after a failover, or leaves its cluster, its
/// gauges get the values that are true of it from then on. Its counters stand still and never fall, so that
/// `rate()` takes no move for a restart, and go on where they were if it comes back; of a cluster's node that
/// is another node then. Those of a server that the pool moves to begin at zero: the pool's own counts go on,
/// and a series that begins with all of them would look like as many events at once. Over all servers they add
/// up to the pool's counts. What was counted since the last publication, a second's worth with the closing of
/// the connections to the one before, is published as the new one's.
#[derive(Debug)]
pub(super) struct Series {
    pool: SharedString,
    server: Arc<str>,
    /// The gauges of `server` that were published last.
    gauges: Vec<Key>,
    /// There is nothing left for a gauge to say.
    left: bool,
    /// Counts as of the last publication, by what they are counts of.
    totals: HashMap<Key, u64>,
    counters: Arc<Counters>,
}

/// The counters of all servers of a pool.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Published>);

#[derive(Debug, Default)]
struct Published {
    /// What each series says.
    counts: HashMap<Key, u64>,
    /// What the servers' own counts were then.
    servers: HashMap<Key, u64>,
}

impl Counters {
    fn lock(&self) -> MutexGuard<'_, Published> {
        // A recorder that panicked leaves counts that are right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Published {
    /// Under the lock of all counters: two nodes at one address, one that has left and is not empty yet and one that
    /// came back, add to the same series.
    fn add(&mut self, key: Key, new: u64) {
        let count = self.counts.entry(key.clone()).or_default();
        *count += new;
        metrics::with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
            .absolute(*count);
    }
}

/// How much a count has grown. Less than before is one that was started anew.
fn growth(totals: &mut HashMap<Key, u64>, of: Key, total: u64) -> u64 {
    let before = totals.insert(of, total).unwrap_or(0);
    total.checked_sub(before).unwrap_or(total)
}

impl Series {
    pub(super) fn new(pool: SharedString, server: Arc<str>, counters: Arc<Counters>) -> Self {
        let (gauges, totals) = (Vec::new(), HashMap::new());
        Self { pool, server, gauges, left: false, totals, counters }
    }

    /// Starts a publication: what follows is of this server.
    pub(super) fn start(&mut self, server: &Arc<str>) {
        let gauges = std::mem::take(&mut self.gauges);
        if self.server != *server {
            self.server = Arc::clone(server);
            gauges.iter().for_each(|key| set(key, once_left(key)));
        }
    }

    /// The server is left for good. From here on only what is still counted at it is published.
    pub(super) fn leave(&mut self) {
        self.left = true;
        self.gauges.drain(..).for_each(|key| set(&key, once_left(&key)));
    }

    pub(super) fn gauge(&mut self, name: &'static str, labels: &[Label], value: f64) {
        if self.left {
            return;
        }
        let key = self.key(name, labels);
        set(&key, value);
        self.gauges.push(key);
    }

    /// Publishes what of the pool's count, `total`, is this server's.
    pub(super) fn counter(&mut self, name: &'static str, labels: &[Label], total: u64) {
        let key = self.key(name, labels);
        let new = growth(&mut self.totals, Key::from_parts(name, labels.to_vec()), total);
        self.counters.lock().add(key, new);
    }

    /// Publishes a count that is the server's own, whatever the pool has seen at others.
    pub(super) fn servers_counter(&mut self, name: &'static str, total: u64) {
        let key = self.key(name, &[]);
        let mut published = self.counters.lock();
        // The pool's, for whoever is at the server next goes on with the same count.
        let new = growth(&mut published.servers, key.clone(), total);
        published.add(key, new);
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

    fn series(server: &str, counters: &Arc<Counters>) -> Series {
        Series::new("shop".into(), server.into(), Arc::clone(counters))
    }

    /// Values by name and server.
    type Seen = BTreeMap<(String, String), DebugValue>;

    /// What a recorder has of the pool after these publications.
    fn published(publish: impl FnOnce(&mut Series)) -> Seen {
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || {
            publish(&mut series("a:1", &Arc::default()));
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
        let seen = published(|series| {
            for (server, total) in [("a:1", 46), ("b:1", 50), ("a:1", 0), ("a:1", 2)] {
                series.start(&server.into());
                series.servers_counter(REJECTED, total);
            }
        });
        assert_eq!(seen[&at(REJECTED, "a:1")], DebugValue::Counter(48));
        assert_eq!(seen[&at(REJECTED, "b:1")], DebugValue::Counter(50));
    }

    const REJECTED: &str = "redis_guard_server_rejected_connections_total";

    /// What a node publishes of b:1: how many connections it may have, its dials, and the server's rejections.
    fn publish(node: &mut Series, max: f64, dials: u64, rejections: u64) {
        node.start(&"b:1".into());
        node.gauge("db_client_connection_max", &[], max);
        node.counter("dials", &[], dials);
        node.servers_counter(REJECTED, rejections);
    }

    #[test]
    fn of_a_node_that_left_its_cluster_only_what_is_counted_is_published() {
        let seen = published(|node| {
            publish(node, 8.0, 40, 5);
            node.leave();
            publish(node, 8.0, 41, 5);
        });
        assert_eq!(gauge(&seen, "db_client_connection_max", "b:1"), 0.0);
        assert_eq!(seen[&at("dials", "b:1")], DebugValue::Counter(41));
    }

    #[test]
    fn a_node_that_comes_back_goes_on_with_the_counts_of_the_one_that_left() {
        let seen = published(|left| {
            let mut back = series("b:1", &left.counters);
            publish(left, 8.0, 40, 5);
            left.leave();
            publish(&mut back, 4.0, 3, 6);
            // What was still lent when it left is closed.
            publish(left, 8.0, 41, 7);
            publish(&mut back, 4.0, 4, 7);
        });
        assert_eq!(gauge(&seen, "db_client_connection_max", "b:1"), 4.0);
        assert_eq!(seen[&at("dials", "b:1")], DebugValue::Counter(45));
        assert_eq!(seen[&at(REJECTED, "b:1")], DebugValue::Counter(7));
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
