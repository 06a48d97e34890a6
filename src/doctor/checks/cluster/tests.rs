//! On clusters that cannot be brought about on one machine.

use super::*;
use crate::doctor::cluster::{Said, Seen, Word};
use crate::sentinel::Named;

/// A cluster of these lines of CLUSTER NODES, each node on a machine of its own, which has the lines'
/// word and is so full.
fn cluster(lines: &[&str], used: &[u64]) -> Cluster {
    let said: Vec<Said> = lines.iter().filter_map(|line| Said::parse(line)).collect();
    assert_eq!(said.len(), lines.len(), "all are lines");
    let nodes = said.iter().zip(used).enumerate().map(|(nth, (it, &used))| {
        let word = Word { nodes: Ok(said.clone()), info: Ok([].into()) };
        let seen =
            Seen { word: Some(word), used: Some(used), ceiling: Some(100), ..Seen::default() };
        let at = Named::new(&format!("10.0.0.{nth}"), "7000");
        let server = format!("10.0.0.{nth}:7000");
        Node { said: it.clone(), at, server, seen: Some(Ok(seen)), announced: None }
    });
    Cluster { nodes: nodes.collect(), refused: None, here: false }
}

const FOUR: [&str; 4] = [
    "a 10.0.0.0:7000@1 master - 0 0 1 connected 0-8191",
    "b 10.0.0.1:7000@1 master - 0 0 2 connected 8192-16383",
    "c 10.0.0.2:7000@1 slave a 0 0 1 connected",
    "d 10.0.0.3:7000@1 slave b 0 0 2 connected",
];

#[test]
fn a_link_that_is_down_between_two_that_are_up() {
    let mut lines = FOUR;
    assert_eq!(nodes::links(&cluster(&lines, &[1; 4])).level, Level::Ok);
    lines[3] = "d 10.0.0.3:7000@1 slave b 0 0 2 disconnected";
    let check = nodes::links(&cluster(&lines, &[1; 4]));
    assert_eq!(check.level, Level::Warning);
    assert!(check.evidence.contains("10.0.0.0:7000 to 10.0.0.3:7000"), "{check:?}");
    lines[3] = "d 10.0.0.3:7000@1 slave,fail b 0 0 2 disconnected";
    assert_eq!(nodes::links(&cluster(&lines, &[1; 4])).level, Level::Ok, "that is no news");
}

#[test]
fn masters_are_held_against_masters_and_replicas_against_replicas() {
    let level = |used: [u64; 4]| nodes::connections(&cluster(&FOUR, &used)).level;
    assert_eq!(level([60, 55, 5, 5]), Level::Ok, "nobody asks replicas");
    assert_eq!(level([60, 30, 5, 5]), Level::Warning);
    assert_eq!(level([49, 1, 5, 5]), Level::Ok, "there is room yet");
    assert_eq!(level([90, 90, 60, 5]), Level::Warning, "not the fullest of all");
    let lone = cluster(&FOUR[..1], &[99]);
    assert_eq!(nodes::connections(&lone).level, Level::Skipped);
}

#[test]
fn an_address_that_everybody_has_is_nobodys() {
    let mut cluster = cluster(&FOUR, &[1; 4]);
    assert_eq!(nodes::addresses(&cluster).level, Level::Ok);
    cluster.nodes[1].at = Named::new("127.0.0.1", "7000");
    let check = nodes::addresses(&cluster);
    assert_eq!(check.level, Level::Failed);
    assert!(check.evidence.contains("everybody's own machine"), "{check:?}");
    cluster.here = true;
    assert_eq!(nodes::addresses(&cluster).level, Level::Ok);
}

#[test]
fn who_is_taken_for_whose_and_who_is_unknown() {
    let mut cluster = cluster(&FOUR, &[1; 4]);
    let says = |lines: &[&str]| {
        let nodes = lines.iter().filter_map(|line| Said::parse(line)).collect();
        Some(Ok(Seen {
            word: Some(Word { nodes: Ok(nodes), info: Ok([].into()) }),
            ..Seen::default()
        }))
    };
    assert_eq!(slots::agreement(&cluster).level, Level::Ok);
    cluster.nodes[2].seen = says(&FOUR[..3]);
    let check = slots::agreement(&cluster);
    assert_eq!(check.level, Level::Warning, "{check:?}");
    assert!(check.evidence.contains("10.0.0.2:7000 does not know 10.0.0.3:7000"), "{check:?}");

    let mut lines = FOUR;
    // A failover that it has not heard of, or that the others have not.
    lines[1] = "b 10.0.0.1:7000@1 slave d 0 0 2 connected";
    lines[3] = "d 10.0.0.3:7000@1 master - 0 0 5 connected 8192-16383";
    cluster.nodes[2].seen = says(&lines);
    let check = slots::agreement(&cluster);
    assert_eq!(check.level, Level::Failed, "{check:?}");
    assert!(check.evidence.contains("of 10.0.0.3:7000 (epoch 5), says 10.0.0.2:7000"), "{check:?}");
}
