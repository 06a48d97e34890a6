//! A server that stalls has not died: what waits for its replies is kept, and what is silent alone is
//! not.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::{CloseReason, GuardedConnection, GuardedPool, redis};
use tokio::time::{Instant, sleep};

use crate::proxy::Proxy;
use crate::support::{TestServer, impatient};
use crate::waiting::{HANG, cmd, echo, soon, until};

const SHORT: Duration = Duration::from_millis(100);
/// Much longer than the patience with a connection of a server that is not known to be full.
const LONG_STALL: Duration = Duration::from_secs(2);

/// Everybody's command times out, and everybody lets go of the connection.
async fn all_time_out(pool: &GuardedPool, leases: usize) {
    let leases = (0..leases).map(|_| async {
        let mut lease = pool.acquire("test").await.unwrap();
        let error = echo(&mut lease, "late").await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
    });
    soon("the timeouts", join_all(leases)).await;
}

/// The lease gives its own replies. A busy machine may need more than one response timeout for one.
async fn answers(lease: &mut GuardedConnection, text: &str) {
    let answered = async {
        loop {
            match echo(lease, text).await {
                Ok(reply) => break reply,
                Err(error) => assert!(error.is_timeout(), "{error}"),
            }
        }
    };
    assert_eq!(soon("an answer", answered).await, text);
}

/// Everything that is live is idle, and answers.
async fn all_answer(pool: &GuardedPool, connections: usize) {
    until("rest", pool, || pool.status().idle == connections).await;
    let leases = join_all((0..connections).map(|_| pool.acquire("test"))).await;
    for (nth, lease) in leases.into_iter().enumerate() {
        answers(&mut lease.unwrap(), &nth.to_string()).await;
    }
}

fn closed(pool: &GuardedPool) -> u64 {
    pool.status().connections_closed.values().sum()
}

#[tokio::test]
async fn a_full_server_that_stalls_costs_no_connection() {
    let server = TestServer::builder().maxclients(40).start().unwrap();
    let mut occupants = server.fill_to_leave(16);
    let pool = impatient(&server.url()).max_connections(17).watch(false);
    let pool = pool.response_timeout(SHORT).build().unwrap();
    pool.warm_up(17).await.unwrap_err();
    assert_eq!(pool.status().live, 16);

    server.pause();
    all_time_out(&pool, 16).await;
    sleep(LONG_STALL).await;
    server.resume();

    let before = occupants.len();
    occupants.top_up();
    assert_eq!(occupants.len(), before, "others got a slot of ours");
    assert_eq!(closed(&pool), 0, "{:?}", pool.status().connections_closed);
    all_answer(&pool, 16).await;
}

/// Nobody can know that it is full: the pool never asked for more.
#[tokio::test]
async fn a_stall_within_the_patience_costs_no_connection() {
    let server = TestServer::builder().maxclients(40).start().unwrap();
    let mut occupants = server.fill_to_leave(16);
    let pool = impatient(&server.url()).max_connections(16).watch(false);
    // The patience is ten of these: a busy machine has its time.
    let pool = pool.response_timeout(Duration::from_millis(500)).build().unwrap();
    pool.warm_up(16).await.unwrap();

    server.pause();
    all_time_out(&pool, 16).await;
    sleep(Duration::from_millis(700)).await;
    server.resume();

    let before = occupants.len();
    occupants.top_up();
    assert_eq!(occupants.len(), before, "others got a slot of ours");
    assert_eq!(closed(&pool), 0, "{:?}", pool.status().connections_closed);
    all_answer(&pool, 16).await;
}

/// One is given up, so that another can be tried; the others are asked on.
#[tokio::test]
async fn a_server_that_is_silent_to_everybody_costs_one_connection() {
    let server = TestServer::start().unwrap();
    let pool = impatient(&server.url()).max_connections(8).watch(false);
    let pool = pool.response_timeout(SHORT).build().unwrap();
    pool.warm_up(8).await.unwrap();

    server.pause();
    all_time_out(&pool, 8).await;
    until("the one", &pool, || closed(&pool) == 1).await;
    sleep(LONG_STALL).await;

    let status = pool.status();
    assert_eq!((status.live, closed(&pool)), (7, 1), "{status:#?}");
    server.resume();
    all_answer(&pool, 7).await;
}

