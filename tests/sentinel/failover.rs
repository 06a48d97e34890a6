//! The master moves while everybody writes.

use std::collections::HashSet;
use std::time::Duration;

use redis_guard::redis::RedisResult;
use redis_guard::{AsyncCommands, GuardedConnection, GuardedPool, PubSubEvent};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{SentinelSet, SentinelSetBuilder, Switches, TestServer};
use crate::waiting::{soon, until};
use crate::writers::{FailedDials, Write, Writers, lost, named, written};
use crate::{builder, changed, clients, listens_to, sentinel};

/// How long after the sentinels' word a write is acknowledged by the new master.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// A pool in full use, on a set whose first master is about to go.
struct Busy {
    set: SentinelSet,
    pool: GuardedPool,
    writers: Writers,
    failed: FailedDials,
    switches: Switches,
    /// In hand over the failover.
    kept: GuardedConnection,
    /// Ends when "the last one" is heard.
    subscriber: JoinHandle<()>,
    /// The number of the sentinel that the process listens to.
    sentinel: usize,
}

impl Busy {
    async fn start(set: SentinelSetBuilder) -> Self {
        let set = set.start().unwrap();
        let pool = named(builder(&set), "busy");
        let mut kept = pool.acquire("kept").await.unwrap();
        let _: () = kept.set("kept", 1).await.unwrap();
        let mut subscriber = pool.pubsub("subscriber").await.unwrap();
        subscriber.subscribe("news").await.unwrap();
        let subscriber = tokio::spawn(async move {
            loop {
                match subscriber.next().await.expect("the pool is open").unwrap() {
                    PubSubEvent::Message(message)
                        if message.get_payload::<String>().unwrap() == "the last one" =>
                    {
                        return;
                    }
                    _ => {}
                }
            }
        });
        let writers = Writers::start(&pool);
        writers.more(&pool, set.server(0), 200).await;
        until("the subscription", &pool, || listens_to(&set, &pool).is_some()).await;
        let (failed, switches) = (FailedDials::of(&pool), set.switches());
        let sentinel = listens_to(&set, &pool).unwrap();
        Self { set, pool, writers, failed, switches, kept, subscriber, sentinel }
    }

    /// Returns the new master's number when the writers have used it for a while, and everything else has
    /// moved, too.
    async fn moved(&mut self) -> usize {
        let Self { set, pool, .. } = self;
        let new = set.moved_from(0);
        self.writers.more(pool, set.server(new), 200).await;

        let begun = Instant::now();
        let result: RedisResult<()> = self.kept.set("kept", 2).await;
        let error = result.expect_err("it is to the old one");
        println!("the lease in hand heard after {:?}: {error}", begun.elapsed());
        assert!(!error.is_timeout(), "{error}");
        let publish = ["PUBLISH", "news", "the last one"];
        let heard = || set.server(new).admin().command(&publish).is_ok_and(|r| r.text() == "1");
        until("the subscriber", pool, heard).await;
        soon("the subscriber's message", &mut self.subscriber).await.unwrap();
        new
    }

    /// What must be so in any case, once the set is whole again. Returns what was written, and when the first one was back.
    async fn end(self, new: usize) -> (Vec<Write>, Instant) {
        let Self { set, pool, writers, failed, switches, sentinel, .. } = self;
        set.until_whole();
        writers.more(&pool, set.server(new), 100).await;
        let writes = writers.stop().await;
        let (old, new) = (set.server(0), set.server(new));

        let words = switches.heard();
        let any = words.iter().map(|word| word.at).min().unwrap();
        let ours = words.iter().find(|word| word.sentinel == sentinel).unwrap().at;
        let back = back(&writes, new);
        println!(
            "writes were back {:?} after our sentinel's word, {:?} after the first one's; \
             at most {} failed dials in a second; of {} writes {} failed, and {} that the old master \
             had acknowledged are lost",
            back.saturating_duration_since(ours),
            back.saturating_duration_since(any),
            failed.most_in_a_second(),
            writes.len(),
            writes.iter().filter(|write| write.by.is_err()).count(),
            acknowledged(&writes, old).difference(&written(new)).count(),
        );
        assert!(back.saturating_duration_since(ours) <= BACK_WITHIN);
        assert_eq!(lost(&writes, new).len(), 0);
        let late = writes.iter().filter(|write| write.begun > back && write.is_by(old));
        assert_eq!(late.count(), 0, "writes to the old one");
        assert!(failed.most_in_a_second() <= 3, "{}", failed.most_in_a_second());

        let moves = [(set.address(0), format!("127.0.0.1:{}", new.port()))];
        changed(&pool, &moves).await;
        assert_eq!(*pool.status().server, *moves[0].1);
        assert_eq!(clients(old), 0);
        until("its clients", &pool, || clients(new) == pool.status().live).await;
        pool.health().await.unwrap();
        (writes, back)
    }
}

