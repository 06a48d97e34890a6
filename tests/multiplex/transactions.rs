//! Transactions step by step, over leases that share until then.

use futures_util::future::join_all;
use redis_guard::redis::Value;
use redis_guard::{Budget, GuardedConnection};

use crate::waiting::soon;
use crate::{ask, at_rest, connections, lease, leases, pair, pair_with};

/// Reads the number, and writes the next one unless somebody was faster: as services do it.
async fn increment(lease: &mut GuardedConnection, key: &str) -> bool {
    let () = ask(lease, &format!("WATCH {key}")).await;
    let number: i64 = ask(lease, &format!("GET {key}")).await;
    let () = ask(lease, "MULTI").await;
    let _: String = ask(lease, &format!("SET {key} {}", number + 1)).await;
    ask::<Value>(lease, "EXEC").await != Value::Nil
}

#[tokio::test]
async fn one_with_watch_runs_as_on_any_connection() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "cart").await;
    let () = ask(&mut lease, "SET stock 3").await;
    assert!(!lease.is_exclusive());

    assert!(increment(&mut lease, "stock").await);

    assert_eq!(ask::<i64>(&mut lease, "GET stock").await, 4);
    assert!(lease.is_exclusive(), "until the drop");
    assert_eq!((leases(&pool, "cart"), connections(&server)), ((1, 1), 2));
    drop(lease);
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_watched_key_that_somebody_else_changes_undoes_it() {
    let (_server, pool) = pair();
    let (mut ours, mut theirs) = (lease(&pool, "cart").await, lease(&pool, "cart").await);
    let () = ask(&mut ours, "SET stock 3").await;
    let () = ask(&mut ours, "WATCH stock").await;
    let () = ask(&mut theirs, "SET stock 9").await;

    let () = ask(&mut ours, "MULTI").await;
    let _: String = ask(&mut ours, "SET stock 2").await;
    let told: Value = ask(&mut ours, "EXEC").await;

    assert_eq!(told, Value::Nil);
    assert_eq!(ask::<i64>(&mut theirs, "GET stock").await, 9);
    assert!(!theirs.is_exclusive());
}

/// What it has sent before is no conflict, for it is answered before WATCH is sent.
#[tokio::test]
async fn what_the_lease_itself_wrote_before_watch_undoes_nothing() {
    let (_server, pool) = pair();
    for turn in 0..50 {
        let mut lease = lease(&pool, "cart").await;
        let () = ask(&mut lease, &format!("SET stock {turn}")).await;
        assert!(increment(&mut lease, "stock").await, "turn {turn}");
    }
}

#[tokio::test]
async fn what_the_lease_itself_writes_after_watch_undoes_it() {
    let (_server, pool) = pair();
    let mut lease = lease(&pool, "cart").await;
    let () = ask(&mut lease, "WATCH stock").await;
    let () = ask(&mut lease, "SET stock 5").await;

    let () = ask(&mut lease, "MULTI").await;
    let _: String = ask(&mut lease, "SET stock 6").await;

    assert_eq!(ask::<Value>(&mut lease, "EXEC").await, Value::Nil);
}

#[tokio::test]
async fn discard_and_unwatch_take_it_all_back() {
    let (_server, pool) = pair();
    let mut lease = lease(&pool, "cart").await;
    let () = ask(&mut lease, "MULTI").await;
    let _: String = ask(&mut lease, "SET stock 6").await;
    let () = ask(&mut lease, "DISCARD").await;
    assert_eq!(ask::<Value>(&mut lease, "GET stock").await, Value::Nil);
    let () = ask(&mut lease, "WATCH stock").await;
    let () = ask(&mut lease, "SET stock 1").await;
    let () = ask(&mut lease, "UNWATCH").await;

    assert!(increment(&mut lease, "stock").await);
}

#[tokio::test]
async fn transactions_of_two_leases_and_the_commands_of_a_third_do_not_mix() {
    let (_server, pool) = pair();
    let mut both = [lease(&pool, "cart").await, lease(&pool, "cart").await];
    let mut third = lease(&pool, "cart").await;
    for lease in &mut both {
        let () = ask(lease, "MULTI").await;
    }
    for (at, lease) in both.iter_mut().enumerate() {
        assert_eq!(ask::<String>(lease, &format!("SET of:{at} {at}")).await, "QUEUED");
        assert_eq!(ask::<Value>(&mut third, &format!("GET of:{at}")).await, Value::Nil);
    }

    for (at, lease) in both.iter_mut().enumerate() {
        let told: Vec<Value> = ask(lease, "EXEC").await;
        assert_eq!(told, [Value::Okay]);
        assert_eq!(ask::<usize>(&mut third, &format!("GET of:{at}")).await, at);
    }
    assert!(!third.is_exclusive());
}

/// More callers than their budget has connections: each waits for its turn before WATCH.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_optimistic_transactions_at_once_lose_nothing() {
    let (server, pool) = pair_with(|builder| builder.endpoint("cart", Budget::max(3)));
    let () = ask(&mut lease(&pool, "cart").await, "SET stock 0").await;
    let callers = (0..12).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let mut lease = lease(&pool, "cart").await;
                done += i64::from(increment(&mut lease, "stock").await);
            }
            done
        })
    });

    let done: i64 = soon("all", join_all(callers)).await.into_iter().map(Result::unwrap).sum();

    assert_eq!(done, 120);
    assert_eq!(ask::<i64>(&mut lease(&pool, "cart").await, "GET stock").await, done);
    assert!(connections(&server) <= 4, "three of the budget, and the lane");
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_transaction_sent_as_a_plain_pipeline_is_one_too() {
    let (_server, pool) = pair();
    let mut lease = lease(&pool, "cart").await;
    let mut pipeline = redis_guard::redis::pipe();
    pipeline.cmd("MULTI").ignore().incr("n", 1).ignore().incr("n", 1).ignore().cmd("EXEC");

    let told: ((i64, i64),) = soon("it", pipeline.query_async(&mut lease)).await.unwrap();

    assert_eq!(told, ((1, 2),));
    assert!(!lease.is_exclusive(), "nothing comes in between on a lane either");
}
