//! Sentinels that say what is not so, or nothing that can be used.

use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedPool, GuardedPoolBuilder};
use tokio::time::{Instant, sleep};

use crate::fake::FakeSentinel;
use crate::support::{SentinelSet, TestServer, VendorScript, VendorServer, dials};
use crate::waiting::{soon, until};
use crate::{accepted, builder, changes, clients, sentinel};

/// What a caller has to wait at most where nothing can be had: the acquire timeout, and what a busy machine
/// takes on top.
const BOUND: Duration = Duration::from_secs(3);

/// A port of this machine where nothing is.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The one that misbehaves, and then those of the set.
fn first(bad: &str, set: &SentinelSet) -> GuardedPoolBuilder {
    let sentinels = std::iter::once(bad.to_owned()).chain(set.sentinels());
    GuardedPool::sentinel(sentinels, set.name()).acquire_timeout(Duration::from_secs(20))
}

fn alone(bad: &str) -> GuardedPool {
    GuardedPool::sentinel([bad], "mymaster").build().unwrap()
}

/// What a caller hears who cannot be served, within the bound.
async fn error(pool: &GuardedPool) -> String {
    let begun = Instant::now();
    let error = soon("the error", pool.acquire("test")).await.unwrap_err();
    let waited = begun.elapsed();
    println!("{waited:?}: {error}");
    assert!(waited < BOUND, "{waited:?}: {error}");
    error.to_string()
}

