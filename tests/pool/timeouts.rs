//! How long a lease waits for a reply, and what comes of a reply that is late.

use std::time::Duration;

use redis_guard::redis::{self, Pipeline, RedisError};
use redis_guard::{AsyncCommands, GuardedConnection};

use crate::pair_with;
use crate::support::{Auth, Resp};
use crate::support::{TestServer, Transport, impatient};
use crate::waiting::{HANG, cmd, echo, field, id, let_pass, poll_once, soon, until};

/// Passes on the pool's clock where a reply is to be late, and is not over otherwise.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Where nobody answers at all.
const SHORT: Duration = Duration::from_millis(100);
/// What a blocking command of three seconds is not held to, on a machine that may stand still for as long.
const BELOW_THREE_SECONDS: Duration = Duration::from_millis(2_500);

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
    let (server, pool) = pair_with(1, |builder| builder.response_timeout(BELOW_THREE_SECONDS));
    let mut lease = pool.acquire("test").await.unwrap();

    let nothing: Option<(String, String)> = lease.blpop("list", 3.0).await.unwrap();

    assert_eq!(nothing, None);
    server.admin().text(&["RPUSH", "list", "one"]);
    let one: Option<(String, String)> = lease.blpop("list", 3.0).await.unwrap();
    assert_eq!(one, Some(("list".to_owned(), "one".to_owned())));
}

#[tokio::test]
async fn a_pipeline_with_a_blocking_command_waits_for_it() {
    let (_server, pool) = pair_with(1, |builder| builder.response_timeout(BELOW_THREE_SECONDS));
    let mut lease = pool.acquire("test").await.unwrap();
    let pipeline = words(&["BLPOP list 3", "ECHO after"]);

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

/// A lease and a handle, with a time of their own for each reply.
async fn with_own(
    pool: &redis_guard::GuardedPool,
    time: Duration,
) -> (GuardedConnection, redis_guard::SharedConnection) {
    let (mut lease, mut handle) = (pool.acquire("test").await.unwrap(), pool.shared("test"));
    lease.set_response_timeout(time);
    handle.set_response_timeout(time);
    (lease, handle)
}

#[tokio::test]
async fn a_lease_and_a_handle_may_wait_for_less_than_the_pool() {
    for multiplex in [false, true] {
        let (server, pool) =
            pair_with(4, |builder| builder.response_timeout(HANG).multiplex(multiplex));
        let (mut lease, mut handle) = with_own(&pool, HANG).await;
        // Whatever they have been before.
        for _ in 0..2 {
            assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
            let _: String = cmd("ECHO hello").query_async(&mut handle).await.unwrap();
            lease.set_response_timeout(SHORT);
            handle.set_response_timeout(SHORT);
            let (mut clone, late) = (handle.clone(), cmd("ECHO late"));
            server.pause();
            for _ in 0..2 {
                let error = soon("the timeout", echo(&mut lease, "late")).await.unwrap_err();
                assert!(error.is_timeout(), "{error}");
                for handle in [&mut handle, &mut clone] {
                    let told = soon("the timeout", late.query_async::<String>(handle)).await;
                    let error = told.unwrap_err();
                    assert!(error.is_timeout(), "{error}");
                }
            }
            server.resume();
            lease.set_response_timeout(HANG);
            handle.set_response_timeout(HANG);
            if multiplex {
                soon("a connection", lease.make_exclusive()).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_lease_and_a_handle_may_wait_for_longer_than_the_pool() {
    for multiplex in [false, true] {
        let (_server, pool) =
            pair_with(4, |builder| builder.response_timeout(SHORT).multiplex(multiplex));
        let (mut lease, mut handle) = with_own(&pool, HANG).await;
        let slow = cmd("DEBUG SLEEP 0.3");
        assert_eq!(soon("it", slow.query_async::<String>(&mut lease)).await.unwrap(), "OK");
        assert_eq!(soon("it", slow.query_async::<String>(&mut handle)).await.unwrap(), "OK");
        let mut clone = handle.clone();
        assert_eq!(soon("it", slow.query_async::<String>(&mut clone)).await.unwrap(), "OK");
        if multiplex {
            lease.make_exclusive().await.unwrap();
            assert_eq!(soon("it", slow.query_async::<String>(&mut lease)).await.unwrap(), "OK");
        }
        drop((lease, handle, clone));

        // The next ones have the pool's again.
        let (mut lease, mut handle) = (pool.acquire("test").await.unwrap(), pool.shared("test"));
        assert!(slow.query_async::<String>(&mut lease).await.unwrap_err().is_timeout());
        until("an answer", &pool, || {
            pool.status().endpoints.iter().all(|e| e.shared_in_flight == 0)
        })
        .await;
        assert!(slow.query_async::<String>(&mut handle).await.unwrap_err().is_timeout());
    }
}

#[tokio::test]
async fn a_blocking_command_waits_for_its_own_time_and_the_leases_or_the_handles() {
    for multiplex in [false, true] {
        let (server, pool) =
            pair_with(4, |builder| builder.response_timeout(HANG).multiplex(multiplex));
        let (mut lease, mut handle) = with_own(&pool, BELOW_THREE_SECONDS).await;
        let nothing: Option<(String, String)> = lease.blpop("list", 3.0).await.unwrap();
        assert_eq!(nothing, None);
        let nothing: Option<(String, String)> = handle.blpop("list", 3.0).await.unwrap();
        assert_eq!(nothing, None);

        server.pause();
        let told = lease.blpop::<_, Option<(String, String)>>("list", 0.1);
        assert!(soon("the timeout", told).await.unwrap_err().is_timeout());
        server.resume();
    }
}

#[tokio::test]
async fn no_time_at_all_is_a_millisecond() {
    let (server, pool) = pair_with(2, |builder| builder);
    let (mut lease, mut handle) = with_own(&pool, Duration::ZERO).await;
    server.pause();
    assert!(soon("it", echo(&mut lease, "late")).await.unwrap_err().is_timeout());
    // The lane has to be dialed first, which nobody answers now.
    let late = cmd("ECHO late");
    assert!(poll_once(&mut Box::pin(late.query_async::<String>(&mut handle))).is_pending());
    server.resume();
    lease.set_response_timeout(Duration::MAX);
    assert_eq!(soon("it", echo(&mut lease, "hello")).await.unwrap(), "hello");
}
