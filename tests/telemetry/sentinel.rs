//! What an operator sees of sentinels and of a failover, on a real set of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis_guard::{Event, GuardedPool};
use tracing::Level;

use crate::POOL;
use crate::kept::{Kept, heard};
use crate::support::log::Log;
use crate::support::{HANG, SentinelSet};
use crate::waiting::{next, soon, until};

async fn set(sentinels: usize) -> Arc<SentinelSet> {
    let builder = SentinelSet::builder().replicas(1).sentinels(sentinels);
    Arc::new(tokio::task::spawn_blocking(move || builder.start().unwrap()).await.unwrap())
}

/// Does something with the set while the pool goes on.
async fn with<T: Send + 'static>(
    set: &Arc<SentinelSet>,
    does: impl FnOnce(&SentinelSet) -> T + Send + 'static,
) -> T {
    let set = Arc::clone(set);
    tokio::task::spawn_blocking(move || does(&set)).await.unwrap()
}

fn pool(set: &SentinelSet) -> GuardedPool {
    let builder = GuardedPool::sentinel(set.sentinels(), set.name()).name(POOL);
    builder.acquire_timeout(HANG).response_timeout(HANG).max_connections(4).build().unwrap()
}

/// Begins it again if the sentinels give it up.
fn fail_over(set: &SentinelSet) {
    set.fail_over();
    set.moved_from(0);
}

fn crash_sentinels(set: &SentinelSet) {
    (0..set.sentinels().len()).for_each(|index| set.sentinel(index).crash());
}

const CONNECTED: &str = "redis_guard_sentinel_connected{}";
const MOVES: &str = "redis_guard_master_changes_total{}";

#[tokio::test]
async fn a_failover_is_one_move_and_every_count_stays_right() {
    let _heard = heard();
    let kept = Kept::default();
    let _local = ::metrics::set_default_local_recorder(&kept);
    let set = set(3).await;
    let pool = pool(&set);
    soon("connections", pool.warm_up(2)).await.unwrap();
    let of = |name: &str, server: &str| format!("{name}{{server={server}}}");
    let dialed = |server: &str| {
        kept.counter(&format!("redis_guard_dials_total{{server={server},outcome=connected}}"))
    };
    let old = set.address(0);
    until("its metrics", &pool, || {
        let limit = kept.gauge(&of("redis_guard_connection_limit", &old));
        limit == Some(4.0) && kept.gauge(CONNECTED) == Some(1.0) && kept.counter(MOVES) == Some(0)
    })
    .await;
    let dialed_before = dialed(&old);

    with(&set, fail_over).await;
    let new = set.address(1);
    until("the move", &pool, || *pool.status().server == *new).await;
    drop(soon("a lease there", pool.acquire("cart")).await.unwrap());
    until("its metrics", &pool, || {
        kept.gauge(&of("redis_guard_connection_limit", &new)) == Some(4.0)
            && kept.counter(MOVES) == Some(1)
            && dialed(&new) >= Some(1)
    })
    .await;

    assert_eq!(kept.gauge(CONNECTED), Some(1.0));
    assert_eq!(dialed(&old), dialed_before, "nothing is counted there any more");
    for (series, value) in &kept.series().gauges {
        let is_left = series.contains(&format!("server={old}"));
        let nothing = match series.contains("state=closed") {
            true => *value == 1.0,
            false => *value == 0.0 || value.is_nan(),
        };
        assert!(!is_left || nothing, "{series} lingers at {value}");
    }
    let counted = || {
        let status = pool.status();
        let named = |counts: BTreeMap<&'static str, u64>| -> BTreeMap<String, u64> {
            counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
        };
        kept.sums("redis_guard_dials_total") == named(status.dials)
            && kept.sums("redis_guard_connections_closed_total") == named(status.connections_closed)
    };
    until("the pool's counts, added up", &pool, counted).await;
    assert!(kept.sums("redis_guard_connections_closed_total")["replaced"] >= 2);

    with(&set, crash_sentinels).await;
    until("no sentinel", &pool, || kept.gauge(CONNECTED) == Some(0.0)).await;
    drop(soon("a lease without them", pool.acquire("cart")).await.unwrap());

    with(&set, |set| set.restart_sentinel(2).unwrap()).await;
    until("a sentinel", &pool, || kept.gauge(CONNECTED) == Some(1.0)).await;

    soon("close", pool.close()).await;
    until("nothing known of them", &pool, || kept.gauge(CONNECTED).is_some_and(f64::is_nan)).await;
    assert_eq!(kept.counter(MOVES), Some(1));
    assert_eq!(kept.series().fell, Vec::<String>::new());
}

