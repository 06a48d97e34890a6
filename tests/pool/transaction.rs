//! Transactions on watched keys.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::redis::{self, AsyncCommands, ErrorKind, RedisError, RedisResult};
use redis_guard::{Budget, Error, GuardedPool, GuardedPoolBuilder};
use tokio::time::sleep;

use crate::support::{TestServer, impatient};
use crate::waiting::{clients, cmd, dropped_after, poll_once, soon, until};

/// What a pool makes of it at the most.
const ATTEMPTS: u32 = 32;

/// A pool whose leases are exclusive, and one whose leases share, each on a server of its own.
fn both(
    settings: impl Fn(GuardedPoolBuilder) -> GuardedPoolBuilder,
) -> [(TestServer, GuardedPool); 2] {
    [false, true].map(|multiplex| {
        let server = TestServer::start().unwrap();
        let builder = impatient(&server.url()).max_connections(8).multiplex(multiplex);
        let pool = settings(builder).build().unwrap();
        (server, pool)
    })
}

/// Somebody else writes, for whoever watches the key to hear of.
fn write(server: &TestServer, key: &str, value: &str) {
    server.admin().text(&["SET", key, value]);
}

/// What is read decides what is written.
async fn increment(pool: &GuardedPool) -> Result<i64, Error> {
    let told = pool.transaction("test", &["n"], async |conn, pipe| {
        let n: Option<i64> = conn.get("n").await?;
        pipe.set("n", n.unwrap_or(0) + 1)
            .ignore()
            .get("n")
            .query_async::<Option<(i64,)>>(conn)
            .await
    });
    Ok(told.await?.0)
}

/// The connections of the pool watch nothing: a transaction on each is executed although `n` changes.
async fn nothing_is_watched(pool: &GuardedPool, server: &TestServer) {
    until("rest", pool, || {
        let status = pool.status();
        let lanes = status.lanes.iter().filter(|lane| lane.up).count();
        status.waiting + status.dialing == 0
            && (status.in_use, status.idle + lanes) == (lanes, status.live)
            && status.live == clients(server)
    })
    .await;
    let mut leases = Vec::new();
    for _ in 0..pool.status().idle {
        let mut lease = soon("a lease", pool.acquire("check")).await.unwrap();
        soon("its connection", lease.make_exclusive()).await.unwrap();
        leases.push(lease);
    }
    write(server, "n", "changed");
    for lease in &mut leases {
        let mut pipe = redis::pipe();
        let told: Option<(String,)> = pipe.atomic().get("n").query_async(lease).await.unwrap();
        assert_eq!(told, Some(("changed".to_owned(),)), "it was watched");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_do_at_a_time_is_done_one_after_the_other() {
    for (server, pool) in both(|builder| builder) {
        let tasks = (0..4).map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    increment(&pool).await.unwrap();
                }
            })
        });
        for task in soon("the tasks", join_all(tasks)).await {
            task.unwrap();
        }
        assert_eq!(server.admin().text(&["GET", "n"]), "40");
        nothing_is_watched(&pool, &server).await;
    }
}

#[tokio::test]
async fn it_is_done_again_when_a_watched_key_has_changed() {
    for (server, pool) in both(|builder| builder) {
        write(&server, "n", "0");
        let mut attempts = 0;
        let told = pool.transaction("test", &["other", "n"], async |conn, pipe| {
            attempts += 1;
            let n: i64 = conn.get("n").await?;
            if attempts < 3 {
                write(&server, "n", &(10 * attempts).to_string());
            }
            pipe.set("n", n + 1).ignore().query_async::<Option<()>>(conn).await
        });
        soon("the transaction", told).await.unwrap();

        assert_eq!((attempts, server.admin().text(&["GET", "n"])), (3, "21".to_owned()));
        nothing_is_watched(&pool, &server).await;
    }
}

#[tokio::test]
async fn it_is_given_up_after_so_many_attempts() {
    for (server, pool) in both(|builder| builder) {
        let mut attempts = 0;
        let told = pool.transaction("test", &["n"], async |conn, pipe| {
            attempts += 1;
            write(&server, "n", &attempts.to_string());
            pipe.set("n", "mine").ignore().query_async::<Option<()>>(conn).await
        });
        let error = RedisError::from(soon("the end", told).await.unwrap_err());

        assert_eq!((attempts, error.kind()), (ATTEMPTS, ErrorKind::Client), "{error}");
        assert!(error.to_string().contains("in each of 32 attempts"), "{error}");
        assert_eq!(server.admin().text(&["GET", "n"]), ATTEMPTS.to_string());
        nothing_is_watched(&pool, &server).await;
    }
}

