//! What an operator sees of a guard: events and metrics.

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redis_guard::tower::GuardLayer;
use redis_guard::{BreakerState, Budget, Class, Event, Events, Guard, Outcome};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt};

use crate::{SECOND, Told, builder, failed, guard};

/// Everything that happened so far.
fn heard(events: &mut Events) -> Vec<Event> {
    std::iter::from_fn(|| crate::waiting::ready(events.next()).flatten()).collect()
}

fn transitions(events: Vec<Event>) -> Vec<(BreakerState, BreakerState)> {
    let transition = |event| match event {
        Event::BreakerChanged { from, to, .. } => Some((from, to)),
        _ => None,
    };
    events.into_iter().filter_map(transition).collect()
}

#[tokio::test(start_paused = true)]
async fn every_change_of_the_breaker_is_an_event() {
    use BreakerState::{Closed, HalfOpen, Open};
    let guard = guard(4);
    let mut events = guard.events();
    guard.admit("search").unwrap().finish(failed(Outcome::MaxClients));
    advance(SECOND).await;
    guard.admit("search").unwrap().finish(failed(Outcome::MaxClients));
    advance(SECOND).await;
    drop(guard.admit("search").unwrap());
    guard.admit("search").unwrap().finish(Class::Worked);
    guard.breaker().force_open();
    guard.breaker().auto();
    let expected = [
        (Closed, Open),
        (Open, HalfOpen),
        (HalfOpen, Open),
        (Open, HalfOpen),
        (HalfOpen, Open),
        (Open, HalfOpen),
        (HalfOpen, Closed),
        (Closed, Open),
        (Open, Closed),
    ];
    assert_eq!(transitions(heard(&mut events)), expected);
    let counted: u64 = guard.status().breaker.transitions.values().sum();
    assert_eq!(counted, 9);
}

