//! Snapshots of a real server, and what changes from one to the next.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;

use std::time::Duration;

use redis_guard::server::{
    Observation, Product, Role, ServerEvent, ServerObserver, ServerSnapshot, worst,
};
use support::server::poll;
use support::{Maker, TestServer, program};
use tokio::time::Instant;

/// Far above anything a test waits for.
const HANG: Duration = Duration::from_secs(20);

fn server(maxclients: u32) -> TestServer {
    // A replica is to get its data at once, not in five seconds.
    let at_once = ("repl-diskless-sync-delay", "0");
    TestServer::builder().maxclients(maxclients).arg(at_once.0, at_once.1).start().unwrap()
}

fn replica_of(master: &TestServer) -> TestServer {
    let address = format!("127.0.0.1 {}", master.port());
    let replica = TestServer::builder().arg("replicaof", &address).start().unwrap();
    until_online(master, 1);
    replica
}

fn snapshot(server: &TestServer) -> ServerSnapshot {
    ServerSnapshot::parse(server.admin().text(&["INFO", "everything"]))
}

#[track_caller]
fn until_online(master: &TestServer, replicas: u64) {
    let online = || (snapshot(master).replicas_online() == Some(replicas)).then_some(());
    poll(HANG, online).unwrap_or_else(|| panic!("{:#?}", snapshot(master)));
}

/// A server and who watches it.
struct Watched<'a> {
    server: &'a TestServer,
    observer: ServerObserver,
}

impl<'a> Watched<'a> {
    fn new(server: &'a TestServer) -> Self {
        let mut watched = Self { server, observer: ServerObserver::default() };
        assert_eq!(watched.look().events, []);
        watched
    }

    fn look(&mut self) -> Observation {
        self.observer.observe(snapshot(self.server), Instant::now())
    }
}

#[test]
fn a_snapshot_says_what_the_server_is_and_how_full() {
    let server = server(10);
    let occupants = server.fill_to_leave(3);
    let snapshot = snapshot(&server);
    let product = match program().maker {
        Maker::Redis => Product::Redis,
        Maker::Valkey => Product::Valkey,
        Maker::KeyDb => Product::KeyDb,
    };
    assert_eq!((snapshot.product, snapshot.role), (Some(product), Some(Role::Master)));
    let (major, minor, patch) = program().version;
    assert_eq!(snapshot.version, Some(format!("{major}.{minor}.{patch}")));
    assert_eq!(snapshot.run_id.as_deref().map(str::len), Some(40));
    assert_eq!((snapshot.loading, snapshot.blocked_clients), (Some(false), Some(0)));
    assert_eq!(
        (snapshot.used(), snapshot.maxclients, snapshot.free()),
        (Some(7), Some(10), Some(3))
    );
    assert_eq!(snapshot.saturation(), Some(0.7));
    assert!(snapshot.used_memory_bytes > Some(0) && snapshot.maxmemory_bytes == Some(0));
    assert_eq!(occupants.len(), 6, "the seventh is who asks");
}

#[test]
fn a_replica_takes_a_slot() {
    let master = server(6);
    let replica = replica_of(&master);
    let mut watched = Watched::new(&master);

    let occupants = master.fill();

    let seen = watched.look();
    assert_eq!(occupants.len(), 4, "with the one who asks five, so the sixth client was refused");
    assert_eq!(seen.snapshot.connected_clients, Some(5));
    assert_eq!(
        (seen.snapshot.used(), seen.saturation(), seen.free()),
        (Some(6), Some(1.0), Some(0))
    );
    assert_eq!(seen.new_rejections, Some(1));
    assert_eq!((seen.replicas_online, seen.replicas_expected), (Some(1), Some(1)));
    assert_eq!(seen.snapshot.replicas[0].port, Some(replica.port()));
    // Valkey 9 says so about a second later than the master.
    let linked = || Some(snapshot(&replica)).filter(|it| it.master_link_up == Some(true));
    let its_own = poll(HANG, linked).unwrap_or_else(|| panic!("{:#?}", snapshot(&replica)));
    assert_eq!(its_own.role, Some(Role::Replica));
    assert_eq!(its_own.used(), Some(2), "its link to the master is a client of its own");
}

