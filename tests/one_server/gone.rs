//! A pool that goes, or stands still, while it is its turn, holds nobody up.

use std::time::Duration;

use redis_guard::{Backoff, GuardedConnection, GuardedPool, GuardedPoolBuilder};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::proxy::Proxy;
use crate::support::{Occupants, TestServer, ask_until_served};
use crate::waiting::{HANG, poll_once, soon, until};
use crate::{NEVER, builder, full_server, own_runtime};

/// Between two dials at the full server.
const PACE: Duration = Duration::from_secs(1);

fn paced(server: &TestServer) -> GuardedPoolBuilder {
    builder(server).watch(false).backoff(Backoff::without_jitter(PACE, PACE))
}

/// Runs it there, until it is done; the runtime stands still then.
async fn run_on<T: Send + 'static>(
    runtime: Runtime,
    future: impl Future<Output = T> + Send + 'static,
) -> (T, Runtime) {
    let running = tokio::task::spawn_blocking(move || (runtime.block_on(future), runtime));
    soon("what runs there", running).await.unwrap()
}

/// A caller of `first` was refused, and then one of `other`: the next dial is the first one's, on a
/// runtime of its own, and the one after it the other's.
async fn in_turn(first: &GuardedPool, other: &GuardedPool) -> Runtime {
    let asks = first.clone();
    let ask = async move { drop(asks.acquire("test").await.unwrap_err()) };
    let ((), runtime) = run_on(own_runtime(), ask).await;
    soon("the words", other.acquire("test")).await.unwrap_err();
    runtime
}

/// There is room now, and the other pool gets it; after how long.
async fn is_served(other: &GuardedPool, occupants: Occupants<'_>) {
    occupants.free();
    let due = other.status().breaker.next_dial_in;
    let begun = Instant::now();
    until("its dial", other, || other.status().live == 1).await;
    println!("{:?} after it was due", begun.elapsed().saturating_sub(due));
}

#[tokio::test]
async fn a_pool_that_is_dropped_while_it_is_its_turn_holds_nobody_up() {
    let server = full_server();
    let occupants = server.fill();
    let (first, other) = (paced(&server).build().unwrap(), paced(&server).build().unwrap());
    soon("the refusal", first.acquire("test")).await.unwrap_err();
    soon("the words", other.acquire("test")).await.unwrap_err();

    drop(first);

    is_served(&other, occupants).await;
}

#[tokio::test]
async fn a_pool_whose_runtime_is_shut_down_while_it_is_its_turn_holds_nobody_up() {
    let server = full_server();
    let occupants = server.fill();
    let (first, other) = (paced(&server).build().unwrap(), paced(&server).build().unwrap());
    let runtime = in_turn(&first, &other).await;

    runtime.shutdown_background();

    is_served(&other, occupants).await;
    assert_eq!(first.status().live, 0);
}

#[tokio::test]
async fn a_pool_whose_runtime_stands_still_while_it_is_its_turn_holds_nobody_up() {
    let server = full_server();
    let occupants = server.fill();
    let (first, other) = (paced(&server).build().unwrap(), paced(&server).build().unwrap());
    let runtime = in_turn(&first, &other).await;

    is_served(&other, occupants).await;

    assert_eq!(first.status().live, 0);
    runtime.shutdown_background();
}

/// A pool at a server that answers nobody yet, with a dial under way there on a runtime of its own.
async fn in_flight(proxy: &Proxy, connect_timeout: Duration) -> (GuardedPool, Runtime) {
    let builder = GuardedPool::builder(proxy.url()).watch(false).acquire_timeout(NEVER);
    let pool = builder.connect_timeout(connect_timeout).build().unwrap();
    let asks = pool.clone();
    let ask = async move {
        let mut waiter = Box::pin(asks.acquire("test"));
        assert!(poll_once(&mut waiter).is_pending());
        until("the dial", &asks, || asks.status().dialing == 1).await;
        // Its socket is open.
        sleep(Duration::from_millis(20)).await;
    };
    let ((), runtime) = run_on(own_runtime(), ask).await;
    (pool, runtime)
}

