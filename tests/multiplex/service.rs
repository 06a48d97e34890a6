//! Leases as services, configurations and the driver's users have them.

use redis_guard::redis::{self, Value, pipe};
use redis_guard::{AsyncCommands, GuardedPool};
use tower::ServiceExt;

use crate::support::TestServer;
use crate::waiting::{HANG, cmd, let_pass, poll_once, soon, until};
use crate::{
    NAME, at_rest, connections, endpoint, hold_writes, lease, leases, let_writes_go, pair,
};

/// Its leases share as well, so that its callers are not bounded by connections.
#[tokio::test]
async fn a_service_of_leases_shares() {
    let (server, pool) = pair();
    let service = pool.service("search").exclusive();
    let _: Value = soon("PING", service.clone().oneshot(cmd("PING"))).await.unwrap();
    hold_writes(&server);
    let calls: Vec<_> =
        (0..20).map(|_| tokio::spawn(service.clone().oneshot(cmd("INCR n")))).collect();
    until("all on their way", &pool, || endpoint(&pool, "search").shared_in_flight == 20).await;

    assert_eq!((leases(&pool, "search"), connections(&server)), ((20, 0), 1));
    let_writes_go(&server);
    for call in calls {
        soon("the answer", call).await.unwrap().unwrap();
    }
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn what_a_service_is_sent_that_needs_a_connection_gets_one() {
    let (server, pool) = pair();
    let service = pool.service("search").exclusive();
    let mut pipeline = pipe();
    pipeline.cmd("SELECT").arg(1).set("key", 1).cmd("CLIENT").arg("GETNAME");

    let told = soon("it", service.clone().oneshot(pipeline)).await.unwrap();

    let name = Value::BulkString(NAME.as_bytes().to_vec());
    assert_eq!(told, [Value::Okay, Value::Okay, name]);
    assert_eq!(server.admin().text(&["EXISTS", "key"]), "0", "in a database of its own");
    let popped = soon("BLPOP", service.oneshot(cmd("BLPOP list 0.01"))).await.unwrap();
    assert_eq!(popped, Value::Nil);
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn from_a_configuration_of_deadpool_redis_one_line_makes_leases_share() {
    let server = TestServer::start().unwrap();
    let mut config = deadpool_redis::Config::from_url(server.url());
    config.pool = Some(deadpool_redis::PoolConfig::new(2));
    let pool = GuardedPool::from_config(config).client_name(NAME).multiplex(true).build().unwrap();

    let mut all = Vec::new();
    for at in 0..20 {
        let mut conn = soon("a lease", pool.get()).await.unwrap();
        let () = conn.set(format!("key:{at}"), at).await.unwrap();
        all.push(conn);
    }

    assert_eq!((leases(&pool, "default"), connections(&server)), ((20, 0), 1));
    let () = redis::cmd("WATCH").arg("key:1").query_async(&mut all[1]).await.unwrap();
    let mut transaction = pipe();
    transaction.atomic().incr("key:1", 1);
    let told: (u64,) = transaction.query_async(&mut all[1]).await.unwrap();
    assert_eq!((told, connections(&server)), ((2,), 2));
}

#[tokio::test]
async fn the_drivers_typed_commands_work_and_block_for_as_long_as_they_say() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "jobs").await;
    let none: Option<(String, String)> = lease.blpop("nothing", 0.01).await.unwrap();
    let mut popped = Box::pin(lease.blpop::<_, (String, String)>("queue", 0.0));
    until("it blocks", &pool, || {
        assert!(poll_once(&mut popped).is_pending());
        server.admin().info_u64("blocked_clients") == 1
    })
    .await;

    // Far longer than the response timeout.
    let_pass(10 * HANG).await;
    assert!(poll_once(&mut popped).is_pending());
    server.admin().text(&["RPUSH", "queue", "job"]);

    let popped = soon("the job", popped).await.unwrap();
    assert_eq!((none, popped), (None, ("queue".to_owned(), "job".to_owned())));
    assert!(!lease.is_exclusive());
}

#[tokio::test]
async fn a_lease_says_of_itself_whose_it_is() {
    let (_server, pool) = pair();
    let lease = lease(&pool, "search").await;
    assert!(format!("{lease:?}").contains("search"), "{lease:?}");
}

/// Handles do what they always did.
#[tokio::test]
async fn a_handle_of_such_a_pool_still_refuses_what_changes_the_connection() {
    let (_server, pool) = pair();
    let told = pool.shared("search").send(&cmd("SELECT 1")).await.unwrap_err();
    assert!(told.to_string().contains("use `acquire`"), "{told}");
    let popped = soon("BLPOP", pool.shared("search").send(&cmd("BLPOP list 0.01"))).await.unwrap();
    assert_eq!(popped, Value::Nil);
}
