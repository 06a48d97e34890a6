//! Connections that are replaced although they work: make before break, and not while dials fail.

use std::collections::BTreeSet;
use std::time::Duration;

use redis_guard::{CloseReason, Event, GuardedPool, GuardedPoolBuilder, LimitedBy};

use crate::support::{TestServer, impatient};
use crate::waiting::{
    at_rest, clients, cmd, echo, id, let_pass, next, next_close, soon, swept, until,
};

const LIFETIME: Duration = Duration::from_secs(10);
/// How long a pool lets a failed dial be before it tries again for nobody.
const PUT_OFF: Duration = Duration::from_secs(31);

/// A server with a user whose password can be changed; who is connected stays so.
fn pair(
    connections: usize,
    settings: impl FnOnce(GuardedPoolBuilder) -> GuardedPoolBuilder,
) -> (TestServer, GuardedPool) {
    let server = TestServer::builder().acl_user("app", "first").start().unwrap();
    let builder = impatient(&format!("redis://app:first@127.0.0.1:{}", server.port()))
        .max_connections(connections)
        .max_lifetime(LIFETIME)
        .idle_timeout(Duration::from_secs(3600))
        .leak_after(Duration::from_millis(40));
    (server, settings(builder).build().unwrap())
}

fn rotate(server: &TestServer, password: &str) {
    let password = format!(">{password}");
    server.admin().text(&["ACL", "SETUSER", "app", "resetpass", &password]);
}

/// The connections of the pool, by the server's numbers.
fn ids(server: &TestServer) -> BTreeSet<String> {
    let list = server.admin().client_list().into_iter();
    list.filter(|client| client["user"] == "app").map(|client| client["id"].clone()).collect()
}

fn failed(pool: &GuardedPool) -> u64 {
    pool.status().dials.get("auth").copied().unwrap_or_default()
}

fn retired(pool: &GuardedPool) -> u64 {
    pool.status().connections_closed.get("lifetime").copied().unwrap_or_default()
}

