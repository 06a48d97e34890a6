//! Commands that block on the server: each gets a connection of its own, by itself.

use std::time::Duration;

use redis_guard::redis::{self, Value};
use redis_guard::{AsyncCommands, Budget};
use tokio::time::{Instant, sleep};

use crate::waiting::{HANG, cmd, let_pass, poll_once, soon, until};
use crate::{ask, at_rest, connections, endpoint, lane_id, pair, pair_with, send, sending};

/// A response timeout that is shorter than what blocks below.
const SHORT: Duration = Duration::from_millis(800);

#[tokio::test]
async fn blpop_waits_for_longer_than_the_response_timeout_and_returns_what_comes() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(SHORT));
    let popped = tokio::spawn(sending(&pool, "jobs", "BLPOP queue 0"));
    until("a lease", &pool, || pool.status().in_use == 1).await;
    let_pass(SHORT * 3).await;

    server.admin().text(&["RPUSH", "queue", "job"]);

    let popped = soon("the job", popped).await.unwrap().unwrap();
    let popped: (String, String) = redis::from_redis_value(popped).unwrap();
    assert_eq!(popped, ("queue".to_owned(), "job".to_owned()));
    until("the lease back", &pool, || endpoint(&pool, "jobs").in_use == 0).await;
}

#[tokio::test]
async fn blpop_of_the_driver_works_the_same() {
    let (_server, pool) = pair_with(|builder| builder.response_timeout(SHORT));
    let mut handle = pool.shared("jobs");

    let none: Option<(String, String)> = handle.blpop("nothing", 1.0).await.unwrap();

    assert_eq!(none, None);
}

#[tokio::test]
async fn xread_with_block_waits_and_returns_what_comes() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(SHORT));
    let read = tokio::spawn(sending(&pool, "jobs", "XREAD BLOCK 0 STREAMS s $"));
    until("a reader", &pool, || {
        server.admin().info_u64("blocked_clients") == 1 && endpoint(&pool, "jobs").in_use == 1
    })
    .await;
    let_pass(SHORT * 2).await;

    server.admin().text(&["XADD", "s", "1-1", "field", "value"]);

    let read = soon("the entry", read).await.unwrap().unwrap();
    assert!(format!("{read:?}").contains("field"), "{read:?}");
}

#[tokio::test]
async fn xread_without_block_goes_over_the_lane() {
    let (_server, pool) = pair();

    assert_eq!(send(&mut pool.shared("jobs"), "XREAD STREAMS block 0").await.unwrap(), Value::Nil);

    assert_eq!(endpoint(&pool, "jobs").acquired, 0);
}

/// Groups and consumers may be called anything, also what the options are called.
#[tokio::test]
async fn xreadgroup_blocks_off_the_lane_whatever_the_group_is_called() {
    let (server, pool) = pair();
    server.admin().text(&["XGROUP", "CREATE", "s", "streams", "$", "MKSTREAM"]);
    let _: String = ask(&mut pool.shared("jobs"), "PING").await;
    let line = "XREADGROUP GROUP streams c BLOCK 0 STREAMS s >";
    let mut reader = Box::pin(sending(&pool, "jobs", line));
    assert!(poll_once(&mut reader).is_pending());

    let told = soon("a neighbour", send(&mut pool.shared("jobs"), "PING")).await;

    assert!(told.is_ok(), "{told:?}");
}

