//! The layer that lets callers wait for their turn.

use std::rc::Rc;
use std::time::Duration;

use redis_guard::tower::{ByError, Fixed, GuardLayer, QueuedFuture, QueuedGuardLayer};
use redis_guard::{Budget, Class, Error, Guard, Rejection};
use tokio::time::advance;
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready_eq, assert_ready_err, assert_ready_ok};
use tower::{Layer, Service, ServiceExt};
use tower_test::{assert_request_eq, mock};

use crate::probes::{Strict, panics};
use crate::{SECOND, Told, assert_at_rest, builder, counts, endpoint, guard};

#[path = "contract.rs"]
mod contract;

/// Queued as soon as its classification is known: the contract sets that of both variants.
struct Queued<C = ByError>(GuardLayer<Fixed, C>);

impl<C> Queued<C> {
    fn classify<D>(self, classify: D) -> Queued<D> {
        Queued(self.0.classify(classify))
    }
}

impl<S, C: Clone> Layer<S> for Queued<C> {
    type Service = <QueuedGuardLayer<Fixed, C> as Layer<S>>::Service;

    fn layer(&self, inner: S) -> Self::Service {
        self.0.clone().queued().layer(inner)
    }
}

fn layer(guard: &Guard) -> Queued {
    Queued(GuardLayer::new(guard, "search"))
}

pub(crate) type Response = Spawn<QueuedFuture<Strict, u32, ByError>>;

/// A call of this endpoint, polled once.
pub(crate) fn call(guard: &Guard, endpoint: &'static str, number: u32) -> Response {
    let layer = GuardLayer::new(guard, endpoint).queued();
    let mut service = mock::Spawn::new(layer.layer(Strict::default()));
    assert_ready_ok!(service.poll_ready());
    spawn(service.call(number))
}

/// A call that has to wait.
pub(crate) fn wait(guard: &Guard, endpoint: &'static str, number: u32) -> Response {
    let mut response = call(guard, endpoint, number);
    assert_pending!(response.poll());
    response
}

