//! Commands that block on the server: how long they are waited for, and what comes of one that is given
//! up.

use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedConnection, GuardedPool, redis};
use tokio::time::{Instant, timeout};

use crate::proxy::Proxy;
use crate::support::{SEVEN, TestServer, impatient, program};
use crate::waiting::{HANG, cmd, echo, give_up, next_close, soon, until};
use crate::{pair, pair_with};

const SHORT: Duration = Duration::from_millis(200);
/// Under which nobody has waited for ever.
const BOUND: Duration = Duration::from_secs(20);

/// Every command that blocks, with a limit of its own of a fifth of a second at most.
const LIMITED: [&str; 11] = [
    "BLPOP list 0.2",
    "BRPOP list other 0.2",
    "BLMOVE list other LEFT RIGHT 0.2",
    "BRPOPLPUSH list other 0.2",
    "BLMPOP 0.2 1 list LEFT",
    "BZPOPMIN set 0.2",
    "BZPOPMAX set 0.2",
    "BZMPOP 0.2 1 set MIN",
    "XREAD COUNT 1 BLOCK 200 STREAMS stream $",
    "XREADGROUP GROUP group me BLOCK 200 STREAMS stream >",
    "WAIT 9 200",
];

/// Commands that take something, and what gives them something to take.
const TAKING: [(&str, &[&str]); 6] = [
    ("BLPOP list 0", &["RPUSH list item"]),
    ("BRPOP list 9", &["RPUSH list item"]),
    ("BLMOVE list other LEFT RIGHT 0", &["RPUSH list item"]),
    ("BLMPOP 0 1 list LEFT", &["RPUSH list item"]),
    ("BZPOPMIN set 0", &["ZADD set 1 item"]),
    ("XREADGROUP GROUP group me BLOCK 0 STREAMS stream >", &["XADD stream * field item"]),
];

/// Redis 7 brought two.
fn knows(line: &str) -> bool {
    let newer = line.starts_with("BLMPOP") || line.starts_with("BZMPOP");
    !newer || program().redis_version() >= SEVEN
}

async fn silent_pool(server: &TestServer) -> (Proxy, GuardedPool) {
    let proxy = Proxy::start(server).await;
    let pool = impatient(&proxy.url()).max_connections(2).watch(false);
    (proxy, pool.response_timeout(SHORT).build().unwrap())
}

fn group(server: &TestServer) {
    server.admin().text(&["XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM"]);
}

