//! A node's connections and its waiters, in every order; see `src/sync.rs`.

use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::acquire::{acquire, acquire_subscriber, try_acquire};
use super::guarded_pool::GuardedPool;
use super::lease::NodeLease;
use super::node::Node;
use super::state::DialerTask;
use super::store::{Connection, Owned, Socket};
use crate::Endpoint;
use crate::sync::model::{block_on, explore, join, once, thread};
use crate::telemetry::status::CloseReason;

/// How many connections a model may tell apart, by their databases.
const CONNECTIONS: usize = 2;

/// The driver's handles, which carry nothing: made before the first model, for they take a runtime to make.
static HANDLES: LazyLock<Vec<MultiplexedConnection>> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().expect("it has no I/O");
    runtime.block_on(async {
        let mut handles = Vec::new();
        for db in 0..CONNECTIONS {
            let (ours, mut servers) = tokio::io::duplex(1024);
            let db = i64::try_from(db).unwrap();
            let info = redis::RedisConnectionInfo::default().set_db(db).set_skip_set_lib_name();
            let config = redis::AsyncConnectionConfig::new();
            let made = MultiplexedConnection::new_with_config(&info, ours, config);
            let answers = async {
                // What there is to answer is SELECT.
                let mut command = [0; 1024];
                while servers.read(&mut command).await.is_ok_and(|bytes| bytes > 0) {
                    servers.write_all(b"+OK\r\n").await.unwrap();
                }
                std::future::pending().await
            };
            let made = tokio::select! { made = made => made, () = answers => unreachable!() };
            let (handle, _driver) = made.unwrap();
            handles.push(handle);
        }
        handles
    })
});

/// Explores a model of a node.
pub(in crate::pool) fn explore_node(
    name: &str,
    switches: Option<usize>,
    model: impl Fn() + Send + Sync + 'static,
) {
    LazyLock::force(&HANDLES);
    explore(name, switches, model);
}

/// A pool of one node, for which nobody dials, and its node.
pub(in crate::pool) fn pool() -> (GuardedPool, Arc<Node>) {
    let pool = GuardedPool::builder("redis://127.0.0.1:1").own_gate(true).watch(false);
    let pool = pool.max_connections(CONNECTIONS).shared_lanes(1).seed(7).build().unwrap();
    let node = pool.servers().nodes().pop().expect("one server");
    let mut state = node.lock();
    assert!(state.wants_maintenance());
    state.set_dialer(DialerTask::Runs);
    // So that no sweep is late, however long the machine lets a model wait.
    let tomorrow = Instant::now().into_std() + Duration::from_secs(86_400);
    state.swept(tomorrow, SystemTime::now());
    drop(state);
    (pool, node)
}

/// A connection that was dialed, and its socket. It is nobody's yet.
pub(in crate::pool) fn dialed(node: &Arc<Node>, which: usize) -> (Connection, Arc<Socket>) {
    let now = Instant::now();
    let socket = node.open_socket(node.address(), now, now);
    node.change(|state| {
        let reserved = state.dial_started();
        assert!(reserved.is_none(), "nobody waits for a connection of its own");
        state.ledger.connected(false);
    });
    let connection = Owned { redis: HANDLES[which].clone(), socket: Arc::clone(&socket) };
    (Box::new(connection), socket)
}

/// The same, in the store.
pub(in crate::pool) fn connect(node: &Arc<Node>, which: usize) -> Arc<Socket> {
    let (connection, socket) = dialed(node, which);
    node.opened(connection);
    socket
}

/// Which of the connections a handle is of.
pub(in crate::pool) fn which(handle: &MultiplexedConnection) -> usize {
    use redis::aio::ConnectionLike;
    usize::try_from(handle.get_db()).unwrap()
}

/// What the books say: live, in use, idle, and those who wait; and what is in the store.
pub(in crate::pool) fn books(node: &Node) -> ([usize; 4], usize) {
    let state = node.lock();
    let counts = state.ledger.counts();
    ([counts.live, counts.in_use, counts.idle, counts.waiting], state.store.len())
}

/// Who holds which connection.
#[derive(Default)]
struct Holders([AtomicUsize; CONNECTIONS]);

impl Holders {
    /// Nobody else may hold it; what is done meanwhile takes a step at least.
    fn hold(&self, lease: NodeLease) {
        let id = usize::try_from(lease.id()).unwrap();
        assert_eq!(self.0[id].fetch_add(1, Ordering::Relaxed), 0, "held by two");
        assert!(lease.place().is_some_and(|place| lease.node().lock().leases.is_out(place.seat)));
        self.0[id].fetch_sub(1, Ordering::Relaxed);
        drop(lease);
    }
}

fn take(node: &Arc<Node>) -> Option<NodeLease> {
    try_acquire(node, &Endpoint::DEFAULT, Location::caller()).ok()
}

/// So many threads each take a connection, if one is free, and give it back, so often.
fn take_and_give_back(threads: usize, times: usize, connections: usize) {
    let (_pool, node) = pool();
    let holders = Arc::<Holders>::default();
    (0..connections).for_each(|which| drop(connect(&node, which)));
    let run = || {
        let (node, holders) = (Arc::clone(&node), Arc::clone(&holders));
        move || {
            let taken =
                (0..times).filter_map(|_| take(&node)).map(|lease| holders.hold(lease)).count();
            assert!(connections < threads || taken == times, "one was free");
        }
    };
    let others: Vec<_> = (1..threads).map(|_| thread(run())).collect();
    run()();
    others.into_iter().for_each(join);
    assert_eq!(books(&node), ([connections, 0, connections, 0], connections));
}

