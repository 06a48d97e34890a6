//! A pool as a service of commands, on a real server.

use std::time::Duration;

use redis_guard::redis::{self, Cmd, ErrorKind, Pipeline, Value, pipe};
use redis_guard::tower::RedisService;
use redis_guard::{Backoff, Budget, Error, GuardedPool, GuardedPoolBuilder, Rejection};
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Service, ServiceExt};

use crate::support::{TestServer, dials, unhurried};
use crate::waiting::{HANG, cmd, soon, until};

fn pair() -> (TestServer, GuardedPool) {
    pair_with(|builder| builder)
}

fn pair_with(
    settings: impl FnOnce(GuardedPoolBuilder) -> GuardedPoolBuilder,
) -> (TestServer, GuardedPool) {
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let pool = settings(unhurried(server.url()).max_connections(8)).build().unwrap();
    (server, pool)
}

async fn send(service: &RedisService, words: &str) -> Result<Value, Error> {
    soon(words, service.clone().oneshot(cmd(words))).await
}

fn int(number: i64) -> Value {
    Value::Int(number)
}

fn text(words: &str) -> Value {
    Value::BulkString(words.as_bytes().to_vec())
}

#[tokio::test]
async fn a_command_is_answered_with_its_value() {
    let (_server, pool) = pair();
    for service in [pool.service("search"), pool.service("search").exclusive()] {
        assert_eq!(send(&service, "SET key value").await.unwrap(), Value::Okay);
        assert_eq!(send(&service, "GET key").await.unwrap(), text("value"));
        assert_eq!(send(&service, "GET nothing").await.unwrap(), Value::Nil);
    }
}

#[tokio::test]
async fn a_pipeline_is_answered_with_the_values_of_its_commands() {
    let (_server, pool) = pair();
    for service in [pool.service("search"), pool.service("search").exclusive()] {
        let mut pipeline = pipe();
        pipeline.set("key", 1).incr("key", 2).get("key");
        let values = service.oneshot(pipeline).await.unwrap();
        assert_eq!(values, [Value::Okay, int(3), text("3")]);
    }
}

#[tokio::test]
async fn an_atomic_pipeline_is_answered_with_the_reply_of_exec() {
    let (_server, pool) = pair();
    for service in [pool.service("search"), pool.service("search").exclusive()] {
        let mut pipeline = pipe();
        pipeline.atomic().set("key", 1).incr("key", 2);
        let values = service.oneshot(pipeline).await.unwrap();
        assert_eq!(values, [Value::Array(vec![Value::Okay, int(3)])]);
    }
}

#[tokio::test]
async fn an_empty_pipeline_is_the_drivers_error() {
    let (server, pool) = pair();
    let client = redis::Client::open(server.url()).unwrap();
    let mut driver = client.get_multiplexed_async_connection().await.unwrap();
    let drivers = pipe().query_async::<Vec<Value>>(&mut driver).await.unwrap_err();
    for service in [pool.service("search"), pool.service("search").exclusive()] {
        let error = soon("the error", service.oneshot(Pipeline::new())).await.unwrap_err();
        assert!(matches!(&error, Error::Inner(_)), "{error:?}");
        assert_eq!(error.to_string(), drivers.to_string());
    }
}

#[tokio::test]
async fn an_error_of_the_server_is_the_inner_one() {
    let (_server, pool) = pair();
    for service in [pool.service("search"), pool.service("search").exclusive()] {
        send(&service, "SET key value").await.unwrap();
        let error = send(&service, "LPUSH key value").await.unwrap_err();
        let Error::Inner(error) = error else { panic!("{error:?}") };
        assert_eq!(error.code(), Some("WRONGTYPE"));
    }
}

