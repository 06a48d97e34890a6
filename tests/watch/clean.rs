//! The watch's questions never show on a connection that somebody holds.

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use redis_guard::{Fleet, GuardedConnection, GuardedPool};
use tokio::time::{Instant, sleep, timeout};

use crate::spy::{Line, Spy};
use crate::support::TestServer;
use crate::waiting::{cmd, echo, give_up, soon};
use crate::{builder, hold};

/// Runs the commands of one lease, between two marks.
async fn session(mut lease: GuardedConnection, commands: &[&str]) {
    echo(&mut lease, "begin").await.unwrap();
    for command in commands {
        let _: redis_guard::redis::Value = cmd(command).query_async(&mut lease).await.unwrap();
        tokio::task::yield_now().await;
    }
    echo(&mut lease, "end").await.unwrap();
}

/// Where a question stands between a holder's marks; how many stand elsewhere.
fn disturbed(lines: &[Line]) -> (Vec<(Line, Line)>, usize) {
    let mut last = HashMap::new();
    let (mut between, mut elsewhere) = (Vec::new(), 0);
    let mut held = HashMap::new();
    for line in lines {
        let held = held.entry(line.client.clone()).or_insert(false);
        match line.command.as_str() {
            "ECHO BEGIN" => *held = true,
            "ECHO END" => *held = false,
            command if command.starts_with("INFO") || command.starts_with("EVAL") => {
                if *held {
                    between.push((last.get(&line.client).cloned().unwrap(), line.clone()));
                } else {
                    elsewhere += 1;
                }
            }
            _ => {}
        }
        last.insert(line.client.clone(), line.clone());
    }
    (between, elsewhere)
}

/// A caller who leaves its connection unusable, again and again: each loss makes the watch ask.
async fn spoil(pool: &GuardedPool) {
    loop {
        let mut lease = pool.acquire("spoiler").await.unwrap();
        let _ = cmd("CLIENT NO-EVICT off").query_async::<String>(&mut lease).await;
        drop(lease);
        sleep(Duration::from_millis(3)).await;
    }
}

async fn rounds(pool: &GuardedPool, commands: &[&str]) {
    loop {
        session(pool.acquire("test").await.unwrap(), commands).await;
    }
}

async fn are_never_interrupted(commands: &[&str]) {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(4).fleet(Fleet::named("clean")).build().unwrap();
    let spy = Spy::on(&server);

    let callers = futures_util::future::join_all((0..8).map(|_| rounds(&pool, commands)));
    let all = futures_util::future::join(callers, spoil(&pool));
    let _ = timeout(Duration::from_secs(3), all).await;

    let (between, elsewhere) = disturbed(&spy.lines());
    assert!(between.is_empty(), "{between:#?}");
    println!("{elsewhere} questions in three seconds");
    assert!(elsewhere >= 5, "no more than {elsewhere} questions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_never_interrupted() {
    are_never_interrupted(&["WATCH k", "MULTI", "SET k v", "GET k", "EXEC"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_commands_are_never_interrupted() {
    are_never_interrupted(&["GET k", "BLPOP nothing 0.01", "GET k"]).await;
}

/// Each ends its connection, so that the next lease is a new one.
#[tokio::test]
async fn subscribers_are_never_asked() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(4).build().unwrap();
    let spy = Spy::on(&server);
    let listening = async {
        loop {
            let mut listener = pool.pubsub("listener").await.unwrap();
            listener.subscribe("news").await.unwrap();
            sleep(Duration::from_millis(5)).await;
        }
    };
    let enough = async {
        while spy.count("SUBSCRIBE") <= 20 || spy.count("INFO") <= 20 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let busy = Box::pin(futures_util::future::join(listening, spoil(&pool)));
    soon("some subscribers and questions", futures_util::future::select(busy, Box::pin(enough)))
        .await;

    let mut subscribed = std::collections::HashSet::new();
    for Line { client, command } in spy.lines() {
        if command.starts_with("SUBSCRIBE") {
            subscribed.insert(client);
        } else {
            assert!(!subscribed.contains(&client), "{command} after SUBSCRIBE");
        }
    }
    assert!(subscribed.len() > 20, "each ended its connection: {}", subscribed.len());
}

/// A lease that is dropped by a task which has used up tokio's budget for this poll.
#[tokio::test]
async fn a_question_goes_out_at_once_whatever_the_task_has_done_before() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(1).build().unwrap();
    let spy = Spy::on(&server);

    let asked = async {
        let mut lease = pool.acquire("test").await.unwrap();
        while spy.count("INFO") < 4 {
            echo(&mut lease, "begin").await.unwrap();
            sleep(Duration::from_millis(5)).await;
            echo(&mut lease, "end").await.unwrap();
            // Drops the lease and takes it again within one poll.
            let mut held = Some(lease);
            lease = poll_fn(|_| {
                let mut spent = 0;
                while tokio::task::consume_budget().now_or_never().is_some() {
                    spent += 1;
                    assert!(spent < 10_000, "the budget has no end");
                }
                drop(held.take());
                Poll::Ready(pool.try_acquire("test").unwrap())
            })
            .await;
        }
    };
    soon("four questions", asked).await;

    let (between, _) = disturbed(&spy.lines());
    assert!(between.is_empty(), "{between:#?}");
}

#[tokio::test]
async fn a_lease_dropped_outside_any_runtime_carries_the_question() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(1).build().unwrap();
    let before = Instant::now();
    let mut rounds = 0;
    // Past the time of a regular question, so that the watch waits for the lease some of the time.
    while before.elapsed() < Duration::from_secs(5) {
        let lease = hold(&pool, 1).await.pop().unwrap();
        sleep(Duration::from_millis(300)).await;
        std::thread::spawn(move || drop(lease)).join().unwrap();
        rounds += 1;
    }
    assert!(rounds > 5);
    let age = pool.status().watch.age.unwrap();
    assert!(age < Duration::from_secs(5), "{age:?}");
}

/// The connection comes back only once the answer to what was given up is there.
#[tokio::test]
async fn a_lease_with_a_command_on_its_way_is_not_asked() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(2).build().unwrap();
    let spy = Spy::on(&server);
    let giving_up = async {
        for _ in 0..100 {
            let mut lease = pool.acquire("test").await.unwrap();
            give_up(&server, &mut lease, "SELECT 1").await;
        }
    };
    soon(
        "a hundred callers",
        futures_util::future::select(Box::pin(giving_up), Box::pin(spoil(&pool))),
    )
    .await;

    let mut selected = HashMap::new();
    for Line { client, command } in spy.lines() {
        let selected = selected.entry(client).or_insert(false);
        match command.as_str() {
            "SELECT 1" => *selected = true,
            "RESET" => *selected = false,
            _ => assert!(!*selected || !command.starts_with("INFO"), "asked in between"),
        }
    }
}
