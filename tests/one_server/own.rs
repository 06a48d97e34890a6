//! What is a pool's own: its credentials, its database, an operator's override, or all of its gate.

use std::time::Duration;

use redis_guard::{Backoff, BreakerState, Event, GuardedPool, GuardedPoolBuilder};

use tokio::time::Instant;

use crate::proxy::Proxy;
use crate::support::{Auth, Resp, TestServer, Transport, dials};
use crate::waiting::{poll_once, ready, soon, until};

/// Under the shortest pause after a failure of a pool's own.
const AT_ONCE: Duration = Duration::from_millis(500);
use crate::{Callers, NEVER, WORDS, builder, full_server, never, rejected, transitions};

/// One pool that is let in, and one that is not.
struct Two {
    right: GuardedPool,
    wrong: GuardedPool,
}

impl Two {
    fn build(right: &str, wrong: &str, wrong_first: bool) -> Self {
        let build = |url: &str| {
            GuardedPool::builder(url).max_connections(4).acquire_timeout(NEVER).build().unwrap()
        };
        if wrong_first {
            let wrong = build(wrong);
            Self { right: build(right), wrong }
        } else {
            Self { right: build(right), wrong: build(wrong) }
        }
    }

    /// The wrong one fails its callers at once, in these words; the right one does not notice.
    async fn are_apart(&self, wrong_first: bool, words: &str) {
        let Self { right, wrong } = self;
        let (mut leases, begun) = (Vec::new(), Instant::now());
        if !wrong_first {
            leases.push(soon("the first", right.acquire("test")).await.unwrap());
        }
        for _ in 0..3 {
            let error = soon("an answer", wrong.acquire("test")).await.unwrap_err();
            assert_eq!(error.reason(), "connect_failed");
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.retry_after().is_some(), "{error}");
            leases.push(soon("the next", right.acquire("test")).await.unwrap());
        }

