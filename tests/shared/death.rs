//! A lane that dies: what its commands hear, and how it is replaced.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::redis::{ErrorKind, RedisError};
use redis_guard::{Breaker, Error, Event};
use tokio::time::{sleep, timeout};

use crate::proxy::Proxy;
use crate::support::dials;
use crate::waiting::{HANG, next, poll_once, soon, until};
use crate::{
    ask, at_rest, builder, connections, hold_writes, in_flight, kill, lane_id, lanes,
    let_writes_go, pair, pair_with, send, sending, until_read,
};

/// The error of a command whose lane died under it.
fn assert_lost(error: Error) {
    let text = error.to_string();
    assert!(text.contains("may or may not have run"), "{text}");
    assert!(!error.is_rejected(), "{error:?}");
    let error = RedisError::from(error);
    assert!(error.is_io_error() && !error.is_timeout(), "{error:?}");
    assert_ne!(error.kind(), ErrorKind::Client);
}

#[tokio::test]
async fn a_killed_lane_is_replaced_in_the_background_by_one_dial() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;

    kill(&server, id);

    until("a new lane", &pool, || lanes(&pool)[0].up && lanes(&pool)[0].connections == 2).await;
    assert_ne!(lane_id(&mut handle).await, id);
    assert_eq!((dials(&pool), connections(&server)), ([("connected", 2)].into(), 1));
}

#[tokio::test]
async fn callers_that_find_the_lane_dead_wait_for_one_dial() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    let mut events = pool.events();
    kill(&server, id);
    next("the close", &mut events, |event| matches!(event, Event::ConnectionClosed { .. })).await;

    let callers = (0..64).map(|_| sending(&pool, "search", "PING"));
    let replies = soon("the callers", join_all(callers)).await;

    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    assert_eq!((dials(&pool), connections(&server)), ([("connected", 2)].into(), 1));
}

#[tokio::test]
async fn commands_in_flight_on_a_killed_lane_hear_that_they_may_or_may_not_have_run() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(HANG));
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    hold_writes(&server);
    let mut callers: Vec<_> =
        (0..8).map(|_| Box::pin(sending(&pool, "search", "INCR n"))).collect();
    for caller in &mut callers {
        assert!(poll_once(caller).is_pending());
    }
    until_read(&server, &pool, id, "incr").await;

    kill(&server, id);

    for told in soon("the callers", join_all(callers)).await {
        assert_lost(told.unwrap_err());
    }
    let_writes_go(&server);
    assert_eq!(ask::<i64>(&mut handle, "INCR n").await, 1, "none was sent again");
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_pipeline_in_flight_on_a_killed_lane_hears_the_same() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(HANG));
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    hold_writes(&server);
    let mut pipeline = redis_guard::redis::pipe();
    pipeline.atomic().incr("n", 1).incr("n", 1);
    let mut sender = handle.clone();
    let mut told = Box::pin(sender.send_pipeline(&pipeline));
    assert!(poll_once(&mut told).is_pending());
    until("the server has read it", &pool, || {
        crate::waiting::field(&server, id, "cmd").is_some_and(|cmd| cmd != "client|id")
    })
    .await;

    kill(&server, id);

    assert_lost(soon("the pipeline", told).await.unwrap_err());
    let_writes_go(&server);
    assert_eq!(ask::<i64>(&mut handle, "INCR n").await, 1);
}

