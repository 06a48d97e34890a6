//! The schedule of dials, where something makes the next one due earlier: whoever sleeps until the
//! old time hears of it.

use std::time::Duration;

use redis_guard::{Backoff, GuardedConnection, GuardedPool};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::proxy::Proxy;
use crate::service::Service;
use crate::support::TestServer;
use crate::waiting::{HANG, cmd, soon, until};

const NEVER: Duration = Duration::from_secs(3600);

/// How long the server takes to answer a dial: growth then leaves three times as much.
const SLOW: Duration = Duration::from_secs(2);

fn caller(pool: &GuardedPool) -> JoinHandle<GuardedConnection> {
    let lease = pool.acquire("test");
    tokio::spawn(async { lease.await.unwrap() })
}

#[tokio::test]
async fn a_slot_that_we_free_on_a_full_server_is_dialed_for_at_once() {
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let pool = GuardedPool::builder(server.url()).watch(false).acquire_timeout(NEVER);
    let pool = pool.backoff(Backoff::without_jitter(NEVER, NEVER)).build().unwrap();
    let mut lease = pool.acquire("test").await.unwrap();
    let _other = pool.acquire("test").await.unwrap();
    let _occupants = server.fill();
    let waiter = caller(&pool);
    until("the refusal", &pool, || !pool.status().breaker.next_dial_in.is_zero()).await;
    until("the limit frozen", &pool, || pool.status().limit == 2).await;

    // It leaves the connection beyond reset.
    let _ = cmd("MONITOR").query_async::<String>(&mut lease).await;
    drop(lease);

    let mut served = soon("the waiter", waiter).await.unwrap();
    let _: String = cmd("PING").query_async(&mut served).await.unwrap();
}

/// One lease, a second one whose dial took so long, and a caller for whom the schedule has the next
/// dial only later.
async fn slowly_grown(
    proxy: &Proxy,
    pool: &GuardedPool,
) -> (Vec<GuardedConnection>, JoinHandle<GuardedConnection>) {
    let mut leases = vec![pool.acquire("test").await.unwrap()];
    proxy.go_silent();
    let (second, third) = (caller(pool), caller(pool));
    until("the dial", pool, || pool.status().dialing == 1).await;
    sleep(SLOW).await;
    proxy.speak_again();
    until("the second", pool, || pool.status().live == 2).await;
    let (second, third) = if second.is_finished() { (second, third) } else { (third, second) };
    leases.push(soon("the second lease", second).await.unwrap());
    (leases, third)
}

#[tokio::test]
async fn once_all_is_lost_the_pace_of_growth_keeps_nobody_waiting() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    let pool = GuardedPool::builder(proxy.url()).watch(false).acquire_timeout(HANG);
    let pool = pool.connect_timeout(HANG).build().unwrap();
    let (_leases, third) = slowly_grown(&proxy, &pool).await;
    assert!(pool.status().breaker.next_dial_in > SLOW * 2, "{:#?}", pool.status());

    server.admin().text(&["CLIENT", "KILL", "TYPE", "normal"]);
    let killed = Instant::now();

    soon("the third lease", third).await.unwrap();
    assert!(killed.elapsed() < SLOW, "only after {:?}", killed.elapsed());
}

#[tokio::test]
async fn once_the_server_is_known_to_be_quiet_growth_keeps_nobody_waiting() {
    let server = TestServer::start().unwrap();
    let proxy = Proxy::start(&server).await;
    let pool = GuardedPool::builder(proxy.url()).acquire_timeout(HANG);
    let pool = pool.connect_timeout(HANG).build().unwrap();
    proxy.go_silent();
    let _callers = Service::of(pool.clone(), 4, Duration::from_millis(1));
    until("the dial", &pool, || pool.status().dialing == 1).await;
    sleep(SLOW).await;
    proxy.speak_again();
    until("the first word", &pool, || pool.status().watch.observation.is_some()).await;
    let heard = Instant::now();

    until("growth", &pool, || pool.status().live >= 2).await;
    assert!(heard.elapsed() < SLOW, "only after {:?}", heard.elapsed());
}
