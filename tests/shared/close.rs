//! The end of a pool whose handles are alive.

use std::time::Duration;

use redis_guard::redis::RedisError;
use redis_guard::{CloseReason, Rejection};

use crate::waiting::{HANG, clients, next_close, poll_once, ready, soon, until};
use crate::{
    ask, connections, hold_writes, in_flight, lane_id, lanes, let_writes_go, pair, pair_with, send,
    sending, until_read,
};

#[tokio::test]
async fn close_closes_the_lanes() {
    let (server, pool) = pair_with(|builder| builder.shared_lanes(2));
    let mut handles = [pool.shared("search"), pool.shared("search")];
    for handle in &mut handles {
        let _: String = ask(handle, "PING").await;
    }

    soon("close", pool.close()).await;

    let status = pool.status();
    assert_eq!((status.live, status.in_use, in_flight(&pool)), (0, 0, 0), "{status:#?}");
    assert!(lanes(&pool).iter().all(|lane| !lane.up));
    until("the server to notice", &pool, || clients(&server) == 0).await;
}

#[tokio::test]
async fn lanes_of_a_closed_pool_are_closed_for_that_reason() {
    let (_server, pool) = pair();
    let _: String = ask(&mut pool.shared("search"), "PING").await;
    let mut events = pool.events();

    soon("close", pool.close()).await;

    assert_eq!(next_close(&mut events).await, CloseReason::PoolClosed);
}

#[tokio::test]
async fn handles_of_a_closed_pool_hear_so_at_once() {
    let (_server, pool) = pair();
    let mut warm = pool.shared("search");
    let _: String = ask(&mut warm, "PING").await;
    let mut cold = pool.shared("search");

    soon("close", pool.close()).await;

    for handle in [&mut warm, &mut cold] {
        for line in ["PING", "BLPOP k 0"] {
            let told = ready(send(handle, line)).expect("told at once").unwrap_err();
            assert!(matches!(told.rejection(), Some(Rejection::Closed)), "{line}: {told:?}");
        }
    }
    assert_eq!(
        ready(send(&mut pool.shared("new"), "PING")).unwrap().unwrap_err().reason(),
        "closed"
    );
}

#[tokio::test]
async fn close_returns_soon_when_the_handles_are_idle() {
    let (_server, pool) = pair_with(|builder| builder.drain_timeout(HANG));
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;

    let closing = tokio::time::timeout(Duration::from_secs(1), pool.close()).await;

    assert!(closing.is_ok(), "an idle handle is not waited for");
}

/// As the leases may: what was let in may end, within the drain timeout.
#[tokio::test]
async fn close_lets_commands_in_flight_end() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(HANG).drain_timeout(HANG));
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    hold_writes(&server);
    let mut set = Box::pin(sending(&pool, "search", "SET k v"));
    assert!(poll_once(&mut set).is_pending());
    until_read(&server, &pool, id, "set").await;
    let mut closing = Box::pin(pool.close());
    assert!(poll_once(&mut closing).is_pending());
    tokio::task::yield_now().await;

    let_writes_go(&server);

    let told = soon("the command", set).await;
    soon("close", closing).await;
    assert!(told.is_ok(), "{told:?}");
}

#[tokio::test]
async fn close_ends_commands_that_do_not_end_within_the_drain_timeout() {
    let drain = Duration::from_millis(100);
    let (server, pool) = pair_with(|builder| builder.response_timeout(HANG).drain_timeout(drain));
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    hold_writes(&server);
    let mut set = Box::pin(sending(&pool, "search", "SET k v"));
    assert!(poll_once(&mut set).is_pending());
    until_read(&server, &pool, id, "set").await;

    soon("close", pool.close()).await;

    let error = RedisError::from(soon("the command", set).await.unwrap_err());
    assert!(error.is_io_error(), "{error}");
    assert_eq!((pool.status().live, in_flight(&pool)), (0, 0));
}

#[tokio::test]
async fn close_refuses_those_who_wait_for_a_lane() {
    let (server, pool) = pair_with(|builder| builder.acquire_timeout(HANG).connect_timeout(HANG));
    server.pause();
    let waiting = tokio::spawn(sending(&pool, "search", "PING"));
    until("a dial", &pool, || pool.status().dialing == 1).await;

    soon("close", pool.close()).await;

    let told = soon("the waiter", waiting).await.unwrap().unwrap_err();
    assert_eq!(told.reason(), "closed");
    server.resume();
}

#[tokio::test]
async fn a_handle_keeps_the_pool_open() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    drop(pool);

    let _: String = ask(&mut handle, "PING").await;
    let mut clone = handle.clone();
    drop(handle);

    let _: String = ask(&mut clone, "PING").await;
    assert_eq!(connections(&server), 1);
}

#[tokio::test]
async fn the_last_handle_closes_the_pool() {
    let (server, pool) = pair_with(|builder| builder.shared_lanes(2));
    let mut events = pool.events();
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;
    drop(pool);
    let clone = handle.clone();
    drop(handle);
    assert_eq!(connections(&server), 1);

    drop(clone);

    next_close(&mut events).await;
    let gone = async {
        while clients(&server) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon("the sockets closed", gone).await;
}

#[tokio::test]
async fn the_last_handle_may_go_while_the_lane_is_dialed() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    let mut events = pool.events();
    {
        let ping = crate::waiting::cmd("PING");
        let mut pending = Box::pin(handle.send(&ping));
        assert!(poll_once(&mut pending).is_pending());
    }
    drop((pool, handle));

    // The stream ends with the pool.
    soon("the end", async { while events.next().await.is_some() {} }).await;
    let gone = async {
        while clients(&server) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon("the sockets closed", gone).await;
}
