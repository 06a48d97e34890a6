//! Whatever is dropped, and whenever: every count comes right, and so do the server's sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;
mod waiting;

use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedPool, redis};
use support::{Resp, TestServer, VendorScript, VendorServer, dials, impatient};
use tokio::runtime::{Builder, Runtime};
use waiting::{
    at_rest, clients, cmd, dropped_after, echo, field, give_up, id, poll_once, ready, soon, until,
};

/// More polls than any of the futures here needs to its end.
const POLLS: usize = 6;
/// More turns of the runtime than a dial needs to its end.
const TURNS: usize = 40;

fn pool(url: &str, connections: usize) -> GuardedPool {
    impatient(url).max_connections(connections).build().unwrap()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

// Acquire.

#[tokio::test]
async fn an_acquire_dropped_after_any_number_of_polls_leaves_every_count_right() {
    let server = TestServer::start().unwrap();
    for polls in 0..POLLS {
        let pool = pool(&server.url(), 2);

        drop(dropped_after(polls, pool.acquire("test")).await);

        at_rest(&pool, &server).await;
        drop(soon("the next caller", pool.acquire("test")).await.unwrap());
        soon("close", pool.close()).await;
    }
}

#[tokio::test]
async fn an_acquire_that_is_never_polled_dials_nothing() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);

    drop(pool.acquire("test"));

    let status = pool.status();
    assert_eq!((status.live, status.dialing, status.waiting), (0, 0, 0));
    assert!(status.endpoints.is_empty(), "nobody has called");
}

#[tokio::test]
async fn a_dropped_waiter_leaves_the_queue_and_the_next_one_moves_up() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let lease = pool.acquire("test").await.unwrap();
    let mut first = Box::pin(pool.acquire("test"));
    let mut second = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut first).is_pending() && poll_once(&mut second).is_pending());

    drop(first);

    assert_eq!(pool.status().waiting, 1);
    drop(lease);
    assert!(poll_once(&mut second).is_ready());
}

#[tokio::test]
async fn a_grant_that_was_sent_but_not_received_serves_the_next_waiter() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let lease = pool.acquire("test").await.unwrap();
    let mut first = Box::pin(pool.acquire("test"));
    let mut second = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut first).is_pending() && poll_once(&mut second).is_pending());
    drop(lease);
    assert_eq!((pool.status().in_use, pool.status().waiting), (1, 1), "the first has its grant");

    drop(first);

    assert!(matches!(ready(second), Some(Ok(_))));
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_grant_that_nobody_receives_goes_back_to_the_pool() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let lease = pool.acquire("test").await.unwrap();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    drop(lease);

    drop(waiter);

    let status = pool.status();
    assert_eq!((status.in_use, status.waiting, status.idle, status.live), (0, 0, 1, 1));
}

#[tokio::test]
async fn a_grant_whose_connection_died_before_it_was_received_is_made_good() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let mut events = pool.events();
    let mut lease = pool.acquire("test").await.unwrap();
    let id = id(&mut lease).await;
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    drop(lease);
    server.admin().text(&["CLIENT", "KILL", "ID", &id.to_string()]);
    waiting::next_close(&mut events).await;

    let mut lease = soon("another connection", waiter).await.unwrap();

    assert_ne!(waiting::id(&mut lease).await, id);
    drop(lease);
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_thousand_waiters_dropped_in_any_order_leave_an_empty_queue() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let lease = pool.acquire("test").await.unwrap();
    let mut waiters: Vec<_> = (0..1_000).map(|_| Box::pin(pool.acquire("test"))).collect();
    assert!(waiters.iter_mut().all(|waiter| poll_once(waiter).is_pending()));
    assert_eq!(pool.status().waiting, 1_000);

    fastrand::Rng::with_seed(7).shuffle(&mut waiters);
    drop(lease);
    drop(waiters);

    at_rest(&pool, &server).await;
}

// The dial.

/// Two scripts in which a dial hangs: before the first byte, and in the middle of an answer.
const HANGING: [VendorScript; 2] = [VendorScript::Nothing, VendorScript::HalfLine];

#[tokio::test]
async fn a_dial_goes_on_without_the_caller_that_wanted_it_and_ends_at_its_timeout() {
    for script in HANGING {
        let server = VendorServer::start(script).await.unwrap();
        let builder = impatient(&server.url()).connect_timeout(Duration::from_millis(100));
        let pool = builder.build().unwrap();
        let mut caller = Box::pin(pool.acquire("test"));
        assert!(poll_once(&mut caller).is_pending());
        until("the dial", &pool, || server.accepted() == 1).await;

        drop(caller);

        let status = pool.status();
        assert_eq!((status.waiting, status.dialing, status.live), (0, 1, 0), "{script:?}");
        until("the timeout", &pool, || pool.status().dialing == 0).await;
        soon("the socket's end", server.all_closed()).await;
        assert_eq!(dials(&pool), [("timeout", 1)].into(), "{script:?}");
        assert_eq!(server.accepted(), 1, "{script:?}: nobody wanted a second dial");
    }
}

