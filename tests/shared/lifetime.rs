//! Lanes that live for long: leak detection, revocation, health, and the end of their lifetime.

use std::time::Duration;

use redis_guard::redis;
use redis_guard::{CloseReason, Event, GuardedPool};
use tokio::time::Instant;

use crate::support::TestServer;
use crate::waiting::{HANG, let_pass, next, poll_once, soon, until};
use crate::{ask, connections, endpoint, in_flight, kill, lane_id, lanes, pair, pair_with, send};

const SHORT: Duration = Duration::from_millis(60);

/// A lifetime that ends soon, and sweeps that see it at once.
fn short_lived(max_connections: usize) -> (TestServer, GuardedPool) {
    pair_with(|builder| {
        let builder =
            builder.max_connections(max_connections).leak_after(Duration::from_millis(40));
        // The successor is waited for as long as any caller would.
        builder.max_lifetime(Duration::from_millis(300)).acquire_timeout(Duration::from_secs(2))
    })
}

fn lifetimes_ended(pool: &GuardedPool) -> u64 {
    pool.status().connections_closed.get("lifetime").copied().unwrap_or_default()
}

#[tokio::test]
async fn a_lane_is_no_leak() {
    let (_server, pool) = pair_with(|builder| builder.leak_after(SHORT));
    let mut events = pool.events();
    let _: String = ask(&mut pool.shared("search"), "PING").await;
    let lease = pool.acquire("leaky").await.unwrap();

    // The lease came after the lane, so a lane that were watched would be reported by now.
    let event = next("a leak", &mut events, |event| matches!(event, Event::LeakSuspected(_))).await;
    let Event::LeakSuspected(leak) = event else { unreachable!("only a leak was wanted") };
    drop(lease);
    next("its end", &mut events, |event| matches!(event, Event::LeakResolved(_))).await;

    assert_eq!(leak.endpoint.as_str(), "leaky");
    let suspects: u64 = pool.status().endpoints.iter().map(|e| e.leaks_suspected).sum();
    assert_eq!((suspects, endpoint(&pool, "shared-lanes").leaks_suspected), (1, 0));
    assert!(pool.status().leaks.is_empty());
}

#[tokio::test]
async fn a_lane_is_not_revoked() {
    let (_server, pool) = pair_with(|builder| builder.leak_after(SHORT).revoke_after(SHORT));
    let mut events = pool.events();
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    let _lease = pool.acquire("leaky").await.unwrap();

    next("the lease revoked", &mut events, |event| {
        matches!(event, Event::ConnectionClosed { reason: CloseReason::Revoked, .. })
    })
    .await;

    assert_eq!(lane_id(&mut handle).await, id);
}

#[tokio::test]
async fn a_lane_is_not_closed_as_idle() {
    let (_server, pool) = pair_with(|builder| builder.idle_timeout(SHORT).min_idle(0));
    let mut events = pool.events();
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    drop(pool.acquire("test").await.unwrap());

    next("the idle one closed", &mut events, |event| {
        matches!(event, Event::ConnectionClosed { reason: CloseReason::Idle, .. })
    })
    .await;

    assert_eq!(lane_id(&mut handle).await, id);
}

#[tokio::test]
async fn a_lane_is_replaced_at_the_end_of_its_lifetime_without_a_failed_command() {
    let (server, pool) = short_lived(8);
    let mut handle = pool.shared("search");
    let mut commands = 0;

    let asking = async {
        while lanes(&pool).first().is_none_or(|lane| lane.connections < 4) {
            let _: String = ask(&mut handle, "PING").await;
            let _: String = ask(&mut pool.shared("search"), "PING").await;
            commands += 1;
            tokio::task::yield_now().await;
        }
    };
    soon("three replacements", asking).await;

    assert!(commands > 100, "{commands}");
    assert!(endpoint(&pool, "search").rejected.is_empty());
    until("the old ones closed", &pool, || lifetimes_ended(&pool) >= 2).await;
    assert!(connections(&server) <= 4, "{}", connections(&server));
    assert_eq!(in_flight(&pool), 0);
}

