//! A shared handle sends each command to the node that it is for.

use std::time::Duration;

use redis_guard::redis::{self, RedisResult, Script, Value, pipe};
use redis_guard::{AsyncCommands, Endpoint, SharedConnection};
use tower::ServiceExt;

use crate::support::cluster::slot_of;
use crate::support::{Cluster, HANG};
use crate::waiting::{cmd, poll_once, ready, soon, until};
use crate::{ask, calls, errors, masters, refused, sockets, unhurried, unhurried_pool};

const NODES: [usize; 3] = [0, 1, 2];

/// So many keys that are served by all nodes in turn.
fn keys(cluster: &Cluster, count: usize) -> Vec<String> {
    let mut each = NODES.map(|node| cluster.keys_on(node, count.div_ceil(3)).into_iter());
    (0..count).map(|number| each[number % 3].next().unwrap()).collect()
}

/// What the key's own node has.
fn stored(cluster: &Cluster, key: &str) -> String {
    cluster.node(cluster.primary_of_key(key)).admin().text(&["GET", key])
}

fn value(key: &str) -> String {
    format!("value of {key}")
}

/// Every key has the value that belongs to it.
async fn fill(cluster: &Cluster, handle: &mut SharedConnection, count: usize) -> Vec<String> {
    let keys = keys(cluster, count);
    let pairs: Vec<_> = keys.iter().map(|key| (key, value(key))).collect();
    let () = soon("MSET", handle.mset(&pairs)).await.unwrap();
    keys
}

#[tokio::test]
async fn a_command_goes_to_the_node_of_its_key() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");

    for key in keys(&cluster, 60) {
        let () = handle.set(&key, value(&key)).await.unwrap();
        assert_eq!(stored(&cluster, &key), value(&key));
        assert_eq!(handle.get::<_, String>(&key).await.unwrap(), value(&key));
    }

    for node in NODES {
        assert_eq!(errors(&cluster, node, "MOVED"), 0, "node {node} was asked for another's keys");
        assert_eq!(sockets(&cluster, node), 1, "node {node}");
    }
}

#[tokio::test]
async fn a_thousand_callers_share_one_connection_to_each_node() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);

    let callers = keys(&cluster, 1_000).into_iter().map(|key| {
        let mut handle = pool.shared("test");
        async move {
            let () = handle.set(&key, value(&key)).await.unwrap();
            assert_eq!(handle.get::<_, String>(&key).await.unwrap(), value(&key));
        }
    });
    soon("a thousand callers", futures_util::future::join_all(callers)).await;

    assert_eq!(NODES.map(|node| sockets(&cluster, node)), [1, 1, 1]);
    assert_eq!(pool.status().live, 3);
}

#[tokio::test]
async fn a_command_over_many_slots_is_answered_as_by_one_server() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    let keys = fill(&cluster, &mut handle, 90).await;
    assert!(keys.iter().all(|key| stored(&cluster, key) == value(key)));

    // Backwards, one of them twice, and one that is not there.
    let mut asked: Vec<&str> = keys.iter().rev().map(String::as_str).collect();
    asked.insert(1, asked[40]);
    asked.insert(3, "nothing");
    let values: Vec<Option<String>> = handle.mget(&asked).await.unwrap();
    let wanted = asked.iter().map(|key| (*key != "nothing").then(|| value(key)));
    assert_eq!(values, wanted.collect::<Vec<_>>());

    let count = async |handle: &mut SharedConnection, name: &str, keys: &[&str]| -> usize {
        cmd(name).arg(keys).query_async(handle).await.unwrap()
    };
    assert_eq!(count(&mut handle, "EXISTS", &asked).await, 91);
    assert_eq!(count(&mut handle, "TOUCH", &asked).await, 91);
    assert_eq!(count(&mut handle, "DEL", &asked[..30]).await, 29, "one is not there");
    assert_eq!(count(&mut handle, "UNLINK", &asked[30..]).await, 61, "one has gone already");
    assert_eq!(count(&mut handle, "EXISTS", &asked).await, 0);
}

