//! Log lines, as a subscriber gets them.

use redis_guard::{Backoff, redis};

use crate::support::log::Log;
use crate::waiting::{HANG, ready, until};
use crate::{builder, live_through_an_outage, server};

/// Each line has all of these.
fn assert_each(lines: &[String], count: usize, parts: &[&str]) {
    assert_eq!(lines.len(), count, "{lines:#?}");
    for (line, part) in lines.iter().flat_map(|line| parts.iter().map(move |part| (line, part))) {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

#[tokio::test]
async fn a_refused_dial_is_a_warning_with_pool_server_words_and_the_next_time() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::WARN);
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();

    pool.acquire("test").await.unwrap_err();

    let port = format!("server=127.0.0.1:{}", server.port());
    let words = "ERR max number of clients reached";
    let parts = ["WARN", "pool=shop", &port, "outcome=max_clients", words, "next_dial_in=60s"];
    assert_each(&log.lines("dial failed"), 1, &parts);
}

#[tokio::test]
async fn every_transition_is_a_warning_with_pool_server_and_both_states() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::WARN);
    let server = server();
    let pool = builder(&server).build().unwrap();
    live_through_an_outage(&server, &pool).await;

    let port = format!("server=127.0.0.1:{}", server.port());
    let changes = log.lines("breaker changed");
    assert_each(&changes, changes.len(), &["WARN", "pool=shop", &port]);
    assert!(changes[0].contains("from=closed to=open"), "{}", changes[0]);
    assert!(changes.last().unwrap().contains("from=half_open to=closed"), "{changes:#?}");
}

#[tokio::test]
async fn a_leak_is_a_warning_with_pool_endpoint_and_place() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::INFO);
    let server = server();
    let pool = builder(&server).build().unwrap();
    let lease = pool.acquire("checkout").await.unwrap();
    until("a leak", &pool, || !pool.status().leaks.is_empty()).await;
    drop(lease);

    let parts = ["pool=shop", "endpoint=checkout", file!(), "age="];
    let suspected = log.lines("suspected leak: a connection");
    assert_each(&suspected, 1, &[&["WARN"], &parts[..]].concat());
    assert_each(&log.lines("came back"), 1, &[&["INFO"], &parts[..]].concat());
}

#[tokio::test]
async fn refused_callers_are_one_warning_a_sweep_with_their_number_and_the_servers_words() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::WARN);
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();
    for _ in 0..1_000 {
        pool.acquire("test").await.unwrap_err();
    }
    pool.shared("cart").send(redis::cmd("GET").arg("k")).await.unwrap_err();

    until("the line", &pool, || {
        log.lines("callers were refused").iter().any(|line| line.contains("cart"))
    })
    .await;

    let port = format!("127.0.0.1:{}", server.port());
    let lines = log.lines("callers were refused");
    assert_each(
        &lines,
        lines.len(),
        &["WARN", "pool=shop", &port, "max number of clients reached"],
    );
    let all = lines.join("\n");
    for whose in ["test breaker_open ", "cart breaker_open 1"] {
        assert!(all.contains(whose), "endpoint, reason and number: {all}");
    }
    assert!(lines.len() <= 4, "{} lines for a thousand refusals", lines.len());
}

/// Those of before the first sweep, too, and those of between two runtimes.
#[test]
fn each_refused_caller_is_counted_once_in_the_log_and_the_history() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::WARN);
    let server = server();
    let _occupants = server.fill();
    let pool = || builder(&server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let other = pool();
    runtime().block_on(async { other.acquire("first").await.unwrap_err() });

    // The breaker is open already, so that no caller waits.
    let pool = pool();
    for total in [30, 60] {
        ready(pool.acquire("early")).unwrap().unwrap_err();
        runtime().block_on(async {
            for _ in 1..30 {
                pool.acquire("early").await.unwrap_err();
            }
            let kept = || pool.recent_rates().iter().map(|rate| rate.refused).sum::<u64>();
            until("the history", &pool, || kept() >= total).await;
            assert_eq!(kept(), total);
        });
    }

    let lines = log.lines("early breaker_open");
    let count = |line: &String| {
        let after = line.split("early breaker_open ").nth(1).unwrap();
        after.split('"').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(lines.iter().map(count).sum::<u64>(), 60, "{lines:#?}");
}

#[tokio::test]
async fn each_refused_caller_is_a_line_for_those_who_debug() {
    let log = Log::default();
    let _listening = log.listen(tracing::Level::DEBUG);
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();
    for _ in 0..3 {
        pool.acquire("checkout").await.unwrap_err();
    }
    let words = "max number of clients reached";
    let parts = ["DEBUG", "pool=shop", "endpoint=checkout", "reason=\"breaker_open\"", words];
    assert_each(&log.lines("caller refused"), 3, &parts);
}
