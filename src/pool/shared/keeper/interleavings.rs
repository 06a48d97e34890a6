//! A lane that goes while somebody sends on it, in every order; see `src/sync.rs`.

use std::sync::atomic::{AtomicUsize, Ordering as Std};

use redis::RedisError;
use redis::aio::MultiplexedConnection;

use super::*;
use crate::Error;
use crate::dial::Notice;
use crate::pool::interleavings::{books, connect, dialed, explore_node, pool, which};
use crate::pool::shared::{NodeShared, Request};
use crate::sync::model::{block_on, join, join_tasks, thread};
use crate::vocabulary::command::Sharing;

/// A command that finds out whether its connection is open from when it is sent until it is answered.
struct Command<'a> {
    sockets: &'a [Arc<Socket>],
    sent: &'a AtomicUsize,
}

impl Request for Command<'_> {
    type Reply = usize;

    fn is_answered(&self) -> bool {
        true
    }

    async fn send(&self, redis: &mut MultiplexedConnection) -> Result<usize, RedisError> {
        let which = which(redis);
        let socket = &self.sockets[which];
        self.sent.fetch_add(1, Std::Relaxed);
        assert!(socket.is_alive(), "sent on what is closed");
        assert!(socket.is_alive(), "closed before the answer");
        Ok(which)
    }

    async fn send_exclusive(&self, _: &mut NodeLease) -> Result<usize, RedisError> {
        unreachable!("it may be shared")
    }

    fn notice(&self, _: &Result<usize, RedisError>) -> Option<(Notice, String)> {
        None
    }
}

/// A lane that is up, and who sends on it, who has sent before.
fn lane_up(node: &Arc<Node>) -> (Keeper, Carried, NodeShared) {
    let lease = block_on(lease(node)).expect("one is free");
    node.lanes.lane(0).keeper_runs.store(true, Ordering::Release);
    let keeper = Keeper { node: Arc::clone(node), at: 0 };
    let carried = keeper.put_up(lease);
    let mut sender = NodeShared::new(Arc::clone(node), &Endpoint::DEFAULT, Location::caller());
    // On the lane from here on, as after its first command.
    drop(sender.fork());
    (keeper, carried, sender)
}

fn send(sender: &mut NodeShared, sockets: &[Arc<Socket>], commands: usize) -> Result<(), Error> {
    let sent = AtomicUsize::new(0);
    for nth in 1..=commands {
        block_on(sender.request(Command { sockets, sent: &sent }, Sharing::Allowed))?;
        assert_eq!(sent.load(Std::Relaxed), nth, "each is sent once");
    }
    Ok(())
}

/// A lane is replaced while so many send on it, each so often.
fn replaced_under(senders: usize, commands: usize) {
    let (_pool, node) = pool();
    let first = connect(&node, 0);
    let (keeper, mut carried, one) = lane_up(&node);
    let (successor, second) = dialed(&node, 1);
    let sockets = [first, second];
    let forks = (1..senders).map(|_| NodeShared { lane: one.lane.fork(), ..one.clone() });
    let mut all: Vec<NodeShared> = forks.collect();
    all.push(one);
    let sending = all.into_iter().map(|mut sender| {
        let sockets = sockets.clone();
        thread(move || send(&mut sender, &sockets, commands).expect("one of the two is up"))
    });
    let sending: Vec<_> = sending.collect();
    carried.succeed(&keeper, successor);
    sending.into_iter().for_each(join);
    join_tasks();
    let in_flight = node.sharers.share_of(&Endpoint::DEFAULT).map(|share| share.in_flight);
    assert_eq!((sockets.each_ref().map(|it| it.in_flight()), in_flight), ([0, 0], Some(0)));
    assert!(!sockets[0].is_alive() && sockets[1].is_alive());
}

#[test]
fn a_command_goes_on_the_lane_that_is_replaced_or_on_its_successor() {
    explore_node("a lane that is replaced under a sender", Some(3), || replaced_under(1, 2));
    explore_node("a lane that is replaced under two senders", Some(2), || replaced_under(2, 1));
}

