//! A primary that is demoted and lives on as a replica: it closes nothing, and refuses every write.

use std::collections::BTreeSet;
use std::time::Duration;

use redis_guard::redis::{RedisResult, ServerErrorKind};
use redis_guard::server::Role;
use redis_guard::{AsyncCommands, GuardedPool, GuardedPoolBuilder, PubSubEvent, SharedConnection};
use tokio::time::{Instant, sleep};

use crate::support::{Name, TestServer, dials, unhurried};
use crate::waiting::{clients, soon, until};

/// A server, one that will be its successor, the name that leads to the first, and a pool there.
struct Pair {
    old: TestServer,
    new: TestServer,
    name: Name,
    pool: GuardedPool,
}

impl Pair {
    async fn with(settings: impl FnOnce(GuardedPoolBuilder) -> GuardedPoolBuilder) -> Self {
        let (old, new) = (TestServer::start().unwrap(), TestServer::start().unwrap());
        let name = Name::of(&old).await;
        let pool = settings(unhurried(name.url()).max_connections(4)).build().unwrap();
        Self { old, new, name, pool }
    }

    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    fn demote(&self) {
        let port = self.new.port().to_string();
        assert_eq!(self.old.admin().text(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    }

    fn fail_over(&self) {
        self.demote();
        self.name.move_to(&self.new);
    }

    async fn write(&self) -> RedisResult<()> {
        let mut lease = self.pool.acquire("work").await.unwrap();
        lease.set("key", "value").await
    }

    /// Leases as many connections as there may be, so that all are open.
    async fn warm(&self) {
        soon("the warm-up", self.pool.warm_up(4)).await.unwrap();
    }
}

fn is_read_only(result: &RedisResult<()>) -> bool {
    let kind = result.as_ref().err().map(redis_guard::redis::RedisError::kind);
    kind == Some(redis_guard::redis::ErrorKind::Server(ServerErrorKind::ReadOnly))
}

/// Writes until that works; how often it was refused. Nothing but READONLY is heard meanwhile.
async fn until_written(pair: &Pair) -> usize {
    let mut refused = 0;
    let writing = async {
        loop {
            match pair.write().await {
                Ok(()) => return refused,
                result => assert!(is_read_only(&result), "{result:?}"),
            }
            refused += 1;
        }
    };
    soon("a write that works", writing).await
}

async fn set(shared: &mut SharedConnection) -> RedisResult<()> {
    shared.set("key", "value").await
}

#[tokio::test]
async fn leases_write_again_once_the_name_has_moved() {
    let pair = Pair::new().await;
    pair.warm().await;
    pair.write().await.unwrap();

    pair.fail_over();
    until_written(&pair).await;

    // All that was open to the old one goes, and the pool is as large as it was.
    let live = || pair.pool.status().live;
    until("the rest", &pair.pool, || clients(&pair.old) == 0 && live() == 4).await;
    for _ in 0..100 {
        pair.write().await.unwrap();
    }
    let status = pair.pool.status();
    assert_eq!((status.live, status.idle), (4, 4));
    let dialed = dials(&pair.pool)["connected"];
    assert!(dialed <= 9, "each of four once, and nothing twice: {dialed}");
}

#[tokio::test]
async fn a_pool_of_one_does_too() {
    let pair = Pair::with(|builder| builder.max_connections(1)).await;
    pair.write().await.unwrap();

    pair.fail_over();
    until_written(&pair).await;

    until("the rest", &pair.pool, || clients(&pair.old) == 0).await;
    assert_eq!(pair.pool.status().live, 1);
}

#[tokio::test]
async fn shared_handles_do_too() {
    let pair = Pair::new().await;
    let mut shared = pair.pool.shared("work");
    set(&mut shared).await.unwrap();

    pair.fail_over();
    let writing = async {
        loop {
            match set(&mut shared).await {
                Ok(()) => return,
                result => assert!(is_read_only(&result), "{result:?}"),
            }
        }
    };
    soon("a write that works", writing).await;

    until("the lane", &pair.pool, || clients(&pair.old) == 0).await;
    set(&mut shared).await.unwrap();
}

/// A replica passes on what is published to its primary, so nothing need be missed on the way.
#[tokio::test]
async fn subscribers_move_too() {
    let pair = Pair::new().await;
    let mut subscriber = soon("a subscriber", pair.pool.pubsub("numbers")).await.unwrap();
    subscriber.subscribe("numbers").await.unwrap();
    pair.write().await.unwrap();
    let listening = tokio::spawn(async move {
        let mut heard = BTreeSet::new();
        while !heard.contains("the last one") {
            match subscriber.next().await.expect("the pool is open").unwrap() {
                PubSubEvent::Message(message) => heard.insert(message.get_payload().unwrap()),
                event => panic!("{event:?}"),
            };
        }
        heard
    });

    pair.fail_over();
    until_written(&pair).await;
    until("the rest", &pair.pool, || clients(&pair.old) == 0).await;
    let published = pair.new.admin().text(&["PUBLISH", "numbers", "the last one"]);

    assert_eq!(published, "1");
    let heard: BTreeSet<String> = soon("the message", listening).await.unwrap();
    assert_eq!(heard.len(), 1);
}

/// Reads alone say nothing; the watch does.
#[tokio::test]
async fn one_that_only_reads_is_told_by_the_watch() {
    let pair = Pair::new().await;
    pair.warm().await;
    until("a word", &pair.pool, || pair.pool.status().watch.observation.is_some()).await;

    pair.fail_over();

    until("the rest", &pair.pool, || clients(&pair.old) == 0).await;
    assert!(!pair.pool.status().server_errors.contains_key("readonly"));
}

/// Until the name moves nothing is closed, reads go on, and the dials that look for the primary are few.
#[tokio::test]
async fn while_the_name_still_leads_to_it_reads_go_on_and_dials_are_few() {
    let pair = Pair::new().await;
    pair.warm().await;
    let before = pair.name.dials();

    pair.demote();
    let since = Instant::now();
    let mut reads = 0;
    while since.elapsed() < Duration::from_secs(3) {
        assert!(is_read_only(&pair.write().await));
        let mut lease = pair.pool.acquire("work").await.unwrap();
        let _: Option<String> = lease.get("key").await.unwrap();
        reads += 1;
        sleep(Duration::from_millis(1)).await;
    }

    let dialed = pair.name.dials() - before;
    assert!((2..=18).contains(&dialed), "{dialed} in 3 s, with {reads} reads");
    assert_eq!(pair.pool.status().live, 4);
    assert!(pair.pool.status().connections_closed.is_empty(), "{:?}", pair.pool.status());
    assert!(dials(&pair.pool)["wrong_role"] >= 2);
    let unhealthy = pair.pool.health().await.unwrap_err();
    assert!(unhealthy.to_string().contains("replica"), "{unhealthy}");

    pair.name.move_to(&pair.new);
    let moved = Instant::now();
    until_written(&pair).await;
    println!("writes are back {:?} after the name has moved", moved.elapsed());
    until("the rest", &pair.pool, || clients(&pair.old) == 0).await;
    pair.pool.health().await.unwrap();
}

/// With nothing live, callers wait for the dial that finds the primary.
#[tokio::test]
async fn callers_wait_for_the_primary_when_nothing_is_live() {
    let pair = Pair::with(|builder| builder.max_connections(1)).await;
    pair.write().await.unwrap();
    pair.demote();
    assert!(is_read_only(&pair.write().await));
    until("a dial", &pair.pool, || dials(&pair.pool).contains_key("wrong_role")).await;

    let closed = pair.old.admin().text(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_ne!(closed, "0");
    until("its end", &pair.pool, || pair.pool.status().live == 0).await;
    let writing = pair.write();
    pair.name.move_to(&pair.new);

    soon("the write", writing).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_is_kept_goes_when_it_comes_back() {
    let pair = Pair::new().await;
    let mut kept = pair.pool.acquire("work").await.unwrap();
    let _: () = kept.set("key", "value").await.unwrap();

    pair.fail_over();
    until_written(&pair).await;
    let result: RedisResult<()> = kept.set("key", "value").await;
    assert!(is_read_only(&result), "{result:?}");
    drop(kept);

    until("the rest", &pair.pool, || clients(&pair.old) == 0).await;
    for _ in 0..100 {
        pair.write().await.unwrap();
    }
}

#[tokio::test]
async fn a_pool_for_replicas_takes_it_for_an_answer() {
    let pair = Pair::with(|builder| builder.role(Role::Replica)).await;
    pair.warm().await;
    let before = pair.name.dials();

    pair.fail_over();
    for _ in 0..50 {
        assert!(is_read_only(&pair.write().await));
    }

    assert_eq!((pair.name.dials(), clients(&pair.old)), (before, 4));
    pair.pool.health().await.unwrap();
}

/// A server that calls itself a primary, and refuses writes as a replica does.
#[tokio::test]
async fn one_that_stays_read_only_is_not_dialed_for_ever() {
    let pair = Pair::new().await;
    pair.warm().await;
    // Who may not ask for the role cannot know.
    let admin = pair.old.admin();
    assert_eq!(admin.text(&["ACL", "SETUSER", "default", "-role", "-info"]), "OK");
    pair.demote();

    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        assert!(is_read_only(&pair.write().await));
        sleep(Duration::from_millis(2)).await;
    }

    // At 0, 1 and 3 s.
    let dialed = pair.name.dials();
    assert!(dialed <= 4 + 3 * 5, "{dialed}");
}

#[tokio::test]
async fn eight_pools_make_no_storm_of_it() {
    let pair = Pair::new().await;
    let pools: Vec<_> =
        (0..8).map(|_| unhurried(pair.name.url()).max_connections(4).build().unwrap()).collect();
    for pool in &pools {
        soon("the warm-up", pool.warm_up(4)).await.unwrap();
    }
    let before = pair.name.dials();

    pair.fail_over();
    let writing = pools.iter().map(|pool| async {
        loop {
            let mut lease = pool.acquire("work").await.unwrap();
            let result: RedisResult<()> = lease.set("key", "value").await;
            match result {
                Ok(()) => break,
                result => assert!(is_read_only(&result), "{result:?}"),
            }
        }
    });
    soon("all writes", futures_util::future::join_all(writing)).await;
    until("the rest", &pools[0], || clients(&pair.old) == 0).await;

    let dialed = pair.name.dials() - before;
    assert!(dialed <= 8 * 5, "each connection once: {dialed}");
}

/// What is open is not all: who reads needs more, and a replica has them.
#[tokio::test]
async fn a_pool_grows_although_its_server_is_a_replica() {
    let pair = Pair::new().await;
    pair.write().await.unwrap();
    pair.demote();
    assert!(is_read_only(&pair.write().await));
    until("a dial", &pair.pool, || dials(&pair.pool).contains_key("wrong_role")).await;

    let leases = (0..4).map(|_| pair.pool.acquire("work"));
    let leases = soon("four", futures_util::future::try_join_all(leases)).await.unwrap();
    let mut shared = pair.pool.shared("work");
    drop(leases);
    let read: RedisResult<Option<String>> = shared.get("key").await;
    read.unwrap();

    pair.name.move_to(&pair.new);
    until_written(&pair).await;
    until("the rest", &pair.pool, || clients(&pair.old) == 0).await;
    set(&mut shared).await.unwrap();
}
