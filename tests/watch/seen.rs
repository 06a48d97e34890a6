//! What the pool knows of its server.

use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use redis_guard::server::{ServerEvent, ServerWatch};
use redis_guard::{Event, LimitedBy};

use crate::support::{TestServer, unhurried};
use crate::waiting::{cmd, next, poll_once, soon, until};
use crate::{builder, heard, hold, rejected};

#[tokio::test]
async fn the_status_shows_what_is_in_use_of_what_there_is() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let pool = builder(&server).build().unwrap();
    let _occupants = server.fill_to_leave(70);

    drop(pool.acquire("test").await.unwrap());

    heard("what is in use", &pool, |seen| seen.snapshot.used() == Some(31)).await;
    let watch = pool.status().watch;
    assert_eq!(watch.observation.unwrap().ceiling, Some(100));
    assert!((watch.saturation.unwrap() - 0.31).abs() < 1e-9, "{:?}", watch.saturation);
    assert!(watch.age.unwrap() < Duration::from_secs(5));
    assert_eq!((watch.rejections_seen, watch.trouble), (0, None));
    assert_eq!(pool.status().limited_by, LimitedBy::PriceLaw);
}

#[tokio::test]
async fn what_others_are_refused_is_counted() {
    let server = TestServer::builder().maxclients(20).start().unwrap();
    let pool = builder(&server).build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    heard("the first word", &pool, |_| true).await;

    let mut occupants = server.fill();
    occupants.top_up();
    occupants.top_up();

    until("three refusals", &pool, || pool.status().watch.rejections_seen == 3).await;
    assert_eq!(pool.status().watch.rejections_seen, rejected(&server));
    assert!(crate::support::dials(&pool).keys().all(|outcome| *outcome == "connected"));
}

#[tokio::test]
async fn what_was_refused_before_is_not_news() {
    let server = TestServer::builder().maxclients(20).start().unwrap();
    server.fill().free();
    assert_eq!(rejected(&server), 1);

    let pool = builder(&server).build().unwrap();
    drop(pool.acquire("test").await.unwrap());

    heard("a second word", &pool, |seen| seen.new_rejections.is_some()).await;
    assert_eq!(pool.status().watch.rejections_seen, 0);
}

#[tokio::test]
async fn the_rate_of_new_connections_is_seen() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    heard("the first word", &pool, |_| true).await;

    drop(server.fill_to_leave(server.admin().maxclients() - server.admin().used_slots() - 200));

    // They may take long, and the pool is not asked meanwhile.
    let churns = |rate: Option<f64>| rate.is_some_and(|rate| rate > 4.0);
    heard("the churn", &pool, |seen| churns(seen.connections_per_second)).await;
}

#[tokio::test]
async fn blocked_clients_are_seen() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    pool.warm_up(4).await.unwrap();
    let mut leases = hold(&pool, 3).await;
    let blpop = cmd("BLPOP nothing 0");
    let mut blocked: Vec<_> = leases
        .iter_mut()
        .map(|lease| Box::pin(blpop.query_async::<redis_guard::redis::Value>(lease)))
        .collect();
    for call in &mut blocked {
        assert!(poll_once(call).is_pending());
    }

    drop(pool.acquire("test").await.unwrap());

    heard("who is blocked", &pool, |seen| seen.snapshot.blocked_clients == Some(3)).await;
}

#[tokio::test]
async fn a_replica_takes_a_slot_and_its_loss_is_an_event() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let mut events = pool.events();
    drop(pool.acquire("test").await.unwrap());
    heard("the operator and the lease", &pool, |seen| seen.snapshot.used() == Some(2)).await;

    let master = format!("127.0.0.1 {}", server.port());
    let replica = TestServer::builder().arg("replicaof", &master).start().unwrap();
    server.admin().text(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    heard("the replica", &pool, |seen| {
        seen.replicas_online == Some(1) && seen.snapshot.used() == Some(3)
    })
    .await;
    drop(replica);

    let lost = |event: &Event| {
        matches!(event, Event::Server { event: ServerEvent::ReplicaLost { .. }, .. })
    };
    let event = next("the loss", &mut events, lost).await;
    let Event::Server { event: ServerEvent::ReplicaLost { online, expected, .. }, .. } = event
    else {
        unreachable!()
    };
    assert_eq!((online, expected), (0, 1));
    heard("its slot", &pool, |seen| seen.snapshot.used() == Some(2)).await;
    assert_eq!(pool.status().watch.observation.unwrap().replicas_expected, Some(1));
}