#[tokio::test]
async fn it_is_always_ready_and_holds_nothing_until_it_is_called() {
    let (_server, pool) = pair();
    pool.breaker().force_open();
    let mut service = spawn(pool.service("search"));
    assert_ready_ok!(
        service.enter(|cx, mut service| Service::<Cmd>::poll_ready(&mut *service, cx))
    );
    assert_ready_ok!(
        service.enter(|cx, mut service| Service::<Pipeline>::poll_ready(&mut *service, cx))
    );
    assert!(dials(&pool).is_empty());
    assert_eq!(pool.status().in_use + pool.status().waiting, 0);
}

#[tokio::test]
async fn a_response_that_is_never_polled_sends_nothing() {
    let (server, pool) = pair();
    let mut service = pool.service("search");
    drop(service.call(cmd("SET key value")));
    drop(pool.service("search").exclusive().call(cmd("SET key value")));
    assert_eq!(server.admin().text(&["EXISTS", "key"]), "0");
    assert!(dials(&pool).is_empty());
}

#[tokio::test]
async fn its_commands_share_one_connection() {
    let (_server, pool) = pair();
    let service = pool.service("search");
    let calls = (0..64).map(|_| service.clone().oneshot(cmd("CLIENT ID")));
    let ids = futures_util::future::try_join_all(calls).await.unwrap();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
    assert_eq!(pool.status().live, 1);
}

#[tokio::test]
async fn exclusive_commands_are_bounded_by_the_endpoints_connections() {
    let (server, pool) = pair_with(|builder| builder.endpoint("search", Budget::max(2)));
    let service = pool.service("search").exclusive();
    let blocked = ["a", "b", "c"]
        .map(|key| tokio::spawn(service.clone().oneshot(cmd(&format!("BLPOP {key} 0")))));
    until("a third that waits", &pool, || (pool.status().in_use, pool.status().waiting) == (2, 1))
        .await;
    for (key, blocked) in ["a", "b", "c"].into_iter().zip(blocked) {
        server.admin().text(&["RPUSH", key, "item"]);
        soon("the item", blocked).await.unwrap().unwrap();
    }
    until("rest", &pool, || pool.status().in_use == 0).await;
}

#[tokio::test]
async fn a_blocking_command_does_not_hold_up_the_others() {
    let (server, pool) = pair();
    let service = pool.service("search");
    let blocked = tokio::spawn(service.clone().oneshot(cmd("BLPOP list 0")));
    until("a lease", &pool, || pool.status().in_use >= 1).await;
    for _ in 0..10 {
        send(&service, "PING").await.unwrap();
    }
    server.admin().text(&["RPUSH", "list", "item"]);
    let value = soon("the item", blocked).await.unwrap().unwrap();
    assert_eq!(value, Value::Array(vec![text("list"), text("item")]));
}

#[tokio::test]
async fn what_changes_the_connection_is_refused_on_a_shared_one_and_undone_on_an_exclusive_one() {
    let (_server, pool) = pair();
    let error = send(&pool.service("search"), "SELECT 1").await.unwrap_err();
    assert!(matches!(&error, Error::Inner(error) if error.kind() == ErrorKind::Client), "{error}");
    let service = pool.service("search").exclusive();
    let mut pipeline = pipe();
    pipeline.cmd("SELECT").arg(1).set("key", "of 1").get("key");
    let values = service.clone().oneshot(pipeline).await.unwrap();
    assert_eq!(values.last(), Some(&text("of 1")));
    assert_eq!(send(&service, "GET key").await.unwrap(), Value::Nil, "back on 0");
}