#[track_caller]
pub(crate) fn refused(response: &mut Response) -> Rejection {
    match assert_ready_err!(response.poll()) {
        Error::Rejected(rejection) => rejection,
        error => panic!("not refused: {error:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_room_waits_and_is_made_when_its_turn_comes() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let mut response = wait(&guard, "search", 7);
    assert_eq!(counts(&guard), (1, 1));
    drop(permit);
    assert!(response.is_woken());
    assert_ready_eq!(response.poll().map(Result::unwrap), 7);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn the_instance_that_was_found_ready_is_the_one_that_is_called() {
    let guard = guard(1);
    let (mut service, mut inner) = mock::spawn_layer::<u32, u32, _>(layer(&guard));
    inner.allow(2);
    let permit = guard.admit("search").unwrap();
    assert_ready_ok!(service.poll_ready());
    let mut response = spawn(service.call(1));
    assert_pending!(response.poll());
    drop(permit);
    assert_pending!(response.poll());
    assert_request_eq!(inner, 1).send_response(11);
    assert_ready_eq!(response.poll().map(Result::unwrap), 11);
}

#[tokio::test(start_paused = true)]
async fn while_a_caller_waits_the_service_asks_again_whether_it_is_ready() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let mut service = mock::Spawn::new(layer(&guard).layer(Strict::default()));
    assert_ready_ok!(service.poll_ready());
    let mut first = spawn(service.call(1));
    assert_pending!(first.poll());
    drop(permit);
    assert_ready_ok!(first.poll());
    assert_eq!(panics(|| service.call(2)), "called without having been found ready");
}

#[tokio::test(start_paused = true)]
async fn the_inner_service_is_not_called_before_the_turn_has_come() {
    let guard = guard(1);
    let strict = Strict::default();
    let calls = strict.calls();
    let permit = guard.admit("search").unwrap();
    let mut service = mock::Spawn::new(layer(&guard).layer(strict));
    assert_ready_ok!(service.poll_ready());
    let mut response = spawn(service.call(1));
    assert_pending!(response.poll());
    assert_eq!(calls.get(), 0);
    drop(permit);
    assert_eq!(calls.get(), 0, "the place is there, the caller has not looked");
    assert_ready_ok!(response.poll());
    assert_eq!(calls.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn first_come_first_served() {
    let guard = guard(1);
    let mut permit = Some(guard.admit("search").unwrap());
    let mut waiting: Vec<_> = (0..5).map(|number| wait(&guard, "search", number)).collect();
    for turn in 0..waiting.len() {
        drop(permit.take());
        for (place, response) in waiting.iter_mut().enumerate() {
            assert_eq!(response.is_woken(), place == 0, "turn {turn}, place {place}");
        }
        // The next one is served when this one has ended.
        let mut served = waiting.remove(0);
        assert_ready_ok!(served.poll());
    }
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_does_not_overtake() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let mut first = wait(&guard, "search", 1);
    drop(permit);
    let mut newcomer = wait(&guard, "search", 2);
    assert_pending!(newcomer.poll());
    assert_ready_ok!(first.poll());
    assert_ready_ok!(newcomer.poll());
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_endpoint_does_not_block_another_behind_it() {
    let guard = builder(3).endpoint("slow", Budget::max(1)).build().unwrap();
    let slow = guard.admit("slow").unwrap();
    let others = [guard.admit("search").unwrap(), guard.admit("search").unwrap()];
    let mut behind_slow = wait(&guard, "slow", 1);
    let mut other = wait(&guard, "search", 2);
    drop(others);
    assert_ready_ok!(other.poll());
    assert_pending!(behind_slow.poll());
    drop(slow);
    assert_ready_ok!(behind_slow.poll());
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_too_long_is_refused_with_the_time_it_waited() {
    let guard = builder(1).acquire_timeout(SECOND / 4).build().unwrap();
    let permit = guard.admit("search").unwrap();
    let mut response = wait(&guard, "search", 1);
    advance(SECOND / 4 - Duration::from_millis(1)).await;
    assert_pending!(response.poll());
    advance(Duration::from_millis(2)).await;
    assert!(response.is_woken());
    let Rejection::AcquireTimeout { waited, .. } = refused(&mut response) else { panic!() };
    assert!((SECOND / 4..SECOND / 3).contains(&waited), "{waited:?}");
    drop((response, permit));
    assert_at_rest(&guard);
    assert_eq!(endpoint(&guard, "search").rejected, [("acquire_timeout", 1)].into());
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_too_long_for_its_budget_hears_so() {
    let guard = builder(4).endpoint("slow", Budget::max(1)).build().unwrap();
    let permit = guard.admit("slow").unwrap();
    let mut response = wait(&guard, "slow", 1);
    advance(2 * SECOND).await;
    assert_eq!(refused(&mut response).reason(), "budget_exhausted");
    drop((response, permit));
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_time_is_over_has_left_though_its_future_is_kept() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let mut response = wait(&guard, "search", 1);
    advance(2 * SECOND).await;
    refused(&mut response);
    assert_eq!(counts(&guard), (1, 0));
    drop(permit);
    assert_at_rest(&guard);
    assert!(guard.admit("search").is_ok());
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_wait_whose_time_is_over_has_left_though_its_future_is_kept() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let mut waiting = spawn(guard.wait("search"));
    assert_pending!(waiting.poll());
    advance(2 * SECOND).await;
    assert_ready_err!(waiting.poll());
    drop(permit);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_with_the_deadline_is_taken() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let mut response = wait(&guard, "search", 1);
    advance(2 * SECOND).await;
    drop(permit);
    assert_ready_ok!(response.poll());
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let guard = builder(1).queue_limit(2).build().unwrap();
    let permit = guard.admit("search").unwrap();
    let waiting = [wait(&guard, "search", 1), wait(&guard, "search", 2)];
    let Rejection::QueueFull { limit, .. } = refused(&mut call(&guard, "search", 3)) else {
        panic!("not QueueFull")
    };
    assert_eq!((limit, counts(&guard)), (2, (1, 2)));
    drop(waiting);
    let mut response = wait(&guard, "search", 4);
    drop(permit);
    assert_ready_ok!(response.poll());
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_leaves_the_inner_service_ready() {
    let guard = builder(1).queue_limit(1).build().unwrap();
    let permit = guard.admit("search").unwrap();
    let waiting = wait(&guard, "search", 1);
    let (mut service, mut inner) = mock::spawn_layer::<u32, u32, _>(layer(&guard));
    inner.allow(1);
    assert_ready_ok!(service.poll_ready());
    assert_ready_err!(spawn(service.call(2)).poll());
    drop((waiting, permit));
    assert_ready_ok!(service.poll_ready());
    assert_pending!(spawn(service.call(3)).poll());
    assert_request_eq!(inner, 3).send_response(3);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_leaves_the_queue() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let (first, mut second) = (wait(&guard, "search", 1), wait(&guard, "search", 2));
    drop(first);
    assert_eq!(counts(&guard), (1, 1));
    drop(permit);
    assert_ready_ok!(second.poll());
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_was_never_polled_leaves_the_queue_too() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let response = call(&guard, "search", 1);
    assert_eq!(counts(&guard), (1, 1));
    drop(response);
    assert_eq!(counts(&guard), (1, 0));
    drop(permit);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_permit_on_its_way_to_a_waiter_that_is_dropped_serves_the_next_one() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let (first, mut second) = (wait(&guard, "search", 1), wait(&guard, "search", 2));
    drop(permit);
    assert_eq!(counts(&guard), (1, 1), "the first one's");
    drop(first);
    assert!(second.is_woken());
    assert_ready_ok!(second.poll());
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_permit_on_its_way_to_the_last_waiter_is_free_again_when_it_is_dropped() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let only = wait(&guard, "search", 1);
    drop(permit);
    drop(only);
    assert_at_rest(&guard);
    assert!(guard.admit("search").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_dropped_with_its_call_in_flight_gives_its_place_back() {
    let guard = guard(1);
    let (mut service, mut inner) = mock::spawn_layer::<u32, u32, _>(layer(&guard));
    let permit = guard.admit("search").unwrap();
    assert_ready_ok!(service.poll_ready());
    let mut response = spawn(service.call(1));
    assert_pending!(response.poll());
    drop(permit);
    assert_pending!(response.poll());
    let _request = tokio_test::assert_ready!(inner.poll_request());
    assert_eq!(counts(&guard), (1, 0));
    drop(response);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn an_inner_service_that_panics_after_the_wait_gives_the_place_back() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let mut service =
        layer(&guard).layer(tower::service_fn(|()| -> std::future::Ready<Result<(), Told>> {
            panic!("in call")
        }));
    let mut response = spawn(service.ready().await.unwrap().call(()));
    assert_pending!(response.poll());
    drop(permit);
    assert_eq!(panics(|| response.poll()), "in call");
    assert_at_rest(&guard);
    drop(response);
    assert_at_rest(&guard);
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_dropped_leaves_those_who_wait_theirs() {
    let guard = guard(1);
    let permit = guard.admit("search").unwrap();
    let mut response = wait(&guard, "search", 1);
    drop(guard);
    permit.finish(Class::Worked);
    assert_ready_ok!(response.poll());
}

#[tokio::test(start_paused = true)]
async fn the_inner_service_need_not_be_send() {
    let guard = guard(1);
    let not_send = Rc::new(5);
    let inner = tower::service_fn(move |()| {
        let not_send = Rc::clone(&not_send);
        async move { Ok::<_, Told>(not_send) }
    });
    assert_eq!(*layer(&guard).layer(inner).oneshot(()).await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_over_four_places_are_all_served() {
    let guard = builder(4).acquire_timeout(60 * SECOND).queue_limit(1_000).build().unwrap();
    let (guard, most) = (guard, std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let watched = guard.clone();
    let seen = std::sync::Arc::clone(&most);
    let inner = tower::service_fn(move |number: u32| {
        seen.fetch_max(watched.status().in_flight, std::sync::atomic::Ordering::Relaxed);
        async move {
            tokio::task::yield_now().await;
            Ok::<_, Told>(number)
        }
    });
    let service = GuardLayer::new(&guard, "search").queued().layer(inner);
    let tasks: Vec<_> =
        (0..1_000).map(|number| tokio::spawn(service.clone().oneshot(number))).collect();
    for (number, task) in (0..).zip(tasks) {
        assert_eq!(task.await.unwrap().unwrap(), number);
    }
    assert_eq!(most.load(std::sync::atomic::Ordering::Relaxed), 4);
    assert_eq!(endpoint(&guard, "search").admitted, 1_000);
    assert_at_rest(&guard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_at_any_moment_leave_nothing_behind() {
    let guard = builder(3).endpoint("slow", Budget::max(1)).build().unwrap();
    let tasks = (0..16_u64).map(|task| {
        let guard = guard.clone();
        tokio::spawn(async move {
            for round in 0..300_u64 {
                let endpoint = if (task + round) % 3 == 0 { "slow" } else { "search" };
                let patience = Duration::from_micros((task * 37 + round * 11) % 400);
                let call = async {
                    let permit = guard.wait(endpoint).await?;
                    tokio::task::yield_now().await;
                    permit.finish(Class::Worked);
                    Ok::<_, Rejection>(())
                };
                let _ = tokio::time::timeout(patience, call).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_at_rest(&guard);
    let all: Vec<_> = (0..3).map(|_| guard.admit("search").unwrap()).collect();
    drop(all);
}
