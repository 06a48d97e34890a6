//! How long a lease waits for a reply, and what comes of a reply that is late.

use std::time::Duration;

use redis_guard::redis::{self, Pipeline, RedisError};
use redis_guard::{AsyncCommands, GuardedConnection};

use crate::pair_with;
use crate::support::{Auth, Resp};
use crate::support::{TestServer, Transport, impatient};
use crate::waiting::{cmd, echo, field, id, let_pass, poll_once, soon, until};

/// Passes on the pool's clock where a reply is to be late, and is not over otherwise.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Where nobody answers at all.
const SHORT: Duration = Duration::from_millis(100);
/// What a blocking command of a second is not held to.
const BELOW_A_SECOND: Duration = Duration::from_millis(800);

/// What the lease hears of these words, which the server reads only when their time is over.
async fn late(server: &TestServer, lease: &mut GuardedConnection, words: &Pipeline) -> RedisError {
    server.pause();
    let mut reply = Box::pin(words.query_async::<()>(lease));
    assert!(poll_once(&mut reply).is_pending());
    let_pass(RESPONSE_TIMEOUT).await;
    let error = soon("the timeout", reply).await.unwrap_err();
    server.resume();
    error
}

fn words(lines: &[&str]) -> Pipeline {
    let mut words = redis::pipe();
    for line in lines {
        words.add_command(cmd(line));
    }
    words
}

#[tokio::test]
async fn a_command_that_is_not_answered_in_time_fails_with_a_timeout() {
    let (server, pool) = pair_with(1, |builder| builder.response_timeout(RESPONSE_TIMEOUT));
    let mut lease = pool.acquire("test").await.unwrap();

    let error = late(&server, &mut lease, &words(&["ECHO late"])).await;

    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains("no reply within the response timeout"), "{error}");
}

#[tokio::test]
async fn after_a_timeout_the_connection_is_lent_again_and_replies_are_not_mixed_up() {
    let (server, pool) = pair_with(1, |builder| builder.response_timeout(RESPONSE_TIMEOUT));
    let mut lease = pool.acquire("test").await.unwrap();
    let first = id(&mut lease).await;
    for nth in 0..3 {
        late(&server, &mut lease, &words(&["ECHO late"])).await;
        drop(lease);

        lease = soon("the next lease", pool.acquire("test")).await.unwrap();

        assert_eq!(echo(&mut lease, &nth.to_string()).await.unwrap(), nth.to_string());
        assert_eq!(id(&mut lease).await, first);
    }
}

#[tokio::test]
async fn after_a_timeout_the_same_lease_gets_its_own_replies() {
    let (server, pool) = pair_with(1, |builder| builder.response_timeout(RESPONSE_TIMEOUT));
    let mut lease = pool.acquire("test").await.unwrap();
    for nth in 0..3 {
        late(&server, &mut lease, &words(&["ECHO late"])).await;
        assert_eq!(echo(&mut lease, &nth.to_string()).await.unwrap(), nth.to_string());
    }
}

/// It was executed all the same, so the next lease must not find another database.
#[tokio::test]
async fn a_select_that_timed_out_is_reset() {
    let server = TestServer::start().unwrap();
    for resp in [Resp::Resp2, Resp::Resp3] {
        let url = server.url_with(Transport::Tcp, resp, Auth::None, 0);
        let builder = impatient(&url).max_connections(1).response_timeout(RESPONSE_TIMEOUT);
        let pool = builder.build().unwrap();
        let mut lease = pool.acquire("test").await.unwrap();
        late(&server, &mut lease, &words(&["ECHO late", "SELECT 3"])).await;
        drop(lease);

        let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

        let id = id(&mut next).await;
        assert_eq!(field(&server, id, "db").as_deref(), Some("0"), "{resp:?}");
    }
}

#[tokio::test]
async fn a_connection_that_stays_silent_is_closed_and_replaced() {
    let (server, pool) = pair_with(1, |builder| builder.response_timeout(SHORT));
    let mut events = pool.events();
    let mut lease = pool.acquire("test").await.unwrap();
    server.pause();
    cmd("PING").query_async::<String>(&mut lease).await.unwrap_err();
    drop(lease);

    let reason = crate::waiting::next_close(&mut events).await;

    assert_eq!(reason, redis_guard::CloseReason::HealthCheck);
    server.resume();
    soon("another connection", pool.acquire("test")).await.unwrap();
}

#[tokio::test]
async fn a_blocking_command_waits_for_as_long_as_it_says_itself() {
    let (server, pool) = pair_with(1, |builder| builder.response_timeout(BELOW_A_SECOND));
    let mut lease = pool.acquire("test").await.unwrap();

    let nothing: Option<(String, String)> = lease.blpop("list", 1.0).await.unwrap();

    assert_eq!(nothing, None);
    server.admin().text(&["RPUSH", "list", "one"]);
    let one: Option<(String, String)> = lease.blpop("list", 1.0).await.unwrap();
    assert_eq!(one, Some(("list".to_owned(), "one".to_owned())));
}

#[tokio::test]
async fn a_pipeline_with_a_blocking_command_waits_for_it() {
    let (_server, pool) = pair_with(1, |builder| builder.response_timeout(BELOW_A_SECOND));
    let mut lease = pool.acquire("test").await.unwrap();
    let pipeline = words(&["BLPOP list 1", "ECHO after"]);

    let (nothing, after): (Option<Vec<String>>, String) =
        pipeline.query_async(&mut lease).await.unwrap();

    assert_eq!((nothing, after.as_str()), (None, "after"));
}

#[tokio::test]
async fn a_server_that_hangs_and_goes_on_is_used_again() {
    let (server, pool) =
        pair_with(2, |builder| builder.response_timeout(SHORT).acquire_timeout(SHORT));
    pool.warm_up(2).await.unwrap();
    server.pause();
    // The leases work for all that anybody can know, and their commands time out.
    for _ in 0..2 {
        let mut lease = pool.acquire("test").await.unwrap();
        cmd("PING").query_async::<String>(&mut lease).await.unwrap_err();
    }
    until("one given up", &pool, || pool.status().live == 1).await;
    let error = soon("a refusal", pool.acquire("test")).await.unwrap_err();
    assert_eq!(error.reason(), "acquire_timeout", "{error}");

    server.resume();

    let answered = async {
        loop {
            let mut lease = crate::support::ask_until_served(&pool).await;
            if let Ok(hello) = echo(&mut lease, "hello").await {
                break hello;
            }
        }
    };
    assert_eq!(soon("an answer", answered).await, "hello");
}
