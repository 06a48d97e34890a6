//! deadpool-redis's names.

use std::time::Duration;

use redis_guard::compat::deadpool_redis::redis::{self, AsyncCommands, ErrorKind, cmd};
use redis_guard::compat::deadpool_redis::{
    Config, ConfigError, Connection, ConnectionInfo, CreatePoolError, Manager, Pool, PoolConfig,
    PoolError, QueueMode, Runtime, TimeoutType, Timeouts, cluster, sentinel,
};
use redis_guard::{
    DialFailure, Error, GuardedConnection, GuardedPool, GuardedPoolBuilder, Outcome, Phase,
    Rejection,
};

use crate::support::{Cluster, TestServer};
use crate::waiting::{HANG, let_pass, poll_once, ready, soon, until};

/// A pool whose timeouts only end hangs, and whose connections nobody else takes.
fn pool(server: &TestServer, max_size: usize) -> Pool {
    let mut config = Config::from_url(server.url());
    config.pool = Some(PoolConfig::new(max_size));
    unhurried(GuardedPool::from_config(config))
}

fn unhurried(builder: GuardedPoolBuilder) -> Pool {
    let builder = builder.acquire_timeout(HANG).connect_timeout(HANG).response_timeout(HANG);
    builder.watch(false).build().unwrap().into()
}

fn wait(time: Duration) -> Timeouts {
    Timeouts { wait: Some(time), ..Timeouts::new() }
}

async fn get(pool: &Pool) -> Connection {
    soon("a connection", pool.get()).await.unwrap()
}

#[tokio::test]
async fn a_connection_is_sent_on_in_every_way_that_a_service_does() {
    async fn by_reference(conn: &mut Connection) -> redis::RedisResult<u64> {
        conn.incr("n", 1).await
    }
    async fn by_trait(conn: &mut impl redis::aio::ConnectionLike) -> redis::RedisResult<u64> {
        cmd("INCR").arg("n").query_async(conn).await
    }
    let server = TestServer::start().unwrap();
    let pool = pool(&server, 1);
    let mut conn = get(&pool).await;

    assert_eq!(by_reference(&mut conn).await.unwrap(), 1);
    assert_eq!(by_trait(&mut conn).await.unwrap(), 2);
    assert_eq!(by_trait(&mut *conn).await.unwrap(), 3);
    assert_eq!(by_trait(conn.as_mut()).await.unwrap(), 4);
    let both: (u64, u64) =
        redis::pipe().incr("n", 1).incr("n", 1).query_async(&mut conn).await.unwrap();
    assert_eq!(both, (5, 6));
    assert_eq!(redis::aio::ConnectionLike::get_db(&conn), 0);
}

#[tokio::test]
async fn status_has_deadpools_fields() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server, 2);
    let status = pool.status();
    assert_eq!((status.max_size, status.size, status.available, status.waiting), (2, 0, 0, 0));

    let held = [get(&pool).await, get(&pool).await];
    let mut waiting = Box::pin(pool.get());
    assert!(poll_once(&mut waiting).is_pending());
    let status = pool.status();
    assert_eq!((status.max_size, status.size, status.available, status.waiting), (2, 2, 0, 1));

    drop((waiting, held));
    until("both are back", pool.guarded(), || pool.status().available == 2).await;
    assert_eq!(pool.status().size, 2);
}

#[tokio::test]
async fn a_caller_waits_as_long_as_it_says() {
    let server = TestServer::start().unwrap();
    let mut config = Config::from_url(server.url());
    let own = Duration::from_secs(10);
    config.pool = Some(PoolConfig { timeouts: wait(own), ..PoolConfig::new(1) });
    let pool = config.create_pool(None).unwrap();
    assert_eq!(pool.timeouts().wait, Some(own));
    let held = get(&pool).await;

    let none = pool.timeout_get(&wait(Duration::ZERO)).await;
    assert!(matches!(none, Err(PoolError::Timeout(TimeoutType::Wait))), "{:?}", none.err());
    for (timeouts, time) in [
        (wait(own / 2), own / 2),
        (wait(3 * own), 3 * own),
        (Timeouts::new(), own),
        (pool.timeouts(), own),
    ] {
        let mut waiting = Box::pin(pool.timeout_get(&timeouts));
        assert!(poll_once(&mut waiting).is_pending());
        let_pass(time - Duration::from_secs(1)).await;
        assert!(poll_once(&mut waiting).is_pending(), "{timeouts:?}");
        let_pass(Duration::from_secs(1)).await;
        let told = soon("its timeout", waiting).await;
        assert!(matches!(told, Err(PoolError::Timeout(TimeoutType::Wait))), "{:?}", told.err());
    }
    let for_ever = Timeouts { wait: Some(Duration::MAX), ..Timeouts::new() };
    let mut waiting = Box::pin(pool.timeout_get(&for_ever));
    assert!(poll_once(&mut waiting).is_pending());
    let_pass(1000 * own).await;
    assert!(poll_once(&mut waiting).is_pending());
    drop(held);
    soon("the connection", waiting).await.unwrap();
}

