//! A member all of whose connections are lent for long: it has nothing to beat over, which is nobody's failure.

use std::time::Duration;

use futures_util::FutureExt;
use redis_guard::Event;

use crate::support::TestServer;
use crate::waiting::{cmd, let_pass, soon, until};
use crate::{fleet, has_joined, member};

/// Longer than any share holds without a heartbeat.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn it_says_why_it_is_no_member_and_warns_nobody() {
    let server = TestServer::start().unwrap();
    let pool = member(&server).max_connections(2).build().unwrap();
    soon("warming up", pool.warm_up(2)).await.unwrap();
    until("membership", &pool, || has_joined(&pool)).await;
    let mut events = pool.events();
    let mut leases = Vec::new();
    for _ in 0..2 {
        leases.push(soon("a lease", pool.acquire("holder")).await.unwrap());
    }

    let_pass(LONG).await;
    until("the end of its share", &pool, || !has_joined(&pool)).await;
    let status = fleet(&pool);
    let trouble = status.trouble.unwrap_or_default();
    assert!(trouble.contains("all connections are lent"), "{trouble}");
    assert_eq!((status.members, status.share), (1, 0), "as last counted, and nothing granted");

    leases.pop();
    until("membership", &pool, || has_joined(&pool)).await;
    assert_eq!(fleet(&pool).trouble, None);
    let next = || events.next().now_or_never().flatten();
    let told: Vec<_> = std::iter::from_fn(next)
        .filter(|event| matches!(event, Event::FleetLost { .. } | Event::FleetJoined { .. }))
        .collect();
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test]
async fn it_stays_one_while_its_leases_are_used() {
    let server = TestServer::start().unwrap();
    let pool = member(&server).max_connections(1).build().unwrap();
    let mut lease = soon("a lease", pool.acquire("worker")).await.unwrap();
    until("membership", &pool, || {
        // Nothing else carries its first heartbeat.
        let _ = cmd("PING").query_async::<String>(&mut lease).now_or_never();
        has_joined(&pool)
    })
    .await;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        cmd("BLPOP jobs 0.05").query_async::<Option<(String, String)>>(&mut lease).await.unwrap();
        assert!(has_joined(&pool), "after {:?}: {:#?}", begun.elapsed(), fleet(&pool));
    }
}
