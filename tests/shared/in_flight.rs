//! How many commands of an endpoint are on their way at a time.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::redis::{ErrorKind, RedisError};
use redis_guard::{Budget, GuardedPool, Rejection};
use tokio::time::Instant;

use crate::support::TestServer;
use crate::waiting::{HANG, cmd, poll_once, ready, soon, until};
use crate::{
    ask, at_rest, endpoint, hold_writes, in_flight, lane_id, let_writes_go, pair_with, send,
    sending, until_read,
};

const SHORT: Duration = Duration::from_millis(300);

/// A pool whose endpoint `narrow` may have so many commands in flight, and whose callers wait for
/// as long as it takes.
fn narrow(commands: usize) -> (TestServer, GuardedPool) {
    pair_with(|builder| {
        let builder = builder.acquire_timeout(HANG).response_timeout(HANG);
        builder.endpoint("narrow", Budget::max(4).in_flight(commands))
    })
}

#[tokio::test]
async fn an_endpoint_has_at_most_so_many_commands_on_their_way() {
    let (server, pool) = narrow(3);
    let mut handle = pool.shared("narrow");
    let _: String = ask(&mut handle, "PING").await;
    hold_writes(&server);

    let mut callers: Vec<_> =
        (0..10).map(|_| Box::pin(sending(&pool, "narrow", "INCR n"))).collect();
    for caller in &mut callers {
        assert!(poll_once(caller).is_pending());
    }

    let status = endpoint(&pool, "narrow");
    assert_eq!((status.shared_in_flight, status.shared_in_flight_max), (3, 3));
    let_writes_go(&server);
    assert!(soon("all", join_all(callers)).await.iter().all(Result::is_ok));
    assert_eq!(in_flight(&pool), 0);
}

