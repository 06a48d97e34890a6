//! What the nodes tell: who they are, which slots are whose, and where a command is to go instead.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::Instant;

use super::map::{Map, Named, Range, Shard};
use super::{Aim, Cluster};
use crate::dial::Address;
use crate::fleet::registry_keys;
use crate::pool::node::Node;
use crate::vocabulary::routing::slot;

/// How long a node that the cluster does not name any more is kept. One that comes back, as a replica whose
/// link was down does, is the same one then, with what is still open to it.
const LEAVES_AFTER: Duration = Duration::from_secs(5);

/// So many names are tried until one is in a slot of a node's: of the fewest that it may have, one in 16,384.
const MOST_NAMES: u32 = 1 << 18;

/// Where a command is to go instead.
impl Cluster {
    /// Where an error says that a command is to go. What it says of a slot is known from then on, and all of it
    /// is asked for.
    #[cold]
    pub(in crate::pool) fn redirected(
        self: &Arc<Self>,
        asked: &Node,
        error: &RedisError,
    ) -> Option<Aim> {
        let errors = error.clone().into_server_errors()?;
        errors.iter().find_map(|(_, error)| {
            let error = RedisError::from(error.clone());
            let asking = match error.kind() {
                ErrorKind::Server(ServerErrorKind::Moved) => {
                    // Also where what it names cannot be used.
                    self.want();
                    false
                }
                ErrorKind::Server(ServerErrorKind::Ask) => true,
                ErrorKind::Server(ServerErrorKind::ClusterDown) => {
                    self.known.send_if_modified(|known| {
                        known.down = Some(asked.address());
                        // Nobody waits for that.
                        false
                    });
                    self.want();
                    return None;
                }
                _ => return None,
            };
            let (address, slot) = error.redirect_node()?;
            let (host, port) = address.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let node = self.named_by(asked, host, port.parse().ok()?)?;
            if !asking {
                self.moved(slot, &node);
            }
            Some(Aim { node, asking })
        })
    }

    /// A node has said that a slot is another one's.
    pub(super) fn moved(&self, slot: u16, node: &Arc<Node>) {
        if !self.serves(slot, node) {
            self.map.rcu(|map| map.with(slot, node));
        }
    }

    /// The node that another one names, which may be news.
    pub(super) fn named_by(
        self: &Arc<Self>,
        asked: &Node,
        host: &str,
        port: u16,
    ) -> Option<Arc<Node>> {
        let host = Some(host).filter(|host| !host.is_empty()).map(str::to_owned);
        let address = self.address(&Named { host, port, id: String::new() }, asked)?;
        Some(self.member(address))
    }

    /// Where to dial a node that another one has announced.
    pub(super) fn address(&self, named: &Named, asked: &Node) -> Option<Address> {
        let asked = asked.target().address;
        // "?": it is to have a host name, and nobody has told which.
        let host = named.host.as_deref().or_else(|| asked.host()).filter(|host| *host != "?")?;
        let names = &self.settings.names;
        let full = names.get(&crate::vocabulary::words::host_and_port(host, named.port));
        let (host, port) = match full.or_else(|| names.get(host)) {
            Some((host, port)) => (&**host, port.unwrap_or(named.port)),
            None => (host, named.port),
        };
        (port != 0).then(|| asked.at(host, port))
    }
}

/// What the nodes tell.
impl Cluster {
    /// Takes in what a node has told; whether that is a change.
    pub(super) fn take(self: &Arc<Self>, asked: &Node, ranges: &[Range]) -> bool {
        let mut shards: BTreeMap<Arc<str>, (Shard, Vec<_>)> = BTreeMap::new();
        for Range { first, last, nodes } in ranges {
            let mut nodes = nodes.iter().map(|named| self.address(named, asked));
            let Some(primary) = nodes.next().flatten() else { continue };
            let primary = self.member(primary);
            let shard = shards.entry(primary.address()).or_insert_with(|| {
                let replicas =
                    nodes.flatten().filter(|_| self.reads_replicas()).map(|at| self.member(at));
                (Shard::new(primary, replicas.collect()), Vec::new())
            });
            shard.1.push((*first, *last));
        }
        let map = Map::new(shards.into_values().collect());
        let changed = !map.is_like(&self.map.load());
        if changed {
            self.changes.fetch_add(1, Ordering::Relaxed);
            self.assign_registries(&map);
            self.map.store(Arc::new(map));
        }
        self.let_go();
        changed
    }

    /// Says which registry of the fleet is whose: each node's is in a slot of its own.
    pub(super) fn assign_registries(&self, map: &Map) {
        let Some(fleet) = &self.context.settings.fleet else { return };
        // Whoever knows the same slots finds the same names: each node's is the first in a slot of its own.
        let mut names: HashMap<*const Node, Arc<String>> = HashMap::new();
        let serving = map.serving();
        for number in 0..MOST_NAMES {
            if names.len() == serving {
                break;
            }
            let name = format!("{}#{number}", fleet.name());
            let [key, ..] = registry_keys(&name);
            if let Some(shard) = map.shard(slot(key.as_bytes())) {
                names.entry(Arc::as_ptr(&shard.primary)).or_insert_with(|| Arc::new(name));
            }
        }
        for known in self.members().nodes.values() {
            known.membership.registry.store(names.remove(&Arc::as_ptr(&known.node)));
        }
    }

    /// Lets those nodes go that the cluster has not named for a while.
    pub(super) fn let_go(self: &Arc<Self>) {
        let now = Instant::now();
        let mut left = Vec::new();
        {
            let mut members = self.members();
            // Under the lock: a redirection may have added a node.
            let map = self.map.load();
            let named: Vec<_> = map.nodes().map(Arc::as_ptr).collect();
            members.nodes.retain(|_, known| {
                if named.contains(&Arc::as_ptr(&known.node)) {
                    known.unnamed = None;
                    return true;
                }
                let since = *known.unnamed.get_or_insert(now);
                let stays = now.saturating_duration_since(since) < LEAVES_AFTER;
                if !stays {
                    left.push(Arc::clone(&known.node));
                }
                stays
            });
            members.left.extend(left.iter().map(Arc::clone));
        }
        for node in left {
            node.shut();
            node.metrics.leave();
        }
        self.forget_drained();
    }

    /// Keeps of those that were let go and are empty only what was counted.
    fn forget_drained(&self) {
        let left = self.members().left.clone();
        for node in left.iter().filter(|node| node.lock().ledger.is_drained()) {
            let counts = (self.status)(node).counts_only();
            self.members().left.retain(|left| !Arc::ptr_eq(left, node));
            let mut departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *departed {
                Some(departed) => departed.add(&counts),
                none => *none = Some(counts),
            }
        }
    }

    /// Whether a node is about to be let go, or a primary seems to be gone, in whose place another one may come
    /// at any moment.
    pub(super) fn expects_change(&self) -> bool {
        let unnamed = self.members().nodes.values().any(|known| known.unnamed.is_some());
        let map = self.map.load();
        // What was never known is asked for only while somebody waits for it.
        !map.is_empty() && (unnamed || map.primaries().any(|node| is_gone(node)))
    }

    pub(super) fn has_unserved_slots(&self) -> bool {
        let map = self.map.load();
        !map.is_empty() && map.unserved() > 0
    }
}

/// Whether a node seems not to be there any more; one that is full is.
fn is_gone(node: &Node) -> bool {
    let state = node.lock();
    let failure = state.gate.failure().filter(|_| state.ledger.live() == 0);
    failure.is_some_and(|failure| !failure.outcome.is_full() && !failure.outcome.is_permanent())
}
