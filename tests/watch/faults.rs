//! A server that cannot be watched, for a time or at all.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use redis_guard::redis::Value;
use redis_guard::{Event, LimitedBy};
use tokio::time::{Instant, sleep, timeout};

use crate::fake::Fake;
use crate::service::Service;
use crate::support::server::Reply;
use crate::support::{Auth, Resp, TestServer, Transport, unhurried};
use crate::waiting::{HANG, cmd, let_pass, next, soon, until};
use crate::{LOOK, builder, heard, hold, rejected, warm};

/// How often INFO was refused by the ACL.
fn denials(server: &TestServer) -> u64 {
    let stats = server.admin().text(&["INFO", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with("cmdstat_info:")).unwrap();
    let count = line.split(',').find_map(|field| field.strip_prefix("rejected_calls="));
    count.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn where_info_is_denied_the_status_says_so_and_the_pool_goes_by_max_connections() {
    let server = TestServer::builder().acl_user("app", "secret").start().unwrap();
    server.admin().text(&["ACL", "SETUSER", "app", "-info"]);
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::User("app", "secret"), 0);
    let pool = unhurried(url).max_connections(24).acquire_timeout(HANG).build().unwrap();
    let mut events = pool.events();

    let _leases = hold(&pool, 24).await;

    let lost = next("the loss", &mut events, |event| matches!(event, Event::WatchLost { .. }));
    let Event::WatchLost { reason, .. } = lost.await else { unreachable!() };
    assert!(reason.contains("no permissions") && reason.contains("'info'"), "{reason}");
    let status = pool.status();
    assert_eq!(status.watch.trouble, Some(reason));
    assert!(status.watch.observation.is_none());
    assert_eq!((status.limit, status.limited_by), (24, LimitedBy::MaxConnections));
}

#[tokio::test]
async fn where_info_is_denied_nobody_asks_again_soon() {
    let server = TestServer::builder().acl_user("app", "secret").start().unwrap();
    server.admin().text(&["ACL", "SETUSER", "app", "-info"]);
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::User("app", "secret"), 0);
    let pool = unhurried(url).build().unwrap();
    drop(pool.acquire("test").await.unwrap());
    until("the denial", &pool, || pool.status().watch.trouble.is_some()).await;

    sleep(LOOK).await;

    assert_eq!(denials(&server), 1);
}

#[tokio::test]
async fn where_info_was_denied_it_is_asked_again_after_a_minute() {
    let server = TestServer::builder().acl_user("app", "secret").start().unwrap();
    server.admin().text(&["ACL", "SETUSER", "app", "-info"]);
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::User("app", "secret"), 0);
    let pool = unhurried(url).build().unwrap();
    let mut events = pool.events();
    drop(pool.acquire("test").await.unwrap());
    until("the denial", &pool, || pool.status().watch.trouble.is_some()).await;
    server.admin().text(&["ACL", "SETUSER", "app", "+info"]);

    let_pass(Duration::from_secs(61)).await;

    next("the news", &mut events, |event| matches!(event, Event::WatchFound { .. })).await;
    heard("a word", &pool, |_| true).await;
    assert_eq!(pool.status().watch.trouble, None);
}

#[tokio::test]
async fn a_server_that_is_stopped_for_five_seconds_hangs_nobody_and_is_watched_again() {
    let server = TestServer::builder().maxclients(100).start().unwrap();
    let limit = Duration::from_secs(2);
    let builder = unhurried(server.url()).max_connections(8);
    let pool = builder.acquire_timeout(limit).response_timeout(limit).build().unwrap();
    drop(warm(&pool, 6).await);
    heard("the first word", &pool, |_| true).await;
    let before = pool.status();

    server.pause();
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(5) {
        let call = async {
            let mut lease = pool.acquire("test").await.ok()?;
            cmd("PING").query_async::<String>(&mut lease).await.ok()
        };
        let answered = soon("an answer, or none", call).await;
        assert_eq!(answered, None);
        let status = pool.status();
        assert!(status.limit <= 8 && status.live + status.dialing <= 8, "{status:#?}");
        sleep(Duration::from_millis(50)).await;
    }
    server.resume();

    let _service = Service::of(pool.clone(), 4, Duration::from_millis(20));
    until("an answer", &pool, || {
        pool.status().watch.age.is_some_and(|age| age < Duration::from_secs(1))
    })
    .await;
    let status = pool.status();
    assert_eq!(status.watch.trouble, None, "{:?} before", before.watch);
    assert_eq!(rejected(&server), 0);
    let leases = warm(&pool, 8).await;
    for mut lease in leases {
        let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
    }
}

