//! The gates of pools before one server, in every order; see `src/sync.rs`.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::sync::model::{block_on, explore, join, thread};

/// A dial that takes longer than a second and its grace is given up; the back-off of one that failed is longer.
fn gate(server: &Arc<Server>) -> Gate {
    let first_backoff = Duration::from_secs(20);
    let (breaker, connect_timeout) = (Breaker::default(), Duration::from_secs(1));
    let policy = DialPolicy { backoff: None, first_backoff, breaker, connect_timeout };
    Gate::new(Arc::clone(server), policy, 7)
}

fn failure(outcome: Outcome) -> Arc<DialFailure> {
    Arc::new(DialFailure { server: "test".into(), outcome, message: String::new() })
}

/// Asks as the dialer does, until the gate lets a dial through. The clock stands still, so what is not told of never
/// comes: the model then ends in a deadlock.
fn approved(gate: &mut Gate, now: Instant) -> Approval {
    let server = Arc::clone(&gate.server);
    block_on(async {
        loop {
            let mut changed = pin!(server.schedule_changed());
            changed.as_mut().enable();
            match gate.ask(now) {
                Decision::Dial(approval) => return approval,
                Decision::WaitUntil(_) | Decision::Held => changed.await,
            }
        }
    })
}

/// The dials in flight, of which there may be so many.
struct Dials {
    in_flight: AtomicUsize,
    most: usize,
}

impl Dials {
    fn begin(&self) {
        let others = self.in_flight.fetch_add(1, Ordering::Relaxed);
        assert!(others < self.most, "{} dials at once", others + 1);
    }

    fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pools that each dial so often, while `most` may at once.
fn pools_take_turns(pools: usize, times: usize, most: usize) {
    let (server, now) = (Server::alone("test", 7), Instant::now());
    let dials = Arc::new(Dials { in_flight: AtomicUsize::new(0), most });
    let pool = || {
        let (mut gate, dials) = (gate(&server), Arc::clone(&dials));
        gate.set_roomy(most > 1);
        move || {
            for _ in 0..times {
                let approval = approved(&mut gate, now);
                dials.begin();
                assert!(gate.is_current(&approval));
                dials.end();
                gate.connected(approval, true, Duration::ZERO, now);
            }
        }
    };
    let mut all: Vec<_> = (0..pools).map(|_| pool()).collect();
    let mut own = all.pop().expect("there is one pool at least");
    let others: Vec<_> = all.into_iter().map(|mut other| thread(move || other())).collect();
    own();
    others.into_iter().for_each(join);
    let expected = u64::try_from(pools * times).unwrap();
    assert_eq!((server.era(), server.changes() > expected), (expected, true));
}

#[test]
fn two_pools_dial_one_at_a_time_and_each_hears_when_it_is_its_turn() {
    explore("two pools, a dial each", Some(3), || pools_take_turns(2, 1, 1));
    explore("two pools, two dials each", Some(2), || pools_take_turns(2, 2, 1));
}

#[test]
fn of_three_pools_none_is_left_out() {
    explore("three pools", Some(1), || pools_take_turns(3, 1, 1));
}

#[test]
fn the_next_pool_hears_that_the_one_before_it_has_left() {
    explore("a pool that leaves before its turn", Some(3), || {
        let (server, now) = (Server::alone("test", 7), Instant::now());
        let [mut dials, mut leaves, mut stays] = [(); 3].map(|()| gate(&server));
        let approval = approved(&mut dials, now);
        assert!(matches!(leaves.ask(now), Decision::WaitUntil(_)));
        let gone = thread(move || drop(leaves));
        let served = thread(move || {
            let approval = approved(&mut stays, now);
            stays.connected(approval, true, Duration::ZERO, now);
        });
        dials.connected(approval, true, Duration::ZERO, now);
        join(gone);
        join(served);
        assert_eq!(server.era(), 2);
    });
}

#[test]
fn where_there_is_room_pools_dial_at_once_but_no_more_than_may() {
    explore("three pools and plenty of room", Some(1), || pools_take_turns(3, 2, 4));
}

#[test]
fn a_pool_hears_of_its_free_dial_when_the_dial_before_it_ends() {
    explore("a free dial", Some(3), || {
        let (server, now) = (Server::alone("test", 7), Instant::now());
        let [mut full, mut freed] = [(); 2].map(|()| gate(&server));
        freed.allow_free_dial();
        let other = thread(move || {
            // The one dial that the schedule allows, or none: then there is a back-off already.
            if let Decision::Dial(approval) = full.ask(now) {
                full.failed(approval, false, failure(Outcome::Refused), now);
            }
        });
        let approval = approved(&mut freed, now);
        freed.failed(approval, false, failure(Outcome::Refused), now);
        join(other);
    });
}

#[test]
fn what_a_caller_is_told_of_the_schedule_is_no_older_than_what_it_was_read_under() {
    explore("the next dial as a caller is told of it", None, || {
        let (server, now) = (Server::alone("test", 7), Instant::now());
        let [mut dials, told] = [(); 2].map(|()| gate(&server));
        let other = thread(move || {
            let approval = approved(&mut dials, now);
            dials.failed(approval, false, failure(Outcome::MaxClients), now);
        });
        told.verdict(now);
        let next = told.next_dial().as_of;
        assert!(next <= Some(server.changes()));
        told.next_dial();
        join(other);
        // All that was changed is seen now, by whatever was kept before.
        let due = server.look(|schedule| schedule.due(told.id));
        assert!(due.is_some() && told.state() == BreakerState::Open && !told.is_calm());
        assert_eq!(told.next_dial().due, due);
        assert_eq!(
            told.next_dial().failure.as_ref().map(|it| it.outcome),
            Some(Outcome::MaxClients)
        );
    });
}
