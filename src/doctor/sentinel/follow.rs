//! From a sentinel's URL to the master, its replicas, and the other sentinels.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::time::timeout;

use super::ask::ask_peer;
use super::{Instance, Look, Master, Named, Peer, PeerWord, Set, Slots};
use crate::doctor::examine::{Examined, at_most, dial};
use crate::doctor::facts::{Answer, Info, Missed, NoAnswer};
use crate::doctor::{Options, Probe, Target};

/// How many masters, or servers of one master, are looked at at a time.
const AT_ONCE: usize = 16;

/// How many replicas, and sentinels, of a master are looked at: more than that is garbage.
const MOST: usize = 64;

/// The masters that the sentinels among these watch, each once, examined over targets like `servers`;
/// and what belongs to each.
pub(in crate::doctor) async fn follow(
    urls: impl IntoIterator<Item = &Examined>,
    servers: &Target,
    options: &Options,
) -> Vec<(Set, Examined)> {
    // By sentinel and name.
    let mut led_here = HashSet::new();
    let mut followed = Vec::new();
    for url in urls {
        let Some(word) = url.facts.as_ref().and_then(|facts| facts.sentinel.as_ref()) else {
            continue;
        };
        let own = word.id.as_deref().unwrap_or(url.target.server());
        let is_new = |master: &&Master| !led_here.contains(&(own.to_owned(), master.name.clone()));
        let masters: Vec<&Master> = word.masters.iter().filter(is_new).collect();
        for master in &masters {
            for (named, said) in listed(&master.sentinels) {
                let ids = said.field("runid").into_iter().chain([named.to_string()]);
                led_here.extend(ids.map(|id: String| (id, master.name.clone())));
            }
            for id in [own, url.target.server()] {
                led_here.insert((id.to_owned(), master.name.clone()));
            }
        }
        followed.push(of_url(url, masters, servers, options));
    }
    join_all(followed).await.into_iter().flatten().collect()
}

async fn of_url(
    url: &Examined,
    masters: Vec<&Master>,
    servers: &Target,
    options: &Options,
) -> Vec<(Set, Examined)> {
    let mut asked = ask_peers(&url.target, &masters).await;
    let sets: Vec<_> = masters
        .into_iter()
        .map(|master| {
            let sentinels = peers(url, master, &mut asked);
            Box::pin(look_at(url, master, sentinels, servers, options))
        })
        .collect();
    at_most(AT_ONCE, sets).await
}

type Asked = HashMap<Named, Result<HashMap<String, PeerWord>, Missed>>;

/// What the other sentinels say. Each is dialed once, for all masters that it watches.
async fn ask_peers(url: &Target, masters: &[&Master]) -> Asked {
    let mut names = HashMap::<Named, BTreeSet<String>>::new();
    for master in masters {
        for (named, _) in listed(&master.sentinels) {
            names.entry(named).or_default().insert(master.name.clone());
        }
    }
    let asked = names.into_iter().map(|(named, names)| async move {
        let words = match dial(&url.at(&named.host, named.port)).await {
            Ok(mut probe) => Ok(ask_peer(&mut probe, names).await),
            Err(missed) => Err(missed),
        };
        (named, words)
    });
    at_most(AT_ONCE, asked).await.into_iter().collect()
}

/// The sentinels of a master, the one of the URL first.
fn peers(url: &Examined, master: &Master, asked: &mut Asked) -> Vec<Peer> {
    let info = url.facts.as_ref().map(|facts| facts.info.as_ref().map(Slots::of));
    let slots = info.unwrap_or(Err(&NoAnswer::NotAsked)).map_err(NoAnswer::clone);
    let own = PeerWord { view: master.view.clone(), slots };
    let mut peers =
        vec![Peer { server: url.target.server().to_owned(), named: None, word: Ok(own) }];
    for (named, said) in listed(&master.sentinels) {
        let word = match asked.get_mut(&named) {
            Some(Ok(words)) => words.remove(&master.name).map(Ok),
            Some(Err(missed)) => Some(Err(missed.clone())),
            None => None,
        };
        let server = named.to_string();
        peers.extend(word.map(|word| Peer { server, named: Some((named, said)), word }));
    }
    peers
}

/// Examines a master, and looks at its replicas, and at what others take for the master.
async fn look_at(
    url: &Examined,
    master: &Master,
    sentinels: Vec<Peer>,
    servers: &Target,
    options: &Options,
) -> (Set, Examined) {
    let at = match &master.view.address {
        Ok(Some(named)) => named.clone(),
        _ => master.listed.clone(),
    };
    let mut set = Set {
        name: master.name.clone(),
        at,
        sentinels,
        replicas: Err(NoAnswer::NotAsked),
        others: Vec::new(),
        resolved: HashMap::new(),
        here: url.is_here(),
    };
    let named: BTreeSet<Named> =
        set.views().filter_map(|(_, view)| view.address.clone().ok()?).collect();
    let replicas = listed(&master.replicas);
    if named.iter().any(|named| *named != set.at) {
        let all = named.iter().chain(replicas.iter().map(|(named, _)| named)).chain([&set.at]);
        set.resolved = resolve(all.cloned().collect(), servers.location().timeout).await;
    }
    let others = named.into_iter().filter(|named| {
        !set.same(named, &set.at) && !replicas.iter().any(|(it, _)| set.same(it, named))
    });
    let others: Vec<_> = others.map(|named| look(servers, named, None)).collect();
    let looks = replicas.into_iter().map(|(named, said)| look(servers, named, Some(said)));
    let examined = Examined::new(servers.at(&set.at.host, set.at.port), options);
    let looked = join(Box::pin(at_most(AT_ONCE, looks)), Box::pin(at_most(AT_ONCE, others)));
    let (examined, (replicas, others)) = join(Box::pin(examined), looked).await;
    set.replicas = master.replicas.as_ref().map(|_| replicas).map_err(NoAnswer::clone);
    set.others = others;
    (set, examined)
}

async fn look(servers: &Target, at: Named, said: Option<Instance>) -> Look {
    let info = match dial(&servers.at(&at.host, at.port)).await {
        Ok(mut probe) => Ok(ask_info(&mut probe).await),
        Err(missed) => Err(missed),
    };
    Look { at, said, info }
}

async fn ask_info(probe: &mut Probe) -> Answer<Info> {
    let text = probe.info().await.map_err(|error| NoAnswer::of(&error))?;
    let seen = probe.observe_in(&text);
    Ok(Info::new(&text, seen, None))
}

/// Those with an address, each once.
fn listed(instances: &Answer<Vec<Instance>>) -> Vec<(Named, Instance)> {
    let mut seen = HashSet::new();
    let instances = instances.iter().flatten();
    let named = instances.filter_map(|instance| Some((instance.address()?, instance.clone())));
    named.filter(|(named, _)| seen.insert(named.clone())).take(MOST).collect()
}

/// The addresses of those that are names, as far as they have one.
async fn resolve(all: BTreeSet<Named>, limit: Duration) -> HashMap<Named, Named> {
    let names = all.into_iter().filter(|named| named.host.parse::<IpAddr>().is_err());
    let resolved = names.map(|named| async move {
        let lookup = tokio::net::lookup_host((named.host.as_str(), named.port));
        let first = timeout(limit, lookup).await.ok()?.ok()?.min()?;
        let place = Named { host: first.ip().to_string(), port: first.port() };
        Some((named, place))
    });
    at_most(AT_ONCE, resolved).await.into_iter().flatten().collect()
}