#[tokio::test]
async fn a_restart_is_an_event_and_no_refusals() {
    let server = TestServer::builder().maxclients(20).start().unwrap();
    server.fill().free();
    let pool = builder(&server).build().unwrap();
    let mut events = pool.events();
    drop(pool.acquire("test").await.unwrap());
    heard("the first word", &pool, |seen| seen.snapshot.rejected_connections == Some(1)).await;

    server.restart().unwrap();
    // The first lease may be of a connection whose end has not been noticed yet.
    let pong = async {
        loop {
            let mut lease = crate::support::ask_until_served(&pool).await;
            if cmd("PING").query_async::<String>(&mut lease).await.is_ok() {
                break;
            }
        }
    };
    soon("an answer", pong).await;

    let restarted =
        |event: &Event| matches!(event, Event::Server { event: ServerEvent::Restarted, .. });
    next("the restart", &mut events, restarted).await;
    let seen = pool.status().watch;
    assert_eq!(seen.rejections_seen, 0);
    assert_eq!(seen.observation.unwrap().snapshot.rejected_connections, Some(0));
}

#[tokio::test]
async fn a_changed_ceiling_is_an_event() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let pool = builder(&server).build().unwrap();
    let mut events = pool.events();
    drop(pool.acquire("test").await.unwrap());
    heard("the ceiling", &pool, |seen| seen.ceiling == Some(100)).await;

    server.admin().set_maxclients(60);

    let changed = |event: &Event| {
        matches!(
            event,
            Event::Server { event: ServerEvent::CeilingChanged { from: 100, to: 60, .. }, .. }
        )
    };
    next("the change", &mut events, changed).await;
}

#[tokio::test]
async fn what_is_seen_is_in_the_metrics() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let server = TestServer::builder().maxclients(40).start().unwrap();
    let pool = builder(&server).name("watched").build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    heard("the first word", &pool, |_| true).await;
    let occupants = server.fill();
    until("the refusal", &pool, || pool.status().watch.rejections_seen == 1).await;
    drop(occupants);

    let (mut used, mut ceiling, mut saturation, mut refused) = (0.0, 0.0, 0.0, 0);
    let seen = async {
        while (used, ceiling, saturation, refused) != (40.0, 40.0, 1.0, 1) {
            for (key, _, _, value) in snapshotter.snapshot().into_vec() {
                match (key.key().name(), value) {
                    ("redis_guard_server_used_connections", DebugValue::Gauge(value)) => {
                        used = f64::max(used, value.0);
                    }
                    ("redis_guard_server_maxclients", DebugValue::Gauge(value)) => {
                        ceiling = f64::max(ceiling, value.0);
                    }
                    ("redis_guard_server_saturation_ratio", DebugValue::Gauge(value)) => {
                        saturation = f64::max(saturation, value.0);
                    }
                    (
                        "redis_guard_server_rejected_connections_total",
                        DebugValue::Counter(value),
                    ) => refused = refused.max(value),
                    _ => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the metrics", seen).await;
}

#[tokio::test]
async fn of_several_servers_the_worst_is_told() {
    let quiet = TestServer::builder().maxclients(1000).start().unwrap();
    let tight = TestServer::builder().maxclients(20).start().unwrap();
    let pools = [&quiet, &tight].map(|server| builder(server).build().unwrap());
    for pool in &pools {
        drop(pool.acquire("test").await.unwrap());
        heard("the first word", pool, |_| true).await;
    }

    let watch = ServerWatch::over(pools);

    let (server, seen) = watch.worst().unwrap();
    assert!(server.ends_with(&format!(":{}", tight.port())), "{server}");
    assert_eq!(seen.ceiling, Some(20));
    assert_eq!(watch.each().len(), 2);
}

#[tokio::test]
async fn a_pool_that_nobody_has_used_knows_nothing_and_opens_nothing() {
    let server = TestServer::start().unwrap();
    let pool = unhurried(server.url()).build().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(pool.watch().worst().is_none());
    assert_eq!(pool.status().live, 0);
}

/// Where INFO is a verbatim string.
#[tokio::test]
async fn a_pool_that_speaks_resp3_sees_its_server() {
    let server = TestServer::start().unwrap();
    let url = format!("redis://127.0.0.1:{}?protocol=resp3", server.port());
    let pool = unhurried(url).build().unwrap();
    pool.warm_up(1).await.unwrap();

    until("INFO", &pool, || pool.status().watch.observation.is_some()).await;
}
