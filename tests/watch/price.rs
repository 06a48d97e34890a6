//! Several pools without a registry on one server: everybody pays the same price.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::service::{Service, jain};
use crate::support::{Occupants, TestServer};
use crate::waiting::until;
use crate::{builder, rejected};

/// A service that stands for a process of its own.
fn service(server: &TestServer) -> Service {
    let pool = builder(server).own_gate(true).max_connections(40).build().unwrap();
    Service::of(pool, 40, Duration::from_millis(10))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_get_their_share_from_incumbents_and_nobody_is_refused() {
    newcomers_get_their_share(service).await;
}

/// They go by the same observation, and would take what is free several times over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_do_pools_of_one_process() {
    newcomers_get_their_share(|server| {
        let pool = builder(server).max_connections(40).build().unwrap();
        Service::of(pool, 40, Duration::from_millis(10))
    })
    .await;
}

async fn newcomers_get_their_share(service: impl Fn(&TestServer) -> Service) {
    let server = TestServer::builder().maxclients(120).start().unwrap();
    let mut services: Vec<_> = (0..3).map(|_| service(&server)).collect();
    until("incumbents", &services[0].pool, || have_settled(&services)).await;

    let joined = Instant::now();
    services.extend((0..3).map(|_| service(&server)));
    let newcomers = &services[3..];
    until("newcomers", &newcomers[2].pool, || newcomers.iter().all(|new| new.live() > 0)).await;
    let served = joined.elapsed();
    let fair = async {
        while jain(&services) < 0.9 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let fair = timeout(Duration::from_secs(60), fair).await;

    let shares: Vec<_> = services.iter().map(Service::live).collect();
    println!("served after {served:?}, Jain 0.9 after {:?}: {shares:?}", joined.elapsed());
    assert!(fair.is_ok(), "{shares:?}");
    assert_eq!(rejected(&server), 0);
}

/// Most of the slots are taken, and no service may grow any further: what one may grow by yet was free before others
/// came.
fn have_settled(services: &[Service]) -> bool {
    let settled = |service: &Service| {
        let status = service.pool.status();
        status.live >= status.limit && status.watch.saturation.is_some_and(|seen| seen > 0.7)
    };
    services.iter().map(Service::live).sum::<usize>() > 85 && services.iter().all(settled)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_without_a_guard_get_slots_that_the_pools_give_back() {
    let server = TestServer::builder().maxclients(120).start().unwrap();
    let services: Vec<_> = (0..3).map(|_| service(&server)).collect();
    let live = || services.iter().map(Service::live).sum::<usize>();
    until("incumbents", &services[0].pool, || have_settled(&services)).await;
    let before = live();

    // As fast as the pools make room, and never into a full server.
    let mut occupants = Occupants::none(&server);
    let taking = async {
        while occupants.len() < 40 {
            if server.admin().used_slots() < 117 {
                occupants.take(1);
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let begun = Instant::now();
    let taken = timeout(Duration::from_secs(60), taking).await;

    println!("40 slots in {:?}; the pools had {before}, have {}", begun.elapsed(), live());
    assert!(taken.is_ok(), "{} of 40; the pools had {before}, have {}", occupants.len(), live());
    assert_eq!(rejected(&server), 0);
    assert!(services.iter().all(|service| service.live() >= 2));
}

/// Whoever keeps its connections for good gives the watch none to ask over.
#[tokio::test]
async fn callers_who_keep_their_leases_do_not_fill_the_server() {
    let server = TestServer::builder().maxclients(60).start().unwrap();
    let _occupants = server.fill_to_leave(10);
    let pool = builder(&server).max_connections(40).build().unwrap();
    let service = Service::of(pool, 40, Duration::from_secs(3600));
    until("the first ones", &service.pool, || service.live() >= 2).await;

    sleep(Duration::from_secs(15)).await;

    let live = service.live();
    assert_eq!(rejected(&server), 0, "with {live} live");
    assert!(live < 10, "{live} of the last 10 slots");
}
