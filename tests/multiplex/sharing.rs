//! Leases that need no connection: how they share.

use futures_util::future::join_all;
use redis_guard::AsyncCommands;
use redis_guard::redis::{Script, Value, pipe};

use crate::support::dials;
use crate::waiting::{poll_once, soon, until};
use crate::{
    ask, at_rest, builder, connections, endpoint, hold_writes, ids, lanes_up, lease, leases,
    let_writes_go, pair, pair_with, send, until_read,
};

/// Far more than the pool has connections.
const MANY: usize = 200;

#[tokio::test]
async fn many_leases_at_once_send_over_one_socket() {
    let (server, pool) = pair();
    let all = join_all((0..MANY).map(|_| pool.acquire("search"))).await;
    let mut all: Vec<_> = all.into_iter().map(Result::unwrap).collect();

    let told = all.iter_mut().enumerate().map(|(at, lease)| async move {
        let () = ask(lease, &format!("SET key:{at} {at}")).await;
        ask::<usize>(lease, &format!("GET key:{at}")).await
    });
    let told = soon("all answers", join_all(told)).await;

    assert_eq!(told, (0..MANY).collect::<Vec<_>>(), "to each its own");
    assert!(all.iter().all(|lease| !lease.is_exclusive()));
    assert_eq!((connections(&server), pool.status().live), (1, 1));
    assert_eq!(dials(&pool), [("connected", 1)].into());
    assert_eq!(leases(&pool, "search"), (MANY, 0));
    assert_eq!(endpoint(&pool, "search").acquired, 0, "no connection was lent");
    drop(all);
    assert_eq!(leases(&pool, "search"), (0, 0));
    at_rest(&pool, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_come_and_go_on_many_threads_share_as_well() {
    let (server, pool) = pair();
    let callers = (0..32).map(|at: usize| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for turn in 0..20 {
                let mut lease = lease(&pool, ["cart", "search"][at % 2]).await;
                let text = format!("{at}-{turn}");
                assert_eq!(ask::<String>(&mut lease, &format!("ECHO {text}")).await, text);
            }
        })
    });

    soon("the callers", join_all(callers)).await.into_iter().for_each(Result::unwrap);

    at_rest(&pool, &server).await;
    assert_eq!((leases(&pool, "cart"), leases(&pool, "search")), ((0, 0), (0, 0)));
    assert_eq!((connections(&server), dials(&pool)), (1, [("connected", 1)].into()));
}

#[tokio::test]
async fn however_a_lease_is_come_by_it_shares() {
    let (server, pool) = pair();
    let mut all = vec![
        soon("acquire", pool.acquire("test")).await.unwrap(),
        soon("get", pool.get()).await.unwrap(),
        soon("acquire_for", pool.acquire_for("test", "key")).await.unwrap(),
        pool.try_acquire("test").unwrap(),
    ];

    for lease in &mut all {
        assert_eq!(ask::<String>(lease, "PING").await, "PONG");
        assert!(!lease.is_exclusive());
    }

    assert_eq!((leases(&pool, "test"), leases(&pool, "default")), ((3, 0), (1, 0)));
    assert_eq!(connections(&server), 1);
}

#[tokio::test]
async fn try_acquire_is_served_where_a_connection_is_idle_before_there_is_a_lane() {
    let (server, pool) = pair_with(|builder| builder.watch(false));
    pool.warm_up(1).await.unwrap();

    let mut lease = pool.try_acquire("test").unwrap();

    assert_eq!(ask::<String>(&mut lease, "PING").await, "PONG");
    assert_eq!((leases(&pool, "test"), connections(&server)), ((1, 0), 1));
}

