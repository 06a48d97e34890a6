//! A pool that reads from a replica.

use redis_guard::redis::{ErrorKind, RedisResult, ServerErrorKind};
use redis_guard::server::Role;
use redis_guard::{AsyncCommands, GuardedPool};

use crate::support::{SentinelSet, dials};
use crate::waiting::{cmd, soon, until};
use crate::{accepted, builder, changes, clients, sentinel};

/// Reads until that works, and says from which port.
async fn read(pool: &GuardedPool) -> u16 {
    let reading = async {
        loop {
            let Ok(mut lease) = pool.acquire("reads").await else { continue };
            let port: RedisResult<(String, u16)> =
                cmd("CONFIG GET port").query_async(&mut lease).await;
            if let Ok((_, port)) = port {
                break port;
            }
        }
    };
    soon("a read", reading).await
}

fn number_of(set: &SentinelSet, port: u16) -> usize {
    set.servers().iter().position(|server| server.port() == port).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_on_a_replica_and_never_on_the_master() {
    let set = SentinelSet::builder().watchful().start().unwrap();
    let before = accepted(set.server(0));
    let pool = builder(&set).role(Role::Replica).build().unwrap();

    let first = number_of(&set, read(&pool).await);
    assert_ne!(first, 0);
    pool.warm_up(4).await.unwrap();
    assert_eq!((clients(set.server(first)), clients(set.server(3 - first))), (4, 0));
    let refused: RedisResult<()> = pool.acquire("a write").await.unwrap().set("key", 1).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Server(ServerErrorKind::ReadOnly));
    assert_eq!(*pool.status().server, *set.address(first));

    set.server(first).crash();

    let second = number_of(&set, read(&pool).await);
    assert_eq!(second, 3 - first);
    assert_eq!(*pool.status().server, *set.address(second));
    assert_eq!(accepted(set.server(0)), before);
    set.server(first).restart().unwrap();
    set.until_whole();
    assert_eq!(number_of(&set, read(&pool).await), second);
    assert_eq!(clients(set.server(0)), 0);
    assert!(changes(&pool).is_empty());
    pool.health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_leaves_one_that_becomes_the_master() {
    let set = SentinelSet::start().unwrap();
    let pool = builder(&set).role(Role::Replica).build().unwrap();
    let first = number_of(&set, read(&pool).await);
    pool.warm_up(4).await.unwrap();
    let mut kept = pool.acquire("kept").await.unwrap();
    let _: Option<String> = kept.get("key").await.unwrap();
    set.prefer(first);

    set.fail_over();
    assert_eq!(set.moved_from(0), first);

    until("the move", &pool, || clients(set.server(first)) == 0).await;
    let read_from = number_of(&set, read(&pool).await);
    assert_ne!(read_from, first);
    set.until_whole();
    assert_ne!(number_of(&set, read(&pool).await), first);
    assert_eq!(clients(set.server(first)), 0);
    println!("{:?}", dials(&pool));
    assert_eq!(sentinel(&pool).trouble, None);
}

/// There is no replica at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_without_replicas() {
    let set = SentinelSet::builder().replicas(0).start().unwrap();
    let before = accepted(set.server(0));
    let pool = builder(&set).role(Role::Replica).build().unwrap();

    let error = soon("the error", pool.acquire("reads")).await.unwrap_err().to_string();

    println!("{error}");
    assert!(error.contains("mymaster") && error.contains("replica"), "{error}");
    assert_eq!(accepted(set.server(0)), before);
}
