//! Callers who wait, and the breaker.

use std::time::Duration;

use redis_guard::{Guard, Outcome, Permit, Rejection};
use tokio::time::{Instant, advance};
use tokio_test::assert_ready_ok;

use crate::queued::{call, refused, wait};
use crate::{SECOND, assert_at_rest, builder, endpoint, failed, guard};

#[tokio::test(start_paused = true)]
async fn all_who_wait_are_refused_at_once_when_nothing_works() {
    let guard = guard(2);
    let running = [guard.admit("search").unwrap(), guard.admit("search").unwrap()];
    let mut waiting: Vec<_> = (0..5).map(|number| wait(&guard, "search", number)).collect();
    let began = Instant::now();
    for permit in running {
        permit.finish(failed(Outcome::MaxClients));
    }
    for response in &mut waiting {
        assert!(response.is_woken());
        let Rejection::BreakerOpen { retry_after, failure: Some(failure), .. } = refused(response)
        else {
            panic!("not BreakerOpen")
        };
        assert_eq!((retry_after, failure.outcome), (SECOND, Outcome::MaxClients));
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(endpoint(&guard, "search").rejected, [("breaker_open", 5)].into());
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_works_nobody_is_queued() {
    let guard = guard(2);
    guard.admit("search").unwrap().finish(failed(Outcome::MaxClients));
    assert_eq!(refused(&mut call(&guard, "search", 1)).reason(), "breaker_open");
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn forcing_the_breaker_open_refuses_all_who_wait() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let mut waiting = [wait(&guard, "search", 1), wait(&guard, "other", 2)];
    guard.breaker().force_open();
    for response in &mut waiting {
        assert!(response.is_woken());
        assert_eq!(refused(response).reason(), "breaker_open");
    }
    drop(permit);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn forcing_the_breaker_closed_serves_those_who_wait() {
    let guard = guard(3);
    let running = [guard.admit("search").unwrap(), guard.admit("search").unwrap()];
    let [one, refused] = running;
    refused.finish(failed(Outcome::MaxClients));
    let mut response = wait(&guard, "search", 1);
    guard.breaker().force_closed();
    assert_ready_ok!(response.poll());
    drop(one);
    assert_at_rest(&guard);
}

/// One call works, one was refused: the limit is 1, and a probe is due a second later.
fn frozen(guard: &Guard) -> Permit {
    let working = guard.admit("search").unwrap();
    guard.admit("search").unwrap().finish(failed(Outcome::MaxClients));
    assert_eq!(guard.status().limit, 1);
    working
}

#[tokio::test(start_paused = true)]
async fn the_probe_of_a_frozen_guard_goes_to_who_has_waited_longest() {
    let guard = builder(4).acquire_timeout(10 * SECOND).build().unwrap();
    let working = frozen(&guard);
    let (mut first, mut second) = (wait(&guard, "search", 1), wait(&guard, "search", 2));
    tokio::time::sleep(5 * SECOND / 2).await;
    assert!(first.is_woken(), "within a second of the tick");
    assert!(!second.is_woken());
    assert_ready_ok!(first.poll());
    assert!(second.is_woken(), "a probe that worked makes room");
    assert_ready_ok!(second.poll());
    drop(working);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_does_not_take_the_probe_from_those_who_wait() {
    let guard = builder(4).acquire_timeout(10 * SECOND).build().unwrap();
    // The guard publishes, and looks for waiters to serve, at every whole second from now.
    drop(guard.admit("search").unwrap());
    tokio::time::sleep(SECOND / 4).await;
    let _working = frozen(&guard);
    let first = wait(&guard, "search", 1);
    // The tick is at 1.25 s, the guard's looks are at 1 s and 2 s.
    tokio::time::sleep(7 * SECOND / 8).await;
    advance(SECOND / 4).await;
    assert!(!first.is_woken(), "nobody has looked yet");
    let newcomer = wait(&guard, "search", 2);
    assert!(first.is_woken());
    drop((first, newcomer));
}

#[tokio::test(start_paused = true)]
async fn a_probe_on_its_way_to_a_waiter_that_is_dropped_goes_to_the_next_one() {
    let guard = builder(4).acquire_timeout(10 * SECOND).build().unwrap();
    let _working = frozen(&guard);
    let (first, mut second) = (wait(&guard, "search", 1), wait(&guard, "search", 2));
    tokio::time::sleep(5 * SECOND / 2).await;
    assert!(first.is_woken());
    drop(first);
    assert!(second.is_woken());
    assert_ready_ok!(second.poll());
}