#[tokio::test]
async fn they_spread_over_the_lanes() {
    let (server, pool) = pair_with(|builder| builder.shared_lanes(2));
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut lease = lease(&pool, "test").await;
        let _: String = ask(&mut lease, "PING").await;
        all.push(lease);
    }
    until("two lanes", &pool, || lanes_up(&pool) == 2).await;
    hold_writes(&server);
    let mut sending: Vec<_> = all.iter_mut().map(|lease| Box::pin(send(lease, "INCR n"))).collect();
    for sending in &mut sending {
        assert!(poll_once(sending).is_pending());
    }

    for id in ids(&server) {
        until_read(&server, &pool, id, "INCR n").await;
    }

    let_writes_go(&server);
    assert!(soon("all", join_all(sending)).await.iter().all(Result::is_ok));
    assert_eq!((connections(&server), leases(&pool, "test")), (2, (20, 0)));
}

#[tokio::test]
async fn pipelines_transactions_in_one_and_scripts_need_no_connection() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;

    let mut pipeline = pipe();
    pipeline.set("n", 1).ignore().incr("n", 2).get("n");
    let told: (i64, i64) = soon("a pipeline", pipeline.query_async(&mut lease)).await.unwrap();
    let mut atomic = pipe();
    atomic.atomic().incr("n", 1).ignore().get("n");
    let (n,): (i64,) = soon("MULTI", atomic.query_async(&mut lease)).await.unwrap();
    let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    let mut call = script.key("n");
    let by_script: i64 = soon("a script", call.arg(6).invoke_async(&mut lease)).await.unwrap();
    let got: i64 = soon("GET", lease.get("n")).await.unwrap();

    assert_eq!((told, n, by_script, got), ((3, 3), 4, 10, 10));
    assert!(!lease.is_exclusive());
    assert_eq!((connections(&server), leases(&pool, "test")), (1, (1, 0)));
}

#[tokio::test]
async fn an_error_of_the_server_is_the_answer_and_leaves_the_lease_as_it_is() {
    let (_server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    let () = ask(&mut lease, "SET key value").await;

    let told = crate::refused(&mut lease, "LPUSH key value").await;

    assert_eq!(told.code(), Some("WRONGTYPE"));
    assert_eq!(ask::<String>(&mut lease, "GET key").await, "value");
    assert!(!lease.is_exclusive());
}

/// The default: a lease is one connection, and nothing of it has changed.
#[tokio::test]
async fn without_the_setting_a_lease_is_one_connection_from_the_start() {
    let (server, pool) = pair_with(|builder| builder.multiplex(false));
    let mut all = [lease(&pool, "test").await, lease(&pool, "test").await];

    for lease in &mut all {
        assert!(lease.is_exclusive());
        lease.make_exclusive().await.unwrap();
        let _: Value = ask(lease, "PING").await;
    }

    assert_eq!((leases(&pool, "test"), connections(&server)), ((2, 2), 2));
    assert!(pool.status().lanes.is_empty());
    drop(all);
    assert_eq!(leases(&pool, "test"), (0, 0));
}

#[tokio::test]
async fn leases_and_handles_share_the_same_lanes() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    let () = ask(&mut lease, "SET key value").await;

    let told: String = soon("GET", pool.shared("test").get("key")).await.unwrap();

    assert_eq!((told.as_str(), connections(&server)), ("value", 1));
}

#[test]
fn a_lease_may_go_to_another_runtime() {
    let server = crate::TestServer::start().unwrap();
    let runtimes = [(); 2].map(|()| {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).enable_all().build().unwrap()
    });
    let pool = builder(&server.url()).build().unwrap();
    let mut lease = runtimes[0].block_on(lease(&pool, "test"));

    runtimes[1].block_on(async {
        let () = ask(&mut lease, "SET key value").await;
        let () = ask(&mut lease, "MULTI").await;
        let queued: String = ask(&mut lease, "GET key").await;
        let told: Vec<String> = ask(&mut lease, "EXEC").await;
        assert_eq!((queued.as_str(), told[0].as_str()), ("QUEUED", "value"));
    });
    drop(lease);

    assert_eq!(leases(&pool, "test"), (0, 0));
}
