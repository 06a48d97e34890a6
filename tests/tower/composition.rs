//! The layers and services in the stacks that users of tower build.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::redis::{Cmd, RedisError, Value, pipe};
use redis_guard::tower::{GuardLayer, RetryPolicy};
use redis_guard::{Backoff, Error, GuardedPool, Outcome, Rejection, RetryBudget};
use tokio::time::{Instant, sleep};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{TestServer, unhurried};
use crate::waiting::{HANG, cmd, soon};
use crate::{SECOND, assert_at_rest, counts, endpoint, failed, guard};

fn pool(server: &TestServer) -> GuardedPool {
    let backoff = Backoff::equal_jitter(SECOND / 100, SECOND / 10);
    unhurried(server.url()).max_connections(8).backoff(backoff).build().unwrap()
}

fn pong() -> Value {
    Value::SimpleString("PONG".to_owned())
}

/// Slower by this much, on the clock that the test drives.
fn slow(
    by: Duration,
) -> impl Service<u32, Response = u32, Error = BoxError, Future: Send> + Clone + Send {
    service_fn(move |number: u32| async move {
        sleep(by).await;
        Ok::<_, BoxError>(number)
    })
}

#[tokio::test]
async fn timeout_over_retry_over_the_pool() {
    let server = TestServer::start().unwrap();
    let redis = ServiceBuilder::new()
        .timeout(SECOND)
        .retry(RetryPolicy::default())
        .service(pool(&server).service("search"));
    assert_eq!(redis.clone().oneshot(Cmd::set("key", 1)).await.unwrap(), Value::Okay);
    let answers = join_all((0..100).map(|_| {
        let redis = redis.clone();
        tokio::spawn(redis.oneshot(Cmd::incr("key", 1)))
    }));
    for answer in answers.await {
        answer.unwrap().unwrap();
    }
    let value = redis.oneshot(Cmd::get("key")).await.unwrap();
    assert_eq!(value, Value::BulkString(b"101".to_vec()));
}

#[tokio::test]
async fn the_same_stack_over_pipelines() {
    let server = TestServer::start().unwrap();
    let redis = ServiceBuilder::new()
        .timeout(SECOND)
        .retry(RetryPolicy::default())
        .service(pool(&server).service("search"));
    let values = redis.oneshot(pipe().set("a", 1).get("a").clone()).await.unwrap();
    assert_eq!(values, [Value::Okay, Value::BulkString(b"1".to_vec())]);
}

