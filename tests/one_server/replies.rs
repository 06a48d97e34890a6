//! What a server says of itself in the reply to a command is heard, on whichever connection.

use std::time::Duration;

use redis_guard::{Event, GuardedPool, LimitedBy, redis};
use tokio::time::{Instant, sleep};

use crate::fake::Fake;
use crate::support::TestServer;
use crate::support::log::Log;
use crate::waiting::{cmd, next, soon, until};
use crate::{NEVER, WORDS};

/// So full that no look at it lifts a limit.
const FULL: &str = "connected_clients:1000 maxclients:1000 rejected_connections:0";

/// How a command reaches the server.
#[derive(Clone, Copy, Debug)]
enum Form {
    Lease,
    LeasePipeline,
    Shared,
    SharedPipeline,
}

const FORMS: [Form; 4] = [Form::Lease, Form::LeasePipeline, Form::Shared, Form::SharedPipeline];

/// Sends it; what came back, if it is an error.
async fn send(pool: &GuardedPool, form: Form, line: &str) -> Option<redis::RedisError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("PING").add_command(cmd(line)).cmd("PING");
    let command = cmd(line);
    let reply = match form {
        Form::Lease => {
            let mut lease = pool.acquire("test").await.unwrap();
            command.query_async::<redis::Value>(&mut lease).await
        }
        Form::LeasePipeline => {
            let mut lease = pool.acquire("test").await.unwrap();
            pipeline.query_async(&mut lease).await
        }
        Form::Shared => command.query_async(&mut pool.shared("test")).await,
        Form::SharedPipeline => pipeline.query_async(&mut pool.shared("test")).await,
    };
    reply.err()
}

fn errors(pool: &GuardedPool) -> Vec<(&'static str, u64)> {
    pool.status().server_errors.into_iter().collect()
}

/// A server that is well, but answers a script as a full one behind a proxy does; a pool at it with
/// two connections, one of them shared.
async fn refused_in_a_reply() -> (Fake, GuardedPool) {
    let fake = Fake::start(FULL).await;
    fake.replies_to_scripts(&format!("-{WORDS}\r\n"));
    let builder = GuardedPool::builder(fake.url()).max_connections(8).adaptive_limit(false);
    let pool = builder.acquire_timeout(NEVER).build().unwrap();
    pool.warm_up(2).await.unwrap();
    let _: redis::Value = cmd("PING").query_async(&mut pool.shared("test")).await.unwrap();
    until("the first word", &pool, || pool.status().watch.observation.is_some()).await;
    (fake, pool)
}

#[tokio::test]
async fn a_refusal_in_a_reply_is_counted_and_freezes_the_limit() {
    for form in FORMS {
        let (_fake, pool) = refused_in_a_reply().await;
        let live = pool.status().live;

        let error = soon("a reply", send(&pool, form, "EVAL script 0")).await.expect("an error");

        assert!(error.to_string().contains("max number of clients"), "{form:?}: {error}");
        assert_eq!(errors(&pool), [("max_clients", 1)], "{form:?}");
        let status = pool.status();
        assert_eq!((status.limit, status.limited_by), (live, LimitedBy::Refused), "{form:?}");
        assert_eq!(status.live, live, "what works stays");
    }
}

/// Other pools of the process need not find out for themselves.
#[tokio::test]
async fn a_refusal_in_a_reply_keeps_the_other_pools_from_dialing() {
    let (fake, pool) = refused_in_a_reply().await;
    let builder = GuardedPool::builder(fake.url()).max_connections(8).adaptive_limit(false);
    let other = builder.acquire_timeout(NEVER).build().unwrap();
    other.warm_up(1).await.unwrap();
    let _lease = other.acquire("test").await.unwrap();
    soon("a reply", send(&pool, Form::Lease, "EVAL script 0")).await.expect("an error");
    let accepted = fake.accepted();

    let _waiter = tokio::spawn(crate::waiter(&other));

    until("its limit frozen", &other, || other.status().limited_by == LimitedBy::Refused).await;
    assert_eq!(fake.accepted(), accepted);
}

