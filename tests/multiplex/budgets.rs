//! Budgets: `max` bounds the leases that have a connection, `in_flight` the commands on lanes.

use futures_util::future::join_all;
use redis_guard::redis::{ErrorKind, Value};
use redis_guard::{Budget, Event};

use crate::waiting::{HANG, next, poll_once, soon, until};
use crate::{
    ask, at_rest, calls, connections, endpoint, hold_writes, in_vain, lane_id, lease, leases,
    let_writes_go, pair_with, send, until_read,
};

#[tokio::test]
async fn max_bounds_the_leases_that_have_a_connection() {
    let (server, pool) = pair_with(|builder| builder.endpoint("cart", Budget::max(2)));
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(lease(&pool, "cart").await);
    }
    all[0].make_exclusive().await.unwrap();
    let () = ask(&mut all[1], "WATCH key").await;
    let before = calls(&server, "multi");

    for line in ["MULTI", "SELECT 1", "BLPOP list 0", "CLIENT ID"] {
        let told = in_vain(send(&mut all[2], line)).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Client, "nobody tries that again: {told}");
        let words = r#"endpoint "cart" holds all 2 connections of its budget"#;
        assert!(told.to_string().contains(words), "{line}: {told}");
    }
    let told = in_vain(all[2].make_exclusive()).await.unwrap_err();

    assert_eq!(told.reason(), "budget_exhausted");
    assert_eq!(
        [calls(&server, "multi"), calls(&server, "select")],
        [before, 0],
        "nothing was sent"
    );
    assert_eq!(calls(&server, "blpop"), 0);
    assert_eq!((leases(&pool, "cart"), all[2].is_exclusive()), ((20, 2), false));
    assert_eq!(endpoint(&pool, "cart").rejected, [("budget_exhausted", 5)].into());
    let () = ask(&mut all[2], "SET key value").await;
    all.remove(0);
    assert_eq!(ask::<Value>(&mut all[1], "MULTI").await, Value::Okay, "the place of another");
    drop(all);
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_refusal_is_an_event_like_any_other() {
    let (_server, pool) = pair_with(|builder| builder.endpoint("cart", Budget::max(1)));
    let mut both = [lease(&pool, "cart").await, lease(&pool, "cart").await];
    both[0].make_exclusive().await.unwrap();
    let mut events = pool.events();

    in_vain(send(&mut both[1], "MULTI")).await.unwrap_err();

    let event = next("a refusal", &mut events, |event| matches!(event, Event::Rejected { .. }));
    let Event::Rejected { endpoint, rejection, .. } = event.await else { unreachable!() };
    assert_eq!((endpoint.as_str(), rejection.reason()), ("cart", "budget_exhausted"));
}

#[tokio::test]
async fn whoever_needs_a_connection_waits_for_its_turn() {
    let (_server, pool) = pair_with(|builder| builder.endpoint("cart", Budget::max(1)));
    let (mut one, mut other) = (lease(&pool, "cart").await, lease(&pool, "cart").await);
    let () = ask(&mut one, "MULTI").await;
    let mut begun = Box::pin(send(&mut other, "MULTI"));
    assert!(poll_once(&mut begun).is_pending());
    assert_eq!(endpoint(&pool, "cart").waiting, 1);

    drop(one);

    assert_eq!(soon("MULTI", begun).await.unwrap(), Value::Okay);
    assert_eq!(leases(&pool, "cart"), (1, 1));
}

#[tokio::test]
async fn in_flight_bounds_the_commands_on_lanes() {
    let (server, pool) = pair_with(|builder| {
        builder.endpoint("narrow", Budget::max(1).in_flight(2)).response_timeout(10 * HANG)
    });
    let mut all = [(); 3].map(|()| None);
    for place in &mut all {
        *place = Some(lease(&pool, "narrow").await);
    }
    let [one, two, three] = all.each_mut().map(|lease| lease.as_mut().unwrap());
    hold_writes(&server);
    let mut held = [Box::pin(send(one, "INCR n")), Box::pin(send(two, "INCR n"))];
    for held in &mut held {
        assert!(poll_once(held).is_pending());
    }
    let status = endpoint(&pool, "narrow");
    assert_eq!((status.shared_in_flight, status.shared_in_flight_max), (2, 2));

    let told = in_vain(send(three, "INCR n")).await.unwrap_err();

    let words = r#"endpoint "narrow" has 2 shared commands in flight already"#;
    assert!(told.to_string().contains(words), "{told}");
    let_writes_go(&server);
    assert!(soon("both", join_all(held)).await.iter().all(Result::is_ok));
    assert_eq!(ask::<i64>(three, "INCR n").await, 3);
}