/// Lets time pass until it is so: a dial that has failed puts off the next one.
async fn later(is_so: impl Fn() -> bool) {
    while !is_so() {
        let_pass(PUT_OFF).await;
        for _ in 0..50 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn while_dials_fail_no_old_connection_is_closed() {
    let (server, pool) = pair(8, |builder| builder);
    pool.warm_up(4).await.unwrap();
    at_rest(&pool, &server).await;
    let before = ids(&server);
    rotate(&server, "second");

    let_pass(LIFETIME + LIFETIME / 5).await;
    until("a failed dial", &pool, || failed(&pool) == 1).await;
    for _ in 0..3 {
        let_pass(PUT_OFF).await;
        swept(&pool).await;
    }

    assert_eq!(ids(&server), before);
    assert_eq!((pool.status().live, retired(&pool)), (4, 0));
    // Nobody waits for the successors.
    assert!(failed(&pool) <= 8, "{}", failed(&pool));

    rotate(&server, "first");
    let never_less = || {
        assert!(pool.status().live >= 4, "{:#?}", pool.status());
        retired(&pool) == 4
    };
    soon("all replaced", later(never_less)).await;
    at_rest(&pool, &server).await;
    assert!(ids(&server).is_disjoint(&before));
    assert_eq!(pool.status().live, 4);
}

#[tokio::test]
async fn while_dials_fail_an_old_lease_that_comes_back_is_lent_again() {
    let (server, pool) = pair(2, |builder| builder);
    let mut lease = pool.acquire("test").await.unwrap();
    let first = id(&mut lease).await;
    rotate(&server, "second");
    let_pass(LIFETIME + LIFETIME / 5).await;
    until("a failed dial", &pool, || failed(&pool) == 1).await;

    drop(lease);

    let mut again = pool.acquire("test").await.unwrap();
    assert_eq!(id(&mut again).await, first);
    assert_eq!(echo(&mut again, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn while_dials_fail_an_old_lane_is_kept() {
    for connections in [1, 4] {
        let (server, pool) = pair(connections, |builder| builder);
        let mut shared = pool.shared("test");
        let lane: u64 = cmd("CLIENT ID").query_async(&mut shared).await.unwrap();
        let watched = || pool.status().limited_by == LimitedBy::PriceLaw;
        until("the server seen", &pool, watched).await;
        rotate(&server, "second");

        let_pass(LIFETIME + LIFETIME / 5).await;
        until("a failed dial", &pool, || failed(&pool) == 1).await;

        for _ in 0..20 {
            let now: u64 = cmd("CLIENT ID").query_async(&mut shared).await.unwrap();
            assert_eq!(now, lane);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rotate(&server, "first");
        soon("its successor", later(|| retired(&pool) == 1)).await;
        let now: u64 = cmd("CLIENT ID").query_async(&mut shared).await.unwrap();
        assert_ne!(now, lane);
    }
}

/// What stands in the way is only the pool's own limit, and the server has room.
#[tokio::test]
async fn at_the_limit_of_the_pool_the_successor_comes_first_where_the_server_has_room() {
    let (server, pool) = pair(2, |builder| builder);
    pool.warm_up(2).await.unwrap();
    let before = ids(&server);
    let watched = || pool.status().limited_by == LimitedBy::PriceLaw;
    until("the server seen", &pool, watched).await;

    let_pass(LIFETIME + LIFETIME / 5).await;

    until("both replaced", &pool, || {
        let status = pool.status();
        assert!((2..=3).contains(&status.live), "{status:#?}");
        retired(&pool) == 2
    })
    .await;
    at_rest(&pool, &server).await;
    assert_eq!(clients(&server), 2);
    assert!(ids(&server).is_disjoint(&before));
}

#[tokio::test]
async fn at_the_limit_of_the_pool_dials_that_fail_cost_no_connection_where_the_server_has_room() {
    let (server, pool) = pair(1, |builder| builder);
    let mut lease = pool.acquire("test").await.unwrap();
    let first = id(&mut lease).await;
    drop(lease);
    let watched = || pool.status().limited_by == LimitedBy::PriceLaw;
    until("the server seen", &pool, watched).await;
    rotate(&server, "second");

    let_pass(LIFETIME + LIFETIME / 5).await;
    until("a failed dial", &pool, || failed(&pool) == 1).await;
    swept(&pool).await;

    let mut again = pool.acquire("test").await.unwrap();
    assert_eq!(id(&mut again).await, first);
}

/// Nobody says whether the server has room for one more, so the pool keeps its limit.
#[tokio::test]
async fn without_a_watch_a_pool_at_its_limit_closes_one_at_a_time_until_a_dial_fails() {
    let (server, pool) = pair(4, |builder| builder.watch(false));
    pool.warm_up(4).await.unwrap();
    at_rest(&pool, &server).await;
    rotate(&server, "second");
    let mut events = pool.events();

    let_pass(LIFETIME + LIFETIME / 5).await;

    assert_eq!(next_close(&mut events).await, CloseReason::Lifetime);
    next("a failed dial", &mut events, |event| matches!(event, Event::DialFailed { .. })).await;
    for _ in 0..3 {
        let_pass(PUT_OFF).await;
        swept(&pool).await;
    }
    assert_eq!((pool.status().live, retired(&pool)), (3, 1));

    rotate(&server, "first");
    soon("all replaced", later(|| pool.status().live == 4 && retired(&pool) >= 4)).await;
}

/// Leases that come back all the time, with nothing idle to close.
#[tokio::test]
async fn connections_that_are_never_idle_for_long_are_replaced_too() {
    let (server, pool) = pair(4, |builder| builder);
    pool.warm_up(4).await.unwrap();
    let before = ids(&server);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                while retired(&pool) < 4 {
                    let mut lease = pool.acquire("test").await.unwrap();
                    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
                }
            })
        })
        .collect();
    tokio::task::yield_now().await;

    let_pass(LIFETIME + LIFETIME / 5).await;

    for caller in callers {
        soon("its calls", caller).await.unwrap();
    }
    at_rest(&pool, &server).await;
    assert!(ids(&server).is_disjoint(&before));
}
