//! Fleets as production has them, hours old: composed, as no test can wait for them.

use std::fmt::Write as _;

use crate::fake::{Fake, FakeBuilder};
use crate::run::Doctor;

const HOUR: u64 = 3_600;

/// CLIENT LIST, line by line.
#[derive(Default)]
struct Fleet {
    list: String,
    clients: u64,
}

impl Fleet {
    fn client(&mut self, host: &str, name: &str, age: u64, idle: u64) {
        self.clients += 1;
        let (id, port) = (100 + self.clients, 20_000 + self.clients);
        writeln!(
            self.list,
            "id={id} addr={host}:{port} laddr=10.0.255.1:6379 fd=9 name={name} age={age} idle={idle} \
             flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 omem=0 events=r cmd=get user=default"
        )
        .unwrap();
    }

    /// A server with so many slots, of which these clients have theirs.
    fn on(&self, maxclients: u64) -> FakeBuilder {
        let real = crate::server().start().unwrap();
        let info = real.admin().text(&["INFO"]);
        let info = info
            .replace("connected_clients:1\r", &format!("connected_clients:{}\r", self.clients))
            .replace("maxclients:10000\r", &format!("maxclients:{maxclients}\r"));
        Fake::builder().info(&info).client_list(&self.list)
    }
}

/// Numbers that look random and are the same each time.
fn scattered(number: u64, below: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) % below
}

#[test]
fn one_instance_of_twelve_has_leaked_since_yesterday() {
    let mut fleet = Fleet::default();
    for instance in 1..=12 {
        let host = format!("10.0.0.{instance}");
        for number in 0..10 {
            fleet.client(&host, "checkout", 30 * HOUR, scattered(number, 60));
        }
    }
    for number in 0..300 {
        let age = 20 * HOUR * number / 300;
        fleet.client("10.0.0.7", "checkout", age, age - age.min(3));
    }
    let report = Doctor::of(&[&fleet.on(440).start().url()]).report();
    let seen = report.is(2, "leak");
    let words = seen.says("leak");
    assert!(words.contains("10.0.0.7") && !words.contains("10.0.0.8"), "{words}");
}

/// Pools that are kept full, with a lifetime of half an hour: hardly any connection is ever used, and
/// their ages spread over that half hour. Each service's pools are equal, the services' are not.
#[test]
fn three_services_with_pools_that_are_renewed_and_not_used() {
    let mut fleet = Fleet::default();
    for (service, (name, size)) in [("api", 10), ("web", 20), ("jobs", 40)].into_iter().enumerate()
    {
        for instance in 1..=8 {
            let host = format!("10.0.{service}.{instance}");
            for number in 0..size {
                let age = scattered(number * 31 + instance, HOUR / 2);
                fleet.client(&host, name, age, if number == 0 { 0 } else { age });
            }
        }
    }
    let report = Doctor::of(&[&fleet.on(600).start().url()]).report();
    let seen = report.is(2, "oversized_pools");
    assert!(!seen.verdicts().contains(&"leak"), "{report}");
}

/// A name for each connection, as some libraries and our own occupants have it.
#[test]
fn a_name_for_each_connection_does_not_hide_a_leak() {
    let mut fleet = Fleet::default();
    for instance in 1..=6 {
        for number in 0..5 {
            let host = format!("10.0.0.{instance}");
            fleet.client(&host, &format!("api-{instance}-{number}"), 30 * HOUR, number);
        }
    }
    for number in 0..90 {
        let age = 600 + 10 * HOUR * number / 90;
        fleet.client("10.0.0.7", &format!("api-7-{number}"), age, age - 2);
    }
    let report = Doctor::of(&[&fleet.on(130).start().url()]).report();
    let seen = report.is(2, "leak");
    assert!(seen.says("leak").contains("10.0.0.7"), "who: {report}");
}

/// Behind a NAT, or a sidecar, all come from one address; their names tell them apart.
#[test]
fn one_address_for_all_with_names_that_tell_them_apart() {
    let mut fleet = Fleet::default();
    for instance in 0..12 {
        for number in 0..10 {
            fleet.client("10.0.0.1", &format!("api-{instance}"), 30 * HOUR, number % 3);
        }
    }
    for number in 0..200 {
        let age = 600 + 10 * HOUR * number / 200;
        fleet.client("10.0.0.1", "api-99", age, age - 2);
    }
    let report = Doctor::of(&[&fleet.on(340).start().url()]).report();
    let seen = report.is(2, "leak");
    assert!(seen.says("leak").contains("api-99"), "who: {report}");
}

#[test]
fn a_night_on_a_server_with_room() {
    let mut fleet = Fleet::default();
    for instance in 1..=20 {
        for number in 0..50 {
            let idle = if number < 2 { number } else { 6 * HOUR };
            fleet.client(&format!("10.0.0.{instance}"), "api", 30 * HOUR, idle);
        }
    }
    let report = Doctor::of(&[&fleet.on(10_000).start().url(), "--strict"]).report();
    report.is(0, "nothing_wrong");
}

/// A deploy: half the fleet is new, all of it at work.
#[test]
fn a_deploy_on_a_server_with_room() {
    let mut fleet = Fleet::default();
    for instance in 1..=20 {
        for number in 0..20 {
            let age = if instance > 10 { 40 + number } else { 90 * HOUR };
            fleet.client(&format!("10.0.0.{instance}"), "api", age, number % 4);
        }
    }
    let report = Doctor::of(&[&fleet.on(2_000).start().url(), "--strict"]).report();
    report.is(0, "nothing_wrong");
}

/// Services are of different sizes: the largest, at work, is no alarm on a server with room.
#[test]
fn a_large_service_among_small_ones() {
    let mut fleet = Fleet::default();
    for number in 0..300 {
        fleet.client("10.0.0.1", "batch", 30 * HOUR, number % 5);
    }
    for instance in 2..=10 {
        for number in 0..4 {
            fleet.client(&format!("10.0.0.{instance}"), "cron", 30 * HOUR, number);
        }
    }
    let report = Doctor::of(&[&fleet.on(2_000).start().url(), "--strict"]).report();
    report.is(0, "nothing_wrong");
}