#[tokio::test]
async fn a_pipeline_is_split_by_node_and_its_replies_are_in_order() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    let keys = keys(&cluster, 99);
    let mut pipeline = pipe();
    for key in &keys {
        pipeline.set(key, value(key)).ignore().get(key).strlen(key);
    }
    pipeline.mget(&keys).del(&keys);

    let mut replies: Vec<Value> = soon("it", pipeline.query_async(&mut handle)).await.unwrap();

    assert_eq!(replies.pop(), Some(Value::Int(99)));
    let values: Vec<String> = redis::from_redis_value(replies.pop().unwrap()).unwrap();
    assert_eq!(values, keys.iter().map(|key| value(key)).collect::<Vec<_>>());
    let replies: Vec<(String, usize)> = replies
        .chunks(2)
        .map(|both| redis::from_redis_value(Value::Array(both.to_vec())).unwrap())
        .collect();
    assert_eq!(replies, keys.iter().map(|key| (value(key), value(key).len())).collect::<Vec<_>>());
    assert!(NODES.iter().all(|node| errors(&cluster, *node, "MOVED") == 0));
    assert!(NODES.iter().all(|node| sockets(&cluster, *node) == 1));
}

#[tokio::test]
async fn an_error_within_a_pipeline_leaves_the_other_replies_where_they_are() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    let keys = fill(&cluster, &mut handle, 30).await;
    let mut pipeline = pipe();
    for (number, key) in keys.iter().enumerate() {
        match number % 10 {
            5 => pipeline.lpush(key, "x"),
            _ => pipeline.get(key),
        };
    }

    pipeline.ignore_errors();
    let replies: Vec<RedisResult<String>> =
        soon("it", pipeline.query_async(&mut handle)).await.unwrap();

    for (number, (reply, key)) in replies.into_iter().zip(&keys).enumerate() {
        match number % 10 {
            5 => assert_eq!(reply.unwrap_err().code(), Some("WRONGTYPE")),
            _ => assert_eq!(reply.unwrap(), value(key)),
        }
    }
}

#[tokio::test]
async fn an_atomic_pipeline_of_one_slot_is_a_transaction_on_its_node() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");

    for node in NODES {
        let tag = cluster.key_on(node);
        let mut both = pipe();
        both.atomic().set(format!("{{{tag}}}a"), 1).ignore().incr(format!("{{{tag}}}b"), 2);
        let (sum,): (u64,) = soon("it", both.query_async(&mut handle)).await.unwrap();
        assert_eq!((sum, calls(&cluster, node, "exec")), (2, 1));
    }
}

#[tokio::test]
async fn an_atomic_pipeline_of_two_slots_is_an_error_at_once_and_nothing_of_it_is_done() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    let keys = fill(&cluster, &mut handle, 3).await;
    let mut both = pipe();
    both.atomic().set(&keys[0], "new").set(&keys[1], "new");

    let told = ready(both.query_async::<()>(&mut handle)).expect("told on the first poll");

    let error = told.unwrap_err();
    assert!(error.to_string().contains("slot"), "{error}");
    assert!(keys.iter().all(|key| stored(&cluster, key) == value(key)));
    assert!(NODES.iter().all(|node| calls(&cluster, *node, "multi") == 0));
}

#[tokio::test]
async fn a_pipeline_that_is_all_of_a_transaction_is_one_on_its_node() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let key = cluster.key_on(1);
    let whole = |keys: &[&str]| {
        let mut whole = pipe();
        whole.cmd("MULTI");
        keys.iter().for_each(|key| _ = whole.incr(*key, 1));
        whole.cmd("EXEC");
        whole
    };
    let (mut handle, mut lease) = (pool.shared("test"), pool.acquire("test").await.unwrap());

    let queued = || Value::SimpleString("QUEUED".to_owned());
    for (expected, told) in [
        (1, soon("MULTI", handle.send_pipeline(&whole(&[&key, &key]))).await.unwrap()),
        (3, soon("MULTI", whole(&[&key, &key]).query_async(&mut lease)).await.unwrap()),
    ] {
        let done = Value::Array(vec![Value::Int(expected), Value::Int(expected + 1)]);
        assert_eq!(told, [Value::Okay, queued(), queued(), done]);
    }
    assert_eq!(stored(&cluster, &key), "4");
    assert_eq!([0, 1, 2].map(|node| calls(&cluster, node, "exec")), [0, 2, 0]);

    let two = whole(&[&key, &cluster.key_on(2)]);
    let told = handle.send_pipeline(&two).await.unwrap_err();
    assert!(told.to_string().contains("nothing was sent"), "{told}");
    let mut apart = whole(&[&key]);
    apart.incr(&key, 1);
    let told = handle.send_pipeline(&apart).await.unwrap_err();
    assert!(told.to_string().contains("use `acquire`"), "{told}");
    assert_eq!(stored(&cluster, &key), "4");
}

