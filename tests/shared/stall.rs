//! A server that stalls, and a link that carries nothing: what that costs those who share a connection.

use std::time::Duration;

use redis_guard::redis::Value;
use redis_guard::{Error, SharedConnection};
use tokio::time::{Instant, sleep};

use crate::proxy::Proxy;
use crate::send;
use crate::support::{TestServer, impatient};
use crate::waiting::{soon, until};

const SHORT: Duration = Duration::from_millis(100);
/// Much longer than the patience with a lane of a server that is not known to be full.
const LONG_STALL: Duration = Duration::from_secs(2);
const BOUND: Duration = Duration::from_secs(20);

fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::Inner(error) if error.is_timeout())
}

/// The server's number for the lane. A busy machine may need more than one response timeout to tell.
async fn id(handle: &mut SharedConnection) -> Value {
    let told = async {
        loop {
            match send(handle, "CLIENT ID").await {
                Ok(id) => break id,
                Err(error) => assert!(is_timeout(&error), "{error}"),
            }
        }
    };
    soon("the lane's number", told).await
}

#[tokio::test]
async fn a_full_server_that_stalls_costs_no_lane() {
    let server = TestServer::builder().maxclients(40).start().unwrap();
    let mut occupants = server.fill_to_leave(1);
    let pool = impatient(&server.url()).max_connections(2).watch(false);
    let pool = pool.response_timeout(SHORT).build().unwrap();
    let mut handle = pool.shared("search");
    let first = id(&mut handle).await;
    pool.warm_up(2).await.unwrap_err();

    server.pause();
    let error = soon("the timeout", send(&mut handle, "PING")).await.unwrap_err();
    assert!(is_timeout(&error), "{error:?}");
    sleep(LONG_STALL).await;
    server.resume();

    let before = occupants.len();
    occupants.top_up();
    assert_eq!(occupants.len(), before, "somebody else got the slot");
    assert_eq!(pool.status().connections_closed.values().sum::<u64>(), 0);
    assert_eq!(id(&mut handle).await, first);
}

#[tokio::test]
async fn a_blocking_command_over_a_connection_that_carries_nothing_ends() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    let pool = impatient(&proxy.url()).max_connections(2).watch(false);
    let pool = pool.response_timeout(SHORT).build().unwrap();
    pool.warm_up(1).await.unwrap();
    proxy.forget_all();
    let mut handle = pool.shared("search");
    let begun = Instant::now();

    let error = soon("the end", send(&mut handle, "BLPOP list 0.2")).await.unwrap_err();

    let took = begun.elapsed();
    assert!(is_timeout(&error), "{error:?}");
    assert!(took >= SHORT * 3 && took < BOUND, "{took:?}");
    until("the close", &pool, || pool.status().live == 0).await;
    server.admin().text(&["RPUSH", "list", "item"]);
    send(&mut handle, "BLPOP list 0").await.unwrap();
}
