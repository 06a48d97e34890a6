//! Leases that are held for long: there is no connection to ask over.

use std::time::Duration;

use futures_util::FutureExt;
use redis_guard::{Event, Events, GuardedConnection, GuardedPool};
use tokio::time::{Instant, sleep, timeout};

use crate::support::TestServer;
use crate::waiting::{cmd, let_pass, until};
use crate::{LOOK, builder, hold, spy::Spy, warm};

/// Where the last word is so old, more is tried without asking: that is not to be waited for here.
const OLD: Duration = Duration::from_secs(15);

#[tokio::test]
async fn callers_who_keep_their_leases_get_as_many_as_there_may_be() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(32).build().unwrap();

    let held = timeout(OLD, hold(&pool, 32)).await;

    assert!(held.is_ok(), "an empty server, and no more than: {:#?}", pool.status());
}

#[tokio::test]
async fn while_all_leases_are_held_nothing_is_sent_and_nothing_dialed() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(4).build().unwrap();
    let _leases = warm(&pool, 4).await;
    let spy = Spy::on(&server);
    let received = server.admin().info_u64("total_connections_received");

    sleep(LOOK).await;

    assert_eq!(spy.lines().iter().map(|line| &line.command).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(server.admin().info_u64("total_connections_received"), received);
    assert_eq!((pool.status().live, pool.status().limit), (4, 4), "and nothing is taken away");
}

#[tokio::test]
async fn a_lease_that_comes_back_carries_the_question() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(2).build().unwrap();
    let mut leases = warm(&pool, 2).await;
    sleep(LOOK).await;
    let age = || pool.status().watch.age.unwrap();
    assert!(age() > Duration::from_secs(3), "nobody could be asked: {:?}", age());

    // The watch waits for a lease nearly all of the time, so one of the first few finds it waiting.
    let mut returns = 0;
    let begun = Instant::now();
    while age() >= begun.elapsed() {
        assert!(returns < 5, "nothing was asked: {:#?}", pool.status());
        returns += 1;
        leases.pop();
        // Taken again at once: the question is on its way before its next holder's first command.
        leases.extend(hold(&pool, 1).await);
        sleep(Duration::from_millis(100)).await;
    }
}

/// Far longer than a question is asked for in vain before more is done.
const LONG: Duration = Duration::from_secs(25);

/// The server was heard of since then.
fn is_news(pool: &GuardedPool, begun: Instant) -> bool {
    pool.status().watch.age.is_some_and(|age| age < begun.elapsed())
}

async fn get(lease: &mut GuardedConnection) {
    cmd("GET k").query_async::<redis_guard::redis::Value>(lease).await.unwrap();
    sleep(Duration::from_millis(10)).await;
}

/// What was told so far about the watch.
fn told_of_the_watch(events: &mut Events) -> Vec<Event> {
    let next = || events.next().now_or_never().flatten();
    let is_of_it =
        |event: &Event| matches!(event, Event::WatchLost { .. } | Event::WatchFound { .. });
    std::iter::from_fn(next).filter(is_of_it).collect()
}

#[tokio::test]
async fn a_lease_that_is_held_and_used_carries_the_question_before_its_next_command() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(2).build().unwrap();
    let mut leases = warm(&pool, 2).await;
    let_pass(Duration::from_secs(15)).await;

    let begun = Instant::now();
    let asking = async {
        while !is_news(&pool, begun) {
            let popped: Option<(String, String)> =
                cmd("BLPOP jobs 0.05").query_async(&mut leases[0]).await.unwrap();
            assert_eq!(popped, None, "the reply is the command's own");
        }
    };
    timeout(OLD, asking).await.unwrap_or_else(|_| panic!("{:#?}", pool.status()));
    assert_eq!(pool.status().live, 2);
}

#[tokio::test]
async fn nothing_is_asked_in_the_middle_of_a_transaction_or_in_a_session_of_the_holders() {
    let server = TestServer::start().unwrap();
    for (opening, end) in [("MULTI", "DISCARD"), ("WATCH k", "UNWATCH"), ("SELECT 1", "")] {
        let pool = builder(&server).max_connections(1).build().unwrap();
        let mut leases = warm(&pool, 1).await;
        cmd(opening).query_async::<()>(&mut leases[0]).await.unwrap();
        let spy = Spy::on(&server);
        let_pass(Duration::from_secs(15)).await;

        // Long enough for the question to take a lease that is held, and it is still waiting at the end.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            get(&mut leases[0]).await;
        }

        let others = spy.lines().iter().filter(|line| line.command != "GET K").count();
        assert_eq!(others, 0, "after {opening}: {:?}", spy.lines());
        if !end.is_empty() {
            cmd(end).query_async::<()>(&mut leases[0]).await.unwrap();
            let asking = async {
                while !is_news(&pool, begun) {
                    get(&mut leases[0]).await;
                }
            };
            timeout(OLD, asking).await.unwrap_or_else(|_| panic!("{:#?}", pool.status()));
        }
        leases.clear();
        pool.close().await;
    }
}

#[tokio::test]
async fn where_nothing_could_be_asked_for_long_one_more_connection_is_dialed_within_the_limit() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(4).build().unwrap();
    let _leases = warm(&pool, 2).await;
    let mut events = pool.events();
    let begun = Instant::now();
    let_pass(LONG).await;
    until("a word", &pool, || is_news(&pool, begun + LONG)).await;
    assert_eq!(pool.status().live, 3);

    // It goes on over that one.
    let_pass(LONG).await;
    until("another word", &pool, || is_news(&pool, begun + 2 * LONG)).await;
    assert_eq!((pool.status().live, pool.status().watch.trouble), (3, None));
    assert!(told_of_the_watch(&mut events).is_empty());
}

#[tokio::test]
async fn where_none_may_be_dialed_the_status_says_why_there_is_no_word_and_nobody_is_warned() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(2).build().unwrap();
    let mut leases = warm(&pool, 2).await;
    let mut events = pool.events();
    let trouble = || pool.status().watch.trouble;
    assert_eq!(trouble(), None);

    let_pass(LONG).await;
    until("the reason", &pool, || {
        trouble().is_some_and(|trouble| trouble.contains("all connections are lent"))
    })
    .await;
    assert_eq!(pool.status().live, 2);

    leases.pop();
    until("a word", &pool, || trouble().is_none()).await;
    assert!(told_of_the_watch(&mut events).is_empty());
}
