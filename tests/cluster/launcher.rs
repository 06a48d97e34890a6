//! The cluster that the tests start does what they want of it.

use crate::support::cluster::slot_of;
use crate::support::{Cluster, TestServer};

/// What a client that has asked this node hears.
fn told(cluster: &Cluster, node: usize, command: &[&str]) -> String {
    cluster.node(node).admin().command(command).unwrap().text()
}

/// With 1 s until a node counts as failed.
fn with_replicas() -> Cluster {
    let settings = TestServer::builder().arg("cluster-node-timeout", "1000");
    Cluster::with_replicas(3, 1, &settings).unwrap()
}

#[test]
fn three_masters_share_the_slots_and_each_has_its_replica() {
    let cluster = with_replicas();

    for key in ["", "a", "{}a", "{a}b", "x{a}{b}", "{", "}{", "a{b"] {
        let slot = told(&cluster, 0, &["CLUSTER", "KEYSLOT", key]);
        assert_eq!(slot, slot_of(key).to_string(), "{key:?}");
    }
    for master in 0..3 {
        assert_eq!(cluster.replicas_of(master), [master + 3]);
        let key = cluster.key_on(master);
        assert_eq!(cluster.primary_of_key(&key), master);
        assert_eq!(told(&cluster, master, &["SET", &key, "value"]), "OK");
        assert!(told(&cluster, (master + 1) % 3, &["GET", &key]).starts_with("MOVED "));
        assert_eq!(cluster.connected(master), 0);
    }
}

#[test]
fn a_slot_is_moved_key_by_key() {
    let cluster = Cluster::start(3, &TestServer::builder()).unwrap();
    let slot = slot_of("{tag}");
    let from = cluster.primary_of(slot);
    let to = (from + 1) % 3;
    let keys = ["{tag}0", "{tag}1", "{tag}2"];
    let get = |node: usize, key: &str| told(&cluster, node, &["GET", key]);
    for key in keys {
        assert_eq!(told(&cluster, from, &["SET", key, key]), "OK");
    }

    let moving = cluster.begin_move(slot, to);
    assert_eq!(moving.move_keys(1), 1);

    let asked = keys.into_iter().filter(|key| get(from, key).starts_with("ASK "));
    assert_eq!(asked.count(), 1);
    assert_eq!(get(from, "{tag}new"), format!("ASK {slot} {}", cluster.address(to)));
    assert!(get(to, keys[0]).starts_with("MOVED "));
    moving.move_all_keys();
    moving.finish();
    assert_eq!(cluster.primary_of(slot), to);
    assert_eq!(keys.map(|key| get(to, key)), keys);
    assert_eq!(get(from, keys[0]), format!("MOVED {slot} {}", cluster.address(to)));
}

#[test]
fn a_replica_takes_over_by_command_and_when_its_master_is_killed() {
    let cluster = with_replicas();
    let key = cluster.key_on(0);
    assert_eq!(told(&cluster, 0, &["SET", &key, "value"]), "OK");

    cluster.fail_over(3);

    assert_eq!((cluster.primary_of_key(&key), cluster.replicas_of(3)), (3, vec![0]));
    cluster.node(3).crash();
    assert_eq!(cluster.moved_from(slot_of(&key), 3), 0);
    assert_eq!(told(&cluster, 0, &["GET", &key]), "value");
    cluster.node(3).restart().unwrap();
    cluster.until_whole();
    assert_eq!(cluster.replicas_of(0), [3]);
    cluster.node(0).pause();
    assert_eq!(cluster.moved_from(slot_of(&key), 0), 3);
    cluster.node(0).resume();
    cluster.until_whole();
    assert_eq!(told(&cluster, 3, &["GET", &key]), "value");
}

#[test]
fn nodes_come_and_go() {
    let mut cluster = Cluster::start(2, &TestServer::builder()).unwrap();

    let added = cluster.add_node().unwrap();
    cluster.give_slots(0..100, added);
    let replica = cluster.add_replica(added).unwrap();

    assert_eq!(cluster.slots_of(added), (0..100).collect::<Vec<_>>());
    assert_eq!(cluster.replicas_of(added), [replica]);
    let key = cluster.key_on(added);
    assert_eq!(told(&cluster, added, &["SET", &key, "value"]), "OK");
    cluster.empty_node(added);
    cluster.remove_node(added);
    let new = cluster.primary_of_key(&key);
    assert_eq!(told(&cluster, new, &["GET", &key]), "value");
    assert!(
        cluster.replicas_of(new).contains(&replica)
            || cluster.replicas_of(1 - new).contains(&replica)
    );
    assert!(told(&cluster, added, &["GET", &key]).starts_with("CLUSTERDOWN "));
    cluster.remove_node(replica);
}
