use crate::ledger::tests::stocked;
use crate::ledger::{Admission, Closed, Ledger};

/// A full pool of two with so many to be replaced, and nobody who knows of room on the server.
fn full(outdated: usize) -> Ledger<u32> {
    let mut ledger = stocked(2, 2, &[]);
    ledger.set_outdated(outdated);
    ledger
}

/// Dials a successor, which connects.
fn succeed(ledger: &mut Ledger<u32>) {
    assert!(ledger.wants_dial() && ledger.next_is_successor());
    assert!(ledger.dial_started().is_none());
    ledger.connected(false);
    ledger.restored();
}

/// Closes an idle predecessor whose successor is live.
fn retire(ledger: &mut Ledger<u32>) {
    assert!(ledger.has_successor());
    ledger.withdrawn(1);
    ledger.retires();
    assert!(!ledger.shed(), "for it nobody else is closed");
    ledger.died(Closed::Shed);
}

#[test]
fn one_after_the_other_gets_a_successor_before_it_is_closed() {
    let mut ledger = stocked(3, 2, &[]);
    assert!(!ledger.is_replacing() && !ledger.wants_dial() && !ledger.must_close_first());
    ledger.set_outdated(2);
    for _ in 0..2 {
        assert!(ledger.is_replacing() && !ledger.has_successor() && !ledger.must_close_first());
        assert!(ledger.wants_dial() && ledger.next_is_successor());
        ledger.dial_started();
        assert_eq!(ledger.counts().dialing, 1);
        assert!(!ledger.wants_dial(), "one at a time");
        ledger.connected(false);
        ledger.restored();
        assert_eq!(ledger.counts().live, 3);
        assert!(!ledger.wants_dial() && !ledger.must_close_first(), "first one is closed");
        retire(&mut ledger);
    }
    assert!(!ledger.is_replacing() && !ledger.has_successor() && !ledger.wants_dial());
    assert_eq!((ledger.counts().live, ledger.counts().idle), (2, 2));
}

#[test]
fn a_server_with_room_takes_one_more_than_the_limit_until_the_predecessor_is_closed() {
    let mut ledger = full(2);
    assert!(!ledger.wants_dial());
    ledger.set_roomy(true);
    assert!(!ledger.must_close_first());
    for _ in 0..2 {
        succeed(&mut ledger);
        assert_eq!(ledger.counts().live, 3);
        assert!(!ledger.is_over(), "the third is a successor");
        retire(&mut ledger);
        assert_eq!(ledger.counts().live, 2);
    }
    ledger.set_outdated(1);
    ledger.set_roomy(false);
    assert!(!ledger.wants_dial());
}

#[test]
fn without_room_for_two_one_predecessor_at_a_time_is_closed_first() {
    let mut ledger = full(2);
    for left in [1, 0] {
        assert!(ledger.must_close_first() && !ledger.wants_dial());
        ledger.withdrawn(1);
        ledger.closes_first();
        assert!(!ledger.must_close_first() && !ledger.wants_dial(), "it is still open");
        ledger.died(Closed::Otherwise);
        assert!(!ledger.must_close_first(), "its successor comes first");
        succeed(&mut ledger);
        assert!(!ledger.has_successor(), "its predecessor is closed already");
        assert_eq!(ledger.is_replacing(), left > 0);
    }
    assert!(!ledger.must_close_first() && !ledger.wants_dial());
}

#[test]
fn what_is_too_much_is_closed_before_a_predecessor_is() {
    let mut ledger = full(2);
    ledger.allow(Some(1));
    assert!(!ledger.must_close_first());
    assert!(ledger.shed());
    assert!(!ledger.must_close_first(), "that one is still being closed");
    ledger.withdrawn(1);
    ledger.died(Closed::Shed);
    assert!(ledger.must_close_first());
}

#[test]
fn whoever_waits_is_served_before_a_predecessor_gets_its_successor() {
    let mut ledger = stocked(4, 1, &[]);
    let a = ledger.account(&"a".into());
    ledger.set_outdated(1);
    assert_eq!(ledger.acquire(a), Admission::Granted);
    ledger.enqueue(a, 1).unwrap();
    assert!(ledger.wants_dial() && !ledger.next_is_successor());
    ledger.dial_started();
    ledger.connected(false);
    assert!(!ledger.has_successor(), "it is for the one who waits");
}

