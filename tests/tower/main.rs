//! The tower layers, services and policies, as users of tower expect them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]
#![allow(clippy::duplicate_mod, reason = "both variants of the layer keep the same contract")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod budgets;
mod classify;
mod composition;
mod guard;
#[cfg(feature = "http")]
mod http;
mod observed;
mod pools_guard;
mod probes;
mod queued;
mod queued_breaker;
mod read_only;
mod redis_service;
mod refusing;
mod retry;
mod retry_figure;

use std::time::Duration;

use redis_guard::tower::ClassifyError;
use redis_guard::{Backoff, CallsStatus, Class, Guard, GuardBuilder, Outcome};

const SECOND: Duration = Duration::from_secs(1);

/// An error that says what it says.
#[derive(Clone, Debug, PartialEq)]
struct Told(Class);

impl ClassifyError for Told {
    fn class(&self) -> Class {
        self.0.clone()
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Told {}

fn failed(outcome: Outcome) -> Class {
    Class::Failed { outcome, message: "in its own words".to_owned() }
}

/// Tries again a second after a failure, without jitter.
fn builder(max_in_flight: usize) -> GuardBuilder {
    Guard::builder()
        .max_in_flight(max_in_flight)
        .backoff(Backoff::without_jitter(SECOND / 2, SECOND))
}

fn guard(max_in_flight: usize) -> Guard {
    builder(max_in_flight).build().unwrap()
}

fn endpoint(guard: &Guard, name: &str) -> CallsStatus {
    let mut endpoints = guard.status().endpoints.into_iter();
    endpoints.find(|endpoint| endpoint.name.as_str() == name).unwrap()
}

/// Calls in flight, and callers who wait.
fn counts(guard: &Guard) -> (usize, usize) {
    let status = guard.status();
    let sum = |count: fn(&CallsStatus) -> usize| status.endpoints.iter().map(count).sum::<usize>();
    assert_eq!(status.in_flight, sum(|endpoint| endpoint.in_flight), "{status:#?}");
    assert_eq!(status.waiting, sum(|endpoint| endpoint.waiting), "{status:#?}");
    (status.in_flight, status.waiting)
}

#[track_caller]
fn assert_at_rest(guard: &Guard) {
    assert_eq!(counts(guard), (0, 0), "{:#?}", guard.status());
}
