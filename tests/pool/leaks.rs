//! Leases that are held for too long.

use std::time::Duration;

use redis_guard::{CloseReason, Event, GuardedPool, Leak};
use tokio::time::{Instant, sleep};

use crate::pair_with;
use crate::support::TestServer;
use crate::waiting::{clients, cmd, echo, id, next, next_close, poll_once, soon, until};

const LEAK_AFTER: Duration = Duration::from_millis(100);

fn leaky_pair() -> (TestServer, GuardedPool) {
    pair_with(2, |builder| builder.leak_after(LEAK_AFTER))
}

async fn suspected(events: &mut redis_guard::Events) -> Leak {
    let event = next("a leak", events, |event| matches!(event, Event::LeakSuspected(_))).await;
    let Event::LeakSuspected(leak) = event else { unreachable!("only a leak was wanted") };
    leak
}

#[tokio::test]
async fn a_leak_is_reported_with_its_endpoint_age_and_place() {
    let (_server, pool) = leaky_pair();
    let mut events = pool.events();
    let begun = Instant::now();
    let line = line!() + 1;
    let _lease = pool.acquire("checkout").await.unwrap();

    let leak = suspected(&mut events).await;

    assert_eq!(leak.endpoint.as_str(), "checkout");
    assert!(leak.age >= LEAK_AFTER && leak.age <= begun.elapsed(), "{:?}", leak.age);
    assert!(leak.location.starts_with(&format!("{}:{line}:", file!())), "{}", leak.location);
}

#[tokio::test]
async fn the_place_is_the_callers_also_with_get_and_try_acquire() {
    let (_server, pool) = leaky_pair();
    pool.warm_up(2).await.unwrap();
    let mut events = pool.events();
    let line = line!() + 1;
    let leases = (pool.get().await.unwrap(), pool.try_acquire("test").unwrap());

    for _ in 0..2 {
        let leak = suspected(&mut events).await;
        assert!(leak.location.starts_with(&format!("{}:{line}:", file!())), "{}", leak.location);
    }
    drop(leases);
}

#[tokio::test]
async fn a_leak_is_in_the_status_until_it_comes_back() {
    let (_server, pool) = leaky_pair();
    let lease = pool.acquire("checkout").await.unwrap();
    until("a leak", &pool, || !pool.status().leaks.is_empty()).await;
    let status = pool.status();
    assert_eq!(status.leaks[0].endpoint.as_str(), "checkout");
    assert!(status.leaks[0].location.starts_with(file!()));
    let counts = |status: &redis_guard::Status| {
        (status.endpoints[0].leaks_suspected, status.endpoints[0].leaks_resolved)
    };
    assert_eq!(counts(&status), (1, 0));

    drop(lease);

    let status = pool.status();
    assert!(status.leaks.is_empty());
    assert_eq!(counts(&status), (1, 1));
}

#[tokio::test]
async fn a_leak_is_reported_once_and_its_end_too() {
    let (_server, pool) = leaky_pair();
    let mut events = pool.events();
    let lease = pool.acquire("checkout").await.unwrap();
    suspected(&mut events).await;
    // A sweep looks every 25 ms.
    sleep(2 * LEAK_AFTER).await;
    drop(lease);

    let event = soon("the next event", events.next()).await;

    let Some(Event::LeakResolved(leak)) = event else { panic!("{event:?}") };
    assert_eq!(leak.endpoint.as_str(), "checkout");
    assert!(leak.age >= 2 * LEAK_AFTER, "{:?}", leak.age);
}

#[tokio::test]
async fn a_lease_that_comes_back_in_time_is_no_leak() {
    let (_server, pool) = pair_with(2, |builder| builder.leak_after(Duration::from_secs(30)));
    for _ in 0..100 {
        let mut lease = pool.acquire("test").await.unwrap();
        echo(&mut lease, "hello").await.unwrap();
    }
    let status = pool.status();
    assert_eq!((status.endpoints[0].leaks_suspected, status.leaks.len()), (0, 0));
}

/// It waits on the server, and that is what it is for.
#[tokio::test]
async fn a_worker_that_blocks_on_a_queue_is_no_leak() {
    let (_server, pool) = leaky_pair();
    let mut worker = pool.acquire("worker").await.unwrap();
    for _ in 0..5 {
        let blpop = cmd("BLPOP jobs 0.2");
        let nothing = blpop.query_async::<redis_guard::redis::Value>(&mut worker);
        soon("the end of BLPOP", nothing).await.unwrap();
    }
    let status = pool.status();
    assert_eq!((status.endpoints[0].leaks_suspected, status.leaks.len()), (0, 0));

    until("a leak, once it stops", &pool, || !pool.status().leaks.is_empty()).await;

    let leak = &pool.status().leaks[0];
    assert!(leak.idle >= LEAK_AFTER && leak.age >= 10 * LEAK_AFTER, "{leak}");
}

