//! What an operator sees of leases that share: metrics and the status in JSON.

use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redis_guard::GuardedPool;
use serde_json::Value;

use crate::waiting::until;
use crate::{lease, pair_with};

/// The endpoint's gauges of leases and of connections in use, once a sweep has published these.
async fn until_published(pool: &GuardedPool, snapshotter: &Snapshotter, leases: [f64; 2]) {
    let names = ["redis_guard_endpoint_leases", "redis_guard_endpoint_in_use"];
    let mut seen = [None; 2];
    until(&format!("{names:?} at {leases:?}"), pool, || {
        // Taking a snapshot sets gauges back until the next sweep.
        for (key, unit, described, value) in snapshotter.snapshot().into_vec() {
            let key = key.key();
            let is_ours = key.labels().any(|it| (it.key(), it.value()) == ("endpoint", "cart"));
            let Some(at) = names.iter().position(|name| *name == key.name() && is_ours) else {
                continue;
            };
            assert!(unit.is_some() && described.is_some(), "{key} is described");
            if let DebugValue::Gauge(value) = value {
                seen[at] = Some(value.into_inner());
            }
        }
        seen == leases.map(Some)
    })
    .await;
}

#[tokio::test]
async fn leases_out_and_of_them_those_with_a_connection_are_gauges() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _local = ::metrics::set_default_local_recorder(&recorder);
    let (_server, pool) = pair_with(|builder| builder.leak_after(Duration::from_millis(40)));
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(lease(&pool, "cart").await);
    }

    until_published(&pool, &snapshotter, [5.0, 0.0]).await;
    for lease in &mut all[..2] {
        lease.make_exclusive().await.unwrap();
    }
    until_published(&pool, &snapshotter, [5.0, 2.0]).await;
    all.remove(0);
    until_published(&pool, &snapshotter, [4.0, 1.0]).await;
    drop(all);
    until_published(&pool, &snapshotter, [0.0, 0.0]).await;
}

#[tokio::test]
async fn the_status_in_json_has_them_too() {
    let (_server, pool) = pair_with(|builder| builder.leak_after(Duration::from_millis(40)));
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(lease(&pool, "cart").await);
    }
    all[0].make_exclusive().await.unwrap();
    until("they are idle", &pool, || {
        pool.status().idle_leases.first().is_some_and(|idle| idle.count == 2)
    })
    .await;

    let json: Value = serde_json::to_value(pool.status()).unwrap();

    let endpoints = json["endpoints"].as_array().unwrap();
    let cart = endpoints.iter().find(|endpoint| endpoint["name"] == "cart").unwrap();
    assert_eq!((&cart["leases"], &cart["in_use"]), (&3.into(), &1.into()));
    let idle = json["idle_leases"].as_array().unwrap();
    assert_eq!(idle.len(), 1, "{idle:?}");
    assert_eq!((&idle[0]["endpoint"], &idle[0]["count"]), (&"cart".into(), &2.into()));
    assert!(idle[0]["location"].as_str().unwrap().contains("multiplex/main.rs"), "{idle:?}");
    for seconds in ["age_seconds", "idle_seconds"] {
        assert!(idle[0][seconds].as_f64().unwrap() >= 0.04, "{idle:?}");
    }
}