#[test]
fn refusals_and_arrivals_are_counted_from_one_look_to_the_next() {
    let server = server(8);
    let mut watched = Watched::new(&server);
    let mut occupants = server.fill();
    let full = watched.look();
    assert_eq!((full.new_rejections, full.saturation()), (Some(1), Some(1.0)));
    assert!(full.connections_per_second > Some(0.0), "{full:#?}");
    occupants.top_up();
    occupants.top_up();
    let still = watched.look();
    assert_eq!(still.new_rejections, Some(2));
    assert_eq!(still.connections_per_second, Some(0.0), "who is refused has not arrived");
    assert_eq!(watched.look().new_rejections, Some(0));
    assert_eq!(worst([("it", &full), ("later", &still)]).unwrap().1.saturation(), Some(1.0));
}

#[test]
fn a_restart_is_no_refusal() {
    let server = server(4);
    let mut watched = Watched::new(&server);
    drop(server.fill());
    assert_eq!(watched.look().new_rejections, Some(1));

    server.restart().unwrap();
    let refused_before_the_look = server.fill();

    let seen = watched.look();
    assert_eq!(seen.snapshot.rejected_connections, Some(1));
    assert_eq!((seen.new_rejections, seen.connections_per_second), (Some(0), None));
    assert_eq!(seen.events, [ServerEvent::Restarted]);
    assert_eq!(watched.look().new_rejections, Some(0));
    refused_before_the_look.free();
}

#[test]
fn reset_statistics_are_no_restart() {
    let server = server(4);
    let mut watched = Watched::new(&server);
    let _occupants = server.fill();
    watched.look();
    server.admin().text(&["CONFIG", "RESETSTAT"]);
    let seen = watched.look();
    assert_eq!((seen.new_rejections, seen.restarted()), (Some(0), false));
}

#[test]
fn a_ceiling_that_an_operator_moves_is_seen() {
    let server = server(20);
    let _occupants = server.fill_to_leave(4);
    let mut watched = Watched::new(&server);

    server.admin().set_maxclients(8);
    let seen = watched.look();
    assert!(matches!(seen.events[..], [ServerEvent::CeilingChanged { from: 20, to: 8, .. }]));
    assert_eq!((seen.saturation(), seen.free()), (Some(2.0), Some(0)));

    server.admin().set_maxclients(32);
    let seen = watched.look();
    assert!(matches!(seen.events[..], [ServerEvent::CeilingChanged { from: 8, to: 32, .. }]));
    assert_eq!((seen.saturation(), seen.free()), (Some(0.5), Some(16)));
}

#[test]
fn a_replica_leaves_and_comes_back() {
    let master = server(20);
    let replica = replica_of(&master);
    let mut watched = Watched::new(&master);

    replica.stop();
    until_online(&master, 0);
    let seen = watched.look();
    assert!(matches!(seen.events[..], [ServerEvent::ReplicaLost { online: 0, expected: 1, .. }]));
    assert_eq!((seen.replicas_expected, seen.snapshot.used()), (Some(1), Some(1)));

    replica.restart().unwrap();
    until_online(&master, 1);
    let seen = watched.look();
    assert!(matches!(seen.events[..], [ServerEvent::ReplicaBack { online: 1, expected: 1, .. }]));
}

#[test]
fn a_failover_changes_the_role() {
    let master = server(20);
    let replica = replica_of(&master);
    let mut watched = Watched::new(&replica);
    replica.admin().text(&["REPLICAOF", "NO", "ONE"]);
    let seen = watched.look();
    let [ServerEvent::RoleChanged { from, to, .. }] = seen.events[..] else { panic!("{seen:#?}") };
    assert_eq!((from, to), (Role::Replica, Role::Master));
}