/// The old lane is closed when its commands have been answered, also those that are being sent at
/// that very moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_fails_no_command_of_many_threads() {
    let (_server, pool) = short_lived(8);
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut handle = pool.shared("search");
                while lanes(&pool).first().is_none_or(|lane| lane.connections < 6) {
                    for _ in 0..100 {
                        let _: String = ask(&mut handle, "PING").await;
                    }
                }
            })
        })
        .collect();

    for caller in callers {
        soon("five replacements", caller).await.unwrap();
    }

    assert!(lifetimes_ended(&pool) >= 4);
}

#[tokio::test]
async fn a_handle_moves_on_to_the_replacement() {
    let (_server, pool) = short_lived(8);
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;

    until("a replacement", &pool, || lanes(&pool)[0].connections == 2).await;

    let moved = async { while lane_id(&mut handle).await == id {} };
    soon("the move", moved).await;
}

/// Where there is room for one connection the successor cannot be dialed before the old one is
/// closed; callers wait for it, within their acquire timeout.
#[tokio::test]
async fn the_lane_of_a_pool_of_one_connection_is_replaced_too() {
    let (_server, pool) = short_lived(1);
    let mut handle = pool.shared("search");

    let asking = async {
        while lanes(&pool).first().is_none_or(|lane| lane.connections < 2) {
            let _: String = ask(&mut handle, "PING").await;
            tokio::task::yield_now().await;
        }
    };
    soon("its replacement", asking).await;
}

/// The keeper lets the old connection end its commands, and looks after the new one meanwhile.
#[tokio::test]
async fn a_replacement_that_dies_at_once_is_replaced_at_once() {
    let (server, pool) = pair_with(|builder| {
        let builder = builder.leak_after(Duration::from_millis(40)).response_timeout(HANG);
        builder.max_lifetime(Duration::from_millis(500)).acquire_timeout(Duration::from_secs(1))
    });
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;
    until("a replacement", &pool, || lanes(&pool)[0].connections == 2).await;
    let mut events = pool.events();

    kill(&server, lane_id(&mut pool.shared("search")).await);
    next("its end", &mut events, |event| {
        matches!(event, Event::ConnectionClosed { reason: CloseReason::Peer, .. })
    })
    .await;

    let told = send(&mut pool.shared("search"), "PING").await;
    assert!(told.is_ok(), "{told:?}");
}

#[tokio::test]
async fn a_full_server_keeps_its_expired_lanes() {
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let builder = crate::builder(&server.url()).leak_after(Duration::from_millis(40));
    let pool = builder.max_lifetime(Duration::from_millis(300)).build().unwrap();
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    let _occupants = server.fill();
    let _waiter = tokio::spawn(pool.acquire("test"));
    until("the limit frozen", &pool, || pool.status().limit == 1).await;

    // 300 ms ± 10 %, and some sweeps of 10 ms.
    let until_then = Instant::now() + Duration::from_millis(600);
    while Instant::now() < until_then {
        assert_eq!(lane_id(&mut handle).await, id);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn health_is_told_over_a_lane_when_nothing_else_is_live() {
    let (server, pool) = pair();
    let _: String = ask(&mut pool.shared("search"), "PING").await;
    assert_eq!(pool.status().live, 1);

    let health = pool.health().await.unwrap();

    assert!(health.latency.is_some(), "{health:?}");
    server.pause();
    let mut asking = Box::pin(pool.health());
    assert!(poll_once(&mut asking).is_pending());
    let_pass(HANG).await;
    let told = soon("health", asking).await;
    server.resume();
    assert!(told.is_err(), "nobody answered, and yet {told:?}");
}

#[tokio::test]
async fn a_connection_that_was_a_lane_is_not_lent_to_others() {
    let (_server, pool) = short_lived(8);
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    until("the old lane closed", &pool, || lifetimes_ended(&pool) >= 1).await;

    let mut lease = pool.acquire("test").await.unwrap();
    let other: u64 = redis::cmd("CLIENT").arg("ID").query_async(&mut lease).await.unwrap();

    assert_ne!(other, id);
}
