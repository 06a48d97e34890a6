//! Retries: of what, and when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redis_guard::redis::{self, Cmd, ErrorKind, RedisError, Value, pipe};
use redis_guard::tower::{Attempt, GuardLayer, RetryError, RetryPolicy, RetryRequest};
use redis_guard::{Backoff, Error, Guard, Outcome, Rejection, RetryBudget};
use tokio::time::{Instant, sleep, timeout};
use tower::retry::Retry;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::waiting::cmd;
use crate::{SECOND, failed, guard};

pub(crate) const READ: &str = "GET key";
const READONLY: &str = "READONLY You can't write against a read only replica.";
const WRITE: &str = "INCR key";

/// What the attempts end with, and when each was made.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<Mutex<Vec<Instant>>>);

impl Log {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn attempts(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn times(&self) -> Vec<Instant> {
        self.0.lock().unwrap().clone()
    }

    /// Every attempt ends so.
    pub(crate) fn failing<Req, E, F>(
        &self,
        error: F,
    ) -> impl Service<Req, Response = Value, Error = E, Future: Send> + Clone + Send + use<Req, E, F>
    where
        F: Fn() -> E + Clone + Send,
        E: Send,
    {
        let log = self.clone();
        service_fn(move |_: Req| {
            log.0.lock().unwrap().push(Instant::now());
            std::future::ready(Err(error()))
        })
    }
}

fn policy() -> RetryPolicy {
    RetryPolicy::default().backoff(Backoff::without_jitter(SECOND / 20, 5 * SECOND)).name("shop")
}

pub(crate) fn lost() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
}

fn server(code: &str, detail: &str) -> RedisError {
    redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
}

/// As the driver reads it from the wire.
fn line(words: &str) -> RedisError {
    let reply = redis::parse_redis_value(format!("-{words}\r\n").as_bytes()).unwrap();
    reply.extract_error().unwrap_err()
}

/// How many attempts one call makes.
async fn attempts<Req, E>(request: Req, error: impl Fn() -> E + Clone + Send) -> usize
where
    Req: RetryRequest,
    E: RetryError + Send,
{
    let log = Log::new();
    let service = Retry::new(policy(), log.failing(error));
    assert!(service.oneshot(request).await.is_err());
    log.attempts()
}

