//! A server without a free slot: cold, warm, and while it recovers.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::redis::{self, ErrorKind};
use redis_guard::{
    Backoff, BreakerState, Event, GuardedPool, GuardedPoolBuilder, Outcome, Rejection,
};
use tokio::time::{sleep, timeout};

use crate::support::{TestServer, dials, unhurried};
use crate::waiting::{HANG, cmd, next, ready, soon, until};
use crate::{NAME, ask, endpoint, kill, lane_id, lanes, send, sending};

const WORDS: &str = "max number of clients reached";

fn server() -> TestServer {
    TestServer::builder().maxclients(16).start().unwrap()
}

/// A pool as a service has it, with its back-off of 50 ms and more.
fn builder(server: &TestServer) -> GuardedPoolBuilder {
    unhurried(server.url()).max_connections(8).client_name(NAME)
}

/// A pool that dials once and no more.
fn patient(server: &TestServer) -> GuardedPool {
    builder(server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap()
}

fn rejected(server: &TestServer) -> u64 {
    server.admin().info_u64("rejected_connections")
}

#[tokio::test]
async fn cold_a_caller_hears_the_servers_words_and_the_time_to_wait() {
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).build().unwrap();

    let error = soon("the answer", send(&mut pool.shared("search"), "PING")).await.unwrap_err();

    let Some(Rejection::BreakerOpen { retry_after, failure, .. }) = error.rejection() else {
        panic!("{error:?}")
    };
    let failure = failure.as_deref().expect("the dial's failure");
    assert_eq!(failure.outcome, Outcome::MaxClients);
    assert_eq!(failure.message, format!("ERR {WORDS}"));
    assert!(*retry_after > Duration::ZERO && *retry_after <= Duration::from_millis(100));
}

#[tokio::test]
async fn cold_every_further_caller_hears_so_on_its_first_poll() {
    let server = server();
    let _occupants = server.fill();
    let pool = patient(&server);
    let mut handle = pool.shared("search");
    send(&mut handle, "PING").await.unwrap_err();

    for _ in 0..1_000 {
        let told = ready(send(&mut handle, "PING")).expect("told on the first poll").unwrap_err();
        assert_eq!(told.reason(), "breaker_open");
        assert!(told.to_string().contains(WORDS), "{told}");
    }

    assert_eq!(dials(&pool), [("max_clients", 1)].into(), "one refusal for a thousand callers");
}

#[tokio::test]
async fn cold_redis_rs_is_told_in_a_way_that_it_does_not_retry() {
    let server = server();
    let _occupants = server.fill();
    let pool = patient(&server);
    let mut handle = pool.shared("search");

    let error = cmd("PING").query_async::<String>(&mut handle).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Client);
    assert_eq!(error.retry_method() as u8, redis::RetryMethod::NoRetry as u8);
    assert!(error.to_string().contains(WORDS), "{error}");
}

