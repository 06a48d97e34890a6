//! What a node is asked.

use std::collections::HashMap;

use redis::{FromRedisValue, Value};

use super::Word;
use super::said::{Endpoint, Said, SlotRange};
use crate::doctor::facts::{Answer, NoAnswer};
use crate::doctor::probe::{Probe, text_of};

/// Asks a node for all that it knows of its cluster.
pub(in crate::doctor) async fn ask(probe: &mut Probe) -> Word {
    let info = text(probe, "INFO").await.map(|text| {
        let fields = text.lines().filter_map(|line| line.trim().split_once(':'));
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<HashMap<_, _>>()
    });
    let nodes = text(probe, "NODES").await;
    let nodes = nodes.map(|text| text.lines().filter_map(Said::parse).collect::<Vec<_>>());
    let slots = cluster::<Vec<Value>>(probe, "SLOTS").await;
    let slots =
        slots.map(|ranges| ranges.into_iter().filter_map(SlotRange::parse).collect::<Vec<_>>());
    let nodes = match (nodes, slots) {
        // CLUSTER NODES knows more, and CLUSTER SLOTS what clients are told: names, or an empty host.
        (Ok(mut nodes), Ok(ranges)) => {
            let endpoints = ranges.into_iter().flat_map(|range| range.nodes);
            let endpoints = endpoints.map(|endpoint| (endpoint.id.clone(), endpoint));
            let mut endpoints: HashMap<_, _> = endpoints.collect();
            for said in &mut nodes {
                if let Some(Endpoint { host, port, .. }) = endpoints.remove(&said.id) {
                    (said.host, said.port) = (host, port);
                }
            }
            Ok(nodes)
        }
        (Ok(nodes), Err(_)) => Ok(nodes),
        (Err(NoAnswer::Denied(_)), Ok(ranges)) => Ok(Said::all_in(&ranges)),
        (Err(why), _) => Err(why),
    };
    Word { nodes, info }
}

async fn text(probe: &mut Probe, word: &str) -> Answer<String> {
    let reply = cluster::<Value>(probe, word).await?;
    text_of(reply).map_err(|error| NoAnswer::of(&error))
}

async fn cluster<T: FromRedisValue>(probe: &mut Probe, word: &str) -> Answer<T> {
    let reply = probe.ask(redis::cmd("CLUSTER").arg(word)).await;
    reply.map_err(|error| NoAnswer::of(&error))
}
