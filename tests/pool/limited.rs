//! Users and proxies that do not let a pool say all that it would.

use std::collections::BTreeSet;

use redis_guard::{AsyncCommands, GuardedPool, redis};

use crate::support::{TestServer, VendorScript, VendorServer, dials, impatient};
use crate::waiting::{cmd, id, soon};

fn server_with_limited_user(rights: &str) -> (TestServer, GuardedPool) {
    let server = TestServer::start().unwrap();
    let mut rule = vec!["ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*"];
    rule.extend(rights.split(' '));
    server.admin().text(&rule);
    let url = format!("redis://limited:secret@127.0.0.1:{}", server.port());
    let pool = impatient(&url).max_connections(1).build().unwrap();
    (server, pool)
}

/// Without the right to CLIENT a connection has no name; that is all.
#[tokio::test]
async fn a_user_without_client_keeps_its_connection() {
    let (_server, pool) = server_with_limited_user("+@all -client +client|id");
    let mut ids = BTreeSet::new();
    for _ in 0..5 {
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        ids.insert(id(&mut lease).await);
        let _: redis::Value = cmd("SELECT 3").query_async(&mut lease).await.unwrap();
    }
    let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
    ids.insert(id(&mut lease).await);
    let _: redis::Value = cmd("SET k v").query_async(&mut lease).await.unwrap();

    assert_eq!((ids.len(), dials(&pool)), (1, [("connected", 1)].into()));
}

#[tokio::test]
async fn a_user_without_client_has_lanes_and_subscribers() {
    let (_server, pool) = server_with_limited_user("+@all -client");
    soon("a shared command", pool.shared("test").set::<_, _, ()>("k", "v")).await.unwrap();
    drop(pool);
    let (_server, pool) = server_with_limited_user("+@all -client");

    let mut subscriber = soon("a subscriber", pool.pubsub("test")).await.unwrap();

    soon("a subscription", subscriber.subscribe("news")).await.unwrap();
}

/// A proxy that hangs up at what it does not know is a full server to a dial that names itself.
#[tokio::test]
async fn a_proxy_that_hangs_up_at_client_takes_a_plain_handshake() {
    let proxy = VendorServer::start(VendorScript::Twemproxy).await.unwrap();
    for url in [proxy.url(), format!("redis://:secret@{}", proxy.address())] {
        let named = impatient(&url).own_gate(true).build().unwrap();
        let refused = soon("a refusal", named.acquire("test")).await.unwrap_err();
        assert!(refused.to_string().contains("plain_handshake"), "{refused}");
        named.close().await;

        let pool = impatient(&url).plain_handshake(true).watch(false).build().unwrap();
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        let value: String = lease.get("key").await.unwrap();
        drop(lease);
        let shared: String = pool.shared("test").get("key").await.unwrap();
        let subscriber = soon("a subscriber", pool.pubsub("test")).await;

        assert!(subscriber.is_ok(), "{:?}", subscriber.err());
        assert_eq!((value.as_str(), shared.as_str()), ("value", "value"));
        assert_eq!(dials(&pool).keys().collect::<Vec<_>>(), [&"connected"]);
    }
}

/// A server sees no name and no library, and a reset sends neither.
#[tokio::test]
async fn a_plain_handshake_says_nothing_of_itself() {
    let server = TestServer::builder().password("secret").start().unwrap();
    let url = format!("redis://:secret@127.0.0.1:{}/2", server.port());
    let pool = impatient(&url).plain_handshake(true).max_connections(1).build().unwrap();
    for _ in 0..2 {
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        let info: String = cmd("CLIENT INFO").query_async(&mut lease).await.unwrap();
        assert!(info.contains(" name= ") && info.contains(" db=2 "), "{info}");
        assert!(!info.contains("redis-rs"), "{info}");
        let _: redis::Value = cmd("SELECT 3").query_async(&mut lease).await.unwrap();
    }

    assert_eq!(dials(&pool), [("connected", 1)].into());
}