#[tokio::test]
async fn leases_that_take_no_connection_yet_are_there_at_once() {
    let server = TestServer::start().unwrap();
    let config = Config::from_url(server.url());
    let pool = unhurried(GuardedPool::from_config(config).multiplex(true));
    let mut conn = pool.timeout_get(&wait(HANG)).await.unwrap();
    let () = soon("SET", conn.set("key", 1)).await.unwrap();
}

#[tokio::test]
async fn a_pool_is_closed_as_deadpools_is() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server, 2);
    let (mut held, idle) = (get(&pool).await, get(&pool).await);
    drop(idle);
    let other = pool.clone();
    assert!(!pool.is_closed());

    pool.close();

    assert!(other.is_closed());
    for told in [pool.get().await, pool.timeout_get(&wait(Duration::ZERO)).await] {
        assert!(matches!(told, Err(PoolError::Closed)), "{:?}", told.err());
    }
    until("what was idle is closed", pool.guarded(), || pool.status().size == 1).await;
    let () = held.set("key", 1).await.unwrap();
    drop(held);
    until("all is closed", pool.guarded(), || pool.status().size == 0).await;
    assert_eq!(pool.status().max_size, 0);
}

#[tokio::test]
async fn retain_closes_what_is_idle_and_not_wanted() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server, 3);
    let (held, old, young) = (get(&pool).await, get(&pool).await, get(&pool).await);
    drop((old, young));
    // The one that came back last is lent again, and notes a time that a sweep has read from the clock.
    let used = || {
        let mut used = Vec::new();
        pool.retain(|_, metrics| {
            used.push(metrics.recycled.unwrap());
            true
        });
        used.sort_unstable();
        used
    };
    let_pass(Duration::from_secs(20)).await;
    until("a sweep", pool.guarded(), || {
        drop(ready(pool.get()));
        // While both are asked whether they still work, nothing is idle.
        matches!(used()[..], [old, young] if young - old > Duration::from_secs(10))
    })
    .await;

    let newest = used()[1];
    let mut asked = 0;
    let result = pool.retain(|_, metrics| {
        asked += 1;
        // Asked outside of the lock.
        assert_eq!(pool.status().available, 2);
        assert!(metrics.created <= metrics.recycled.unwrap());
        metrics.recycled == Some(newest)
    });

    assert_eq!((asked, result.retained, result.removed.len()), (2, 1, 1));
    until("it is closed", pool.guarded(), || pool.status().size == 2).await;
    assert_eq!(used(), [newest]);
    assert_eq!(pool.retain(|_, _| false).removed.len(), 1);
    until("it is closed", pool.guarded(), || pool.status().size == 1).await;
    drop(held);
}

#[tokio::test]
async fn what_is_taken_goes_on_counting() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server, 1);

    let mut taken: GuardedConnection = Connection::take(get(&pool).await);

    let () = taken.set("key", 1).await.unwrap();
    let none = pool.timeout_get(&wait(Duration::ZERO)).await;
    assert!(matches!(none, Err(PoolError::Timeout(TimeoutType::Wait))), "{:?}", none.err());
    drop(Connection::from(taken));
    get(&pool).await;
    assert_eq!(pool.status().size, 1);
}

#[tokio::test]
async fn a_pool_and_its_connections_become_guarded_ones_and_back() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server, 1);
    let guarded: GuardedPool = pool.clone().into();
    let same: Pool = guarded.into();
    let lease: GuardedConnection = get(&same).await.into();
    assert_eq!((pool.guarded().status().in_use, pool.as_ref().status().in_use), (1, 1));
    drop(lease);
}

#[tokio::test]
async fn a_lease_is_reported_where_the_service_has_asked_for_it() {
    let server = TestServer::start().unwrap();
    let mut config = Config::from_url(server.url());
    config.pool = Some(PoolConfig::new(2));
    let pool = unhurried(GuardedPool::from_config(config).leak_after(Duration::from_secs(5)));
    let line = line!() + 1;
    let leaked = [pool.get().await, pool.timeout_get(&wait(HANG)).await];

    let_pass(Duration::from_secs(10)).await;
    until("both are found", pool.guarded(), || pool.guarded().status().leaks.len() == 2).await;

    for leak in pool.guarded().status().leaks {
        assert!(leak.location.contains(&format!("{}:{line}:", file!())), "{leak}");
    }
    drop(leaked);
}

#[test]
fn every_refusal_is_one_of_deadpools_errors() {
    let failure = || DialFailure::new("h:1", Outcome::MaxClients, "ERR max number of clients");
    let second = Duration::from_secs(1);
    let late = |phase| Rejection::acquire_timeout(second, phase);
    for (rejection, said) in [
        (late(Phase::Connection), "waiting for a slot"),
        (late(Phase::Connection).with_failure(failure()), "waiting for a slot"),
        (late(Phase::Dial), "creating a new object"),
        (late(Phase::Dial).with_failure(failure()), "max number of clients"),
        (Rejection::budget_exhausted("cart", 1), "waiting for a slot"),
        (Rejection::queue_full(1), "waiting for a slot"),
        (Rejection::breaker_open(second).with_failure(failure()), "max number of clients"),
        (Rejection::connect_failed(failure(), second), "next attempt in 1.0s"),
        (Rejection::Closed, "closed"),
    ] {
        let error = PoolError::from(Error::from(rejection.clone()));
        assert!(error.to_string().contains(said), "{rejection:?}: {error}");
    }
    let inner = redis::RedisError::from((ErrorKind::Parse, "bad reply"));
    let PoolError::Backend(kept) = PoolError::from(Error::from(inner.clone())) else { panic!() };
    assert_eq!(kept.to_string(), inner.to_string());
}