#[tokio::test]
async fn a_hundred_tasks_outlive_a_server_that_is_killed_and_comes_back() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server);
    let budget = RetryBudget::default().share(1.0).per_second(1_000.0);
    let redis = ServiceBuilder::new()
        .timeout(5 * SECOND)
        .retry(RetryPolicy::default().budget(budget))
        .service(pool.service("search"));
    let (served, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stop = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let redis = redis.clone();
            let (served, refused) = (Arc::clone(&served), Arc::clone(&refused));
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                while stop.load(Ordering::Relaxed) == 0 {
                    match redis.clone().oneshot(cmd("PING")).await {
                        Ok(value) => {
                            assert_eq!(value, pong());
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    let grown = |count: &Arc<AtomicUsize>| {
        let (count, before) = (Arc::clone(count), count.load(Ordering::Relaxed));
        async move {
            while count.load(Ordering::Relaxed) < before + 200 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    soon("answers", grown(&served)).await;
    server.crash();
    soon("refusals", grown(&refused)).await;
    server.restart().unwrap();
    soon("answers again", grown(&served)).await;
    stop.store(1, Ordering::Relaxed);
    for task in tasks {
        soon("the end of a task", task).await.unwrap();
    }
    assert_eq!((pool.status().waiting, pool.status().dialing), (0, 0));
}

#[tokio::test]
async fn a_read_is_retried_over_a_connection_that_was_killed() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server);
    let redis = ServiceBuilder::new().retry(RetryPolicy::default()).service(pool.service("search"));
    redis.clone().oneshot(cmd("PING")).await.unwrap();
    for _ in 0..5 {
        server.admin().text(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let value = soon("the value", redis.clone().oneshot(cmd("GET key"))).await.unwrap();
        assert_eq!(value, Value::Nil);
    }
}

#[tokio::test]
async fn a_write_is_retried_while_the_server_loads_its_data() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server);
    let redis = pool.service("search");
    redis.clone().oneshot(cmd("PING")).await.unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&refused);
    // The server's own words, in its own reply, by a script.
    let says = |key: &str| {
        let script = "if redis.call('incr', KEYS[1]) < 3 then \
                      return redis.error_reply('LOADING Redis is loading') end return 'loaded'";
        let mut cmd = redis_guard::redis::cmd("EVAL");
        cmd.arg(script).arg(1).arg(key);
        cmd
    };
    let service = ServiceBuilder::new()
        .retry(RetryPolicy::default())
        .map_err(move |error: Error| {
            seen.fetch_add(1, Ordering::Relaxed);
            error
        })
        .service(redis);
    let value = service.oneshot(says("tries")).await.unwrap();
    assert_eq!(value, Value::BulkString(b"loaded".to_vec()));
    assert_eq!(refused.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_bounds_the_wait_of_a_queued_call() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let service = ServiceBuilder::new()
        .timeout(SECOND / 4)
        .map_err(Error::into_boxed)
        .layer(GuardLayer::new(&guard, "search").queued())
        .service(slow(Duration::ZERO));
    let began = Instant::now();
    let error = service.oneshot(1).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    assert!((SECOND / 4..SECOND / 2).contains(&began.elapsed()));
    assert_eq!(counts(&guard), (1, 0), "it has left the queue");
    drop(permit);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_is_heard_by_the_breaker() {
    let guard = guard(8);
    let service = ServiceBuilder::new()
        .layer(GuardLayer::new(&guard, "search"))
        .timeout(SECOND / 10)
        .service(slow(SECOND));
    for _ in 0..5 {
        let error = service.clone().oneshot(1).await.unwrap_err();
        assert_eq!(error.reason(), "inner");
    }
    assert_eq!(service.oneshot(1).await.unwrap_err().reason(), "breaker_open");
    let failure = guard.status().breaker.last_failure.unwrap();
    assert_eq!(failure.outcome, Outcome::Timeout);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_is_not_heard_and_gives_the_place_back() {
    let guard = guard(1);
    let service = ServiceBuilder::new()
        .timeout(SECOND / 10)
        .map_err(Error::into_boxed)
        .layer(GuardLayer::new(&guard, "search"))
        .service(slow(SECOND));
    for _ in 0..10 {
        let error = service.clone().oneshot(1).await.unwrap_err();
        assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
        assert_at_rest(&guard);
    }
    assert_eq!(guard.status().breaker.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_can_be_taken_out_of_the_box() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let service = ServiceBuilder::new()
        .timeout(SECOND)
        .map_err(Error::into_boxed)
        .layer(GuardLayer::new(&guard, "search"))
        .timeout(SECOND)
        .service(slow(Duration::ZERO));
    let error = service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(error.downcast_ref::<Rejection>().unwrap().reason(), "acquire_timeout");
    drop(permit);
    assert_eq!(service.oneshot(1).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_boxed_refusal_is_retried_as_one() {
    let guard = guard(1);
    guard.admit("search").unwrap().finish(failed(Outcome::MaxClients));
    let service = ServiceBuilder::new()
        .retry(RetryPolicy::default())
        .map_err(|error: Error<BoxError>| error.into_boxed())
        .layer(GuardLayer::new(&guard, "search"))
        .timeout(SECOND)
        .service(service_fn(|_: Cmd| async { Ok::<_, RedisError>(Value::Okay) }));
    let began = Instant::now();
    assert_eq!(service.oneshot(Cmd::incr("key", 1)).await.unwrap(), Value::Okay);
    assert!(began.elapsed() >= SECOND, "not before the refusal's retry_after");
}

#[tokio::test(start_paused = true)]
async fn a_retry_may_stand_between_a_guard_and_its_timeouts() {
    let guard = guard(1);
    guard.admit("search").unwrap().finish(failed(Outcome::MaxClients));
    let service = ServiceBuilder::new()
        .retry(RetryPolicy::default())
        .layer(GuardLayer::new(&guard, "search"))
        .timeout(SECOND)
        .service(service_fn(|_: Cmd| async { Ok::<_, RedisError>(Value::Okay) }));
    let answer: Result<_, Error<BoxError>> = service.oneshot(cmd("INCR key")).await;
    assert_eq!(answer.unwrap(), Value::Okay);
}

#[tokio::test(start_paused = true)]
async fn buffer_over_a_guard() {
    let guard = guard(2);
    let service = ServiceBuilder::new()
        .buffer(16)
        .map_err(Error::into_boxed)
        .layer(GuardLayer::new(&guard, "search"))
        .service(slow(SECOND / 10));
    let calls = (0..8).map(|number| tokio::spawn(service.clone().oneshot(number)));
    let mut answers = (0, 0);
    for call in join_all(calls).await {
        match call.unwrap() {
            Ok(_) => answers.0 += 1,
            Err(error) => {
                assert!(error.is::<Rejection>(), "{error}");
                answers.1 += 1;
            }
        }
    }
    assert_eq!(answers, (2, 6), "two places, and nobody waits");
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_guard_over_buffer() {
    let guard = guard(2);
    let inner = ServiceBuilder::new().buffer(16).concurrency_limit(1).service(slow(SECOND / 10));
    let service =
        ServiceBuilder::new().layer(GuardLayer::new(&guard, "search").queued()).service(inner);
    let calls = (0..8).map(|number| tokio::spawn(service.clone().oneshot(number)));
    for (number, call) in (0..).zip(join_all(calls).await) {
        assert_eq!(call.unwrap().unwrap(), number);
    }
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn load_shed_and_concurrency_limit_outside_shed_before_the_guard_counts() {
    let guard = guard(8);
    let service = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(2)
        .map_err(Error::into_boxed)
        .layer(GuardLayer::new(&guard, "search"))
        .service(slow(SECOND / 10));
    let calls = (0..8).map(|number| tokio::spawn(service.clone().oneshot(number)));
    let answers = join_all(calls).await;
    let shed = answers.into_iter().filter(|answer| answer.as_ref().unwrap().is_err()).count();
    assert_eq!((shed, endpoint(&guard, "search").admitted), (6, 2));
    assert!(endpoint(&guard, "search").rejected.is_empty());
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_inside_keeps_its_place_over_a_refusal() {
    let guard = guard(8);
    let mut service = ServiceBuilder::new()
        .layer(GuardLayer::new(&guard, "search"))
        .concurrency_limit(1)
        .service(slow(SECOND / 10));
    guard.breaker().force_open();
    for number in 0..3 {
        service.ready().await.unwrap().call(number).await.unwrap_err();
    }
    guard.breaker().auto();
    let mut other = service.clone();
    let answer = service.ready().await.unwrap().call(7).await;
    assert_eq!(answer.unwrap(), 7);
    assert_eq!(soon("readiness", other.ready()).await.unwrap().call(8).await.unwrap(), 8);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_inside_is_the_readiness_of_the_guard() {
    let guard = guard(8);
    let mut service = ServiceBuilder::new()
        .layer(GuardLayer::new(&guard, "search"))
        .rate_limit(1, SECOND)
        .service(slow(Duration::ZERO));
    let began = Instant::now();
    for number in 0..3 {
        service.ready().await.unwrap().call(number).await.unwrap();
    }
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn a_guard_over_the_pools_service_and_everything_around_it() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server);
    let guard = pool.guard();
    let redis = ServiceBuilder::new()
        .buffer(64)
        .load_shed()
        .concurrency_limit(64)
        .timeout(2 * SECOND)
        .retry(RetryPolicy::default())
        .layer(GuardLayer::by_request(&guard, |_: &Cmd| "search").queued())
        .service(NotCloneError(pool.service("search")));
    let calls = (0..64).map(|_| tokio::spawn(redis.clone().oneshot(cmd("PING"))));
    for call in join_all(calls).await {
        assert_eq!(call.unwrap().unwrap(), pong());
    }
    assert_at_rest(&guard);
}

/// The pool's service with the driver's own error, as a client of one's own would have it.
#[derive(Clone, Debug)]
struct NotCloneError(redis_guard::tower::RedisService);

impl Service<Cmd> for NotCloneError {
    type Response = Value;
    type Error = RedisError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Value, RedisError>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), RedisError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, cmd: Cmd) -> Self::Future {
        let answer = self.0.call(cmd);
        Box::pin(async move { Ok(answer.await?) })
    }
}

#[tokio::test]
async fn under_a_full_server_the_stack_ends_in_time_with_the_servers_words() {
    let server = TestServer::builder().maxclients(8).start().unwrap();
    let _occupants = server.fill();
    let pool = pool(&server);
    let redis = ServiceBuilder::new()
        .timeout(2 * SECOND)
        .retry(RetryPolicy::default())
        .service(pool.service("search"));
    let calls = (0..64).map(|_| tokio::spawn(redis.clone().oneshot(cmd("PING"))));
    let answers = tokio::time::timeout(HANG, join_all(calls)).await.unwrap();
    for answer in answers {
        let error = answer.unwrap().unwrap_err();
        let rejection = error.downcast_ref::<Error>().and_then(Error::rejection).unwrap();
        assert!(rejection.to_string().contains("max number of clients reached"), "{rejection}");
    }
}
