//! Members who come, and what they get.

use std::sync::Arc;
use std::time::Duration;

use redis_guard::{Event, Fleet, GuardedPool, LimitedBy};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::service::jain;
use crate::support::{Occupants, TestServer};
use crate::waiting::{clients, cmd, next, until};
use crate::{fleet, has_joined, in_time, live, member, members, rejected, service};

#[tokio::test]
async fn a_member_joins_with_its_first_connection() {
    let server = TestServer::start().unwrap();
    let pool = member(&server).build().unwrap();
    let mut events = pool.events();

    drop(pool.acquire("test").await.unwrap());

    next("the news", &mut events, |event| matches!(event, Event::FleetJoined { members: 1, .. }))
        .await;
    until("the status", &pool, || has_joined(&pool)).await;
    let status = fleet(&pool);
    assert_eq!((status.name.as_str(), status.members, status.trouble), ("test", 1, None));
    assert!(status.share >= 1 && status.reserve >= 16);
    assert_eq!(pool.status().limited_by, LimitedBy::FleetLease);
    assert_eq!(members(&server, "test"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_member_on_a_quiet_server_has_all_it_wants() {
    let server = TestServer::start().unwrap();
    let begun = Instant::now();
    let service = service(&server, 30);

    until("all of them", &service.pool, || service.live() == 30).await;

    println!("30 connections after {:?}", begun.elapsed());
    // By a quarter at each heartbeat of 2 s it would take more than ten of them.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_who_need_the_same_end_with_the_same() {
    let server = TestServer::builder().maxclients(80).start().unwrap();
    let mut services = vec![service(&server, 40)];
    until("the first", &services[0].pool, || services[0].live() == 40).await;

    let joined = Instant::now();
    services.extend((0..3).map(|_| service(&server, 40)));

    let fair = || jain(&services) > 0.97 && live(&services) > 50;
    in_time("fairness", &services, fair).await;
    println!("Jain 0.97 after {:?}, {} of 80", joined.elapsed(), live(&services));
    assert_eq!(rejected(&server), 0);
    assert!(services.iter().all(|service| fleet(&service.pool).members == 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hungry_member_has_what_the_others_do_not_need() {
    let server = TestServer::builder().maxclients(80).start().unwrap();
    let modest = [service(&server, 2), service(&server, 2)];
    let hungry = service(&server, 50);

    until("its share", &hungry.pool, || hungry.live() >= 45).await;

    assert!(modest.iter().all(|modest| modest.live() >= 1));
    assert_eq!(rejected(&server), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_is_served_at_once_where_all_is_granted() {
    let server = TestServer::builder().maxclients(80).start().unwrap();
    let _services = [service(&server, 60), service(&server, 60)];
    until("a full house", &_services[0].pool, || live(&_services) > 55).await;

    let mut took = Vec::new();
    for _ in 0..5 {
        let newcomer = member(&server).build().unwrap();
        let begun = Instant::now();
        let mut lease = newcomer.acquire("test").await.unwrap();
        let _: String = cmd("PING").query_async(&mut lease).await.unwrap();
        took.push(begun.elapsed());
    }
    // Less than until the others' next heartbeat, when they might have made room.
    took.sort();
    assert!(took[2] < Duration::from_secs(1), "{took:?}");
    assert_eq!(rejected(&server), 0);
}

#[tokio::test]
async fn shared_connections_are_enough_to_be_a_member() {
    let server = TestServer::builder().maxclients(60).start().unwrap();
    let pools: Vec<GuardedPool> = (0..6).map(|_| member(&server).build().unwrap()).collect();
    for pool in &pools {
        let mut shared = pool.shared("test");
        let _: String = cmd("PING").query_async(&mut shared).await.unwrap();
    }

    for pool in &pools {
        until("everybody", pool, || has_joined(pool) && fleet(pool).members == 6).await;
        assert_eq!(pool.status().live, 1);
    }
    assert_eq!(clients(&server), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_fleets_on_one_server_leave_room_for_each_other() {
    let server = TestServer::builder().maxclients(120).start().unwrap();
    let of = |name: &str| {
        let pool = member(&server).max_connections(40).fleet(Fleet::named(name)).build().unwrap();
        crate::Service::of(pool, 40, crate::HOLD)
    };
    let mut services: Vec<_> = (0..3).map(|_| of("red")).collect();
    until("the first fleet", &services[0].pool, || live(&services) > 80).await;

    services.extend((0..2).map(|_| of("blue")));

    let blue = |services: &[crate::Service]| services[3].live() + services[4].live();
    until("the second fleet", &services[3].pool, || blue(&services) >= 4).await;
    sleep(Duration::from_secs(6)).await;
    println!("red {}, blue {}", live(&services[..3]), blue(&services));
    assert_eq!((members(&server, "red"), members(&server, "blue")), (3, 2));
    assert_eq!(rejected(&server), 0);
}

/// Those who keep what they have leave no connection to send a heartbeat over.
#[tokio::test]
async fn callers_who_keep_their_leases_get_as_many_as_there_may_be() {
    for (slots, occupied) in [(1_000, 0), (120, 60)] {
        let server = TestServer::builder().maxclients(slots).start().unwrap();
        let mut occupants = Occupants::none(&server);
        occupants.take(occupied);
        let pool = member(&server).build().unwrap();
        let service = crate::Service::of(pool, 30, Duration::from_secs(3600));

        let services = [service];
        let took = in_time("all of them", &services, || live(&services) == 30).await;

        println!("30 leases for good after {took:?}, with {occupied} of {slots} slots taken");
        assert_eq!(rejected(&server), 0);
    }
}

/// A subscriber takes no heartbeat along.
#[tokio::test]
async fn subscribers_who_have_the_only_connections_left_starve_nobody() {
    let begun = waits_behind_subscribers(|_| ()).await;
    // What was granted before runs out after six seconds: until then nothing else would have been tried.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

/// The limit has frozen at what there was, which the share is, too.
#[tokio::test]
async fn nor_do_they_after_the_server_was_full() {
    waits_behind_subscribers(|server| {
        server.admin().set_maxclients(2);
        close_all(server);
        let refused = || (rejected(server) > 0).then_some(());
        crate::support::server::poll(crate::waiting::HANG, refused).unwrap();
        server.admin().set_maxclients(1_000);
    })
    .await;
}

/// Serves one after all connections were closed, behind three subscribers; returns since when it waited.
async fn waits_behind_subscribers(before: impl Fn(&TestServer) + Send + 'static) -> Instant {
    let server = Arc::new(TestServer::builder().maxclients(1_000).start().unwrap());
    let pool = member(&server).acquire_timeout(Duration::from_secs(15)).build().unwrap();
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let mut news = pool.pubsub("news").await.unwrap();
        news.subscribe("news").await.unwrap();
        readers.spawn(async move { while news.next().await.is_some() {} });
    }
    drop(pool.acquire("work").await.unwrap());
    until("membership", &pool, || has_joined(&pool)).await;

    let victim = Arc::clone(&server);
    let fault = move || {
        before(&victim);
        close_all(&victim);
    };
    tokio::task::spawn_blocking(fault).await.unwrap();
    let first_in_the_queue = || {
        let status = pool.status();
        let lost: u64 = status.connections_closed.values().sum();
        let news = status.endpoints.iter().find(|endpoint| endpoint.name.as_str() == "news");
        lost >= 4 && news.is_some_and(|news| news.in_use + news.waiting == 3)
    };
    until("the subscribers", &pool, first_in_the_queue).await;

    let begun = Instant::now();
    crate::support::ask_until_served(&pool).await;
    begun
}

fn close_all(server: &TestServer) {
    for kind in ["normal", "pubsub"] {
        server.admin().text(&["CLIENT", "KILL", "TYPE", kind]);
    }
}
