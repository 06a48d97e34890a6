//! Is every slot served, by one node, and do all know by which?

use std::collections::BTreeSet;

use crate::doctor::checks::Findings;
use crate::doctor::checks::sentinel::list;
use crate::doctor::cluster::{Cluster, Node, SLOTS, Way, Word};
use crate::doctor::report::{Check, Level};
use crate::vocabulary::words::{clean, count, counted};

/// Is every slot served, and does no node fail?
pub(super) fn state(findings: Findings<'_>, cluster: &Cluster) -> Check {
    let check =
        Check::new("cluster.state", "ok for every node, all slots are served, no node fails");
    let mut told = Vec::new();
    let fails = cluster
        .nodes
        .iter()
        .filter(|node| node.word().and_then(Word::state).is_some_and(|state| state != "ok"));
    let fails: Vec<&str> = fails.map(|node| node.server.as_str()).collect();
    if !fails.is_empty() {
        told.push(format!("cluster_state is fail, say {}", list(fails.iter())));
    }
    let served: usize = cluster.nodes.iter().map(|node| node.said.slots()).sum();
    let unassigned = SLOTS.saturating_sub(served);
    if unassigned > 0 {
        told.push(format!("{} of no node", counted(unassigned, "slot")));
    }
    let flagged = |flag: &'static str| cluster.nodes.iter().filter(move |node| node.said.has(flag));
    let slots = |node: &Node| node.said.slots();
    let dead: usize = flagged("fail").map(slots).sum();
    for (flag, is) in [("fail", "has failed"), ("fail?", "does not answer")] {
        for node in flagged(flag) {
            let slots = match slots(node) {
                0 => String::new(),
                slots => format!(", with {}", counted(slots, "slot")),
            };
            told.push(format!("{} {is} ({flag}){slots}", node.server));
        }
    }
    let level = match () {
        () if !fails.is_empty() || unassigned > 0 || dead > 0 => Level::Failed,
        () if !told.is_empty() => Level::Warning,
        () => Level::Ok,
    };
    if level == Level::Ok {
        let masters = cluster.nodes.iter().filter(|node| node.is_serving()).count();
        return check.ok(format!(
            "{} slots are served by {}",
            count(served),
            counted(masters, "master")
        ));
    }
    check.with(level, list(told.iter())).fix(match () {
        () if dead > 0 => {
            "bring the failed master back, or on a replica of it: CLUSTER FAILOVER FORCE, or TAKEOVER where no \
             majority of masters is left"
                .to_owned()
        }
        () if unassigned > 0 => format!(
            "assign them: redis-cli --cluster fix {}; what was in them is where they were last, or gone",
            clean(&findings.location.server)
        ),
        () if level == Level::Failed => {
            "a node that reaches too few of the others serves nothing: its network, and port + 10000, the bus's"
                .to_owned()
        }
        () => "bring it back, or have it forgotten: CLUSTER FORGET <id> on every other node".to_owned(),
    })
}