#[tokio::test]
async fn nothing_stays_watched_however_it_ends() {
    for (server, pool) in both(|builder| builder) {
        write(&server, "n", "0");
        // Without its pipeline, …
        let told =
            pool.transaction("test", &["n"], async |conn, _| conn.get::<_, Option<i64>>("n").await);
        assert_eq!(soon("the value", told).await.unwrap(), 0);
        nothing_is_watched(&pool, &server).await;

        // … with an error, …
        let told = pool.transaction("test", &["n"], async |conn, _| -> RedisResult<Option<()>> {
            conn.lpush("n", 1).await
        });
        let error = RedisError::from(soon("the error", told).await.unwrap_err());
        assert_eq!(error.code(), Some("WRONGTYPE"), "{error}");
        nothing_is_watched(&pool, &server).await;

        // … with a transaction of its own left open, …
        let told = pool.transaction("test", &["n"], async |conn, _| {
            let () = cmd("MULTI").query_async(conn).await?;
            Ok(Some(()))
        });
        soon("the end", told).await.unwrap();
        nothing_is_watched(&pool, &server).await;

        // … and where the caller has lost patience, at whatever point.
        for polls in 0..12 {
            let n = ["n"];
            let told = pool.transaction("test", &n, async |conn, pipe| {
                let _: String = conn.get("n").await?;
                pipe.get("n").query_async::<Option<(String,)>>(conn).await
            });
            let _ = soon("some polls", dropped_after(polls, told)).await;
            nothing_is_watched(&pool, &server).await;
        }
    }
}

#[tokio::test]
async fn the_connection_is_anybodys_between_two_attempts() {
    let [(server, pool), _] = both(|builder| builder.max_connections(1));
    let mut waiting = None;
    let told = pool.transaction("test", &["n"], async |conn, pipe| {
        if waiting.is_none() {
            let mut other = Box::pin(pool.acquire("other"));
            assert!(poll_once(&mut other).is_pending());
            waiting = Some(tokio::spawn(other));
            write(&server, "n", "7");
        }
        pipe.get("n").query_async::<Option<(String,)>>(conn).await
    });
    let mut told = Box::pin(told);
    tokio::select! {
        told = &mut told => panic!("while another has the connection: {told:?}"),
        () = sleep(Duration::from_millis(200)) => {}
    }
    drop(told);
    drop(soon("the lease", waiting.unwrap()).await.unwrap().unwrap());
    assert_eq!(soon("another", increment(&pool)).await.unwrap(), 8);
}

#[tokio::test]
async fn without_a_key_nothing_is_sent() {
    let [(_server, pool), _] = both(|builder| builder);
    let none: [&str; 0] = [];
    let told = pool.transaction("test", &none, async |_, _| Ok(Some(())));
    let error = RedisError::from(told.await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Client);
    assert!(error.to_string().contains("at least one key"), "{error}");
    assert!(pool.status().dials.values().all(|dials| *dials == 0));
}

#[tokio::test]
async fn a_refusal_is_the_guards_own() {
    for (_server, pool) in both(|builder| {
        let builder = builder.acquire_timeout(Duration::from_millis(250));
        builder.endpoint("test", Budget::max(1))
    }) {
        pool.warm_up(3).await.unwrap();
        let mut holder = pool.acquire("test").await.unwrap();
        holder.make_exclusive().await.unwrap();
        let error = soon("the refusal", increment(&pool)).await.unwrap_err();
        assert_eq!(error.reason(), "budget_exhausted", "{error}");
    }
}

#[tokio::test]
async fn whoever_watches_on_a_shared_handle_is_told_of_it() {
    let [(_server, pool), _] = both(|builder| builder);
    let told = pool.shared("test").send(&cmd("WATCH n")).await.unwrap_err();
    assert!(told.to_string().contains("`GuardedPool::transaction`"), "{told}");
}

/// The keys may be whatever redis-rs takes.
#[tokio::test]
async fn keys_of_all_kinds() {
    let [(server, pool), _] = both(|builder| builder);
    let (strings, bytes) = (vec!["a".to_owned(), "n".to_owned()], [b"n".as_slice()]);
    for round in 0..2 {
        let mut attempts = 0;
        let mut change = || {
            attempts += 1;
            if attempts == 1 {
                write(&server, "n", &attempts.to_string());
            }
        };
        match round {
            0 => {
                let told = pool.transaction("test", &strings, async |conn, pipe| {
                    change();
                    pipe.get("n").query_async::<Option<(String,)>>(conn).await
                });
                told.await.unwrap();
            }
            _ => {
                let told = pool.transaction("test", &bytes, async |conn, pipe| {
                    change();
                    pipe.get("n").query_async::<Option<(String,)>>(conn).await
                });
                told.await.unwrap();
            }
        }
        assert_eq!(attempts, 2);
    }
    until("rest", &pool, || pool.status().in_use == 0).await;
}
