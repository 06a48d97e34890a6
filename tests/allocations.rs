//! The accept path of the tower layer does not allocate.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use redis_guard::tower::{Classify, EndpointOf, GuardLayer, GuardService};
use redis_guard::{Budget, Guard};
use tower::{Layer, Service, service_fn};

type Answer = Result<u32, Infallible>;

fn answer(number: u32) -> Ready<Answer> {
    ready(Ok(number))
}

/// A call from readiness to response.
fn call<S, N, C>(service: &mut GuardService<S, N, C>) -> u32
where
    S: Service<u32, Response = u32, Error = Infallible>,
    N: EndpointOf<u32>,
    C: Classify<Answer> + Clone,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    match pin!(service.call(1)).poll(&mut cx) {
        Poll::Ready(Ok(number)) => number,
        Poll::Ready(Err(error)) => panic!("{error}"),
        Poll::Pending => panic!("not ready"),
    }
}

/// How often a thousand calls allocate, after a first one that may.
fn allocations<S, N, C>(mut service: GuardService<S, N, C>) -> u64
where
    S: Service<u32, Response = u32, Error = Infallible>,
    N: EndpointOf<u32>,
    C: Classify<Answer> + Clone,
{
    call(&mut service);
    let counted = allocation_counter::measure(|| {
        for _ in 0..1_000 {
            call(&mut service);
        }
    });
    counted.count_total
}

fn guard() -> Guard {
    Guard::builder().endpoint("search", Budget::max(8).reserve(2)).build().unwrap()
}

#[test]
fn the_measure_sees_an_allocation() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1_u32))));
    assert_eq!(counted.count_total, 1);
}

#[tokio::test]
async fn an_accepted_call_of_a_fixed_endpoint_allocates_nothing() {
    let layer = GuardLayer::new(&guard(), "search");
    assert_eq!(allocations(layer.layer(service_fn(answer))), 0);
}

#[test]
fn nor_does_it_without_a_runtime() {
    let layer = GuardLayer::new(&guard(), "search");
    assert_eq!(allocations(layer.layer(service_fn(answer))), 0);
}

#[tokio::test]
async fn an_accepted_call_whose_endpoint_is_read_off_the_request_allocates_nothing() {
    let layer = GuardLayer::by_request(&guard(), |_: &u32| "search");
    assert_eq!(allocations(layer.layer(service_fn(answer))), 0);
}

#[tokio::test]
async fn a_queued_layer_with_room_allocates_nothing() {
    let mut service = GuardLayer::new(&guard(), "search").queued().layer(service_fn(answer));
    let mut cx = Context::from_waker(Waker::noop());
    let mut call = || {
        assert!(service.poll_ready(&mut cx).is_ready());
        assert!(pin!(service.call(1)).poll(&mut cx).is_ready());
    };
    call();
    assert_eq!(allocation_counter::measure(|| (0..1_000).for_each(|_| call())).count_total, 0);
}
