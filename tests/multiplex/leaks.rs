//! Leases that nobody gives back.

use std::mem::forget;
use std::time::Duration;

use redis_guard::{Budget, Event, GuardedPool, IdleLeases, Leak};
use tokio::time::sleep;

use crate::support::TestServer;
use crate::waiting::{let_pass, next, poll_once, soon, until};
use crate::{ask, at_rest, closed, connections, endpoint, lease, leases, pair_with, send};

const LEAK_AFTER: Duration = Duration::from_millis(100);

fn leaky_pair() -> (TestServer, GuardedPool) {
    pair_with(|builder| builder.leak_after(LEAK_AFTER).endpoint("leaky", Budget::max(2)))
}

fn idle(pool: &GuardedPool) -> Vec<IdleLeases> {
    pool.status().idle_leases
}

async fn suspected(events: &mut redis_guard::Events) -> Leak {
    let event = next("a leak", events, |event| matches!(event, Event::LeakSuspected(_))).await;
    let Event::LeakSuspected(leak) = event else { unreachable!("only a leak was wanted") };
    leak
}

/// Nobody has been suspected, although sweeps have looked: a lease with a connection, which came later, was.
async fn assert_only_suspect(pool: &GuardedPool) {
    let mut events = pool.events();
    let mut own = lease(pool, "sweep").await;
    own.make_exclusive().await.unwrap();
    assert_eq!(suspected(&mut events).await.endpoint.as_str(), "sweep");
    assert_eq!(pool.status().leaks.len(), 1);
    let suspects: u64 = pool.status().endpoints.iter().map(|it| it.leaks_suspected).sum();
    assert_eq!(suspects, endpoint(pool, "sweep").leaks_suspected);
}

/// What an endpoint does that never gives back, and the process has a slot for every other one.
#[tokio::test]
async fn fifty_forgotten_leases_cost_no_slot_but_the_lanes() {
    let (server, pool) = leaky_pair();
    let line = line!() + 2;
    for _ in 0..50 {
        let mut leaked = pool.acquire("leaky").await.unwrap();
        let () = ask(&mut leaked, "SET key value").await;
        forget(leaked);
    }

    assert_eq!(connections(&server), 1, "the lane");
    assert_eq!((pool.status().live, leases(&pool, "leaky")), (1, (50, 0)));
    until("they are listed", &pool, || idle(&pool).iter().any(|it| it.count == 50)).await;
    let listed = idle(&pool);
    assert_eq!(listed.len(), 1, "one place, one line: {listed:?}");
    let IdleLeases { endpoint: name, location, age, idle, .. } = &listed[0];
    assert_eq!(name.as_str(), "leaky");
    assert!(location.starts_with(&format!("{}:{line}:", file!())), "{location}");
    assert!(age >= idle && *idle >= LEAK_AFTER, "{age:?} {idle:?}");
    assert_only_suspect(&pool).await;
    assert_eq!(endpoint(&pool, "leaky").leaks_suspected, 0);

    // And the endpoint itself goes on, transactions included.
    let mut next = lease(&pool, "leaky").await;
    let () = ask(&mut next, "WATCH key").await;
    assert_eq!(ask::<String>(&mut next, "GET key").await, "value");
    assert_eq!(leases(&pool, "leaky"), (51, 1));
}

#[tokio::test]
async fn those_of_each_place_and_endpoint_are_a_line_of_their_own_the_longest_idle_first() {
    let (_server, pool) = leaky_pair();
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(pool.acquire("a").await.unwrap());
    }
    until("the first", &pool, || idle(&pool).len() == 1).await;
    for name in ["a", "b", "a"] {
        all.push(pool.acquire(name).await.unwrap());
    }

    until("all", &pool, || idle(&pool).iter().map(|it| it.count).sum::<usize>() == 6).await;

    let listed: Vec<_> =
        idle(&pool).into_iter().map(|it| (it.endpoint.to_string(), it.count)).collect();
    assert_eq!(listed[0], ("a".to_owned(), 3));
    assert!(listed[1..].contains(&("a".to_owned(), 2)), "{listed:?}");
    assert!(listed[1..].contains(&("b".to_owned(), 1)), "{listed:?}");
    drop(all);
    assert_eq!(idle(&pool).len(), 0);
}

#[tokio::test]
async fn a_lease_that_is_used_again_is_not_idle_any_more() {
    let (_server, pool) = leaky_pair();
    let mut lease = lease(&pool, "slow").await;
    until("it idle", &pool, || idle(&pool).len() == 1).await;

    let used = async {
        while !idle(&pool).is_empty() {
            let _: String = ask(&mut lease, "PING").await;
        }
    };
    soon("an end of that", used).await;
}