fn refusals() -> Vec<Rejection> {
    let guard = guard(1);
    let permit = guard.admit("a").unwrap();
    let no_room = guard.admit("a").unwrap_err();
    permit.finish(failed(Outcome::MaxClients));
    let open = guard.admit("a").unwrap_err();
    assert_eq!((no_room.reason(), open.reason()), ("acquire_timeout", "breaker_open"));
    vec![no_room, open]
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_is_retried_whatever_it_does_for_nothing_was_sent() {
    for refusal in refusals() {
        for words in [READ, WRITE] {
            let refusal = refusal.clone();
            let error = move || Error::<RedisError>::from(refusal.clone());
            assert_eq!(attempts(cmd(words), error).await, 3, "{words}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_have_run_is_retried_only_if_it_reads() {
    assert_eq!(attempts(cmd(READ), lost).await, 3);
    assert_eq!(attempts(cmd(WRITE), lost).await, 1);
    assert_eq!(attempts(cmd(READ), || Error::Inner(lost())).await, 3);
    assert_eq!(attempts(cmd(WRITE), || Error::Inner(lost())).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_is_as_safe_as_its_least_safe_command() {
    let reads = || pipe().get("a").get("b").clone();
    let writes = || pipe().get("a").incr("b", 1).clone();
    assert_eq!(attempts(reads(), lost).await, 3);
    assert_eq!(attempts(reads().atomic().clone(), lost).await, 3);
    assert_eq!(attempts(writes(), lost).await, 1);
    assert_eq!(attempts(writes().atomic().clone(), lost).await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_did_not_run_yet_is_retried_even_if_it_writes() {
    for words in [
        "LOADING Redis is loading the dataset in memory",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        READONLY,
    ] {
        assert_eq!(attempts(cmd(WRITE), || line(words)).await, 3, "{words}");
    }
}

/// The first command may have run before the server refused the second.
#[tokio::test(start_paused = true)]
async fn of_several_writes_those_are_retried_of_which_none_has_run() {
    let write = pipe().incr("b", 1).clone();
    let writes = pipe().incr("a", 1).incr("b", 1).clone();
    assert_eq!(attempts(write, || line(READONLY)).await, 3);
    assert_eq!(attempts(writes.clone(), || line(READONLY)).await, 1);
    assert_eq!(attempts(writes.clone().atomic().clone(), || line(READONLY)).await, 3);
}

#[tokio::test(start_paused = true)]
async fn what_another_attempt_would_meet_again_is_final() {
    for words in [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR value is not an integer or out of range",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM this user has no permissions",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOSCRIPT No matching script. Please use EVAL.",
        "EXECABORT Transaction discarded because of previous errors.",
        "CUSTOM whatever a module says",
    ] {
        assert_eq!(attempts(cmd(READ), || line(words)).await, 1, "{words}");
    }
    let client = || RedisError::from((ErrorKind::Client, "decided on this side"));
    assert_eq!(attempts(cmd(READ), client).await, 1);
    assert_eq!(attempts(cmd(READ), || Error::<RedisError>::from(Rejection::Closed)).await, 1);
    assert_eq!(attempts(cmd(READ), || server("ERR", "whatever")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_is_not_retried() {
    let log = Log::new();
    let seen = log.clone();
    let service = service_fn(move |_: Cmd| {
        seen.0.lock().unwrap().push(Instant::now());
        std::future::ready(Ok::<_, RedisError>(Value::Nil))
    });
    assert_eq!(Retry::new(policy(), service).oneshot(cmd(READ)).await.unwrap(), Value::Nil);
    assert_eq!(log.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_retry_that_works_is_what_the_caller_gets() {
    let attempt = Arc::new(AtomicU32::new(0));
    let service = service_fn(move |_: Cmd| {
        let attempt = attempt.fetch_add(1, Ordering::Relaxed);
        std::future::ready(if attempt < 2 { Err(lost()) } else { Ok(Value::Okay) })
    });
    assert_eq!(Retry::new(policy(), service).oneshot(cmd(READ)).await.unwrap(), Value::Okay);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_keeps_its_own_error() {
    let log = Log::new();
    let error = Retry::new(policy(), log.failing(|| Error::Inner(lost())))
        .oneshot(cmd(READ))
        .await
        .unwrap_err();
    assert!(matches!(&error, Error::Inner(error) if error.is_connection_dropped()), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn attempts_are_all_of_them_the_first_included() {
    for (setting, made) in [(0, 1), (1, 1), (2, 2), (3, 3), (7, 7)] {
        let log = Log::new();
        let service = Retry::new(policy().attempts(setting), log.failing(lost));
        service.oneshot(cmd(READ)).await.unwrap_err();
        assert_eq!(log.attempts(), made, "attempts({setting})");
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_doubles() {
    let log = Log::new();
    let service = Retry::new(policy().attempts(5), log.failing(lost));
    service.oneshot(cmd(READ)).await.unwrap_err();
    let waits: Vec<_> =
        log.times().windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 800]);
}

#[tokio::test(start_paused = true)]
async fn the_first_call_does_not_lengthen_the_waits_of_the_second() {
    let log = Log::new();
    let mut service = Retry::new(policy(), log.failing::<Cmd, _, _>(lost));
    for _ in 0..3 {
        let began = Instant::now();
        service.ready().await.unwrap().call(cmd(READ)).await.unwrap_err();
        assert_eq!(began.elapsed().as_millis(), 300);
    }
    assert_eq!(log.attempts(), 9);
}

/// A guard whose breaker is open for a second, and a service behind it that is never reached.
fn shut() -> Guard {
    let guard = guard(1);
    guard.admit("a").unwrap().finish(failed(Outcome::MaxClients));
    guard
}

#[tokio::test(start_paused = true)]
async fn a_refusals_retry_after_is_waited_for() {
    let guard = shut();
    let reached = Log::new();
    let service = ServiceBuilder::new()
        .retry(policy())
        .layer(GuardLayer::new(&guard, "a"))
        .service(reached.failing::<Cmd, _, _>(lost));
    let began = Instant::now();
    service.oneshot(cmd(READ)).await.unwrap_err();
    let first = reached.times()[0] - began;
    assert!((SECOND..SECOND + SECOND / 8).contains(&first), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_longer_than_the_longest_wait_is_passed_on_at_once() {
    let guard = shut();
    let reached = Log::new();
    let service = ServiceBuilder::new()
        .retry(policy().longest_wait(SECOND / 2))
        .layer(GuardLayer::new(&guard, "a"))
        .service(reached.failing::<Cmd, _, _>(lost));
    let began = Instant::now();
    let error = service.oneshot(cmd(READ)).await.unwrap_err();
    assert_eq!((error.reason(), began.elapsed()), ("breaker_open", Duration::ZERO));
    assert_eq!(reached.attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_longest_times_and_the_most_attempts_are_no_overflow() {
    let log = Log::new();
    let patient = RetryPolicy::default()
        .backoff(Backoff::full_jitter(Duration::MAX, Duration::MAX))
        .longest_wait(Duration::MAX)
        .attempts(u32::MAX);
    let refused = || Error::<RedisError>::from(Rejection::breaker_open(Duration::MAX));
    let service = Retry::new(patient, log.failing::<Cmd, _, _>(refused));
    let answer = timeout(SECOND * 3_600, service.oneshot(cmd(READ))).await;
    assert!(answer.is_err() && log.attempts() == 1, "it waits: {answer:?}");
}

#[tokio::test(start_paused = true)]
async fn full_jitter_spreads_the_retries_of_one_service() {
    let log = Log::new();
    let policy = RetryPolicy::default().budget(RetryBudget::default().per_second(100.0));
    let mut service = Retry::new(policy.attempts(2), log.failing::<Cmd, _, _>(lost));
    let mut waits: Vec<Duration> = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        service.ready().await.unwrap().call(cmd(READ)).await.unwrap_err();
        waits.push(began.elapsed());
    }
    waits.sort();
    waits.dedup();
    assert!(waits.len() > 20, "{waits:?}");
    assert!(waits[0] < SECOND / 40 && *waits.last().unwrap() <= SECOND / 10 + SECOND / 500);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_service_do_not_retry_in_lockstep() {
    let log = Log::new();
    let policy = RetryPolicy::default().budget(RetryBudget::default().per_second(100.0));
    let service = Retry::new(policy.attempts(2), log.failing::<Cmd, _, _>(lost));
    let calls = (0..100).map(|_| service.clone().oneshot(cmd(READ)));
    join_all(calls).await;
    let mut retries = log.times().split_off(100);
    assert_eq!(retries.len(), 100);
    retries.dedup();
    assert!(retries.len() > 30, "100 callers retried at {} moments", retries.len());
}

/// A budget of one retry.
fn only_one() -> RetryBudget {
    RetryBudget::default().share(0.0).per_second(0.1)
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_taken_from_the_budget_when_it_is_scheduled() {
    let budget = only_one();
    let log = Log::new();
    let service = Retry::new(policy().budget(budget.clone()), log.failing::<Cmd, _, _>(lost));
    let call = tokio::spawn(service.oneshot(cmd(READ)));
    sleep(SECOND / 100).await;
    assert_eq!(log.attempts(), 1);
    let told = budget.try_retry().unwrap_err();
    assert_eq!(told.reason(), "retry_budget_exhausted");
    call.await.unwrap().unwrap_err();
    assert_eq!(log.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_cancelled_is_given_back() {
    let budget = only_one();
    let log = Log::new();
    let service = Retry::new(policy().budget(budget.clone()), log.failing::<Cmd, _, _>(lost));
    for _ in 0..3 {
        let call = timeout(SECOND / 100, service.clone().oneshot(cmd(READ)));
        assert!(call.await.is_err(), "cancelled while it waited");
    }
    budget.try_retry().unwrap();
    assert_eq!(log.attempts(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_was_sent_is_not_given_back() {
    let budget = only_one();
    let attempt = Arc::new(AtomicU32::new(0));
    let service = service_fn(move |_: Cmd| {
        let first = attempt.fetch_add(1, Ordering::Relaxed) == 0;
        async move { if first { Err::<Value, _>(lost()) } else { std::future::pending().await } }
    });
    let service = Retry::new(policy().budget(budget.clone()), service);
    assert!(timeout(SECOND, service.oneshot(cmd(READ))).await.is_err());
    budget.try_retry().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn through_a_timeout_layer_errors_are_told_apart_by_what_is_inside() {
    type Case = (&'static str, fn() -> Error, usize);
    let cases: [Case; 4] = [
        (WRITE, || refusals().remove(0).into(), 3),
        (READ, || Error::Inner(lost()), 3),
        (WRITE, || Error::Inner(lost()), 1),
        (READ, || Error::Inner(line("WRONGTYPE whatever")), 1),
    ];
    for (words, error, made) in cases {
        let log = Log::new();
        let service = ServiceBuilder::new()
            .retry(policy())
            .timeout(SECOND)
            .service(log.failing::<Cmd, _, _>(error));
        service.oneshot(cmd(words)).await.unwrap_err();
        assert_eq!(log.attempts(), made, "{words}: {}", error());
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_timed_out_may_have_run() {
    for (words, made) in [(READ, 3), (WRITE, 1)] {
        let log = Log::new();
        let seen = log.clone();
        let hangs = service_fn(move |_: Cmd| {
            seen.0.lock().unwrap().push(Instant::now());
            std::future::pending::<Result<Value, Error>>()
        });
        let service = ServiceBuilder::new().retry(policy()).timeout(SECOND / 10).service(hangs);
        let error = service.oneshot(cmd(words)).await.unwrap_err();
        assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
        assert_eq!(log.attempts(), made, "{words}");
    }
}

#[test]
fn a_boxed_error_is_read_along_its_chain() {
    #[derive(Debug)]
    struct Around(BoxError);
    impl std::fmt::Display for Around {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("around")
        }
    }
    impl std::error::Error for Around {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(self.0.as_ref())
        }
    }
    let around = |error: BoxError| -> BoxError { Around(Around(error).into()).into() };
    assert_eq!(around(lost().into()).attempt(), Attempt::MayHaveRun);
    assert_eq!(around(Error::Inner(lost()).into()).attempt(), Attempt::MayHaveRun);
    let refusal = refusals().remove(1);
    let retry_after = refusal.retry_after();
    assert!(retry_after.is_some());
    assert_eq!(around(refusal.clone().into()).attempt(), Attempt::NotSent { retry_after });
    assert_eq!(
        around(Error::<RedisError>::from(refusal).into()).attempt(),
        Attempt::NotSent { retry_after }
    );
    assert_eq!(around("unknown".into()).attempt(), Attempt::Final);
    let pool = redis_guard::deadpool_redis::PoolError::Backend(lost());
    assert_eq!(around(pool.into()).attempt(), Attempt::MayHaveRun);
}

fn outcomes(snapshotter: &Snapshotter) -> BTreeMap<String, u64> {
    let samples = snapshotter.snapshot().into_vec().into_iter();
    let retries = samples.filter_map(|(key, _, _, value)| {
        let (_, key) = key.into_parts();
        let DebugValue::Counter(count) = value else { return None };
        (key.name() == "redis_guard_retries_total").then_some(())?;
        let label = |name: &str| key.labels().find(|label| label.key() == name).unwrap().value();
        assert_eq!(label("pool"), "shop");
        Some((label("outcome").to_owned(), count))
    });
    retries.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(start_paused = true)]
async fn what_became_of_each_failed_call_is_counted() {
    async fn call(policy: RetryPolicy, words: &str, error: fn() -> Error) -> BTreeMap<String, u64> {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let service = Retry::new(policy, Log::new().failing::<Cmd, _, _>(error));
        let _ = timeout(SECOND, service.oneshot(cmd(words))).await;
        outcomes(&snapshotter)
    }
    let counts = |counts: &[(&str, u64)]| {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<BTreeMap<_, _>>()
    };
    let io: fn() -> Error = || Error::Inner(lost());
    let wrong: fn() -> Error = || Error::Inner(line("WRONGTYPE whatever"));
    let open: fn() -> Error = || refusals().remove(1).into();
    let none = RetryBudget::default().share(0.0).per_second(0.0);
    let slow = Backoff::without_jitter(2 * SECOND, 2 * SECOND);
    let all = call(policy(), READ, io).await;
    assert_eq!(all, counts(&[("attempts", 1), ("retried", 2)]));
    assert_eq!(call(policy(), WRITE, io).await, counts(&[("unsafe", 1)]));
    assert_eq!(call(policy(), READ, wrong).await, counts(&[("final", 1)]));
    assert_eq!(call(policy().budget(none), READ, io).await, counts(&[("budget", 1)]));
    let hasty = policy().longest_wait(SECOND / 2);
    assert_eq!(call(hasty, READ, open).await, counts(&[("too_long", 1)]));
    assert_eq!(call(policy().backoff(slow), READ, io).await, counts(&[("cancelled", 1)]));
}
