//! A server without a free slot: warm, cold, and while it recovers.

use std::time::Duration;

use redis_guard::{Backoff, BreakerState, Event, GuardedPool, Outcome, Rejection};
use tokio::time::{Instant, sleep, timeout};

use crate::proxy::Proxy;
use crate::support::{TestServer, dials, impatient, unhurried};
use crate::waiting::{HANG, cmd, let_pass, next, poll_once, ready, soon, swept, until};

const WORDS: &str = "max number of clients reached";

fn server() -> TestServer {
    TestServer::builder().maxclients(16).start().unwrap()
}

/// A pool as a service has it, with its back-off of 50 ms and more.
fn pool(server: &TestServer) -> GuardedPool {
    // Without the watch, which would hold the limit below what a server this small has left.
    unhurried(server.url()).max_connections(8).watch(false).build().unwrap()
}

fn rejected(server: &TestServer) -> u64 {
    server.admin().info_u64("rejected_connections")
}

#[tokio::test]
async fn with_something_live_nobody_fails_while_the_server_is_full() {
    let server = server();
    let pool = pool(&server);
    pool.warm_up(2).await.unwrap();
    let _occupants = server.fill();

    let callers = (0..64).map(|_| async {
        for _ in 0..50 {
            let mut lease = pool.acquire("test").await.expect("its turn comes");
            let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
        }
    });
    soon("64 callers", futures_util::future::join_all(callers)).await;

    let status = pool.status();
    assert_eq!((status.live, status.limit), (2, 2), "frozen at what is live");
    assert_eq!(status.endpoints[0].acquired, 64 * 50);
    assert!(status.endpoints[0].rejected.is_empty(), "{status:#?}");
}

#[tokio::test]
async fn with_nothing_live_a_caller_hears_the_servers_words_and_the_time_to_wait() {
    let server = server();
    let _occupants = server.fill();
    let pool = pool(&server);

    let error = pool.acquire("test").await.unwrap_err();

    let Some(Rejection::BreakerOpen { retry_after, failure, .. }) = error.rejection() else {
        panic!("{error:?}")
    };
    let failure = failure.as_deref().expect("the dial's failure");
    assert_eq!(failure.outcome, Outcome::MaxClients);
    assert_eq!(failure.message, format!("ERR {WORDS}"));
    assert!(failure.server.ends_with(&format!(":{}", server.port())), "{}", failure.server);
    assert!(*retry_after > Duration::ZERO && *retry_after <= Duration::from_millis(100));
    assert_eq!(error.retry_after(), Some(*retry_after));
    let text = error.to_string();
    assert!(text.contains(WORDS) && text.contains("next attempt in"), "{text}");
}

#[tokio::test]
async fn with_nothing_live_every_further_caller_hears_so_on_its_first_poll() {
    let server = server();
    let _occupants = server.fill();
    let pool =
        unhurried(server.url()).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();
    pool.acquire("test").await.unwrap_err();

    for _ in 0..1_000 {
        let told = ready(pool.acquire("test")).expect("told on the first poll").unwrap_err();
        assert_eq!(told.reason(), "breaker_open");
        assert!(told.to_string().contains(WORDS), "{told}");
    }

    assert_eq!(dials(&pool), [("max_clients", 1)].into(), "one refusal for a thousand callers");
}

#[tokio::test]
async fn a_thousand_refusals_take_less_than_a_millisecond_each() {
    let server = server();
    let _occupants = server.fill();
    let pool =
        unhurried(server.url()).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();
    pool.acquire("test").await.unwrap_err();

    let mut took: Vec<_> = (0..1_000)
        .map(|_| {
            let begun = Instant::now();
            ready(pool.acquire("test")).expect("told on the first poll").unwrap_err();
            begun.elapsed()
        })
        .collect();

    // Others may take the core away from some of them, and not from half of them.
    took.sort();
    assert!(took[took.len() / 2] < Duration::from_millis(1), "{:?}", took[took.len() / 2]);
}

#[tokio::test]
async fn callers_that_ask_again_after_the_time_they_were_told_are_served_once_there_is_room() {
    let server = server();
    let occupants = server.fill();
    let pool = pool(&server);
    pool.acquire("test").await.unwrap_err();
    occupants.free();

    let mut told = Duration::ZERO;
    let asking = async {
        loop {
            let error = match pool.acquire("test").await {
                Ok(lease) => break lease,
                Err(error) => error,
            };
            let wait = error.retry_after().expect("a time to wait");
            // How long a probe takes is not the pool's to promise.
            if pool.breaker().state() == BreakerState::Open {
                told += wait;
            }
            sleep(wait).await;
        }
    };
    let _lease = soon("recovery", asking).await;

    // No more than the back-off that was in force.
    assert!(told <= Duration::from_millis(100), "{told:?}");
    assert_eq!(pool.breaker().state(), BreakerState::Closed);
    let status = pool.status();
    assert_eq!(status.limit, 8, "the limit is no longer frozen");
    assert!(status.breaker.last_failure.is_none());
}