async fn write(pool: &GuardedPool) -> Result<(), String> {
    let mut lease = pool.acquire("test").await.map_err(|error| error.to_string())?;
    lease.set("key", 1).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_names_a_replica() {
    let set = SentinelSet::start().unwrap();
    let liar = FakeSentinel::start(Some(&set.address(1))).await;
    let pool = alone(&liar.url());

    let said = error(&pool).await;

    assert!(said.contains("replica") && said.contains(&set.address(1)), "{said}");
    assert!(dials(&pool)["wrong_role"] >= 1);
    assert_eq!((pool.status().live, clients(set.server(1))), (0, 0));
    // It is asked, and the replica dialed, at the pace of the back-off.
    let (asked, before) = (liar.asked(), accepted(set.server(1)));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let _ = pool.acquire("test").await.unwrap_err();
        sleep(Duration::from_millis(2)).await;
    }
    let (asked, opened) = (liar.asked() - asked, accepted(set.server(1)) - before);
    println!("{asked} questions, {opened} dials in 2 s");
    assert!(opened <= 3 * 4, "{opened}");
    assert!(asked <= 50, "{asked}");

    liar.says(Some(&set.address(0)));
    let written = async { while write(&pool).await.is_err() {} };
    soon("a write", written).await;
    assert_eq!(*pool.status().server, *set.address(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_names_a_port_where_nothing_is() {
    let server = TestServer::start().unwrap();
    let nowhere = nowhere();
    let liar = FakeSentinel::start(Some(&nowhere)).await;
    let pool = alone(&liar.url());

    let said = error(&pool).await;

    assert!(said.contains(&nowhere), "{said}");
    liar.says(Some(&format!("127.0.0.1:{}", server.port())));
    let written = async { while write(&pool).await.is_err() {} };
    soon("a write", written).await;
}

/// The others know better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_among_those_that_tell_the_truth() {
    let set = SentinelSet::start().unwrap();
    for lie in [set.address(1), set.address(2), nowhere()] {
        let liar = FakeSentinel::start(Some(&lie)).await;
        // Which one is asked first is up to the pool.
        for _ in 0..4 {
            let pool = first(&liar.url(), &set).build().unwrap();
            let begun = Instant::now();
            soon("a write", write(&pool)).await.unwrap();
            println!("{lie}: a write after {:?}", begun.elapsed());
            assert_eq!(*pool.status().server, *set.address(0));
        }
    }
    let left = async {
        while clients(set.server(1)) + clients(set.server(2)) > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the end of the connections to replicas", left).await;
}

/// Nothing that works is given up for a word that is not so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_begins_to_lie() {
    let set = SentinelSet::start().unwrap();
    for lie in [set.address(1), nowhere()] {
        let liar = FakeSentinel::start(Some(&set.address(0))).await;
        let pool = GuardedPool::sentinel([liar.url()], "mymaster");
        let pool = pool.response_timeout(Duration::from_secs(20)).build().unwrap();
        soon("a write", write(&pool)).await.unwrap();
        pool.warm_up(4).await.unwrap();
        let mut kept = pool.acquire("kept").await.unwrap();
        let mut shared = pool.shared("shared");
        until("the subscription", &pool, || sentinel(&pool).sentinels[0].connected).await;

        liar.switches("mymaster", &set.address(0), &lie);
        let begun = Instant::now();
        let mut writes = 0;
        while begun.elapsed() < Duration::from_secs(2) {
            soon("a write", write(&pool)).await.unwrap();
            kept.set::<_, _, ()>("key", 2).await.unwrap();
            shared.set::<_, _, ()>("key", 3).await.unwrap();
            writes += 1;
            sleep(Duration::from_millis(2)).await;
        }

        println!("{lie}: {writes} writes, {:?}", dials(&pool));
        assert!(changes(&pool).is_empty());
        assert_eq!(sentinel(&pool).moves, 0);
        let failed: u64 =
            dials(&pool).iter().filter(|(o, _)| **o != "connected").map(|(_, n)| n).sum();
        assert!((1..=9).contains(&failed), "{failed} in 2 s");
        // It mends its ways.
        liar.switches("mymaster", &lie, &set.address(0));
        until("the word", &pool, || *pool.status().server == *set.address(0)).await;
        drop((kept, shared));
        soon("all", pool.warm_up(8)).await.unwrap();
        pool.health().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_that_knows_the_master() {
    let set = SentinelSet::start().unwrap();
    let pool = GuardedPool::sentinel(set.sentinels(), "typo").build().unwrap();

    let said = error(&pool).await;

    assert!(said.contains("typo") && said.contains("no master"), "{said}");
    let trouble = sentinel(&pool).trouble.unwrap();
    assert!(trouble.contains("no master"), "{trouble}");
    for url in set.sentinels() {
        let address = url.trim_start_matches("redis://").split('/').next().unwrap();
        assert!(said.contains(address), "{address} is not in: {said}");
    }
    // One of the right name is not disturbed, and the sentinels are not stormed.
    let right = builder(&set).build().unwrap();
    soon("a write", write(&right)).await.unwrap();
    let opened = || (0..3).map(|number| accepted(set.sentinel(number))).sum::<u64>();
    let before = opened();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let _ = pool.acquire("test").await.unwrap_err();
        write(&right).await.unwrap();
        sleep(Duration::from_millis(2)).await;
    }
    println!("{} connections to sentinels in 2 s", opened() - before);
    assert!(opened() - before <= 9, "{}", opened() - before);
    let of_sentinels: usize = (0..3).map(|number| clients(set.sentinel(number))).sum();
    assert!(of_sentinels <= 1, "{of_sentinels}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_not_know_the_master_among_those_that_do() {
    let set = SentinelSet::start().unwrap();
    let ignorant = FakeSentinel::start(None).await;

    for _ in 0..4 {
        let pool = first(&ignorant.url(), &set).build().unwrap();
        soon("a write", write(&pool)).await.unwrap();
        until("the subscription", &pool, || {
            let sentinels = sentinel(&pool).sentinels;
            let connected: Vec<_> = sentinels.iter().filter(|s| s.connected).collect();
            connected.len() == 1 && *connected[0].server != *ignorant.address()
        })
        .await;
    }
}

/// Whatever they say or do not say, the next one is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sentinel_among_many_that_are_none() {
    let set = SentinelSet::builder().sentinels(1).replicas(0).start().unwrap();
    let mut asked = 0;
    for script in VendorScript::ALL {
        let strange = [
            VendorServer::start(script).await.unwrap(),
            VendorServer::start(script).await.unwrap(),
            VendorServer::start(script).await.unwrap(),
        ];
        let sentinels = strange.iter().map(VendorServer::url).chain(set.sentinels());
        let pool = GuardedPool::sentinel(sentinels, set.name())
            .acquire_timeout(Duration::from_secs(20))
            .build()
            .unwrap();

        let begun = Instant::now();
        soon("a write", write(&pool)).await.unwrap();

        let waited = begun.elapsed();
        let accepted: u64 = strange.iter().map(VendorServer::accepted).sum();
        println!("{script:?}: {waited:?}, {accepted} that are none were asked");
        assert!(waited < Duration::from_secs(5), "{script:?}: {waited:?}");
        assert!(accepted <= 3, "{script:?}: {accepted}");
        asked += accepted;
        until("the subscription", &pool, || {
            let sentinels = sentinel(&pool).sentinels;
            sentinels[3].connected && !sentinels[..3].iter().any(|sentinel| sentinel.connected)
        })
        .await;
    }
    // Which one is asked first is up to the pool.
    assert!(asked > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_no_sentinel_alone() {
    for script in VendorScript::ALL {
        let strange = VendorServer::start(script).await.unwrap();
        let pool = alone(&strange.url());

        let said = error(&pool).await;

        assert!(said.contains(&strange.address().to_string()), "{script:?}: {said}");
        assert!(said.contains("mymaster"), "{script:?}: {said}");
        let most = strange.most_open();
        assert!(most <= 1, "{script:?}: {most} connections at a time");
        soon("the end", pool.close()).await;
        drop(pool);
        soon("the end of its connections", strange.all_closed()).await;
    }
}

/// A plain Redis, which is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_taken_for_a_sentinel() {
    let server = TestServer::start().unwrap();

    let said = error(&alone(&server.url())).await;

    let address = format!("127.0.0.1:{}", server.port());
    assert!(said.contains(&address) && said.contains("SENTINEL"), "{said}");
}