/// A script that takes too long: everybody hears BUSY, and INFO, too.
#[tokio::test]
async fn a_busy_server_is_no_reason_to_take_more() {
    let server = TestServer::builder().maxclients(60).start().unwrap();
    server.admin().text(&["CONFIG", "SET", "lua-time-limit", "10"]);
    let _occupants = server.fill_to_leave(4);
    let pool = builder(&server).max_connections(32).build().unwrap();
    drop(hold(&pool, 2).await);
    heard("the first word", &pool, |_| true).await;
    let socket = server.socket_path().to_owned();
    let busy = std::thread::spawn(move || {
        let mut client = UnixStream::connect(socket).unwrap();
        client.write_all(b"EVAL \"while true do end\" 0\r\n").unwrap();
        let _ = client.read(&mut [0; 64]);
    });

    let mut highest = 0;
    let stopped = Instant::now();
    while stopped.elapsed() < LOOK {
        highest = highest.max(pool.status().limit);
        sleep(Duration::from_millis(20)).await;
    }
    while !matches!(server.admin().command(&["SCRIPT", "KILL"]), Ok(Reply::Text(_))) {
        sleep(Duration::from_millis(20)).await;
    }
    busy.join().unwrap();

    assert!(highest <= 8, "{highest} on a server with 4 slots: {:#?}", pool.status().watch);
    until("an answer", &pool, || pool.status().watch.trouble.is_none()).await;
}

#[tokio::test]
async fn before_the_first_word_no_more_are_dialed_than_the_floor() {
    let fake = Fake::start("connected_clients:3 maxclients:1000 rejected_connections:0").await;
    fake.hold_info(true);
    let pool = unhurried(fake.url()).max_connections(16).acquire_timeout(HANG).build().unwrap();
    let holders = hold(&pool, 16);
    let mut holders = Box::pin(holders);

    let early = timeout(Duration::from_millis(300), &mut holders).await;

    assert!(early.is_err() && fake.accepted() <= 2, "{} dials", fake.accepted());
    fake.hold_info(false);
    assert_eq!(holders.await.len(), 16);
}

#[tokio::test]
async fn a_server_that_never_answers_info_serves_the_pool_all_the_same() {
    let fake = Fake::start("").await;
    fake.hold_info(true);
    let builder = unhurried(fake.url()).max_connections(8);
    let pool = builder.response_timeout(Duration::from_millis(500)).build().unwrap();

    for _ in 0..40 {
        let mut lease = pool.acquire("test").await.unwrap();
        // Behind an INFO without an answer nothing else is answered on this connection.
        let _ = cmd("PING").query_async::<Value>(&mut lease).await;
        if pool.status().watch.trouble.is_some() {
            break;
        }
    }

    until("the reason", &pool, || pool.status().watch.trouble.is_some()).await;
    assert!(pool.status().limit >= 2 && pool.status().limit <= 8);
}

#[tokio::test]
async fn an_answer_that_is_none_is_no_reason_to_ask_all_the_time() {
    for rubbish in [":1\r\n", "$-1\r\n", "*1\r\n$4\r\nINFO\r\n", "$2\r\n\u{80}\r\n", "$0\r\n\r\n"] {
        let fake = Fake::start("").await;
        fake.replies(rubbish);
        let pool = unhurried(fake.url()).build().unwrap();
        let _lease = pool.acquire("test").await.unwrap();
        drop(pool.acquire("test").await.unwrap());

        sleep(Duration::from_secs(1)).await;

        assert!(fake.infos() < 20, "{} times for {rubbish:?}", fake.infos());
        assert!(pool.status().limit >= 2);
    }
}

#[tokio::test]
async fn a_ceiling_of_nothing_is_none() {
    let fake = Fake::start("connected_clients:3 maxclients:0 rejected_connections:0").await;
    let pool = unhurried(fake.url()).max_connections(16).acquire_timeout(HANG).build().unwrap();

    let leases = hold(&pool, 16).await;

    assert_eq!(leases.len(), 16);
    assert_eq!(pool.status().watch.observation.unwrap().ceiling, None);
    assert_eq!(pool.status().limited_by, LimitedBy::MaxConnections);
}

#[tokio::test]
async fn with_shared_handles_only_their_connection_carries_the_question() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(8).build().unwrap();
    let mut shared = pool.shared("test");
    let _: Value = cmd("PING").query_async(&mut shared).await.unwrap();
    heard("the first word", &pool, |_| true).await;

    sleep(LOOK).await;

    assert!(pool.status().watch.age.unwrap() < LOOK);
    assert_eq!(pool.status().live, 1);
    assert_eq!(crate::waiting::clients(&server), 1);
}

#[tokio::test]
async fn without_the_watch_nothing_is_asked_and_nothing_held_back() {
    let server = TestServer::builder().maxclients(60).start().unwrap();
    let spy = crate::spy::Spy::on(&server);
    let _occupants = server.fill_to_leave(40);
    let pool = builder(&server).max_connections(38).watch(false).build().unwrap();

    drop(hold(&pool, 38).await);
    sleep(Duration::from_secs(1)).await;

    assert_eq!((pool.status().live, pool.status().limit), (38, 38));
    assert_eq!(spy.count("INFO"), 0);
    let watch = pool.status().watch;
    assert!(watch.observation.is_none() && watch.trouble.is_none());
}