        let status = right.status();
        assert_eq!((status.breaker.state, status.breaker.failures), (BreakerState::Closed, 0));
        assert!(status.breaker.next_dial_in < AT_ONCE, "{:?}", status.breaker.next_dial_in);
        assert!(status.breaker.last_failure.is_none());
        assert_eq!(transitions(right), []);
        let tries = dials(wrong).values().sum::<u64>();
        assert!(tries <= 1 + begun.elapsed().as_secs(), "{tries} in {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_wrong_password_is_the_trouble_of_its_pool_alone() {
    let server = TestServer::builder().password("right").start().unwrap();
    let url = |password| server.url_with(Transport::Tcp, Resp::Resp2, Auth::Password(password), 0);
    for wrong_first in [true, false] {
        let two = Two::build(&url("right"), &url("wrong"), wrong_first);
        two.are_apart(wrong_first, "WRONGPASS").await;
    }
}

#[tokio::test]
async fn a_wrong_database_number_is_the_trouble_of_its_pool_alone() {
    let server = TestServer::start().unwrap();
    let url = |db| server.url_with(Transport::Tcp, Resp::Resp2, Auth::None, db);
    for wrong_first in [true, false] {
        let two = Two::build(&url(0), &url(99), wrong_first);
        two.are_apart(wrong_first, "DB index is out of range").await;
    }
}

/// The pool's own schedule says when, whatever the others do.
#[tokio::test]
async fn a_dial_of_another_pool_is_no_reason_to_ask_again_sooner_with_a_wrong_password() {
    let server = TestServer::builder().password("right").start().unwrap();
    let proxy = Proxy::start(&server).await;
    let at = proxy.url().replace("redis://", "");
    let pool = |password| {
        let url = format!("redis://:{password}@{at}");
        GuardedPool::builder(url).acquire_timeout(NEVER).connect_timeout(NEVER).build().unwrap()
    };
    let (right, wrong) = (pool("right"), pool("wrong"));
    let failed = Instant::now();
    soon("an answer", wrong.acquire("test")).await.unwrap_err();
    proxy.mute_new();
    let mut waiter = Box::pin(right.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    until("the dial", &right, || right.status().dialing == 1).await;

    let told = ready(wrong.acquire("test")).expect("told on the first poll").unwrap_err();

    // What nobody has mended is tried again after a second, or more.
    let own = Duration::from_secs(1).saturating_sub(failed.elapsed());
    assert!(told.retry_after().is_some_and(|wait| wait >= own), "{own:?}, but told: {told}");
}

#[tokio::test]
async fn a_dial_of_another_pool_is_no_reason_to_ask_again_sooner_where_it_is_forced_open() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    let build = || {
        let builder = GuardedPool::builder(proxy.url()).acquire_timeout(NEVER);
        builder.connect_timeout(NEVER).build().unwrap()
    };
    let (held, other) = (build(), build());
    held.breaker().force_open();
    proxy.mute_new();
    let mut waiter = Box::pin(other.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    until("the dial", &other, || other.status().dialing == 1).await;

    let told = ready(held.acquire("test")).expect("told on the first poll").unwrap_err();

    // Nobody knows when, so the pace is the back-off's slowest.
    let pace = Backoff::default().cap();
    assert_eq!(told.retry_after(), Some(pace), "{told}");
}

/// Two pools at one server.
fn two(
    server: &TestServer,
    with: fn(GuardedPoolBuilder) -> GuardedPoolBuilder,
) -> [GuardedPool; 2] {
    [(); 2].map(|()| with(builder(server).max_connections(4)).build().unwrap())
}

#[tokio::test]
async fn force_open_holds_one_pool_and_the_other_dials() {
    let server = TestServer::start().unwrap();
    let [held, other] = two(&server, |builder| builder);
    let mut events = other.events();

    held.breaker().force_open();

    let error = ready(held.acquire("test")).expect("told on the first poll").unwrap_err();
    assert_eq!(error.reason(), "breaker_open");
    let _lease = soon("a connection", other.acquire("test")).await.unwrap();
    assert_eq!(other.breaker().state(), BreakerState::Closed);
    assert_eq!(transitions(&held), [(("closed", "open"), 1)]);
    assert_eq!(transitions(&other), []);
    drop(other);
    while let Some(Some(event)) = ready(events.next()) {
        assert!(!matches!(event, Event::BreakerChanged { .. }), "{event:?}");
    }
}

/// It would have been its turn first.
#[tokio::test]
async fn a_pool_that_is_forced_open_while_it_waits_for_its_turn_leaves_it_to_the_other() {
    let server = full_server();
    let occupants = server.fill();
    let pace = Duration::from_secs(1);
    let [held, other] = [(); 2].map(|()| {
        let backoff = Backoff::without_jitter(pace, pace);
        builder(&server).backoff(backoff).build().unwrap()
    });
    soon("the refusal", held.acquire("test")).await.unwrap_err();
    soon("the words", other.acquire("test")).await.unwrap_err();

    held.breaker().force_open();
    occupants.free();

    until("the other's dial", &other, || other.status().live == 1).await;
    assert_eq!(held.status().live, 0);
}

#[tokio::test]
async fn force_closed_lets_the_callers_of_one_pool_wait_and_those_of_the_other_hear_no() {
    let server = full_server();
    let _occupants = server.fill();
    let patience = Duration::from_millis(50);
    let [waits, other] = [patience, NEVER].map(|patience| {
        builder(&server).acquire_timeout(patience).backoff(never()).build().unwrap()
    });
    soon("the refusal", other.acquire("test")).await.unwrap_err();

    waits.breaker().force_closed();

    let error = soon("its patience", waits.acquire("test")).await.unwrap_err();
    assert_eq!(error.reason(), "acquire_timeout");
    assert!(error.to_string().contains(WORDS), "{error}");
    let error = ready(other.acquire("test")).expect("told on the first poll").unwrap_err();
    assert_eq!(error.reason(), "breaker_open");
    assert_eq!(waits.breaker().state(), BreakerState::Closed);
    assert_eq!(other.breaker().state(), BreakerState::Open);
    assert_eq!(rejected(&server), 2, "what filled it, and one dial for both");
}

#[tokio::test]
async fn auto_gives_one_pool_back_what_all_have_learned_meanwhile() {
    let server = full_server();
    let _occupants = server.fill();
    let [forced, other] = two(&server, |builder| builder.backoff(never()));
    let mut events = other.events();
    forced.breaker().force_closed();
    soon("the refusal", other.acquire("test")).await.unwrap_err();
    assert_eq!(forced.breaker().state(), BreakerState::Closed);

    forced.breaker().auto();

    assert_eq!(forced.breaker().state(), BreakerState::Open);
    let error = ready(forced.acquire("test")).expect("told on the first poll").unwrap_err();
    assert!(error.to_string().contains(WORDS), "{error}");
    assert_eq!(transitions(&forced), [(("closed", "open"), 1)]);
    assert_eq!(transitions(&other), [(("closed", "open"), 1)]);
    let mut changes = 0;
    while let Some(Some(event)) = ready(events.next()) {
        changes += usize::from(matches!(event, Event::BreakerChanged { .. }));
    }
    assert_eq!(changes, 1, "the other's own");
}

#[tokio::test]
async fn a_refusal_of_a_pool_with_a_gate_of_its_own_does_not_touch_the_others() {
    let server = full_server();
    let [shares, other] = two(&server, |builder| builder.watch(false));
    let alone = builder(&server).own_gate(true).watch(false).backoff(never()).build().unwrap();
    shares.warm_up(1).await.unwrap();
    let occupants = server.fill();
    soon("the refusal", alone.acquire("test")).await.unwrap_err();
    occupants.free();

    // Neither the one with a connection nor the one without waits for anything.
    let _lease = soon("what is there", shares.acquire("test")).await.unwrap();
    let _second = soon("growth", shares.acquire("test")).await.unwrap();
    let _first = soon("a connection", other.acquire("test")).await.unwrap();
    assert_eq!(alone.breaker().state(), BreakerState::Open);
    for pool in [&shares, &other] {
        assert_eq!(transitions(pool), []);
        assert!(pool.status().breaker.last_failure.is_none());
    }
}

#[tokio::test]
async fn a_refusal_of_the_others_does_not_touch_a_pool_with_a_gate_of_its_own() {
    let server = full_server();
    let [one, other] = two(&server, |builder| builder.watch(false).backoff(never()));
    let alone = builder(&server).own_gate(true).watch(false).build().unwrap();
    alone.warm_up(1).await.unwrap();
    let occupants = server.fill();
    soon("the refusal", one.acquire("test")).await.unwrap_err();
    soon("the words", other.acquire("test")).await.unwrap_err();
    occupants.free();

    let _lease = soon("what is there", alone.acquire("test")).await.unwrap();
    let _second = soon("growth", alone.acquire("test")).await.unwrap();
    assert_eq!(transitions(&alone), []);
    assert_eq!(one.breaker().state(), BreakerState::Open);
    assert_eq!(one.status().live + other.status().live, 0);
}

/// It is not told by the others when to dial, so it learns that the server is full by itself.
#[tokio::test]
async fn a_pool_with_a_gate_of_its_own_dials_by_itself_into_a_full_server() {
    let server = full_server();
    let _occupants = server.fill();
    let before = rejected(&server);
    let pools = [false, false, true, true]
        .map(|own| builder(&server).own_gate(own).backoff(never()).build().unwrap());

    let callers: Vec<_> = pools.iter().map(|pool| Callers::of(pool, 2, AT_ONCE)).collect();
    let has_heard = |callers: &Callers| callers.heard.lock().unwrap().len() >= 10;
    until("answers for all", &pools[0], || callers.iter().all(has_heard)).await;

    assert_eq!(rejected(&server) - before, 3, "one for the two that share, one for each other");
}