#[tokio::test]
async fn those_who_wait_for_a_place_are_served_in_the_order_in_which_they_came() {
    let (server, pool) = narrow(1);
    let mut handle = pool.shared("narrow");
    let _: String = ask(&mut handle, "PING").await;
    hold_writes(&server);
    let mut callers: Vec<_> = (0..20)
        .map(|at| Box::pin(sending(&pool, "narrow", &format!("RPUSH order {at}"))))
        .collect();
    for caller in &mut callers {
        assert!(poll_once(caller).is_pending());
    }
    callers.reverse();

    let_writes_go(&server);
    soon("all", join_all(callers)).await;

    let order: Vec<u32> = ask(&mut handle, "LRANGE order 0 -1").await;
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn whoever_comes_to_a_full_queue_hears_so_on_the_first_poll() {
    let server = TestServer::start().unwrap();
    let pool = crate::builder(&server.url())
        .endpoint("narrow", Budget::max(4).in_flight(1))
        .queue_limit(2)
        .acquire_timeout(HANG)
        .response_timeout(HANG)
        .build()
        .unwrap();
    let _: String = ask(&mut pool.shared("narrow"), "PING").await;
    hold_writes(&server);
    let mut callers: Vec<_> =
        (0..3).map(|_| Box::pin(sending(&pool, "narrow", "INCR n"))).collect();
    for caller in &mut callers {
        assert!(poll_once(caller).is_pending());
    }

    let told = ready(sending(&pool, "narrow", "INCR n")).expect("told at once").unwrap_err();

    assert!(matches!(told.rejection(), Some(Rejection::QueueFull { limit: 2, .. })), "{told:?}");
    callers.pop();
    let mut next = Box::pin(sending(&pool, "narrow", "INCR n"));
    assert!(poll_once(&mut next).is_pending(), "the place of the one who left is free");
    callers.push(next);
    let_writes_go(&server);
    soon("all", join_all(callers)).await;
    assert_eq!(ask::<i64>(&mut pool.shared("narrow"), "GET n").await, 3);
}

#[tokio::test]
async fn whoever_waits_for_too_long_hears_of_the_limit() {
    let (server, pool) = pair_with(|builder| {
        let builder = builder.acquire_timeout(SHORT).response_timeout(HANG);
        builder.endpoint("narrow", Budget::max(4).in_flight(2))
    });
    pool.warm_up(1).await.unwrap();
    let mut handle = pool.shared("narrow");
    let _: String = ask(&mut handle, "PING").await;
    hold_writes(&server);
    let mut callers: Vec<_> =
        (0..2).map(|_| Box::pin(sending(&pool, "narrow", "INCR n"))).collect();
    for caller in &mut callers {
        assert!(poll_once(caller).is_pending());
    }

    let begun = Instant::now();
    let told = soon("the refusal", send(&mut handle, "INCR n")).await.unwrap_err();

    assert!(begun.elapsed() >= SHORT);
    let Some(Rejection::InFlightLimit { endpoint: name, max, .. }) = told.rejection() else {
        panic!("{told:?}")
    };
    assert_eq!((name.as_str(), *max, told.reason()), ("narrow", 2, "in_flight_limit"));
    assert_eq!(endpoint(&pool, "narrow").rejected, [("in_flight_limit", 1)].into());
    let error = RedisError::from(told);
    assert_eq!(error.kind(), ErrorKind::Client);
    assert!(error.to_string().contains("2 shared commands in flight"), "{error}");
    let_writes_go(&server);
    soon("all", join_all(callers)).await;
    assert_eq!(ask::<i64>(&mut handle, "GET n").await, 2, "the refused one was not sent");
}

#[tokio::test]
async fn a_dropped_command_holds_its_place_until_its_reply_has_come() {
    let (server, pool) = narrow(1);
    let mut handle = pool.shared("narrow");
    let id = lane_id(&mut handle).await;
    hold_writes(&server);
    let mut dropped = Box::pin(sending(&pool, "narrow", "INCR n"));
    assert!(poll_once(&mut dropped).is_pending());
    until_read(&server, &pool, id, "incr").await;

    drop(dropped);

    assert_eq!(in_flight(&pool), 1);
    let mut waiter = Box::pin(sending(&pool, "narrow", "INCR n"));
    assert!(poll_once(&mut waiter).is_pending());
    let_writes_go(&server);
    soon("the waiter", waiter).await.unwrap();
    until("rest", &pool, || in_flight(&pool) == 0).await;
    assert_eq!(ask::<i64>(&mut handle, "GET n").await, 2, "a drop does not recall");
}

#[tokio::test]
async fn a_command_that_timed_out_holds_its_place_until_its_reply_has_come() {
    let (server, pool) = pair_with(|builder| {
        let builder = builder.acquire_timeout(SHORT).response_timeout(SHORT);
        builder.endpoint("narrow", Budget::max(4).in_flight(1))
    });
    pool.warm_up(1).await.unwrap();
    let mut handle = pool.shared("narrow");
    let _: String = ask(&mut handle, "PING").await;
    hold_writes(&server);

    let late = soon("the time-out", send(&mut handle, "INCR n")).await.unwrap_err();

    assert!(RedisError::from(late).is_timeout());
    assert_eq!(in_flight(&pool), 1);
    let mut waiter = Box::pin(sending(&pool, "narrow", "GET n"));
    assert!(poll_once(&mut waiter).is_pending());
    drop(waiter);
    let_writes_go(&server);
    until("rest", &pool, || in_flight(&pool) == 0).await;
    assert_eq!(ask::<i64>(&mut handle, "GET n").await, 1);
}

#[tokio::test]
async fn places_of_dropped_commands_are_free_when_their_lane_dies() {
    let (server, pool) = narrow(4);
    let mut handle = pool.shared("narrow");
    let id = lane_id(&mut handle).await;
    hold_writes(&server);
    for _ in 0..4 {
        let mut dropped = Box::pin(sending(&pool, "narrow", "INCR n"));
        assert!(poll_once(&mut dropped).is_pending());
    }
    assert_eq!(in_flight(&pool), 4);

    crate::kill(&server, id);

    until("rest", &pool, || in_flight(&pool) == 0).await;
    let_writes_go(&server);
    let _: String = ask(&mut handle, "PING").await;
}

#[tokio::test]
async fn a_waiter_that_leaves_the_queue_does_not_keep_the_next_one() {
    let (server, pool) = narrow(1);
    let _: String = ask(&mut pool.shared("narrow"), "PING").await;
    hold_writes(&server);
    let mut callers: Vec<_> =
        (0..3).map(|_| Box::pin(sending(&pool, "narrow", "INCR n"))).collect();
    for caller in &mut callers {
        assert!(poll_once(caller).is_pending());
    }

    drop(callers.remove(1));

    let_writes_go(&server);
    assert!(soon("both", join_all(callers)).await.iter().all(Result::is_ok));
    assert_eq!(in_flight(&pool), 0);
}

#[tokio::test]
async fn an_endpoint_at_its_limit_does_not_hold_up_another() {
    let (server, pool) = narrow(1);
    let mut other = pool.shared("other-endpoint");
    let _: String = ask(&mut other, "PING").await;
    let mut held = Box::pin(sending(&pool, "narrow", "PING"));
    assert!(poll_once(&mut held).is_pending());
    let mut waiters: Vec<_> =
        (0..100).map(|_| Box::pin(sending(&pool, "narrow", "PING"))).collect();
    for waiter in &mut waiters {
        assert!(poll_once(waiter).is_pending());
    }

    for _ in 0..200 {
        let _: String = soon("a command of the other", ask(&mut other, "PING")).await;
    }

    assert_eq!(endpoint(&pool, "narrow").shared_in_flight, 1);
    drop((held, waiters));
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn all_handles_of_an_endpoint_share_its_places() {
    let (server, pool) = narrow(2);
    let handle = pool.shared("narrow");
    let handles = [handle.clone(), handle.clone(), pool.shared("narrow")];
    let _: String = ask(&mut handle.clone(), "PING").await;
    hold_writes(&server);
    let incr = cmd("INCR n");
    let mut callers: Vec<_> = handles
        .into_iter()
        .map(|mut handle| {
            let incr = incr.clone();
            Box::pin(async move { handle.send(&incr).await })
        })
        .collect();

    for caller in &mut callers {
        assert!(poll_once(caller).is_pending());
    }

    assert_eq!(in_flight(&pool), 2);
    let_writes_go(&server);
    soon("all", join_all(callers)).await;
}

/// A command whose reply nobody wants is answered all the same.
#[tokio::test]
async fn a_command_without_a_reply_counts_until_the_server_has_answered_it() {
    let (server, pool) = narrow(2);
    let mut handle = pool.shared("narrow");
    let _: String = ask(&mut handle, "PING").await;
    hold_writes(&server);
    let mut incr = cmd("INCR n");
    incr.set_no_response(true);

    for _ in 0..2 {
        soon("the command", handle.send(&incr)).await.unwrap();
    }

    let seen = in_flight(&pool);
    let_writes_go(&server);
    until("rest", &pool, || in_flight(&pool) == 0).await;
    assert_eq!(seen, 2);
}

/// A place in flight and a lane: the acquire timeout is for both together.
#[tokio::test]
async fn a_caller_waits_for_its_place_and_the_lane_no_longer_than_the_acquire_timeout() {
    let timeout = Duration::from_millis(400);
    let (server, pool) = pair_with(|builder| {
        let builder = builder.acquire_timeout(timeout).connect_timeout(HANG);
        builder.endpoint("narrow", Budget::max(4).in_flight(1))
    });
    server.pause();
    let first = tokio::spawn(sending(&pool, "narrow", "PING"));
    until("a dial", &pool, || pool.status().dialing == 1).await;
    // Nobody answers, so that time passes only where somebody waits for it.
    tokio::time::pause();
    tokio::time::sleep(timeout / 2).await;
    let begun = Instant::now();

    let second = soon("the second", sending(&pool, "narrow", "PING")).await;

    assert!(second.is_err() && first.await.unwrap().is_err());
    assert!(begun.elapsed() < timeout * 5 / 4, "{:?}", begun.elapsed());
}
