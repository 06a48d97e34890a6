//! Slots that move while they are used.

use std::collections::HashSet;
use std::time::Duration;

use redis_guard::redis::{Script, Value, pipe};
use redis_guard::tower::RetryPolicy;
use redis_guard::{AsyncCommands, Backoff, GuardedPool};
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt};

use crate::load::{Load, Operation, failures, none, tags};
use crate::support::cluster::slot_of;
use crate::support::{Cluster, SEVEN, lacks};
use crate::waiting::{cmd, soon, until};
use crate::{ask, builder, calls, cluster_status, errors, masters, refused, unhurried_pool};

const NODES: [usize; 3] = [0, 1, 2];

/// A slot of node 0's is on its way to node 1, and the key "{tag}moved", whose value is its name, has
/// arrived. Returns the tag.
async fn on_its_way(cluster: &Cluster, pool: &GuardedPool) -> String {
    let tag = cluster.key_on(0);
    let moved = format!("{{{tag}}}moved");
    let mut handle = pool.shared("test");
    // The pool has connections to all nodes.
    for node in NODES {
        let () = soon("SET", handle.set(cluster.key_on(node), 1)).await.unwrap();
    }
    let () = soon("SET", handle.set(&moved, &moved)).await.unwrap();
    cluster.begin_move(slot_of(&tag), 1).move_all_keys();
    tag
}

#[tokio::test]
async fn a_key_that_has_moved_already_is_asked_of_the_slots_new_node() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let tag = on_its_way(&cluster, &pool).await;
    let changes = cluster_status(&pool).changes;
    let [moved, new] = ["moved", "new"].map(|name| format!("{{{tag}}}{name}"));
    let mut handle = pool.shared("test");
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();

    assert_eq!(soon("GET", handle.get::<_, String>(&moved)).await.unwrap(), moved);
    assert_eq!(soon("GET", lease.get::<_, String>(&moved)).await.unwrap(), moved);
    let mut pipeline = pipe();
    pipeline.get(&moved).incr(&new, 1).get(cluster.key_on(2)).get(&moved);
    let told: (String, u64, Option<u64>, String) =
        soon("a pipeline", pipeline.query_async(&mut handle)).await.unwrap();
    assert_eq!(told, (moved.clone(), 1, Some(1), moved.clone()));
    let mut atomic = pipe();
    atomic.atomic().get(&moved).incr(&new, 1);
    let told: (String, u64) = soon("MULTI", atomic.query_async(&mut handle)).await.unwrap();
    assert_eq!(told, (moved.clone(), 2));
    let mut whole = pipe();
    whole.cmd("MULTI").get(&moved).incr(&new, 1).cmd("EXEC");
    let told: (Value, Value, Value, (String, u64)) =
        soon("MULTI", whole.query_async(&mut handle)).await.unwrap();
    assert_eq!(told.3, (moved.clone(), 3));
    let script = Script::new("return redis.call('GET', KEYS[1])");
    for connection in [&mut handle, &mut pool.shared("another")] {
        let told = soon("a script", script.key(&moved).invoke_async::<String>(connection)).await;
        assert_eq!(told.unwrap(), moved);
    }
    let list = format!("{{{tag}}}list");
    let _: u64 = soon("RPUSH", handle.rpush(&list, "item")).await.unwrap();
    let popped: (String, String) = ask(&mut handle, &format!("BLPOP {list} 0")).await;
    assert_eq!(popped, (list, "item".to_owned()));

    assert!(errors(&cluster, 0, "ASK") >= 8);
    assert_eq!(errors(&cluster, 1, "MOVED"), 0, "ASKING goes first");
    assert_eq!(cluster_status(&pool).changes, changes, "the slot has not moved");
}

#[tokio::test]
async fn a_script_is_loaded_at_a_node_that_has_no_slot_yet() {
    let mut cluster = masters();
    let added = cluster.add_node().unwrap();
    let pool = unhurried_pool(&cluster);
    let key = cluster.key_on(0);
    let _: Option<u64> = soon("GET", pool.shared("test").get(&key)).await.unwrap();
    cluster.begin_move(slot_of(&key), added).move_all_keys();

    let script = Script::new("return redis.call('INCR', KEYS[1])");
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    let told = soon("a script", script.key(&key).invoke_async::<u64>(&mut lease)).await;
    assert_eq!(told.unwrap(), 1);
    let mut handle = pool.shared("test");
    let told = soon("a script", script.key(&key).invoke_async::<u64>(&mut handle)).await;
    assert_eq!(told.unwrap(), 2);

    assert_eq!(calls(&cluster, added, "script|load"), 1);
}

#[tokio::test]
async fn a_node_that_says_where_to_go_watches_nothing() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let tag = on_its_way(&cluster, &pool).await;
    let (new, other) = (format!("{{{tag}}}new"), cluster.key_on(0));
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    assert_eq!(ask::<u64>(&mut lease, &format!("GET {other}")).await, 1);

    // Node 0 says ASK, and node 1 watches.
    let () = ask(&mut lease, &format!("WATCH {new}")).await;
    let () = ask(&mut lease, "UNWATCH").await;

    assert_eq!(ask::<u64>(&mut lease, &format!("GET {other}")).await, 1, "nothing is watched");
    assert_eq!(errors(&cluster, 1, "MOVED"), 0);
}

