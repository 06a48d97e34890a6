//! The layer that admits or refuses at once.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use redis_guard::tower::{GuardLayer, GuardService};
use redis_guard::{Budget, Endpoint, Error, Guard, Rejection};
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::{Layer, Service, ServiceExt};
use tower_test::mock;

use crate::probes::{Borrowing, Strict};
use crate::{Told, assert_at_rest, builder, counts, endpoint, guard};

#[path = "contract.rs"]
mod contract;

fn layer(guard: &Guard) -> GuardLayer {
    GuardLayer::new(guard, "search")
}

#[tokio::test]
async fn the_inner_service_and_its_future_need_not_be_clone_or_send_or_live_for_ever() {
    let guard = guard(2);
    let calls = Rc::new(Cell::new(0));
    let request = String::from("borrowed");
    let mut service = layer(&guard).layer(Borrowing(&calls));

    let mut response = spawn(service.call(request.as_str()));

    let (words, same) = assert_ready_ok!(response.poll());
    assert_eq!((words, same.get()), ("borrowed", 1));
}

#[tokio::test]
async fn a_refused_call_is_told_on_the_first_poll_and_leaves_the_inner_service_uncalled() {
    let guard = guard(1);
    let strict = Strict::default();
    let calls = strict.calls();
    let mut service = mock::Spawn::new(layer(&guard).layer(strict));
    let permit = guard.admit("search").unwrap();

    assert_ready_ok!(service.poll_ready());
    let Error::Rejected(rejection) = assert_ready_err!(spawn(service.call(1)).poll()) else {
        panic!("not refused")
    };

    assert_eq!((rejection.reason(), calls.get()), ("acquire_timeout", 0));
    drop(permit);
    assert_at_rest(&guard);
}

#[tokio::test]
async fn the_call_after_a_refused_one_works() {
    let guard = guard(1);
    let mut service = mock::Spawn::new(layer(&guard).layer(Strict::default()));
    for number in 0..3 {
        let permit = guard.admit("search").unwrap();
        assert_ready_ok!(service.poll_ready());
        assert_ready_err!(spawn(service.call(number)).poll());
        drop(permit);
        assert_ready_ok!(service.poll_ready());
        assert_eq!(assert_ready_ok!(spawn(service.call(number)).poll()), number);
    }
    assert_at_rest(&guard);
}

#[tokio::test]
async fn what_the_inner_service_reserved_for_a_refused_call_serves_the_next_one() {
    let guard = guard(1);
    let (mut service, mut inner) = mock::spawn_layer::<u32, u32, _>(layer(&guard));
    inner.allow(1);
    let permit = guard.admit("search").unwrap();
    assert_ready_ok!(service.poll_ready());
    assert_ready_err!(spawn(service.call(1)).poll());
    drop(permit);

    assert_ready_ok!(service.poll_ready());
    let mut response = spawn(service.call(2));

    assert_pending!(response.poll());
    let (request, respond) = assert_ready!(inner.poll_request()).unwrap();
    respond.send_response(request);
    assert_eq!(assert_ready_ok!(response.poll()), 2);
}

#[tokio::test]
async fn a_refused_response_that_is_never_polled_is_counted_all_the_same() {
    let guard = guard(1);
    let mut service = layer(&guard).layer(Strict::default());
    let permit = guard.admit("search").unwrap();
    drop(service.ready().await.unwrap().call(1));
    drop(permit);
    assert_eq!(endpoint(&guard, "search").rejected, [("acquire_timeout", 1)].into());
    assert_at_rest(&guard);
}

#[tokio::test]
async fn the_endpoint_may_be_read_off_the_request() {
    let guard = builder(4).endpoint("odd", Budget::max(1)).build().unwrap();
    let by_request = GuardLayer::by_request(
        &guard,
        |request: &u32| {
            if request % 2 == 1 { "odd" } else { "even" }
        },
    );
    let mut service = by_request.layer(Strict::default());
    let running: Vec<_> = [1, 2, 4].map(|number| call(&mut service, number)).into();

    let refused = assert_ready_err!(spawn(call(&mut service, 3)).poll());

    let Error::Rejected(Rejection::BudgetExhausted { endpoint: at, max, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((at, max), (Endpoint::from("odd"), 1));
    assert_eq!((endpoint(&guard, "odd").in_flight, endpoint(&guard, "even").in_flight), (1, 2));
    drop(running);
    assert_at_rest(&guard);
}

fn call<N, C>(
    service: &mut GuardService<Strict, N, C>,
    number: u32,
) -> <GuardService<Strict, N, C> as Service<u32>>::Future
where
    GuardService<Strict, N, C>: Service<u32>,
{
    let ready = spawn(()).enter(|cx, _| service.poll_ready(cx).is_ready());
    assert!(ready);
    service.call(number)
}

#[tokio::test]
async fn a_closure_that_names_the_endpoint_and_panics_takes_no_place() {
    let guard = guard(1);
    let by_request =
        GuardLayer::by_request(&guard, |_: &u32| -> &'static str { panic!("unnamed") });
    let mut service = by_request.layer(Strict::default());
    let words = crate::probes::panics(|| call(&mut service, 1));
    assert_eq!((words, counts(&guard)), ("unnamed", (0, 0)));
}

#[tokio::test]
async fn the_services_of_one_layer_share_its_guard() {
    let guard = guard(1);
    let layer = layer(&guard);
    let (mut one, mut other) = (layer.layer(Strict::default()), layer.layer(Strict::default()));
    let running = call(&mut one, 1);
    assert_ready_err!(spawn(call(&mut other, 2)).poll());
    drop(running);
    assert_ready_ok!(spawn(call(&mut other, 2)).poll());
}

#[tokio::test]
async fn a_guard_within_a_guard_is_told_apart() {
    let (outer, inner) = (guard(2), guard(1));
    let mut service = layer(&outer).layer(layer(&inner).layer(Strict::default()));
    let permit = inner.admit("search").unwrap();
    let told = service.ready().await.unwrap().call(1).await.unwrap_err();
    assert!(matches!(told, Error::Inner(Error::<Told>::Rejected(_))), "{told:?}");
    drop(permit);
    assert_eq!(outer.status().limit, 2, "a refusal on this side says nothing about the server");
    assert_at_rest(&outer);
    assert_at_rest(&inner);
}

#[tokio::test]
async fn the_inner_service_is_at_hand() {
    let guard = guard(1);
    let mut service = layer(&guard).layer(Strict::default());
    assert_eq!(service.get_ref().calls().get(), 0);
    assert!(matches!(assert_ready_of(service.get_mut()), Poll::Ready(Ok(()))));
    assert_eq!(service.into_inner().calls().get(), 0);
}

fn assert_ready_of(strict: &mut Strict) -> Poll<Result<(), Told>> {
    spawn(()).enter(|cx, _| strict.poll_ready(cx))
}
