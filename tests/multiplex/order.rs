//! Order: what a lease has sent on a lane has been answered before the first command goes over a connection of
//! its own.

use std::time::Duration;

use redis_guard::redis::{RedisError, RedisResult, Value};
use redis_guard::{Budget, GuardedConnection};
use tokio::time::timeout;

use crate::waiting::{HANG, cmd, let_pass, poll_once, soon, until};
use crate::{
    ask, at_rest, calls, endpoint, give_up, give_up_on, hold_writes, ids, in_vain, kill, lane_id,
    lease, leases, let_writes_go, pair, pair_with, send, until_read,
};

/// Long beside a round trip, so that what does not wait has been answered by then.
const CHANCE: Duration = Duration::from_millis(150);

/// The longest that a connection lives by default, and a little.
const LIFETIME: Duration = Duration::from_secs(34 * 60);

/// What takes a connection, with what the server is sent for it first.
const WAYS: [(&str, &str); 6] = [
    ("MULTI", "multi"),
    ("WATCH k", "watch"),
    ("CLIENT GETNAME", "client|getname"),
    ("SELECT 0", "select"),
    ("BLPOP nothing 0.01", "blpop"),
    ("make_exclusive", "get"),
];

/// Takes a connection this way.
async fn take(lease: &mut GuardedConnection, way: &str) -> RedisResult<Value> {
    match way {
        "make_exclusive" => Ok(lease.make_exclusive().await.map(|()| Value::Okay)?),
        line => send(lease, line).await,
    }
}

fn assert_overtakes(told: &RedisError) {
    assert!(told.is_timeout(), "{told:?}");
    let words = told.to_string();
    assert!(words.contains("would overtake it") && words.contains("nothing was sent"), "{words}");
}

#[tokio::test]
async fn a_connection_is_not_used_before_what_was_given_up_on_the_lane_is_answered() {
    for (way, command) in WAYS {
        let (server, pool) = pair();
        let mut lease = lease(&pool, "test").await;
        hold_writes(&server);
        give_up(&server, &pool, &mut lease, "SET k v").await;
        let before = calls(&server, command);

        let mut taking = Box::pin(take(&mut lease, way));
        assert!(timeout(CHANCE, &mut taking).await.is_err(), "{way} did not wait");
        assert_eq!(calls(&server, command), before, "{way} was sent");
        assert_eq!(leases(&pool, "test"), (1, 0), "{way}");
        let_writes_go(&server);
        let told = soon(way, taking).await;

        assert!(told.is_ok(), "{way}: {told:?}");
        assert_holds(&mut lease, way, "v").await;
        drop(lease);
        at_rest(&pool, &server).await;
    }
}

/// The lease goes on, and has this in `k`.
async fn assert_holds(lease: &mut GuardedConnection, way: &str, value: &str) {
    if way == "MULTI" {
        let _: Value = ask(lease, "DISCARD").await;
    }
    assert_eq!(ask::<Option<String>>(lease, "GET k").await.unwrap_or_default(), value, "{way}");
}

#[tokio::test]
async fn if_it_is_not_answered_in_time_that_is_the_error_and_nothing_is_sent() {
    for (way, command) in WAYS {
        let (server, pool) = pair();
        let mut lease = lease(&pool, "test").await;
        hold_writes(&server);
        give_up(&server, &pool, &mut lease, "SET k v").await;
        let before = calls(&server, command);

        let told = in_vain(take(&mut lease, way)).await.unwrap_err();

        assert_overtakes(&told);
        assert_eq!(calls(&server, command), before, "{way} was sent");
        assert_eq!((leases(&pool, "test"), lease.is_exclusive()), ((1, 0), false), "{way}");
        let_writes_go(&server);
        let told = soon(way, take(&mut lease, way)).await;
        assert!(told.is_ok(), "the lease is as it was: {way}: {told:?}");
        assert_holds(&mut lease, way, "v").await;
    }
}

/// A command that was not answered within the response timeout may still run, like one that was given up.
#[tokio::test]
async fn a_command_that_has_timed_out_is_waited_for_too() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    let lane = lane_id(&server);
    hold_writes(&server);
    let mut set = Box::pin(send(&mut lease, "SET k v"));
    assert!(poll_once(&mut set).is_pending());
    until_read(&server, &pool, lane, "SET k v").await;
    let_pass(HANG).await;
    let told = soon("SET", set).await.unwrap_err();
    assert!(told.is_timeout(), "{told}");

    let told = in_vain(send(&mut lease, "MULTI")).await.unwrap_err();
    assert_overtakes(&told);

    let_writes_go(&server);
    let () = ask(&mut lease, "MULTI").await;
    let _: String = ask(&mut lease, "GET k").await;
    assert_eq!(ask::<Vec<String>>(&mut lease, "EXEC").await, ["v"]);
}

/// The driver does not wait for its reply.
#[tokio::test]
async fn a_command_without_a_reply_is_waited_for_too() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    hold_writes(&server);
    let mut set = cmd("SET k v");
    set.set_no_response(true);
    let () = soon("SET", set.query_async(&mut lease)).await.unwrap();

    let mut taking = Box::pin(lease.make_exclusive());
    assert!(timeout(CHANCE, &mut taking).await.is_err(), "it did not wait");
    let_writes_go(&server);
    soon("a connection", taking).await.unwrap();

    assert_eq!(ask::<String>(&mut lease, "GET k").await, "v");
}

