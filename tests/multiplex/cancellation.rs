//! Futures that are dropped: at every await point all counts are right afterwards, and the lease goes on.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::redis::Value;
use redis_guard::{Budget, GuardedConnection, GuardedPool};
use tokio::time::timeout;

use crate::support::TestServer;
use crate::waiting::{HANG, cmd, dropped_after, poll_once, soon, until};
use crate::{
    ask, at_rest, connections, endpoint, give_up, hold_writes, lease, leases, let_writes_go, pair,
    pair_with, send,
};

/// More polls than any of the futures below needs.
const POLLS: usize = 12;

/// The lease is as its caller thinks, and answers; nothing of it is left once it is dropped.
async fn assert_goes_on(server: &TestServer, pool: &GuardedPool, mut lease: GuardedConnection) {
    let exclusive = lease.is_exclusive();
    until("its connections", pool, || leases(pool, "test") == (1, usize::from(exclusive))).await;
    let () = ask(&mut lease, "SET k v").await;
    assert_eq!(ask::<String>(&mut lease, "GET k").await, "v");
    assert_eq!(lease.is_exclusive(), exclusive);
    soon("a connection", lease.make_exclusive()).await.unwrap();
    assert_eq!(leases(pool, "test"), (1, 1));
    drop(lease);
    at_rest(pool, server).await;
}

#[tokio::test]
async fn make_exclusive_may_be_dropped_anywhere_while_a_connection_is_idle() {
    let (server, pool) = pair_with(|builder| builder.watch(false));
    let mut ended = 0;
    for polls in 0..POLLS {
        pool.warm_up(2).await.unwrap();
        let mut lease = lease(&pool, "test").await;
        let done = dropped_after(polls, lease.make_exclusive()).await.is_some();
        ended += usize::from(done);
        assert_eq!(lease.is_exclusive(), done, "{polls} polls");
        assert_goes_on(&server, &pool, lease).await;
    }
    assert!((1..POLLS).contains(&ended), "{ended}");
    assert_eq!(connections(&server), 2);
}

#[tokio::test]
async fn make_exclusive_may_be_dropped_anywhere_while_one_is_dialed() {
    for polls in 0..POLLS {
        let (server, pool) = pair();
        let mut lease = lease(&pool, "test").await;
        let done = dropped_after(polls, lease.make_exclusive()).await.is_some();
        assert_eq!(lease.is_exclusive(), done, "{polls} polls");
        assert_goes_on(&server, &pool, lease).await;
        assert!(connections(&server) <= 2, "the dial was for the next");
    }
}

#[tokio::test]
async fn make_exclusive_may_be_dropped_anywhere_while_the_lane_is_waited_for() {
    for polls in 0..POLLS {
        let (server, pool) = pair();
        let mut lease = lease(&pool, "test").await;
        hold_writes(&server);
        give_up(&server, &pool, &mut lease, "APPEND given-up once").await;
        let releasing = async {
            tokio::task::yield_now().await;
            let_writes_go(&server);
            std::future::pending::<()>().await;
        };
        let dropped = dropped_after(polls, async {
            tokio::select! {
                made = lease.make_exclusive() => made.unwrap(),
                () = releasing => {}
            }
        });
        let done = soon("it", dropped).await.is_some();
        let_writes_go(&server);
        assert_eq!(lease.is_exclusive(), done, "{polls} polls");
        let given_up: String = ask(&mut lease, "GET given-up").await;
        assert_eq!(given_up, "once", "{polls} polls: in its order");
        assert_goes_on(&server, &pool, lease).await;
    }
}

#[tokio::test]
async fn make_exclusive_may_be_dropped_anywhere_while_it_waits_for_its_turn() {
    let (server, pool) = pair_with(|builder| builder.endpoint("test", Budget::max(1)));
    for polls in 0..POLLS {
        let mut holder = lease(&pool, "test").await;
        holder.make_exclusive().await.unwrap();
        let mut waiter = lease(&pool, "test").await;
        let mut waiting = Box::pin(dropped_after(polls, waiter.make_exclusive()));
        let told = poll_once(&mut waiting);
        assert_eq!(leases(&pool, "test"), (2, 1));

        drop(holder);

        if told.is_pending() {
            soon("the waiter", waiting).await.transpose().unwrap();
        } else {
            drop(waiting);
        }
        assert_goes_on(&server, &pool, waiter).await;
    }
}

