//! From the URL of one node to all nodes of its cluster.

use std::collections::HashSet;

use super::{Cluster, Node, Said, Seen, Word};
use crate::doctor::examine::{Examined, at_most, dial};
use crate::doctor::facts::Missed;
use crate::doctor::{Options, Target};
use crate::sentinel::Named;

/// How many nodes are examined at a time.
const AT_ONCE: usize = 32;

/// How many nodes of a cluster are examined, masters first.
pub(in crate::doctor) const MOST: usize = 128;

/// A cluster, and those of its nodes that no URL names.
pub(in crate::doctor) struct Group {
    /// The URL that led there.
    pub(in crate::doctor) led_by: usize,
    pub(in crate::doctor) cluster: Cluster,
    pub(in crate::doctor) found: Vec<Examined>,
}

/// A server that a URL names, and who it is.
struct Url<'a> {
    examined: &'a Examined,
    word: Option<Word>,
    id: Option<String>,
}

/// A node that the one of the URL knows.
struct Known {
    said: Said,
    at: Option<Named>,
    /// The URL that names it too.
    url: Option<usize>,
}

/// What came of it.
enum Looked {
    /// A URL led there; who answers where it is announced, if that is another address.
    Before(Option<Result<Option<String>, Missed>>),
    Now(Box<Examined>),
    Not,
}

/// The clusters that these are nodes of, each once. Nodes that no URL names are examined, reached as the
/// one that named them was.
pub(in crate::doctor) async fn follow(
    urls: &mut [Option<Examined>],
    options: &Options,
) -> Vec<Group> {
    let mut words = Vec::new();
    for url in urls.iter_mut() {
        let facts = url.as_mut().and_then(|url| url.facts.as_mut());
        words.push(facts.and_then(|facts| facts.cluster.take()));
    }
    let mut urls: Vec<Option<Url<'_>>> = urls
        .iter()
        .zip(words)
        .map(|(examined, word)| {
            let id = word.as_ref().and_then(|word| Some(word.own()?.id.clone()));
            Some(Url { examined: examined.as_ref()?, word, id })
        })
        .collect();
    let mut led_here = HashSet::new();
    let mut groups = Vec::new();
    for led_by in 0..urls.len() {
        let Some(url) = &urls[led_by] else { continue };
        let Some(word) = &url.word else { continue };
        if url.id.as_ref().is_some_and(|id| led_here.contains(id)) {
            continue;
        }
        let refused = word.nodes.as_ref().err().cloned();
        let (by, here) = (url.examined, url.examined.is_here());
        let known = known(&urls, by, word);
        led_here.extend(known.iter().map(|known| known.said.id.clone()));
        let looks = known.iter().enumerate().map(|(nth, known)| {
            let of_url = known.url.and_then(|url| urls[url].as_ref());
            look_at(known, of_url.map(|url| url.examined), &by.target, options, nth < MOST)
        });
        let looked = Box::pin(at_most(AT_ONCE, looks)).await;
        let mut group = Group {
            led_by,
            cluster: Cluster { nodes: Vec::new(), refused, here },
            found: Vec::new(),
        };
        for (known, looked) in known.into_iter().zip(looked) {
            let url = known.url.and_then(|url| urls[url].as_mut());
            group.add(known, url, looked);
        }
        groups.push(group);
    }
    groups
}

/// All that it knows, itself first, then masters.
fn known(urls: &[Option<Url<'_>>], by: &Examined, word: &Word) -> Vec<Known> {
    let dialed = by.target.named();
    let nodes = word.nodes.iter().flatten().map(|said| {
        let at = said.at(dialed.as_ref());
        let names_it = |url: &Url<'_>| match &url.id {
            Some(id) => *id == said.id,
            // It told nothing, or did not let us in.
            None => at.is_some() && url.examined.target.named() == at,
        };
        let url = urls.iter().position(|url| url.as_ref().is_some_and(names_it));
        Known { said: said.clone(), at, url }
    });
    let mut nodes: Vec<Known> = nodes.collect();
    nodes.sort_by_key(|it| (!it.said.has("myself"), !it.said.is_master(), it.at.clone()));
    nodes
}

async fn look_at(
    known: &Known,
    url: Option<&Examined>,
    by: &Target,
    options: &Options,
    is_wanted: bool,
) -> Looked {
    let target = known.at.as_ref().map(|at| by.at(&at.host, at.port));
    match (url, target) {
        (Some(url), Some(target)) if url.facts.is_some() && url.target.named() != known.at => {
            Looked::Before(Some(who(&target).await))
        }
        (Some(_), _) => Looked::Before(None),
        (None, Some(target)) if is_wanted => {
            Looked::Now(Box::new(Box::pin(Examined::new(target, options)).await))
        }
        _ => Looked::Not,
    }
}

/// The id of the node that answers there; `None` where it tells none.
async fn who(target: &Target) -> Result<Option<String>, Missed> {
    let mut probe = dial(target).await?;
    Ok(probe.ask(redis::cmd("CLUSTER").arg("MYID")).await.ok())
}

impl Group {
    fn add(&mut self, known: Known, url: Option<&mut Url<'_>>, looked: Looked) {
        let Known { said, at, .. } = known;
        let server = at.as_ref().map_or_else(|| said.id.clone(), Named::to_string);
        let mut node = Node { said, at, server, seen: None, announced: None };
        match (url, looked) {
            (Some(url), Looked::Before(announced)) => {
                node.server = url.examined.target.server().to_owned();
                node.seen = Some(see(url.examined, url.word.take()));
                node.announced = announced;
            }
            (_, Looked::Now(mut examined)) => {
                let word = examined.facts.as_mut().and_then(|facts| facts.cluster.take());
                node.server = examined.target.server().to_owned();
                node.seen = Some(see(&examined, word));
                self.found.push(*examined);
            }
            _ => {}
        }
        self.cluster.nodes.push(node);
    }
}

fn see(examined: &Examined, word: Option<Word>) -> Result<Seen, Missed> {
    let Some(facts) = &examined.facts else {
        let connected = examined.dials.trace.connected.is_some();
        let failure = examined.dials.failure.clone();
        return failure
            .map_or_else(|| Ok(Seen::default()), |failure| Err(Missed { failure, connected }));
    };
    Ok(Seen::of(word, facts.info.as_ref().ok(), facts.holders.as_ref().ok()))
}