#[test]
fn after_a_failed_dial_successors_are_put_off_until_it_is_time_to_try_again() {
    let mut ledger = stocked(3, 2, &[]);
    ledger.set_outdated(1);
    ledger.dial_started();
    ledger.dial_failed(false, false);
    assert!(!ledger.wants_dial());
    ledger.allow(Some(2));
    assert!(!ledger.must_close_first(), "nor is one closed while dials do not work");
    ledger.retry_successors();
    assert!(ledger.must_close_first());
    ledger.allow(None);
    assert!(ledger.wants_dial());
    ledger.dial_started();
    ledger.dial_failed(false, false);
    // A dial for somebody else shows that they work again.
    ledger.add_goal(3);
    ledger.dial_started();
    ledger.connected(false);
    ledger.allow(Some(4));
    assert!(!ledger.has_successor() && ledger.must_close_first());
}

#[test]
fn a_full_server_gets_no_successors_and_costs_no_predecessor() {
    let mut ledger = stocked(3, 2, &[]);
    ledger.set_outdated(2);
    ledger.freeze();
    ledger.set_roomy(true);
    assert!(!ledger.wants_dial() && !ledger.must_close_first());
    ledger.set_roomy(false);
    assert!(!ledger.wants_dial() && !ledger.must_close_first());
    ledger.thaw();
    assert!(ledger.wants_dial());
}

#[test]
fn where_a_successor_may_be_no_better_none_is_closed_before_a_dial_has_shown_it() {
    let mut ledger = full(2);
    ledger.doubt_successors(true);
    assert!(!ledger.must_close_first() && ledger.wants_dial());
    ledger.freeze();
    assert!(
        !ledger.must_close_first() && ledger.wants_dial(),
        "it may not be this one that is full"
    );
    ledger.thaw();
    ledger.doubt_successors(false);
    assert!(ledger.must_close_first() && !ledger.wants_dial());
}

#[test]
fn a_successor_that_died_or_that_nobody_needs_any_more_is_none() {
    let mut ledger = stocked(3, 2, &[]);
    ledger.set_outdated(1);
    succeed(&mut ledger);
    ledger.successor_lost();
    assert!(!ledger.has_successor() && ledger.is_replacing());

    let mut ledger = stocked(3, 2, &[]);
    ledger.set_outdated(1);
    succeed(&mut ledger);
    ledger.replaced();
    assert!(!ledger.has_successor() && !ledger.is_replacing());

    let mut ledger = stocked(3, 2, &[]);
    ledger.set_outdated(1);
    ledger.dial_started();
    ledger.replaced();
    ledger.connected(false);
    assert!(!ledger.has_successor());
}

#[test]
fn of_two_dials_in_flight_the_other_may_still_bring_the_successor() {
    let mut ledger = stocked(4, 1, &[]);
    ledger.set_outdated(1);
    ledger.dial_started();
    ledger.add_goal(3);
    ledger.dial_started();
    ledger.dial_failed(false, false);
    ledger.retry_successors();
    assert!(!ledger.next_is_successor());
    ledger.connected(false);
    assert!(ledger.has_successor());
}

#[test]
fn a_subscribers_dial_that_fails_leaves_the_successors_in_flight() {
    let mut ledger = stocked(4, 1, &[]);
    let sub = ledger.account(&"sub".into());
    ledger.set_outdated(1);
    ledger.dial_started();
    ledger.enqueue_fresh(sub, 1).unwrap();
    let fresh = ledger.dial_started().unwrap();
    ledger.dial_failed(false, true);
    ledger.fresh_failed(fresh.account, fresh.ticket, None);
    ledger.retry_successors();
    assert!(!ledger.wants_dial(), "one successor at a time");
    ledger.connected(false);
    assert!(ledger.has_successor());
}

#[test]
fn a_closed_pool_replaces_nothing() {
    let mut ledger = stocked(3, 2, &[]);
    ledger.set_outdated(1);
    ledger.close();
    assert!(!ledger.wants_dial());
}
