//! What goes past the gate, what moves it, and what becomes known of its server.

use super::*;

/// Not the first dial at the server: of that it is known too little.
fn met() -> (Gate, Instant) {
    let (mut gate, now) = (gate(), Instant::now());
    for _ in 0..2 {
        let dial = approve(&mut gate, now);
        gate.connected(dial, true, Duration::ZERO, now);
    }
    (gate, now)
}

fn configured(base: Duration) -> Gate {
    let backoff = Backoff::without_jitter(base, 100 * base);
    Gate::alone(Some(backoff), Breaker::default(), Duration::from_secs(2), 7)
}

#[tokio::test(start_paused = true)]
async fn failed_calls_in_a_row_open_it_and_one_that_works_begins_the_row_anew() {
    let (mut gate, now) = met();
    for _ in 0..2 {
        for _ in 1..gate.failures_to_trip() {
            gate.heard(gate.era(), failure(Outcome::Refused), now);
            assert!(!gate.is_calm());
        }
        assert_eq!((gate.state(), gate.failures()), (BreakerState::Closed, 4));
        gate.worked(gate.era());
        assert!(gate.is_calm() && gate.failures() == 0);
    }
    for _ in 0..gate.failures_to_trip() {
        gate.heard(gate.era(), failure(Outcome::Refused), now);
    }
    assert_eq!(gate.state(), BreakerState::Open);
    gate.worked(gate.era());
    assert_eq!(gate.state(), BreakerState::Open, "only a dial closes it");
}

