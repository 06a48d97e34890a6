//! The lanes' metrics, as a recorder gets them.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redis_guard::GuardedPool;

use crate::waiting::{HANG, poll_once, soon, until};
use crate::{ask, endpoint, hold_writes, let_writes_go, pair_with, sending};

/// Gauges by `name{endpoint}`, and the histogram's values so far.
#[derive(Debug, Default)]
struct Seen {
    gauges: BTreeMap<String, f64>,
    uses: Vec<f64>,
}

impl Seen {
    /// Taking a snapshot sets histograms back, and so they are added up.
    fn look(&mut self, snapshotter: &Snapshotter) {
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let key = key.key();
            let endpoint = key.labels().find(|label| label.key() == "endpoint");
            let name = match endpoint {
                Some(endpoint) => format!("{}{{{}}}", key.name(), endpoint.value()),
                None => key.name().to_owned(),
            };
            match value {
                DebugValue::Gauge(value) => {
                    self.gauges.insert(name, value.into_inner());
                }
                DebugValue::Histogram(values) if name == "redis_guard_shared_use_time_seconds" => {
                    self.uses.extend(values.into_iter().map(|value| value.into_inner()));
                }
                _ => {}
            }
        }
    }

    fn is(&self, name: &str, value: f64) -> bool {
        self.gauges.get(name).is_some_and(|now| (now - value).abs() < f64::EPSILON)
    }

    async fn until(&mut self, pool: &GuardedPool, snapshotter: &Snapshotter, name: &str, to: f64) {
        until(name, pool, || {
            self.look(snapshotter);
            self.is(name, to)
        })
        .await;
    }
}

#[tokio::test]
async fn lanes_commands_in_flight_and_their_times_are_recorded() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _local = ::metrics::set_default_local_recorder(&recorder);
    let (server, pool) = pair_with(|builder| {
        builder.shared_lanes(2).leak_after(Duration::from_millis(40)).response_timeout(HANG)
    });
    let mut seen = Seen::default();
    for _ in 0..10 {
        let _: String = ask(&mut pool.shared("search"), "PING").await;
    }

    seen.until(&pool, &snapshotter, "redis_guard_shared_lanes", 2.0).await;
    seen.until(&pool, &snapshotter, "redis_guard_shared_in_flight{search}", 0.0).await;
    hold_writes(&server);
    let mut held: Vec<_> = (0..3).map(|_| Box::pin(sending(&pool, "search", "INCR n"))).collect();
    for held in &mut held {
        assert!(poll_once(held).is_pending());
    }
    seen.until(&pool, &snapshotter, "redis_guard_shared_in_flight{search}", 3.0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let_writes_go(&server);
    soon("all", futures_util::future::join_all(held)).await;
    seen.until(&pool, &snapshotter, "redis_guard_shared_in_flight{search}", 0.0).await;
    soon("close", pool.close()).await;
    seen.until(&pool, &snapshotter, "redis_guard_shared_lanes", 0.0).await;

    assert_eq!(endpoint(&pool, "search").shared_in_flight, 0);
    seen.uses.sort_by(f64::total_cmp);
    assert_eq!(seen.uses.len(), 13, "{:?}", seen.uses);
    assert!(seen.uses[9] < 0.1 && seen.uses[10] >= 0.1, "slow ones are visible: {:?}", seen.uses);
}
