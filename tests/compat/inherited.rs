//! What is logged of a configuration that was another pool's.

use std::time::Duration;

use redis_guard::compat::bb8::{self, RedisConnectionManager};
use redis_guard::compat::deadpool_redis::{Manager, Pool, PoolConfig, QueueMode, Timeouts};
use redis_guard::{GuardedPool, deadpool_redis};
use tracing::Level;

use crate::support::log::Log;

const URL: &str = "redis://127.0.0.1:6379";

/// The line that is logged when a pool is built.
async fn line(build: impl AsyncFnOnce()) -> String {
    let log = Log::default();
    let listening = log.listen(Level::INFO);
    build().await;
    drop(listening);
    let lines = log.lines("built from another pool's configuration");
    let [line] = &lines[..] else { panic!("one line expected: {lines:?}") };
    line.clone()
}

#[track_caller]
fn assert_has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[tokio::test]
async fn what_deadpools_configuration_leaves_out_is_named_with_both_defaults() {
    let config = deadpool_redis::Config::from_url(URL);
    let line = line(async || drop(GuardedPool::from_config(config).build().unwrap())).await;
    let numbers = ["max_connections=16", "acquire_timeout=1s", "connect_timeout=2s"];
    assert_has(&line, &numbers);
    assert_has(&line, &["INFO", "max_size (there 2 for each CPU), wait (there no end), create"]);
    assert!(!line.contains("without_effect"), "{line}");
}

#[tokio::test]
async fn what_it_sets_is_taken_and_what_has_no_effect_is_warned_of() {
    let mut config = deadpool_redis::Config::from_url(URL);
    let minute = Some(Duration::from_secs(60));
    let timeouts = Timeouts { wait: minute, create: minute, recycle: minute };
    config.pool = Some(PoolConfig { timeouts, ..PoolConfig::new(3) });
    let line = line(async || drop(GuardedPool::from_config(config).build().unwrap())).await;
    assert_has(&line, &["WARN", "max_connections=3", "acquire_timeout=60s", "connect_timeout=60s"]);
    assert_has(&line, &["not_set=\"\"", "without_effect=\"recycle ("]);
}

#[tokio::test]
async fn a_queue_mode_is_warned_of_where_it_says_otherwise() {
    let build = |mode| {
        let manager = Manager::new(URL).unwrap();
        drop(Pool::builder(manager).queue_mode(mode).build().unwrap());
    };
    let first = line(async || build(QueueMode::Fifo)).await;
    assert_has(&first, &["WARN", "queue_mode Fifo"]);
    let last = line(async || build(QueueMode::Lifo)).await;
    assert_has(&last, &["INFO", "max_size", "wait"]);
}

#[tokio::test]
async fn what_bb8s_builder_has_that_has_no_effect_is_warned_of() {
    let manager = || RedisConnectionManager::new(URL).unwrap();
    let plain = line(async || drop(bb8::Pool::builder().build(manager()).await.unwrap())).await;
    assert_has(&plain, &["INFO", "from=\"bb8\"", "max_connections=10", "acquire_timeout=1s"]);
    assert_has(&plain, &["idle_timeout (there 10 min)", "connection_timeout (there 30 s)"]);
    let set = bb8::Pool::builder()
        .test_on_check_out(true)
        .retry_connection(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connection_timeout(Duration::from_secs(30));
    let set = line(async || drop(set.build(manager()).await.unwrap())).await;
    assert_has(&set, &["WARN", "acquire_timeout=30s", "test_on_check_out (", "retry_connection ("]);
}

#[tokio::test]
async fn nothing_is_logged_of_a_pool_of_our_own_or_one_that_is_not_built() {
    let log = Log::default();
    let _listening = log.listen(Level::INFO);
    drop(GuardedPool::builder(URL).build().unwrap());
    let mut config = deadpool_redis::Config::from_url(URL);
    config.pool = Some(PoolConfig::new(0));
    GuardedPool::from_config(config).build().unwrap_err();
    assert_eq!(log.lines("configuration"), [""; 0]);
}
