//! What callers do at random, and what they are told: shared by the properties "same answers".

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use redis_guard::redis::aio::ConnectionLike;
use redis_guard::redis::{Pipeline, RedisResult, Script, Value};

use crate::waiting::cmd;

/// One thing that a caller does.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Command(String),
    Pipeline { atomic: bool, lines: Vec<String> },
    Script { source: &'static str, key: &'static str, arg: i64 },
}

pub(crate) const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// `K` and `L` are keys, `N` is a number.
/// A millisecond is no time at all before Redis 7, and so for ever.
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
    "BLPOP K 0.002",
    "BLMOVE K L LEFT LEFT 0.002",
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

/// A command with its arguments.
pub(crate) fn line() -> impl Strategy<Value = String> {
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

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let script = (select(&SCRIPTS[..]), select(&KEYS[..]), -3_i64..100);
    prop_oneof![
        6 => line().prop_map(Step::Command),
        2 => (any::<bool>(), vec(line(), 1..6))
            .prop_map(|(atomic, lines)| Step::Pipeline { atomic, lines }),
        1 => script.prop_map(|(source, key, arg)| Step::Script { source, key, arg }),
    ]
}

/// What the caller gets: the reply, or the error in all its words.
pub(crate) async fn told(connection: &mut (impl ConnectionLike + Send), step: &Step) -> String {
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
