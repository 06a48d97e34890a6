//! The property: a cluster and one server give the same answers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use redis_guard::GuardedPool;
use redis_guard::redis::aio::ConnectionLike;
use redis_guard::redis::{Pipeline, RedisResult, Script, Value};

use crate::support::{Auth, Resp, TestServer, Transport, unhurried};
use crate::waiting::cmd;
use crate::{NAME, masters};

/// One thing that a caller does.
#[derive(Clone, Debug)]
enum Step {
    Command(String),
    Pipeline { atomic: bool, lines: Vec<String> },
    Script { source: &'static str, key: String, arg: i64 },
}

/// On all nodes.
const KEYS: [&str; 6] = ["a", "b", "c", "foo", "key:1", "{c}d"];
/// Each two are in one slot, and all of a tag's.
const PAIRS: [(&str, &str); 3] = [("{a}1", "{a}2"), ("{b}1", "{b}2"), ("{c}1", "{c}2")];

/// `K` and `L` are any keys, `P` and `Q` two of one slot, `#` is a number.
const LINES: [&str; 67] = [
    "SET K #",
    "SET K word",
    "SET K # NX",
    "SET P # XX GET",
    "GET K",
    "GETDEL K",
    "GETRANGE K 0 2",
    "INCR K",
    "INCRBY P #",
    "INCRBYFLOAT K 0.5",
    "APPEND K #",
    "STRLEN K",
    "TYPE K",
    "OBJECT ENCODING K",
    "DEL K",
    "DEL K L",
    "DEL K L P K",
    "UNLINK K L Q",
    "EXISTS K L",
    "EXISTS K K P Q L",
    "TOUCH K P L",
    "MSET K # L word",
    "MSET K # L word P # K last",
    "MGET K L",
    "MGET K P nothing Q L K",
    "MSETNX P # Q #",
    "RENAME P Q",
    "RENAMENX P Q",
    "COPY P Q REPLACE",
    "DBSIZE",
    "FLUSHALL",
    "LPUSH K #",
    "RPUSH P # #",
    "LPOP K",
    "RPOP K 2",
    "LLEN K",
    "LRANGE P 0 -1",
    "LMOVE P Q LEFT RIGHT",
    "BLPOP P Q 0.002",
    "BLMOVE P Q LEFT LEFT 0.002",
    "LMPOP 2 P Q LEFT",
    "HSET K f #",
    "HGET K f",
    "HGETALL K",
    "HINCRBY K f #",
    "SADD P # 7",
    "SINTER P Q",
    "SINTERCARD 2 P Q",
    "SUNIONSTORE P P Q",
    "ZADD K # m",
    "ZADD P 1 m 2 n",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZUNIONSTORE P 2 P Q",
    "ZDIFF 2 P Q",
    "BITOP OR P P Q",
    "PFADD P #",
    "PFCOUNT P Q",
    "XADD P 1-# f v",
    "XREAD COUNT 2 STREAMS P Q 0 0",
    "SORT P ALPHA",
    "EVAL return{KEYS[1],ARGV[1]} 1 K #",
    "ECHO #",
    "PUBLISH channel #",
    "GET",
    "MSET K",
    "INCR K L",
    "NO-SUCH-COMMAND K",
];

const SCRIPTS: [&str; 5] = [
    "return redis.call('INCRBY', KEYS[1], ARGV[1])",
    "return {redis.call('TYPE', KEYS[1]), ARGV[1], false, {1, 2}}",
    "return redis.pcall('LPUSH', KEYS[1], ARGV[1])",
    "return redis.error_reply('MY own words')",
    "return redis.call('NO-SUCH-COMMAND')",
];

fn key() -> impl Strategy<Value = &'static str> {
    let pairs = PAIRS.iter().flat_map(|(one, two)| [*one, *two]);
    select(KEYS.into_iter().chain(pairs).collect::<Vec<_>>())
}

/// Words with keys of one slot only where that is so for `pair`.
fn line_of(
    lines: Vec<&'static str>,
    pair: impl Strategy<Value = (&'static str, &'static str)>,
) -> impl Strategy<Value = String> {
    (select(lines), key(), key(), pair, 0_i64..100).prop_map(|(line, key, other, pair, number)| {
        let words = line.split(' ').map(|word| match word {
            "K" => key.to_owned(),
            "L" => other.to_owned(),
            "P" => pair.0.to_owned(),
            "Q" => pair.1.to_owned(),
            word => word.replace('#', &number.to_string()),
        });
        words.collect::<Vec<_>>().join(" ")
    })
}

fn line() -> impl Strategy<Value = String> {
    line_of(LINES.to_vec(), select(&PAIRS[..]))
}

/// The lines of a transaction: all their keys are in one slot.
fn atomic() -> impl Strategy<Value = Vec<String>> {
    let is_paired = |line: &&str| !line.split(' ').any(|word| ["K", "L"].contains(&word));
    let is_for_one = |line: &&str| !["DBSIZE", "FLUSHALL"].contains(line);
    let lines: Vec<_> = LINES.into_iter().filter(is_paired).filter(is_for_one).collect();
    select(&PAIRS[..]).prop_flat_map(move |pair| vec(line_of(lines.clone(), Just(pair)), 1..6))
}

fn step() -> impl Strategy<Value = Step> {
    let script = (select(&SCRIPTS[..]), key(), -3_i64..100);
    prop_oneof![
        6 => line().prop_map(Step::Command),
        3 => vec(line(), 1..8).prop_map(|lines| Step::Pipeline { atomic: false, lines }),
        1 => atomic().prop_map(|lines| Step::Pipeline { atomic: true, lines }),
        1 => script.prop_map(|(source, key, arg)| Step::Script { source, key: key.to_owned(), arg }),
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
            Script::new(source).key(key).arg(*arg).invoke_async(connection).await
        }
    };
    match told {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{:?} {error}", error.kind()),
    }
}

fn the_same_answers(resp: Resp) {
    let cluster = masters();
    let server = TestServer::start().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let url = |server: &TestServer| server.url_with(Transport::Tcp, resp, Auth::None, 0);
    let seeds = cluster.nodes().iter().map(url);
    let nodes = GuardedPool::cluster(seeds).max_connections(8).client_name(NAME);
    let pools = [nodes.build().unwrap(), unhurried(url(&server)).build().unwrap()];
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };

    let ran = TestRunner::new(config).run(&vec(step(), 1..60), |steps| {
        runtime.block_on(async {
            let mut handles = pools.each_ref().map(|pool| pool.shared("test"));
            for handle in &mut handles {
                let () = cmd("FLUSHALL").query_async(handle).await.unwrap();
            }
            let mut leases = Vec::new();
            for pool in &pools {
                leases.push(pool.acquire("test").await.unwrap());
            }
            for (number, step) in steps.iter().enumerate() {
                // By turns: what one has written the other reads.
                let [of_cluster, of_server] = if number % 3 == 2 {
                    [told(&mut leases[0], step).await, told(&mut leases[1], step).await]
                } else {
                    [told(&mut handles[0], step).await, told(&mut handles[1], step).await]
                };
                prop_assert_eq!(&of_cluster, &of_server, "{:?}", step);
            }
            Ok(())
        })
    });

    ran.unwrap_or_else(|error| panic!("{error}"));
    let _guard = runtime.enter();
    drop(pools);
}

#[test]
fn a_cluster_and_one_server_give_the_same_answers_in_resp2() {
    the_same_answers(Resp::Resp2);
}

#[test]
fn a_cluster_and_one_server_give_the_same_answers_in_resp3() {
    the_same_answers(Resp::Resp3);
}
