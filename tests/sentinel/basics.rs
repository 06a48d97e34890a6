//! While nothing happens.

use std::time::Duration;

use redis_guard::{AsyncCommands, GuardedPool, PubSubEvent};

use crate::support::{SentinelSet, TestServer, dials};
use crate::waiting::{soon, until};
use crate::{accepted, builder, changes, clients, listens_to, sentinel};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_serves_from_the_master() {
    let set = SentinelSet::start().unwrap();
    let pool = builder(&set).build().unwrap();

    let mut lease = pool.acquire("lease").await.unwrap();
    let _: () = lease.set("key", 1).await.unwrap();
    drop(lease);
    let mut shared = pool.shared("shared");
    let number: u64 = shared.incr("key", 1).await.unwrap();
    let mut subscriber = pool.pubsub("subscriber").await.unwrap();
    subscriber.subscribe("news").await.unwrap();
    assert_eq!(set.server(0).admin().text(&["PUBLISH", "news", "it"]), "1");
    let event = soon("the message", subscriber.next()).await.unwrap().unwrap();

    assert_eq!(number, 2);
    assert!(matches!(event, PubSubEvent::Message(_)), "{event:?}");
    assert_eq!(set.server(0).admin().text(&["GET", "key"]), "2");
    assert_eq!(*pool.status().server, *set.address(0));
    until("the subscription", &pool, || listens_to(&set, &pool).is_some()).await;
    let status = sentinel(&pool);
    assert_eq!((status.master.as_str(), status.moves), ("mymaster", 0));
    assert!(status.since.is_some() && status.trouble.is_none(), "{status:?}");
    let servers: Vec<String> =
        status.sentinels.iter().map(|sentinel| format!("redis://{}/", sentinel.server)).collect();
    let urls = set.sentinels();
    assert!(servers.iter().zip(&urls).all(|(server, url)| url.starts_with(server)), "{servers:?}");
    assert_eq!(status.sentinels.iter().filter(|sentinel| sentinel.connected).count(), 1);
    assert!(changes(&pool).is_empty());
    pool.health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_runs_on_the_master_and_on_the_next_one() {
    let set = SentinelSet::start().unwrap();
    for multiplex in [false, true] {
        let pool = builder(&set).multiplex(multiplex).build().unwrap();
        let master = set.master();
        let increment = async || {
            let told = pool.transaction("test", &["n"], async |conn, pipe| {
                let n: Option<i64> = conn.get("n").await?;
                let next = n.unwrap_or(0) + 1;
                pipe.set("n", next).ignore().query_async::<Option<()>>(conn).await
            });
            soon("the transaction", told).await
        };
        increment().await.unwrap();
        assert_ne!(set.server(master).admin().text(&["GET", "n"]), "");
        set.fail_over();
        until("the next master", &pool, || *pool.status().server == *set.address(set.master()))
            .await;
        while increment().await.is_err() {}
        set.until_whole();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_settings_hold_for_sentinels_and_for_the_servers_that_they_name() {
    use crate::support::sockets::asked_after;
    use redis_guard::redis::IntoConnectionInfo;
    use redis_guard::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};

    let set = SentinelSet::start().unwrap();
    let long = Duration::from_secs(1_000);
    let with = |url: &str, time| {
        let keepalive = TcpKeepalive::new().with_time(time);
        let settings = TcpSettings::default().set_keepalive(keepalive);
        url.into_connection_info().unwrap().set_tcp_settings(settings)
    };
    let sentinels = set.sentinels().into_iter().map(|url| with(&url, long));
    let pool = GuardedPool::sentinel(sentinels, set.name())
        .connect_as(with("redis://any", long * 2))
        .build()
        .unwrap();
    let _lease = pool.acquire("test").await.unwrap();

    until("the subscription", &pool, || listens_to(&set, &pool).is_some()).await;
    let listened = set.sentinel(listens_to(&set, &pool).unwrap());
    until("the settings", &pool, || {
        let to_sentinel = asked_after(listened.port(), long / 2);
        (to_sentinel, asked_after(set.server(0).port(), long)) == (1, 1)
    })
    .await;
}

#[tokio::test]
async fn a_pool_of_one_server_has_no_sentinels() {
    let server = TestServer::start().unwrap();
    let pool = GuardedPool::builder(server.url()).build().unwrap();

    assert!(pool.status().sentinel.is_none());
}

/// In the master's own count of what it has accepted, at rest and in a rush.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_costs_one_slot_of_the_master_and_none_of_a_replica() {
    let set = SentinelSet::start().unwrap();
    let before: Vec<u64> = set.servers().iter().map(accepted).collect();
    let pool = builder(&set).max_connections(12).build().unwrap();

    let first = pool.acquire("first").await.unwrap();
    assert_eq!(accepted(set.server(0)) - before[0], 1);
    let rush = (0..11).map(|_| pool.acquire("rush"));
    let leases = soon("all leases", futures_util::future::try_join_all(rush)).await.unwrap();

    assert_eq!((clients(set.server(0)), pool.status().live), (12, 12));
    let after: Vec<u64> = set.servers().iter().map(accepted).collect();
    let opened: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(opened, [12, 0, 0]);
    assert_eq!(dials(&pool).into_iter().collect::<Vec<_>>(), [("connected", 12)]);
    drop((first, leases));
    let of_sentinels: usize = (0..3).map(|number| clients(set.sentinel(number))).sum();
    assert_eq!(of_sentinels, 1);
}

/// Nobody connects to a sentinel again while all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_cost_the_sentinels_nothing() {
    let set = SentinelSet::start().unwrap();
    let pool = builder(&set).build().unwrap();
    drop(pool.acquire("first").await.unwrap());
    until("the subscription", &pool, || listens_to(&set, &pool).is_some()).await;
    let opened = || (0..3).map(|number| accepted(set.sentinel(number))).sum::<u64>();
    let before = opened();

    soon("all connections", pool.warm_up(8)).await.unwrap();
    let killed = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
    set.server(0).admin().text(&killed);
    until("their end", &pool, || !pool.status().connections_closed.is_empty()).await;
    soon("all connections", pool.warm_up(8)).await.unwrap();

    assert_eq!(opened() - before, 0);
    assert_eq!(dials(&pool).into_keys().collect::<Vec<_>>(), ["connected"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadpools_configuration() {
    let set = SentinelSet::start().unwrap();
    let config = deadpool_redis::sentinel::Config {
        urls: Some(set.sentinels()),
        connections: None,
        master_name: set.name().to_owned(),
        pool: Some(deadpool_redis::PoolConfig::new(3)),
        ..Default::default()
    };

    let pool = GuardedPool::from_config(config).build().unwrap();

    let mut lease = pool.acquire("lease").await.unwrap();
    let _: () = lease.set("key", 1).await.unwrap();
    let status = pool.status();
    assert_eq!((status.max_connections, &*status.server), (3, &*set.address(0)));
}

#[cfg(feature = "tls-rustls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_over_tls() {
    if crate::support::lacks_tls() {
        return;
    }
    let set = SentinelSet::builder().tls(true).start().unwrap();
    let certificates = redis_guard::redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(set.server(0).ca_pem().as_bytes().to_vec()),
    };
    let pool = GuardedPool::sentinel(set.tls_sentinels(), set.name())
        .connect_as("rediss://any/2?protocol=resp3")
        .tls_certificates(certificates)
        .build()
        .unwrap();

    let mut lease = pool.acquire("lease").await.unwrap();
    let _: () = lease.set("key", 1).await.unwrap();
    let client = SentinelSet::clients(set.server(0)).unwrap().remove(0);
    drop(lease);

    assert_eq!((client["db"].as_str(), client["resp"].as_str()), ("2", "3"));
    assert_eq!(*pool.status().server, *set.address(0));
    set.fail_over();
    let new = set.moved_from(0);
    until("the move", &pool, || *pool.status().server == *set.address(new)).await;
    let mut shared = pool.shared("shared");
    let writing = async {
        while shared.set::<_, _, ()>("key", 2).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("a write", writing).await;
}

/// One that was given the wrong certificates, or none, is not in the way of one that has the right ones, and
/// is not let in with those.
#[cfg(feature = "tls-rustls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_each_pools_own() {
    if crate::support::lacks_tls() {
        return;
    }
    let set = SentinelSet::builder().tls(true).replicas(0).sentinels(1).start().unwrap();
    let trusting = redis_guard::redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(set.server(0).ca_pem().as_bytes().to_vec()),
    };
    let builder =
        || GuardedPool::sentinel(set.tls_sentinels(), set.name()).connect_as("rediss://any");

    let wrong = builder().build().unwrap();
    let error = soon("the error", wrong.acquire("test")).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let right = builder().tls_certificates(trusting).build().unwrap();
    drop(soon("a lease", right.acquire("test")).await.unwrap());
    let error = soon("the error", wrong.acquire("test")).await.unwrap_err();
    assert!(error.to_string().contains("no sentinel"), "{error}");
}
