//! A server without a free slot, or none at all: what those hear who want a lease, and those who have one.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::redis::Value;
use redis_guard::{Backoff, GuardedPool, GuardedPoolBuilder, Outcome, Phase, Rejection};
use tokio::time::sleep;

use crate::support::{TestServer, dials, unhurried};
use crate::waiting::{HANG, ready, soon, until};
use crate::{NAME, ask, calls, connections, endpoint, kill, lane_id, lease, leases, refused, send};

const WORDS: &str = "max number of clients reached";
/// An acquire timeout that ends while a test looks on.
const SHORT: Duration = Duration::from_millis(300);

fn server() -> TestServer {
    TestServer::builder().maxclients(16).start().unwrap()
}

/// A pool as a service has it, with its back-off of 50 ms and more.
fn builder(server: &TestServer) -> GuardedPoolBuilder {
    unhurried(server.url()).max_connections(8).client_name(NAME).multiplex(true)
}

/// A pool that dials once and no more.
fn patient(server: &TestServer) -> GuardedPool {
    builder(server).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap()
}

fn rejected(server: &TestServer) -> u64 {
    server.admin().info_u64("rejected_connections")
}

#[tokio::test]
async fn cold_whoever_wants_a_lease_hears_the_servers_words_and_the_time_to_wait() {
    let server = server();
    let _occupants = server.fill();
    let pool = builder(&server).build().unwrap();

    let error = soon("the answer", pool.acquire("search")).await.unwrap_err();

    let Some(Rejection::BreakerOpen { retry_after, failure, .. }) = error.rejection() else {
        panic!("{error:?}")
    };
    let failure = failure.as_deref().expect("the dial's failure");
    assert_eq!(
        (failure.outcome, failure.message.as_str()),
        (Outcome::MaxClients, &*format!("ERR {WORDS}"))
    );
    assert!(*retry_after > Duration::ZERO && *retry_after <= Duration::from_millis(100));
    assert_eq!(leases(&pool, "search"), (0, 0));
}

#[tokio::test]
async fn cold_64_callers_that_come_at_once_cost_one_refused_dial_and_those_after_none() {
    let server = server();
    let _occupants = server.fill();
    let pool = patient(&server);
    let before = rejected(&server);

    let callers = join_all((0..64).map(|_| pool.acquire("search")));
    let told = soon("64 answers", callers).await;
    for _ in 0..1_000 {
        let told = ready(pool.acquire("search")).expect("told on the first poll").unwrap_err();
        assert_eq!(told.reason(), "breaker_open");
    }

    assert!(told.iter().all(|told| told.as_ref().is_err_and(|e| e.to_string().contains(WORDS))));
    assert_eq!(rejected(&server) - before, 1);
    assert_eq!(endpoint(&pool, "search").rejected, [("breaker_open", 1_064)].into());
    assert_eq!(leases(&pool, "search"), (0, 0));
}

#[tokio::test]
async fn cold_try_acquire_waits_for_nobody_and_has_one_dialed() {
    let server = server();
    let occupants = server.fill();
    let pool = builder(&server).build().unwrap();

    let told = pool.try_acquire("search").unwrap_err();
    let Some(Rejection::AcquireTimeout { waited, phase, .. }) = told.rejection() else {
        panic!("{told:?}")
    };
    assert_eq!((*waited, *phase), (Duration::ZERO, Phase::Dial));
    until("a refused dial", &pool, || dials(&pool).contains_key("max_clients")).await;
    let told = pool.try_acquire("search").unwrap_err();
    assert_eq!(told.reason(), "breaker_open", "{told}");
    occupants.free();

    let trying = async {
        loop {
            match pool.try_acquire("search") {
                Ok(lease) => break lease,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        }
    };
    let mut lease = soon("a lease", trying).await;
    assert_eq!(ask::<String>(&mut lease, "PING").await, "PONG");
    assert_eq!(leases(&pool, "search"), (1, 0));
}

/// With the lane live nobody is refused, and what needs a connection waits for one as long as an acquire would.
#[tokio::test]
async fn warm_leases_work_and_a_connection_that_cannot_be_had_is_an_error_of_its_command() {
    let server = server();
    let pool = builder(&server).acquire_timeout(SHORT).build().unwrap();
    let (mut first, mut other) = (lease(&pool, "search").await, lease(&pool, "search").await);
    let _occupants = server.fill();
    let waiting = tokio::spawn(async move { other.make_exclusive().await });
    until("a refused dial", &pool, || dials(&pool).contains_key("max_clients")).await;
    soon("the answer", waiting).await.unwrap().unwrap_err();

    for line in ["MULTI", "BLPOP list 0", "WATCH key"] {
        let told = refused(&mut first, line).await;
        assert!(told.to_string().contains("no connection after"), "{line}: {told}");
        assert!(told.to_string().contains(WORDS), "{line}: {told}");
        assert_eq!(ask::<String>(&mut first, "PING").await, "PONG");
    }

    assert_eq!([calls(&server, "multi"), calls(&server, "blpop"), calls(&server, "watch")], [0; 3]);
    let mut second = lease(&pool, "search").await;
    assert_eq!(ask::<String>(&mut second, "PING").await, "PONG");
    assert_eq!((leases(&pool, "search"), connections(&server)), ((2, 0), 1));
}

#[tokio::test]
async fn warm_a_transaction_runs_as_soon_as_there_is_room() {
    let server = server();
    let pool = builder(&server).build().unwrap();
    let mut lease = lease(&pool, "search").await;
    let occupants = server.fill();
    let waiting = tokio::spawn(async move { (send(&mut lease, "MULTI").await, lease) });
    until("a refused dial", &pool, || dials(&pool).contains_key("max_clients")).await;

    occupants.free();

    let (told, mut lease) = soon("MULTI", waiting).await.unwrap();
    assert_eq!(told.unwrap(), Value::Okay);
    assert_eq!(ask::<Vec<Value>>(&mut lease, "EXEC").await, []);
}

/// The lease is there, and nothing to send on: as for everybody.
#[tokio::test]
async fn a_lease_whose_lane_has_died_hears_that_the_server_is_full() {
    let server = server();
    let pool = patient(&server);
    let mut lease = lease(&pool, "search").await;
    let mut occupants = server.fill();
    pool.breaker().force_open();
    kill(&server, lane_id(&server));
    until("nothing live", &pool, || pool.status().live == 0).await;
    occupants.top_up();
    pool.breaker().auto();

    for line in ["PING", "MULTI"] {
        let told = refused(&mut lease, line).await;
        assert!(told.to_string().contains(WORDS), "{line}: {told}");
    }
    let told = soon("the answer", lease.make_exclusive()).await.unwrap_err();
    assert_eq!(told.reason(), "breaker_open");
}