#[test]
fn a_connection_is_never_lost_nor_had_by_two() {
    explore_node("one connection, two takers", None, || take_and_give_back(2, 2, 1));
    explore_node("two connections, two takers", None, || take_and_give_back(2, 2, 2));
    explore_node("two connections, three takers", Some(4), || take_and_give_back(3, 1, 2));
}

#[test]
fn one_that_dies_while_it_is_taken_or_given_back_is_counted_once() {
    explore_node("a connection that dies", None, || {
        let (_pool, node) = pool();
        let socket = connect(&node, 0);
        let driver = {
            let (node, socket) = (Arc::clone(&node), Arc::clone(&socket));
            thread(move || node.socket_closed(&socket))
        };
        for _ in 0..2 {
            if let Some(lease) = take(&node) {
                assert!(lease.place().is_some());
            }
        }
        join(driver);
        assert_eq!((books(&node), socket.is_alive()), (([0; 4], 0), false));
    });
}

#[test]
fn one_that_is_revoked_while_it_is_taken_goes_and_the_other_stays() {
    explore_node("a connection that is revoked, and another", None, || {
        let (_pool, node) = pool();
        let [old, _new] = [0, 1].map(|which| connect(&node, which));
        let other = {
            let (node, old) = (Arc::clone(&node), Arc::clone(&old));
            thread(move || {
                node.revoke(&old, CloseReason::Dirty);
                node.socket_closed(&old);
            })
        };
        assert!(take(&node).is_some(), "one is free");
        join(other);
        assert_eq!(books(&node), ([1, 0, 1, 0], 1));
    });
}

/// Waits for a connection.
async fn wait(node: &Arc<Node>) -> NodeLease {
    acquire(Arc::clone(node), Endpoint::DEFAULT, Location::caller()).await.expect("it is served")
}

/// Where a grant was lost the one that stays would wait for ever.
#[test]
fn what_was_on_its_way_to_a_waiter_that_left_goes_to_the_next() {
    explore_node("a waiter that leaves", Some(3), || {
        let (_pool, node) = pool();
        connect(&node, 0);
        let held = take(&node).expect("one is free");
        let leaves = {
            let node = Arc::clone(&node);
            thread(move || {
                let mut waiting = pin!(wait(&node));
                // A caller that goes away, or whose time is over.
                drop(block_on(once(waiting.as_mut())));
            })
        };
        let stays = {
            let node = Arc::clone(&node);
            thread(move || drop(block_on(wait(&node))))
        };
        drop(held);
        join(leaves);
        join(stays);
        assert_eq!(books(&node), ([1, 0, 1, 0], 1));
    });
}

#[test]
fn a_waiter_that_leaves_in_the_queue_takes_no_grant_along() {
    explore_node("a waiter in the queue that leaves", Some(4), || {
        let (_pool, node) = pool();
        connect(&node, 0);
        let held = take(&node).expect("one is free");
        // In this order in the queue.
        let mut leaves = Box::pin({
            let node = Arc::clone(&node);
            async move { wait(&node).await }
        });
        assert!(block_on(once(leaves.as_mut())).is_pending());
        let mut stays = Box::pin({
            let node = Arc::clone(&node);
            async move { wait(&node).await }
        });
        assert!(block_on(once(stays.as_mut())).is_pending());
        let gone = thread(move || drop(leaves));
        let served = thread(move || drop(block_on(stays)));
        drop(held);
        join(gone);
        join(served);
        assert_eq!(books(&node), ([1, 0, 1, 0], 1));
    });
}

#[test]
fn a_subscriber_that_leaves_while_a_dial_for_it_fails_leaves_nothing_behind() {
    explore_node("a subscriber that leaves its failing dial", None, || {
        let (_pool, node) = pool();
        let mut waits = Box::pin({
            let node = Arc::clone(&node);
            async move {
                acquire_subscriber(&node, &Endpoint::DEFAULT, Location::caller()).await.is_ok()
            }
        });
        assert!(block_on(once(waits.as_mut())).is_pending());
        let dialer = {
            let node = Arc::clone(&node);
            thread(move || {
                // It may be gone before the dial starts.
                let Some(reserved) = node.change(|state| state.dial_started()) else { return };
                let _gone = node.change(|state| {
                    state.ledger.dial_failed(false, true);
                    state.dial_failed(reserved)
                });
            })
        };
        drop(waits);
        join(dialer);
        assert_eq!(books(&node), ([0; 4], 0));
    });
}

#[test]
fn a_connection_that_dies_on_its_way_to_a_waiter_leaves_it_in_its_place() {
    explore_node("a grant whose connection dies", Some(2), || {
        let (_pool, node) = pool();
        let socket = connect(&node, 0);
        let held = take(&node).expect("one is free");
        let mut waits = Box::pin({
            let node = Arc::clone(&node);
            async move { wait(&node).await }
        });
        assert!(block_on(once(waits.as_mut())).is_pending());
        let driver = {
            let node = Arc::clone(&node);
            thread(move || {
                node.socket_closed(&socket);
                connect(&node, 1);
            })
        };
        let served = thread(move || {
            let lease = block_on(waits);
            drop(lease);
        });
        drop(held);
        join(driver);
        join(served);
        assert_eq!(books(&node), ([1, 0, 1, 0], 1));
        assert!(matches!(block_on(once(Box::pin(wait(&node)))), Poll::Ready(_)));
    });
}