/// A NAT that has forgotten the old ones: the one that is dialed shows that the server is there.
#[tokio::test]
async fn connections_that_are_silent_alone_are_closed() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    let pool = impatient(&proxy.url()).max_connections(8).watch(false);
    let pool = pool.response_timeout(SHORT).build().unwrap();
    pool.warm_up(8).await.unwrap();

    proxy.forget_all();
    let begun = Instant::now();
    all_time_out(&pool, 8).await;
    let working = async {
        loop {
            let mut lease = crate::support::ask_until_served(&pool).await;
            let _ = echo(&mut lease, "hello").await;
            sleep(Duration::from_millis(5)).await;
        }
    };
    let gone = until("all gone", &pool, || closed(&pool) == 8);
    tokio::select! {
        () = gone => {}
        () = working => {}
    }

    println!("eight forgotten connections were closed after {:?}", begun.elapsed());
    assert_eq!(pool.status().connections_closed.get(CloseReason::HealthCheck.as_str()), Some(&8));
    answers(&mut crate::support::ask_until_served(&pool).await, "hello").await;
}

/// A command that is not answered is waited for in the background, also of one that changes the
/// session.
#[tokio::test]
async fn what_was_not_answered_before_the_stall_is_cleaned_after_it() {
    let server = TestServer::builder().maxclients(40).start().unwrap();
    let _occupants = server.fill_to_leave(1);
    let pool = impatient(&server.url()).max_connections(2).watch(false);
    let pool = pool.response_timeout(SHORT).build().unwrap();
    pool.warm_up(2).await.unwrap_err();
    let mut lease = pool.acquire("test").await.unwrap();
    server.pause();
    let error = cmd("SELECT 3").query_async::<redis::Value>(&mut lease).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    drop(lease);
    sleep(LONG_STALL).await;

    server.resume();

    let mut lease = soon("the next lease", pool.acquire("test")).await.unwrap();
    answers(&mut lease, "hello").await;
    let ours = server.admin().client_list().into_iter().find(|client| client["cmd"] == "echo");
    assert_eq!(ours.unwrap()["db"], "0");
    assert_eq!(closed(&pool), 0);
}

/// It goes on as if nothing had been, and is asked in the background.
#[tokio::test]
async fn a_health_check_of_a_server_that_stalls_fails_in_time_and_costs_nothing() {
    let server = TestServer::builder().maxclients(40).start().unwrap();
    let _occupants = server.fill_to_leave(1);
    let pool = impatient(&server.url()).max_connections(2).watch(false);
    let pool = pool.response_timeout(SHORT).build().unwrap();
    pool.warm_up(2).await.unwrap_err();
    server.pause();

    let error = soon("the check", pool.health()).await.unwrap_err();

    assert!(error.to_string().contains("no reply within"), "{error}");
    sleep(LONG_STALL).await;
    server.resume();
    all_answer(&pool, 1).await;
    assert_eq!(closed(&pool), 0);
}

/// What is asked in the background does not hold up the end.
#[tokio::test]
async fn a_pool_that_waits_for_a_server_that_stalls_closes_at_once() {
    let server = TestServer::start().unwrap();
    let pool = impatient(&server.url()).max_connections(4).watch(false).drain_timeout(HANG);
    let pool = pool.response_timeout(SHORT).build().unwrap();
    pool.warm_up(4).await.unwrap();
    server.pause();
    all_time_out(&pool, 4).await;

    let begun = Instant::now();
    soon("the end", pool.close()).await;

    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    server.resume();
    until("the server has noticed", &pool, || crate::waiting::clients(&server) == 0).await;
}
