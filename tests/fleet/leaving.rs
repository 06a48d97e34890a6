//! Members who go: what they held is there for the others.

use std::time::Duration;

use redis_guard::GuardedPool;
use tokio::time::{Instant, sleep};

use crate::slow_beats::SlowBeats;
use crate::support::TestServer;
use crate::waiting::{cmd, soon, until};
use crate::{fleet, has_joined, member, members, rejected, service};

/// What is left of a member's time at least, where it sends a heartbeat each 2 s that is good for 7 s.
const LEFT: Duration = Duration::from_secs(4);

async fn is_empty_and_stays_so(server: &TestServer) {
    assert_eq!(members(server, "test"), 0);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(members(server, "test"), 0, "something came after the goodbye");
}

async fn joined(server: &TestServer) -> GuardedPool {
    let pool = member(server).build().unwrap();
    pool.warm_up(4).await.unwrap();
    until("membership", &pool, || has_joined(&pool)).await;
    pool
}

/// The registry knows nobody, and not only because somebody's time was up.
async fn is_empty_at_once(server: &TestServer) {
    let begun = Instant::now();
    while members(server, "test") > 0 {
        assert!(begun.elapsed() < LEFT, "still {} members", members(server, "test"));
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn closing_gives_everything_back_at_once() {
    let server = TestServer::start().unwrap();
    let pool = joined(&server).await;
    soon("closing", pool.close()).await;
    assert_eq!(members(&server, "test"), 0);
}

#[tokio::test]
async fn dropping_the_last_handle_gives_everything_back_at_once() {
    let server = TestServer::start().unwrap();
    drop(joined(&server).await);
    is_empty_at_once(&server).await;
}

#[tokio::test]
async fn so_does_the_last_lease_of_a_dropped_pool() {
    let server = TestServer::start().unwrap();
    let pool = member(&server).max_connections(1).build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    until("membership", &pool, || has_joined(&pool)).await;
    let lease = pool.acquire("test").await.unwrap();
    drop(pool);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(members(&server, "test"), 1, "its connection still takes a slot");
    drop(lease);
    is_empty_at_once(&server).await;
}

#[tokio::test]
async fn so_does_a_pool_of_shared_connections() {
    let server = TestServer::start().unwrap();
    let pool = member(&server).build().unwrap();
    let mut shared = pool.shared("test");
    let _: String = cmd("PING").query_async(&mut shared).await.unwrap();
    until("membership", &pool, || has_joined(&pool)).await;
    soon("closing", pool.close()).await;
    assert_eq!(members(&server, "test"), 0);
}

#[tokio::test]
async fn closing_after_a_script_flush_gives_everything_back() {
    let server = TestServer::start().unwrap();
    let pool = joined(&server).await;
    server.admin().text(&["SCRIPT", "FLUSH"]);
    soon("closing", pool.close()).await;
    assert_eq!(members(&server, "test"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_under_load_leaves_nobody_behind() {
    let server = TestServer::start().unwrap();
    for round in 0..10 {
        let service = service(&server, 8);
        until("membership", &service.pool, || has_joined(&service.pool)).await;
        sleep(Duration::from_millis(37 * round)).await;
        soon("closing", service.pool.close()).await;
        assert_eq!(members(&server, "test"), 0, "round {round}");
    }
}

/// It would register a pool again that has just left.
#[tokio::test]
async fn a_heartbeat_that_arrives_after_the_goodbye_leaves_nobody_behind() {
    let server = TestServer::start().unwrap();
    let slow = SlowBeats::start(&server).await;
    let pool = slow.member();
    pool.warm_up(4).await.unwrap();
    until("membership", &pool, || has_joined(&pool)).await;
    slow.hold();
    soon("a heartbeat", slow.held()).await;

    soon("closing", pool.close()).await;

    is_empty_and_stays_so(&server).await;
}

#[tokio::test]
async fn nor_does_the_first_one() {
    let server = TestServer::start().unwrap();
    let slow = SlowBeats::start(&server).await;
    slow.hold();
    let pool = slow.member();
    drop(pool.acquire("test").await.unwrap());
    soon("a heartbeat", slow.held()).await;

    soon("closing", pool.close()).await;

    is_empty_and_stays_so(&server).await;
}

/// The same over a lane.
#[tokio::test]
async fn nor_does_one_over_a_shared_connection() {
    let server = TestServer::start().unwrap();
    let slow = SlowBeats::start(&server).await;
    let pool = slow.member();
    let mut shared = pool.shared("test");
    let _: String = cmd("PING").query_async(&mut shared).await.unwrap();
    slow.hold();
    soon("a heartbeat", slow.held()).await;

    soon("closing", pool.close()).await;

    is_empty_and_stays_so(&server).await;
}

#[tokio::test]
async fn closing_while_all_leases_are_held_leaves_nobody_behind() {
    let server = TestServer::start().unwrap();
    let pool = member(&server).max_connections(3).build().unwrap();
    pool.warm_up(3).await.unwrap();
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(pool.acquire("test").await.unwrap());
    }
    // Past the time of a heartbeat, so that one waits for a connection.
    sleep(Duration::from_secs(4)).await;
    let closing = tokio::spawn(async move { pool.close().await });
    for lease in leases {
        sleep(Duration::from_millis(300)).await;
        drop(lease);
    }
    soon("closing", closing).await.unwrap();
    is_empty_and_stays_so(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_gives_back_the_others_take() {
    let server = TestServer::builder().maxclients(80).start().unwrap();
    let stays = service(&server, 50);
    let goes = service(&server, 50);
    until("both", &stays.pool, || stays.live() + goes.live() > 50 && goes.live() > 20).await;

    goes.pool.close().await;
    let begun = Instant::now();

    until("the rest", &stays.pool, || stays.live() == 50).await;
    println!("50 after {:?}", begun.elapsed());
    assert_eq!(rejected(&server), 0);
}

/// A process that was killed says nothing: its entry goes when its time is up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crashed_member_held_is_free_when_its_time_is_up() {
    let server = TestServer::builder().maxclients(80).start().unwrap();
    let stays = service(&server, 50);
    until("membership", &stays.pool, || has_joined(&stays.pool)).await;
    let ghost = ["40", "0", "40", "40", "1", "50", "0"];
    crate::damage::beat(&server, "test", "ghost", &ghost);
    until("it is known", &stays.pool, || fleet(&stays.pool).members == 2).await;
    let begun = Instant::now();

    until("it is forgotten", &stays.pool, || fleet(&stays.pool).members == 1).await;

    // The ten seconds that it is given, the time to the next heartbeat, and what a busy machine adds.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    until("the rest", &stays.pool, || stays.live() == 50).await;
    assert_eq!(rejected(&server), 0);
}
