//! The property: a shared and an exclusive connection give the same answers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use redis_guard::redis::aio::ConnectionLike;
use redis_guard::redis::{Pipeline, RedisResult, Script, Value};

use crate::builder;
use crate::support::{Auth, Resp, TestServer, Transport};
use crate::waiting::cmd;

/// One thing that a caller does.
#[derive(Clone, Debug)]
enum Step {
    Command(String),
    Pipeline { atomic: bool, lines: Vec<String> },
    Script { source: &'static str, key: &'static str, arg: i64 },
}

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// `K` and `L` are keys, `N` is a number.
const LINES: [&str; 44] = [
    "SET K N",
    "SET K word",
    "SET K N NX",
    "SET K N XX GET",
    "GET K",
    "GETDEL K",
    "GETSET K N",
    "INCR K",
    "INCRBY K N",
    "DECR K",
    "INCRBYFLOAT K 0.5",
    "APPEND K N",
    "STRLEN K",
    "DEL K",
    "DEL K L",
    "EXISTS K L",
    "TYPE K",
    "RENAME K L",
    "COPY K L",
    "PERSIST K",
    "MSET K N L N",
    "MGET K L",
    "LPUSH K N",
    "RPUSH K N N",
    "LPOP K",
    "RPOP K 2",
    "LLEN K",
    "LRANGE K 0 -1",
    "LMOVE K L LEFT RIGHT",
    "LINDEX K N",
    "HSET K f N",
    "HSET K g word",
    "HGET K f",
    "HGETALL K",
    "HINCRBY K f N",
    "HDEL K f",
    "HLEN K",
    "BLPOP K 0.001",
    "BLMOVE K L LEFT LEFT 0.001",
    "GET",
    "INCR K L",
    "NO-SUCH-COMMAND K",
    "ZADD K N m",
    "ZRANGE K 0 -1 WITHSCORES",
];

const SCRIPTS: [&str; 5] = [
    "return redis.call('INCRBY', KEYS[1], ARGV[1])",
    "return {redis.call('TYPE', KEYS[1]), ARGV[1], false, {1, 2}}",
    "return redis.pcall('LPUSH', KEYS[1], ARGV[1])",
    "return redis.error_reply('MY own words')",
    "return redis.call('NO-SUCH-COMMAND')",
];

fn line() -> impl Strategy<Value = String> {
    (select(&LINES[..]), select(&KEYS[..]), select(&KEYS[..]), -3_i64..100).prop_map(
        |(line, key, other, number)| {
            let words = line.split(' ').map(|word| match word {
                "K" => key.to_owned(),
                "L" => other.to_owned(),
                "N" => number.to_string(),
                word => word.to_owned(),
            });
            words.collect::<Vec<_>>().join(" ")
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let script = (select(&SCRIPTS[..]), select(&KEYS[..]), -3_i64..100);
    prop_oneof![
        6 => line().prop_map(Step::Command),
        2 => (any::<bool>(), vec(line(), 1..6))
            .prop_map(|(atomic, lines)| Step::Pipeline { atomic, lines }),
        1 => script.prop_map(|(source, key, arg)| Step::Script { source, key, arg }),
    ]
}

/// What the caller gets: the reply, or the error in all its words.
async fn told(connection: &mut (impl ConnectionLike + Send), step: &Step) -> String {
    let told: RedisResult<Value> = match step {
        Step::Command(line) => cmd(line).query_async(connection).await,
        Step::Pipeline { atomic, lines } => {
            let mut pipeline = Pipeline::new();
            if *atomic {
                pipeline.atomic();
            }
            for line in lines {
                pipeline.add_command(cmd(line));
            }
            pipeline.query_async(connection).await
        }
        Step::Script { source, key, arg } => {
            Script::new(source).key(*key).arg(*arg).invoke_async(connection).await
        }
    };
    match told {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{:?} {error}", error.kind()),
    }
}

fn the_same_answers(resp: Resp) {
    let server = TestServer::start().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let pool =
        |db| builder(&server.url_with(Transport::Tcp, resp, Auth::None, db)).build().unwrap();
    let (shared, exclusive) = (pool(1), pool(2));
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };

    let ran = TestRunner::new(config).run(&vec(step(), 1..40), |steps| {
        server.admin().text(&["FLUSHALL"]);
        runtime.block_on(async {
            let mut handle = shared.shared("test");
            let mut lease = exclusive.acquire("test").await.unwrap();
            for step in &steps {
                let answers = (told(&mut handle, step).await, told(&mut lease, step).await);
                prop_assert_eq!(&answers.0, &answers.1, "{:?}", step);
            }
            Ok(())
        })
    });

    ran.unwrap_or_else(|error| panic!("{error}"));
    let _guard = runtime.enter();
    drop((shared, exclusive));
}

#[test]
fn shared_and_exclusive_connections_give_the_same_answers_in_resp2() {
    the_same_answers(Resp::Resp2);
}

#[test]
fn shared_and_exclusive_connections_give_the_same_answers_in_resp3() {
    the_same_answers(Resp::Resp3);
}
