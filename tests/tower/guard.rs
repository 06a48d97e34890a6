//! The guard from the outside: budgets, and the breaker that hears what calls hear.

use std::time::Duration;

use redis_guard::{
    Backoff, Breaker, BreakerState, Budget, Class, Guard, Outcome, Permit, Rejection,
};
use tokio::time::{Instant, advance};

use crate::{SECOND, assert_at_rest, builder, counts, endpoint, failed, guard};

/// So many calls in flight.
fn admitted(guard: &Guard, count: usize) -> Vec<Permit> {
    (0..count).map(|_| guard.admit("search").unwrap()).collect()
}

fn hear(guard: &Guard, outcome: Outcome) {
    guard.admit("search").unwrap().finish(failed(outcome));
}

fn state(guard: &Guard) -> BreakerState {
    guard.breaker().state()
}

/// Nothing works: the only call was refused.
fn down(max_in_flight: usize) -> Guard {
    let guard = guard(max_in_flight);
    hear(&guard, Outcome::MaxClients);
    assert_eq!((state(&guard), guard.status().limit), (BreakerState::Open, 0));
    guard
}

#[tokio::test(start_paused = true)]
async fn at_most_max_in_flight_calls_are_admitted() {
    let guard = guard(3);
    let permits = admitted(&guard, 3);
    let Err(Rejection::AcquireTimeout { waited, failure: None, .. }) = guard.admit("other") else {
        panic!("not refused for want of room")
    };
    assert_eq!((waited, counts(&guard)), (Duration::ZERO, (3, 0)));
    drop(permits);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_at_its_max_hears_its_name_and_max() {
    let guard = builder(8).endpoint("search", Budget::max(2)).build().unwrap();
    let _permits = admitted(&guard, 2);
    let Err(Rejection::BudgetExhausted { endpoint, max, .. }) = guard.admit("search") else {
        panic!("not exhausted")
    };
    assert_eq!((endpoint.as_str(), max), ("search", 2));
    assert!(guard.admit("other").is_ok());
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_without_a_budget_has_the_default_one_to_itself() {
    let guard = builder(8).default_budget(Budget::max(1)).build().unwrap();
    let _permits = ["a", "b", "c"].map(|name| guard.admit(name).unwrap());
    assert_eq!(guard.admit("a").unwrap_err().reason(), "budget_exhausted");
}

#[tokio::test(start_paused = true)]
async fn nobody_takes_what_is_reserved_for_another() {
    let guard = builder(8).endpoint("checkout", Budget::max(8).reserve(3)).build().unwrap();
    let _permits = admitted(&guard, 5);
    assert_eq!(guard.admit("search").unwrap_err().reason(), "acquire_timeout");
    let _reserved: Vec<_> = (0..3).map(|_| guard.admit("checkout").unwrap()).collect();
    assert!(guard.admit("checkout").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_probe_leaves_what_is_reserved_for_another() {
    let guard = builder(8).endpoint("checkout", Budget::max(8).reserve(2)).build().unwrap();
    let _others = admitted(&guard, 6);
    let _checkout = guard.admit("checkout").unwrap();
    guard.admit("checkout").unwrap().finish(failed(Outcome::MaxClients));
    assert_eq!((guard.status().limit, guard.status().in_flight), (7, 7));
    advance(SECOND).await;
    assert!(guard.admit("search").is_err());
    assert!(guard.admit("checkout").is_ok());
}

#[tokio::test(start_paused = true)]
async fn names_after_the_256th_and_invalid_ones_count_as_other() {
    let guard = guard(1_000);
    let _permits: Vec<_> = (0..400).map(|n| guard.admit(format!("name-{n}")).unwrap()).collect();
    drop(guard.admit(String::from("in\nvalid")));
    let status = guard.status();
    assert_eq!(status.endpoints.len(), 256);
    assert_eq!(endpoint(&guard, "other").admitted, 400 - 255 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_leaves_the_limit_at_those_that_work_beside_it() {
    let guard = guard(16);
    let mut permits = admitted(&guard, 6);
    permits.pop().unwrap().finish(failed(Outcome::MaxClients));
    assert_eq!((state(&guard), guard.status().limit), (BreakerState::Open, 5));
    let refused = guard.admit("search").unwrap_err();
    assert_eq!(refused.reason(), "acquire_timeout");
    assert_eq!(refused.failure().map(|failure| failure.outcome), Some(Outcome::MaxClients));
    permits.pop().unwrap().finish(Class::Worked);
    assert!(guard.admit("search").is_ok());
}

#[tokio::test(start_paused = true)]
async fn each_further_refusal_lowers_the_limit_to_those_that_are_left() {
    let guard = guard(16);
    let mut permits = admitted(&guard, 6);
    for left in (0..6).rev() {
        permits.pop().unwrap().finish(failed(Outcome::MaxClients));
        assert_eq!(guard.status().limit, left);
    }
    assert_eq!(guard.admit("search").unwrap_err().reason(), "breaker_open");
}

#[tokio::test(start_paused = true)]
async fn one_failure_of_another_kind_beside_a_refusal_does_not_refuse_all() {
    let guard = guard(16);
    let mut permits = admitted(&guard, 6);
    permits.pop().unwrap().finish(failed(Outcome::MaxClients));
    permits.pop().unwrap().finish(failed(Outcome::Timeout));
    assert!(guard.status().limit >= 4, "four calls are in flight: {:#?}", guard.status());
    assert!(guard.admit("search").is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_a_call_hears_trips_the_breaker_by_its_kind() {
    for (outcome, trips_after) in [
        (Outcome::MaxClients, 1),
        (Outcome::SuspectedMaxClients, 2),
        (Outcome::Timeout, 5),
        (Outcome::Refused, 5),
        (Outcome::Unreachable, 5),
        (Outcome::Loading, 5),
        (Outcome::Other, 5),
    ] {
        let guard = guard(16);
        for heard in 1..trips_after {
            hear(&guard, outcome);
            assert_eq!(state(&guard), BreakerState::Closed, "{outcome}: {heard}");
            assert_eq!(guard.status().limit, 16, "{outcome}: {heard}");
        }
        hear(&guard, outcome);
        assert_eq!(state(&guard), BreakerState::Open, "{outcome}");
        assert_eq!(guard.status().limit, 0, "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn suspicions_far_apart_do_not_trip_it() {
    let guard = guard(16);
    for _ in 0..4 {
        hear(&guard, Outcome::SuspectedMaxClients);
        advance(2 * SECOND).await;
    }
    assert_eq!(state(&guard), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_a_row_of_failures() {
    let guard = guard(16);
    for _ in 0..10 {
        (0..4).for_each(|_| hear(&guard, Outcome::Timeout));
        guard.admit("search").unwrap().finish(Class::Worked);
    }
    assert_eq!((state(&guard), guard.status().breaker.failures), (BreakerState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_result_that_says_nothing_neither_counts_nor_ends_a_row() {
    let guard = guard(16);
    for _ in 0..4 {
        hear(&guard, Outcome::Timeout);
        guard.admit("search").unwrap().finish(Class::Unknown);
        drop(guard.admit("search").unwrap());
    }
    assert_eq!((state(&guard), guard.status().breaker.failures), (BreakerState::Closed, 4));
    hear(&guard, Outcome::Timeout);
    assert_eq!(state(&guard), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_thresholds_are_the_breakers() {
    let breaker = Breaker::default().max_clients(3).failures(7);
    let guard = builder(16).breaker(breaker).build().unwrap();
    (0..2).for_each(|_| hear(&guard, Outcome::MaxClients));
    assert_eq!((state(&guard), guard.status().limit), (BreakerState::Closed, 16));
    hear(&guard, Outcome::MaxClients);
    assert_eq!(state(&guard), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_while_open_tells_the_servers_words_and_the_time_to_the_next_try() {
    let guard = builder(16).server("10.0.0.1:6379").build().unwrap();
    hear(&guard, Outcome::MaxClients);
    advance(SECOND / 4).await;
    let refused = guard.admit("search").unwrap_err();
    assert_eq!(refused.retry_after(), Some(3 * SECOND / 4));
    assert_eq!(
        refused.to_string(),
        "redis at 10.0.0.1:6379 [max_clients]: in its own words; \
         no connection is live, next attempt in 750.0ms"
    );
}

#[tokio::test(start_paused = true)]
async fn one_probe_goes_out_per_tick() {
    let guard = down(16);
    for tick in 1..=5 {
        assert_eq!(guard.admit("search").unwrap_err().reason(), "breaker_open", "{tick}");
        advance(SECOND).await;
        let probe = guard.admit("search").unwrap();
        assert_eq!(state(&guard), BreakerState::HalfOpen);
        let refused = guard.admit("search").unwrap_err();
        assert_eq!(refused.reason(), "breaker_open", "one probe at a time");
        assert!(refused.retry_after().unwrap() <= SECOND / 2, "{refused:?}");
        probe.finish(failed(Outcome::MaxClients));
        assert_eq!((state(&guard), counts(&guard)), (BreakerState::Open, (0, 0)));
    }
    assert_eq!(endpoint(&guard, "search").admitted, 6);
}

#[tokio::test(start_paused = true)]
async fn the_wait_between_probes_doubles_to_the_cap() {
    let backoff = Backoff::without_jitter(SECOND / 2, 8 * SECOND);
    let guard = builder(16).backoff(backoff).build().unwrap();
    hear(&guard, Outcome::MaxClients);
    let mut waits = Vec::new();
    for _ in 0..6 {
        let wait = guard.admit("search").unwrap_err().retry_after().unwrap();
        waits.push(wait.as_secs());
        advance(wait).await;
        hear(&guard, Outcome::MaxClients);
    }
    assert_eq!(waits, [1, 2, 4, 8, 8, 8]);
}

#[tokio::test(start_paused = true)]
async fn beside_calls_that_work_one_more_is_tried_per_tick() {
    let guard = guard(16);
    let mut permits = admitted(&guard, 3);
    permits.pop().unwrap().finish(failed(Outcome::MaxClients));
    for _ in 0..5 {
        assert!(guard.admit("search").is_err());
        advance(SECOND).await;
        let probe = guard.admit("search").unwrap();
        assert!(guard.admit("search").is_err());
        probe.finish(failed(Outcome::MaxClients));
        assert_eq!(guard.status().limit, 2, "what works goes on working");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_meets_wrong_credentials_lets_everybody_know_in_the_servers_words() {
    let guard = down(16);
    advance(SECOND).await;
    hear(&guard, Outcome::Auth);
    let Err(Rejection::ConnectFailed { failure, retry_after, .. }) = guard.admit("search") else {
        panic!("not ConnectFailed")
    };
    assert_eq!(failure.message, "in its own words");
    assert!((SECOND..=2 * SECOND).contains(&retry_after), "the slow schedule: {retry_after:?}");
    advance(retry_after).await;
    guard.admit("search").unwrap().finish(Class::Worked);
    assert!(guard.admit("search").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_is_given_back() {
    let guard = down(16);
    advance(SECOND).await;
    for _ in 0..5 {
        drop(guard.admit("search").unwrap());
        assert_eq!(state(&guard), BreakerState::Open);
    }
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_is_given_up_in_time() {
    let guard = down(16);
    advance(SECOND).await;
    let _hung = guard.admit("search").unwrap();
    let began = Instant::now();
    let probe = loop {
        match guard.admit("search") {
            Ok(probe) => break probe,
            Err(_) => advance(SECOND / 10).await,
        }
    };
    assert!(began.elapsed() <= 5 * SECOND, "{:?}", began.elapsed());
    probe.finish(Class::Worked);
    assert_eq!(state(&guard), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_given_up_and_works_late_is_old_news() {
    let guard = down(16);
    advance(SECOND).await;
    let hung = guard.admit("search").unwrap();
    advance(10 * SECOND).await;
    let probe = guard.admit("search").unwrap();
    hung.finish(Class::Worked);
    assert_eq!((state(&guard), guard.status().limit), (BreakerState::HalfOpen, 0));
    probe.finish(failed(Outcome::MaxClients));
    assert_eq!((state(&guard), guard.status().limit), (BreakerState::Open, 0));
}

#[tokio::test(start_paused = true)]
async fn room_found_again_is_taken_one_call_per_success() {
    let guard = down(64);
    advance(SECOND).await;
    guard.admit("search").unwrap().finish(Class::Worked);
    assert_eq!((state(&guard), guard.status().limit), (BreakerState::Closed, 1));
    let mut limits = vec![1];
    while guard.status().limit < 64 {
        // As many as are let in, all of which work.
        let round: Vec<_> = std::iter::from_fn(|| guard.admit("search").ok()).collect();
        round.into_iter().for_each(|permit| permit.finish(Class::Worked));
        limits.push(guard.status().limit);
    }
    assert!(limits.windows(2).all(|pair| pair[1] <= 2 * pair[0] + 1), "{limits:?}");
    assert_eq!(limits.last(), Some(&64));
    let all = admitted(&guard, 64);
    drop(all);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_while_it_grows_ends_the_growth_there() {
    let guard = down(64);
    advance(SECOND).await;
    for _ in 0..8 {
        guard.admit("search").unwrap().finish(Class::Worked);
    }
    let mut permits: Vec<_> = std::iter::from_fn(|| guard.admit("search").ok()).collect();
    let (refused, working) = (permits.pop().unwrap(), permits.len());
    refused.finish(failed(Outcome::MaxClients));
    let limit = guard.status().limit;
    assert!(limit <= working, "{limit} of {working}");
    for permit in permits {
        permit.finish(Class::Worked);
    }
    assert_eq!(guard.status().limit, limit, "no growth before the next probe");
}

#[tokio::test(start_paused = true)]
async fn forced_open_it_refuses_every_call_until_it_is_let_go() {
    let guard = guard(16);
    let running = guard.admit("search").unwrap();
    guard.breaker().force_open();
    for _ in 0..3 {
        let refused = guard.admit("search").unwrap_err();
        assert_eq!((refused.reason(), refused.failure()), ("breaker_open", None));
        assert!(refused.to_string().contains("forced open"), "{refused}");
        advance(60 * SECOND).await;
    }
    assert!(guard.status().breaker.forced);
    running.finish(Class::Worked);
    guard.breaker().auto();
    let _all = admitted(&guard, 16);
}

#[tokio::test(start_paused = true)]
async fn forced_closed_it_refuses_nobody_because_of_what_others_heard() {
    let guard = down(16);
    guard.breaker().force_closed();
    for _ in 0..50 {
        hear(&guard, Outcome::MaxClients);
    }
    assert_eq!((state(&guard), guard.status().limit), (BreakerState::Closed, 16));
    let permits = admitted(&guard, 16);
    assert!(guard.admit("search").is_err(), "budgets stay");
    drop(permits);
}

#[tokio::test(start_paused = true)]
async fn what_was_heard_under_an_override_counts_once_it_is_let_go() {
    let guard = guard(16);
    guard.breaker().force_closed();
    hear(&guard, Outcome::MaxClients);
    guard.breaker().auto();
    assert_eq!(guard.admit("search").unwrap_err().reason(), "breaker_open");
    advance(SECOND).await;
    guard.admit("search").unwrap().finish(Class::Worked);
    assert_eq!(state(&guard), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_permit_outlives_the_guard() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    drop(guard);
    permit.finish(failed(Outcome::MaxClients));
}

#[tokio::test(start_paused = true)]
async fn clones_are_the_same_guard() {
    let guard = guard(1);
    let _permit = guard.clone().admit("search").unwrap();
    assert!(guard.admit("search").is_err());
}

#[test]
fn it_works_without_a_runtime() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    assert!(guard.admit("search").is_err());
    permit.finish(failed(Outcome::MaxClients));
    assert_eq!(guard.admit("search").unwrap_err().reason(), "breaker_open");
    assert_at_rest(&guard);
}

#[test]
fn the_builder_reports_everything_that_is_wrong_at_once() {
    let problems = Guard::builder()
        .name("")
        .max_in_flight(0)
        .queue_limit(0)
        .acquire_timeout(Duration::MAX)
        .backoff(Backoff::without_jitter(Duration::ZERO, SECOND))
        .breaker(Breaker::default().failures(0))
        .endpoint("a", Budget::max(0))
        .endpoint("a", Budget::max(1).reserve(2))
        .default_budget(Budget::max(1).reserve(1))
        .build()
        .unwrap_err();
    assert!(problems.problems().len() >= 9, "{:#?}", problems.problems());
}
