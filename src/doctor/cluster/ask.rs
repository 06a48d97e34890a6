//! What a node is asked.

use std::collections::HashMap;

use redis::{FromRedisValue, RedisError, RedisResult, Value};

use super::said::{Endpoint, Said, SlotRange};
use super::{MOST, Word};
use crate::doctor::facts::NoAnswer;
use crate::doctor::probe::{Probe, Target, text_of};

/// By its INFO.
pub(in crate::doctor) fn is_node(info: &str) -> bool {
    // The second is Valkey's.
    let says = ["redis_mode:cluster", "server_mode:cluster", "cluster_enabled:1"];
    info.lines().any(|line| says.contains(&line.trim()))
}

impl Probe {
    /// The other nodes of the cluster that the server is in, where it announces them, to be reached as
    /// this one was, over `dialed`. The first 128, masters first. `None` of a server in no cluster, as its
    /// last [`observe`](Self::observe) said.
    ///
    /// # Errors
    ///
    /// The server does not answer, or not this.
    pub async fn cluster_nodes(&mut self, dialed: &Target) -> RedisResult<Option<Vec<Target>>> {
        if !self.is_in_cluster {
            return Ok(None);
        }
        let at = dialed.named();
        let mut nodes = nodes(self).await?;
        nodes.retain(|said| !said.has("myself"));
        nodes.sort_by_key(|said| !said.is_master());
        let named = nodes.iter().filter_map(|said| said.at(at.as_ref())).take(MOST);
        Ok(Some(named.map(|at| dialed.at(&at.host, at.port)).collect()))
    }
}

/// Asks a node for all that it knows of its cluster.
pub(in crate::doctor) async fn ask(probe: &mut Probe) -> Word {
    let info = text(probe, "INFO").await.map(|text| {
        let fields = text.lines().filter_map(|line| line.trim().split_once(':'));
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<HashMap<_, _>>()
    });
    let why = |error: RedisError| NoAnswer::of(&error);
    Word { info: info.map_err(why), nodes: nodes(probe).await.map_err(why) }
}

/// CLUSTER NODES knows all of them, and CLUSTER SLOTS what clients are told: names, or an empty host. One
/// of the two will do.
async fn nodes(probe: &mut Probe) -> RedisResult<Vec<Said>> {
    let nodes = text(probe, "NODES").await;
    let slots = cluster::<Vec<Value>>(probe, "SLOTS").await;
    let slots =
        slots.map(|ranges| ranges.into_iter().filter_map(SlotRange::parse).collect::<Vec<_>>());
    let mut nodes: Vec<Said> = match (nodes, &slots) {
        (Ok(text), _) => text.lines().filter_map(Said::parse).collect(),
        (Err(_), Ok(ranges)) => return Ok(Said::all_in(ranges)),
        (Err(error), Err(_)) => return Err(error),
    };
    let endpoints = slots.into_iter().flatten().flat_map(|range| range.nodes);
    let endpoints = endpoints.map(|endpoint| (endpoint.id.clone(), endpoint));
    let mut endpoints: HashMap<_, _> = endpoints.collect();
    for said in &mut nodes {
        if let Some(Endpoint { host, port, .. }) = endpoints.remove(&said.id) {
            (said.host, said.port) = (host, port);
        }
    }
    Ok(nodes)
}

async fn text(probe: &mut Probe, word: &str) -> RedisResult<String> {
    text_of(cluster::<Value>(probe, word).await?)
}

async fn cluster<T: FromRedisValue>(probe: &mut Probe, word: &str) -> RedisResult<T> {
    probe.ask(redis::cmd("CLUSTER").arg(word)).await
}
