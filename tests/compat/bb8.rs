//! bb8's names.

use std::time::Duration;

use redis_guard::compat::bb8::{self, PooledConnection, RedisConnectionManager, RunError};
use redis_guard::redis::{self, AsyncCommands, ErrorKind, RedisError, cmd};
use redis_guard::{DialFailure, Error, GuardedPool, Outcome, Phase, Rejection};

use crate::support::TestServer;
use crate::waiting::{HANG, let_pass, poll_once, soon, until};

type Pool = bb8::Pool<RedisConnectionManager>;

async fn pool(server: &TestServer, max_size: u32) -> Pool {
    let manager = RedisConnectionManager::new(server.url()).unwrap();
    let builder = bb8::Pool::builder().max_size(max_size).connection_timeout(HANG);
    builder.build(manager).await.unwrap()
}

#[tokio::test]
async fn a_connection_is_sent_on_in_every_way_that_a_service_does() {
    async fn incr(
        conn: &mut PooledConnection<'_, RedisConnectionManager>,
    ) -> Result<u64, RunError<RedisError>> {
        Ok(conn.incr("n", 1).await?)
    }
    let server = TestServer::start().unwrap();
    let pool = pool(&server, 2).await;
    let mut conn = soon("a connection", pool.get()).await.unwrap();
    assert_eq!(incr(&mut conn).await.unwrap(), 1);
    let n: u64 = cmd("INCR").arg("n").query_async(&mut *conn).await.unwrap();
    assert_eq!(n, 2);
    let mut owned = soon("another", pool.get_owned()).await.unwrap();
    let task = tokio::spawn(async move {
        let n: (u64,) = redis::pipe().incr("n", 1).query_async(&mut *owned).await.unwrap();
        n.0
    });
    assert_eq!(soon("the task", task).await.unwrap(), 3);
    until("it is back", pool.guarded(), || pool.state().idle_connections == 1).await;
    assert_eq!(pool.state().connections, 2);
    drop(conn);
    let guarded: GuardedPool = pool.clone().into();
    assert_eq!(Pool::from(guarded).state().connections, 2);
}

#[tokio::test]
async fn build_dials_min_idle_and_nothing_without_it() {
    let server = TestServer::start().unwrap();
    assert_eq!(pool(&server, 4).await.state().connections, 0);
    let manager = RedisConnectionManager::new(server.url()).unwrap();
    let builder = bb8::Pool::builder().max_size(4).min_idle(3).connection_timeout(HANG);
    let pool = soon("it", builder.build(manager)).await.unwrap();
    assert_eq!((pool.state().connections, pool.state().idle_connections), (3, 3));
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_the_build_that_dials() {
    let server = TestServer::start().unwrap();
    server.stop();
    let manager = || RedisConnectionManager::new(server.url()).unwrap();
    let told = soon("it", bb8::Pool::builder().min_idle(1).build(manager())).await;
    assert!(told.is_err());
    bb8::Pool::builder().build(manager()).await.unwrap();
}

#[tokio::test]
async fn all_that_is_wrong_with_the_settings_is_in_one_error() {
    assert!(RedisConnectionManager::new("nonsense").is_err());
    let manager = RedisConnectionManager::new("redis://127.0.0.1").unwrap();
    let builder = bb8::Pool::builder().max_size(0).idle_timeout(Duration::ZERO);
    let error = builder.max_lifetime(Duration::MAX).build(manager).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidClientConfig);
    for setting in ["max_connections", "idle_timeout", "max_lifetime"] {
        assert!(error.to_string().contains(setting), "{error}");
    }
}

#[tokio::test]
async fn a_caller_who_waits_in_vain_has_timed_out_and_one_of_a_closed_pool_has_not() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server, 1).await;
    let held = soon("a connection", pool.get()).await.unwrap();
    let mut waiting = Box::pin(pool.get());
    assert!(poll_once(&mut waiting).is_pending());
    let_pass(HANG).await;
    assert_eq!(soon("its timeout", waiting).await.err(), Some(RunError::TimedOut));
    drop(held);
    pool.guarded().close().await;
    let told = pool.get().await.unwrap_err();
    assert!(told.to_string().contains("the pool is closed"), "{told}");
}

#[test]
fn every_refusal_is_one_of_bb8s_errors() {
    let failure = || DialFailure::new("h:1", Outcome::MaxClients, "ERR max number of clients");
    let second = Duration::from_secs(1);
    let late = |phase| Rejection::acquire_timeout(second, phase);
    for (rejection, said) in [
        (late(Phase::Connection), None),
        (late(Phase::Connection).with_failure(failure()), None),
        (late(Phase::Dial), None),
        (late(Phase::Dial).with_failure(failure()), Some("max number of clients")),
        (Rejection::budget_exhausted("cart", 1), None),
        (Rejection::queue_full(1), None),
        (Rejection::breaker_open(second).with_failure(failure()), Some("max number of clients")),
        (Rejection::Closed, Some("closed")),
    ] {
        match (RunError::<RedisError>::from(Error::from(rejection)), said) {
            (RunError::TimedOut, None) => {}
            (RunError::User(error), Some(said)) => assert!(error.to_string().contains(said)),
            other => panic!("{other:?}"),
        }
    }
}