/// A probe takes a round trip. Whoever asks while it is in flight is not told to wait for as long
/// as a probe may take at worst.
#[tokio::test]
async fn whoever_asks_during_the_probe_is_not_sent_away_for_longer_than_a_back_off() {
    let server = server();
    let occupants = server.fill();
    let pool = unhurried(server.url())
        .backoff(Backoff::without_jitter(Duration::from_millis(25), Duration::from_millis(50)))
        .build()
        .unwrap();
    let mut events = pool.events();
    pool.acquire("test").await.unwrap_err();
    occupants.free();
    pool.acquire("test").await.unwrap_err();
    next("the probe", &mut events, |event| {
        matches!(event, Event::BreakerChanged { to: BreakerState::HalfOpen, .. })
    })
    .await;

    let told = ready(pool.acquire("test"));

    // Served already, or told a time that is near.
    if let Some(Err(error)) = told {
        let wait = error.retry_after().unwrap();
        assert!(wait <= Duration::from_millis(50), "sent away for {wait:?}: {error}");
    }
}

#[tokio::test]
async fn the_pool_recovers_without_another_caller_once_one_was_refused() {
    let server = server();
    let occupants = server.fill();
    let pool = pool(&server);
    let mut events = pool.events();
    pool.acquire("test").await.unwrap_err();
    occupants.free();

    next("the probe's connection", &mut events, |event| matches!(event, Event::Connected { .. }))
        .await;

    assert!(matches!(ready(pool.acquire("test")), Some(Ok(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_tasks_that_ask_all_the_time_cause_a_handful_of_refused_dials() {
    let server = server();
    let _occupants = server.fill();
    let pool = pool(&server);
    let before = rejected(&server);

    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let asking = async {
                    loop {
                        pool.acquire("test").await.unwrap_err();
                        sleep(Duration::from_millis(5)).await;
                    }
                };
                timeout(Duration::from_secs(2), asking).await.unwrap_err();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }

    let refused = rejected(&server) - before;
    assert!((3..=12).contains(&refused), "{refused} refused dials in 2 s");
}

#[tokio::test]
async fn sixty_four_callers_that_come_at_once_cost_one_refused_dial() {
    let server = server();
    let _occupants = server.fill();
    let pool =
        unhurried(server.url()).backoff(Backoff::without_jitter(HANG, HANG)).build().unwrap();
    let before = rejected(&server);

    let callers = futures_util::future::join_all((0..64).map(|_| pool.acquire("test")));
    let told = soon("64 answers", callers).await;

    assert!(told.iter().all(|told| told.as_ref().is_err_and(|e| e.to_string().contains(WORDS))));
    assert_eq!(rejected(&server) - before, 1);
}

#[tokio::test]
async fn a_frozen_pool_does_not_dial_while_nobody_waits() {
    let server = server();
    let pool = impatient(&server.url()).max_connections(8).build().unwrap();
    pool.warm_up(2).await.unwrap();
    let _occupants = server.fill();
    let leases = [pool.acquire("test").await.unwrap(), pool.acquire("test").await.unwrap()];
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    until("the limit frozen", &pool, || pool.status().limit == 2).await;
    drop(waiter);
    until("no dial in flight", &pool, || pool.status().dialing == 0).await;
    let before = rejected(&server);

    drop(leases);
    // The back-off is 1 ms, so there is time for dozens of dials.
    for _ in 0..100 {
        let mut lease = pool.acquire("test").await.unwrap();
        let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
    }

    assert_eq!(rejected(&server), before);
}

#[tokio::test]
async fn a_frozen_pool_probes_while_somebody_waits_and_grows_once_there_is_room() {
    let server = server();
    let builder = impatient(&server.url()).max_connections(8).watch(false);
    let pool = builder.acquire_timeout(HANG).build().unwrap();
    let _lease = pool.acquire("test").await.unwrap();
    let occupants = server.fill();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    let before = rejected(&server);
    until("some probes", &pool, || rejected(&server) > before + 3).await;
    assert_eq!((pool.status().live, pool.status().limit), (1, 1));

    occupants.free();

    soon("the waiter", waiter).await.unwrap();
    assert_eq!((pool.status().live, pool.status().limit), (2, 8));
}

#[tokio::test]
async fn a_frozen_pool_keeps_its_expired_connections() {
    let server = server();
    let builder = impatient(&server.url()).max_connections(4).leak_after(Duration::from_millis(40));
    let pool = builder.max_lifetime(Duration::from_secs(10)).build().unwrap();
    let mut lease = pool.acquire("test").await.unwrap();
    let _occupants = server.fill();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    until("the limit frozen", &pool, || pool.status().limit == 1).await;
    let id = crate::waiting::id(&mut lease).await;
    drop((waiter, lease));

    let_pass(Duration::from_secs(12)).await;
    swept(&pool).await;

    let mut again = pool.acquire("test").await.unwrap();
    assert_eq!(crate::waiting::id(&mut again).await, id);
}

#[tokio::test]
async fn a_returned_connection_serves_a_waiter_while_a_dial_hangs() {
    let server = server();
    let proxy = Proxy::start(&server).await;
    let builder = impatient(&proxy.url()).max_connections(4);
    let pool = builder.acquire_timeout(HANG).connect_timeout(HANG).build().unwrap();
    let lease = pool.acquire("test").await.unwrap();
    proxy.mute_new();
    let mut waiter = Box::pin(pool.acquire("test"));
    assert!(poll_once(&mut waiter).is_pending());
    until("the dial", &pool, || proxy.muted() == 1).await;

    drop(lease);

    assert!(matches!(ready(waiter), Some(Ok(_))));
    assert_eq!(pool.status().dialing, 1, "it hangs still");
}

#[tokio::test]
async fn a_finished_dial_serves_a_waiter_while_the_leases_are_held() {
    let server = server();
    let pool = pool(&server);
    let _lease = pool.acquire("test").await.unwrap();

    soon("a second connection", pool.acquire("test")).await.unwrap();

    assert_eq!(pool.status().live, 2);
}
