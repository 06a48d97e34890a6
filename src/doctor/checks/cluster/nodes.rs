//! Can every node be reached, replaced, and filled evenly?

use crate::doctor::checks::Findings;
use crate::doctor::checks::sentinel::{is_unreached, list};
use crate::doctor::cluster::{Cluster, Node, Seen};
use crate::doctor::report::{Check, Level};
use crate::doctor::sentinel::is_loopback;
use crate::server::ratio;
use crate::vocabulary::words::{clean, count, counted, percent};

/// A node as full as this, and twice as full as its peers: the next one to refuse.
const HALF_FULL: f64 = 0.5;
const UNEVEN: f64 = 2.0;

/// Sources that are named.
const NAMED: usize = 3;

/// Can every node be reached where it is announced?
pub(super) fn addresses(cluster: &Cluster) -> Check {
    let check = Check::new(
        "cluster.addresses",
        "nodes that the cluster holds for up answer where it announces them",
    );
    let unreached = cluster.nodes.iter().filter_map(|node| why_unreached(cluster, node));
    let unreached: Vec<String> = unreached.collect();
    if unreached.is_empty() {
        return check.ok("all nodes that are up were reached");
    }
    check.with(Level::Failed, list(unreached.iter())).fix(
        "announce an address that clients reach: cluster-announce-ip, -port and -bus-port, or \
         cluster-announce-hostname with cluster-preferred-endpoint-type hostname (in containers: the host's, and \
         ports published unchanged)",
    )
}

fn why_unreached(cluster: &Cluster, node: &Node) -> Option<String> {
    let at = node.at.as_ref().filter(|_| !node.said.is_down())?;
    if !cluster.here && is_loopback(at) {
        return Some(format!("{at} is everybody's own machine"));
    }
    let another = |id: &str| format!("{at} leads to another node: {}", clean(cluster.name(id)));
    match (&node.announced, &node.seen) {
        (Some(Err(missed)), _) | (None, Some(Err(missed))) => {
            is_unreached(missed).then(|| format!("{at}: {}", clean(&missed.failure.message)))
        }
        (Some(Ok(id)), _) => id.as_ref().filter(|id| **id != node.said.id).map(|id| another(id)),
        (None, Some(Ok(Seen { word: None, used: Some(_), .. }))) => {
            Some(format!("{at} leads to a server that is in no cluster"))
        }
        (None, Some(Ok(_))) => {
            let id = &node.word()?.own()?.id;
            (*id != node.said.id).then(|| another(id))
        }
        (None, None) => None,
    }
}

/// Is there one to take over from every master?
pub(super) fn replicas(findings: Findings<'_>, cluster: &Cluster) -> Check {
    let expected = findings.options.expect_replicas;
    let check = Check::new(
        "cluster.replicas",
        match expected {
            Some(expected) => {
                format!("every master has {} that follow it", counted(expected, "replica"))
            }
            None => "every master has a replica that follows it, where any has one".to_owned(),
        },
    );
    let masters = cluster.nodes.iter().filter(|node| node.is_serving());
    let masters: Vec<&Node> = masters.collect();
    let has_any = masters.iter().any(|master| cluster.replicas_of(master).next().is_some());
    if masters.is_empty() {
        return check.skipped("no node has slots");
    }
    if !has_any && expected.is_none() {
        return check
            .note("no master has one: the slots of one that fails are gone until it is back");
    }
    let least = expected.unwrap_or(1);
    let (mut level, mut told, mut fewest) = (Level::Ok, Vec::new(), u64::MAX);
    for master in masters {
        let known = cluster.replicas_of(master);
        let (unfit, fit): (Vec<_>, Vec<_>) =
            known.map(|replica| why_unfit(replica).ok_or(replica)).partition(Result::is_ok);
        let known = crate::sizing::wide(fit.len());
        let online = master.seen().and_then(|seen| seen.replicas_online).unwrap_or(known);
        let fit = known.min(online);
        fewest = fewest.min(fit);
        let mut why: Vec<String> = unfit.into_iter().flatten().collect();
        if known > online {
            why.push(format!("{} of {known} online, it says", count(online)));
        }
        let short = fit < least;
        if short || !why.is_empty() {
            level = level.max(if short { Level::Failed } else { Level::Warning });
            let why = match why.is_empty() {
                true => String::new(),
                false => format!(" ({})", why.join(", ")),
            };
            told.push(format!("{} has {}{why}", master.server, counted(fit, "replica")));
        }
    }
    let evidence = match told.is_empty() {
        true => format!("every master has {} or more", counted(fewest, "replica")),
        false => list(told.iter()),
    };
    check.with(level, evidence).fix(
        "bring it back (INFO replication on both: is the master full, are masteruser and masterauth right?), or \
         add one: redis-cli --cluster add-node NEW ANY --cluster-slave --cluster-master-id ID",
    )
}

