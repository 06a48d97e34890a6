//! What a cluster's nodes say, held together: of the node whose URL led there.

mod nodes;
mod slots;
#[cfg(test)]
mod tests;

use super::{Check, Findings};
use crate::doctor::cluster::{Cluster, MOST, Node};
use crate::doctor::report::Level;
use crate::vocabulary::words::{count, counted};

pub(super) fn checks(findings: Findings<'_>, cluster: &Cluster) -> Vec<Check> {
    let found = found(cluster);
    if cluster.refused.is_some() {
        return vec![found];
    }
    vec![
        found,
        slots::state(findings, cluster),
        slots::agreement(cluster),
        slots::migrations(findings, cluster),
        nodes::addresses(cluster),
        nodes::replicas(findings, cluster),
        nodes::connections(cluster),
        nodes::maxclients(cluster),
        nodes::links(cluster),
    ]
}

/// Does it lead to the others?
fn found(cluster: &Cluster) -> Check {
    let check = Check::new(
        "cluster.nodes",
        format!("it tells which nodes there are; {MOST} of them at most are looked at"),
    );
    if let Some(why) = &cluster.refused {
        let evidence = format!("CLUSTER NODES: {why}; no other node of its cluster was looked at");
        return check
            .with(Level::Warning, evidence)
            .fix("allow this user +cluster|nodes, +cluster|slots and +cluster|info, or pass a URL for each node");
    }
    let all = |so: fn(&Node) -> bool| cluster.nodes.iter().filter(|node| so(node)).count();
    let masters = all(|node| node.said.is_master());
    let replicas = all(|node| node.said.has("slave"));
    let mut evidence = format!(
        "{}: {}, {}",
        counted(cluster.nodes.len(), "node"),
        counted(masters, "master"),
        counted(replicas, "replica")
    );
    let unknown = all(|node| node.at.is_none());
    if unknown > 0 {
        evidence.push_str(&format!("; {} without an address", count(unknown)));
    }
    match all(|node| node.at.is_some() && node.seen.is_none()) {
        0 => check.ok(evidence),
        left => check.note(format!("{evidence}; {} were not looked at", count(left))),
    }
}
