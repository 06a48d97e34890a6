//! What tower's users rely on, of both variants of the layer.

use std::cell::Cell;
use std::future::{pending, poll_fn, ready};
use std::rc::Rc;
use std::task::Poll;

use redis_guard::{Class, Error, Outcome};
use tokio_test::task::spawn;
use tokio_test::{
    assert_pending, assert_ready, assert_ready_eq, assert_ready_err, assert_ready_ok,
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::{assert_request_eq, mock};

use super::layer;
use crate::probes::{Strict, panics};
use crate::{Told, assert_at_rest, counts, endpoint, failed, guard};

#[tokio::test]
async fn it_is_ready_when_the_inner_service_is() {
    let guard = guard(1);
    let (mut service, mut inner) = mock::spawn_layer::<u32, u32, _>(layer(&guard));
    inner.allow(0);
    assert_pending!(service.poll_ready());
    assert_pending!(service.poll_ready());
    inner.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test]
async fn it_is_ready_however_many_calls_are_in_flight() {
    let guard = guard(1);
    let (mut service, _inner) = mock::spawn_layer::<u32, u32, _>(layer(&guard));
    let _permit = guard.admit("search").unwrap();
    assert_ready_ok!(service.poll_ready());
    guard.breaker().force_open();
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test]
async fn an_error_of_the_inner_readiness_is_passed_through() {
    let guard = guard(1);
    let (mut service, mut inner) = mock::spawn_layer::<u32, u32, _>(layer(&guard));
    inner.send_error("out of order");
    let error = assert_ready_err!(service.poll_ready());
    assert!(matches!(&error, Error::Inner(words) if words.to_string() == "out of order"));
    assert_ready_ok!(service.poll_ready());
    assert_at_rest(&guard);
}

#[tokio::test]
async fn requests_and_responses_pass_through() {
    let guard = guard(1);
    let (mut service, mut inner) = mock::spawn_layer::<_, _, _>(layer(&guard));
    assert_ready_ok!(service.poll_ready());
    let mut response = spawn(service.call("request"));
    assert_pending!(response.poll());
    assert_request_eq!(inner, "request").send_response("response");
    assert!(response.is_woken());
    assert_ready_eq!(response.poll().map(Result::unwrap), "response");
}

#[tokio::test]
async fn the_inner_service_is_called_only_once_it_was_found_ready_itself() {
    let guard = guard(1);
    let strict = Strict::default();
    let calls = strict.calls();
    let mut service = mock::Spawn::new(layer(&guard).layer(strict));
    for number in 0..10 {
        assert_ready_ok!(service.poll_ready());
        assert_ready_ok!(spawn(service.call(number)).poll());
    }
    assert_eq!(calls.get(), 10);
}

#[tokio::test]
async fn a_call_without_readiness_reaches_the_inner_service_as_one() {
    let guard = guard(1);
    let mut service = layer(&guard).layer(Strict::default());
    assert_eq!(panics(|| service.call(1)), "called without having been found ready");
    assert_at_rest(&guard);
}

#[tokio::test]
async fn a_clone_of_a_ready_service_asks_for_itself() {
    let guard = guard(2);
    let mut service = mock::Spawn::new(layer(&guard).layer(Strict::default()));
    assert_ready_ok!(service.poll_ready());
    let mut clone = service.clone();
    assert_eq!(panics(|| clone.call(1)), "called without having been found ready");
    assert_ready_ok!(clone.poll_ready());
    assert_ready_ok!(spawn(clone.call(1)).poll());
    assert_ready_ok!(spawn(service.call(2)).poll());
    assert_at_rest(&guard);
}

#[tokio::test]
async fn a_service_that_is_ready_and_never_called_holds_nothing() {
    let guard = guard(1);
    let mut kept = Vec::new();
    for _ in 0..100 {
        let mut service = mock::Spawn::new(layer(&guard).layer(Strict::default()));
        assert_ready_ok!(service.poll_ready());
        kept.push(service);
    }
    assert_at_rest(&guard);
    for service in &mut kept {
        assert_ready_ok!(spawn(service.call(1)).poll());
    }
}

#[tokio::test]
async fn a_response_dropped_before_its_first_poll_gives_its_place_back() {
    let guard = guard(1);
    let mut service = mock::Spawn::new(layer(&guard).layer(Strict::default()));
    for _ in 0..3 {
        assert_ready_ok!(service.poll_ready());
        let response = service.call(1);
        assert_eq!(counts(&guard), (1, 0));
        drop(response);
        assert_at_rest(&guard);
    }
}

#[tokio::test]
async fn a_response_dropped_while_it_is_pending_gives_its_place_back() {
    let guard = guard(1);
    let (mut service, mut inner) = mock::spawn_layer::<u32, u32, _>(layer(&guard));
    for _ in 0..3 {
        assert_ready_ok!(service.poll_ready());
        let mut response = spawn(service.call(1));
        assert_pending!(response.poll());
        let request = assert_ready!(inner.poll_request());
        assert_eq!(counts(&guard), (1, 0));
        drop(response);
        assert_at_rest(&guard);
        drop(request);
    }
    assert_eq!(endpoint(&guard, "search").admitted, 3);
}

#[tokio::test]
async fn a_response_that_is_ready_gives_its_place_back_at_once_though_it_is_kept() {
    let guard = guard(1);
    let mut service = mock::Spawn::new(layer(&guard).layer(Strict::default()));
    assert_ready_ok!(service.poll_ready());
    let mut response = spawn(service.call(1));
    assert_ready_ok!(response.poll());
    assert_at_rest(&guard);
    drop(response);
    assert_at_rest(&guard);
}

#[tokio::test]
async fn an_inner_service_that_panics_when_called_gives_the_place_back() {
    let guard = guard(1);
    let mut service = layer(&guard)
        .layer(service_fn(|()| -> std::future::Ready<Result<(), Told>> { panic!("in call") }));
    for _ in 0..3 {
        assert_eq!(panics(|| service.call(())), "in call");
        assert_at_rest(&guard);
    }
}

#[tokio::test]
async fn an_inner_future_that_panics_gives_the_place_back() {
    let guard = guard(1);
    let future = || poll_fn(|_| -> Poll<Result<(), Told>> { panic!("in poll") });
    let mut service = layer(&guard).layer(service_fn(move |()| future()));
    for _ in 0..3 {
        let mut response = spawn(service.call(()));
        assert_eq!(panics(|| response.poll()), "in poll");
        drop(response);
        assert_at_rest(&guard);
    }
}

#[tokio::test]
async fn a_classification_that_panics_gives_the_place_back() {
    let guard = guard(1);
    let layer = layer(&guard).classify(|_: &Result<u32, Told>| -> Class { panic!("in classify") });
    let mut service = mock::Spawn::new(layer.layer(Strict::default()));
    for _ in 0..3 {
        assert_ready_ok!(service.poll_ready());
        let mut response = spawn(service.call(1));
        assert_eq!(panics(|| response.poll()), "in classify");
        assert_at_rest(&guard);
    }
}

#[tokio::test]
async fn a_task_that_is_aborted_gives_its_place_back() {
    let guard = guard(1);
    let service = layer(&guard).layer(service_fn(|()| pending::<Result<(), Told>>()));
    let task = tokio::spawn(service.oneshot(()));
    while counts(&guard) != (1, 0) {
        tokio::task::yield_now().await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_at_rest(&guard);
}

#[tokio::test]
async fn the_inner_error_stays_itself() {
    let guard = guard(1);
    let told = Told(Class::Worked);
    let answer = Err::<(), _>(told.clone());
    let mut service = layer(&guard).layer(service_fn(move |()| ready(answer.clone())));
    let error = service.ready().await.unwrap().call(()).await.unwrap_err();
    assert!(matches!(&error, Error::Inner(inner) if *inner == told), "{error:?}");
    assert_eq!(error.to_string(), told.to_string());
    assert_at_rest(&guard);
}

#[tokio::test]
async fn an_inner_error_is_heard_and_a_response_clears_it() {
    let guard = guard(16);
    let fails = Rc::new(Cell::new(true));
    let inner = Rc::clone(&fails);
    let mut service = layer(&guard).layer(service_fn(move |()| {
        ready(if inner.get() { Err(Told(failed(Outcome::Timeout))) } else { Ok(()) })
    }));
    for _ in 0..4 {
        service.ready().await.unwrap().call(()).await.unwrap_err();
    }
    assert_eq!(guard.status().breaker.failures, 4);
    fails.set(false);
    service.ready().await.unwrap().call(()).await.unwrap();
    assert_eq!(guard.status().breaker.failures, 0);
}

#[tokio::test]
async fn of_a_response_that_is_dropped_nothing_is_learned() {
    let guard = guard(16);
    let mut service = layer(&guard)
        .layer(service_fn(|()| ready(Err::<(), _>(Told(failed(Outcome::MaxClients))))));
    for _ in 0..10 {
        drop(service.ready().await.unwrap().call(()));
    }
    let status = guard.status();
    assert_eq!((status.limit, status.breaker.failures), (16, 0));
    assert_at_rest(&guard);
}

#[tokio::test]
async fn an_open_breaker_refuses_and_leaves_the_inner_service_uncalled() {
    let guard = guard(16);
    let strict = Strict::default();
    let calls = strict.calls();
    let mut service = mock::Spawn::new(layer(&guard).layer(strict));
    guard.breaker().force_open();
    assert_ready_ok!(service.poll_ready());
    let refused = assert_ready_err!(spawn(service.call(1)).poll());
    assert_eq!((refused.reason(), calls.get()), ("breaker_open", 0));
    assert_at_rest(&guard);
    guard.breaker().auto();
    assert_ready_ok!(service.poll_ready());
    assert_ready_ok!(spawn(service.call(1)).poll());
}