/// Why it could not take over.
fn why_unfit(replica: &Node) -> Option<String> {
    let Node { said, server, .. } = replica;
    if said.is_down() {
        let flags = said.flags().filter(|flag| *flag != "slave").map(clean);
        return Some(format!("{server} is down: {}", list(flags)));
    }
    let is_cut = replica.seen().and_then(|seen| seen.master_link_up) == Some(false);
    is_cut.then(|| format!("the link of {server} to it is down"))
}

/// Are the connections spread evenly, among masters and among replicas?
pub(super) fn connections(cluster: &Cluster) -> Check {
    let check = Check::new(
        "cluster.connections",
        format!(
            "no node is {} full, and {UNEVEN} times as full as its peers in the median",
            percent(HALF_FULL)
        ),
    );
    let groups = [true, false].map(|masters| {
        let peers = cluster.nodes.iter().filter_map(|node| Some((node, node.seen()?)));
        let peers = peers.filter(|(node, _)| match masters {
            true => node.is_serving(),
            false => node.said.has("slave"),
        });
        Spread::of(peers.collect())
    });
    let is_uneven = |spread: &&Spread<'_>| spread.worst >= spread.median * UNEVEN;
    let spreads = groups.iter().flatten();
    let fullest = |one: &&Spread<'_>, other: &&Spread<'_>| one.worst.total_cmp(&other.worst);
    let uneven = spreads.clone().filter(is_uneven).max_by(fullest);
    let Some(spread) = uneven.or_else(|| spreads.max_by(fullest)) else {
        return check.skipped("there are no two nodes to compare that tell how full they are");
    };
    let Spread { node, seen, worst, median, .. } = spread;
    let evidence = format!(
        "the fullest is {}: {} of {} slots ({}), its peers {} in the median",
        node.server,
        count(seen.used.unwrap_or(0)),
        count(seen.ceiling.unwrap_or(0)),
        percent(*worst),
        percent(*median)
    );
    if uneven.is_none() || *worst < HALF_FULL {
        return check.ok(evidence);
    }
    let holders = spread.holders();
    let evidence = match holders.is_empty() {
        true => evidence,
        false => format!("{evidence}; {}", holders.join(", ")),
    };
    check.with(Level::Warning, evidence).fix(
        "whoever holds more there uses its keys more, or was told of that node only: a pool for each node, with \
         one limit (max_connections is per node); a hot slot: redis-cli --hotkeys, and reshard",
    )
}

/// How full the fullest of some peers is, and the others.
struct Spread<'a> {
    node: &'a Node,
    seen: &'a Seen,
    worst: f64,
    median: f64,
    others: Vec<&'a Seen>,
}

