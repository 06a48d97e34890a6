//! What looks as if it changed the connection, and does not: it goes over the lane.

use futures_util::future::join_all;
use redis_guard::GuardedPool;
use redis_guard::redis::{self, ErrorKind, FromRedisValue, Pipeline, Value};

use crate::support::{Auth, Resp, TestServer, Transport};
use crate::waiting::{cmd, soon};
use crate::{NAME, ask, builder, endpoint, lane_id, pair, send};

fn pipeline(lines: &[&str]) -> Pipeline {
    let mut pipeline = redis::pipe();
    for line in lines {
        pipeline.add_command(cmd(line));
    }
    pipeline
}

/// All of it went over the one lane.
fn assert_shared(pool: &GuardedPool) {
    assert_eq!((endpoint(pool, "test").acquired, pool.status().live), (0, 1));
}

#[tokio::test]
async fn what_changes_nothing_goes_over_the_lane() {
    let server = TestServer::start().unwrap();
    for (resp, db) in [(Resp::Resp2, 0), (Resp::Resp3, 0), (Resp::Resp2, 3), (Resp::Resp3, 3)] {
        let url = server.url_with(Transport::Tcp, resp, Auth::None, db);
        let pool = builder(&url).build().unwrap();
        let mut handle = pool.shared("test");

        assert_eq!(ask::<Value>(&mut handle, "UNWATCH").await, Value::Okay);
        assert_eq!(ask::<Value>(&mut handle, &format!("SELECT {db}")).await, Value::Okay);
        assert_eq!(ask::<String>(&mut handle, "CLIENT GETNAME").await, NAME);
        let hello: std::collections::HashMap<String, Value> = ask(&mut handle, "HELLO").await;
        assert_eq!(hello["proto"], Value::Int(if resp == Resp::Resp3 { 3 } else { 2 }));
        for line in [format!("SELECT {}", db + 1), "HELLO 3".to_owned()] {
            let told = send(&mut handle, &line).await.unwrap_err();
            assert!(told.to_string().contains("use `acquire`"), "{line}: {told}");
        }
        assert_shared(&pool);
    }
}

#[tokio::test]
async fn a_pipeline_with_all_of_a_transaction_is_answered_as_on_a_lease() {
    let (_server, pool) = pair();
    let mut handle = pool.shared("test");
    for lines in [
        &["MULTI", "INCR n", "GET n", "EXEC"][..],
        &["SET a 1", "MULTI", "INCR a", "EXEC", "GET a", "multi", "exec"],
        &["MULTI", "INCR a", "DISCARD", "GET a"],
        &["MULTI", "NOSUCH", "EXEC", "GET a"],
        &["MULTI", "LPUSH a x", "EXEC"],
        &["SELECT 0", "MULTI", "SELECT 0", "EXEC", "UNWATCH"],
    ] {
        let pipeline = pipeline(lines);
        let mut over = Vec::new();
        for shared in [true, false] {
            let () = ask(&mut handle, "MSET n 1 a 1").await;
            over.push(match shared {
                true => replies(&pipeline, &mut handle).await,
                false => {
                    let mut lease = pool.acquire("lease").await.unwrap();
                    replies(&pipeline, &mut lease).await
                }
            });
        }
        assert_eq!(over[0], over[1], "{lines:?}");
    }
    assert_eq!(endpoint(&pool, "test").acquired, 0);
}

/// Each reply, an error's text among them.
async fn replies(pipeline: &Pipeline, on: &mut impl redis::aio::ConnectionLike) -> Vec<String> {
    let all = on.req_packed_commands(pipeline, 0, pipeline.len()).await.unwrap();
    all.iter().map(|reply| format!("{reply:?}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_in_between_the_commands_of_a_transaction() {
    let (_server, pool) = pair();
    let tasks = (0..8).map(|task| {
        let (mut own, mut other) = (pool.shared("test"), pool.shared("test"));
        tokio::spawn(async move {
            let transaction = pipeline(&["MULTI", "INCR a", "INCR b", "EXEC"]);
            for _ in 0..100 {
                let mut told = own.send_pipeline(&transaction).await.unwrap();
                let (a, b) = <(i64, i64)>::from_redis_value(told.remove(3)).unwrap();
                assert_eq!(a, b);
                let key = format!("own-{task}");
                let () = ask(&mut other, &format!("SET {key} {a}")).await;
                assert_eq!(ask::<i64>(&mut other, &format!("GET {key}")).await, a);
            }
        })
    });
    for ended in soon("the tasks", join_all(tasks)).await {
        ended.unwrap();
    }
    assert_eq!(ask::<i64>(&mut pool.shared("test"), "GET a").await, 800);
    assert_shared(&pool);
}

#[tokio::test]
async fn a_transaction_that_does_not_end_is_refused_before_it_is_sent() {
    let (server, pool) = pair();
    let mut handle = pool.shared("test");
    let id = lane_id(&mut handle).await;
    for lines in [
        &["MULTI", "INCR n"][..],
        &["MULTI", "MULTI", "INCR n", "EXEC"],
        &["MULTI", "INCR n", "EXEC now"],
        &["WATCH n", "MULTI", "INCR n", "EXEC"],
        &["MULTI", "SELECT 1", "EXEC"],
        &["INCR n", "EXEC"],
    ] {
        let told = handle.send_pipeline(&pipeline(lines)).await.unwrap_err();
        let told = redis::RedisError::from(told);
        assert_eq!(told.kind(), ErrorKind::Client, "{lines:?}: {told}");
        assert!(told.to_string().contains("use `acquire`"), "{lines:?}: {told}");
    }
    let stats = server.admin().text(&["INFO", "commandstats"]);
    assert!(!stats.contains("cmdstat_incr") && !stats.contains("cmdstat_multi"), "{stats}");
    assert_eq!(lane_id(&mut handle).await, id);
}