/// It waits on the server, and that is what it is for; the time counts from when it stops.
#[tokio::test]
async fn a_worker_that_blocks_on_a_queue_is_neither_idle_nor_a_leak() {
    let (server, pool) = leaky_pair();
    let mut worker = lease(&pool, "worker").await;
    let mut popped = Box::pin(send(&mut worker, "BLPOP queue 0"));
    until("it blocks", &pool, || {
        assert!(poll_once(&mut popped).is_pending());
        server.admin().info_u64("blocked_clients") == 1
    })
    .await;
    let _idler = lease(&pool, "idler").await;

    until("another one idle", &pool, || !idle(&pool).is_empty()).await;
    // As long again, for the sweeps.
    sleep(2 * LEAK_AFTER).await;
    let names = |pool| idle(pool).into_iter().map(|it| it.endpoint.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&pool), ["idler"]);
    server.admin().text(&["RPUSH", "queue", "job"]);
    soon("the job", popped).await.unwrap();
    assert_eq!((names(&pool), pool.status().leaks.len()), (vec!["idler".to_owned()], 0));
    assert_eq!(endpoint(&pool, "worker").leaks_suspected, 0);

    until("it is idle, once it stops", &pool, || names(&pool).len() == 2).await;
}

#[tokio::test]
async fn a_command_on_the_lane_that_takes_long_is_no_idleness() {
    let (server, pool) = leaky_pair();
    let mut slow = lease(&pool, "slow").await;
    crate::hold_writes(&server);
    let mut set = Box::pin(send(&mut slow, "SET key value"));
    assert!(poll_once(&mut set).is_pending());
    let _idler = lease(&pool, "idler").await;

    until("another one idle", &pool, || !idle(&pool).is_empty()).await;
    sleep(2 * LEAK_AFTER).await;

    assert!(idle(&pool).iter().all(|it| it.endpoint.as_str() == "idler"), "{:?}", idle(&pool));
    crate::let_writes_go(&server);
    soon("SET", set).await.unwrap();
}

#[tokio::test]
async fn a_forgotten_lease_with_its_own_connection_is_a_leak_as_ever() {
    let (server, pool) = leaky_pair();
    let mut events = pool.events();
    let line = line!() + 1;
    let mut leaked = pool.acquire("leaky").await.unwrap();
    let () = ask(&mut leaked, "WATCH key").await;
    forget(leaked);

    let leak = suspected(&mut events).await;

    assert_eq!(leak.endpoint.as_str(), "leaky");
    assert!(leak.location.starts_with(&format!("{}:{line}:", file!())), "{}", leak.location);
    assert!(leak.idle >= LEAK_AFTER, "{leak}");
    assert_eq!((idle(&pool).len(), pool.status().leaks.len()), (0, 1), "listed once");
    assert_eq!((leases(&pool, "leaky"), connections(&server)), ((1, 1), 2));
    // Its budget is two.
    let mut other = lease(&pool, "leaky").await;
    other.make_exclusive().await.unwrap();
}

#[tokio::test]
async fn revoke_after_concerns_those_with_a_connection_only() {
    let (server, pool) =
        pair_with(|builder| builder.leak_after(LEAK_AFTER).revoke_after(2 * LEAK_AFTER));
    let mut sharing = lease(&pool, "test").await;
    let mut own = lease(&pool, "test").await;
    own.make_exclusive().await.unwrap();

    until("it revoked", &pool, || closed(&pool, "revoked") == 1).await;
    until("the other one idle", &pool, || idle(&pool).len() == 1).await;

    let told = crate::refused(&mut own, "PING").await;
    assert!(told.to_string().contains("it was held for too long"), "{told}");
    assert_eq!(ask::<String>(&mut sharing, "PING").await, "PONG");
    until("the lane alone", &pool, || connections(&server) == 1).await;
    drop((own, sharing));
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_lease_is_young_however_old_its_pool_is() {
    let (_server, pool) = pair_with(|builder| builder);
    let_pass(Duration::from_secs(3_600)).await;

    let _lease = lease(&pool, "test").await;

    assert_eq!(idle(&pool).len(), 0);
}

#[tokio::test]
async fn leases_out_and_those_with_a_connection_are_counted_apart() {
    let (_server, pool) = leaky_pair();
    let mut all = Vec::new();
    for at in 1..=5 {
        all.push(lease(&pool, "test").await);
        assert_eq!(leases(&pool, "test"), (at, 0));
    }
    for (at, lease) in (1..=3).zip(&mut all) {
        lease.make_exclusive().await.unwrap();
        assert_eq!(leases(&pool, "test"), (5, at));
    }
    all.drain(..2);
    assert_eq!(leases(&pool, "test"), (3, 1));
    drop(all);
    assert_eq!(leases(&pool, "test"), (0, 0));
}