#[tokio::test]
async fn cold_64_callers_that_come_at_once_cost_one_refused_dial() {
    let server = server();
    let _occupants = server.fill();
    let pool = patient(&server);
    let before = rejected(&server);

    let callers = join_all((0..64).map(|_| sending(&pool, "search", "PING")));
    let told = soon("64 answers", callers).await;

    assert!(told.iter().all(|told| told.as_ref().is_err_and(|e| e.to_string().contains(WORDS))));
    assert_eq!(rejected(&server) - before, 1);
    assert_eq!(endpoint(&pool, "search").rejected, [("breaker_open", 64)].into());
    assert!(endpoint(&pool, "shared-lanes").rejected.is_empty(), "a lane's keeper is no caller");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cold_64_callers_that_ask_all_the_time_cause_a_handful_of_refused_dials() {
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).shared_lanes(4).build().unwrap();
    let before = rejected(&server);

    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let mut handle = pool.shared("search");
            tokio::spawn(async move {
                let asking = async {
                    loop {
                        send(&mut handle, "PING").await.unwrap_err();
                        sleep(Duration::from_millis(5)).await;
                    }
                };
                timeout(Duration::from_secs(2), asking).await.unwrap_err();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }

    let refused = rejected(&server) - before;
    assert!((3..=12).contains(&refused), "{refused} refused dials in 2 s");
}

#[tokio::test]
async fn refusals_are_told_as_events_of_the_callers_endpoint() {
    let server = server();
    let _occupants = server.fill();
    let pool = patient(&server);
    let mut events = pool.events();

    send(&mut pool.shared("search"), "PING").await.unwrap_err();

    let event = next("a refusal", &mut events, |event| matches!(event, Event::Rejected { .. }));
    let Event::Rejected { endpoint, rejection, .. } = event.await else { unreachable!() };
    assert_eq!((endpoint.as_str(), rejection.reason()), ("search", "breaker_open"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_nobody_fails_while_the_server_is_full() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    let _: String = ask(&mut pool.shared("search"), "PING").await;
    let _occupants = server.fill();
    let before = rejected(&server);

    let callers = (0..64).map(|_| {
        let mut handle = pool.shared("search");
        tokio::spawn(async move {
            for _ in 0..100 {
                let _: String = ask(&mut handle, "PING").await;
            }
        })
    });
    for ended in soon("64 callers", join_all(callers)).await {
        ended.unwrap();
    }

    assert_eq!(rejected(&server), before, "nobody dialed");
    assert_eq!(pool.status().live, 1);
    assert!(endpoint(&pool, "search").rejected.is_empty());
}

#[tokio::test]
async fn warm_a_second_lane_that_cannot_be_had_is_done_without() {
    let server = server();
    let pool = builder(&server).shared_lanes(2).build().unwrap();
    let _: String = ask(&mut pool.shared("search"), "PING").await;
    let _occupants = server.fill();

    for _ in 0..200 {
        let _: String = ask(&mut pool.shared("search"), "PING").await;
    }

    assert_eq!(pool.status().live, 1);
}

#[tokio::test]
async fn warm_a_lane_that_dies_leaves_its_callers_to_the_other() {
    let server = server();
    let pool = builder(&server).shared_lanes(2).build().unwrap();
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;
    let _: String = ask(&mut pool.shared("search"), "PING").await;
    until("two lanes", &pool, || lanes(&pool).iter().all(|lane| lane.up)).await;
    let mut occupants = server.fill();
    pool.breaker().force_open();
    kill(&server, lane_id(&mut handle).await);
    until("a dead lane", &pool, || lanes(&pool).iter().filter(|lane| lane.up).count() == 1).await;
    occupants.top_up();
    pool.breaker().auto();

    for _ in 0..100 {
        let _: String = ask(&mut handle, "PING").await;
        let _: String = ask(&mut pool.shared("search"), "PING").await;
    }

    assert_eq!(pool.status().live, 1);
}

#[tokio::test]
async fn callers_that_ask_again_after_the_time_they_were_told_are_served_once_there_is_room() {
    let server = server();
    let occupants = server.fill();
    let pool = builder(&server).build().unwrap();
    let mut handle = pool.shared("search");
    send(&mut handle, "PING").await.unwrap_err();
    occupants.free();

    let mut told = Duration::ZERO;
    let asking = async {
        while let Err(error) = send(&mut handle, "PING").await {
            let wait = error.retry_after().expect("a time to wait");
            // How long a probe takes is not the pool's to promise.
            if pool.breaker().state() == BreakerState::Open {
                told += wait;
            }
            sleep(wait).await;
        }
    };
    soon("recovery", asking).await;

    // No more than the back-off that was in force.
    assert!(told <= Duration::from_millis(100), "{told:?}");
    assert_eq!(pool.status().live, 1);
}

#[tokio::test]
async fn a_wrong_password_is_told_in_the_servers_words() {
    let server = TestServer::builder().password("right").start().unwrap();
    let url = format!("redis://:wrong@127.0.0.1:{}", server.port());
    let pool = crate::builder(&url).build().unwrap();

    let error = soon("the answer", send(&mut pool.shared("search"), "PING")).await.unwrap_err();

    assert_eq!(error.reason(), "connect_failed");
    assert!(error.to_string().contains("WRONGPASS"), "{error}");
}