/// The counter shows it: at least the commands that were answered ran, and at most those that were
/// not answered ran besides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_twice_while_lanes_are_killed_all_the_time() {
    // For those that are not answered, below.
    let timeout = Duration::from_secs(5);
    // A dial that is killed, too, is waited out.
    let (server, pool) = pair_with(|builder| {
        let builder = builder.shared_lanes(2).response_timeout(timeout);
        builder.breaker(Breaker::default().failures(u32::MAX))
    });
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let mut handle = pool.shared("search");
            tokio::spawn(async move {
                let (mut ran, mut unknown) = (0_i64, 0_i64);
                for _ in 0..200 {
                    match send(&mut handle, "INCR n").await {
                        Ok(_) => ran += 1,
                        Err(error) if error.is_rejected() => panic!("{error}"),
                        // A thread that loses its processor while it hands over a command, for longer than an end is
                        // kept back, and those behind it, may also just not be answered (`dial::end_notice`).
                        Err(error) if error.to_string().contains("no reply within") => {
                            unknown += 1;
                        }
                        Err(error) => {
                            assert_lost(error);
                            unknown += 1;
                        }
                    }
                }
                (ran, unknown)
            })
        })
        .collect();
    let callers = tokio::spawn(join_all(callers));
    let mut kills = 0;
    while !callers.is_finished() {
        for client in server.admin().client_list() {
            if client.get("name").is_some_and(|name| name == crate::NAME) {
                let _ = server.admin().command(&["CLIENT", "KILL", "ID", &client["id"]]);
                kills += 1;
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
    let (mut ran, mut unknown) = (0, 0);
    for told in callers.await.unwrap() {
        let told = told.unwrap();
        (ran, unknown) = (ran + told.0, unknown + told.1);
    }

    assert!(kills > 0 && ran > 0, "{kills} kills, {ran} ran");
    let count: i64 = server.admin().text(&["GET", "n"]).parse().unwrap();
    assert!((ran..=ran + unknown).contains(&count), "{ran} <= {count} <= {ran} + {unknown}");
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_restart_of_the_server_is_survived() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(HANG));
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    hold_writes(&server);
    let mut lost = Box::pin(sending(&pool, "search", "SET k v"));
    assert!(poll_once(&mut lost).is_pending());
    until_read(&server, &pool, id, "set").await;

    server.crash();
    assert_lost(soon("the command in flight", lost).await.unwrap_err());
    let told = soon("the refusal", send(&mut handle, "PING")).await.unwrap_err();
    assert!(told.is_rejected(), "{told:?}");
    server.restart().unwrap();

    let asking = async {
        while send(&mut handle, "PING").await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("service", asking).await;
    assert_eq!(lanes(&pool)[0].connections, 2);
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn while_the_server_is_away_the_keeper_dials_for_nobody() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;
    server.crash();
    until("the lane down", &pool, || !lanes(&pool)[0].up).await;
    until("no dial wanted", &pool, || pool.status().dialing == 0 && pool.status().waiting == 0)
        .await;

    // The back-off is 1 ms, so there is time for hundreds of dials.
    let quiet = async {
        let mut before = dials(&pool);
        loop {
            sleep(Duration::from_millis(300)).await;
            let now = dials(&pool);
            if now == before {
                break;
            }
            before = now;
        }
    };
    soon("quiet", quiet).await;
    server.restart().unwrap();

    let asking = async {
        while send(&mut handle, "PING").await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("service", asking).await;
}

#[tokio::test]
async fn of_two_lanes_one_may_die_without_a_wait_for_later_commands() {
    let (server, pool) = pair_with(|builder| builder.shared_lanes(2));
    let mut handles = [pool.shared("search"), pool.shared("search"), pool.shared("search")];
    for handle in &mut handles {
        let _: String = ask(handle, "PING").await;
    }
    until("two lanes", &pool, || lanes(&pool).iter().filter(|lane| lane.up).count() == 2).await;
    let [handle, ..] = &mut handles;
    pool.breaker().force_open();
    kill(&server, lane_id(handle).await);
    until("one lane", &pool, || lanes(&pool).iter().filter(|lane| lane.up).count() == 1).await;

    let _: String = timeout(HANG, ask(handle, "PING")).await.expect("served by the other lane");

    pool.breaker().auto();
    until("two lanes", &pool, || lanes(&pool).iter().filter(|lane| lane.up).count() == 2).await;
}

/// A NAT or a failover that forgets a connection closes nothing: commands time out, one after the
/// other. New connections work, so the lane has to be given up.
#[tokio::test]
async fn a_lane_that_answers_nobody_any_more_is_replaced() {
    let (server, _) = pair();
    let proxy = Proxy::start(&server).await;
    let limit = Duration::from_millis(100);
    let pool = builder(&proxy.url()).response_timeout(limit).build().unwrap();
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;
    proxy.forget_all();
    send(&mut handle, "PING").await.unwrap_err();

    let asking = async { while send(&mut handle, "PING").await.is_err() {} };

    let served = timeout(limit * 30, asking).await;
    assert!(served.is_ok(), "still dead after 30 response timeouts: {:#?}", pool.status().lanes);
    until("rest", &pool, || in_flight(&pool) == 0).await;
}
