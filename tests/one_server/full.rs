//! Several pools at a server without a free slot: cold, warm, and while it recovers.

use std::collections::HashMap;
use std::time::Duration;

use redis_guard::{BreakerState, GuardedPool, LimitedBy};
use tokio::time::{Instant, sleep};

use crate::support::{Occupants, TestServer, dials};
use crate::waiting::{cmd, until};
use crate::{Callers, WORDS, builder, full_server, never, rejected, waiter};

const POOLS: usize = 8;
const HOLD: Duration = Duration::from_millis(10);

/// The most dials that one schedule has in this time, the first one included: every delay is the
/// shortest that the jitter of the back-off for a server that has never let anybody in may draw.
fn most_dials(time: Duration) -> u64 {
    let (base, cap) = (Duration::from_millis(50), Duration::from_millis(600));
    let mut at = Duration::ZERO;
    let delays = (1..32).map(|failures| base.saturating_mul(1 << failures).min(cap) / 2);
    let later = delays.map_while(|delay| {
        at += delay;
        (at <= time).then_some(())
    });
    1 + u64::try_from(later.count()).unwrap()
}

fn cold_pools(server: &TestServer) -> Vec<GuardedPool> {
    let pool = |number| {
        // Without the watch, whose limits are small on a server as small as this.
        let builder = builder(server).max_connections(4).watch(false);
        builder.client_name(format!("pool-{number}")).build().unwrap()
    };
    (0..POOLS).map(pool).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_cold_pools_dial_no_more_often_than_one() {
    // What was promised of one pool.
    assert!(most_dials(Duration::from_secs(8)) <= 30);
    let server = full_server();
    let _occupants = server.fill();
    let before = rejected(&server);
    let begun = Instant::now();
    let pools = cold_pools(&server);
    let callers: Vec<_> = pools.iter().map(|pool| Callers::of(pool, 4, HOLD)).collect();

    sleep(Duration::from_secs(3)).await;

    let (refused, time) = (rejected(&server) - before, begun.elapsed());
    println!("{refused} refused dials in {time:?}");
    assert!(refused >= 3, "only {refused}: nobody asked for them");
    assert!(refused <= most_dials(time), "{refused} refused dials in {time:?}");
    drop(callers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_of_each_cold_pool_hear_the_servers_words_and_the_time_to_wait() {
    let server = full_server();
    let _occupants = server.fill();
    let pools = cold_pools(&server);
    let callers: Vec<_> = pools.iter().map(|pool| Callers::of(pool, 4, HOLD)).collect();
    let heard = |callers: &Callers| callers.heard.lock().unwrap().len();

    until("answers for all", &pools[0], || callers.iter().all(|each| heard(each) >= 20)).await;

    for callers in callers {
        for error in callers.heard().await {
            assert_eq!(error.reason(), "breaker_open");
            assert!(error.to_string().contains(WORDS), "{error}");
            let wait = error.retry_after().expect("a time to wait");
            assert!(wait <= Duration::from_secs(5), "{wait:?}");
        }
    }
    // All of them by the dials of one.
    assert!(pools.iter().any(|pool| dials(pool).is_empty()), "each has dialed for itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_slots_come_free_each_cold_pool_gets_its_first_before_any_has_its_third() {
    let server = full_server();
    let occupants = server.fill();
    let pools = cold_pools(&server);
    // They keep what they get, and so go on wanting more.
    let _callers: Vec<_> =
        pools.iter().map(|pool| Callers::of(pool, 4, Duration::from_secs(60))).collect();
    let open = |pool: &GuardedPool| pool.status().breaker.state != BreakerState::Closed;
    until("the refusal", &pools[0], || pools.iter().all(open)).await;

    occupants.free();

    until("a connection for each", &pools[0], || pools.iter().all(|pool| pool.status().live == 4))
        .await;
    // The server numbers its clients as it accepts them.
    let mut clients: Vec<_> = server
        .admin()
        .client_list()
        .into_iter()
        .filter(|client| client["name"].starts_with("pool-"))
        .map(|client| (client["id"].parse::<u64>().unwrap(), client["name"].clone()))
        .collect();
    clients.sort_unstable();
    let mut connections = HashMap::new();
    for (_, name) in &clients {
        *connections.entry(name).or_insert(0) += 1;
        if connections.len() < POOLS {
            assert!(connections[name] < 3, "{name} has its third: {clients:?}");
        }
    }
}

/// Pools that have two connections each, at a server that has no more slots and is known to have few.
async fn warm_pools(server: &TestServer, pools: usize) -> (Vec<GuardedPool>, [Occupants<'_>; 2]) {
    let mut warm = Vec::new();
    let most = server.fill_to_leave(2 * u64::try_from(pools).unwrap() + 8);
    for _ in 0..pools {
        // What the server is asked for stays, but sets no limit.
        let builder = builder(server).max_connections(4).adaptive_limit(false).backoff(never());
        let pool = builder.build().unwrap();
        pool.warm_up(2).await.unwrap();
        until("a word of the server", &pool, || pool.status().watch.saturation > Some(0.5)).await;
        warm.push(pool);
    }
    (warm, [most, server.fill()])
}

fn is_frozen(pool: &GuardedPool) -> bool {
    let status = pool.status();
    status.limited_by == LimitedBy::Refused && status.limit == 2
}

#[tokio::test]
async fn one_refusal_is_enough_for_all_warm_pools() {
    let server = full_server();
    let (pools, _occupants) = warm_pools(&server, 4).await;
    let before = rejected(&server);

    let callers: Vec<_> = pools.iter().map(|pool| Callers::of(pool, 4, HOLD)).collect();
    until("the limits frozen", &pools[0], || pools.iter().all(is_frozen)).await;
    // Their callers go on wanting more, so each pool has asked for a dial by then.
    until("many turns", &pools[0], || {
        pools.iter().all(|pool| pool.status().endpoints[0].acquired >= 100)
    })
    .await;

    assert_eq!(rejected(&server) - before, 1);
    assert!(pools.iter().all(is_frozen));
    let refused: u64 =
        pools.iter().filter_map(|pool| dials(pool).get("max_clients").copied()).sum();
    assert_eq!(refused, 1, "of all of them");
    for callers in callers {
        let failed = callers.heard().await;
        assert!(failed.is_empty(), "{failed:?}");
    }
}

#[tokio::test]
async fn all_warm_pools_grow_again_once_the_watch_sees_room() {
    let server = full_server();
    let (pools, [_most, occupants]) = warm_pools(&server, 4).await;
    let callers: Vec<_> = pools.iter().map(|pool| Callers::of(pool, 4, HOLD)).collect();
    until("the limits frozen", &pools[0], || pools.iter().all(is_frozen)).await;
    let refused = rejected(&server);

    occupants.free();

    until("growth", &pools[0], || pools.iter().all(|pool| pool.status().live == 4)).await;
    assert_eq!(rejected(&server), refused, "nobody tried in vain");
    for callers in callers {
        let failed = callers.heard().await;
        assert!(failed.is_empty(), "{failed:?}");
    }
}

/// Each frozen pool may dial once the watch has seen room. Those whom nobody asks for a connection
/// must not take that from the one that needs it.
#[tokio::test]
async fn once_the_watch_sees_room_the_pool_whose_callers_wait_is_the_one_that_dials() {
    let server = full_server();
    let (pools, [_most, occupants]) = warm_pools(&server, 10).await;
    let callers: Vec<_> = pools.iter().map(|pool| Callers::of(pool, 4, HOLD)).collect();
    until("the limits frozen", &pools[0], || pools.iter().all(is_frozen)).await;
    drop(callers);
    let idle = |pool: &GuardedPool| pool.status().idle == 2 && pool.status().waiting == 0;
    until("rest", &pools[0], || pools.iter().all(idle)).await;
    let busy = &pools[5];
    let _leases = [busy.acquire("test").await.unwrap(), busy.acquire("test").await.unwrap()];
    let waiting = tokio::spawn(waiter(busy));

    occupants.free();

    until("the third connection", busy, || waiting.is_finished()).await;
}

/// A slot that a pool has freed on a full server is there for one dial of its own. Those whom nobody
/// asks for a connection must not take that from the one that needs it.
#[tokio::test]
async fn each_pool_that_has_freed_a_slot_of_the_full_server_may_dial_for_it() {
    let server = full_server();
    let mut leases = Vec::new();
    let pools = [(); 5].map(|()| {
        let builder = builder(&server).max_connections(4).backoff(never()).watch(false);
        builder.build().unwrap()
    });
    for pool in &pools {
        leases.push([pool.acquire("test").await.unwrap(), pool.acquire("test").await.unwrap()]);
    }
    let _occupants = server.fill();
    let callers = pools.each_ref().map(|pool| tokio::spawn(waiter(pool)));
    until("the limits frozen", &pools[0], || pools.iter().all(is_frozen)).await;
    for (_, caller) in callers.iter().enumerate().filter(|(at, _)| *at != 2) {
        caller.abort();
    }
    let idle = |pool: &&GuardedPool| pool.status().waiting == 0;
    until("one who waits", &pools[2], || pools.iter().filter(idle).count() == 4).await;

    // It leaves the connection beyond reset.
    let (mut dirty, _clean): (Vec<_>, Vec<_>) = leases.into_iter().map(<(_, _)>::from).unzip();
    for lease in &mut dirty {
        let _ = cmd("MONITOR").query_async::<String>(lease).await;
    }
    drop(dirty);

    until("its next connection", &pools[2], || callers[2].is_finished()).await;
}
