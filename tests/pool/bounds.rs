//! Warming up and checking end in bounded time, whatever the server does.

use std::time::Duration;

use redis_guard::GuardedPool;
use tokio::runtime::{Builder, Runtime};

use crate::fake::Fake;
use crate::pair_with;
use crate::support::TestServer;
use crate::waiting::{HANG, cmd, poll_once, soon, until};

const SHORT: Duration = Duration::from_millis(200);
const NEVER: Duration = Duration::from_secs(3600);

/// The limit stays at the floor until the server has said how full it is.
#[tokio::test]
async fn a_warm_up_ends_although_the_server_never_says_how_full_it_is() {
    let fake = Fake::start("").await;
    fake.replies("-ERR try again later\r\n");
    let pool = GuardedPool::builder(fake.url()).max_connections(8).acquire_timeout(SHORT);
    let pool = pool.connect_timeout(SHORT).response_timeout(SHORT).build().unwrap();

    match soon("the warm-up", pool.warm_up(8)).await {
        Ok(live) => assert!(live >= 2),
        Err(error) => assert_eq!(error.reason(), "acquire_timeout", "{error}"),
    }
}

#[tokio::test]
async fn a_warm_up_ends_although_the_server_does_not_answer_when_asked_how_full_it_is() {
    let fake = Fake::start("").await;
    fake.hold_info(true);
    let pool = GuardedPool::builder(fake.url()).max_connections(8).acquire_timeout(SHORT);
    let pool = pool.connect_timeout(SHORT).response_timeout(SHORT).build().unwrap();

    match soon("the warm-up", pool.warm_up(8)).await {
        Ok(live) => assert!(live >= 2),
        Err(error) => assert_eq!(error.reason(), "acquire_timeout", "{error}"),
    }
}

/// A dial may take as long as the connect timeout; whoever asks after the pool's health does not.
#[tokio::test]
async fn a_check_of_a_server_that_accepts_and_says_nothing_ends_with_the_acquire_timeout() {
    let (server, pool) = pair_with(1, |builder| {
        builder.acquire_timeout(SHORT).response_timeout(SHORT).connect_timeout(NEVER)
    });
    server.pause();

    let error = soon("the check", pool.health()).await.unwrap_err();

    assert_eq!(error.reason(), "acquire_timeout", "{error}");
}

#[tokio::test]
async fn a_check_ends_while_the_breaker_is_held_open() {
    let (_server, pool) = pair_with(1, |builder| builder.acquire_timeout(SHORT));
    pool.breaker().force_open();

    let error = soon("the check", pool.health()).await.unwrap_err();

    assert_eq!(error.reason(), "breaker_open", "{error}");
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The runtime that was dialing ends, and with it the dial. Somebody else's call is still waiting.
fn outlives_the_dialers_runtime(what: &str, call: impl AsyncFn(&GuardedPool)) {
    let server = TestServer::start().unwrap();
    let pool = GuardedPool::builder(server.url()).acquire_timeout(HANG).build().unwrap();
    server.pause();
    let (first, second) = (runtime(), runtime());
    first.block_on(async {
        let mut caller = Box::pin(pool.acquire("test"));
        assert!(poll_once(&mut caller).is_pending());
        until("the dial", &pool, || pool.status().dialing == 1).await;
    });

    second.block_on(async {
        let mut waiting = Box::pin(call(&pool));
        assert!(poll_once(&mut waiting).is_pending());
        first.shutdown_background();
        assert_eq!(pool.status().dialing, 0);
        server.resume();
        soon(what, waiting).await;
    });
}

#[test]
fn a_check_is_made_although_the_runtime_that_dialed_for_it_has_ended() {
    outlives_the_dialers_runtime("the check", async |pool| {
        pool.health().await.unwrap();
    });
}

#[test]
fn a_warm_up_goes_on_although_the_runtime_that_dialed_for_it_has_ended() {
    outlives_the_dialers_runtime("the warm-up", async |pool| {
        assert_eq!(pool.warm_up(1).await.unwrap(), 1);
    });
}

#[test]
fn a_lease_is_had_although_the_runtime_that_dialed_for_it_has_ended() {
    outlives_the_dialers_runtime("the lease", async |pool| {
        let mut lease = pool.acquire("test").await.unwrap();
        let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
    });
}
