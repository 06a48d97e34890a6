//! What a shared connection does with the settings of the pool, with scripts and with pipelines.

use std::collections::HashMap;

use redis_guard::redis::aio::ConnectionLike;
use redis_guard::redis::{self, Script, Value};
use redis_guard::{AsyncCommands, GuardedPool};

use crate::support::{Auth, Resp, TestServer, Transport};
use crate::{NAME, ask, builder, pair, send};

const PASSWORD: &str = "p@ss word";

/// A pool on database 3, with a password.
fn pool(server: &TestServer, transport: Transport, resp: Resp) -> GuardedPool {
    let url = server.url_with(transport, resp, Auth::Password(PASSWORD), 3);
    builder(&url).build().unwrap()
}

#[tokio::test]
async fn protocol_password_database_and_name_are_the_pools() {
    let server = TestServer::builder().password(PASSWORD).start().unwrap();
    for transport in [Transport::Tcp, Transport::Unix] {
        for (resp, version) in [(Resp::Resp2, "2"), (Resp::Resp3, "3")] {
            let pool = pool(&server, transport, resp);
            let mut handle = pool.shared("search");

            let info: String = ask(&mut handle, "CLIENT INFO").await;

            let fields: HashMap<_, _> =
                info.split_whitespace().filter_map(|field| field.split_once('=')).collect();
            assert_eq!((fields["db"], fields["name"]), ("3", NAME), "{transport:?} {resp:?}");
            // Older servers do not tell.
            let told = fields.get("resp").copied();
            assert!(told.is_none_or(|told| told == version), "{transport:?} {resp:?}: {told:?}");
            assert_eq!(handle.get_db(), 3);
        }
    }
}

#[tokio::test]
async fn maps_doubles_and_nils_are_those_of_the_protocol() {
    let server = TestServer::builder().password(PASSWORD).start().unwrap();
    for resp in [Resp::Resp2, Resp::Resp3] {
        let pool = pool(&server, Transport::Tcp, resp);
        let mut handle = pool.shared("search");
        let _: () = ask(&mut handle, "HSET hash field value").await;
        let _: () = ask(&mut handle, "ZADD zset 1.5 member").await;

        let map = send(&mut handle, "HGETALL hash").await.unwrap();
        let score: f64 = ask(&mut handle, "ZSCORE zset member").await;

        assert_eq!(matches!(map, Value::Map(_)), resp == Resp::Resp3, "{map:?}");
        let map: HashMap<String, String> = redis::from_redis_value(map).unwrap();
        assert_eq!((map["field"].as_str(), score.to_string().as_str()), ("value", "1.5"));
        assert_eq!(send(&mut handle, "GET nothing").await.unwrap(), Value::Nil);
    }
}

#[tokio::test]
async fn scripts_are_loaded_and_run() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");

    let first: i64 = script.key("n").arg(2).invoke_async(&mut handle).await.unwrap();
    let second: i64 = script.key("n").arg(3).invoke_async(&mut handle).await.unwrap();
    server.admin().text(&["SCRIPT", "FLUSH"]);
    let third: i64 = script.key("n").arg(4).invoke_async(&mut handle).await.unwrap();

    assert_eq!((first, second, third), (2, 5, 9));
    assert_eq!(crate::endpoint(&pool, "search").acquired, 0, "over the lane");
}

#[tokio::test]
async fn pipelines_give_the_replies_that_are_wanted_of_them() {
    let (_server, pool) = pair();
    let mut handle = pool.shared("search");

    let told: (i64, i64) = redis::pipe()
        .set("n", 40)
        .ignore()
        .incr("n", 1)
        .incr("n", 1)
        .query_async(&mut handle)
        .await
        .unwrap();

    assert_eq!(told, (41, 42));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn atomic_pipelines_of_many_handles_do_not_mix() {
    let (_server, pool) = pair();
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let mut handle = pool.shared("search");
            tokio::spawn(async move {
                for _ in 0..50 {
                    let (before, after): (Option<i64>, i64) = redis::pipe()
                        .atomic()
                        .get("n")
                        .incr("n", 1)
                        .query_async(&mut handle)
                        .await
                        .unwrap();
                    assert_eq!(before.unwrap_or_default() + 1, after);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }

    assert_eq!(pool.shared("search").get::<_, i64>("n").await.unwrap(), 800);
    assert_eq!(pool.status().live, 1);
}

#[tokio::test]
async fn send_pipeline_gives_each_reply_and_that_of_exec_for_an_atomic_one() {
    let (_server, pool) = pair();
    let mut handle = pool.shared("search");
    let mut pipeline = redis::pipe();
    pipeline.set("k", 1).incr("k", 1);

    let each = handle.send_pipeline(&pipeline).await.unwrap();
    let exec = handle.send_pipeline(pipeline.atomic()).await.unwrap();

    assert_eq!(each, [Value::Okay, Value::Int(2)]);
    assert_eq!(exec, [Value::Array(vec![Value::Okay, Value::Int(2)])]);
}

#[tokio::test]
async fn the_servers_errors_are_its_own() {
    let (_server, pool) = pair();
    let mut handle = pool.shared("search");
    let _: () = ask(&mut handle, "SET k word").await;

    for (line, words) in [
        ("LPUSH k v", "WRONGTYPE"),
        ("INCR k", "not an integer"),
        ("GET", "wrong number of arguments"),
        ("NO-SUCH-COMMAND", "unknown command"),
    ] {
        let told = cmd_text(&mut handle, line).await;
        assert!(told.contains(words), "{line}: {told}");
    }
}

async fn cmd_text(handle: &mut redis_guard::SharedConnection, line: &str) -> String {
    let cmd = crate::waiting::cmd(line);
    let told = cmd.query_async::<Value>(handle).await;
    format!("{told:?}")
}