#[tokio::test]
async fn a_dial_whose_runtime_is_shut_down_holds_nobody_up() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    proxy.go_silent();
    let (first, runtime) = in_flight(&proxy, NEVER).await;
    let other = GuardedPool::builder(proxy.url()).watch(false).acquire_timeout(NEVER);
    let other = other.build().unwrap();
    let mut waiter = Box::pin(other.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());

    runtime.shutdown_background();
    proxy.speak_again();

    soon("the other's dial", waiter).await.unwrap();
    assert_eq!(first.status().dialing, 0);
}

#[tokio::test]
async fn a_dial_whose_pool_is_dropped_holds_nobody_up() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    proxy.go_silent();
    let build = || {
        let builder = GuardedPool::builder(proxy.url()).watch(false).acquire_timeout(NEVER);
        builder.connect_timeout(NEVER).build().unwrap()
    };
    let (first, other) = (build(), build());
    let mut waits = Box::pin(first.acquire("test"));
    assert!(poll_once(&mut waits).is_pending());
    until("the dial", &first, || first.status().dialing == 1).await;
    let mut waiter = Box::pin(other.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());

    drop((waits, first));
    proxy.speak_again();

    soon("the other's dial", waiter).await.unwrap();
}

/// It is given up a second after its connect timeout.
#[tokio::test]
async fn a_dial_whose_runtime_stands_still_holds_nobody_up_for_longer_than_it_may_take() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    proxy.go_silent();
    let (first, runtime) = in_flight(&proxy, Duration::from_secs(2)).await;
    let other = GuardedPool::builder(proxy.url()).watch(false).acquire_timeout(NEVER);
    let other = other.build().unwrap();
    proxy.speak_again();

    soon("the other's dial", other.acquire("test")).await.unwrap();

    assert_eq!(first.status().dialing, 1, "nobody there has noticed");
    runtime.shutdown_background();
}

/// How long the server takes to answer a dial: growth then leaves three times as much.
const SLOW: Duration = Duration::from_secs(2);

fn caller(pool: &GuardedPool) -> JoinHandle<GuardedConnection> {
    let lease = pool.acquire("test");
    tokio::spawn(async { lease.await.unwrap() })
}

/// What it has closed at the full server was a slot for a dial of its own, which nobody makes now.
#[tokio::test]
async fn a_pool_that_was_closed_while_the_server_was_full_leaves_the_others_awake() {
    let server = full_server();
    let proxy = Proxy::start(&server).await;
    let build = || {
        let builder = GuardedPool::builder(proxy.url()).watch(false).acquire_timeout(NEVER);
        builder.connect_timeout(HANG).build().unwrap()
    };
    let (first, other) = (build(), build());
    let lease = first.acquire("test").await.unwrap();
    let occupants = server.fill();
    let mut waiter = Box::pin(first.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    until("the refusal", &first, || first.status().limit == 1).await;
    drop((waiter, lease));
    soon("the end", first.close()).await;
    occupants.free();

    // As after a second one whose dial was slow: the next is due much later, until all is lost.
    let _first = ask_until_served(&other).await;
    proxy.go_silent();
    let (second, third) = (caller(&other), caller(&other));
    until("the dial", &other, || other.status().dialing == 1).await;
    sleep(SLOW).await;
    proxy.speak_again();
    until("the second", &other, || other.status().live == 2).await;
    until("its lease", &other, || second.is_finished() || third.is_finished()).await;
    let last = if second.is_finished() { third } else { second };
    assert!(other.status().breaker.next_dial_in > SLOW, "{:#?}", other.status());

    server.admin().text(&["CLIENT", "KILL", "TYPE", "normal"]);
    let killed = Instant::now();

    soon("the third lease", last).await.unwrap();
    assert!(killed.elapsed() < SLOW, "only after {:?}", killed.elapsed());
}
