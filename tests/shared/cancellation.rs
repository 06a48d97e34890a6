//! Futures that are dropped: at every await point all counts are right afterwards.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::{Budget, redis};
use tokio::time::timeout;

use crate::waiting::{HANG, cmd, dropped_after, soon, until};
use crate::{
    ask, at_rest, connections, endpoint, hold_writes, lane_id, let_writes_go, pair, pair_with,
    send, sending, until_read,
};

/// More polls than any of the futures below needs.
const POLLS: usize = 10;

#[tokio::test]
async fn a_command_may_be_dropped_anywhere_on_a_warm_lane() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;
    let mut ended = 0;

    for polls in 0..POLLS {
        let get = cmd("GET k");
        ended += usize::from(dropped_after(polls, handle.send(&get)).await.is_some());
        at_rest(&pool, &server).await;
        assert_eq!(ask::<String>(&mut handle, &format!("ECHO {polls}")).await, polls.to_string());
    }

    assert!((1..POLLS).contains(&ended), "{ended}");
    assert_eq!(connections(&server), 1);
}

#[tokio::test]
async fn a_command_may_be_dropped_anywhere_before_there_is_a_lane() {
    for polls in 0..POLLS {
        let (server, pool) = pair();

        let _ = dropped_after(polls, sending(&pool, "search", "PING")).await;

        let _: String = ask(&mut pool.shared("search"), "PING").await;
        at_rest(&pool, &server).await;
        assert_eq!(connections(&server), 1, "{polls} polls");
    }
}

#[tokio::test]
async fn a_command_may_be_dropped_anywhere_while_it_waits_for_a_place() {
    let (server, pool) = pair_with(|builder| {
        builder.acquire_timeout(HANG).endpoint("narrow", Budget::max(2).in_flight(1))
    });
    let _: String = ask(&mut pool.shared("narrow"), "PING").await;

    for polls in 0..POLLS {
        let mut held = Box::pin(sending(&pool, "narrow", "PING"));
        assert!(crate::waiting::poll_once(&mut held).is_pending());
        let waiting = tokio::spawn(dropped_after(polls, sending(&pool, "narrow", "PING")));
        held.await.unwrap();
        let _ = soon("the waiter", waiting).await.unwrap();
        at_rest(&pool, &server).await;
    }

    let _: String = ask(&mut pool.shared("narrow"), "PING").await;
}

#[tokio::test]
async fn a_pipeline_may_be_dropped_anywhere() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;
    for atomic in [false, true] {
        for polls in 0..POLLS {
            let mut pipeline = redis::pipe();
            pipeline.incr("n", 1).incr("n", 1);
            if atomic {
                pipeline.atomic();
            }
            let _ = dropped_after(polls, handle.send_pipeline(&pipeline)).await;
            at_rest(&pool, &server).await;
            let echo: String = ask(&mut handle, &format!("ECHO {polls}")).await;
            assert_eq!(echo, polls.to_string());
        }
    }
    assert_eq!(connections(&server), 1);
}

#[tokio::test]
async fn a_blocking_command_may_be_dropped_anywhere() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;

    for polls in 0..POLLS {
        let pop = cmd("BLPOP nothing 0.02");
        let _ = dropped_after(polls, handle.send(&pop)).await;
        at_rest(&pool, &server).await;
        assert_eq!(endpoint(&pool, "search").in_use, 0);
    }

    let _: String = ask(&mut handle, "PING").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_without_patience_leave_all_counts_right() {
    let (server, pool) = pair_with(|builder| {
        let builder = builder.shared_lanes(2).queue_limit(64);
        builder.endpoint("narrow", Budget::max(2).in_flight(4))
    });
    let callers = (0..32).map(|at: u64| {
        let mut handle = pool.shared(["narrow", "search"][(at % 2) as usize]);
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(at);
            for _ in 0..100 {
                let line = random.choice(["GET k", "INCR n", "BLPOP nothing 0.01"]).unwrap();
                let patience = Duration::from_micros(random.u64(0..500));
                let _ = timeout(patience, send(&mut handle, line)).await;
            }
        })
    });

    for ended in soon("the callers", join_all(callers)).await {
        ended.unwrap();
    }

    at_rest(&pool, &server).await;
    for name in ["narrow", "search"] {
        assert_eq!(ask::<String>(&mut pool.shared(name), "ECHO hello").await, "hello");
    }
}

#[test]
fn a_command_may_be_dropped_outside_of_a_runtime() {
    let (server, pool) = pair();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut handle = pool.shared("search");
    let lane = runtime.block_on(lane_id(&mut handle));
    hold_writes(&server);
    let set = cmd("SET k v");
    let mut pending = Box::pin(handle.send(&set));
    runtime.block_on(async {
        assert!(crate::waiting::poll_once(&mut pending).is_pending());
        // One that is dropped before the driver has it is never sent.
        until_read(&server, &pool, lane, "set").await;
    });

    drop(pending);

    assert_eq!(endpoint(&pool, "search").shared_in_flight, 1);
    let_writes_go(&server);
    runtime.block_on(async {
        until("rest", &pool, || endpoint(&pool, "search").shared_in_flight == 0).await;
    });
}