fn acknowledged(writes: &[Write], server: &TestServer) -> HashSet<u64> {
    writes.iter().filter(|write| write.is_by(server)).map(|write| write.number).collect()
}

/// When the first write was acknowledged by the new master.
fn back(writes: &[Write], new: &TestServer) -> Instant {
    let by_new = writes.iter().filter(|write| write.is_by(new));
    by_new.map(|write| write.ended).min().expect("writes should be back")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_by_command() {
    let mut busy = Busy::start(SentinelSet::builder()).await;

    busy.set.fail_over();
    let new = busy.moved().await;

    busy.end(new).await;
}

/// It publishes the switch only when all replicas follow, and answers rightly long before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_by_the_sentinel_that_is_listened_to() {
    let mut busy = Busy::start(SentinelSet::builder()).await;

    busy.set.fail_over_by(busy.sentinel);
    let new = busy.moved().await;

    let words = busy.switches.heard().into_iter();
    let first = words.filter(|word| word.sentinel != busy.sentinel).map(|word| word.at).min();
    let writes = busy.writers.writes();
    let (back, _) = (back(&writes, busy.set.server(new)), busy.end(new).await);
    let late = back.saturating_duration_since(first.unwrap());
    assert!(late < Duration::from_millis(500), "{late:?} after the others' word");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed() {
    let mut busy = Busy::start(SentinelSet::builder().watchful()).await;

    busy.set.server(0).crash();
    let new = busy.moved().await;

    // It comes back as a master, and is one until a sentinel tells it.
    busy.set.server(0).restart().unwrap();
    busy.end(new).await;
}

/// When it wakes there are two masters for several seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_stands_still_and_wakes() {
    let mut busy = Busy::start(SentinelSet::builder().watchful().publish_period_ms(1_500)).await;

    busy.set.server(0).pause();
    let new = busy.moved().await;
    busy.set.server(0).resume();
    let old = busy.set.server(0);
    busy.writers.more(&busy.pool, busy.set.server(new), 300).await;
    let on_old = written(old);
    assert!(old.admin().text(&["ROLE"]).starts_with("master"), "the split brain is over already");
    let left = clients(old);

    let (writes, back) = busy.end(new).await;
    assert_eq!(left, 0);
    // What had been sent before is executed when it wakes; nothing else is.
    let late: Vec<&Write> = writes
        .iter()
        .filter(|write| write.begun > back && on_old.contains(&write.number))
        .collect();
    assert!(late.is_empty(), "{late:?}");
}

/// Nobody wants anything of the pool meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_pool_moves_too() {
    let set = SentinelSet::start().unwrap();
    let pool = named(builder(&set), "idle");
    soon("three connections", pool.warm_up(3)).await.unwrap();

    set.fail_over();
    let new = set.moved_from(0);

    until("the move", &pool, || sentinel(&pool).moves == 1).await;
    until("the rest", &pool, || clients(set.server(0)) == 0).await;
    changed(&pool, &[(set.address(0), set.address(new))]).await;
    until("its clients", &pool, || clients(set.server(new)) == pool.status().live).await;
    let status = pool.status();
    assert_eq!((status.in_use, status.waiting), (0, 0));
}

/// As an operator does who updates one server after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failover_after_the_other() {
    let set = SentinelSet::start().unwrap();
    let pool = named(builder(&set), "often");
    let writers = Writers::start(&pool);
    writers.more(&pool, set.server(0), 50).await;

    let mut moves = Vec::new();
    for _ in 0..4 {
        let old = set.master();
        set.fail_over();
        let new = set.moved_from(old);
        moves.push((set.address(old), set.address(new)));
        writers.more(&pool, set.server(new), 100).await;
        until("the rest", &pool, || clients(set.server(old)) == 0).await;
        set.until_whole();
    }

    let writes = writers.stop().await;
    changed(&pool, &moves).await;
    let server = set.server(set.master());
    until("its clients", &pool, || clients(server) == pool.status().live).await;
    pool.health().await.unwrap();
    println!(
        "{} writes of {} failed",
        writes.iter().filter(|w| w.by.is_err()).count(),
        writes.len()
    );
}
