//! A cluster: its nodes, each with a guard of its own, and which of them serves which slot.
//!
//! The routing is ours. redis-rs's could be had through a hidden door
//! (`ClusterClient::get_async_generic_connection`), but it takes no pipeline of several nodes, tries sixteen
//! times with pauses between, asks for the topology by connections that it wants for itself, and its hook is
//! static, so that two pools of one cluster cannot be told apart; what it makes public of its routing is
//! without the numbers of the slots.

mod ask;
mod carrier;
pub(super) mod keeper;
mod map;
mod members;
mod pieces;
mod publish;
pub(super) mod router;
mod told;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::map::{Map, Part};
use self::members::{KnownNode, Members};
use super::context::Context;
use super::factory::NodeFactory;
use super::latest;
use super::node::Node;
use super::tasks::{Runtime, Task};
use super::topology::member::{Member, Membership};
use super::topology::place::Place;
use super::topology::settings::Names;
use crate::dial::{Address, Target};
use crate::policy::ReplicaReads;
use crate::server::Server;
use crate::server::gate::{Forced, Overridable};
use crate::telemetry::status::{ClusterStatus, NodeStatus, Status};
use crate::vocabulary::DialFailure;
use crate::vocabulary::Phase;
use crate::{BreakerState, Endpoint, Error, Rejection};

/// So many redirections of one command are followed, as by redis-cli, Jedis and Lettuce. A slot that is moved
/// takes two: one to its new node, and one back if that is undone.
pub(super) const HOPS: usize = 5;

/// Where the nodes of a cluster are, and how they are spoken to.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) seeds: Vec<Address>,
    pub(super) names: Names,
    pub(super) replica_reads: ReplicaReads,
    pub(super) own_gate: bool,
    pub(super) seed: u64,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) context: Arc<Context>,
    factory: NodeFactory,
    settings: Settings,
    map: ArcSwap<Map>,
    /// By address. A leaf lock, but for the nodes' own, which are taken under it.
    members: Mutex<Members>,
    /// Held by those who change something at every node, so that all of them end up with the same. Before
    /// `members`.
    changing: Mutex<()>,
    /// What came of the questions so far.
    known: latest::Sender<Known>,
    /// Somebody needs to know who the nodes are.
    wanted: Arc<Notify>,
    closed: latest::Sender<bool>,
    keeper_runs: AtomicBool,
    keeper: fn(Arc<Cluster>) -> Task,
    runtime: Runtime,
    /// How often the nodes or their slots have changed.
    changes: AtomicU64,
    /// What was counted at nodes that have left.
    departed: Mutex<Option<Status>>,
    status: fn(&Node) -> Status,
}

/// Where something is sent.
#[derive(Clone)]
pub(super) struct Aim {
    node: Arc<Node>,
    /// The node does not serve the slot yet, and is to answer all the same (ASKING).
    asking: bool,
}

/// What came of the questions who the nodes are.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// When it was last told.
    pub(super) at: Option<Instant>,
    /// Who told it: the first to be asked again, for a node that stands still keeps the question waiting.
    by: Option<Arc<str>>,
    /// Who has said since that the cluster is down, which may be a node that is cut off from all others: the
    /// last to be asked.
    down: Option<Arc<str>>,
    /// The highest epoch of the cluster that was heard of.
    epoch: u64,
    /// Why it cannot be told, if so.
    pub(super) trouble: Option<Arc<DialFailure>>,
    /// When it is asked next.
    next: Option<Instant>,
}