#[tokio::test]
async fn a_refusal_in_a_reply_is_told_once_in_the_log() {
    let (_fake, pool) = refused_in_a_reply().await;
    let log = Log::default();
    let listening = log.listen(tracing::Level::INFO);

    for form in FORMS.into_iter().chain(FORMS) {
        soon("a reply", send(&pool, form, "EVAL script 0")).await.expect("an error");
    }

    drop(listening);
    assert_eq!(errors(&pool), [("max_clients", 8)]);
    let lines = log.lines("error replies about the server");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains(WORDS) && lines[0].contains("max_clients"), "{lines:#?}");
}

/// A proxy that answers every command so says the same with each.
#[tokio::test]
async fn a_hundred_such_replies_in_a_second_do_not_make_the_watch_ask_a_hundred_times() {
    let (fake, pool) = refused_in_a_reply().await;
    let (asked, begun) = (fake.infos(), Instant::now());

    let mut replies = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        soon("a reply", send(&pool, Form::Lease, "EVAL script 0")).await.expect("an error");
        replies += 1;
        sleep(Duration::from_millis(10)).await;
    }

    let more = fake.infos() - asked;
    println!("{more} questions for {replies} such replies");
    assert!(more <= 10, "{more} questions for {replies} such replies, in a second");
}

/// However many come: only the watch can say that it is over.
#[tokio::test]
async fn the_watch_goes_on_asking_under_a_stream_of_such_replies() {
    let (fake, pool) = refused_in_a_reply().await;
    soon("a reply", send(&pool, Form::Lease, "EVAL script 0")).await.expect("an error");
    let (asked, begun) = (fake.infos(), Instant::now());

    let stream = async {
        while fake.infos() < asked + 2 {
            send(&pool, Form::Lease, "EVAL script 0").await.expect("an error");
        }
    };

    soon("the second question", stream).await;
    println!("asked twice in {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_replica_that_is_sent_a_write_is_heard() {
    let (master, replica) = (TestServer::start().unwrap(), TestServer::start().unwrap());
    let port = master.port().to_string();
    replica.admin().text(&["REPLICAOF", "127.0.0.1", &port]);
    let pool = GuardedPool::builder(replica.url()).build().unwrap();
    for (form, count) in FORMS.into_iter().zip(1..) {
        let error = soon("a reply", send(&pool, form, "SET key value")).await.expect("an error");

        assert!(error.to_string().contains("read only replica"), "{form:?}: {error}");
        assert_eq!(errors(&pool), [("readonly", count)], "{form:?}");
    }
}

/// Inside MULTI the server says so when the command is queued, and EXEC says something else.
#[tokio::test]
async fn a_replica_that_is_sent_a_transaction_is_heard() {
    let (master, replica) = (TestServer::start().unwrap(), TestServer::start().unwrap());
    let port = master.port().to_string();
    replica.admin().text(&["REPLICAOF", "127.0.0.1", &port]);
    let pool = GuardedPool::builder(replica.url()).build().unwrap();
    let mut transaction = redis::pipe();
    transaction.atomic().set("key", "value").get("key");

    let mut lease = pool.acquire("test").await.unwrap();
    let reply = transaction.query_async::<redis::Value>(&mut lease).await;
    println!("{reply:?}");
    assert!(reply.is_err());
    assert_eq!(errors(&pool), [("readonly", 1)]);

    let reply = transaction.query_async::<redis::Value>(&mut pool.shared("test")).await;
    assert!(reply.is_err());
    assert_eq!(errors(&pool), [("readonly", 2)]);
}

#[tokio::test]
async fn an_error_of_the_command_counts_nowhere() {
    let server = TestServer::start().unwrap();
    let pool = GuardedPool::builder(server.url()).build().unwrap();
    let mut events = pool.events();
    server.admin().text(&["SET", "text", "value"]);
    for form in FORMS {
        let error = soon("a reply", send(&pool, form, "LPUSH text item")).await.expect("an error");
        assert!(error.to_string().contains("WRONGTYPE"), "{form:?}: {error}");
    }

    assert_eq!(errors(&pool), []);
    assert_ne!(pool.status().limited_by, LimitedBy::Refused);
    assert_eq!(crate::transitions(&pool), []);
    pool.close().await;
    drop(pool);
    // Nothing but a pool's ordinary life.
    let last = next("the last close", &mut events, |event| {
        assert!(!matches!(event, Event::DialFailed { .. } | Event::BreakerChanged { .. }));
        matches!(event, Event::ConnectionClosed { .. })
    });
    last.await;
}
