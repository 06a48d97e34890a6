//! Sentinels that say what is not so, or that others contradict.

use std::time::Duration;

use redis_guard::server::Role;
use redis_guard::{Budget, GuardedPool, PubSubEvent, redis};
use tokio::time::{Instant, sleep, timeout};

use crate::support::TestServer;
use crate::waiting::{soon, until};

/// Where nothing listens.
const NOWHERE: u16 = 1;

/// A sentinel that knows no master yet, and none but what it is told.
fn sentinel() -> TestServer {
    TestServer::builder().sentinel(true).start().unwrap()
}

fn tell(sentinel: &TestServer, name: &str, port: u16) {
    let admin = sentinel.admin();
    let _ = admin.command(&["SENTINEL", "REMOVE", name]);
    admin.text(&["SENTINEL", "MONITOR", name, "127.0.0.1", &port.to_string(), "1"]);
    admin.text(&["SENTINEL", "SET", name, "down-after-milliseconds", "600000"]);
}

fn url(sentinel: &TestServer) -> String {
    format!("redis://127.0.0.1:{}", sentinel.port())
}

fn replica_of(master: &TestServer) -> TestServer {
    let replica = TestServer::start().unwrap();
    replica.admin().text(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    replica
}

fn dials(pool: &GuardedPool) -> u64 {
    pool.status().dials.values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_before_says_of_itself_is_not_taken_for_the_next_ones() {
    let (here, sentinel) = (TestServer::start().unwrap(), sentinel());
    tell(&sentinel, "m", here.port());
    let pool = GuardedPool::sentinel([url(&sentinel)], "m").build().unwrap();
    drop(soon("a lease", pool.acquire("web")).await.unwrap());
    until("an observation", &pool, || pool.status().watch.observation.is_some()).await;

    tell(&sentinel, "m", NOWHERE);
    let there = format!("127.0.0.1:{NOWHERE}");
    until("the other address", &pool, || *pool.status().server == *there).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let status = pool.status();
        assert!(status.watch.observation.is_none(), "nobody has been there: {status:#?}");
        drop(soon("a lease", pool.acquire("web")).await.unwrap());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_is_not_dialed_for_the_room_at_the_one_before() {
    let (here, sentinel) = (TestServer::start().unwrap(), sentinel());
    let there = TestServer::builder().maxclients(20).start().unwrap();
    let _occupants = there.fill();
    tell(&sentinel, "m", here.port());
    let pool = GuardedPool::sentinel([url(&sentinel)], "m").build().unwrap();
    drop(soon("a lease", pool.acquire("web")).await.unwrap());

    tell(&sentinel, "m", there.port());
    let began = Instant::now();
    let before = dials(&pool);
    while began.elapsed() < Duration::from_secs(8) {
        drop(soon("a lease", pool.acquire("web")).await.unwrap());
        sleep(Duration::from_millis(20)).await;
    }
    let dialed = dials(&pool) - before;
    assert!((1..=9).contains(&dialed), "{dialed} dials of a full server in 8 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_speak_to_the_same_sentinel_each_in_its_own_way_wait_for_one_another() {
    let (here, sentinel) = (TestServer::start().unwrap(), sentinel());
    tell(&sentinel, "m", here.port());
    let pool = |name: &str| {
        let pool = GuardedPool::sentinel([url(&sentinel)], "m").sentinel_client_name(name);
        pool.acquire_timeout(Duration::from_secs(2)).build().unwrap()
    };
    let pools = ["one", "two", "three", "four"].map(pool);
    let leases = pools.iter().map(|pool| pool.acquire("web"));
    for lease in futures_util::future::join_all(leases).await {
        lease.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_contradict_each_other_do_not_hurry_the_dials() {
    let master = TestServer::start().unwrap();
    let replicas = [replica_of(&master), replica_of(&master)];
    let sentinels = [sentinel(), sentinel()];
    for (sentinel, replica) in sentinels.iter().zip(&replicas) {
        tell(sentinel, "m", replica.port());
    }
    let pool = GuardedPool::sentinel(sentinels.iter().map(url), "m")
        .acquire_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    soon("a refusal", pool.acquire("web")).await.unwrap_err();
    let dialed = dials(&pool);
    assert!((2..=16).contains(&dialed), "{dialed} dials in 5 s: {:?}", pool.status().dials);

    tell(&sentinels[0], "m", master.port());
    tell(&sentinels[1], "m", master.port());
    soon("a lease", pool.acquire("web")).await.unwrap();
}

#[test]
fn another_runtime_listens_where_the_one_that_did_stands_still() {
    let (here, sentinel) = (TestServer::start().unwrap(), sentinel());
    tell(&sentinel, "m", here.port());
    let build = || {
        let pool =
            GuardedPool::sentinel([url(&sentinel)], "m").connect_timeout(Duration::from_secs(5));
        pool.acquire_timeout(Duration::from_secs(10)).build().unwrap()
    };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (still, goes_on) = (runtime(), runtime());
    let first = build();
    drop(still.block_on(first.acquire("web")).unwrap());
    let second = build();
    goes_on.block_on(async {
        drop(second.acquire("web").await.unwrap());
    });
    drop(still.block_on(first.acquire("web")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_all_a_pool_has_moves_too() {
    let (before, after) = (TestServer::start().unwrap(), TestServer::start().unwrap());
    let sentinel = sentinel();
    tell(&sentinel, "m", before.port());
    let pool = GuardedPool::sentinel([url(&sentinel)], "m").max_connections(1).shared_lanes(1);
    let pool = pool.default_budget(Budget::max(1)).build().unwrap();
    let mut subscriber = pool.pubsub("web").await.unwrap();
    subscriber.subscribe("news").await.unwrap();

    tell(&sentinel, "m", after.port());
    let hears = async {
        loop {
            match subscriber.next().await.unwrap() {
                Ok(PubSubEvent::Message(message)) => return message.get_payload_bytes().to_vec(),
                other => drop(other),
            }
        }
    };
    let publishes = async {
        loop {
            after.admin().text(&["PUBLISH", "news", "hello"]);
            sleep(Duration::from_millis(50)).await;
        }
    };
    let heard = timeout(Duration::from_secs(20), async {
        tokio::select! {
            heard = hears => heard,
            () = publishes => unreachable!("it goes on"),
        }
    });
    assert_eq!(heard.await.expect("it should listen to the new server"), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_nobody_can_reach_are_not_dialed_one_after_the_other_without_end() {
    let master = TestServer::start().unwrap();
    let replicas = [replica_of(&master), replica_of(&master)];
    let sentinel = sentinel();
    tell(&sentinel, "m", master.port());
    let pool = GuardedPool::sentinel([url(&sentinel)], "m")
        .role(Role::Replica)
        .connect_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let known =
        || sentinel.admin().text(&["SENTINEL", "SLAVES", "m"]).matches("127.0.0.1:").count();
    until("both replicas", &pool, || known() >= 2).await;
    replicas.iter().for_each(TestServer::pause);

    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        soon("a refusal", pool.acquire("web")).await.unwrap_err();
        sleep(Duration::from_millis(20)).await;
    }
    let dialed = dials(&pool);
    assert!((2..=16).contains(&dialed), "{dialed} dials in 5 s: {:?}", pool.status().dials);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_all_a_pool_has_is_cut_off_and_its_place_is_free() {
    let (before, after) = (TestServer::start().unwrap(), TestServer::start().unwrap());
    let sentinel = sentinel();
    tell(&sentinel, "m", before.port());
    let pool = GuardedPool::sentinel([url(&sentinel)], "m").max_connections(1).shared_lanes(1);
    let pool = pool.acquire_timeout(Duration::from_secs(20)).build().unwrap();
    let mut kept = soon("a lease", pool.acquire("web")).await.unwrap();

    tell(&sentinel, "m", after.port());
    let mut next = pool.acquire("web").await.unwrap();
    redis::cmd("SET").arg("k").arg(1).exec_async(&mut next).await.unwrap();
    assert_eq!(after.admin().text(&["GET", "k"]), "1");
    let error = redis::cmd("PING").exec_async(&mut kept).await.unwrap_err();
    assert!(error.to_string().contains("nothing was sent"), "{error}");
    drop((kept, next));
    until("one connection", &pool, || (pool.status().live, pool.status().in_use) == (1, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_is_taken_back_leaves_everything_as_it_was() {
    let (here, there) = (TestServer::start().unwrap(), TestServer::builder().maxclients(20));
    let there = there.start().unwrap();
    let _occupants = there.fill();
    let sentinel = sentinel();
    tell(&sentinel, "m", here.port());
    let pool = GuardedPool::sentinel([url(&sentinel)], "m").max_connections(4).build().unwrap();
    let mut kept = soon("a lease", pool.acquire("web")).await.unwrap();
    drop(soon("another", pool.acquire("web")).await.unwrap());

    for port in [there.port(), NOWHERE] {
        tell(&sentinel, "m", port);
        let away = format!("127.0.0.1:{port}");
        until("the other address", &pool, || *pool.status().server == *away).await;
        until("a failed dial", &pool, || pool.status().breaker.last_failure.is_some()).await;
        tell(&sentinel, "m", here.port());
        let back = format!("127.0.0.1:{}", here.port());
        until("the address before", &pool, || *pool.status().server == *back).await;
    }
    redis::cmd("PING").exec_async(&mut kept).await.unwrap();
    let status = pool.status();
    assert_eq!(status.sentinel.unwrap().moves, 0);
    assert_eq!((status.live, status.connections_closed.values().sum::<u64>()), (2, 0));
    let more = (0..3).map(|_| pool.acquire("web"));
    for lease in soon("the rest", futures_util::future::join_all(more)).await {
        drop(lease.unwrap());
    }
}
