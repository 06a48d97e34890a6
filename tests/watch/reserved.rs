//! Servers that keep slots from ordinary clients: KeyDB, and Valkey from 9.2 on.

use std::time::Duration;

use redis_guard::{Fleet, GuardedPool};

use crate::fake::Fake;
use crate::heard;
use crate::support::unhurried;
use crate::waiting::until;

const VALKEY: &str = "redis_version:7.2.4 valkey_version:9.2.0 connected_priority_clients:5";
const KEYDB: &str = "redis_version:6.3.4 mvcc_depth:0";

/// One with 30 of 100 slots in use.
async fn server(product: &str) -> Fake {
    let fake = Fake::start(&format!(
        "{product} connected_clients:30 maxclients:100 rejected_connections:0"
    ))
    .await;
    fake.replies_to_config("maxclients-reserved", &pair("maxclients-reserved", "60"));
    fake
}

fn pair(name: &str, value: &str) -> String {
    format!("*2\r\n${}\r\n{name}\r\n${}\r\n{value}\r\n", name.len(), value.len())
}

async fn pool(fake: &Fake) -> GuardedPool {
    let pool = unhurried(fake.url()).build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    pool
}

#[tokio::test]
async fn what_keydb_reserves_is_not_counted_on() {
    let fake = server(KEYDB).await;
    let pool = pool(&fake).await;

    heard("the reserve", &pool, |seen| seen.snapshot.reserved_slots == Some(60)).await;

    heard("a ceiling", &pool, |seen| seen.ceiling == Some(40) && seen.free() == Some(10)).await;
    let saturation = pool.status().watch.saturation.unwrap();
    assert!((saturation - 0.75).abs() < 1e-9, "{saturation}");
}

#[tokio::test]
async fn what_valkey_reserves_is_not_counted_on_less_what_those_have_whom_it_is_for() {
    let fake = server(VALKEY).await;
    fake.replies_to_config("priority-subnets", &pair("priority-subnets", "10.0.0.0/8"));
    let pool = pool(&fake).await;

    heard("a ceiling", &pool, |seen| seen.ceiling == Some(45)).await;
}

#[tokio::test]
async fn without_priority_subnets_valkey_reserves_nothing() {
    let fake = server(VALKEY).await;
    fake.replies_to_config("priority-subnets", &pair("priority-subnets", ""));
    let pool = pool(&fake).await;

    heard("that", &pool, |seen| seen.snapshot.reserved_slots == Some(0)).await;

    assert_eq!(pool.status().watch.observation.unwrap().ceiling, Some(100));
}

/// A user without the right would fill the server's log of denials.
#[tokio::test]
async fn whoever_may_not_ask_asks_once() {
    let fake = server(KEYDB).await;
    fake.replies_to_config("maxclients-reserved", "-NOPERM this user has no permissions\r\n");
    let pool = pool(&fake).await;

    until("more questions", &pool, || fake.infos() > 3).await;

    assert_eq!(fake.questions_about("maxclients-reserved"), 1);
    assert_eq!(pool.status().watch.trouble, None);
}

#[tokio::test]
async fn a_server_that_gives_no_sign_of_it_is_not_asked() {
    let fake = server("redis_version:7.0.15").await;
    let pool = pool(&fake).await;

    until("more questions", &pool, || fake.infos() > 2).await;

    assert_eq!(fake.questions_about("maxclients-reserved"), 0);
}

#[tokio::test]
async fn the_fleets_registry_is_told() {
    let fake = server(KEYDB).await;
    fake.replies_to_scripts("*7\r\n:9\r\n:2000\r\n:7000\r\n:1\r\n:16\r\n:300\r\n:0\r\n");
    let pool = unhurried(fake.url()).fleet(Fleet::named("test")).build().unwrap();
    drop(pool.acquire("test").await.unwrap());

    let told = || fake.last_beat().get(10).is_some_and(|reserved| reserved == "60");
    let at_once = tokio::time::timeout(Duration::from_secs(20), until("it", &pool, told));
    at_once.await.expect("a heartbeat with it");
}
