use proptest::prelude::*;

use super::*;

const FREE: Budget = Budget::max(100);

pub(super) fn ledger(max: usize, endpoints: &[(&'static str, Budget)]) -> Ledger<u32> {
    let named = endpoints.iter().map(|(name, budget)| ((*name).into(), *budget)).collect();
    Ledger::new(max, 100, &Budgets { named, default: Some(FREE) })
}

/// A ledger with `live` connections idle.
pub(super) fn stocked(
    max: usize,
    live: usize,
    endpoints: &[(&'static str, Budget)],
) -> Ledger<u32> {
    let mut ledger = ledger(max, endpoints);
    for _ in 0..live {
        ledger.dial_started();
        ledger.connected(false);
        ledger.restored();
    }
    ledger
}

fn drain(ledger: &mut Ledger<u32>) -> Vec<u32> {
    let grant = || match ledger.next_turn() {
        Some(Turn::Grant) => ledger.next_grant().map(|grant| grant.waiter),
        _ => None,
    };
    std::iter::from_fn(grant).collect()
}

#[test]
fn a_free_connection_is_granted_and_its_return_serves_the_longest_waiter() {
    let mut ledger = stocked(1, 1, &[]);
    let (a, b) = (ledger.account(&"a".into()), ledger.account(&"b".into()));
    assert_eq!(ledger.acquire(a), Admission::Granted);
    assert_eq!(ledger.acquire(b), Admission::NoneFree);
    ledger.enqueue(b, 1).unwrap();
    ledger.enqueue(a, 2).unwrap();
    ledger.released(a, true);
    assert_eq!(drain(&mut ledger), [1]);
    ledger.released(b, true);
    assert_eq!(drain(&mut ledger), [2]);
}

#[test]
fn nobodys_turn_comes_while_none_is_idle() {
    let mut ledger = stocked(2, 1, &[]);
    let a = ledger.account(&"a".into());
    assert_eq!(ledger.acquire(a), Admission::Granted);
    ledger.enqueue(a, 1).unwrap();
    assert_eq!(ledger.next_turn(), None);
    ledger.released(a, true);
    assert_eq!(ledger.next_turn(), Some(Turn::Grant));
}

#[test]
fn an_endpoint_at_its_max_does_not_block_the_one_behind_it() {
    let mut ledger = stocked(3, 3, &[("small", Budget::max(1))]);
    let (small, big) = (ledger.account(&"small".into()), ledger.account(&"big".into()));
    assert_eq!(ledger.acquire(small), Admission::Granted);
    assert_eq!(ledger.acquire(small), Admission::BudgetExhausted);
    ledger.enqueue(small, 1).unwrap();
    assert_eq!(drain(&mut ledger), [] as [u32; 0]);
    assert_eq!(ledger.acquire(big), Admission::Granted);
    ledger.released(small, true);
    assert_eq!(drain(&mut ledger), [1]);
}

#[test]
fn an_account_that_may_have_the_whole_pool_waits_for_connections_not_for_its_budget() {
    let budgets = [("small", Budget::max(1)), ("all", Budget::max(2))];
    let mut ledger = stocked(2, 2, &budgets);
    let (small, all) = (ledger.account(&"small".into()), ledger.account(&"all".into()));
    assert!(!ledger.holds_its_max(small) && !ledger.is_exhausted(small));
    assert_eq!(ledger.acquire(small), Admission::Granted);
    assert!(ledger.holds_its_max(small) && ledger.is_exhausted(small));
    ledger.released(small, true);
    assert_eq!([ledger.acquire(all), ledger.acquire(all)], [Admission::Granted; 2]);
    assert!(ledger.holds_its_max(all) && !ledger.is_exhausted(all));
    assert_eq!(ledger.acquire(all), Admission::NoneFree);
}

#[test]
fn what_still_waits_for_its_last_reply_is_needed() {
    let mut ledger = stocked(3, 3, &[]);
    let a = ledger.account(&"a".into());
    for _ in 0..2 {
        assert_eq!(ledger.acquire(a), Admission::Granted);
    }
    ledger.load();
    // They have come back, and not into the store.
    ledger.released(a, false);
    ledger.released(a, false);
    let load = ledger.load();
    assert_eq!((load.in_use, load.peak), (2, 2));
    ledger.restored();
    ledger.restored();
    ledger.load();
    let load = ledger.load();
    assert_eq!((load.in_use, load.peak), (0, 0));
}

#[test]
fn a_reserve_is_kept_for_its_endpoint() {
    let mut ledger = stocked(4, 4, &[("checkout", Budget::max(3).reserve(2))]);
    let (checkout, other) = (ledger.account(&"checkout".into()), ledger.account(&"x".into()));
    assert_eq!([ledger.acquire(other), ledger.acquire(other)], [Admission::Granted; 2]);
    assert_eq!(ledger.acquire(other), Admission::NoneFree);
    assert_eq!([ledger.acquire(checkout), ledger.acquire(checkout)], [Admission::Granted; 2]);
}

#[test]
fn reserves_shrink_in_proportion_when_the_limit_falls_below_their_sum() {
    let budgets = [("a", Budget::max(8).reserve(6)), ("b", Budget::max(8).reserve(2))];
    let mut ledger = stocked(8, 4, &budgets);
    let reserves = |ledger: &Ledger<u32>| -> Vec<_> {
        ledger.accounts().map(|account| account.reserve).collect()
    };
    assert_eq!(reserves(&ledger), [6, 2]);
    ledger.dial_started();
    ledger.dial_failed(true, false);
    assert_eq!(ledger.counts().limit, 4);
    assert_eq!(reserves(&ledger), [2, 0], "of 4, one is nobody's");
}

#[test]
fn a_refusal_freezes_the_limit_and_a_connection_thaws_it() {
    let mut ledger = stocked(8, 2, &[]);
    let a = ledger.account(&"a".into());
    ledger.dial_started();
    ledger.dial_failed(true, false);
    assert!(ledger.is_frozen());
    assert_eq!([ledger.acquire(a), ledger.acquire(a)], [Admission::Granted; 2]);
    ledger.request_dial();
    assert!(!ledger.wants_dial(), "nobody waits, so nothing is tried blindly");
    ledger.enqueue(a, 1).unwrap();
    assert!(ledger.wants_dial());
    ledger.dial_started();
    ledger.connected(false);
    ledger.restored();
    assert_eq!((ledger.counts().limit, ledger.is_frozen()), (8, false));
}

#[test]
fn callers_turned_away_during_a_dial_want_no_other_one() {
    let mut ledger = stocked(8, 0, &[]);
    let a = ledger.account(&"a".into());
    assert!(!ledger.wants_dial());
    ledger.request_dial();
    assert!(ledger.wants_dial());
    ledger.dial_started();
    assert!(!ledger.wants_dial());
    ledger.request_dial();
    ledger.connected(false);
    ledger.restored();
    assert_eq!(ledger.acquire(a), Admission::Granted);
    assert!(!ledger.wants_dial());
}

#[test]
fn a_replacement_below_the_frozen_limit_does_not_thaw_it() {
    let mut ledger = stocked(8, 2, &[]);
    ledger.dial_started();
    ledger.dial_failed(true, false);
    ledger.withdrawn(1);
    ledger.died(Closed::Otherwise);
    assert!(ledger.has_spare_slot());
    ledger.dial_started();
    assert!(!ledger.connected(false));
    assert!(ledger.is_frozen() && !ledger.has_spare_slot());
}

#[test]
fn a_reserve_does_not_starve_the_others_while_the_server_is_full() {
    let mut ledger = stocked(8, 2, &[("checkout", Budget::max(8).reserve(2))]);
    let other = ledger.account(&"x".into());
    assert_eq!([ledger.acquire(other), ledger.acquire(other)], [Admission::Granted; 2]);
    ledger.enqueue(other, 1).unwrap();
    ledger.dial_started();
    ledger.dial_failed(true, false);
    ledger.released(other, true);
    ledger.released(other, true);
    assert_eq!(drain(&mut ledger), [1]);
    ledger.enqueue(other, 2).unwrap();
    assert_eq!(drain(&mut ledger), [] as [u32; 0], "the other one is kept for checkout");
    assert!(ledger.wants_dial(), "and so there is something to try for");
}

#[test]
fn a_subscriber_gets_a_socket_of_its_own_and_pays_from_its_budget() {
    let mut ledger = stocked(3, 2, &[("sub", Budget::max(1))]);
    let sub = ledger.account(&"sub".into());
    ledger.enqueue_fresh(sub, 1).unwrap();
    ledger.enqueue_fresh(sub, 2).unwrap();
    assert_eq!(drain(&mut ledger), [] as [u32; 0], "no idle connection can be one");
    assert!(ledger.wants_dial());
    assert_eq!(ledger.dial_started().map(|fresh| fresh.waiter), Some(1));
    assert!(ledger.connected(true));
    assert!(!ledger.wants_dial(), "its budget holds one");
    assert_eq!(ledger.counts().in_use, 1);
}

#[test]
fn a_subscribers_dial_serves_nobody_else() {
    let mut ledger = ledger(3, &[]);
    let (a, sub) = (ledger.account(&"a".into()), ledger.account(&"sub".into()));
    ledger.enqueue_fresh(sub, 1).unwrap();
    assert!(ledger.dial_started().is_some());
    ledger.enqueue(a, 2).unwrap();
    assert!(ledger.wants_dial());
    assert!(ledger.dial_started().is_none());
    assert!(!ledger.wants_dial());
}

#[test]
fn an_idle_connection_makes_room_for_a_subscriber_once() {
    let mut ledger = stocked(2, 2, &[]);
    let sub = ledger.account(&"sub".into());
    ledger.enqueue_fresh(sub, 1).unwrap();
    assert_eq!(ledger.next_turn(), Some(Turn::MakeRoom));
    ledger.makes_room();
    assert_eq!((ledger.next_turn(), ledger.wants_dial()), (None, false), "it is being closed");
    ledger.died(Closed::ForRoom);
    assert!(ledger.wants_dial() && ledger.next_turn().is_none());
    let fresh = ledger.dial_started().unwrap();
    ledger.dial_failed(true, true);
    ledger.fresh_failed(fresh.account, fresh.ticket, Some(fresh.waiter));
    assert_eq!((ledger.counts().in_use, ledger.counts().waiting), (0, 1));
    assert_eq!(ledger.next_turn(), None, "a full server's slots are not given away one by one");
    ledger.thaw();
    ledger.allow(Some(1));
    assert_eq!(ledger.next_turn(), Some(Turn::MakeRoom));
    assert!(ledger.cancelled(sub, fresh.ticket).is_some());
}

#[test]
fn on_a_full_server_a_subscriber_has_its_turn_for_the_next_try() {
    let mut ledger = stocked(8, 2, &[]);
    let (a, sub) = (ledger.account(&"a".into()), ledger.account(&"sub".into()));
    assert_eq!([ledger.acquire(a), ledger.acquire(a)], [Admission::Granted; 2]);
    ledger.freeze();
    let first = ledger.enqueue(a, 1).unwrap();
    ledger.enqueue_fresh(sub, 2).unwrap();
    assert!(ledger.wants_dial() && ledger.dial_started().is_none(), "it came second");
    ledger.dial_failed(true, false);
    assert!(ledger.cancelled(a, first).is_some());
    assert!(ledger.wants_dial() && ledger.dial_started().is_some());
}

#[test]
fn a_full_servers_slot_is_given_up_for_a_subscriber_unless_it_is_the_last_or_was_lost_before() {
    let full = |live| {
        let mut ledger = stocked(8, live, &[]);
        ledger.freeze();
        let sub = ledger.account(&"sub".into());
        ledger.enqueue_fresh(sub, 1).unwrap();
        ledger
    };
    assert_eq!(full(1).next_turn(), None);
    let mut ledger = full(3);
    assert_eq!(ledger.next_turn(), Some(Turn::MakeRoom));
    ledger.makes_room();
    ledger.died(Closed::ForRoom);
    let fresh = ledger.dial_started().unwrap();
    ledger.dial_failed(true, true);
    ledger.fresh_failed(fresh.account, fresh.ticket, Some(fresh.waiter));
    assert_eq!(ledger.next_turn(), None, "somebody else has that slot now");
    let mut ledger = full(2);
    ledger.close();
    assert_eq!(ledger.next_turn(), None);
}

#[test]
fn a_subscriber_who_left_while_room_was_made_stands_in_nobodys_way() {
    let mut ledger = stocked(2, 2, &[]);
    let sub = ledger.account(&"sub".into());
    let ticket = ledger.enqueue_fresh(sub, 1).unwrap();
    ledger.makes_room();
    assert!(ledger.cancelled(sub, ticket).is_some());
    ledger.died(Closed::ForRoom);
    ledger.dial_started();
    ledger.connected(false);
    ledger.restored();
    ledger.enqueue_fresh(sub, 2).unwrap();
    assert_eq!(ledger.next_turn(), Some(Turn::MakeRoom));
}

#[test]
fn a_subscriber_has_its_turn_among_those_who_wait_for_a_lease() {
    let mut ledger = stocked(1, 1, &[]);
    let (a, sub) = (ledger.account(&"a".into()), ledger.account(&"sub".into()));
    assert_eq!(ledger.acquire(a), Admission::Granted);
    ledger.enqueue(a, 1).unwrap();
    ledger.enqueue_fresh(sub, 2).unwrap();
    ledger.enqueue(a, 3).unwrap();
    ledger.released(a, true);
    assert_eq!(drain(&mut ledger), [1], "it came first");
    ledger.released(a, true);
    assert_eq!(
        ledger.next_turn(),
        Some(Turn::MakeRoom),
        "then the subscriber, not whoever came later"
    );
    ledger.makes_room();
    ledger.died(Closed::ForRoom);
    assert_eq!(ledger.dial_started().map(|fresh| fresh.waiter), Some(2));
}

#[test]
fn goals_do_not_undo_each_other() {
    let mut ledger = ledger(8, &[]);
    ledger.add_goal(4);
    ledger.add_goal(1);
    ledger.remove_goal(1);
    assert!(ledger.wants_dial());
    ledger.remove_goal(4);
    assert!(!ledger.wants_dial());
    let mut ledger = stocked(8, 2, &[]);
    ledger.add_goal(2);
    assert!(!ledger.wants_dial(), "so many there are");
}

#[test]
fn what_is_kept_up_is_dialed_for_nobody_until_it_is_there_or_a_dial_fails() {
    let mut ledger = stocked(4, 1, &[]);
    ledger.keep_up(3);
    assert!(ledger.wants_dial());
    ledger.dial_started();
    ledger.dial_started();
    assert!(!ledger.wants_dial(), "both are on their way");
    ledger.connected(false);
    ledger.connected(false);
    ledger.died(Closed::Otherwise);
    assert!(!ledger.wants_dial(), "until it is asked for again");

    ledger.keep_up(3);
    ledger.dial_started();
    ledger.dial_failed(false, false);
    assert!(!ledger.wants_dial());

    ledger.keep_up(usize::MAX);
    for _ in 0..2 {
        assert!(ledger.wants_dial());
        ledger.dial_started();
    }
    assert!(!ledger.wants_dial(), "the limit");
}

#[test]
fn at_a_full_server_nothing_is_kept_up() {
    let mut ledger = stocked(4, 1, &[]);
    ledger.dial_started();
    ledger.dial_failed(true, false);
    ledger.keep_up(3);
    assert!(!ledger.wants_dial());
    ledger.thaw();
    assert!(ledger.wants_dial());
}

#[test]
fn a_goal_is_tried_for_although_the_limit_is_frozen() {
    let mut ledger = stocked(8, 2, &[]);
    ledger.dial_started();
    ledger.dial_failed(true, false);
    assert!(!ledger.wants_dial());
    ledger.add_goal(3);
    assert!(ledger.wants_dial());
}

#[test]
fn an_endpoint_that_may_not_have_more_wants_no_dial() {
    let mut ledger = stocked(8, 1, &[("small", Budget::max(1))]);
    let small = ledger.account(&"small".into());
    assert_eq!(ledger.acquire(small), Admission::Granted);
    ledger.enqueue(small, 1).unwrap();
    assert!(!ledger.wants_dial());
}

#[test]
fn no_more_are_dialed_at_once_than_somebody_waits_for() {
    let mut ledger = ledger(8, &[("small", Budget::max(1))]);
    let (a, small) = (ledger.account(&"a".into()), ledger.account(&"small".into()));
    ledger.enqueue(a, 1).unwrap();
    for waiter in 2..=4 {
        ledger.enqueue(small, waiter).unwrap();
    }
    let mut dials = 0;
    while ledger.wants_dial() {
        ledger.dial_started();
        dials += 1;
    }
    assert_eq!(dials, 2, "the small budget holds one");
}

#[test]
fn the_queue_is_bounded() {
    let mut ledger: Ledger<u32> = Ledger::new(1, 2, &Budgets::default());
    let a = ledger.account(&"a".into());
    assert!(ledger.enqueue(a, 1).is_ok() && ledger.enqueue(a, 2).is_ok());
    assert_eq!(ledger.enqueue(a, 3), Err(3));
}

#[test]
fn names_beyond_the_bound_and_invalid_ones_count_as_other() {
    let mut ledger = ledger(1, &[]);
    for n in 0..400 {
        ledger.account(&format!("e{n}").into());
    }
    assert_eq!(ledger.accounts().count(), MAX_ENDPOINTS);
    let late = ledger.account(&"late".into());
    assert_eq!(ledger.account_name(late), &Endpoint::OTHER);
    let mut ledger = self::ledger(1, &[]);
    let bad = ledger.account(&"a\tb".into());
    assert_eq!(ledger.account_name(bad), &Endpoint::OTHER);
}

#[test]
fn a_caller_who_takes_the_name_of_the_shared_connections_counts_as_other() {
    let mut ledger = ledger(4, &[]);
    let early = ledger.account(&Endpoint::LANES);
    assert_eq!(ledger.account_name(early), &Endpoint::OTHER);
    let lanes = ledger.internal_account(&Endpoint::LANES, Budget::max(2).reserve(1));
    assert_eq!(ledger.account_name(lanes), &Endpoint::LANES);
    assert_eq!(ledger.account(&"shared-lanes".into()), early);
    assert_eq!(ledger.internal_account(&Endpoint::LANES, FREE), lanes, "opened once");
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(usize),
    Release(usize, bool),
    Cancel(usize),
    Dial,
    DialFails(bool),
    IdleDies,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize).prop_map(Step::Acquire),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(at, alive)| Step::Release(at, alive)),
        1 => any::<usize>().prop_map(Step::Cancel),
        3 => Just(Step::Dial),
        1 => any::<bool>().prop_map(Step::DialFails),
        1 => Just(Step::IdleDies),
    ]
}

/// What holds at any time, with so many leases out and callers waiting.
fn check(ledger: &Ledger<u32>, leases: usize, waiting: usize) -> Result<(), TestCaseError> {
    let counts = ledger.counts();
    prop_assert!(counts.live + counts.dialing <= 5);
    prop_assert_eq!(counts.live, counts.idle + counts.in_use);
    prop_assert_eq!((counts.in_use, counts.waiting), (leases, waiting));
    for account in ledger.accounts() {
        prop_assert!(account.in_use <= account.max);
    }
    let reserved: usize = ledger.accounts().map(|a| a.reserve.saturating_sub(a.in_use)).sum();
    prop_assert_eq!(ledger.unused_reserve, reserved);
    Ok(())
}

proptest! {
    /// Whatever happens in whatever order: budgets hold, nobody eligible waits beside a free
    /// connection, and every count is back to zero at the end.
    #[test]
    fn the_counts_hold(steps in prop::collection::vec(step(), 1..400)) {
        let budgets = [("a", Budget::max(3).reserve(2)), ("b", Budget::max(2)), ("c", FREE)];
        let mut ledger = ledger(5, &budgets);
        let ids: Vec<_> = budgets.iter().map(|(name, _)| ledger.account(&(*name).into())).collect();
        let mut leases = Vec::new();
        let mut tickets = Vec::new();
        for (n, step) in (0..).zip(steps) {
            match step {
                Step::Acquire(at) => match ledger.acquire(ids[at]) {
                    Admission::Granted => leases.push(ids[at]),
                    Admission::BudgetExhausted | Admission::NoneFree => {
                        if let Ok(ticket) = ledger.enqueue(ids[at], n) {
                            tickets.push((ids[at], ticket, n));
                        }
                    }
                },
                Step::Release(at, alive) if !leases.is_empty() => {
                    ledger.released(leases.swap_remove(at % leases.len()), alive);
                    if !alive {
                        ledger.died(Closed::Otherwise);
                    }
                }
                Step::Cancel(at) if !tickets.is_empty() => {
                    let (account, ticket, _) = tickets.swap_remove(at % tickets.len());
                    prop_assert!(ledger.cancelled(account, ticket).is_some());
                }
                Step::Dial if ledger.wants_dial() => {
                    ledger.dial_started();
                    ledger.connected(false);
                    ledger.restored();
                }
                Step::DialFails(full) if ledger.wants_dial() => {
                    ledger.dial_started();
                    ledger.dial_failed(full, false);
                }
                Step::IdleDies if ledger.counts().idle > 0 => {
                    ledger.withdrawn(1);
                    ledger.died(Closed::Otherwise);
                }
                _ => {}
            }
            while let Some(grant) = ledger.next_grant() {
                tickets.retain(|(_, _, waiter)| *waiter != grant.waiter);
                leases.push(grant.account);
            }
            check(&ledger, leases.len(), tickets.len())?;
        }
        for lease in leases {
            ledger.released(lease, false);
            ledger.died(Closed::Otherwise);
        }
        ledger.drain_queue();
        let left = ledger.counts();
        prop_assert_eq!((left.in_use, left.waiting, left.live), (0, 0, left.idle));
    }
}
