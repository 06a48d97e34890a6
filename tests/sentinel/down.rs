//! Sentinels that are away, full, or stand still: one of them, or all.

use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedPool};
use tokio::time::{Instant, sleep};

use crate::fake::FakeSentinel;
use crate::support::{SentinelSet, TestServer, dials};
use crate::waiting::{soon, until};
use crate::{builder, changed, changes, clients, listens_to, sentinel};

/// What a caller has to wait at most where nothing can be had: the acquire timeout, and what a busy machine
/// takes on top.
const BOUND: Duration = Duration::from_secs(3);

async fn write(pool: &GuardedPool) -> Result<(), String> {
    let mut lease = pool.acquire("test").await.map_err(|error| error.to_string())?;
    lease.set("key", 1).await.map_err(|error| error.to_string())
}

async fn until_written(pool: &GuardedPool) {
    let writing = async {
        while write(pool).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon("a write", writing).await;
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

fn address(url: &str) -> String {
    url.trim_start_matches("redis://").split('/').next().unwrap().to_owned()
}

fn names_all(said: &str, set: &SentinelSet) {
    for url in set.sentinels() {
        assert!(said.contains(&address(&url)), "{} is not in: {said}", address(&url));
    }
}

fn all(set: &SentinelSet, does: impl Fn(&TestServer)) {
    (0..3).for_each(|number| does(set.sentinel(number)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_down_from_the_start() {
    let set = SentinelSet::start().unwrap();
    set.sentinel(1).crash();
    for _ in 0..5 {
        let pool = builder(&set).build().unwrap();
        soon("a write", write(&pool)).await.unwrap();
        let status = sentinel(&pool);
        assert_eq!(status.trouble, None);
        assert!(!status.sentinels[1].connected);
    }
}

/// It listens to another one, and hears of the failover from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_is_listened_to_goes() {
    let set = SentinelSet::builder().watchful().start().unwrap();
    let pool = builder(&set).build().unwrap();
    soon("a write", write(&pool)).await.unwrap();
    until("the subscription", &pool, || listens_to(&set, &pool).is_some()).await;
    let first = listens_to(&set, &pool).unwrap();

    set.sentinel(first).crash();

    let other = || listens_to(&set, &pool).is_some_and(|number| number != first);
    until("another subscription", &pool, other).await;
    assert!(sentinel(&pool).sentinels[first].last_failure.is_some());
    set.server(0).crash();
    let new = set.moved_from(0);
    until_written(&pool).await;
    assert_eq!(*pool.status().server, *set.address(new));
    changed(&pool, &[(set.address(0), set.address(new))]).await;
}

/// The kernel still answers for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_is_listened_to_stands_still() {
    let set = SentinelSet::builder().watchful().start().unwrap();
    let pool = builder(&set).build().unwrap();
    soon("a write", write(&pool)).await.unwrap();
    until("the subscription", &pool, || listens_to(&set, &pool).is_some()).await;
    let first = listens_to(&set, &pool).unwrap();

    set.sentinel(first).pause();
    set.server(0).crash();
    let new = set.moved_from(0);
    let begun = Instant::now();
    until_written(&pool).await;

    println!("a write {:?} after the others' word", begun.elapsed());
    assert_eq!(*pool.status().server, *set.address(new));
    let other = || listens_to(&set, &pool).is_some_and(|number| number != first);
    until("another subscription", &pool, other).await;
    set.sentinel(first).resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stands_still_from_the_start() {
    let set = SentinelSet::start().unwrap();
    set.sentinel(1).pause();
    for _ in 0..5 {
        let pool = builder(&set).build().unwrap();
        let begun = Instant::now();
        // With the patience of a service.
        soon("a write", write(&pool)).await.unwrap();
        println!("{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_down_at_the_start_and_come_back() {
    let set = SentinelSet::start().unwrap();
    all(&set, TestServer::crash);
    let pool = builder(&set).build().unwrap();

    let said = error(&pool).await;

    names_all(&said, &set);
    assert!(said.contains("mymaster"), "{said}");
    names_all(&sentinel(&pool).trouble.unwrap(), &set);
    assert!(sentinel(&pool).since.is_none());
    assert!(pool.health().await.is_err());
    for _ in 0..20 {
        error(&pool).await;
    }
    (0..3).for_each(|number| set.restart_sentinel(number).unwrap());
    until_written(&pool).await;
    until("the end of the trouble", &pool, || sentinel(&pool).trouble.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_stand_still_at_the_start() {
    let set = SentinelSet::start().unwrap();
    all(&set, TestServer::pause);
    let pool = builder(&set).build().unwrap();

    for _ in 0..4 {
        let said = error(&pool).await;
        assert!(said.contains("mymaster") && said.contains("sentinel"), "{said}");
    }

    until("what is wrong", &pool, || sentinel(&pool).trouble.is_some()).await;
    names_all(&sentinel(&pool).trouble.unwrap(), &set);
    names_all(&error(&pool).await, &set);
    all(&set, TestServer::resume);
    until_written(&pool).await;
}

/// What is live serves, and the server that was named last is dialed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_go_while_the_master_lives() {
    let set = SentinelSet::start().unwrap();
    let pool = builder(&set).response_timeout(Duration::from_secs(20)).build().unwrap();
    let mut shared = pool.shared("shared");
    soon("a write", write(&pool)).await.unwrap();

    all(&set, TestServer::crash);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        write(&pool).await.unwrap();
        shared.set::<_, _, ()>("key", 2).await.unwrap();
        sleep(Duration::from_millis(2)).await;
    }

    until("what is wrong", &pool, || sentinel(&pool).trouble.is_some()).await;
    names_all(&sentinel(&pool).trouble.unwrap(), &set);
    pool.health().await.unwrap();
    soon("more", pool.warm_up(8)).await.unwrap();
    set.server(0).admin().text(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until_written(&pool).await;
    assert_eq!(*pool.status().server, *set.address(0));
    assert!(changes(&pool).is_empty());
}

/// Nobody could say where it is now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_down_when_the_master_fails_and_come_back() {
    let set = SentinelSet::builder().watchful().start().unwrap();
    let pool = builder(&set).build().unwrap();
    soon("a write", write(&pool)).await.unwrap();

    all(&set, TestServer::crash);
    set.server(0).crash();
    let begun = Instant::now();
    let mut said = String::new();
    while begun.elapsed() < Duration::from_secs(3) {
        let began = Instant::now();
        said = soon("the error", write(&pool)).await.unwrap_err();
        assert!(began.elapsed() < BOUND, "{:?}: {said}", began.elapsed());
        sleep(Duration::from_millis(5)).await;
    }

    println!("{said}; {:?}", dials(&pool));
    assert!(said.contains(&set.address(0)), "{said}");
    names_all(&sentinel(&pool).trouble.unwrap(), &set);
    let failed: u64 = dials(&pool).iter().filter(|(o, _)| **o != "connected").map(|(_, n)| n).sum();
    assert!(failed <= 3 * 4, "{failed} in 3 s");
    (0..3).for_each(|number| set.restart_sentinel(number).unwrap());
    let new = set.moved_from(0);
    until_written(&pool).await;
    assert_eq!(*pool.status().server, *set.address(new));
    changed(&pool, &[(set.address(0), set.address(new))]).await;
}

fn small() -> SentinelSet {
    let settings = TestServer::builder().maxclients(20);
    SentinelSet::builder().sentinel(settings).start().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_full() {
    let set = small();
    let _occupants = set.sentinel(0).fill();
    for _ in 0..5 {
        let pool = builder(&set).build().unwrap();
        soon("a write", write(&pool)).await.unwrap();
        assert_eq!(sentinel(&pool).trouble, None);
        assert!(!sentinel(&pool).sentinels[0].connected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_full() {
    let set = small();
    let occupants: Vec<_> = (0..3).map(|number| set.sentinel(number).fill()).collect();
    let pool = builder(&set).build().unwrap();

    let said = error(&pool).await;

    assert!(said.contains("max number of clients"), "{said}");
    names_all(&said, &set);
    // They dial each other, too, but have done so.
    let refused = || -> u64 {
        (0..3).map(|number| set.sentinel(number).admin().info_u64("rejected_connections")).sum()
    };
    let (before, begun) = (refused(), Instant::now());
    while begun.elapsed() < Duration::from_secs(2) {
        let _ = write(&pool).await.unwrap_err();
        sleep(Duration::from_millis(2)).await;
    }
    println!("{} were refused in 2 s", refused() - before);
    assert!(refused() - before <= 3 * 7, "{}", refused() - before);
    occupants.into_iter().for_each(drop);
    until_written(&pool).await;
    until("the end of the trouble", &pool, || sentinel(&pool).trouble.is_none()).await;
}

/// What another pool of the process has heard before them is remembered for as long as it lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_comes_when_all_are_down_learns_from_another_one() {
    let set = SentinelSet::start().unwrap();
    let first = builder(&set).build().unwrap();
    soon("a write", write(&first)).await.unwrap();
    all(&set, TestServer::crash);
    until("what is wrong", &first, || sentinel(&first).trouble.is_some()).await;

    let second = builder(&set).build().unwrap();

    soon("a write", write(&second)).await.unwrap();
    assert_eq!(*second.status().server, *set.address(0));
}

/// It says nothing more, and closes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_one_falls_silent_and_service_goes_on() {
    let server = TestServer::start().unwrap();
    let at = format!("127.0.0.1:{}", server.port());
    let only = FakeSentinel::start(Some(&at)).await;
    let pool = GuardedPool::sentinel([only.url()], "mymaster");
    let pool = pool.response_timeout(Duration::from_secs(20)).build().unwrap();
    soon("a write", write(&pool)).await.unwrap();

    only.go_silent();
    until("what is wrong", &pool, || sentinel(&pool).trouble.is_some()).await;
    let begun = Instant::now();
    let opened = only.accepted();
    while begun.elapsed() < Duration::from_secs(3) {
        write(&pool).await.unwrap();
        sleep(Duration::from_millis(2)).await;
    }

    println!("{:?}", sentinel(&pool).trouble);
    println!("{} dials of the sentinel in 3 s", only.accepted() - opened);
    assert!(only.accepted() - opened <= 9);
    until("its clients", &pool, || clients(&server) == pool.status().live).await;
}