#[tokio::test]
async fn keys_of_which_some_have_moved_are_told_to_try_again_and_a_retry_policy_does() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let tag = cluster.key_on(0);
    let [one, two] = ["one", "two"].map(|name| format!("{{{tag}}}{name}"));
    let mut handle = pool.shared("test");
    let () = soon("MSET", handle.mset(&[(&one, 1), (&two, 2)])).await.unwrap();
    let moving = cluster.begin_move(slot_of(&tag), 1);
    assert_eq!(moving.move_keys(1), 1);

    let line = format!("MGET {one} {two}");
    let error = refused(&mut handle, &line).await;
    assert_eq!(error.code(), Some("TRYAGAIN"), "{error}");

    let pause = Duration::from_millis(500);
    let patient = RetryPolicy::default().backoff(Backoff::without_jitter(pause, pause));
    let service = ServiceBuilder::new().retry(patient).service(pool.service("test"));
    let before = errors(&cluster, 1, "TRYAGAIN") + errors(&cluster, 0, "TRYAGAIN");
    let asked = tokio::spawn(service.oneshot(cmd(&line)));
    let again = || errors(&cluster, 1, "TRYAGAIN") + errors(&cluster, 0, "TRYAGAIN") > before;
    until("the first answer", &pool, again).await;
    moving.move_all_keys();
    moving.finish();
    let value = |number: &str| Value::BulkString(number.as_bytes().to_vec());
    let told = soon("the answer", asked).await.unwrap().unwrap();
    assert_eq!(told, Value::Array(vec![value("1"), value("2")]));
}

#[tokio::test]
async fn a_slot_that_has_moved_is_learned_by_the_first_command() {
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let mut handle = pool.shared("test");
    let key = cluster.key_on(0);
    let () = soon("SET", handle.set(&key, "value")).await.unwrap();
    let () = soon("SET", handle.set(cluster.key_on(1), "value")).await.unwrap();
    let changes = cluster_status(&pool).changes;

    cluster.move_slot(slot_of(&key), 1);
    for _ in 0..100 {
        assert_eq!(soon("GET", handle.get::<_, String>(&key)).await.unwrap(), "value");
    }

    assert_eq!(errors(&cluster, 0, "MOVED"), 1);
    // Nobody has told it but the one command, and still it is a change.
    until("the news", &pool, || cluster_status(&pool).changes == changes + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_that_hear_of_many_moves_cause_a_question_a_second() {
    if lacks("statistics by subcommand", SEVEN) {
        return;
    }
    let cluster = masters();
    let pool = unhurried_pool(&cluster);
    let tags = tags(&cluster, 0, 200);
    let load = Load::start(&pool, &tags, &tags);
    load.more(&pool, 100, |_| true).await;
    let questions =
        || -> u64 { NODES.iter().map(|node| calls(&cluster, *node, "cluster|slots")).sum() };
    let (before, begun) = (questions(), Instant::now());

    cluster.give_slots(tags.iter().map(|tag| slot_of(tag)), 1);
    load.more(&pool, 1_000, |_| true).await;

    let (questions, took) = (questions() - before, begun.elapsed());
    let moved = errors(&cluster, 0, "MOVED");
    println!("{questions} questions in {took:?} for {moved} redirections");
    assert!(moved >= 200, "{moved}");
    // Each of at most all nodes.
    assert!(questions <= 3 * (took.as_secs() + 1), "{questions} questions in {took:?}");
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_back_and_forth_disturb_nobody() {
    let cluster = masters();
    let pool = builder(&cluster).build().unwrap();
    let (moving, others) = (tags(&cluster, 0, 20), tags(&cluster, 2, 20));
    let both: Vec<String> = moving.iter().chain(&others).cloned().collect();
    let slots: HashSet<u16> = moving.iter().map(|tag| slot_of(tag)).collect();
    // Two keys of one command or transaction are not in a slot that moves but where they must be.
    let load = Load::start(&pool, &both, &others);
    load.more(&pool, 200, |_| true).await;

    for (from, to) in [(0, 1), (1, 0), (0, 1), (1, 2), (2, 0)] {
        for slot in &slots {
            assert_eq!(cluster.primary_of(*slot), from);
            let way = cluster.begin_move(*slot, to);
            // While the slot has keys here and there.
            for _ in 0..3 {
                load.more(&pool, 10, |_| true).await;
                way.move_keys(5);
            }
            load.more(&pool, 1, |key| slot_of(key) == *slot).await;
            way.move_all_keys();
            way.finish();
        }
        load.more(&pool, 100, |key| slots.contains(&slot_of(key))).await;
    }

    let operations = load.stop().await;
    let mut failed = failures(&operations);
    let longest = operations.iter().map(|operation| operation.took()).max().unwrap();
    let asked: u64 = NODES.iter().map(|node| errors(&cluster, *node, "ASK")).sum();
    let moved: u64 = NODES.iter().map(|node| errors(&cluster, *node, "MOVED")).sum();
    println!(
        "{} operations, the longest {longest:?}; {asked} ASK, {moved} MOVED; failed: {failed:#?}",
        operations.len(),
    );
    assert!(asked > 100 && moved > 20, "{asked} ASK, {moved} MOVED");
    // Two keys of one slot of which one has moved.
    failed.retain(|words, _| !(words.starts_with("Atomic") && words.contains("TryAgain")));
    assert_eq!(failed, none());
    everything_is_there(&pool, &operations).await;
}

/// What was written and acknowledged has arrived wherever its slot is now.
async fn everything_is_there(pool: &GuardedPool, operations: &[Operation]) {
    let mut handle = pool.shared("check");
    let well = operations.iter().filter(|operation| operation.error.is_none());
    let keys: Vec<&str> = well.map(|operation| operation.key.as_str()).collect();
    for keys in keys.chunks(1_000) {
        let there: usize = soon("EXISTS", handle.exists(keys)).await.unwrap();
        assert_eq!(there, keys.len());
    }
}
