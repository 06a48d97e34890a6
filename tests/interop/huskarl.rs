//! huskarl-redis: tokens that may be used once.

#[path = "../support/server.rs"]
mod server;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use huskarl_core::jwt::JtiUniquenessChecker;
use huskarl_redis::jti::RedisJtiUniquenessChecker;
use redis_guard::GuardedPool;
use server::TestServer;

/// Far above anything that is waited for.
const HANG: Duration = Duration::from_secs(60);

/// The pools' connections, as the server counts them.
fn connections(server: &TestServer) -> usize {
    let named = |client: &&HashMap<String, String>| client["name"] == "tokens";
    server.admin().client_list().iter().filter(named).count()
}

fn checker(pool: &GuardedPool) -> Arc<dyn JtiUniquenessChecker> {
    let checker = RedisJtiUniquenessChecker::builder()
        .connection(pool.shared("tokens"))
        .ttl(Duration::from_secs(300))
        .key_prefix("jti:")
        .build();
    Arc::new(checker)
}

#[tokio::test]
async fn a_token_is_seen_by_every_instance_once_it_was_used() {
    let server = TestServer::start().unwrap();
    let pool = || {
        let builder = GuardedPool::builder(server.url()).client_name("tokens");
        let builder = builder.acquire_timeout(HANG).connect_timeout(HANG).response_timeout(HANG);
        builder.build().unwrap()
    };
    let (one, other) = (pool(), pool());

    assert!(!checker(&one).check_and_mark_seen("first").await.unwrap());
    assert!(checker(&one).check_and_mark_seen("first").await.unwrap());
    assert!(checker(&other).check_and_mark_seen("first").await.unwrap());
    assert!(!checker(&other).check_and_mark_seen("second").await.unwrap());

    assert_eq!(connections(&server), 2, "one a pool");
}

/// It fails closed.
#[tokio::test]
async fn a_server_that_is_gone_refuses_tokens_until_it_is_back() {
    let server = TestServer::start().unwrap();
    let pool = GuardedPool::builder(server.url()).build().unwrap();
    let checker = checker(&pool);
    server.stop();

    checker.check_and_mark_seen("first").await.unwrap_err();

    server.restart().unwrap();
    let back = async {
        loop {
            match checker.check_and_mark_seen("first").await {
                Ok(seen) => return seen,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    tokio::time::timeout(HANG, back).await.unwrap();
}
