//! A command whose future is dropped after it was sent.

use redis_guard::{AsyncCommands, redis};

use crate::support::{self, Resp, TestServer, impatient};
use crate::waiting::until;
use crate::waiting::{
    self, at_rest, cmd, dropped_after, echo, field, give_up, id, poll_once, soon,
};
use crate::{POLLS, pool};

#[tokio::test]
async fn a_blocking_command_that_was_dropped_never_answers_the_next_lease() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    for _ in 0..3 {
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        give_up(&server, &mut lease, "BLPOP list 0").await;
        drop(lease);

        let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

        server.admin().text(&["RPUSH", "list", "stray"]);
        let answer = echo(&mut next, "mine").await.unwrap();
        assert_eq!(answer, "mine");
        drop(next);
        server.admin().text(&["DEL", "list"]);
    }
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_slow_command_that_was_dropped_never_answers_the_next_lease() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    for polls in 0..POLLS {
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        give_up(&server, &mut lease, "DEBUG SLEEP 0.02").await;
        dropped_after(polls, lease.get::<_, Option<String>>("k")).await;
        drop(lease);

        let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

        let answer = echo(&mut next, "mine").await.unwrap();
        assert_eq!(answer, "mine", "after {polls} polls");
    }
}

#[tokio::test]
async fn after_a_dropped_command_the_same_lease_gets_its_own_replies() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let mut lease = pool.acquire("test").await.unwrap();
    for polls in 0..POLLS {
        let _: Option<redis::RedisResult<String>> =
            dropped_after(polls, echo(&mut lease, "stray")).await;
        assert_eq!(echo(&mut lease, "mine").await.unwrap(), "mine");
        give_up(&server, &mut lease, "ECHO stray").await;
        assert_eq!(echo(&mut lease, "mine").await.unwrap(), "mine");
    }
}

#[tokio::test]
async fn a_dropped_command_on_a_clean_connection_keeps_the_connection() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let mut lease = pool.acquire("test").await.unwrap();
    let before = id(&mut lease).await;
    give_up(&server, &mut lease, "GET k").await;
    drop(lease);

    let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

    assert_eq!(id(&mut next).await, before);
}

/// What a command does to its connection it does also when nobody waits for the reply.
async fn a_dropped_command_changes_nothing_for_the_next(command: &str) {
    let server = TestServer::start().unwrap();
    for resp in [Resp::Resp2, Resp::Resp3] {
        let url = server.url_with(support::Transport::Tcp, resp, support::Auth::None, 0);
        let pool = impatient(&url).client_name("tested").max_connections(1).build().unwrap();
        let mut lease = pool.acquire("test").await.unwrap();
        give_up(&server, &mut lease, command).await;
        drop(lease);

        let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

        let id = id(&mut next).await;
        let look = |name| field(&server, id, name).unwrap();
        let case = format!("{command} in {resp:?}");
        assert_eq!(look("db"), "0", "{case}");
        assert_eq!(look("name"), "tested", "{case}");
        assert_eq!((look("sub"), look("flags")), ("0".into(), "N".into()), "{case}");
        server.admin().text(&["SET", "watched", "changed"]);
        let done: Option<Vec<String>> = redis::pipe()
            .atomic()
            .add_command(cmd("ECHO done"))
            .query_async(&mut next)
            .await
            .unwrap();
        assert_eq!(done, Some(vec!["done".to_owned()]), "{case}");
        drop(next);
        soon("close", pool.close()).await;
    }
}

#[tokio::test]
async fn a_dropped_select_leaves_no_other_database_to_the_next_lease() {
    a_dropped_command_changes_nothing_for_the_next("SELECT 3").await;
}

#[tokio::test]
async fn a_dropped_multi_leaves_no_transaction_to_the_next_lease() {
    a_dropped_command_changes_nothing_for_the_next("MULTI").await;
}

#[tokio::test]
async fn a_dropped_watch_leaves_no_watched_key_to_the_next_lease() {
    a_dropped_command_changes_nothing_for_the_next("WATCH watched").await;
}

#[tokio::test]
async fn a_dropped_setname_leaves_no_other_name_to_the_next_lease() {
    a_dropped_command_changes_nothing_for_the_next("CLIENT SETNAME other").await;
}

#[tokio::test]
async fn a_dropped_subscribe_leaves_no_subscription_to_the_next_lease() {
    a_dropped_command_changes_nothing_for_the_next("SUBSCRIBE channel").await;
}

#[tokio::test]
async fn a_dropped_pipeline_leaves_nothing_of_it_to_the_next_lease() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let mut lease = pool.acquire("test").await.unwrap();
    let id = id(&mut lease).await;
    let mut pipeline = redis::pipe();
    pipeline.add_command(cmd("SELECT 3")).add_command(cmd("WATCH k"));
    let mut replies = Box::pin(pipeline.query_async::<()>(&mut lease));
    assert!(poll_once(&mut replies).is_pending());
    until("WATCH", &pool, || field(&server, id, "cmd").as_deref() == Some("watch")).await;
    drop(replies);
    drop(lease);

    let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

    let id = waiting::id(&mut next).await;
    assert_eq!(field(&server, id, "db").as_deref(), Some("0"));
}