#[tokio::test]
async fn wait_waits_for_as_long_as_it_says() {
    let (_server, pool) = pair_with(|builder| builder.response_timeout(SHORT));
    let begun = Instant::now();

    let replicas: u32 = ask(&mut pool.shared("jobs"), "WAIT 1 1000").await;

    assert_eq!(replicas, 0);
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn blocking_commands_have_their_endpoints_budget() {
    let (server, pool) =
        pair_with(|builder| builder.endpoint("jobs", Budget::max(2)).acquire_timeout(2 * SHORT));
    pool.warm_up(3).await.unwrap();
    let poppers: Vec<_> =
        (0..2).map(|_| tokio::spawn(sending(&pool, "jobs", "BLPOP queue 0"))).collect();
    until("both at it", &pool, || server.admin().info_u64("blocked_clients") == 2).await;

    let told = send(&mut pool.shared("jobs"), "BLPOP queue 0").await.unwrap_err();

    assert_eq!(told.reason(), "budget_exhausted");
    let others: String = ask(&mut pool.shared("jobs"), "PING").await;
    assert_eq!(others, "PONG", "what does not block needs no connection");
    server.admin().text(&["RPUSH", "queue", "a", "b"]);
    for popper in poppers {
        soon("a job", popper).await.unwrap().unwrap();
    }
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_blocking_command_takes_no_place_in_flight() {
    let (server, pool) = pair_with(|builder| builder.endpoint("jobs", Budget::max(2).in_flight(1)));
    let popper = tokio::spawn(sending(&pool, "jobs", "BLPOP queue 0"));
    until("it blocks", &pool, || server.admin().info_u64("blocked_clients") == 1).await;

    let pong: String = ask(&mut pool.shared("jobs"), "PING").await;

    assert_eq!((pong.as_str(), endpoint(&pool, "jobs").shared_in_flight), ("PONG", 0));
    popper.abort();
}

#[tokio::test]
async fn a_blocking_command_that_is_dropped_gives_its_place_back() {
    let (server, pool) = pair_with(|builder| builder.endpoint("jobs", Budget::max(1)));
    let mut handle = pool.shared("jobs");
    for _ in 0..5 {
        let pop = cmd("BLPOP queue 0");
        let mut popped = Box::pin(handle.send(&pop));
        let blocked = async {
            while server.admin().info_u64("blocked_clients") == 0 {
                tokio::select! {
                    told = &mut popped => panic!("{told:?}"),
                    () = sleep(Duration::from_millis(1)) => {}
                }
            }
        };
        soon("it blocks", blocked).await;

        drop(popped);

        until("the place free", &pool, || endpoint(&pool, "jobs").in_use == 0).await;
        until("unblocked", &pool, || server.admin().info_u64("blocked_clients") == 0).await;
    }
    server.admin().text(&["RPUSH", "queue", "job"]);
    assert_eq!(server.admin().text(&["LLEN", "queue"]), "1", "nobody took it");
}

#[tokio::test]
async fn a_pipeline_with_a_blocking_command_gets_a_connection_of_its_own() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(SHORT));
    let mut handle = pool.shared("jobs");
    let id = lane_id(&mut handle).await;
    let mut pipeline = redis::pipe();
    pipeline.cmd("CLIENT").arg("ID").cmd("BLPOP").arg("nothing").arg("1").cmd("ECHO").arg("end");

    let told: (u64, Option<String>, String) = pipeline.query_async(&mut handle).await.unwrap();

    assert_ne!(told.0, id);
    assert_eq!((told.1, told.2.as_str()), (None, "end"));
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn in_a_transaction_a_blocking_command_does_not_block() {
    let (server, pool) = pair();
    let mut handle = pool.shared("jobs");
    let mut pipeline = redis::pipe();
    pipeline.atomic().cmd("RPUSH").arg("queue").arg("job").cmd("BLPOP").arg("queue").arg(0);
    pipeline.cmd("BLPOP").arg("queue").arg(0);

    let told: (u32, (String, String), Option<String>) =
        soon("the transaction", pipeline.query_async(&mut handle)).await.unwrap();

    assert_eq!(told, (1, ("queue".to_owned(), "job".to_owned()), None));
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_pipeline_with_one_command_that_may_not_be_shared_is_refused_as_a_whole() {
    let (server, pool) = pair();
    let mut handle = pool.shared("jobs");
    let mut pipeline = redis::pipe();
    pipeline.cmd("SET").arg("k").arg(1).cmd("BLPOP").arg("q").arg(0).cmd("SELECT").arg(1);

    let told = soon("the refusal", handle.send_pipeline(&pipeline)).await.unwrap_err();

    assert!(told.to_string().contains("`acquire`"), "{told}");
    assert_eq!(server.admin().text(&["EXISTS", "k"]), "0");
    assert_eq!((connections(&server), pool.status().live), (0, 0), "nothing was dialed for it");
}

#[tokio::test]
async fn a_blpop_that_waits_is_not_felt_by_its_neighbours() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(HANG));
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;
    let popper = tokio::spawn(sending(&pool, "search", "BLPOP queue 0"));
    until("it blocks", &pool, || server.admin().info_u64("blocked_clients") == 1).await;

    // Behind it none of them would be answered.
    for _ in 0..300 {
        let _: String = soon("a neighbour's answer", ask(&mut handle, "PING")).await;
    }

    assert!(!popper.is_finished());
    server.admin().text(&["RPUSH", "queue", "job"]);
    soon("what it waited for", popper).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_blocking_command_hears_of_a_full_server_as_an_acquire_does() {
    use crate::support::{TestServer, unhurried};
    use redis_guard::Backoff;
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let _occupants = server.fill();
    let backoff = Backoff::without_jitter(HANG, HANG);
    let pool = unhurried(server.url()).backoff(backoff).build().unwrap();

    let told = send(&mut pool.shared("jobs"), "BLPOP queue 0").await.unwrap_err();

    assert_eq!(told.reason(), "breaker_open");
    assert!(told.to_string().contains("max number of clients reached"), "{told}");
}