/// It has a connection then, or it does not; either way nothing of the command is left to the next lease.
#[tokio::test]
async fn a_command_that_takes_a_connection_may_be_dropped_anywhere() {
    let (server, pool) = pair();
    for line in ["MULTI", "WATCH k", "SELECT 1", "CLIENT SETNAME other"] {
        for polls in 0..POLLS {
            let mut given = lease(&pool, "test").await;
            let _: Value = ask(&mut given, "PING").await;
            let _ = dropped_after(polls, send(&mut given, line)).await;
            drop(given);
            at_rest(&pool, &server).await;

            let mut next = lease(&pool, "test").await;
            next.make_exclusive().await.unwrap();
            let () = ask(&mut next, "SET k v").await;
            let name: String = ask(&mut next, "CLIENT GETNAME").await;
            assert_eq!(name, crate::NAME, "{line} after {polls} polls");
            assert_eq!(server.admin().text(&["GET", "k"]), "v", "{line} after {polls} polls");
            drop(next);
            at_rest(&pool, &server).await;
        }
    }
}

#[tokio::test]
async fn a_blocking_command_may_be_dropped_anywhere_and_takes_nothing_after_that() {
    let (server, pool) = pair();
    for polls in 0..POLLS {
        let mut lease = lease(&pool, "test").await;
        let _ = dropped_after(polls, send(&mut lease, "BLPOP queue 0.02")).await;
        until("no connection", &pool, || leases(&pool, "test") == (1, 0)).await;
        until("unblocked", &pool, || server.admin().info_u64("blocked_clients") == 0).await;

        assert_eq!(ask::<u64>(&mut lease, "RPUSH queue job").await, 1, "{polls} polls");
        assert_eq!(ask::<String>(&mut lease, "LPOP queue").await, "job", "{polls} polls");
        assert_goes_on(&server, &pool, lease).await;
    }
}

#[tokio::test]
async fn a_command_may_be_dropped_anywhere_on_the_lane() {
    let (server, pool) = pair();
    for polls in 0..POLLS {
        let mut lease = lease(&pool, "test").await;
        let _ = dropped_after(polls, send(&mut lease, "SET k other")).await;
        assert!(!lease.is_exclusive());
        assert_goes_on(&server, &pool, lease).await;
    }
}

#[tokio::test]
async fn an_acquire_may_be_dropped_anywhere() {
    for polls in 0..POLLS {
        let (server, pool) = pair();

        drop(dropped_after(polls, pool.acquire("test")).await);

        assert_goes_on(&server, &pool, lease(&pool, "test").await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_without_patience_leave_all_counts_right() {
    let (server, pool) = pair_with(|builder| {
        let builder = builder.shared_lanes(2).queue_limit(64);
        builder.endpoint("narrow", Budget::max(2).in_flight(4))
    });
    let callers = (0..32).map(|at: u64| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(at);
            let endpoint = ["narrow", "search"][(at % 2) as usize];
            for _ in 0..20 {
                let Ok(mut lease) = pool.acquire(endpoint).await else { continue };
                for _ in 0..random.u8(1..8) {
                    let lines =
                        ["GET k", "INCR n", "BLPOP nothing 0.01", "MULTI", "EXEC", "WATCH k"];
                    let line = random.choice(lines).unwrap();
                    let patience = Duration::from_micros(random.u64(0..800));
                    let _ = timeout(patience, send(&mut lease, line)).await;
                    if random.u8(..8) == 0 {
                        let _ = timeout(patience, lease.make_exclusive()).await;
                    }
                }
            }
        })
    });

    for ended in soon("the callers", join_all(callers)).await {
        ended.unwrap();
    }

    at_rest(&pool, &server).await;
    for name in ["narrow", "search"] {
        assert_eq!(ask::<String>(&mut lease(&pool, name).await, "ECHO hello").await, "hello");
        assert_eq!(endpoint(&pool, name).leases, 0);
    }
}

#[test]
fn a_lease_and_its_command_may_be_dropped_outside_of_a_runtime() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(HANG));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut shared = runtime.block_on(lease(&pool, "test"));
    let mut own = runtime.block_on(lease(&pool, "test"));
    runtime.block_on(own.make_exclusive()).unwrap();
    hold_writes(&server);
    let set = cmd("SET k v");
    let mut pending = Box::pin(set.query_async::<Value>(&mut shared));
    runtime.block_on(async { assert!(poll_once(&mut pending).is_pending()) });

    drop(pending);
    drop((shared, own));

    assert_eq!(leases(&pool, "test"), (0, 0));
    let_writes_go(&server);
    runtime.block_on(at_rest(&pool, &server));
}