/// Do all nodes say the same of every slot, and know each other?
pub(super) fn agreement(cluster: &Cluster) -> Check {
    let check = Check::new("cluster.agreement", "every node says the same of every slot");
    let words: Vec<(&Node, &Word)> =
        cluster.nodes.iter().filter_map(|node| Some((node, node.word()?))).collect();
    let Some((first, own)) = words.first() else { return check.skipped("no node tells") };
    let (owners, known) = (owners(own), known(own));
    // Epochs of claims that agree may differ for a moment.
    let id = |owner: Owner<'_>| owner.map(|(id, _)| id.to_owned());
    let (mut differ, mut strangers, mut silent) = (Vec::new(), Vec::new(), Vec::new());
    for (node, word) in words.iter().skip(1) {
        if let Err(why) = &word.nodes {
            silent.push(format!("{}: {why}", node.server));
            continue;
        }
        let theirs = self::owners(word);
        if let Some(slot) = (0..SLOTS).find(|&slot| id(owners[slot]) != id(theirs[slot])) {
            let whose = |owner: Owner<'_>| match owner {
                Some((id, epoch)) => format!("of {} (epoch {epoch})", clean(cluster.name(id))),
                None => "of no node".to_owned(),
            };
            differ.push(format!(
                "slot {slot} is {}, says {}, and {}, says {}",
                whose(owners[slot]),
                first.server,
                whose(theirs[slot]),
                node.server
            ));
        }
        let ids = self::known(word);
        strangers.extend(
            known
                .difference(&ids)
                .map(|id| format!("{} does not know {}", node.server, clean(cluster.name(id)))),
        );
        strangers.extend(ids.difference(&known).map(|id| {
            format!("{} does not know {}, which {} does", first.server, clean(id), node.server)
        }));
    }
    if !differ.is_empty() {
        return check.with(Level::Failed, list(differ.iter())).fix(
            "right after a failover or a resharding ask again in some seconds; if it stays so: do the nodes \
             reach each other on the bus (port + 10000)? redis-cli --cluster check says the same of all nodes",
        );
    }
    if !strangers.is_empty() || !silent.is_empty() {
        let told = strangers.iter().chain(&silent);
        return check.with(Level::Warning, list(told)).fix(
            "CLUSTER MEET where a node is missing, CLUSTER FORGET on every node within a minute where one is \
             to go; and the same user, with the same rights, on all of them",
        );
    }
    check.ok(match words.len() {
        1 => "one node tells".to_owned(),
        all => format!("{} say the same", counted(all, "node")),
    })
}

/// A slot's node, and the epoch of its claim.
type Owner<'a> = Option<(&'a str, u64)>;

fn owners(word: &Word) -> Vec<Owner<'_>> {
    let mut owners = vec![None; SLOTS];
    for said in word.nodes.iter().flatten() {
        for slot in said.ranges.iter().cloned().flatten() {
            if let Some(owner) = owners.get_mut(usize::from(slot)) {
                *owner = Some((said.id.as_str(), said.epoch));
            }
        }
    }
    owners
}

fn known(word: &Word) -> BTreeSet<&str> {
    let nodes = word.nodes.iter().flatten();
    let real = nodes.filter(|said| !said.has("handshake") && !said.has("noaddr"));
    real.map(|said| said.id.as_str()).collect()
}

/// Are slots on their way?
pub(super) fn migrations(findings: Findings<'_>, cluster: &Cluster) -> Check {
    let check =
        Check::new("cluster.migrations", "no slot is left on its way from one node to another");
    // From, to, the slot, and who says so.
    let mut open = BTreeSet::new();
    for node in &cluster.nodes {
        let Some(own) = node.word().and_then(Word::own) else { continue };
        for it in &own.open {
            let (from, to) = match it.way {
                Way::Migrating => (&own.id, &it.other),
                Way::Importing => (&it.other, &own.id),
            };
            open.insert((it.slot, from.as_str(), to.as_str(), it.way == Way::Migrating));
        }
    }
    let told = open.iter().filter_map(|&(slot, from, to, is_source)| {
        let other_end = open.contains(&(slot, from, to, !is_source));
        let (from, to) = (clean(cluster.name(from)), clean(cluster.name(to)));
        match (is_source, other_end) {
            (true, true) => Some(format!("slot {slot} is on its way from {from} to {to}")),
            (false, true) => None,
            (true, false) => Some(format!(
                "slot {slot} is on its way from {from} to {to}, where nobody awaits it"
            )),
            (false, false) => {
                Some(format!("{to} awaits slot {slot} from {from}, which does not send it"))
            }
        }
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() {
        return check.ok("none");
    }
    check.with(Level::Warning, list(told.iter())).fix(format!(
        "unless a resharding is under way: redis-cli --cluster fix {}; until then commands on several of its \
         keys end with TRYAGAIN, and each of the others is asked for twice",
        clean(&findings.location.server)
    ))
}