async fn run(server: &TestServer, lines: &[&str]) {
    for line in lines {
        server.admin().text(&line.split(' ').collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_silent_connection_does_not_hold_up_a_blocking_command_for_ever() {
    let server = TestServer::start().unwrap();
    group(&server);
    let (proxy, pool) = silent_pool(&server).await;
    for line in LIMITED.into_iter().filter(|line| knows(line)) {
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        proxy.go_silent();
        let begun = Instant::now();

        let error = soon(line, cmd(line).query_async::<redis::Value>(&mut lease)).await;

        let took = begun.elapsed();
        assert!(error.as_ref().is_err_and(redis::RedisError::is_timeout), "{line}: {error:?}");
        assert!(took >= SHORT * 2 && took < BOUND, "{line}: {took:?}");
        proxy.speak_again();
    }
}

#[tokio::test]
async fn so_it_is_with_a_pipeline_of_them() {
    let server = TestServer::start().unwrap();
    let (proxy, pool) = silent_pool(&server).await;
    let mut lease = pool.acquire("test").await.unwrap();
    let mut pipeline = redis::pipe();
    pipeline.add_command(cmd("BLPOP list 0.2")).add_command(cmd("BLPOP list 0.4"));
    proxy.go_silent();
    let begun = Instant::now();

    let error = soon("the pipeline", pipeline.query_async::<()>(&mut lease)).await.unwrap_err();

    let took = begun.elapsed();
    assert!(error.is_timeout(), "{error}");
    assert!(took >= Duration::from_millis(800) && took < BOUND, "{took:?}");
}

#[tokio::test]
async fn each_of_them_is_waited_for_as_long_as_it_says_itself() {
    let (server, pool) = pair_with(1, |builder| builder.response_timeout(HANG));
    group(&server);
    let mut lease = pool.acquire("test").await.unwrap();
    for line in LIMITED.into_iter().filter(|line| knows(line)) {
        let nothing = cmd(line).query_async::<redis::Value>(&mut lease).await;
        assert!(nothing.is_ok(), "{line}: {nothing:?}");
    }
    let strange = ["BLPOP list nonsense", "BLPOP list -1", "BLPOP", "XREAD BLOCK", "WAIT 1"];
    for line in strange {
        let error = soon(line, cmd(line).query_async::<redis::Value>(&mut lease)).await;
        assert!(error.as_ref().is_err_and(|error| error.code().is_some()), "{line}: {error:?}");
    }
    assert_eq!(echo(&mut lease, "hello").await.unwrap(), "hello");
}

/// What is sent on the lease after that.
async fn is_refused(lease: &mut GuardedConnection, what: &str) {
    let error = soon(what, echo(lease, "hello")).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("blocking command") && text.contains("acquire"), "{what}: {text}");
    assert!(error.is_connection_dropped(), "{what}: {error:?}");
    let pipeline = redis::pipe().ping().query_async::<()>(lease).await.unwrap_err();
    assert!(pipeline.to_string().contains("blocking command"), "{what}: {pipeline}");
}

#[tokio::test]
async fn a_blocking_command_that_is_given_up_on_a_kept_lease_takes_nothing() {
    for (line, gifts) in TAKING.into_iter().filter(|(line, _)| knows(line)) {
        let (server, pool) = pair(2);
        group(&server);
        let mut events = pool.events();
        let mut kept = pool.acquire("test").await.unwrap();
        give_up(&server, &mut kept, line).await;

        is_refused(&mut kept, line).await;

        // Before the lease has ended.
        assert_eq!(next_close(&mut events).await.as_str(), "dirty", "{line}");
        until("the server knows", &pool, || crate::waiting::clients(&server) == 0).await;
        run(&server, gifts).await;
        let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();
        let taken = soon(line, cmd(line).query_async::<redis::Value>(&mut next)).await.unwrap();
        assert!(format!("{taken:?}").contains("item"), "{line}: {taken:?}");
        is_refused(&mut kept, line).await;
        drop((kept, next));
        until("rest", &pool, || pool.status().in_use == 0 && pool.status().idle == 1).await;
    }
}

/// The usual loop of a worker: an item that comes later goes to whoever asks then.
#[tokio::test]
async fn ten_times_of_ten() {
    let (server, pool) = pair(1);
    for nth in 0..10 {
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        let given_up = timeout(Duration::from_millis(20), lease.blpop::<_, ()>("list", 0.0)).await;
        assert!(given_up.is_err());
        is_refused(&mut lease, "after the first").await;
        drop(lease);
        let mut lease = soon("another", pool.acquire("test")).await.unwrap();
        let item = nth.to_string();
        server.admin().text(&["RPUSH", "list", &item]);
        let taken: (String, String) = soon("the item", lease.blpop("list", 0.0)).await.unwrap();
        assert_eq!(taken, ("list".to_owned(), item));
    }
}

#[tokio::test]
async fn one_that_is_not_answered_in_time_is_given_up_likewise() {
    let server = TestServer::start().unwrap();
    let (proxy, pool) = silent_pool(&server).await;
    let mut lease = pool.acquire("test").await.unwrap();
    proxy.go_silent();
    let error = cmd("BLPOP list 0.1").query_async::<redis::Value>(&mut lease).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");

    is_refused(&mut lease, "after a timeout").await;

    until("the close", &pool, || pool.status().live == 0).await;
}

#[tokio::test]
async fn one_in_a_pipeline_is_given_up_likewise() {
    let (_server, pool) = pair(2);
    let mut lease = pool.acquire("test").await.unwrap();
    let mut pipeline = redis::pipe();
    pipeline.ping().add_command(cmd("BLPOP list 0"));
    let given_up = timeout(Duration::from_millis(20), pipeline.query_async::<()>(&mut lease)).await;
    assert!(given_up.is_err());

    is_refused(&mut lease, "after a pipeline").await;

    until("the close", &pool, || pool.status().live == 0).await;
}