#[test]
fn a_configuration_that_cannot_be_is_refused_as_deadpool_does() {
    let both = Config { url: Some("redis://h".to_owned()), ..Config::default() };
    for (config, is_both) in [(Config::from_url("nonsense"), false), (both, true)] {
        let error = config.create_pool(Some(Runtime::Tokio1)).unwrap_err();
        let CreatePoolError::Config(problem) = &error else { panic!("{error}") };
        assert_eq!(matches!(problem, ConfigError::UrlAndConnectionSpecified), is_both, "{error}");
        assert!(config.builder().is_err() && !error.to_string().is_empty());
    }
    let empty = Config { pool: Some(PoolConfig::new(0)), ..Config::default() };
    let error = empty.create_pool(None).unwrap_err();
    assert!(matches!(error, CreatePoolError::Build(_)), "{error}");
    assert!(error.to_string().contains("max_connections is 0"), "{error}");

    let urls = |url: &str| cluster::Config::from_urls([url.to_owned()]);
    assert!(matches!(urls("nonsense").create_pool(None), Err(CreatePoolError::Config(_))));
    let both = cluster::Config { urls: urls("redis://h").urls, ..cluster::Config::default() };
    assert!(matches!(both.builder(), Err(ConfigError::UrlAndConnectionSpecified)));
    let both = sentinel::Config { urls: urls("redis://h").urls, ..sentinel::Config::default() };
    assert!(matches!(both.builder(), Err(ConfigError::UrlAndConnectionSpecified)));
}

#[test]
fn every_way_to_configure_a_pool_makes_one() {
    let max_size = |pool: Pool| pool.status().max_size;
    assert_eq!(max_size(Config::default().create_pool(None).unwrap()), 16);
    let info = Config::from_connection_info(ConnectionInfo::default());
    assert_eq!(max_size(info.create_pool(Some(Runtime::Tokio1)).unwrap()), 16);
    let manager = || Manager::new("redis://127.0.0.1").unwrap();
    assert!(Manager::new("nonsense").is_err());
    let built = Pool::builder(manager())
        .config(PoolConfig::new(4))
        .timeouts(Timeouts::new())
        .wait_timeout(Some(HANG))
        .create_timeout(Some(HANG))
        .recycle_timeout(Some(HANG))
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1);
    let built = built.build().unwrap();
    assert_eq!((max_size(built.clone()), built.timeouts().wait), (4, Some(HANG)));
    assert_eq!(max_size(Pool::builder(manager()).max_size(3).build().unwrap()), 3);
    let sentinels = sentinel::Config::default();
    assert_eq!(max_size(sentinels.create_pool(None).unwrap()), 16);
    let _: GuardedPoolBuilder = sentinels.into();
}

#[tokio::test]
async fn a_cluster_of_deadpools_configuration_is_one_here() {
    let cluster = Cluster::start(3, &TestServer::builder()).unwrap();
    let mut config = cluster::Config::from_urls(cluster.urls());
    config.pool = Some(PoolConfig::new(2));
    let pool: cluster::Pool = config.create_pool(Some(cluster::Runtime::Tokio1)).unwrap();
    assert_eq!(pool.status().size, 0);
    let pool = unhurried(GuardedPool::from_config(config));
    let mut conn = get(&pool).await;
    for key in 0..20 {
        let () = soon("SET", conn.set(key, key)).await.unwrap();
    }
    assert_eq!(pool.status().size, 3);
}

#[test]
fn configurations_are_read_as_deadpools_are() {
    let text = r#"{"url": "redis://:secret@h", "pool": {"max_size": 3, "timeouts":
        {"wait": {"secs": 2, "nanos": 0}, "create": null, "recycle": null}}}"#;
    let config: Config = serde_json::from_str(text).unwrap();
    let pool = config.create_pool(None).unwrap();
    assert_eq!((pool.status().max_size, pool.timeouts().wait), (3, Some(Duration::from_secs(2))));
    assert_eq!(config.get_pool_config().max_size, 3);
    let nodes: cluster::Config =
        serde_json::from_str(r#"{"urls": ["redis://:secret@h"]}"#).unwrap();
    let sentinels: sentinel::Config = serde_json::from_str(r#"{"urls": ["redis://h"]}"#).unwrap();
    assert_eq!((nodes.read_from_replicas, &*sentinels.master_name), (false, "mymaster"));
    let shown = format!("{config:?} {nodes:?} {sentinels:?}");
    assert!(shown.contains("max_size: 3") && !shown.contains("secret"), "{shown}");
}