#[tokio::test]
async fn on_a_full_server_the_refusal_is_typed() {
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let _occupants = server.fill();
    let backoff = Backoff::without_jitter(HANG, HANG);
    let pool = unhurried(server.url()).backoff(backoff).build().unwrap();
    for service in [pool.service("search"), pool.service("search").exclusive()] {
        let error = send(&service, "PING").await.unwrap_err();
        let Error::Rejected(Rejection::BreakerOpen { failure: Some(failure), .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(failure.message, "ERR max number of clients reached");
        let error = service.oneshot(pipe().cmd("PING").clone()).await.unwrap_err();
        assert_eq!(error.reason(), "breaker_open");
    }
    assert_eq!(dials(&pool), [("max_clients", 1)].into());
}

#[tokio::test]
async fn refusals_of_the_budgets_are_typed() {
    let (_server, pool) = pair_with(|builder| {
        builder.endpoint("search", Budget::max(1)).acquire_timeout(Duration::from_millis(500))
    });
    let _held = pool.acquire("search").await.unwrap();
    let error = send(&pool.service("search").exclusive(), "PING").await.unwrap_err();
    let Error::Rejected(Rejection::BudgetExhausted { endpoint, max, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!((endpoint.as_str(), max), ("search", 1));
}

#[tokio::test]
async fn after_the_pool_was_closed_the_refusal_says_so() {
    let (_server, pool) = pair();
    let service = pool.service("search");
    send(&service, "PING").await.unwrap();
    pool.close().await;
    for service in [service.clone(), service.exclusive()] {
        let error = send(&service, "PING").await.unwrap_err();
        assert!(matches!(error, Error::Rejected(Rejection::Closed)), "{error:?}");
    }
}

#[tokio::test]
async fn a_response_outlives_the_service_and_the_pools_handle() {
    let (_server, pool) = pair();
    let response = pool.service("search").call(cmd("PING"));
    drop(pool);
    assert_eq!(soon("PONG", response).await.unwrap(), Value::SimpleString("PONG".to_owned()));
}

#[tokio::test]
async fn a_response_dropped_in_flight_disturbs_nobody() {
    let (server, pool) = pair();
    let service = pool.service("search").exclusive();
    let mut response = spawn(service.clone().oneshot(cmd("BLPOP list 0")));
    assert_pending!(response.poll());
    until("a lease", &pool, || pool.status().in_use == 1).await;
    drop(response);
    for _ in 0..20 {
        let echoed = send(&service, "ECHO mine").await.unwrap();
        assert_eq!(echoed, text("mine"));
    }
    server.admin().text(&["RPUSH", "list", "item"]);
    until("rest", &pool, || pool.status().in_use == 0).await;
}

/// It holds its connection for as long as the command takes, and no longer.
#[tokio::test]
async fn an_exclusive_command_that_blocks_is_no_leak() {
    let (_server, pool) = pair_with(|builder| builder.leak_after(Duration::from_millis(30)));
    let service = pool.service("search").exclusive();
    for _ in 0..3 {
        let nothing = service.clone().oneshot(cmd("BLPOP list 0.2")).await.unwrap();
        assert_eq!(nothing, Value::Nil);
    }
    let status = pool.status();
    let suspected: u64 = status.endpoints.iter().map(|endpoint| endpoint.leaks_suspected).sum();
    assert_eq!((suspected, status.leaks.len()), (0, 0));
}

#[tokio::test]
async fn an_error_within_a_pipeline_is_the_inner_one() {
    let (_server, pool) = pair();
    for service in [pool.service("search"), pool.service("search").exclusive()] {
        for atomic in [false, true] {
            let mut pipeline = pipe();
            pipeline.set("key", "value").incr("key", 1).get("key");
            if atomic {
                pipeline.atomic();
            }
            let error = service.clone().oneshot(pipeline).await.unwrap_err();
            assert!(matches!(&error, Error::Inner(_)), "{error:?}");
            assert!(error.to_string().contains("not an integer"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_transaction_that_the_server_discards_is_an_error() {
    let (_server, pool) = pair();
    for service in [pool.service("search"), pool.service("search").exclusive()] {
        let mut pipeline = pipe();
        pipeline.atomic().set("key", "value").cmd("NOSUCHCOMMAND");
        let error = service.oneshot(pipeline).await.unwrap_err();
        assert!(matches!(&error, Error::Inner(_)), "{error:?}");
    }
}
