use super::*;
use crate::Outcome;

mod news;

const MS: Duration = Duration::from_millis(1);

fn gate() -> Gate {
    Gate::alone(None, Breaker::default(), Duration::from_secs(2), 7)
}

fn failure(outcome: Outcome) -> Arc<DialFailure> {
    Arc::new(DialFailure { server: "test".into(), outcome, message: String::new() })
}

fn approve(gate: &mut Gate, now: Instant) -> Approval {
    match gate.ask(now) {
        Decision::Dial(approval) => approval,
        other => panic!("expected a dial, got {other:?}"),
    }
}

fn due(gate: &mut Gate, now: Instant) -> Instant {
    match gate.ask(now) {
        Decision::WaitUntil(due) => due,
        other => panic!("expected to wait, got {other:?}"),
    }
}

fn fail(gate: &mut Gate, outcome: Outcome, now: Instant) -> Option<Transition> {
    let approval = approve(gate, now);
    gate.failed(approval, false, failure(outcome), now);
    gate.take_transition()
}

fn fail_with_none_live(gate: &mut Gate, outcome: Outcome, now: Instant) {
    let approval = approve(gate, now);
    gate.failed(approval, true, failure(outcome), now);
}

fn refused_for(gate: &Gate, now: Instant) -> Option<Duration> {
    match gate.verdict(now) {
        Verdict::Refuse { retry_after, .. } => Some(retry_after),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn one_refusal_opens_it_and_everybody_hears_the_time_to_the_next_dial() {
    let (mut gate, now) = (gate(), Instant::now());
    let transition = fail(&mut gate, Outcome::MaxClients, now);
    assert_eq!(transition, Some(Transition { from: BreakerState::Closed, to: BreakerState::Open }));
    let due = due(&mut gate, now);
    assert!(due >= now + 50 * MS && due <= now + 100 * MS);
    assert_eq!(refused_for(&gate, now), Some(due - now));
}

#[tokio::test(start_paused = true)]
async fn the_next_dial_is_the_probe_and_its_success_closes_the_breaker() {
    let (mut gate, now) = (gate(), Instant::now());
    fail(&mut gate, Outcome::MaxClients, now);
    let later = due(&mut gate, now);
    let probe = approve(&mut gate, later);
    assert_eq!(gate.state(), BreakerState::HalfOpen);
    assert!(matches!(gate.verdict(later), Verdict::Refuse { .. }));
    gate.connected(probe, true, MS, later);
    assert_eq!((gate.state(), gate.verdict(later)), (BreakerState::Closed, Verdict::Wait));
    assert_eq!(due(&mut gate, later), later + 3 * MS, "growth leaves a gap");
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_backs_off_further() {
    let (mut gate, now) = (gate(), Instant::now());
    let first = approve(&mut gate, now);
    gate.connected(first, true, MS, now);
    let delays = delays_of(&mut gate, now + 10 * MS, Duration::from_secs(60));
    assert!(delays[..6].windows(2).all(|pair| pair[0] < pair[1] * 2), "{delays:?}");
    assert!(delays[7..].iter().all(|delay| *delay >= 2500 * MS && *delay <= 5000 * MS));
}

/// The delays between the dials of an outage.
fn delays_of(gate: &mut Gate, begun: Instant, outage: Duration) -> Vec<Duration> {
    let (mut now, mut delays) = (begun, Vec::new());
    while now < begun + outage {
        fail(gate, Outcome::MaxClients, now);
        let next = due(gate, now);
        delays.push(next - now);
        now = next;
    }
    delays
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_never_let_us_in_is_asked_more_often_at_first() {
    let now = Instant::now();
    let all = (0..50).map(|seed| {
        let mut gate = Gate::alone(None, Breaker::default(), Duration::from_secs(2), seed);
        delays_of(&mut gate, now, Duration::from_secs(180))
    });
    for delays in all {
        let mut begun = Duration::ZERO;
        for (number, delay) in delays.iter().enumerate() {
            let cap = (begun / 15).clamp(600 * MS, 5_000 * MS);
            assert!(*delay <= cap, "{delay:?} after {begun:?}");
            assert!(number < 4 || *delay >= cap / 2, "{delay:?} after {begun:?}");
            begun += *delay;
        }
        let ends =
            delays.iter().scan(Duration::ZERO, |end, delay| Some(*end).inspect(|_| *end += *delay));
        let early = ends.take_while(|begun| *begun < 8_000 * MS).count();
        assert!((15..=30).contains(&early), "{early} in 8 s");
    }
}

#[tokio::test(start_paused = true)]
async fn one_dial_at_a_time_and_the_probe_has_a_deadline() {
    let (mut gate, now) = (gate(), Instant::now());
    let slow = approve(&mut gate, now);
    let deadline = due(&mut gate, now);
    assert_eq!(deadline, now + Duration::from_secs(3));
    let second = approve(&mut gate, deadline);
    gate.failed(slow, false, failure(Outcome::MaxClients), deadline);
    assert_eq!(gate.take_transition(), None, "stale");
    assert_eq!(gate.failures(), 0);
    gate.connected(second, true, MS, deadline);
}

#[tokio::test(start_paused = true)]
async fn a_stale_success_does_not_close_a_half_open_breaker() {
    let (mut gate, now) = (gate(), Instant::now());
    let slow = approve(&mut gate, now);
    let mut now = due(&mut gate, now);
    fail(&mut gate, Outcome::MaxClients, now);
    now = due(&mut gate, now);
    let _probe = approve(&mut gate, now);
    gate.connected(slow, true, MS, now);
    assert_eq!(gate.state(), BreakerState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_admission_gives_its_probe_back() {
    let (mut gate, now) = (gate(), Instant::now());
    fail(&mut gate, Outcome::MaxClients, now);
    let now = due(&mut gate, now);
    let probe = approve(&mut gate, now);
    gate.abandoned(probe, now);
    assert_eq!(gate.state(), BreakerState::Open);
    let _again = approve(&mut gate, now);
}

#[tokio::test(start_paused = true)]
async fn other_failures_of_a_server_that_let_us_in_are_waited_out_until_the_fifth() {
    let (mut gate, mut now) = (gate(), Instant::now());
    let met = approve(&mut gate, now);
    gate.connected(met, true, Duration::ZERO, now);
    for n in 1..=5 {
        fail(&mut gate, Outcome::Refused, now);
        let expected = if n < 5 { BreakerState::Closed } else { BreakerState::Open };
        assert_eq!(gate.state(), expected, "after {n}");
        now = due(&mut gate, now);
    }
}

#[tokio::test(start_paused = true)]
async fn with_nothing_live_the_first_failed_dial_is_the_answer() {
    for outcome in [Outcome::Refused, Outcome::Unreachable, Outcome::Timeout, Outcome::Loading] {
        let (mut gate, now) = (gate(), Instant::now());
        fail_with_none_live(&mut gate, outcome, now);
        let Verdict::Refuse { retry_after, failure: Some(failure) } = gate.verdict(now) else {
            panic!("{:?}", gate.verdict(now))
        };
        assert_eq!((failure.outcome, retry_after), (outcome, due(&mut gate, now) - now));
        // Nobody has wanted the next one: whoever comes then waits for it, and hears of it.
        let later = due(&mut gate, now) + Duration::from_secs(60);
        assert_eq!(gate.verdict(later), Verdict::Wait);
        fail_with_none_live(&mut gate, outcome, later);
        assert!(refused_for(&gate, later).is_some());
        let probe = due(&mut gate, later);
        let dial = approve(&mut gate, probe);
        assert!(refused_for(&gate, probe).is_some(), "while it is under way");
        gate.connected(dial, true, MS, probe);
        assert_eq!(gate.verdict(probe), Verdict::Wait);
    }
}

#[tokio::test(start_paused = true)]
async fn with_something_live_it_takes_five_failures() {
    let (mut gate, mut now) = (gate(), Instant::now());
    for failures in 1..=5 {
        fail(&mut gate, Outcome::Refused, now);
        assert_eq!(refused_for(&gate, now).is_some(), failures == 5, "{failures}");
        now = due(&mut gate, now);
    }
    let later = now + Duration::from_secs(60);
    assert!(refused_for(&gate, later).is_some(), "until somebody has dialed");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_fails_callers_at_once_on_a_slow_schedule() {
    let (mut gate, now) = (gate(), Instant::now());
    fail(&mut gate, Outcome::Auth, now);
    assert!(matches!(gate.verdict(now), Verdict::Fail { .. }));
    assert!(due(&mut gate, now) >= now + Duration::from_secs(1));
    assert_eq!(gate.state(), BreakerState::Closed);
    let now = due(&mut gate, now);
    assert_eq!(gate.verdict(now), Verdict::Wait, "somebody has to ask for the next dial");
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_hold_it_open_or_closed() {
    let (mut gate, now) = (gate(), Instant::now());
    gate.force(Some(Forced::Open));
    assert!(gate.take_transition().is_some());
    assert!(matches!(gate.ask(now), Decision::Held));
    assert_eq!(refused_for(&gate, now), Some(Duration::from_secs(5)));
    gate.force(Some(Forced::Closed));
    fail(&mut gate, Outcome::MaxClients, now);
    assert_eq!((gate.state(), gate.verdict(now)), (BreakerState::Closed, Verdict::Wait));
    assert!(due(&mut gate, now) > now, "the schedule stays");
    gate.force(None);
    assert_eq!(gate.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_replacement_proves_no_room_and_keeps_the_schedule() {
    let (mut gate, mut now) = (gate(), Instant::now());
    for _ in 0..6 {
        fail(&mut gate, Outcome::MaxClients, now);
        now = due(&mut gate, now);
    }
    fail(&mut gate, Outcome::MaxClients, now);
    let probe = due(&mut gate, now);
    gate.allow_free_dial();
    let replacement = approve(&mut gate, now);
    gate.connected(replacement, false, MS, now);
    assert_eq!((gate.state(), gate.failures()), (BreakerState::Closed, 7));
    assert_eq!(due(&mut gate, now), probe, "one dial was excused, not two");
}

#[tokio::test(start_paused = true)]
async fn the_pace_of_growth_does_not_hold_up_a_pool_that_lost_everything() {
    let (mut gate, now) = (gate(), Instant::now());
    let dial = approve(&mut gate, now);
    gate.connected(dial, true, 400 * MS, now);
    assert_eq!(due(&mut gate, now), now + 1200 * MS);
    gate.lost_all(now);
    assert!(due(&mut gate, now) <= now + 50 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_comes_back_spread_after_a_mass_disconnect() {
    let now = Instant::now();
    let dues: Vec<_> = (0..100)
        .map(|seed| {
            let mut gate = Gate::alone(None, Breaker::default(), Duration::from_secs(2), seed);
            for _ in 0..32 {
                gate.disconnected(now);
            }
            due(&mut gate, now) - now
        })
        .collect();
    assert!(dues.iter().all(|due| *due <= 50 * MS));
    assert!(dues.iter().filter(|due| **due < 25 * MS).count() < 80);
}

#[tokio::test(start_paused = true)]
async fn a_large_fleet_comes_back_over_seconds_and_probes_slowly() {
    let now = Instant::now();
    let firsts: Vec<_> = (0..200)
        .map(|seed| {
            let connect_timeout = Duration::from_secs(2);
            let mut gate = Gate::alone(None, Breaker::default(), connect_timeout, seed);
            gate.fleet_of(1_000);
            gate.disconnected(now);
            due(&mut gate, now) - now
        })
        .collect();
    assert!(firsts.iter().all(|first| *first <= 3_000 * MS));
    assert!(firsts.iter().filter(|first| **first < 300 * MS).count() < 40);

    let (mut gate, mut now) = (gate(), now);
    gate.fleet_of(10_000);
    for _ in 0..20 {
        fail(&mut gate, Outcome::Refused, now);
        now = due(&mut gate, now);
    }
    fail(&mut gate, Outcome::Refused, now);
    assert!(due(&mut gate, now) - now >= 15_000 * MS, "half of 30 s at least");
}

#[tokio::test(start_paused = true)]
async fn a_back_off_that_was_configured_is_kept_whatever_the_fleet() {
    let backoff = Backoff::equal_jitter(50 * MS, 100 * MS);
    let mut gate = Gate::alone(Some(backoff), Breaker::default(), Duration::from_secs(2), 7);
    let mut now = Instant::now();
    gate.fleet_of(10_000);
    for _ in 0..5 {
        fail(&mut gate, Outcome::Refused, now);
        let next = due(&mut gate, now);
        assert!(next - now <= 100 * MS);
        now = next;
    }
}

/// Gates of so many pools at one server.
fn gates(pools: usize) -> Vec<Gate> {
    let server = Server::alone("test", 7);
    let policy = DialPolicy {
        backoff: None,
        breaker: Breaker::default(),
        first_backoff: Backoff::default().base(),
        connect_timeout: Duration::from_secs(2),
    };
    (0..pools).map(|_| Gate::new(Arc::clone(&server), policy, 7)).collect()
}

#[tokio::test(start_paused = true)]
async fn one_pools_refusal_is_every_pools_back_off() {
    let (mut gates, now) = (gates(2), Instant::now());
    fail(&mut gates[0], Outcome::MaxClients, now);
    let due = due(&mut gates[1], now);
    assert_eq!(refused_for(&gates[1], now), Some(due - now));
    let heard = gates[1].failure().map(|failure| failure.outcome);
    assert_eq!(heard, Some(Outcome::MaxClients));
    let transition = Transition { from: BreakerState::Closed, to: BreakerState::Open };
    assert_eq!(gates[1].take_transition(), Some(transition));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_neither_opens_nor_delays_another_pool() {
    let (mut gates, now) = (gates(2), Instant::now());
    for _ in 0..10 {
        let due = due_or_now(&mut gates[0], now);
        fail(&mut gates[0], Outcome::Auth, due);
    }
    assert!(matches!(gates[0].verdict(now), Verdict::Fail { .. }));
    assert_eq!(gates[1].verdict(now), Verdict::Wait);
    let _dial = approve(&mut gates[1], now);
}

fn due_or_now(gate: &mut Gate, now: Instant) -> Instant {
    now + gate.next_attempt_in(now)
}

#[tokio::test(start_paused = true)]
async fn an_override_holds_one_pool() {
    let (mut gates, now) = (gates(2), Instant::now());
    gates[0].force(Some(Forced::Open));
    assert!(matches!(gates[0].ask(now), Decision::Held));
    assert_eq!((gates[0].state(), gates[1].state()), (BreakerState::Open, BreakerState::Closed));
    let _dial = approve(&mut gates[1], now);
}

#[tokio::test(start_paused = true)]
async fn pools_take_turns() {
    let (mut gates, mut now) = (gates(3), Instant::now());
    let mut order = Vec::new();
    for _ in 0..9 {
        // The first to ask is always the same, and has its turn like the others all the same.
        let (at, approval) = (0..3)
            .cycle()
            .find_map(|at| match gates[at].ask(now) {
                Decision::Dial(approval) => Some((at, approval)),
                Decision::WaitUntil(due) if at == 2 => {
                    now = now.max(due.min(now + 10 * MS));
                    None
                }
                _ => None,
            })
            .unwrap();
        gates[at].failed(approval, false, failure(Outcome::Refused), now);
        order.push(at);
    }
    // When the first dials nobody else has asked yet.
    assert_eq!(order, [0, 0, 1, 2, 0, 1, 2, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_leaves_its_turn_unused_is_passed_over_after_a_moment() {
    let (mut gates, now) = (gates(2), Instant::now());
    let dial = approve(&mut gates[1], now);
    assert!(matches!(gates[0].ask(now), Decision::WaitUntil(_)));
    assert!(matches!(gates[1].ask(now), Decision::WaitUntil(_)));
    gates[1].abandoned(dial, now);
    let passed_over = due(&mut gates[1], now);
    assert!(passed_over > now && passed_over <= now + 100 * MS);
    let _dial = approve(&mut gates[1], passed_over);
}

#[tokio::test(start_paused = true)]
async fn four_at_once_where_there_is_room_and_one_refusal_ends_that() {
    let (mut gates, now) = (gates(2), Instant::now());
    gates[0].set_roomy(true);
    let mut dials: Vec<_> = (0..4).map(|n| approve(&mut gates[n % 2], now)).collect();
    assert!(matches!(gates[0].ask(now), Decision::WaitUntil(_)), "a fifth waits");
    gates[0].failed(dials.remove(0), false, failure(Outcome::MaxClients), now);
    // They started before it was known, and say nothing about after it.
    gates[1].failed(dials.remove(0), false, failure(Outcome::MaxClients), now);
    gates[0].connected(dials.remove(0), true, MS, now);
    gates[1].abandoned(dials.remove(0), now);
    assert_eq!((gates[0].failures(), gates[0].state()), (1, BreakerState::Open));
    let due = due(&mut gates[1], now);
    assert!(due <= now + 100 * MS, "one back-off, not four");
    let _probe = approve(&mut gates[0], due);
    assert!(matches!(gates[1].ask(due), Decision::WaitUntil(_)), "one at a time");
}

#[tokio::test(start_paused = true)]
async fn the_longest_back_off_and_the_most_impatient_breaker_of_those_that_wait_decide() {
    let (server, now) = (Server::alone("test", 7), Instant::now());
    let gate = |cap: Duration, failures| {
        let policy = DialPolicy {
            backoff: Some(Backoff::without_jitter(cap, cap)),
            breaker: Breaker::default().failures(failures),
            first_backoff: Backoff::default().base(),
            connect_timeout: Duration::from_secs(2),
        };
        Gate::new(Arc::clone(&server), policy, 7)
    };
    let (mut quick, mut slow) = (gate(10 * MS, 2), gate(500 * MS, 3));
    fail(&mut quick, Outcome::Refused, now);
    assert_eq!(due(&mut quick, now), now + 10 * MS, "the other does not wait");
    assert!(matches!(slow.ask(now), Decision::WaitUntil(_)));
    let now = now + 200 * MS;
    let dial = approve(&mut quick, now);
    assert!(matches!(slow.ask(now), Decision::WaitUntil(_)));
    quick.failed(dial, false, failure(Outcome::Refused), now);
    assert_eq!(due(&mut quick, now), now + 500 * MS);
    assert_eq!(slow.state(), BreakerState::Open, "after the second");
}

#[tokio::test(start_paused = true)]
async fn the_slot_that_a_pool_freed_is_that_pools_to_dial() {
    let (mut gates, now) = (gates(2), Instant::now());
    fail(&mut gates[0], Outcome::MaxClients, now);
    assert!(matches!(gates[0].ask(now), Decision::WaitUntil(_)));
    gates[1].allow_free_dial();
    assert!(matches!(gates[0].ask(now), Decision::WaitUntil(_)));
    let _at_once = approve(&mut gates[1], now);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_is_counted_in_processes() {
    let (mut gates, mut now) = (gates(8), Instant::now());
    gates[0].fleet_of(8_000);
    for _ in 0..12 {
        fail(&mut gates[0], Outcome::Refused, now);
        let next = due(&mut gates[0], now);
        let cap = Duration::from_millis(5_300);
        assert!(next <= now + cap, "eight pools here are one that dials, of a thousand");
        now = next;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_comes_new_does_not_dial_by_what_was_seen_before_it() {
    let (mut gates, now) = (gates(1), Instant::now());
    gates[0].set_roomy(true);
    let server = Arc::clone(&gates[0].server);
    let mut new = Gate::new(server, gates[0].policy, 1);
    let _first = approve(&mut new, now);
    assert!(matches!(new.ask(now), Decision::WaitUntil(_)), "one dial at a time");
}

/// Whether whoever sleeps on the schedule is woken.
fn wakes(server: &Server, act: impl FnOnce()) -> bool {
    let mut changed = std::pin::pin!(server.schedule_changed());
    changed.as_mut().enable();
    act();
    let waker = std::task::Waker::noop();
    changed.poll(&mut std::task::Context::from_waker(waker)).is_ready()
}

#[tokio::test(start_paused = true)]
async fn a_free_dial_wakes_its_pool_although_another_has_one_unused() {
    let (mut gates, now) = (gates(2), Instant::now());
    let server = Arc::clone(&gates[0].server);
    fail(&mut gates[0], Outcome::MaxClients, now);
    assert!(matches!(gates[1].ask(now), Decision::WaitUntil(_)));
    gates[0].allow_free_dial();
    assert!(wakes(&server, || gates[1].allow_free_dial()));
    let _both = [approve(&mut gates[1], now)];
}

#[tokio::test(start_paused = true)]
async fn room_that_was_seen_does_not_undo_the_spread_after_a_disconnect() {
    let (mut gate, now) = (gate(), Instant::now());
    gate.fleet_of(2_000);
    gate.disconnected(now);
    let spread = gate.next_attempt_in(now);
    gate.set_roomy(true);
    assert_eq!(gate.next_attempt_in(now), spread);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_at_the_server_before_is_not_the_next_ones() {
    let (mut gates, mut moving, now) = (gates(1), gate(), Instant::now());
    let before = approve(&mut moving, now);
    let theirs = approve(&mut gates[0], now);
    moving.move_to(Arc::clone(&gates[0].server), now);
    moving.failed(before, false, failure(Outcome::MaxClients), now);
    assert!(gates[0].is_current(&theirs));
    assert_eq!(gates[0].state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_was_passed_over_stands_in_nobodys_way_any_more() {
    let (mut gates, now) = (gates(2), Instant::now());
    let dial = approve(&mut gates[1], now);
    // It asks once, and never again: its runtime stands still.
    assert!(matches!(gates[0].ask(now), Decision::WaitUntil(_)));
    gates[1].abandoned(dial, now);
    let passed_over = due(&mut gates[1], now);
    let dial = approve(&mut gates[1], passed_over);
    gates[1].abandoned(dial, passed_over);
    let _at_once = approve(&mut gates[1], passed_over);
}

/// Whoever names the servers may contradict himself for ever.
#[tokio::test(start_paused = true)]
async fn moves_from_one_useless_server_to_the_next_are_paced() {
    for outcome in [Outcome::WrongRole, Outcome::Refused, Outcome::Timeout] {
        let (mut gate, mut now) = (gate(), Instant::now());
        let began = now;
        let mut waits = Vec::new();
        for _ in 0..12 {
            let next = due_or_now(&mut gate, now);
            waits.push(next - now);
            now = next;
            fail(&mut gate, outcome, now);
            gate.move_to(Server::alone("another", 7), now);
        }
        assert_eq!(waits[..4], [Duration::ZERO; 4], "each of a few is tried at once");
        assert!(now - began > Duration::from_secs(2), "{outcome}: {waits:?}");

        let next = due_or_now(&mut gate, now);
        let approval = approve(&mut gate, next);
        gate.connected(approval, true, MS, next);
        gate.move_to(Server::alone("another", 7), next);
        assert!(gate.next_attempt_in(next).is_zero(), "that was a server to use");
    }
}

/// Soon, for the name may move at any moment; and nobody else is held back.
#[tokio::test(start_paused = true)]
async fn a_replica_where_a_primary_is_wanted_is_dialed_again_within_half_a_second() {
    let (mut gates, mut now) = (gates(2), Instant::now());
    for _ in 0..20 {
        fail(&mut gates[0], Outcome::WrongRole, now);
        assert_eq!(gates[0].verdict(now), Verdict::Wait);
        assert!(gates[1].held_back(now).is_none());
        let next = due(&mut gates[0], now);
        assert!(next > now && next <= now + Duration::from_millis(500));
        now = next;
    }
}

/// What was read of the schedule is kept until it changes, whoever changes it.
#[tokio::test(start_paused = true)]
async fn a_refusal_tells_of_the_last_failure_whichever_pool_it_met() {
    let (mut gates, now) = (gates(2), Instant::now());
    fail(&mut gates[0], Outcome::MaxClients, now);
    let first = due(&mut gates[0], now);
    assert_eq!(refused_for(&gates[1], now), Some(first - now));
    assert_eq!(refused_for(&gates[1], first), Some(Duration::ZERO));

    fail(&mut gates[0], Outcome::Timeout, first);

    let second = due(&mut gates[0], first);
    assert!(second > first);
    let Verdict::Refuse { retry_after, failure } = gates[1].verdict(first) else {
        panic!("the breaker is open")
    };
    assert_eq!(retry_after, second - first);
    assert_eq!(failure.map(|failure| failure.outcome), Some(Outcome::Timeout));
}

#[tokio::test(start_paused = true)]
async fn a_free_dial_that_waits_for_the_one_in_flight_is_told_of_its_end_however_long_the_back_off()
{
    let server = Server::alone("test", 7);
    let slow = DialPolicy {
        backoff: Some(Backoff::equal_jitter(Duration::from_secs(60), Duration::from_secs(60))),
        breaker: Breaker::default(),
        first_backoff: Backoff::default().base(),
        connect_timeout: Duration::from_secs(2),
    };
    let [mut dials, mut freed] = [(); 2].map(|()| Gate::new(Arc::clone(&server), slow, 7));
    let now = Instant::now();
    let approval = approve(&mut dials, now);
    freed.allow_free_dial();
    assert!(due(&mut freed, now) < now + Duration::from_secs(4), "until the dial is given up");

    let mut changed = tokio_test::task::spawn(server.schedule_changed());
    tokio_test::assert_pending!(changed.poll());
    dials.failed(approval, false, failure(Outcome::Refused), now);
    tokio_test::assert_ready!(changed.poll());
    let _free = approve(&mut freed, now);
}