#[tokio::test(start_paused = true)]
async fn what_a_call_met_that_began_before_the_last_dial_is_old_news() {
    let (mut gate, now) = met();
    let before = gate.era();
    let dial = approve(&mut gate, now);
    gate.connected(dial, true, Duration::ZERO, now);
    gate.heard(before, failure(Outcome::MaxClients), now);
    assert!(gate.is_calm());
    gate.heard(gate.era(), failure(Outcome::Refused), now);
    gate.worked(before);
    assert!(!gate.is_calm());
    gate.heard_now(failure(Outcome::MaxClients), now);
    assert_eq!((gate.state(), gate.failures()), (BreakerState::Open, 2));
    gate.heard_now(failure(Outcome::MaxClients), now);
    assert_eq!(gate.failures(), 2, "it is open, and waits for a dial");
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_is_disregarded_makes_room_for_the_next_and_says_nothing() {
    let (mut gate, now) = met();
    let stuck = approve(&mut gate, now);
    assert!(gate.is_current(&stuck) && matches!(gate.ask(now), Decision::WaitUntil(_)));
    gate.disregard();
    assert!(!gate.is_current(&stuck));
    let _next = approve(&mut gate, now);
    gate.failed(stuck, false, failure(Outcome::MaxClients), now);
    assert!(gate.is_calm());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_want_of_a_slot_stands_until_room_was_seen_after_it() {
    let (mut gate, now) = met();
    fail(&mut gate, Outcome::Refused, now);
    assert!(!gate.is_refused(), "that is something else");
    let now = due(&mut gate, now);
    fail(&mut gate, Outcome::MaxClients, now);
    assert!(gate.is_refused());
    gate.room_seen(now - MS);
    assert!(gate.is_refused(), "there was room before it");
    gate.room_seen(now);
    assert!(!gate.is_refused());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_nobody_finds_holds_one_pool_back_until_its_place_may_be_known() {
    let (mut gate, now) = (configured(500 * MS), Instant::now());
    gate.unresolved(failure(Outcome::Dns), now);
    assert_eq!(due(&mut gate, now), now + 1000 * MS, "as after a failed dial");
    assert_eq!(gate.failure().map(|failure| failure.outcome), Some(Outcome::Dns));
    gate.resolved();
    fail(&mut gate, Outcome::Auth, now);
    gate.resolved();
    assert!(due(&mut gate, now) > now, "a wrong password has nothing to do with it");
}

#[tokio::test(start_paused = true)]
async fn other_credentials_are_tried_at_once_and_mend_nothing_else() {
    let (mut gate, now) = met();
    fail(&mut gate, Outcome::Denied, now);
    gate.credentials_changed();
    assert!(due(&mut gate, now) > now);
    let (mut gate, now) = met();
    fail(&mut gate, Outcome::Auth, now);
    gate.credentials_changed();
    let _at_once = approve(&mut gate, now);
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_refused_by_what_is_known_while_the_breaker_is_open_and_the_next_dial_not_due()
{
    let (mut gate, now) = met();
    assert_eq!(gate.refused_until_next_dial(now), None);
    fail(&mut gate, Outcome::MaxClients, now);
    let due = due(&mut gate, now);
    let (wait, words) = gate.refused_until_next_dial(now).expect("it is open");
    assert_eq!((wait, words.map(|words| words.outcome)), (due - now, Some(Outcome::MaxClients)));
    assert_eq!(gate.refused_until_next_dial(due), None, "now it has to be asked");
    gate.force(Some(Forced::Closed));
    assert_eq!(gate.refused_until_next_dial(now), None, "an operator wants callers to wait");
    assert!(!gate.is_calm());
    gate.force(None);
    gate.heard_now(failure(Outcome::Timeout), now);
    assert_eq!(gate.refused_until_next_dial(now).map(|(wait, _)| wait), Some(due - now));
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_holds_a_calm_pool_makes_it_one_that_is_not_calm() {
    let (mut gate, now) = met();
    gate.force(Some(Forced::Open));
    assert!(!gate.is_calm());
    assert!(matches!(gate.held_back(now), Some(Decision::Held)));
    gate.force(None);
    assert!(gate.is_calm() && gate.held_back(now).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_is_held_open_does_not_begin_again_with_whoever_comes() {
    let (mut gate, now) = (gate(), Instant::now());
    fail(&mut gate, Outcome::Refused, now);
    let later = now + Duration::from_secs(60);
    gate.force(Some(Forced::Open));
    assert!(refused_for(&gate, later).is_some());
    gate.force(None);
    assert_eq!(gate.verdict(later), Verdict::Wait, "its first dial failed long ago");
}

#[tokio::test(start_paused = true)]
async fn the_size_of_the_fleet_moves_along_to_a_server_where_nobody_knows_it() {
    let members = |server: &Server| server.look(|schedule| schedule.members());
    let (mut gate, now) = (gate(), Instant::now());
    let [unknown, known, last] = [(); 3].map(|()| Server::alone("another", 7));
    gate.move_to(Arc::clone(&unknown), now);
    assert_eq!(members(&unknown), 0, "it is known nowhere");
    known.fleet_of(5);
    gate.move_to(Arc::clone(&known), now);
    assert_eq!(members(&known), 5);
    gate.move_to(Arc::clone(&last), now);
    assert_eq!(members(&last), 5);
    let knows_better = Server::alone("yet another", 7);
    knows_better.fleet_of(9);
    gate.move_to(Arc::clone(&knows_better), now);
    assert_eq!(members(&knows_better), 9);
    assert!(gate.is_at(&knows_better) && !gate.is_at(&last));
}

#[tokio::test(start_paused = true)]
async fn the_pace_of_useless_moves_begins_with_the_first_back_off_and_only_for_those_in_a_row() {
    let moved = |apart: Duration| {
        let (mut gate, mut now) = (configured(100 * MS), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..6 {
            fail(&mut gate, Outcome::Refused, now);
            gate.move_to(Server::alone("another", 7), now);
            waits.push(gate.next_attempt_in(now));
            now += apart;
        }
        waits
    };
    let paced = [0, 0, 0, 200, 400, 800].map(|wait| wait * MS);
    assert_eq!(moved(MOVES_APART - MS), paced);
    assert_eq!(moved(MOVES_APART), [Duration::ZERO; 6], "each of them is the first");
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_wants_no_dial_any_more_or_is_gone_has_no_turn() {
    for gone in [false, true] {
        let (mut gates, now) = (gates(2), Instant::now());
        let mut second = gates.pop().unwrap();
        let mut first = gates.pop().unwrap();
        let dial = approve(&mut second, now);
        assert!(matches!(first.ask(now), Decision::WaitUntil(_)));
        if gone {
            drop(first)
        } else {
            first.leave()
        }
        second.abandoned(dial, now);
        let _at_once = approve(&mut second, now);
    }
    let (mut gates, now) = (gates(2), Instant::now());
    fail(&mut gates[0], Outcome::MaxClients, now);
    gates.iter_mut().for_each(Gate::allow_free_dial);
    drop(gates.pop());
    let _still_free = approve(&mut gates[0], now);
}

#[tokio::test(start_paused = true)]
async fn the_next_in_turn_is_woken_when_the_one_before_it_leaves() {
    let (mut gates, now) = (gates(3), Instant::now());
    let server = Arc::clone(&gates[0].server);
    let _dial = approve(&mut gates[2], now);
    for waits in [0, 1] {
        assert!(matches!(gates[waits].ask(now), Decision::WaitUntil(_)));
    }
    assert!(!wakes(&server, || gates[1].leave()), "it was not its turn");
    assert!(matches!(gates[1].ask(now), Decision::WaitUntil(_)));
    assert!(wakes(&server, || gates[0].leave()));
    assert!(wakes(&server, || gates[1].leave()), "nobody is next");
}

#[tokio::test(start_paused = true)]
async fn a_probe_in_flight_takes_as_long_as_the_first_back_off_for_those_who_are_refused() {
    let (mut gate, now) = (configured(100 * MS), Instant::now());
    fail(&mut gate, Outcome::MaxClients, now);
    let later = due(&mut gate, now);
    let _probe = approve(&mut gate, later);
    assert_eq!(refused_for(&gate, later), Some(100 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lets_a_dial_in_and_refuses_its_password_has_a_slot() {
    let (mut gates, now) = (gates(2), Instant::now());
    fail(&mut gates[0], Outcome::MaxClients, now);
    let later = due(&mut gates[0], now);
    fail(&mut gates[0], Outcome::Auth, later);
    assert!(gates[1].is_calm());
    let _at_once = approve(&mut gates[1], later);

    let (mut gates, now) = (self::gates(2), Instant::now());
    gates[0].set_roomy(true);
    let [full, wrong] = [0, 1].map(|at| approve(&mut gates[at], now));
    gates[0].failed(full, false, failure(Outcome::MaxClients), now);
    gates[1].failed(wrong, false, failure(Outcome::Auth), now);
    assert!(!gates[0].is_calm(), "that dial began before");
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_is_dropped_while_nothing_has_failed_changes_nothing() {
    let (mut gate, now) = met();
    let dial = approve(&mut gate, now);
    gate.abandoned(dial, now);
    assert!(gate.is_calm() && gate.next_attempt_in(now).is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_replacement_into_a_full_server_leaves_the_next_dial_to_the_back_off() {
    let (mut gate, now) = (configured(100 * MS), Instant::now());
    fail(&mut gate, Outcome::MaxClients, now);
    let later = due(&mut gate, now);
    let replacement = approve(&mut gate, later);
    gate.connected(replacement, false, Duration::ZERO, later);
    assert_eq!(due(&mut gate, later), later + 200 * MS);
}

#[tokio::test(start_paused = true)]
async fn one_mass_disconnect_is_spread_once_and_the_next_one_again() {
    let (mut gate, now) = (gate(), Instant::now());
    gate.fleet_of(2_000);
    gate.disconnected(now);
    let spread = gate.next_attempt_in(now);
    gate.disconnected(now);
    assert_eq!(gate.next_attempt_in(now), spread);
    let later = now + spread;
    assert!(gate.next_attempt_in(later).is_zero());
    gate.disconnected(later);
    assert!(!gate.next_attempt_in(later).is_zero());
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_dial_the_back_off_alone_says_when() {
    let (mut gate, now) = (configured(MS), Instant::now());
    gate.fleet_of(2_000);
    let dial = approve(&mut gate, now);
    gate.disconnected(now);
    gate.failed(dial, false, failure(Outcome::Refused), now);
    assert_eq!(due(&mut gate, now), now + 2 * MS, "and not a spread of seconds");
}

#[tokio::test(start_paused = true)]
async fn whoever_sleeps_on_the_schedule_is_woken_for_what_matters_and_for_nothing_else() {
    let (mut gates, now) = (gates(1), Instant::now());
    let mut gate = gates.pop().unwrap();
    let server = Arc::clone(&gate.server);
    let dial = approve(&mut gate, now);
    gate.connected(dial, true, 400 * MS, now);
    assert!(!wakes(&server, || gate.set_roomy(false)), "nothing has changed");
    assert!(wakes(&server, || gate.set_roomy(true)), "the next dial may go sooner");
    assert!(!wakes(&server, || gate.disconnected(now)), "it may go later");
    assert!(wakes(&server, || gate.heard_now(failure(Outcome::MaxClients), now)), "it is open");
    assert!(wakes(&server, || gate.allow_free_dial()));
    assert!(!wakes(&server, || gate.allow_free_dial()), "it has that already");
}

#[tokio::test(start_paused = true)]
async fn no_pools_free_dial_is_everybodys() {
    let (mut gate, now) = (gate(), Instant::now());
    fail(&mut gate, Outcome::MaxClients, now);
    gate.allow_free_dial();
    assert!(gate.server.look(|schedule| schedule.earliest()) > Some(now));
    let _free = approve(&mut gate, now);
}

/// A pool, as far as its breaker goes.
struct Pool(crate::sync::Mutex<Gate>);

impl Overridable for Pool {
    fn breaker_state(&self) -> BreakerState {
        self.0.lock().unwrap().state()
    }

    fn force(self: Arc<Self>, forced: Option<Forced>) {
        self.0.lock().unwrap().force(forced);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operators_handle_holds_the_breaker_until_it_lets_go() {
    let (gate, now) = met();
    let pool = Arc::new(Pool(crate::sync::Mutex::new(gate)));
    let handle = crate::server::BreakerHandle::of(Arc::clone(&pool) as _);
    handle.force_open();
    assert_eq!(handle.state(), BreakerState::Open);
    handle.auto();
    assert_eq!(handle.state(), BreakerState::Closed);
    pool.0.lock().unwrap().heard_now(failure(Outcome::MaxClients), now);
    assert_eq!(handle.state(), BreakerState::Open);
    handle.force_closed();
    assert_eq!(handle.state(), BreakerState::Closed);
}