#[tokio::test]
async fn a_suspected_leak_that_is_used_again_is_none_any_more() {
    let (_server, pool) = leaky_pair();
    let mut events = pool.events();
    let mut lease = pool.acquire("slow").await.unwrap();
    suspected(&mut events).await;

    let used = async {
        while !pool.status().leaks.is_empty() {
            echo(&mut lease, "hello").await.unwrap();
        }
    };
    soon("an end of the suspicion", used).await;

    let event = soon("the next event", events.next()).await;
    assert!(matches!(event, Some(Event::LeakResolved(_))), "{event:?}");
    let endpoint = &pool.status().endpoints[0];
    assert_eq!((endpoint.leaks_suspected, endpoint.leaks_resolved), (1, 1));
}

/// A lease begins when the caller gets it, not when it began to wait.
#[tokio::test]
async fn waiting_for_a_lease_is_not_holding_it() {
    let (_server, pool) = pair_with(1, |builder| builder.leak_after(LEAK_AFTER));
    let lease = pool.acquire("holder").await.unwrap();
    let mut waiter = Box::pin(pool.acquire("waiter"));
    assert!(poll_once(&mut waiter).is_pending());
    until("a leak", &pool, || !pool.status().leaks.is_empty()).await;
    let mut events = pool.events();
    sleep(3 * LEAK_AFTER).await;
    let begun = Instant::now();
    drop(lease);
    let _waited = soon("the waiter's lease", waiter).await.unwrap();

    let leak = suspected(&mut events).await;

    assert_eq!(leak.endpoint.as_str(), "waiter");
    assert!(leak.age >= LEAK_AFTER && leak.age <= begun.elapsed(), "{:?}", leak.age);
}

#[tokio::test]
async fn revoke_after_closes_the_socket_and_the_next_command_is_an_error() {
    let (server, pool) =
        pair_with(1, |builder| builder.leak_after(LEAK_AFTER).revoke_after(2 * LEAK_AFTER));
    let mut events = pool.events();
    let mut lease = pool.acquire("checkout").await.unwrap();

    assert_eq!(next_close(&mut events).await, CloseReason::Revoked);

    until("an empty CLIENT LIST", &pool, || clients(&server) == 0).await;
    assert_eq!(pool.status().live, 0);
    let error = cmd("PING").query_async::<String>(&mut lease).await.unwrap_err();
    assert!(error.is_connection_dropped() || error.is_io_error(), "{error}");
    drop(lease);
    assert_eq!(pool.status().in_use, 0);
    let mut next = soon("another connection", pool.acquire("test")).await.unwrap();
    assert_eq!(echo(&mut next, "hello").await.unwrap(), "hello");
}

/// A slot is a socket: once that is closed, the leaked lease holds nothing.
#[tokio::test]
async fn a_revoked_lease_makes_room_for_the_next_caller() {
    let (_server, pool) = pair_with(1, |builder| builder.revoke_after(LEAK_AFTER));
    let mut events = pool.events();
    let leaked = pool.acquire("leaky").await.unwrap();
    assert_eq!(next_close(&mut events).await, CloseReason::Revoked);

    let mut next = pool.acquire("leaky").await.expect("the socket is closed");

    assert_eq!(echo(&mut next, "hello").await.unwrap(), "hello");
    drop(leaked);
    assert_eq!(pool.status().in_use, 1, "only one of the two still holds anything");
}

/// Whoever never lets go of dead leases is served, or told no in time; and served once it lets go.
#[tokio::test]
async fn hundreds_of_dead_leases_make_no_caller_hang() {
    let (server, pool) = pair_with(1, |builder| builder.acquire_timeout(20 * LEAK_AFTER));
    let mut events = pool.events();
    let mut dead = Vec::new();
    for _ in 0..300 {
        let Ok(mut lease) = soon("an answer", pool.acquire("leaky")).await else { break };
        let id = id(&mut lease).await;
        server.admin().text(&["CLIENT", "KILL", "ID", &id.to_string()]);
        next_close(&mut events).await;
        dead.push(lease);
    }
    assert!(dead.len() > 10, "{} dead leases are not many", dead.len());

    drop(dead);

    assert_eq!((pool.status().in_use, pool.status().waiting), (0, 0));
    drop(soon("the next caller", pool.acquire("other")).await.unwrap());
}

#[tokio::test]
async fn a_command_on_its_way_when_the_lease_is_revoked_is_an_error() {
    let (_server, pool) = pair_with(1, |builder| builder.revoke_after(LEAK_AFTER));
    let mut lease = pool.acquire("checkout").await.unwrap();

    let endless = cmd("BLPOP list 0");
    let answer = endless.query_async::<redis_guard::redis::Value>(&mut lease);

    soon("the revocation", answer).await.unwrap_err();
}

#[tokio::test]
async fn without_revoke_after_a_leak_keeps_its_connection() {
    let (_server, pool) = leaky_pair();
    let mut events = pool.events();
    let mut lease = pool.acquire("checkout").await.unwrap();
    suspected(&mut events).await;
    sleep(2 * LEAK_AFTER).await;
    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
}
