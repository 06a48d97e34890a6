//! Waiting for what must come, with a bound, and stopping a future where a test wants it stopped.
#![allow(dead_code, reason = "every test uses its own part of it")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use redis_guard::{CloseReason, Event, Events, GuardedConnection, GuardedPool, redis};
use tokio::time::{sleep, timeout};

pub(crate) use crate::support::HANG;
use crate::support::TestServer;
use crate::support::server::Reply;

const TICK: Duration = Duration::from_millis(1);

/// Looks again and again until it is so.
pub(crate) async fn until(what: &str, pool: &GuardedPool, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            sleep(TICK).await;
        }
    };
    let seen = timeout(HANG, looking).await;
    assert!(seen.is_ok(), "{what} should have come to be, but: {:#?}", pool.status());
}

/// Ends a test that hangs.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let done = timeout(HANG, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not end"))
}

/// The next event that is wanted; those before it are skipped.
pub(crate) async fn next(
    what: &str,
    events: &mut Events,
    wanted: impl Fn(&Event) -> bool,
) -> Event {
    let mut skipped = Vec::new();
    let looking = async {
        loop {
            match events.next().await {
                Some(event) if wanted(&event) => break event,
                Some(event) => skipped.push(event),
                None => panic!("the pool has gone, and {what} has not come"),
            }
        }
    };
    let seen = timeout(HANG, looking).await;
    seen.unwrap_or_else(|_| panic!("{what} has not come, only {skipped:#?}"))
}

/// The next close, whatever its reason; returns the reason.
pub(crate) async fn next_close(events: &mut Events) -> CloseReason {
    let event = next("a close", events, |event| matches!(event, Event::ConnectionClosed { .. }));
    match event.await {
        Event::ConnectionClosed { reason, .. } => reason,
        _ => unreachable!("only a close was wanted"),
    }
}

/// The pool's clock goes on at once; nothing is sent or received meanwhile.
pub(crate) async fn let_pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Returns after a sweep that began later than this call, by holding a lease until it is suspected
/// of being a leak.
pub(crate) async fn swept(pool: &GuardedPool) {
    let mut events = pool.events();
    let _lease = pool.acquire("sweep").await.unwrap_or_else(|error| panic!("{error}"));
    let seen = |event: &Event| matches!(event, Event::LeakSuspected(leak) if leak.endpoint.as_str() == "sweep");
    next("a sweep", &mut events, seen).await;
}

/// Polls once.
pub(crate) fn poll_once<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// What is ready on the first poll.
pub(crate) fn ready<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Drops the future after so many polls, each after a wake; `None` if it was not ready by then.
pub(crate) async fn dropped_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut left = polls;
    let mut future = Box::pin(future);
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The sockets that the server counts under this name; `None` while the server is away.
pub(crate) fn sockets(server: &TestServer, name: &str) -> Option<usize> {
    let Ok(Reply::Text(list)) = server.admin().command(&["CLIENT", "LIST"]) else { return None };
    let field = format!("name={name}");
    Some(list.lines().filter(|line| line.split(' ').any(|word| word == field)).count())
}

/// Everything but the operator's own connection, named or not, and a replica's to its master.
pub(crate) fn clients(server: &TestServer) -> usize {
    let list = server.admin().client_list();
    list.iter().filter(|client| client["flags"] != "M").count() - 1
}

/// The command that these words make.
pub(crate) fn cmd(line: &str) -> redis::Cmd {
    let mut cmd = redis::Cmd::new();
    line.split(' ').for_each(|word| {
        cmd.arg(word);
    });
    cmd
}

/// Says what it is told, and so shows whose reply is whose.
pub(crate) async fn echo(lease: &mut GuardedConnection, text: &str) -> redis::RedisResult<String> {
    cmd("ECHO").arg(text).query_async(lease).await
}

/// Sends these words, and gives up on the reply once the server has executed them, or has begun to.
pub(crate) async fn give_up(server: &TestServer, lease: &mut GuardedConnection, line: &str) {
    let id = id(lease).await;
    let given_up = cmd(line);
    let mut reply = Box::pin(given_up.query_async::<redis::Value>(lease));
    assert!(poll_once(&mut reply).is_pending());
    executed(server, id, line).await;
}

/// Returns once the server has executed these words on this connection, or has begun to.
pub(crate) async fn executed(server: &TestServer, id: u64, line: &str) {
    let words = line.to_ascii_lowercase().replace(' ', "|");
    let executed = async {
        loop {
            // `client|setname` for a command with a subcommand.
            match field(server, id, "cmd") {
                Some(cmd) if words.starts_with(&cmd) => break,
                Some(_) => sleep(TICK).await,
                None => panic!("the connection has gone"),
            }
        }
    };
    soon(line, executed).await;
}

/// The server's number for the connection.
pub(crate) async fn id(lease: &mut GuardedConnection) -> u64 {
    let id = cmd("CLIENT ID").query_async(lease).await;
    id.unwrap_or_else(|error| panic!("CLIENT ID: {error}"))
}

/// A field of a connection's line in `CLIENT LIST`.
pub(crate) fn field(server: &TestServer, id: u64, field: &str) -> Option<String> {
    let id = id.to_string();
    let mut list = server.admin().client_list().into_iter();
    list.find(|client| client.get("id") == Some(&id))?.remove(field)
}

/// Nobody holds, awaits or dials anything, and the server sees as many sockets as the pool.
pub(crate) async fn at_rest(pool: &GuardedPool, server: &TestServer) {
    until("rest", pool, || {
        let status = pool.status();
        status.in_use + status.waiting + status.dialing == 0
            && status.idle == status.live
            && status.live == clients(server)
    })
    .await;
}
