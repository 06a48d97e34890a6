//! What redis-rs is told of a refusal, and what comes of doing at once what it says is to be done.

use std::time::Duration;

use redis_guard::redis::{ErrorKind, RedisError, RetryMethod, ServerErrorKind};
use redis_guard::{GuardedPool, GuardedPoolBuilder};
use tokio::time::{Instant, sleep};

use crate::NAME;
use crate::support::{LOADS_SLOWLY, SEVEN, TestServer, dials, lacks, unhurried};
use crate::waiting::{cmd, soon};

const TIME: Duration = Duration::from_secs(2);
/// What the back-off of 50 ms to 600 ms lets through in that time.
const MOST_DIALS: u64 = 12;

/// With the back-off that a service has.
fn builder(url: String) -> GuardedPoolBuilder {
    unhurried(url).max_connections(8).client_name(NAME)
}

/// Does what each error says is to be done about it, for some time and without waiting; how often that was, and
/// the last error.
async fn obey(pool: &GuardedPool) -> (u64, RedisError) {
    let (mut handle, begun, mut tries) = (pool.shared("search"), Instant::now(), 0);
    let ping = cmd("PING");
    loop {
        let told = soon("an answer", ping.query_async::<String>(&mut handle));
        let error = told.await.unwrap_err();
        tries += 1;
        if begun.elapsed() >= TIME {
            return (tries, error);
        }
        match error.retry_method() {
            RetryMethod::NoRetry => return (tries, error),
            RetryMethod::Reconnect => handle = pool.shared("search"),
            RetryMethod::RetryImmediately => {}
            RetryMethod::WaitAndRetry => sleep(Duration::from_millis(1)).await,
            other => panic!("{other:?}: {error}"),
        }
        tokio::task::yield_now().await;
    }
}

fn dialed(pool: &GuardedPool) -> u64 {
    dials(pool).values().sum()
}

fn connections_received(server: &TestServer) -> u64 {
    server.admin().info_u64("total_connections_received")
}

#[tokio::test]
async fn a_server_that_is_away_is_an_io_error_and_tries_at_once_do_not_redial() {
    let server = TestServer::start().unwrap();
    server.stop();
    let pool = builder(server.url()).build().unwrap();

    let (tries, error) = obey(&pool).await;

    assert!(error.is_io_error() && error.is_connection_refusal(), "{error:?}");
    println!("{tries} tries, {} dials", dialed(&pool));
    assert!(tries > 20 * dialed(&pool), "{tries} tries, {:?}", dials(&pool));
    assert!((1..=MOST_DIALS).contains(&dialed(&pool)), "{:?}", dials(&pool));
    server.restart().unwrap();
    let back = async {
        let mut handle = pool.shared("search");
        while cmd("PING").query_async::<String>(&mut handle).await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("the server", back).await;
}

#[tokio::test]
async fn a_server_that_answers_nothing_is_a_timeout_and_tries_at_once_do_not_redial() {
    let server = TestServer::start().unwrap();
    server.pause();
    let short = Duration::from_millis(100);
    let pool = builder(server.url()).connect_timeout(short).build().unwrap();

    let (tries, error) = obey(&pool).await;

    assert!(error.is_io_error() && error.is_timeout(), "{error:?}");
    assert!(tries > dialed(&pool) && dialed(&pool) <= MOST_DIALS, "{tries}, {:?}", dials(&pool));
    server.resume();
}

#[tokio::test]
async fn a_wrong_password_is_a_failed_authentication_and_tries_at_once_do_not_redial() {
    let server = TestServer::builder().password("right").start().unwrap();
    let pool = builder(format!("redis://:wrong@127.0.0.1:{}", server.port())).build().unwrap();
    let before = connections_received(&server);

    let (tries, error) = obey(&pool).await;

    assert_eq!(error.kind(), ErrorKind::AuthenticationFailed, "{error}");
    assert!(error.to_string().contains("WRONGPASS"), "{error}");
    let received = connections_received(&server) - before;
    println!("{tries} tries, {received} connections");
    assert!(tries > 20 * received && received <= 3, "{tries} tries, {received} connections");
}

#[tokio::test]
async fn a_full_server_is_not_to_be_tried_again_at_once() {
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let _occupants = server.fill();
    let pool = builder(server.url()).build().unwrap();

    let (tries, error) = obey(&pool).await;

    assert_eq!((error.kind(), tries, dialed(&pool)), (ErrorKind::Client, 1, 1), "{error}");
}

#[tokio::test]
async fn a_server_that_loads_its_data_is_busy_loading() {
    if lacks(LOADS_SLOWLY, SEVEN) {
        return;
    }
    let server = TestServer::start().unwrap();
    server.restart_into_loading().unwrap();
    let pool = builder(server.url()).build().unwrap();

    let (_, error) = obey(&pool).await;

    assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::BusyLoading), "{error}");
    assert!(dialed(&pool) <= MOST_DIALS, "{:?}", dials(&pool));
    server.finish_loading();
}

#[tokio::test]
async fn a_closed_pool_is_not_to_be_tried_again() {
    let server = TestServer::start().unwrap();
    let pool = builder(server.url()).build().unwrap();
    pool.close().await;

    let (tries, error) = obey(&pool).await;

    assert_eq!((error.kind(), tries), (ErrorKind::Client, 1), "{error}");
}