#[test]
fn a_lane_that_is_retired_is_closed_behind_the_last_of_its_commands() {
    explore_node("a lane that is retired under two commands", Some(3), || {
        let (_pool, node) = pool();
        let socket = connect(&node, 0);
        let (_keeper, carried, _) = lane_up(&node);
        let commands = [(); 2].map(|()| {
            let carrier = Arc::clone(&carried.carrier);
            thread(move || {
                if carrier.begin() {
                    assert!(carrier.socket.is_alive(), "sent on what is closed");
                    assert!(carrier.socket.is_alive(), "closed before the answer");
                    carrier.answered();
                }
            })
        });
        block_on(carried.drain(Arc::clone(&node), CloseReason::Replaced));
        commands.into_iter().for_each(join);
        assert_eq!((socket.in_flight(), socket.is_alive()), (0, false));
    });
}

#[test]
fn a_command_goes_on_the_lane_of_a_pool_that_is_closed_or_nowhere() {
    explore_node("a lane of a pool that is closed under a sender", Some(3), || {
        let (_pool, node) = pool();
        let sockets = [connect(&node, 0)];
        let (_keeper, carried, mut sender) = lane_up(&node);
        let sends = thread({
            let sockets = sockets.clone();
            move || match send(&mut sender, &sockets, 1) {
                Ok(()) | Err(Error::Rejected(Rejection::Closed)) => {}
                Err(error) => panic!("{error}"),
            }
        });
        node.shut();
        // As `carry` does.
        carried.carrier.retire();
        node.lanes.lane(0).line.send_replace(Line::Down);
        block_on(carried.drain(Arc::clone(&node), CloseReason::PoolClosed));
        join(sends);
        join_tasks();
        let ([live, in_use, idle, waiting], stored) = books(&node);
        assert_eq!((live, in_use, idle, waiting, stored), (1, 0, 0, 0, 0));
        assert_eq!((sockets[0].in_flight(), sockets[0].is_alive()), (0, false));
    });
}

/// Closes the pool, and waits until its lane has gone.
fn close(node: &Arc<Node>, sockets: &[Arc<Socket>]) {
    node.shut();
    join_tasks();
    let ([_, in_use, idle, waiting], stored) = books(node);
    assert_eq!((in_use, idle, waiting, stored), (0, 0, 0, 0));
    assert!(sockets.iter().all(|socket| socket.in_flight() == 0 && !socket.is_alive()));
    assert!(!node.lanes.lane(0).keeper_runs.load(Ordering::Relaxed));
}

#[test]
fn a_lane_comes_up_once_for_all_who_want_it() {
    explore_node("a lane that comes up for two", Some(1), || {
        let (_pool, node) = pool();
        let sockets = [connect(&node, 0)];
        let handle = || NodeShared::new(Arc::clone(&node), &Endpoint::DEFAULT, Location::caller());
        let [mut one, mut other] = [(); 2].map(|()| handle());
        let sends = thread({
            let sockets = sockets.clone();
            move || send(&mut other, &sockets, 1).expect("it comes up")
        });
        send(&mut one, &sockets, 1).expect("it comes up");
        join(sends);
        close(&node, &sockets);
    });
}

#[test]
fn who_waits_for_a_lane_whose_keeper_ends_starts_the_next() {
    explore_node("a lane whose keeper ends", Some(2), || {
        let (_pool, node) = pool();
        let sockets = [connect(&node, 0)];
        let keeper = Keeper { node: Arc::clone(&node), at: 0 };
        node.lanes.lane(0).keeper_runs.store(true, Ordering::Release);
        let mut one = NodeShared::new(Arc::clone(&node), &Endpoint::DEFAULT, Location::caller());
        let sends = thread({
            let sockets = sockets.clone();
            move || send(&mut one, &sockets, 1).expect("it comes up")
        });
        // As where its runtime is shut down.
        drop(keeper);
        join(sends);
        close(&node, &sockets);
    });
}