#[test]
fn a_dial_dropped_in_its_handshake_with_its_runtime_closes_its_socket() {
    for script in HANGING {
        let servers = runtime();
        let server = servers.block_on(VendorServer::start(script)).unwrap();
        let pool = pool(&server.url(), 2);
        let callers = runtime();
        callers.block_on(async {
            let mut caller = Box::pin(pool.acquire("test"));
            assert!(poll_once(&mut caller).is_pending());
            tokio::task::yield_now().await;
            assert_eq!(pool.status().dialing, 1);
        });

        drop(callers);

        let status = pool.status();
        assert_eq!((status.waiting, status.dialing, status.live), (0, 0, 0), "{script:?}");
        servers.block_on(soon("the socket's end", server.all_closed()));
    }
}

#[test]
fn a_dial_dropped_at_any_of_its_await_points_leaves_every_count_right() {
    let server = TestServer::start().unwrap();
    for resp in [Resp::Resp2, Resp::Resp3] {
        let url = server.url_with(support::Transport::Tcp, resp, support::Auth::None, 1);
        let mut reached_the_end = false;
        for turns in 0..TURNS {
            let pool = pool(&url, 2);
            let first = runtime();
            first.block_on(async {
                let mut caller = Box::pin(pool.acquire("test"));
                assert!(poll_once(&mut caller).is_pending());
                for _ in 0..turns {
                    // A turn of the runtime with a look at its sockets.
                    tokio::time::sleep(Duration::from_micros(50)).await;
                }
            });
            reached_the_end |= pool.status().live == 1;

            drop(first);

            let status = pool.status();
            let counts = (status.waiting, status.dialing, status.in_use, status.live, status.idle);
            assert_eq!(counts, (0, 0, 0, 0, 0), "{resp:?} after {turns} turns");
            runtime().block_on(async {
                until("no client", &pool, || clients(&server) == 0).await;
                let lease = soon("a caller of another runtime", pool.acquire("test")).await;
                drop(lease.unwrap());
                soon("close", pool.close()).await;
            });
        }
        assert!(reached_the_end, "{TURNS} turns are enough for a dial");
    }
}

#[test]
fn a_caller_that_outlives_the_runtime_of_its_dial_is_served_by_the_next_runtime() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);
    let first = runtime();
    let mut caller = first.block_on(async {
        let mut caller = Box::pin(pool.acquire("test"));
        assert!(poll_once(&mut caller).is_pending());
        caller
    });
    drop(first);
    drop(caller.as_mut());

    runtime().block_on(async {
        drop(soon("a new caller", pool.acquire("test")).await.unwrap());
    });
}

#[test]
fn a_dial_wanted_while_no_runtime_runs_is_made_by_the_next_one() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);
    let first = runtime();
    first.block_on(async { drop(pool.acquire("test").await.unwrap()) });
    drop(first);

    // Nothing is live now, so this asks for a dial, which no runtime can make.
    pool.try_acquire("test").unwrap_err();

    runtime().block_on(async {
        let served = soon("a caller in a new runtime", pool.acquire("test")).await;
        drop(served.unwrap());
    });
}

// Commands.

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
        let builder = impatient(&url).client_name("tested").max_connections(1);
        let pool = builder.response_timeout(Duration::from_millis(200)).build().unwrap();
        let mut lease = pool.acquire("test").await.unwrap();
        give_up(&server, &mut lease, command).await;
        drop(lease);

        let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

        let id = id(&mut next).await;
        let look = |name| field(&server, id, name).unwrap();
        let case = format!("{command} in {resp:?}");
        assert_eq!(look("db"), "0", "{case}");
        assert_eq!(look("name"), "tested", "{case}");
        assert_eq!((look("sub"), look("multi")), ("0".into(), "-1".into()), "{case}");
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

// The pool itself.

#[tokio::test]
async fn a_warm_up_dropped_after_any_number_of_polls_stops_dialing_and_keeps_what_is_live() {
    let server = TestServer::start().unwrap();
    for polls in 0..POLLS {
        let pool = pool(&server.url(), 4);

        let done = dropped_after(polls, pool.warm_up(4)).await.map(Result::unwrap);

        at_rest(&pool, &server).await;
        let status = pool.status();
        assert!(done.is_none() || status.live == 4, "{done:?} after {polls} polls");
        assert!(status.live <= polls.min(4), "{} live after {polls} polls", status.live);
        soon("close", pool.close()).await;
    }
}

