//! Sentinels and servers that ask for passwords, each for their own.

use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedPool};

use crate::support::{SentinelSet, TestServer};
use crate::waiting::{soon, until};
use crate::{accepted, sentinel};

fn set() -> SentinelSet {
    let app = TestServer::builder().acl_user("app", "app's");
    SentinelSet::builder()
        .server(app)
        .server_password("servers'")
        .sentinel_password("sentinels'")
        .start()
        .unwrap()
}

/// The sentinels' URLs with other credentials.
fn with(set: &SentinelSet, credentials: &str) -> Vec<String> {
    let urls = set.sentinels().into_iter();
    urls.map(|url| format!("redis://{credentials}{}", url.split_once('@').unwrap().1)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_has_its_own() {
    let set = set();
    let pool = GuardedPool::sentinel(set.sentinels(), set.name())
        .connect_as("redis://app:app%27s@any")
        .build()
        .unwrap();

    let mut lease = pool.acquire("work").await.unwrap();
    let _: () = lease.set("key", 1).await.unwrap();
    let client = SentinelSet::clients(set.server(0)).unwrap().remove(0);
    assert_eq!(client["user"], "app");

    drop(lease);
    set.fail_over();
    let new = set.moved_from(0);
    until("the move", &pool, || *pool.status().server == *set.address(new)).await;
    let write = async {
        loop {
            let Ok(mut lease) = pool.acquire("work").await else { continue };
            if lease.set::<_, _, ()>("key", 2).await.is_ok() {
                return;
            }
        }
    };
    soon("a write", write).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_one_for_the_servers_is_told_as_theirs() {
    let set = set();
    let pool = |url: &str| {
        GuardedPool::sentinel(set.sentinels(), set.name()).connect_as(url).build().unwrap()
    };

    for (url, words) in [("redis://app:wrong@any", "WRONGPASS"), ("redis://any", "NOAUTH")] {
        let pool = pool(url);
        let error = soon("the error", pool.acquire("work")).await.unwrap_err().to_string();
        println!("{error}");
        assert!(error.contains(words) && error.contains(&set.address(0)), "{error}");
        let sentinels = sentinel(&pool);
        assert_eq!(sentinels.trouble, None);
        assert!(!error.contains("wrong@") && !error.contains("app's"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_one_for_the_sentinels_is_told_as_theirs() {
    let set = set();
    let before = accepted(set.server(0));

    for (credentials, words) in [(":wrong@", "WRONGPASS"), ("", "NOAUTH")] {
        let pool = GuardedPool::sentinel(with(&set, credentials), set.name())
            .connect_as("redis://app:app%27s@any")
            .build()
            .unwrap();
        let error = soon("the error", pool.acquire("work")).await.unwrap_err().to_string();
        println!("{error}");
        assert!(error.contains(words) && error.contains("sentinel"), "{error}");
        for url in set.sentinels() {
            let address = url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
            assert!(error.contains(&address), "{address} is not in: {error}");
        }
        let trouble = sentinel(&pool).trouble.unwrap();
        assert!(trouble.contains(words), "{trouble}");
        // A sentinel is not asked the same thing over and over.
        let opened = || (0..3).map(|number| accepted(set.sentinel(number))).sum::<u64>();
        let first = opened();
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        while tokio::time::Instant::now() < until {
            let _ = pool.acquire("work").await.unwrap_err();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("{} dials of sentinels in 2 s", opened() - first);
        assert!(opened() - first <= 3 * 7, "{}", opened() - first);
    }
    assert_eq!(accepted(set.server(0)), before);
}