#[tokio::test]
async fn pipelines_that_were_given_up_are_waited_for_too() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    let lane = lane_id(&server);
    hold_writes(&server);
    let mut pipeline = redis_guard::redis::pipe();
    pipeline.set("k", "v").set("l", "w");
    let mut reply = Box::pin(pipeline.query_async::<Value>(&mut lease));
    assert!(poll_once(&mut reply).is_pending());
    until_read(&server, &pool, lane, "SET k v").await;
    drop(reply);

    let mut watch = Box::pin(send(&mut lease, "WATCH k l"));
    assert!(timeout(CHANCE, &mut watch).await.is_err(), "it did not wait");
    let_writes_go(&server);
    soon("WATCH", watch).await.unwrap();

    assert_eq!(ask::<String>(&mut lease, "GET l").await, "w");
    let () = ask(&mut lease, "MULTI").await;
    let _: String = ask(&mut lease, "GET k").await;
    assert_eq!(ask::<Vec<String>>(&mut lease, "EXEC").await, ["v"], "no conflict with itself");
}

/// Its own commands have been answered; a neighbour's on the same lane are none of its business.
#[tokio::test]
async fn what_others_have_on_the_lane_is_not_waited_for() {
    let (server, pool) = pair();
    let (mut ours, mut theirs) = (lease(&pool, "test").await, lease(&pool, "test").await);
    let () = ask(&mut ours, "SET k v").await;
    hold_writes(&server);
    give_up(&server, &pool, &mut theirs, "SET other v").await;

    assert_eq!(ask::<Value>(&mut ours, "WATCH k").await, Value::Okay);

    assert!(ours.is_exclusive());
    let_writes_go(&server);
}

#[tokio::test]
async fn what_was_given_up_before_it_was_sent_is_not_waited_for() {
    let (server, pool) =
        pair_with(|builder| builder.endpoint("narrow", Budget::max(2).in_flight(1)));
    let (mut ours, mut theirs) = (lease(&pool, "narrow").await, lease(&pool, "narrow").await);
    let lane = lane_id(&server);
    hold_writes(&server);
    let mut held = Box::pin(send(&mut theirs, "SET other v"));
    assert!(poll_once(&mut held).is_pending());
    until_read(&server, &pool, lane, "SET other v").await;
    let mut waiting = Box::pin(send(&mut ours, "SET k never"));
    assert!(poll_once(&mut waiting).is_pending());
    assert_eq!(endpoint(&pool, "narrow").waiting, 1);
    drop(waiting);

    soon("a connection", ours.make_exclusive()).await.unwrap();

    let_writes_go(&server);
    soon("theirs", held).await.unwrap();
    assert_eq!(ask::<Value>(&mut ours, "GET k").await, Value::Nil);
}

#[tokio::test]
async fn a_lane_that_has_died_in_between_has_its_commands_with_it() {
    for (way, _) in WAYS {
        let (server, pool) = pair();
        let mut lease = lease(&pool, "test").await;
        hold_writes(&server);
        give_up(&server, &pool, &mut lease, "SET k v").await;
        kill(&server, lane_id(&server));
        let_writes_go(&server);

        let told = soon(way, take(&mut lease, way)).await;

        assert!(told.is_ok(), "{way}: {told:?}");
        assert_holds(&mut lease, way, "").await;
    }
}

#[tokio::test]
async fn a_lane_that_dies_while_it_is_waited_for_has_its_commands_with_it() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    hold_writes(&server);
    give_up(&server, &pool, &mut lease, "SET k v").await;
    let mut taking = Box::pin(take(&mut lease, "MULTI"));
    assert!(timeout(CHANCE, &mut taking).await.is_err(), "it did not wait");

    kill(&server, lane_id(&server));

    assert_eq!(soon("MULTI", taking).await.unwrap(), Value::Okay);
    let_writes_go(&server);
    assert_holds(&mut lease, "MULTI", "").await;
}

/// A lane at the end of its lifetime goes once it has answered; until then it is waited for, although the lease
/// has gone on to the next one.
#[tokio::test]
async fn a_lane_that_was_replaced_is_waited_for_like_the_next_one() {
    for also_on_the_next in [false, true] {
        let (server, pool) = pair();
        let mut lease = lease(&pool, "test").await;
        let old = lane_id(&server);
        hold_writes(&server);
        give_up_on(&server, &pool, &mut lease, old, "SET k v").await;
        let_pass(LIFETIME).await;
        until("the next lane", &pool, || pool.status().lanes[0].connections == 2).await;
        let _: String = ask(&mut lease, "PING").await;
        if also_on_the_next {
            let next = ids(&server).into_iter().find(|id| *id != old).unwrap();
            give_up_on(&server, &pool, &mut lease, next, "APPEND l w").await;
        }

        let mut watch = Box::pin(send(&mut lease, "WATCH k l"));
        assert!(timeout(CHANCE, &mut watch).await.is_err(), "it did not wait");
        assert_eq!(calls(&server, "watch"), 0);
        let_writes_go(&server);
        soon("WATCH", watch).await.unwrap();

        let told: Vec<Option<String>> = ask(&mut lease, "MGET k l").await;
        let next = also_on_the_next.then(|| "w".to_owned());
        assert_eq!(told, [Some("v".to_owned()), next]);
        drop(lease);
        at_rest(&pool, &server).await;
    }
}

/// Blocking, it goes over a connection of its own, which it gives back: what comes next is in its order too.
#[tokio::test]
async fn the_lane_is_used_again_after_what_blocks_has_been_answered() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    for turn in 0..100 {
        let () = ask(&mut lease, "DEL queue").await;
        let _: u64 = ask(&mut lease, &format!("RPUSH queue {turn}")).await;
        let popped: (String, u64) = ask(&mut lease, "BLPOP queue 5").await;
        assert_eq!(popped.1, turn);
        assert_eq!(ask::<u64>(&mut lease, "LLEN queue").await, 0);
    }
    assert!(!lease.is_exclusive());
    drop(lease);
    at_rest(&pool, &server).await;
}
