//! How many retries go out, whatever the callers want.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::RetryBudget;
use redis_guard::redis::Cmd;
use redis_guard::tower::RetryPolicy;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;
use tower::retry::Retry;

use crate::SECOND;
use crate::retry::{Log, READ, lost};
use crate::waiting::cmd;

/// What reached a service that always fails, within a minute.
#[derive(Debug)]
struct Minute {
    calls: usize,
    attempts: usize,
}

impl Minute {
    fn retries(&self) -> f64 {
        f64::from(u32::try_from(self.attempts - self.calls).unwrap())
    }

    fn allowed(&self) -> f64 {
        0.2 * f64::from(u32::try_from(self.calls).unwrap()) + 2.0 * 60.0
    }
}

/// So many callers, each of whom calls again as soon as it has failed and `pause` is over, with the
/// policy that is theirs, for a minute.
async fn a_minute_of_failure(policies: &[RetryPolicy], callers: usize, pause: Duration) -> Minute {
    let log = Log::new();
    let calls = Arc::new(AtomicU32::new(0));
    let callers = (0..callers).map(|caller| {
        let policy = policies[caller % policies.len()].clone();
        let service = Retry::new(policy, log.failing::<Cmd, _, _>(lost));
        let calls = Arc::clone(&calls);
        async move {
            sleep(pause.mul_f64(0.01 * f64::from(u32::try_from(caller % 100).unwrap()))).await;
            loop {
                calls.fetch_add(1, Ordering::Relaxed);
                service.clone().oneshot(cmd(READ)).await.unwrap_err();
                sleep(pause).await;
            }
        }
    });
    let _ = timeout(60 * SECOND, join_all(callers)).await;
    Minute {
        calls: usize::try_from(calls.load(Ordering::Relaxed)).unwrap(),
        attempts: log.attempts(),
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_minute_of_total_failure_retries_stay_within_a_fifth_and_two_a_second() {
    for (callers, pause) in [(1, 10), (1, 1_000), (10, 100), (50, 100), (300, 2_000)] {
        for attempts in [3, 10] {
            let policy = RetryPolicy::default().attempts(attempts);
            let pause = Duration::from_millis(pause);
            let minute = a_minute_of_failure(&[policy], callers, pause).await;
            assert!(
                minute.retries() <= minute.allowed(),
                "{callers} callers every {pause:?}: {minute:?}, {} retries, {} allowed",
                minute.retries(),
                minute.allowed()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_used_and_not_only_kept() {
    let minute = a_minute_of_failure(&[RetryPolicy::default()], 100, SECOND).await;
    assert!(minute.retries() > 0.8 * minute.allowed(), "{minute:?}");
}

#[tokio::test(start_paused = true)]
async fn policies_that_share_a_budget_stay_within_it_together() {
    let budget = RetryBudget::default();
    let policies: Vec<_> =
        (0..5).map(|_| RetryPolicy::default().attempts(5).budget(budget.clone())).collect();
    let minute = a_minute_of_failure(&policies, 100, SECOND / 4).await;
    assert!(minute.retries() <= minute.allowed(), "{minute:?}");
}

#[tokio::test(start_paused = true)]
async fn a_herd_that_comes_every_ten_seconds_stays_within_it_too() {
    let budget = RetryBudget::default();
    let (mut calls, mut retries) = (0_u32, 0_u32);
    // Just before the end of a slice of the window, and from then on at the start of one.
    sleep(Duration::from_millis(990)).await;
    let began = Instant::now();
    for herd in 0..7 {
        tokio::time::sleep_until(began + herd * 10 * SECOND - herd.min(1) * SECOND * 9 / 10).await;
        calls += 50;
        (0..50).for_each(|_| budget.called());
        while budget.try_retry().is_ok() {
            retries += 1;
        }
    }
    assert!(began.elapsed() < 60 * SECOND);
    let allowed = 0.2 * f64::from(calls) + 120.0;
    assert!(f64::from(retries) <= allowed, "{retries} retries, {allowed} allowed");
}
