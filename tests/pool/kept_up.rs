//! `min_idle`: connections that are kept up although nobody needs them.

use std::time::Duration;

use redis_guard::GuardedPool;

use crate::pair_with;
use crate::support::{TestServer, dials, impatient};
use crate::waiting::{at_rest, clients, id, let_pass, soon, until};

const KEPT: usize = 3;

async fn all_are_kept(pool: &GuardedPool) {
    until("as many as are kept up", pool, || pool.status().idle == KEPT).await;
}

fn kill_all(server: &TestServer) {
    server.admin().command(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
}

#[tokio::test]
async fn once_a_caller_has_had_one_as_many_are_kept_up_as_is_said() {
    let (server, pool) = pair_with(6, |builder| builder.min_idle(KEPT));
    swept_twice(&pool).await;
    assert_eq!(clients(&server), 0, "nobody has wanted any");

    drop(soon("a lease", pool.acquire("test")).await.unwrap());
    all_are_kept(&pool).await;

    at_rest(&pool, &server).await;
    assert_eq!(clients(&server), KEPT);
}

#[tokio::test]
async fn what_the_server_closes_is_dialed_again_for_nobody() {
    let (server, pool) = pair_with(6, |builder| builder.min_idle(KEPT));
    pool.warm_up(KEPT).await.unwrap();
    for _ in 0..3 {
        let before = dials(&pool)["connected"];
        kill_all(&server);
        until("new ones", &pool, || dials(&pool)["connected"] == before + KEPT as u64).await;
        all_are_kept(&pool).await;
    }
    at_rest(&pool, &server).await;
    assert_eq!(clients(&server), KEPT);
}

#[tokio::test]
async fn those_in_use_count() {
    let (server, pool) = pair_with(6, |builder| builder.min_idle(KEPT));
    let mut leases = Vec::new();
    for _ in 0..KEPT {
        leases.push(soon("a lease", pool.acquire("test")).await.unwrap());
    }
    swept_twice(&pool).await;
    assert_eq!((pool.status().live, clients(&server)), (KEPT, KEPT));
    assert_ne!(id(&mut leases[0]).await, id(&mut leases[1]).await);
}

#[tokio::test]
async fn with_a_min_idle_of_zero_nothing_is_dialed_again() {
    let (server, pool) = pair_with(6, |builder| builder.min_idle(0));
    pool.warm_up(KEPT).await.unwrap();
    kill_all(&server);
    until("nothing live", &pool, || pool.status().live == 0).await;
    swept_twice(&pool).await;
    assert_eq!((dials(&pool)["connected"], clients(&server)), (KEPT as u64, 0));
}

/// While it is gone it is not dialed in the rhythm of the back-off: nobody waits.
#[tokio::test]
async fn a_server_that_is_gone_is_dialed_once_for_nobody() {
    let (server, pool) = pair_with(6, |builder| builder.min_idle(KEPT));
    pool.warm_up(KEPT).await.unwrap();
    server.crash();
    until("a failed dial", &pool, || dials(&pool).contains_key("refused")).await;
    swept_twice(&pool).await;
    // Up to four go out at once where there is room.
    assert!(dials(&pool)["refused"] <= 4, "{:?}", dials(&pool));

    server.restart().unwrap();
    drop(soon("a lease", pool.acquire("test")).await.unwrap());
    all_are_kept(&pool).await;
}

#[tokio::test]
async fn a_full_server_is_asked_once_for_what_is_missing() {
    let server = TestServer::builder().maxclients(5).start().unwrap();
    let builder = impatient(&server.url()).max_connections(6).adaptive_limit(false).min_idle(KEPT);
    let pool = builder.build().unwrap();
    drop(soon("a lease", pool.acquire("test")).await.unwrap());
    let occupants = server.fill();
    let refused = || server.admin().info_u64("rejected_connections");
    let before = refused();
    swept_twice(&pool).await;
    // Where there was room, all that is missing is dialed at once.
    assert!(refused() <= before + 2, "{:?}", dials(&pool));

    drop(occupants);
    let_pass(Duration::from_secs(31)).await;
    until("as many as are kept up", &pool, || pool.status().live == KEPT).await;
}

/// Two looks at what is too old, idle or missing, and what they have begun.
async fn swept_twice(pool: &GuardedPool) {
    let_pass(Duration::from_millis(2500)).await;
    until("no dial", pool, || pool.status().dialing == 0).await;
}
