//! How many dials are under way at a time, as a proxy counts them.

use std::time::Duration;

use redis_guard::GuardedPool;
use tokio::time::Instant;

use crate::slow_proxy::SlowProxy;
use crate::support::TestServer;
use crate::waiting::{soon, until};
use crate::{Callers, NEVER, full_server};

/// How long a dial takes.
const DIAL: Duration = Duration::from_millis(200);

fn pool(proxy: &SlowProxy) -> GuardedPool {
    let builder = GuardedPool::builder(proxy.url()).max_connections(32);
    builder.acquire_timeout(NEVER).build().unwrap()
}

#[tokio::test]
async fn a_quiet_server_sees_up_to_four_at_once_and_a_pool_of_32_is_warm_after_nine_rounds() {
    let server = TestServer::start().unwrap();
    let proxy = SlowProxy::start(&server, DIAL).await;
    let pool = pool(&proxy);

    let begun = Instant::now();
    let live = soon("warming up", pool.warm_up(32)).await.unwrap();

    println!("32 connections in {:?}, {} rounds", begun.elapsed(), proxy.rounds());
    assert_eq!((live, proxy.dials()), (32, 32));
    assert_eq!(proxy.most_at_once(), 4);
    // One to hear that the server is quiet, and 31 by fours.
    assert!(proxy.rounds() <= 10, "{} rounds", proxy.rounds());
}

#[tokio::test]
async fn eight_pools_at_a_quiet_server_have_four_at_once_together() {
    let server = TestServer::start().unwrap();
    let proxy = SlowProxy::start(&server, DIAL).await;
    let pools = [(); 8].map(|()| pool(&proxy));

    let begun = Instant::now();
    let warming = futures_util::future::join_all(pools.iter().map(|pool| pool.warm_up(4)));
    for live in soon("warming up", warming).await {
        assert_eq!(live.unwrap(), 4);
    }

    println!("32 connections in {:?}, {} rounds", begun.elapsed(), proxy.rounds());
    assert_eq!(proxy.most_at_once(), 4);
}

#[tokio::test]
async fn a_server_above_half_of_its_slots_never_sees_two_at_once() {
    let server = full_server();
    let _occupants = server.fill_to_leave(48);
    let proxy = SlowProxy::start(&server, DIAL).await;
    let pools = [(); 3].map(|()| pool(&proxy));
    let _callers = pools.each_ref().map(|pool| Callers::of(pool, 4, DIAL));

    until("some growth", &pools[0], || proxy.dials() >= 8).await;

    assert_eq!(proxy.most_at_once(), 1);
}

#[tokio::test]
async fn a_full_server_never_sees_two_at_once() {
    let server = full_server();
    let _occupants = server.fill();
    let proxy = SlowProxy::start(&server, DIAL).await;
    let pools = [(); 8].map(|()| pool(&proxy));
    let _callers = pools.each_ref().map(|pool| Callers::of(pool, 4, DIAL));

    until("some refusals", &pools[0], || proxy.dials() >= 6).await;

    assert_eq!(proxy.most_at_once(), 1);
}
