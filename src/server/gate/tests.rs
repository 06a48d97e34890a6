use super::*;
use crate::Outcome;

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
    gate.failed(approval, failure(outcome), now);
    gate.take_transition()
}

#[tokio::test(start_paused = true)]
async fn one_refusal_opens_it_and_everybody_hears_the_time_to_the_next_dial() {
    let (mut gate, now) = (gate(), Instant::now());
    let transition = fail(&mut gate, Outcome::MaxClients, now);
    assert_eq!(transition, Some(Transition { from: BreakerState::Closed, to: BreakerState::Open }));
    let due = due(&mut gate, now);
    assert!(due >= now + 50 * MS && due <= now + 100 * MS);
    assert_eq!(gate.verdict(now), Verdict::Refuse { retry_after: due - now });
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
    let (mut gate, mut now) = (gate(), Instant::now());
    let mut delays = Vec::new();
    for _ in 0..10 {
        fail(&mut gate, Outcome::MaxClients, now);
        let next = due(&mut gate, now);
        delays.push(next - now);
        now = next;
    }
    assert!(delays[..6].windows(2).all(|pair| pair[0] < pair[1] * 2), "{delays:?}");
    assert!(delays[7..].iter().all(|delay| *delay >= 2500 * MS && *delay <= 5000 * MS));
}

#[tokio::test(start_paused = true)]
async fn one_dial_at_a_time_and_the_probe_has_a_deadline() {
    let (mut gate, now) = (gate(), Instant::now());
    let slow = approve(&mut gate, now);
    let deadline = due(&mut gate, now);
    assert_eq!(deadline, now + Duration::from_secs(3));
    let second = approve(&mut gate, deadline);
    gate.failed(slow, failure(Outcome::MaxClients), deadline);
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
async fn other_failures_are_waited_out_until_the_fifth() {
    let (mut gate, mut now) = (gate(), Instant::now());
    for n in 1..=5 {
        fail(&mut gate, Outcome::Refused, now);
        let expected = if n < 5 { BreakerState::Closed } else { BreakerState::Open };
        assert_eq!(gate.state(), expected, "after {n}");
        now = due(&mut gate, now);
    }
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
    assert_eq!(gate.verdict(now), Verdict::Refuse { retry_after: Duration::from_secs(5) });
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