#[tokio::test]
async fn a_close_dropped_after_any_number_of_polls_leaves_the_pool_closed() {
    let server = TestServer::start().unwrap();
    for polls in 1..POLLS {
        let pool = pool(&server.url(), 4);
        pool.warm_up(4).await.unwrap();
        let lease = pool.acquire("test").await.unwrap();

        assert!(dropped_after(polls.min(2), pool.close()).await.is_none());

        assert_eq!(pool.acquire("test").await.unwrap_err().reason(), "closed");
        until("the idle ones closed", &pool, || clients(&server) == 1).await;
        drop(lease);
        until("the lease's connection closed", &pool, || clients(&server) == 0).await;
        at_rest(&pool, &server).await;
        assert_eq!(pool.status().live, 0);
    }
}

#[tokio::test]
async fn a_close_that_is_never_polled_closes_nothing() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);

    drop(pool.close());

    drop(pool.acquire("test").await.unwrap());
}

#[tokio::test]
async fn a_health_check_dropped_after_any_number_of_polls_leaves_every_count_right() {
    let server = TestServer::start().unwrap();
    for polls in 0..POLLS {
        let pool = pool(&server.url(), 2);
        drop(dropped_after(polls, pool.health()).await);
        at_rest(&pool, &server).await;
        soon("close", pool.close()).await;
    }
}

#[tokio::test]
async fn the_last_handle_closes_what_is_idle_at_once_and_each_lease_at_its_end() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 3);
    let mut events = pool.events();
    pool.warm_up(3).await.unwrap();
    let mut lease = pool.acquire("test").await.unwrap();

    drop(pool);

    waiting::next_close(&mut events).await;
    waiting::next_close(&mut events).await;
    let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
    drop(lease);
    waiting::next_close(&mut events).await;
    soon("the end of the events", async { while events.next().await.is_some() {} }).await;
    let gone = support::server::poll(waiting::HANG, || (clients(&server) == 0).then_some(()));
    assert!(gone.is_some(), "the server still has {} of our sockets", clients(&server));
}

#[tokio::test]
async fn a_waiter_of_a_dropped_pool_hears_that_it_is_closed() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 1);
    let _lease = pool.acquire("test").await.unwrap();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());

    drop(pool);

    assert_eq!(ready(waiter).unwrap().unwrap_err().reason(), "closed");
}

#[tokio::test]
async fn a_dial_that_ends_after_the_last_handle_has_gone_is_closed() {
    let server = TestServer::start().unwrap();
    for turns in 0..10 {
        let pool = pool(&server.url(), 1);
        let mut events = pool.events();
        let mut caller = Box::pin(pool.acquire("test"));
        assert!(poll_once(&mut caller).is_pending());
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }

        drop((caller, pool));

        soon("the end of the events", async { while events.next().await.is_some() {} }).await;
        let gone = support::server::poll(waiting::HANG, || (clients(&server) == 0).then_some(()));
        assert!(gone.is_some(), "a socket is left after {turns} turns");
    }
}

// Without a runtime.

/// A lease, with this done on it, dropped on a thread that is in no runtime; its own still runs,
/// or not. The counts come right, and the pool still serves.
fn a_lease_dropped_outside(command: &str, its_runtime_runs: bool) {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);
    let threads = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut lease = threads.block_on(pool.acquire("test")).unwrap();
    threads.block_on(cmd(command).query_async::<redis::Value>(&mut lease)).unwrap();
    let threads = its_runtime_runs.then_some(threads);

    std::thread::spawn(move || drop(lease)).join().expect("no panic");

    let next = runtime();
    next.block_on(async {
        at_rest(&pool, &server).await;
        assert_eq!(pool.status().live, usize::from(its_runtime_runs));
        drop(soon("the next caller", pool.acquire("test")).await.unwrap());
        soon("close", pool.close()).await;
        until("no client", &pool, || clients(&server) == 0).await;
    });
    drop(threads);
}

#[test]
fn a_lease_can_be_dropped_on_a_thread_without_a_runtime() {
    a_lease_dropped_outside("PING", true);
}

#[test]
fn a_dirty_lease_can_be_dropped_on_a_thread_without_a_runtime() {
    a_lease_dropped_outside("SELECT 3", true);
}

#[test]
fn a_lease_can_be_dropped_after_its_runtime_was_shut_down() {
    a_lease_dropped_outside("PING", false);
}

#[test]
fn a_dirty_lease_can_be_dropped_after_its_runtime_was_shut_down() {
    a_lease_dropped_outside("SELECT 3", false);
}

#[test]
fn the_pool_can_be_dropped_on_a_thread_without_a_runtime() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);
    let first = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    first.block_on(pool.warm_up(2)).unwrap();

    std::thread::spawn(move || drop(pool)).join().expect("no panic");

    let gone = support::server::poll(waiting::HANG, || (clients(&server) == 0).then_some(()));
    assert!(gone.is_some(), "the server still has {} of our sockets", clients(&server));
}
