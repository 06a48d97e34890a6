//! The question who the nodes of a cluster are: asked of one node at a time, over a connection that is open.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{RedisError, RedisResult, Value};

use super::map::{Range, parse};
use super::{Cluster, Known};
use crate::Rejection;
use crate::dial::Address;
use crate::pool::node::Node;
use crate::pool::warm::warm_up;
use crate::pool::watch::mailbox::PendingReply;
use crate::vocabulary::reply::{is_denied, within};
use crate::vocabulary::words::clean;
use crate::vocabulary::{DialFailure, Outcome};

/// How long one node has to answer before the next is asked beside it; as long as one of a name's addresses
/// has, after RFC 8305.
const PATIENCE: Duration = Duration::from_millis(250);

/// So many of the nodes that are known are asked at most. Where that many do not answer well, the cluster is
/// in trouble, and more questions would not help it.
const MOST_ASKED: usize = 5;

/// How long seeds that are not among the nodes are waited for, to hear whether they belong to another
/// cluster.
const STRANGERS: Duration = Duration::from_millis(500);

/// What a node has told.
pub(super) struct Said {
    pub(super) by: Arc<Node>,
    /// Of the configuration: the higher, the newer.
    pub(super) epoch: u64,
    /// By its own account the cluster works.
    is_ok: bool,
    pub(super) ranges: Vec<Range>,
}

impl Said {
    /// Whether the others need not be asked. `epoch`: the highest that was heard of.
    fn is_good(&self, epoch: u64) -> bool {
        self.is_ok && self.epoch >= epoch && !self.ranges.is_empty()
    }

    fn rank(&self) -> (bool, u64, bool) {
        (!self.ranges.is_empty(), self.epoch, self.is_ok)
    }

    fn has_node_of(&self, other: &Self) -> bool {
        let ids = |said: &Self| -> Vec<String> {
            let nodes = said.ranges.iter().flat_map(|range| &range.nodes);
            nodes.map(|node| node.id.clone()).collect()
        };
        let ours = ids(self);
        ids(other).iter().any(|id| ours.contains(id))
    }
}

impl Cluster {
    /// Asks until one node answers well; of those that do not, the best answer, or why there is none. `None`
    /// if there is no news, for somebody who may know could not be asked right now.
    pub(super) async fn ask(self: &Arc<Self>, epoch: u64) -> Result<Option<Said>, DialFailure> {
        let mut candidates = self.candidates().into_iter().peekable();
        let mut asked = FuturesUnordered::new();
        let mut best: Option<Said> = None;
        let mut failures = Vec::new();
        let mut busy = false;
        loop {
            if let Some(address) = candidates.next() {
                // Only now, for one that the cluster does not name would come and go with each question.
                asked.push(ask(self.member(address)));
            }
            let more = candidates.peek().is_some();
            tokio::select! {
                biased;
                answer = asked.next(), if !asked.is_empty() => match answer {
                    Some(Ok(Some(said))) if said.is_good(epoch) => return Ok(Some(said)),
                    Some(Ok(Some(said)))
                        if best.as_ref().is_none_or(|best| said.rank() > best.rank()) =>
                    {
                        best = Some(said);
                    }
                    Some(Ok(Some(_))) => {}
                    Some(Ok(None)) => busy = true,
                    Some(Err(failure)) => failures.push(failure),
                    None => {}
                },
                () = tokio::time::sleep(PATIENCE), if more => {}
            }
            if asked.is_empty() && !more {
                break;
            }
        }
        match best {
            Some(best) if !best.ranges.is_empty() => Ok(Some(best)),
            _ if busy => Ok(None),
            Some(empty) => Err(misconfigured(&empty.by, "its cluster has no slots yet")),
            None => Err(worst(failures)),
        }
    }

    /// Whom to ask, in this order: who answered last; those that have something open, at random; the others; who
    /// said that the cluster is down; the seeds.
    fn candidates(&self) -> Vec<Address> {
        let mut known = self.primaries();
        fastrand::shuffle(&mut known);
        let Known { by, down, .. } = self.known.borrow().clone();
        known.sort_by_key(|node| {
            let name = Some(node.address());
            (name == down, name != by, node.lock().ledger.live() == 0)
        });
        known.truncate(MOST_ASKED);
        let names: Vec<_> = known.iter().map(|node| node.address()).collect();
        let seeds = self.settings.seeds.iter();
        let others = seeds.filter(|seed| !names.contains(&seed.to_string().into()));
        known.iter().map(|node| node.target().address).chain(others.cloned()).collect()
    }

