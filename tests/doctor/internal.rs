//! Replicas and links of the cluster bus hold the slots.

use crate::run::Doctor;
use crate::support::replication::replica_of;
use crate::support::{Cluster, Crowd};

#[test]
fn links_of_the_cluster_bus_take_most_of_a_small_ceiling() {
    let cluster = Cluster::start(4, &crate::server().maxclients(12)).unwrap();
    let node = &cluster.nodes()[0];
    let links = node.admin().info_u64("cluster_connections");
    assert!(links >= 6, "two for each other node: {links}");
    let _busy = [2, 3, 4].map(|host| Crowd::from(node, host).open(1).busy());

    let report = Doctor::of(&[&node.url()]).report_of(&[node]);
    let seen = report.server(0);
    assert_eq!((report.code, seen.verdict()), (2, "internal_connections"), "{report}");
    seen.level("failed", &["capacity.saturation"]);
    assert_eq!(seen.number("/capacity/used"), node.admin().used_slots() + 1);
    let words = seen.says("internal_connections");
    assert!(words.contains("cluster") && words.contains(&links.to_string()), "{words}");
}

#[test]
fn links_below_the_pressure_are_at_least_a_warning() {
    let cluster = Cluster::start(4, &crate::server().maxclients(12)).unwrap();
    let node = &cluster.nodes()[0];
    let report = Doctor::of(&[&node.url(), "--strict"]).report_of(&[node]);
    assert_eq!((report.code, report.server(0).verdict()), (1, "internal_connections"), "{report}");
}

#[test]
fn replicas_take_half_of_a_small_ceiling() {
    let builder = crate::server().maxclients(5).arg("repl-diskless-sync-delay", "0");
    let master = builder.start().unwrap();
    let _replicas = [(); 3].map(|()| replica_of(&master, crate::server()).unwrap());

    let report = Doctor::of(&[&master.url()]).report_of(&[&master]);
    let seen = report.is(2, "internal_connections");
    seen.level("failed", &["capacity.saturation"]).shows("holders.replicas", 3);
    assert_eq!(seen.number("/holders/replicas"), 3);
    assert_eq!(seen.number("/holders/clients"), 1, "the admin; replicas are no clients");
    assert_eq!(seen.number("/capacity/used"), 5, "INFO's connected_clients knows 2 of them");
}
