//! The end of a pool whose leases share.

use std::time::Duration;

use redis_guard::CloseReason;
use tokio::time::{sleep, timeout};

use crate::waiting::{HANG, clients, next_close, poll_once, ready, soon, until};
use crate::{
    ask, at_rest, connections, hold_writes, lane_id, lease, leases, let_writes_go, pair, pair_with,
    refused, send, until_read,
};

#[tokio::test]
async fn a_closed_pool_gives_no_lease() {
    let (_server, pool) = pair();
    drop(lease(&pool, "test").await);

    soon("close", pool.close()).await;

    let told = ready(pool.acquire("test")).expect("told at once").unwrap_err();
    assert_eq!(told.reason(), "closed");
    assert_eq!(pool.try_acquire("test").unwrap_err().reason(), "closed");
    assert_eq!(ready(pool.get()).expect("told at once").unwrap_err().reason(), "closed");
}

#[tokio::test]
async fn close_waits_for_no_lease_without_a_connection_and_what_it_sends_is_refused() {
    let (server, pool) = pair_with(|builder| builder.drain_timeout(HANG));
    let mut lease = lease(&pool, "test").await;
    let _: String = ask(&mut lease, "PING").await;

    timeout(Duration::from_secs(5), pool.close()).await.expect("nothing is waited for");

    for line in ["PING", "MULTI", "BLPOP list 0", "CLIENT ID"] {
        let told = refused(&mut lease, line).await;
        assert!(told.to_string().contains("the pool is closed"), "{line}: {told}");
    }
    assert_eq!(lease.make_exclusive().await.unwrap_err().reason(), "closed");
    assert_eq!(pool.status().live, 0);
    until("the server to notice", &pool, || connections(&server) == 0).await;
    drop(lease);
    assert_eq!(leases(&pool, "test"), (0, 0));
}

#[tokio::test]
async fn close_waits_for_a_lease_with_a_connection_as_ever() {
    let (server, pool) = pair_with(|builder| builder.drain_timeout(HANG));
    let mut lease = lease(&pool, "test").await;
    let () = ask(&mut lease, "MULTI").await;
    let mut closing = Box::pin(pool.close());
    assert!(poll_once(&mut closing).is_pending());

    let _: String = ask(&mut lease, "SET key value").await;
    let _: Vec<String> = ask(&mut lease, "EXEC").await;
    assert!(poll_once(&mut closing).is_pending());
    drop(lease);

    soon("close", closing).await;
    assert_eq!(server.admin().text(&["GET", "key"]), "value");
}

#[tokio::test]
async fn close_lets_what_is_on_the_lane_end() {
    let (server, pool) = pair_with(|builder| builder.drain_timeout(HANG));
    let mut lease = lease(&pool, "test").await;
    let lane = lane_id(&server);
    hold_writes(&server);
    let mut set = Box::pin(send(&mut lease, "SET key value"));
    assert!(poll_once(&mut set).is_pending());
    until_read(&server, &pool, lane, "SET key value").await;
    let mut closing = Box::pin(pool.close());
    assert!(poll_once(&mut closing).is_pending());

    let_writes_go(&server);

    let told = soon("the command", set).await;
    soon("close", closing).await;
    assert!(told.is_ok(), "{told:?}");
}

#[tokio::test]
async fn a_lease_keeps_a_dropped_pool_open() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    let mut events = pool.events();
    drop(pool);

    let () = ask(&mut lease, "SET key value").await;
    let () = ask(&mut lease, "WATCH key").await;
    let () = ask(&mut lease, "MULTI").await;
    let _: String = ask(&mut lease, "GET key").await;
    assert_eq!(ask::<Vec<String>>(&mut lease, "EXEC").await, ["value"]);
    assert_eq!(connections(&server), 2);

    drop(lease);

    assert_eq!(next_close(&mut events).await, CloseReason::PoolClosed);
    let gone = async {
        while clients(&server) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("the sockets closed", gone).await;
}

#[tokio::test]
async fn while_the_pool_is_there_the_last_lease_closes_nothing() {
    let (server, pool) = pair();
    for _ in 0..3 {
        let mut lease = lease(&pool, "test").await;
        let () = ask(&mut lease, "WATCH key").await;
        drop(lease);
        at_rest(&pool, &server).await;
    }
    assert_eq!(connections(&server), 2);
}
