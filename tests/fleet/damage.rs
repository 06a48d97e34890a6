//! A registry that somebody deletes, overwrites or lies to.

use std::time::Duration;

use redis_guard::internal::registry::registry_keys;
use redis_guard::internal::sim::SCRIPT;
use tokio::time::{Instant, sleep};

use crate::fake::Fake;
use crate::service::{Service, jain};
use crate::support::{TestServer, unhurried};
use crate::waiting::until;
use crate::{fleet, has_joined, in_time, live, members, rejected, service};

/// A heartbeat by hand: live, dialing, base, peak, hungry, max, reserve.
pub(crate) fn beat(server: &TestServer, fleet: &str, id: &str, numbers: &[&str]) -> String {
    let keys = registry_keys(fleet);
    let mut command = vec!["EVAL", SCRIPT, "3", &keys[0], &keys[1], &keys[2], "beat", id, "1"];
    command.extend(numbers);
    server.admin().text(&command)
}

/// Three members on a server that has too few slots for them.
async fn three() -> (TestServer, Vec<Service>) {
    let server = TestServer::builder().maxclients(80).start().unwrap();
    let services: Vec<_> = (0..3).map(|_| service(&server, 40)).collect();
    until("three members", &services[0].pool, || {
        live(&services) > 50 && services.iter().all(|service| has_joined(&service.pool))
    })
    .await;
    (server, services)
}

/// For some heartbeats more everybody is served, and nobody refused; then all is as it was.
async fn goes_on(server: &TestServer, services: &[Service]) {
    let served: Vec<_> = services.iter().map(Service::served).collect();
    sleep(Duration::from_secs(6)).await;
    for (service, before) in services.iter().zip(served) {
        assert!(service.served() > before, "{:#?}", service.pool.status());
        until("membership", &service.pool, || {
            has_joined(&service.pool) && fleet(&service.pool).members == 3
        })
        .await;
    }
    in_time("fair shares", services, || jain(services) > 0.95 && live(services) > 45).await;
    assert_eq!(members(server, "test"), 3);
    assert_eq!(rejected(server), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_deleted_come_back() {
    let (server, services) = three().await;
    for key in registry_keys("test") {
        assert_eq!(server.admin().text(&["DEL", &key]), "1");
    }
    goes_on(&server, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_may_be_deleted_by_itself() {
    let (server, services) = three().await;
    for key in registry_keys("test") {
        server.admin().text(&["DEL", &key]);
        sleep(Duration::from_secs(2)).await;
    }
    goes_on(&server, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushall_is_survived() {
    let (server, services) = three().await;
    server.admin().text(&["FLUSHALL"]);
    goes_on(&server, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_are_overwritten_are_repaired_and_counted() {
    let (server, services) = three().await;
    let [members, expiries, sums] = registry_keys("test");
    let admin = server.admin();
    for id in admin.text(&["HKEYS", &members]).lines() {
        admin.text(&["HSET", &members, id, "text"]);
        admin.text(&["ZADD", &expiries, "9e18", id]);
    }
    admin.text(&["HSET", &members, "nobody", "9 -1 nan inf 1e999"]);
    for field in ["state", "b7"] {
        admin.text(&["HSET", &sums, field, "-17"]);
    }

    goes_on(&server, &services).await;

    until("the count", &services[0].pool, || fleet(&services[0].pool).repaired > 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_wrong_type_are_replaced() {
    let (server, services) = three().await;
    for key in registry_keys("test") {
        server.admin().text(&["SET", &key, "not what it was"]);
    }
    goes_on(&server, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_script_is_sent_again() {
    let (server, services) = three().await;
    server.admin().text(&["SCRIPT", "FLUSH"]);
    goes_on(&server, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_has_everybody_back() {
    let (server, services) = three().await;
    server.restart().unwrap();
    let begun = Instant::now();
    until("everybody", &services[0].pool, || members(&server, "test") == 3).await;
    println!("three members after {:?}", begun.elapsed());
    goes_on(&server, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_reports_absurd_numbers_costs_the_others_no_refusal() {
    let (server, services) = three().await;
    let absurd = [
        ["0", "0", "1e18", "1e18", "1", "1e18", "0"],
        ["1e18", "1e18", "0", "0", "0", "1e18", "1e18"],
        ["-5", "-5", "-5", "-5", "1", "-5", "-5"],
        ["nan", "inf", "-inf", "x", "1", "", "0x7fffffff"],
    ];
    for (n, numbers) in absurd.iter().enumerate() {
        let reply = beat(&server, "test", &format!("absurd{n}"), numbers);
        let limit: i64 = reply.lines().next().unwrap().parse().unwrap();
        assert!((1..=80).contains(&limit), "{numbers:?}: {reply}");
    }

    let served: Vec<_> = services.iter().map(Service::served).collect();
    sleep(Duration::from_secs(3)).await;
    for (service, before) in services.iter().zip(served) {
        assert!(service.served() > before && service.live() >= 2, "{:#?}", service.pool.status());
    }
    // Once the time of those is up, all is as it was.
    until("their end", &services[0].pool, || members(&server, "test") == 3).await;
    goes_on(&server, &services).await;
}

#[tokio::test]
async fn an_absurd_reply_moves_no_limit_out_of_its_bounds() {
    let absurd = [
        "*9\r\n:9223372036854775807\r\n:2000\r\n:7000\r\n:1\r\n:16\r\n:0\r\n:0\r\n:0\r\n:1\r\n",
        "*9\r\n:-1\r\n:2000\r\n:7000\r\n:1\r\n:16\r\n:0\r\n:0\r\n:0\r\n:1\r\n",
        "*9\r\n:5\r\n:-2000\r\n:0\r\n:1\r\n:16\r\n:0\r\n:0\r\n:0\r\n:1\r\n",
        "*0\r\n",
        "$-1\r\n",
        "-ERR what\r\n",
        "+OK\r\n",
    ];
    for reply in absurd {
        let fake = Fake::start("connected_clients:3 maxclients:1000 rejected_connections:0").await;
        fake.replies_to_scripts(reply);
        let pool = unhurried(fake.url())
            .max_connections(12)
            .fleet(redis_guard::Fleet::named("test"))
            .build()
            .unwrap();
        let service = Service::of(pool, 20, Duration::from_millis(2));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            let status = service.pool.status();
            // One, until the first beat is answered.
            assert!((1..=12).contains(&status.limit), "{reply:?}: {status:#?}");
            assert!(status.live + status.dialing <= 12);
            sleep(Duration::from_millis(5)).await;
        }
        assert!(service.served() > 0);
    }
}