    /// The first time: whether a seed that is not among the nodes belongs to another cluster.
    pub(super) async fn disagreement(self: &Arc<Self>, said: &Said) -> Option<DialFailure> {
        let named: Vec<_> = said.ranges.iter().flat_map(|range| &range.nodes).collect();
        let named: Vec<_> =
            named.iter().filter_map(|named| self.address(named, &said.by)).collect();
        let named: Vec<String> = named.iter().map(ToString::to_string).collect();
        let seeds = self.settings.seeds.iter();
        let strangers = seeds.filter(|seed| !named.contains(&seed.to_string()));
        let mut asked: FuturesUnordered<_> =
            strangers.map(|seed| ask(self.member(seed.clone()))).collect();
        let disagreement = async {
            while let Some(answer) = asked.next().await {
                if let Ok(Some(other)) = answer
                    && !other.ranges.is_empty()
                    && !other.has_node_of(said)
                {
                    let why = format!("it is of another cluster than {}", said.by.address());
                    return Some(misconfigured(&other.by, &why));
                }
            }
            None
        };
        tokio::time::timeout(STRANGERS, disagreement).await.ok()?
    }
}

/// Asks one node, over a lane or a connection that nobody has; where none is open, one is dialed, which is for
/// the next caller then. `None` where all are lent, and there may be no more.
async fn ask(node: Arc<Node>) -> Result<Option<Said>, DialFailure> {
    let mut questions = redis::pipe();
    questions.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
    let limit = Some(node.settings().response_timeout);
    warm_up(&node, 1).await.map_err(|rejection| refused(&node, &rejection))?;
    let reply = if let Some(carrier) = node.lanes.any() {
        PendingReply::send(&carrier.redis, questions)
    } else if let Some(idle) = node.withdraw_one(|_| true) {
        let reply = PendingReply::send(&idle.redis, questions);
        node.restore(idle);
        reply
    } else {
        return Ok(None);
    };
    let replies = within(limit, reply.answer()).await;
    let (slots, info) = answers(replies).map_err(|error| unanswered(&node, &error))?;
    let ranges = parse(slots).map_err(|problem| misconfigured(&node, problem))?;
    let info: String = redis::from_redis_value(info).unwrap_or_default();
    let line =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    // Who may not ask for it, or is not told, believes the node.
    let is_ok = line("cluster_state").is_none_or(|state| state.trim() == "ok");
    let epoch = line("cluster_current_epoch").and_then(|epoch| epoch.trim().parse().ok());
    Ok(Some(Said { by: node, epoch: epoch.unwrap_or(u64::MAX), is_ok, ranges }))
}

/// An error only of the first one's.
fn answers(replies: RedisResult<Vec<Value>>) -> RedisResult<(Value, Value)> {
    let mut replies = replies?.into_iter();
    let slots = replies.next().unwrap_or(Value::Nil).extract_error()?;
    Ok((slots, replies.next().unwrap_or(Value::Nil)))
}

fn refused(node: &Node, rejection: &Rejection) -> DialFailure {
    match rejection.failure() {
        Some(failure) => DialFailure::clone(failure),
        None => {
            let message = rejection.to_string();
            DialFailure { server: node.address(), outcome: Outcome::Timeout, message }
        }
    }
}

fn unanswered(node: &Node, error: &RedisError) -> DialFailure {
    let words = clean(&error.to_string());
    if is_denied(error) {
        let why = format!("its user may not ask who the nodes are (CLUSTER SLOTS): {words}");
        return misconfigured(node, &why);
    }
    if error.code().is_some() {
        let why = format!("it is no node of a cluster: {words}");
        return misconfigured(node, &why);
    }
    let outcome = if error.is_timeout() { Outcome::Timeout } else { Outcome::Other };
    let message = format!("it did not say who the nodes of the cluster are: {words}");
    DialFailure { server: node.address(), outcome, message }
}

pub(super) fn misconfigured(node: &Node, why: &str) -> DialFailure {
    let (server, outcome) = (node.address(), Outcome::Misconfigured);
    DialFailure { server, outcome, message: why.to_owned() }
}

/// The failure that says most: what somebody has to mend, if there is such a one.
fn worst(failures: Vec<DialFailure>) -> DialFailure {
    let others = failures.len().saturating_sub(1);
    let permanent = failures.iter().position(|failure| failure.outcome.is_permanent());
    let mut failures = failures;
    let mut worst = match failures.is_empty() {
        false => failures.swap_remove(permanent.unwrap_or(0)),
        true => DialFailure::new("cluster", Outcome::Misconfigured, "there is nobody to ask"),
    };
    if others > 0 {
        worst.message.push_str(&format!("; nor did {others} other nodes say who the nodes are"));
    }
    worst
}