#[tokio::test]
async fn a_lease_with_a_connection_takes_no_place_in_flight() {
    let (server, pool) =
        pair_with(|builder| builder.endpoint("narrow", Budget::max(1).in_flight(1)));
    let (mut one, mut own) = (lease(&pool, "narrow").await, lease(&pool, "narrow").await);
    let lane = lane_id(&server);
    own.make_exclusive().await.unwrap();
    hold_writes(&server);
    let mut held = Box::pin(send(&mut one, "INCR n"));
    assert!(poll_once(&mut held).is_pending());
    until_read(&server, &pool, lane, "INCR n").await;

    assert_eq!(ask::<String>(&mut own, "PING").await, "PONG");

    assert_eq!(endpoint(&pool, "narrow").shared_in_flight, 1);
    let_writes_go(&server);
    soon("it", held).await.unwrap();
}

#[tokio::test]
async fn an_endpoints_reserve_is_kept_for_its_leases() {
    let (server, pool) = pair_with(|builder| {
        let builder = builder.max_connections(4);
        builder.endpoint("checkout", Budget::max(2).reserve(1))
    });
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(lease(&pool, "search").await);
    }
    // One is the lane's.
    for lease in &mut others[..2] {
        lease.make_exclusive().await.unwrap();
    }
    let told = in_vain(others[2].make_exclusive()).await.unwrap_err();
    assert_eq!(told.reason(), "acquire_timeout", "{told}");

    let mut checkout = lease(&pool, "checkout").await;
    checkout.make_exclusive().await.unwrap();

    assert_eq!((leases(&pool, "checkout"), leases(&pool, "search")), ((1, 1), (3, 2)));
    assert_eq!(connections(&server), 4);
}

/// Where every connection is held, the lane is not: it is in a budget of its own.
#[tokio::test]
async fn leases_that_hold_everything_leave_the_lane_to_the_others() {
    let (server, pool) = pair_with(|builder| builder.max_connections(3));
    let mut holders = [lease(&pool, "hog").await, lease(&pool, "hog").await];
    for lease in &mut holders {
        lease.make_exclusive().await.unwrap();
    }
    until("all are lent", &pool, || pool.status().in_use == 3).await;

    for _ in 0..50 {
        let mut lease = lease(&pool, "search").await;
        assert_eq!(ask::<String>(&mut lease, "PING").await, "PONG");
    }

    assert_eq!(connections(&server), 3);
}

#[tokio::test]
async fn commands_that_block_are_within_the_budget_while_they_do() {
    let (server, pool) = pair_with(|builder| builder.endpoint("jobs", Budget::max(1)));
    let mut both = [lease(&pool, "jobs").await, lease(&pool, "jobs").await];
    let [one, two] = &mut both;
    let mut first = Box::pin(send(one, "BLPOP queue 0"));
    until("it blocks", &pool, || {
        assert!(poll_once(&mut first).is_pending());
        server.admin().info_u64("blocked_clients") == 1
    })
    .await;
    let mut second = Box::pin(send(two, "BLPOP queue 0"));
    assert!(poll_once(&mut second).is_pending());
    let status = endpoint(&pool, "jobs");
    assert_eq!((status.leases, status.in_use, status.waiting), (2, 1, 1));

    server.admin().text(&["RPUSH", "queue", "a", "b"]);

    soon("a", first).await.unwrap();
    soon("b", second).await.unwrap();
    drop(both);
    at_rest(&pool, &server).await;
}

/// A pool so small that the lane is all there is: what needs a connection hears so, the rest works.
#[tokio::test]
async fn where_there_is_room_for_a_lane_only_a_connection_cannot_be_had() {
    let (server, pool) = pair_with(|builder| builder.max_connections(1));
    let mut lease = lease(&pool, "cart").await;

    let told = in_vain(send(&mut lease, "MULTI")).await.unwrap_err();

    assert!(told.to_string().contains("no connection after"), "{told}");
    assert_eq!(ask::<String>(&mut lease, "PING").await, "PONG");
    assert_eq!((calls(&server, "multi"), connections(&server)), (0, 1));
}