impl Cluster {
    /// `keeper` and `status` stand above the cluster: its task, and what there is to tell of a node.
    pub(super) fn new(
        factory: NodeFactory,
        settings: Settings,
        keeper: fn(Arc<Self>) -> Task,
        status: fn(&Node) -> Status,
    ) -> Self {
        let context = Arc::clone(&factory.context);
        Self {
            map: ArcSwap::from_pointee(Map::empty()),
            members: Mutex::new(Members::default()),
            changing: Mutex::new(()),
            known: latest::Sender::new(Known::default()),
            wanted: Arc::new(Notify::new()),
            closed: latest::Sender::new(false),
            keeper_runs: AtomicBool::new(false),
            keeper,
            runtime: Runtime::new(context.settings.runtime.clone()),
            changes: AtomicU64::new(0),
            departed: Mutex::new(None),
            status,
            context,
            factory,
            settings,
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every node that has not left, those included that the cluster does not name.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.members().nodes.values().map(|known| Arc::clone(&known.node)).collect()
    }

    /// The same, and those that have left and are not empty yet, as far as that is known.
    pub(super) fn nodes_in_use(&self) -> Vec<Arc<Node>> {
        let members = self.members();
        let nodes = members.nodes.values().map(|known| Arc::clone(&known.node));
        nodes.chain(members.left.iter().map(Arc::clone)).collect()
    }

    /// The nodes that the cluster names and the pool uses.
    pub(super) fn named(&self) -> Vec<Arc<Node>> {
        self.map.load().nodes().map(Arc::clone).collect()
    }

    /// The same, and those that a redirection has led to, as one that has no slot yet.
    pub(super) fn reached(&self) -> Vec<Arc<Node>> {
        let (mut nodes, all) = (self.named(), self.nodes());
        let is_new = |node: &&Arc<Node>| {
            !nodes.iter().any(|named| Arc::ptr_eq(named, node)) && node.lock().ledger.live() > 0
        };
        let new: Vec<_> = all.iter().filter(is_new).map(Arc::clone).collect();
        nodes.extend(new);
        nodes
    }

    /// A node that is there in any case.
    pub(super) fn first(self: &Arc<Self>) -> Arc<Node> {
        let first = self.map.load().primaries().next().map(Arc::clone);
        first.unwrap_or_else(|| self.member(self.settings.seeds[0].clone()))
    }

    /// What each node is in the cluster that it names and the pool uses.
    pub(super) fn roles(&self) -> Vec<Part> {
        self.map.load().roles()
    }

    /// What was counted at nodes that have left.
    pub(super) fn departed(&self) -> Option<Status> {
        self.departed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What there is to tell of it as a whole.
    pub(super) fn status(&self, nodes: Vec<NodeStatus>, now: Instant) -> ClusterStatus {
        let known = self.known.borrow();
        ClusterStatus {
            nodes,
            unserved_slots: self.map.load().unserved(),
            age: known.at.map(|at| now.saturating_duration_since(at)),
            changes: self.changes.load(Ordering::Relaxed),
            trouble: known.trouble.as_ref().map(ToString::to_string),
        }
    }
}

/// Where commands of a slot go.
impl Cluster {
    /// Completes once it is known who the nodes are.
    pub(super) async fn ready(self: &Arc<Self>) -> Result<(), Rejection> {
        match self.map.load().is_empty() {
            false => Ok(()),
            true => Box::pin(self.first_told()).await,
        }
    }

    /// As [`ready`](Self::ready), for those who do not wait.
    pub(super) fn is_ready(self: &Arc<Self>) -> Result<(), Rejection> {
        if !self.map.load().is_empty() {
            return Ok(());
        }
        self.want();
        let failure = self.known.borrow().trouble.clone();
        Err(Rejection::AcquireTimeout { waited: Duration::ZERO, phase: Phase::Dial, failure })
    }

    /// Whether a caller without keys so far may hope to be served; refused, it is counted.
    pub(super) fn admit(self: &Arc<Self>, endpoint: &Endpoint) -> Result<(), Rejection> {
        let Some(rejection) = self.refusal() else { return Ok(()) };
        let node = self.first();
        let account = node.lock().ledger.account(endpoint);
        Err(node.reject(account, rejection))
    }

    /// Waits, for the acquire timeout at most, until the nodes have told who they are.
    async fn first_told(self: &Arc<Self>) -> Result<(), Rejection> {
        let since = Instant::now();
        let mut known = self.known.subscribe();
        let mut last = known.borrow_and_update().clone();
        loop {
            if self.is_closed() {
                return Err(Rejection::Closed);
            }
            if !self.map.load().is_empty() {
                return Ok(());
            }
            if let Some(rejection) = last.refusal() {
                return Err(rejection);
            }
            self.want();
            let timeout = self.context.settings.acquire_timeout;
            match tokio::time::timeout_at(since + timeout, known.changed()).await {
                Ok(Ok(())) => last = known.borrow_and_update().clone(),
                Ok(Err(_)) => return Err(Rejection::Closed),
                Err(_) => {
                    let failure = last.trouble;
                    return Err(Rejection::AcquireTimeout {
                        waited: timeout,
                        phase: Phase::Dial,
                        failure,
                    });
                }
            }
        }
    }

    /// The cluster is to be asked who its nodes are.
    pub(super) fn want(self: &Arc<Self>) {
        self.wanted.notify_one();
        self.start_keeper();
    }

    /// Its runtime may have ended.
    fn start_keeper(self: &Arc<Self>) {
        if !self.keeper_runs.load(Ordering::Relaxed)
            && !self.is_closed()
            && !self.keeper_runs.swap(true, Ordering::AcqRel)
            && !self.runtime.spawn((self.keeper)(Arc::clone(self)))
        {
            self.keeper_runs.store(false, Ordering::Release);
        }
    }

    /// The node for commands with keys of this slot. `reads`: that change nothing.
    pub(super) fn node_of(self: &Arc<Self>, slot: u16, reads: bool) -> Result<Arc<Node>, Error> {
        let map = self.map.load();
        let Some(shard) = map.shard(slot) else {
            self.want();
            return Err(unserved(slot));
        };
        self.start_keeper();
        let node = match (self.settings.replica_reads, reads) {
            (ReplicaReads::Off, _) | (_, false) => &shard.primary,
            (ReplicaReads::Prefer, true) => shard.replica(is_fit).unwrap_or(&shard.primary),
            (ReplicaReads::Only, true) => match shard.replica(is_fit).or(shard.replicas.first()) {
                Some(replica) => replica,
                None => return Err(no_replica(slot)),
            },
        };
        Ok(Arc::clone(node))
    }

    /// Whether a slot is that node's, by what was told last.
    pub(super) fn serves(&self, slot: u16, node: &Arc<Node>) -> bool {
        self.map.load().serves(slot, node)
    }

    /// A primary at random, for what any node can do; one that serves, if there is one.
    pub(super) fn any(self: &Arc<Self>) -> Result<Arc<Node>, Error> {
        self.start_keeper();
        let map = self.map.load();
        let mut primaries: Vec<_> = map.primaries().collect();
        fastrand::shuffle(&mut primaries);
        // What is open costs nothing.
        primaries.sort_by_key(|node| (!is_fit(node), node.lock().ledger.live() == 0));
        let first = primaries.first().map(|node| Arc::clone(node));
        first.ok_or_else(|| Rejection::Closed.into())
    }

    /// Whether replicas may be sent reads.
    pub(super) fn reads_replicas(&self) -> bool {
        self.settings.replica_reads != ReplicaReads::Off
    }

    /// Whether reads are to go to replicas, and a primary has none.
    fn lacks_replicas(&self) -> bool {
        self.reads_replicas() && self.map.load().lacks_replicas()
    }

    /// Whether what a node of the slot's refuses may go to the primary instead.
    pub(super) fn may_fall_back(&self, slot: u16, node: &Arc<Node>) -> bool {
        self.settings.replica_reads == ReplicaReads::Prefer && !self.serves(slot, node)
    }

    pub(super) fn primaries(&self) -> Vec<Arc<Node>> {
        self.map.load().primaries().map(Arc::clone).collect()
    }

    /// The node at that address, for whoever is about to use it.
    fn member(self: &Arc<Self>, address: Address) -> Arc<Node> {
        let name: Arc<str> = address.to_string().into();
        if let Some(node) = self.members().at(&name) {
            return node;
        }
        let _changing = self.changing();
        let mut members = self.members();
        if let Some(node) = members.at(&name) {
            return node;
        }
        let seed = name
            .bytes()
            .fold(self.settings.seed, |seed, byte| seed.rotate_left(5) ^ u64::from(byte));
        let server = match self.settings.own_gate {
            true => Server::alone(&name, seed),
            false => Server::shared(&address, seed),
        };
        let place = Arc::new(Place::new(Target::new(address), server));
        let (membership, doubted) = (Arc::new(Membership::default()), Arc::clone(&self.wanted));
        let resolver =
            Member { place: Arc::clone(&place), membership: Arc::clone(&membership), doubted };
        let node = self.factory.node(place, Box::new(resolver), seed);
        if members.closed {
            node.shut();
        }
        // Not named yet, wherever it comes from.
        let unnamed = Some(Instant::now());
        members.nodes.insert(name, KnownNode { node: Arc::clone(&node), membership, unnamed });
        let forced = members.forced;
        drop(members);
        if forced.is_some() {
            Arc::clone(&node).force(forced);
        }
        node
    }
}

/// Whether a node can be expected to serve. Looked at for each command, so it takes no lock of the node's.
fn is_fit(node: &Node) -> bool {
    node.server().state() == BreakerState::Closed || node.lanes.any().is_some()
}

fn unserved(slot: u16) -> Error {
    let kind = ErrorKind::Server(ServerErrorKind::ClusterDown);
    let why = format!("no node serves the slot {slot}, by what the cluster told last");
    RedisError::from((kind, "slot not served", why)).into()
}

fn no_replica(slot: u16) -> Error {
    let why = format!("the pool reads from replicas only, and none serves the slot {slot}");
    RedisError::from((ErrorKind::Client, "no replica", why)).into()
}

impl Known {
    /// Why nobody can be served before the next question, if so.
    fn refusal(&self) -> Option<Rejection> {
        let failure = self.trouble.clone()?;
        let retry_after = self.next?.checked_duration_since(Instant::now())?;
        Some(Rejection::ConnectFailed { failure, retry_after })
    }
}

/// The pool as a whole.
impl Cluster {
    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Completes when the pool is closed.
    pub(super) async fn closed(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Refuses everybody from now on, and closes what is idle. Leases stay valid.
    pub(super) fn shut(&self) {
        self.members().closed = true;
        self.closed.send_replace(true);
        self.nodes().iter().for_each(Node::shut);
        self.known.send_modify(|_| ());
    }

    /// Logs in with other credentials from now on, at every node.
    pub(super) fn set_credentials(&self, username: Option<&str>, password: &str) {
        let _changing = self.changing();
        // First, for the nodes that are yet to come.
        self.factory.dialer.set_credentials(username, password);
        self.nodes().iter().for_each(|node| node.set_credentials(username, password));
        self.wanted.notify_one();
    }

    /// Why a caller would be refused whatever its keys are, if that is so.
    pub(super) fn refusal(self: &Arc<Self>) -> Option<Rejection> {
        if self.is_closed() {
            return Some(Rejection::Closed);
        }
        let primaries = self.primaries();
        if primaries.is_empty() {
            self.want();
            return self.known.borrow().refusal();
        }
        let refusals = primaries.iter().map(|node| node.lock().refusal());
        let all = refusals.collect::<Option<Vec<_>>>()?;
        primaries.iter().for_each(|node| node.change(|state| state.ledger.request_dial()));
        all.into_iter().min_by_key(Rejection::retry_after)
    }
}

impl Overridable for Cluster {
    fn breaker_state(&self) -> BreakerState {
        let states = self.nodes().into_iter().map(|node| node.breaker_state());
        let severity = |state: &BreakerState| match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        states.max_by_key(severity).unwrap_or_default()
    }

    fn force(self: Arc<Self>, forced: Option<Forced>) {
        let _changing = self.changing();
        self.members().forced = forced;
        self.nodes().into_iter().for_each(|node| node.force(forced));
        self.wanted.notify_one();
    }
}