impl<'a> Spread<'a> {
    fn of(peers: Vec<(&'a Node, &'a Seen)>) -> Option<Self> {
        let mut peers: Vec<_> = peers
            .into_iter()
            .filter_map(|(node, seen)| Some((seen.saturation()?, node, seen)))
            .collect();
        peers.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (worst, node, seen) = peers.pop()?;
        let median = peers.get(peers.len().checked_sub(1)? / 2)?.0;
        let others = peers.into_iter().map(|(_, _, seen)| seen).collect();
        Some(Self { node, seen, worst, median, others })
    }

    /// Those that hold more here than at the others, most first.
    fn holders(&self) -> Vec<String> {
        let more = self.seen.sources.iter().filter_map(|(source, here)| {
            let at = |seen: &&Seen| {
                seen.sources.iter().find(|(it, _)| it == source).map_or(0, |(_, count)| *count)
            };
            let mut there: Vec<usize> = self.others.iter().map(at).collect();
            there.sort_unstable();
            let there = there.get(there.len().checked_sub(1)? / 2).copied()?;
            let more = here.checked_sub(there).filter(|more| *more > 0)?;
            let told =
                format!("{} holds {} there and {}", clean(source), count(*here), count(there));
            Some((more, told))
        });
        let mut more: Vec<_> = more.collect();
        more.sort_by_key(|(more, _)| std::cmp::Reverse(*more));
        let told = more.into_iter().take(NAMED);
        told.map(|(_, told)| format!("{told} at a peer in the median")).collect()
    }
}

/// Have all the same ceiling?
pub(super) fn maxclients(cluster: &Cluster) -> Check {
    let check = Check::new("cluster.maxclients", "the same on every node");
    let told = cluster.nodes.iter().filter_map(|node| Some((node.seen()?.ceiling?, node)));
    let mut told: Vec<(u64, &Node)> = told.collect();
    told.sort_by_key(|(ceiling, _)| *ceiling);
    let (Some((least, node)), Some((most, largest))) = (told.first(), told.last()) else {
        return check.skipped("the nodes do not tell");
    };
    if least == most {
        return check.ok(format!("{} on {}", count(*least), counted(told.len(), "node")));
    }
    let evidence = format!(
        "from {} on {} to {} on {}",
        count(*least),
        node.server,
        count(*most),
        largest.server
    );
    check.with(Level::Warning, evidence).fix(format!(
        "a pool has as many connections to each node: CONFIG SET maxclients {most} on those with less, and \
         `ulimit -n` above it"
    ))
}

/// What do the links of the bus take, and are they up?
pub(super) fn links(cluster: &Cluster) -> Check {
    let check = Check::new("cluster.links", "every node has its link to every other one");
    let tightest = cluster.nodes.iter().filter_map(|node| {
        let seen = node.seen()?;
        Some((ratio(seen.links?, seen.ceiling?), seen.links?, seen.ceiling?, node))
    });
    let taken = tightest.max_by(|one, other| one.0.total_cmp(&other.0));
    let taken = match taken {
        None => "how many there are is not told".to_owned(),
        Some((share, links, ceiling, node)) => format!(
            "they take {} of the {} slots of {} ({}): two for each other node, out of maxclients",
            count(links),
            count(ceiling),
            node.server,
            percent(share)
        ),
    };
    let mut down = Vec::new();
    for node in cluster.nodes.iter().filter(|node| !node.said.is_down()) {
        let Some(word) = node.word() else { continue };
        let gone = word.nodes.iter().flatten().filter(|said| {
            !said.is_linked && !said.is_down() && !said.has("myself") && !said.has("handshake")
        });
        let gone = gone.filter(|said| cluster.by_id(&said.id).is_some_and(|it| !it.said.is_down()));
        down.extend(
            gone.map(|said| format!("{} to {}", node.server, clean(cluster.name(&said.id)))),
        );
    }
    match down.is_empty() {
        true => check.ok(taken),
        false => check.with(Level::Warning, format!("down: {}; {taken}", list(down.iter()))).fix(
            "the bus's port (port + 10000, or cluster-port) has to be open between all nodes; \
             cluster-announce-bus-port where it is another",
        ),
    }
}