#[tokio::test]
async fn what_changes_nothing_goes_over_a_lane() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    for line in ["UNWATCH", "SELECT 0", "HELLO", "CLIENT GETNAME"] {
        let _: Value = ask(&mut handle, line).await;
    }
    assert!(refused(&mut handle, "SELECT 1").await.to_string().contains("use `acquire`"));
    let mut lease = pool.acquire("test").await.unwrap();
    for line in ["UNWATCH", "HELLO", "CLIENT GETNAME"] {
        let _: Value = ask(&mut lease, line).await;
    }
}

#[tokio::test]
async fn a_command_that_cannot_be_split_is_an_error_at_once() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    let keys = fill(&cluster, &mut handle, 2).await;

    for words in ["RENAME K L", "COPY K L", "SINTER K L", "PFMERGE K L", "MSETNX K 1 L 2"] {
        let line = words.replace('K', &keys[0]).replace(" L", &format!(" {}", keys[1]));
        let command = cmd(&line);
        let told =
            ready(command.query_async::<Value>(&mut handle)).expect("told on the first poll");
        let error = told.unwrap_err();
        assert!(error.to_string().contains("slot"), "{line}: {error}");
        assert_eq!(error.code(), Some("CROSSSLOT"), "{line}: {error:?}");
    }
    let script = Script::new("return 1");
    let told = soon("it", script.key(&keys).invoke_async::<Value>(&mut handle)).await;
    assert_eq!(told.unwrap_err().code(), Some("CROSSSLOT"));
    assert!(NODES.iter().all(|node| errors(&cluster, *node, "CROSSSLOT") == 0));
}

#[tokio::test]
async fn what_concerns_all_nodes_is_asked_of_all() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    let mut keys = fill(&cluster, &mut handle, 30).await;
    keys.sort();

    assert_eq!(ask::<usize>(&mut handle, "DBSIZE").await, 30);
    let mut found: Vec<String> = ask(&mut handle, "KEYS *").await;
    found.sort();
    assert_eq!(found, keys);
    let one: String = ask(&mut handle, "RANDOMKEY").await;
    assert!(keys.contains(&one));
    let hash: String = cmd("SCRIPT LOAD").arg("return 7").query_async(&mut handle).await.unwrap();
    for node in NODES {
        assert_eq!(cluster.node(node).admin().text(&["SCRIPT", "EXISTS", &hash]), "1");
    }
    let () = ask(&mut handle, "CONFIG SET maxmemory-samples 7").await;
    assert!(NODES.iter().all(|node| {
        let admin = cluster.node(*node).admin();
        admin.text(&["CONFIG", "GET", "maxmemory-samples"]).ends_with('7')
    }));
    let () = ask(&mut handle, "FLUSHALL").await;
    assert_eq!(NODES.map(|node| cluster.node(node).admin().text(&["DBSIZE"])), ["0", "0", "0"]);
    assert_eq!(ask::<Option<String>>(&mut handle, "RANDOMKEY").await, None);
    let error = refused(&mut handle, "SCAN 0").await;
    assert!(error.to_string().contains("one node"), "{error}");
}

#[tokio::test]
async fn a_script_is_loaded_where_it_is_missing() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    let script =
        Script::new("redis.call('INCRBY', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])");
    let keys = keys(&cluster, 9);

    for round in 1..=3 {
        for key in &keys {
            let sum = soon("it", script.key(key).arg(2).invoke_async::<i64>(&mut handle)).await;
            assert_eq!(sum.unwrap(), 2 * round);
        }
        cluster.node(1).admin().text(&["SCRIPT", "FLUSH"]);
    }
}