#[tokio::test]
async fn sentinels_that_are_down_from_the_start_are_not_connected() {
    let _heard = heard();
    let kept = Kept::default();
    let _local = ::metrics::set_default_local_recorder(&kept);
    let pool = GuardedPool::sentinel(["redis://127.0.0.1:1"], "mymaster").build().unwrap();

    pool.acquire("test").await.unwrap_err();

    until("no sentinel", &pool, || kept.gauge(CONNECTED) == Some(0.0)).await;
    assert_eq!(kept.counter(MOVES), Some(0));
}

/// The lines at INFO and above.
fn told(log: &Log, part: &str) -> Vec<String> {
    let mut lines = log.lines(part);
    lines.retain(|line| !line.contains("DEBUG") && !line.contains("TRACE"));
    lines
}

#[track_caller]
fn assert_has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

#[tokio::test]
async fn sentinels_that_are_lost_are_one_line_and_one_event_however_often_they_are_asked() {
    let log = Log::default();
    let _listening = log.listen(Level::DEBUG);
    let set = set(2).await;
    let pool = pool(&set);
    let mut events = pool.events();
    drop(soon("a lease", pool.acquire("cart")).await.unwrap());
    let attempts = || log.lines("a sentinel does not answer").len();
    let connected = || {
        let sentinels = pool.status().sentinel.unwrap().sentinels;
        sentinels.iter().position(|sentinel| sentinel.connected)
    };
    until("a sentinel", &pool, || connected().is_some()).await;

    // One of them: the other one is asked.
    let first = connected().unwrap();
    with(&set, move |set| set.sentinel(first).crash()).await;
    until("the other one", &pool, || connected().is_some_and(|now| now != first)).await;
    assert!(attempts() > 0);
    assert_eq!(told(&log, "sentinel"), Vec::<String>::new());

    with(&set, move |set| set.sentinel(1 - first).crash()).await;
    let lost = next("the loss", &mut events, |event| matches!(event, Event::SentinelsLost { .. }));
    let Event::SentinelsLost { master, reason, .. } = lost.await else { unreachable!() };
    assert_eq!(master, "mymaster");
    for sentinel in pool.status().sentinel.unwrap().sentinels {
        assert!(reason.contains(&*sentinel.server), "{reason}");
    }
    let before = attempts();
    until("more attempts", &pool, || attempts() > before + 5).await;
    let warned = told(&log, "sentinel");
    assert_eq!(warned.len(), 1, "{warned:#?}");
    let words =
        ["WARN", "no sentinel says where the server is", "pool=shop", "master=\"mymaster\""];
    assert_has(&warned[0], &words);

    with(&set, |set| set.restart_sentinel(0).unwrap()).await;
    let found = next("a sentinel", &mut events, |event| {
        assert!(!matches!(event, Event::SentinelsLost { .. }), "told twice");
        matches!(event, Event::SentinelsFound { .. })
    });
    let Event::SentinelsFound { master, .. } = found.await else { unreachable!() };
    assert_eq!(master, "mymaster");
    let told = told(&log, "sentinel");
    assert_eq!(told.len(), 2, "{told:#?}");
    let words = ["INFO", "a sentinel says again where the server is", "pool=shop", "mymaster"];
    assert_has(&told[1], &words);
}

#[tokio::test]
async fn sentinels_that_are_down_from_the_start_are_one_line() {
    let log = Log::default();
    let _listening = log.listen(Level::DEBUG);
    let sentinels = ["redis://127.0.0.1:1", "redis://127.0.0.1:2"];
    let pool = GuardedPool::sentinel(sentinels, "mymaster").name(POOL).build().unwrap();

    let asking = async {
        while log.lines("a sentinel does not answer").len() < 8 {
            pool.acquire("cart").await.unwrap_err();
        }
    };
    soon("attempts", asking).await;

    let warned = told(&log, "no sentinel says where the server is");
    assert_eq!(warned.len(), 1, "{warned:#?}");
    assert_has(
        &warned[0],
        &["WARN", "pool=shop", "127.0.0.1:1 [refused]", "127.0.0.1:2 [refused]"],
    );
    assert_eq!(told(&log, "dial failed"), Vec::<String>::new(), "nothing was dialed");
}

#[tokio::test]
async fn a_move_is_a_warning_with_the_masters_name_and_both_servers() {
    let log = Log::default();
    let _listening = log.listen(Level::INFO);
    let set = set(2).await;
    let pool = pool(&set);
    let mut events = pool.events();
    drop(soon("a lease", pool.acquire("cart")).await.unwrap());

    with(&set, fail_over).await;
    let moved = next("the move", &mut events, |event| matches!(event, Event::MasterChanged { .. }));
    let Event::MasterChanged { master, from, to, .. } = moved.await else { unreachable!() };

    assert_eq!((&*master, &*from, &*to), ("mymaster", &*set.address(0), &*set.address(1)));
    let lines = told(&log, "the server is another one now");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let (from, to) = (format!("from={from}"), format!("to={to}"));
    assert_has(&lines[0], &["WARN", "pool=shop", "master=\"mymaster\"", &from, &to]);
}