#[tokio::test(start_paused = true)]
async fn every_refusal_is_an_event_of_its_endpoint() {
    let guard = builder(2).endpoint("search", Budget::max(1)).build().unwrap();
    let mut events = guard.events();
    let _permits = ["search", "other"].map(|name| guard.admit(name).unwrap());
    guard.admit("search").unwrap_err();
    guard.admit("other").unwrap_err();
    let refusals: Vec<_> = heard(&mut events)
        .into_iter()
        .map(|event| match event {
            Event::Rejected { endpoint, rejection, .. } => {
                (endpoint.to_string(), rejection.reason())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        refusals,
        [("search".to_owned(), "budget_exhausted"), ("other".to_owned(), "acquire_timeout")]
    );
}

#[tokio::test(start_paused = true)]
async fn the_events_end_with_the_guard() {
    let guard = guard(1);
    let mut events = guard.events();
    drop(guard);
    assert!(events.next().await.is_none());
}

type Samples = BTreeMap<String, DebugValue>;

fn taken(snapshotter: &Snapshotter) -> Samples {
    let samples = snapshotter.snapshot().into_vec().into_iter();
    let named = samples.map(|(key, _, _, value)| {
        let (_, key) = key.into_parts();
        let mut labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        labels.sort();
        (format!("{}{{{}}}", key.name(), labels.join(",")), value)
    });
    named.collect()
}

fn gauge(samples: &Samples, name: &str) -> f64 {
    match samples.get(name) {
        Some(DebugValue::Gauge(value)) => value.into_inner(),
        other => panic!("{name}: {other:?} among {:#?}", samples.keys()),
    }
}

fn counter(samples: &Samples, name: &str) -> u64 {
    match samples.get(name) {
        Some(DebugValue::Counter(value)) => *value,
        other => panic!("{name}: {other:?} among {:#?}", samples.keys()),
    }
}

fn shop() -> Guard {
    let builder = builder(4).name("shop").server("10.0.0.1:6379");
    builder.endpoint("search", Budget::max(2)).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn its_counts_are_published_once_a_second() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let guard = shop();
    let of = |name: &str| format!("{name}{{endpoint=search,pool=shop,server=10.0.0.1:6379}}");
    for in_flight in 1..=2_u32 {
        std::mem::forget(guard.admit("search").unwrap());
        sleep(SECOND).await;
        let samples = taken(&snapshotter);
        let in_flight_of = "redis_guard_calls_in_flight{endpoint=search,pool=shop}";
        let published = gauge(&samples, in_flight_of);
        assert_eq!(published, f64::from(in_flight));
        assert_eq!(gauge(&samples, &of("redis_guard_endpoint_max")), 2.0);
        assert_eq!(gauge(&samples, &of("redis_guard_endpoint_waiting")), 0.0);
        assert_eq!(gauge(&samples, "redis_guard_call_limit{pool=shop}"), 4.0);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_are_counted_by_endpoint_and_reason() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let guard = shop();
    let _permits = ["search", "search", "other", "other"].map(|name| guard.admit(name).unwrap());
    (0..3).for_each(|_| drop(guard.admit("search").unwrap_err()));
    (0..2).for_each(|_| drop(guard.admit("other").unwrap_err()));
    sleep(SECOND + SECOND / 2).await;
    let samples = taken(&snapshotter);
    assert_eq!(guard.status().endpoints[0].rejected, [("budget_exhausted", 3)].into());
    let published: Vec<_> =
        samples.keys().filter(|name| name.starts_with("redis_guard_rejections_total")).collect();
    assert_eq!(
        published,
        [
            "redis_guard_rejections_total{endpoint=other,pool=shop,reason=acquire_timeout,server=10.0.0.1:6379}",
            "redis_guard_rejections_total{endpoint=search,pool=shop,reason=budget_exhausted,server=10.0.0.1:6379}",
        ]
    );
    assert_eq!(counter(&samples, published[0]), 2);
    assert_eq!(counter(&samples, published[1]), 3);
}

#[tokio::test(start_paused = true)]
async fn the_breaker_is_published() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let guard = shop();
    guard.admit("search").unwrap().finish(failed(Outcome::MaxClients));
    sleep(SECOND / 2).await;
    let samples = taken(&snapshotter);
    for (state, value) in [("closed", 0.0), ("open", 1.0), ("half_open", 0.0)] {
        let name =
            format!("redis_guard_breaker_state{{pool=shop,server=10.0.0.1:6379,state={state}}}");
        assert_eq!(gauge(&samples, &name), value, "{state}");
    }
    assert_eq!(gauge(&samples, "redis_guard_backoff_seconds{pool=shop,server=10.0.0.1:6379}"), 1.0);
    assert_eq!(gauge(&samples, "redis_guard_call_limit{pool=shop}"), 0.0);
    let name =
        "redis_guard_breaker_transitions_total{from=closed,pool=shop,server=10.0.0.1:6379,to=open}";
    assert_eq!(counter(&samples, name), 1);
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_comes_late_misses_nothing() {
    let guard = shop();
    let _permits = [(); 2].map(|()| guard.admit("search").unwrap());
    guard.admit("search").unwrap_err();
    sleep(3 * SECOND).await;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    sleep(2 * SECOND).await;
    let name = "redis_guard_rejections_total{endpoint=search,pool=shop,reason=budget_exhausted,server=10.0.0.1:6379}";
    assert_eq!(counter(&taken(&snapshotter), name), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_gone_publishes_no_more() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let guard = shop();
    drop(guard.admit("search").unwrap());
    sleep(2 * SECOND).await;
    drop(guard);
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks, 1, "the publisher");
    sleep(2 * SECOND).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    drop(snapshotter);
}

#[test]
fn a_guard_is_published_again_after_its_runtime_was_shut_down() {
    let guard = shop();
    for _ in 0..2 {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        metrics::with_local_recorder(&recorder, || {
            runtime.unwrap().block_on(async {
                drop(guard.admit("search").unwrap());
                sleep(2 * SECOND).await;
            });
        });
        assert_eq!(gauge(&taken(&snapshotter), "redis_guard_call_limit{pool=shop}"), 4.0);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_of_a_layer_are_its_guards() {
    let guard = shop();
    guard.breaker().force_open();
    let service = GuardLayer::new(&guard, "search")
        .layer(tower::service_fn(|()| async { Ok::<_, Told>(()) }));
    for _ in 0..3 {
        service.clone().oneshot(()).await.unwrap_err();
    }
    assert_eq!(guard.status().endpoints[0].rejected, [("breaker_open", 3)].into());
}
