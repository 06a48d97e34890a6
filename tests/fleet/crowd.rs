//! The point of it all: a fleet that could take three times what there is, and nobody is refused.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::service::{Service, jain};
use crate::support::{Occupants, TestServer};
use crate::waiting::{soon, until};
use crate::{in_time, live, member, members, rejected, service};

/// 12 members of 30: 360 for 120 slots.
const MEMBERS: usize = 12;
const SLOTS: u32 = 120;

fn crowd(server: &TestServer, members: usize) -> Vec<Service> {
    (0..members).map(|_| service(server, 30)).collect()
}

async fn settles(server: &TestServer, services: &[Service]) {
    let fair = || jain(services) > 0.95 && live(services) > 80;
    let took = in_time("fair shares of nearly all", services, fair).await;
    println!(
        "{} members: {} of {SLOTS} slots, Jain {:.3} after {:?}; {} refused",
        services.len(),
        live(services),
        jain(services),
        took,
        rejected(server),
    );
    assert_eq!(rejected(server), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_at_once() {
    let server = TestServer::builder().maxclients(SLOTS).start().unwrap();
    let services = crowd(&server, MEMBERS);
    settles(&server, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_and_leaves() {
    let server = TestServer::builder().maxclients(SLOTS).start().unwrap();
    let mut services = crowd(&server, 4);
    settles(&server, &services).await;
    services.extend(crowd(&server, 8));
    settles(&server, &services).await;
    for leaver in services.drain(..4) {
        soon("closing", leaver.pool.close()).await;
    }
    // And some who just go.
    services.truncate(6);
    services.extend(crowd(&server, 6));
    settles(&server, &services).await;
    until("the registry", &services[0].pool, || members(&server, "test") == 12).await;
    assert_eq!(rejected(&server), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_connections_are_killed_all_the_time() {
    let server = TestServer::builder().maxclients(SLOTS).start().unwrap();
    let services = crowd(&server, MEMBERS);
    settles(&server, &services).await;
    let mut rng = fastrand::Rng::with_seed(7);
    let begun = Instant::now();
    let mut killed = 0;
    while begun.elapsed() < Duration::from_secs(6) {
        let clients = server.admin().client_list();
        let ours: Vec<_> =
            clients.iter().filter(|client| client["name"].starts_with("redis-guard")).collect();
        for _ in 0..5 {
            let Some(victim) = rng.choice(&ours) else { continue };
            server.admin().text(&["CLIENT", "KILL", "ID", &victim["id"]]);
            killed += 1;
        }
        assert_eq!(rejected(&server), 0, "after {killed} were killed");
        sleep(Duration::from_millis(50)).await;
    }
    println!("{killed} connections killed");
    settles(&server, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_all_connections_are_killed_at_once() {
    let server = TestServer::builder().maxclients(SLOTS).start().unwrap();
    let services = crowd(&server, MEMBERS);
    settles(&server, &services).await;
    for _ in 0..3 {
        server.admin().text(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        sleep(Duration::from_millis(700)).await;
    }
    settles(&server, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_some_leases_are_held_for_long() {
    let server = TestServer::builder().maxclients(SLOTS).start().unwrap();
    let services = crowd(&server, MEMBERS);
    let slow: Vec<_> = services
        .iter()
        .map(|service| Service::of(service.pool.clone(), 4, Duration::from_secs(2)))
        .collect();
    settles(&server, &services).await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(rejected(&server), 0);
    assert!(slow.iter().all(|slow| slow.served() > 0));
}

/// Nobody can send a heartbeat then, and nobody may grow blind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_all_leases_are_held_for_good() {
    let server = TestServer::builder().maxclients(SLOTS).start().unwrap();
    let services: Vec<_> = (0..MEMBERS)
        .map(|_| Service::of(member(&server).build().unwrap(), 30, Duration::from_secs(3600)))
        .collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(15) {
        assert_eq!(rejected(&server), 0, "{} live after {:?}", live(&services), begun.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    println!("{} of {SLOTS} slots are held for good", live(&services));
    assert!(services.iter().all(|service| service.live() >= 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_ceiling_is_lowered() {
    let server = TestServer::builder().maxclients(SLOTS).start().unwrap();
    let services = crowd(&server, MEMBERS);
    settles(&server, &services).await;

    server.admin().set_maxclients(80);
    let begun = Instant::now();

    until("fewer", &services[0].pool, || server.admin().used_slots() < 80).await;
    println!("under the lowered ceiling after {:?}", begun.elapsed());
    let lowered = rejected(&server);
    println!("{lowered} refused when the ceiling was lowered");
    // No more than one for each member that had a grant it had not used yet.
    assert!(lowered <= 12, "{lowered} refused");
    in_time("fair shares", &services, || jain(&services) > 0.9).await;
    assert_eq!(rejected(&server), lowered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_clients_without_a_guard_take_the_reserve() {
    let server = TestServer::builder().maxclients(SLOTS).start().unwrap();
    let services = crowd(&server, MEMBERS);
    settles(&server, &services).await;

    let mut occupants = Occupants::none(&server);
    occupants.take(12);

    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(rejected(&server), 0, "{} live", live(&services));
        sleep(Duration::from_millis(50)).await;
    }
    // And a tenth of the ceiling a minute is theirs for good.
    in_time("room again", &services, || live(&services) <= 100).await;
}