#[tokio::test]
async fn a_command_that_blocks_holds_up_nobody_and_is_woken() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");

    for node in NODES {
        let list = cluster.key_on(node);
        let line = format!("BLPOP {list} 0");
        let (mut blocked, command) = (pool.shared("blocked"), cmd(&line));
        let mut popped = Box::pin(command.query_async::<(String, String)>(&mut blocked));
        assert!(poll_once(&mut popped).is_pending());
        let waits = || cluster.node(node).admin().info_u64("blocked_clients") == 1;
        let looking = until("a blocked client", &pool, waits);
        let waiting = async {
            tokio::select! { () = looking => {} _ = &mut popped => unreachable!() }
        };
        waiting.await;

        for key in cluster.keys_on(node, 20) {
            let () = ask(&mut handle, &format!("SET {key}:other 1")).await;
        }
        let _: usize = ask(&mut handle, &format!("LPUSH {list} item")).await;

        assert_eq!(soon("the item", popped).await.unwrap(), (list, "item".to_owned()));
    }
}

#[tokio::test]
async fn a_service_of_commands_routes_them_too() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);

    for service in [pool.service("test"), pool.service("test").exclusive()] {
        for key in keys(&cluster, 9) {
            let set = soon("SET", service.clone().oneshot(cmd(&format!("SET {key} 1")))).await;
            assert_eq!(set.unwrap(), Value::Okay);
            let mut pipeline = pipe();
            pipeline.incr(&key, 1).get(&key);
            let values = soon("a pipeline", service.clone().oneshot(pipeline)).await.unwrap();
            assert_eq!(values[0], Value::Int(2));
        }
    }
}

#[tokio::test]
async fn a_command_without_a_key_goes_anywhere() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");

    assert_eq!(ask::<String>(&mut handle, "PING").await, "PONG");
    assert_eq!(ask::<String>(&mut handle, "ECHO hello").await, "hello");
    assert_eq!(ask::<i64>(&mut handle, "PUBLISH nobody hello").await, 0);
    let script = Script::new("return ARGV[1]");
    assert_eq!(script.arg("x").invoke_async::<String>(&mut handle).await.unwrap(), "x");
    let mut keyless = pipe();
    keyless.atomic().cmd("PING").cmd("ECHO").arg("x");
    let told: (String, String) = keyless.query_async(&mut handle).await.unwrap();
    assert_eq!(told, ("PONG".to_owned(), "x".to_owned()));
}

/// A tag is hashed instead of the whole key.
#[tokio::test]
async fn keys_with_one_tag_are_together() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");

    for tag in NODES.map(|node| cluster.key_on(node)) {
        let [from, to] = ["a", "b"].map(|name| format!("{{{tag}}}{name}"));
        assert_eq!(slot_of(&from), slot_of(&tag));
        let () = ask(&mut handle, &format!("SET {from} value")).await;
        let () = ask(&mut handle, &format!("RENAME {from} {to}")).await;
        assert_eq!(stored(&cluster, &to), "value");
    }
}

/// A node's connections are an endpoint's on that node alone.
#[tokio::test]
async fn a_budget_is_per_node() {
    let cluster = masters();
    let builder = unhurried(&cluster).acquire_timeout(Duration::from_millis(200));
    let pool = builder.endpoint("one", redis_guard::Budget::max(1)).build().unwrap();
    let endpoint = || Endpoint::from("one");
    let keys = NODES.map(|node| cluster.key_on(node));

    let mut held = Vec::new();
    for key in &keys {
        let lease = tokio::time::timeout(HANG, pool.acquire_for(endpoint(), key)).await.unwrap();
        held.push(lease.unwrap());
    }
    let error = soon("a refusal", pool.acquire_for(endpoint(), &keys[1])).await.unwrap_err();
    assert_eq!(error.reason(), "budget_exhausted");
    drop(held.remove(1));
    let lease = soon("the place", pool.acquire_for(endpoint(), &keys[1])).await.unwrap();
    drop(lease);
}
