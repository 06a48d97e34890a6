//! What is one server, and what are two.

use redis_guard::{BreakerState, GuardedPool, LimitedBy};

use crate::support::dials;
use crate::waiting::{soon, until};
use crate::{Callers, builder, full_server, never, rejected, transitions};

#[tokio::test]
async fn a_refusal_at_one_server_does_not_touch_a_pool_at_another() {
    let (full, roomy) = (full_server(), full_server());
    let refused = builder(&full).backoff(never()).build().unwrap();
    let warm = builder(&roomy).backoff(never()).watch(false).build().unwrap();
    let cold = builder(&roomy).backoff(never()).watch(false).build().unwrap();
    warm.warm_up(1).await.unwrap();
    let _occupants = full.fill();

    soon("the refusal", refused.acquire("test")).await.unwrap_err();

    let _leases = [
        soon("what is there", warm.acquire("test")).await.unwrap(),
        soon("growth", warm.acquire("test")).await.unwrap(),
        soon("a connection", cold.acquire("test")).await.unwrap(),
    ];
    for pool in [&warm, &cold] {
        assert_eq!(pool.breaker().state(), BreakerState::Closed);
        assert_eq!(pool.status().limited_by, LimitedBy::MaxConnections);
        assert_eq!(transitions(pool), []);
    }
    assert_eq!(refused.breaker().state(), BreakerState::Open);
}

/// `localhost` and its address are two: what a name stands for may change.
#[tokio::test]
async fn pools_by_the_same_address_are_at_one_server_and_by_another_name_at_another() {
    let server = full_server();
    let _occupants = server.fill();
    let before = rejected(&server);
    let named = server.url().replace("127.0.0.1", "localhost");
    let pools = [server.url(), server.url(), named]
        .map(|url| GuardedPool::builder(url).backoff(never()).build().unwrap());

    for pool in &pools {
        soon("the refusal", pool.acquire("test")).await.unwrap_err();
    }

    assert_eq!(rejected(&server) - before, 2);
    assert!(dials(&pools[1]).is_empty(), "it heard of the first one's");
}

#[cfg(feature = "tls-rustls")]
mod tls {
    use super::*;
    use crate::support::TestServer;

    /// A pool that speaks TLS to a port where nobody does.
    fn over_tls(server: &TestServer) -> GuardedPool {
        let url = format!("rediss://127.0.0.1:{}", server.port());
        GuardedPool::builder(url).backoff(never()).build().unwrap()
    }

    #[tokio::test]
    async fn a_port_that_speaks_no_tls_is_another_server_without_it() {
        let server = full_server();
        let over_tls = over_tls(&server);
        let plain = builder(&server).backoff(never()).build().unwrap();

        soon("the failure", over_tls.acquire("test")).await.unwrap_err();

        let _lease = soon("a connection", plain.acquire("test")).await.unwrap();
        assert_eq!(over_tls.status().server, plain.status().server, "the address is the same");
        assert_eq!(plain.status().breaker.failures, 0);
    }

    #[tokio::test]
    async fn a_refusal_without_tls_does_not_hold_up_a_dial_over_it() {
        let server = full_server();
        let _occupants = server.fill();
        let plain = builder(&server).backoff(never()).build().unwrap();
        let over_tls = over_tls(&server);
        soon("the refusal", plain.acquire("test")).await.unwrap_err();

        let _callers = Callers::of(&over_tls, 1, std::time::Duration::ZERO);

        until("its own dial", &over_tls, || !dials(&over_tls).is_empty()).await;
        assert!(!dials(&plain).contains_key("suspected_max_clients"));
    }
}

/// A server is forgotten with the last of its pools: a new one asks anew.
#[tokio::test]
async fn what_was_known_of_a_server_is_forgotten_with_the_last_of_its_pools() {
    let server = full_server();
    let occupants = server.fill();
    let pools = [(); 2].map(|()| builder(&server).backoff(never()).build().unwrap());
    for pool in &pools {
        soon("the refusal", pool.acquire("test")).await.unwrap_err();
    }
    occupants.free();

    // The streams end when nothing of the pools is left.
    let events = pools.each_ref().map(GuardedPool::events);
    drop(pools);
    for mut events in events {
        soon("the end", async { while events.next().await.is_some() {} }).await;
    }

    let pool = builder(&server).backoff(never()).build().unwrap();
    let _lease = soon("a connection", pool.acquire("test")).await.unwrap();
}
