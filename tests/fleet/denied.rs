//! A registry that cannot be had.

use std::time::Duration;

use redis_guard::{Event, Fleet, GuardedPool, LimitedBy};
use tokio::time::sleep;

use crate::fake::Fake;
use crate::service::Service;
use crate::support::{Auth, Resp, TestServer, Transport, unhurried};
use crate::waiting::{let_pass, next, until};
use crate::{HOLD, fleet, has_joined, rejected};

/// A member who logs in as a user with these rules.
fn member_with(rules: &[&str]) -> (TestServer, GuardedPool) {
    let server = TestServer::builder().maxclients(200).acl_user("app", "secret").start().unwrap();
    let rules = [&["ACL", "SETUSER", "app"], rules].concat();
    server.admin().text(&rules);
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::User("app", "secret"), 0);
    let pool = unhurried(url)
        .max_connections(30)
        .acquire_timeout(Duration::from_secs(5))
        .fleet(Fleet::named("test"))
        .build()
        .unwrap();
    (server, pool)
}

async fn goes_by(pool: &GuardedPool, source: LimitedBy, words: &str) {
    let service = Service::of(pool.clone(), 30, HOLD);
    until("the reason", pool, || pool.status().fleet.is_some_and(|fleet| fleet.trouble.is_some()))
        .await;
    let status = fleet(pool);
    let trouble = status.trouble.unwrap();
    assert!(!status.joined && trouble.contains(words), "{trouble}");
    until("everything all the same", pool, || service.live() == 30).await;
    assert_eq!(pool.status().limited_by, source);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_scripts_the_price_law_takes_over() {
    let (server, pool) = member_with(&["-eval", "-evalsha"]);
    goes_by(&pool, LimitedBy::PriceLaw, "no permissions").await;
    assert_eq!(rejected(&server), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_the_keys_the_price_law_takes_over() {
    let (_server, pool) = member_with(&["resetkeys", "~app:*"]);
    goes_by(&pool, LimitedBy::PriceLaw, "key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_info_and_scripts_it_is_max_connections() {
    let (_server, pool) = member_with(&["-eval", "-evalsha", "-info"]);
    goes_by(&pool, LimitedBy::MaxConnections, "no permissions").await;
}

#[tokio::test]
async fn the_rights_that_are_documented_are_enough() {
    let (_server, pool) = member_with(&[
        "resetkeys",
        "-@all",
        "+@connection",
        "+ping",
        "+client",
        "+reset",
        "+eval",
        "+evalsha",
        "+info",
        "+time",
        "+@hash",
        "+@sortedset",
        "+pexpire",
        "+type",
        "+del",
        "~{redis-guard:*}:*",
    ]);
    drop(pool.acquire("test").await.unwrap());
    until("membership", &pool, || has_joined(&pool)).await;
    assert_eq!(fleet(&pool).trouble, None);
}

#[tokio::test]
async fn a_right_that_is_taken_away_ends_the_membership_when_its_time_is_up() {
    let (server, pool) = member_with(&[]);
    let mut events = pool.events();
    let _service = Service::of(pool.clone(), 4, HOLD);
    until("membership", &pool, || has_joined(&pool)).await;

    server.admin().text(&["ACL", "SETUSER", "app", "-evalsha", "-eval"]);

    next("its end", &mut events, |event| matches!(event, Event::FleetLost { .. })).await;
    until("somebody else", &pool, || pool.status().limited_by == LimitedBy::PriceLaw).await;
    assert!(pool.status().live > 0);
}

#[tokio::test]
async fn a_registry_that_is_denied_is_left_alone() {
    let (server, pool) = member_with(&["-eval", "-evalsha"]);
    let _service = Service::of(pool.clone(), 4, HOLD);
    until("the reason", &pool, || pool.status().fleet.is_some()).await;

    sleep(Duration::from_secs(6)).await;

    let stats = server.admin().text(&["INFO", "commandstats"]);
    let denials = stats.lines().filter(|line| line.starts_with("cmdstat_eval"));
    let count = |line: &str| {
        let field = line.split(',').find_map(|field| field.strip_prefix("rejected_calls="));
        field.unwrap().trim().parse::<u64>().unwrap()
    };
    assert_eq!(denials.map(count).sum::<u64>(), 1, "{stats}");
}

#[tokio::test]
async fn a_registry_that_was_denied_is_tried_again_after_a_minute() {
    let (server, pool) = member_with(&["-eval", "-evalsha"]);
    drop(pool.acquire("test").await.unwrap());
    until("the reason", &pool, || pool.status().fleet.is_some()).await;
    server.admin().text(&["ACL", "SETUSER", "app", "+eval", "+evalsha"]);

    let_pass(Duration::from_secs(61)).await;

    until("membership", &pool, || has_joined(&pool)).await;
    assert_eq!(fleet(&pool).trouble, None);
}

#[tokio::test]
async fn a_server_that_hides_its_ceiling_says_so_and_serves() {
    let fake = Fake::start("connected_clients:3 rejected_connections:0").await;
    fake.replies_to_scripts("*1\r\n:-1\r\n");
    let pool = unhurried(fake.url())
        .max_connections(12)
        .acquire_timeout(Duration::from_secs(5))
        .fleet(Fleet::named("test"))
        .build()
        .unwrap();
    goes_by_all(&pool).await;
    assert!(fleet(&pool).trouble.unwrap().contains("hides"));
}

async fn goes_by_all(pool: &GuardedPool) {
    let service = Service::of(pool.clone(), 12, HOLD);
    until("all of them", pool, || service.live() == 12).await;
    until("the reason", pool, || pool.status().fleet.is_some()).await;
    assert_eq!(pool.status().limited_by, LimitedBy::MaxConnections);
}
