//! A fleet on a cluster: a registry a node, in a slot of its own.

use redis_guard::{AsyncCommands, Fleet, GuardedPool};

use crate::support::cluster::slot_of;
use crate::waiting::{soon, until};
use crate::{Cluster, cluster_status, masters, unhurried};

const NODES: [usize; 3] = [0, 1, 2];

fn member(cluster: &Cluster) -> GuardedPool {
    unhurried(cluster).fleet(Fleet::named("shop")).build().unwrap()
}

/// Uses each node once.
async fn use_all(cluster: &Cluster, pool: &GuardedPool) {
    for node in NODES {
        let mut handle = pool.shared("test");
        let () = soon("SET", handle.set(cluster.key_on(node), 1)).await.unwrap();
    }
}

/// How many members each node's registry counts, as this pool heard of it.
fn members(pool: &GuardedPool) -> Vec<usize> {
    let nodes = cluster_status(pool).nodes.into_iter();
    let fleets = nodes.filter_map(|node| node.status.fleet.filter(|fleet| fleet.joined));
    fleets.map(|fleet| fleet.members).collect()
}

/// The slots of the registries that a node holds.
fn registries(cluster: &Cluster, node: usize) -> Vec<u16> {
    let keys = cluster.node(node).admin().text(&["KEYS", "{redis-guard:shop#*}:members"]);
    keys.lines().map(slot_of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_of_a_cluster_share_each_nodes_slots_and_find_the_registry_where_it_moves() {
    let cluster = masters();
    let (one, other) = (member(&cluster), member(&cluster));
    use_all(&cluster, &one).await;
    use_all(&cluster, &other).await;

    until("members at all nodes", &one, || members(&one) == [2, 2, 2]).await;
    for node in NODES {
        let registries = registries(&cluster, node);
        assert_eq!(registries.len(), 1, "one registry at node {node}");
        assert!(cluster.slots_of(node).contains(&registries[0]));
    }

    let slot = registries(&cluster, 0)[0];
    cluster.move_slot(slot, 1);

    let elsewhere = || registries(&cluster, 0).iter().any(|registry| *registry != slot);
    until("the registry in another slot of the node's", &one, || {
        elsewhere() && members(&one) == [2, 2, 2]
    })
    .await;
}
