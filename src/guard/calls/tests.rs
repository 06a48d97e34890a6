use super::*;
use crate::policy::Budgets;
use crate::{Backoff, Breaker, Budget, Outcome};

const SECOND: Duration = Duration::from_secs(1);

fn calls(max: usize, endpoints: &[(&'static str, Budget)]) -> Calls<u32> {
    let named = endpoints.iter().map(|(name, budget)| ((*name).into(), *budget)).collect();
    let backoff = Backoff::without_jitter(SECOND / 2, SECOND);
    let gate = Gate::alone(Some(backoff), Breaker::default(), SECOND, 1);
    Calls::new(Ledger::new(max, 100, &Budgets { named, default: None }), Some(gate))
}

fn failure(outcome: Outcome) -> Heard {
    let message = "in its own words".to_owned();
    Heard::Failed(Arc::new(DialFailure { server: "redis".into(), outcome, message }))
}

fn admit(calls: &mut Calls<u32>, name: &'static str) -> Result<(AccountId, Pass), Rejection> {
    let account = calls.ledger.account(&name.into());
    calls.admit(account).0.map(|pass| (account, pass))
}

fn end(calls: &mut Calls<u32>, (account, pass): (AccountId, Pass), heard: Heard) {
    calls.ended(account, pass, heard);
}

/// `count` calls in flight.
fn admitted(calls: &mut Calls<u32>, count: usize) -> Vec<(AccountId, Pass)> {
    (0..count).map(|_| admit(calls, "a").unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_leaves_as_many_as_work_beside_it() {
    let mut calls = calls(16, &[]);
    let mut running = admitted(&mut calls, 6);
    end(&mut calls, running.pop().unwrap(), failure(Outcome::MaxClients));
    assert_eq!(calls.ledger.counts().limit, 5);
    let refused = admit(&mut calls, "a").unwrap_err();
    assert_eq!(refused.reason(), "acquire_timeout");
    end(&mut calls, running.pop().unwrap(), Heard::Worked);
    assert!(matches!(admit(&mut calls, "a"), Ok((_, Pass::Regular { .. }))));
}

#[tokio::test(start_paused = true)]
async fn when_none_works_all_are_refused_until_the_probe() {
    let mut calls = calls(16, &[]);
    for call in admitted(&mut calls, 3) {
        end(&mut calls, call, failure(Outcome::MaxClients));
    }
    let Err(Rejection::BreakerOpen { retry_after, failure: Some(heard), .. }) =
        admit(&mut calls, "a")
    else {
        panic!("not refused")
    };
    assert_eq!((retry_after, heard.outcome), (SECOND, Outcome::MaxClients));
    tokio::time::advance(SECOND).await;
    let probe = admit(&mut calls, "a").unwrap();
    assert!(matches!(probe.1, Pass::Probe { .. }));
    assert!(admit(&mut calls, "a").is_err(), "one probe at a time");
    end(&mut calls, probe, failure(Outcome::MaxClients));
    assert!(admit(&mut calls, "a").is_err(), "one probe a tick");
}

#[tokio::test(start_paused = true)]
async fn room_found_again_is_taken_step_by_step() {
    let mut calls = calls(16, &[]);
    let call = admit(&mut calls, "a").unwrap();
    end(&mut calls, call, failure(Outcome::MaxClients));
    tokio::time::advance(SECOND).await;
    let probe = admit(&mut calls, "a").unwrap();
    end(&mut calls, probe, Heard::Worked);
    assert_eq!(calls.gate().unwrap().state(), BreakerState::Closed);
    let mut limits = vec![calls.ledger.counts().limit];
    while calls.ledger.counts().limit < 16 {
        let running: Vec<_> = std::iter::from_fn(|| admit(&mut calls, "a").ok()).collect();
        running.into_iter().for_each(|call| end(&mut calls, call, Heard::Worked));
        limits.push(calls.ledger.counts().limit);
    }
    assert!(
        limits.len() >= 4 && limits.windows(2).all(|pair| pair[1] <= 2 * pair[0] + 1),
        "{limits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn five_other_failures_in_a_row_refuse_all_and_a_success_between_them_does_not() {
    let mut calls = calls(16, &[]);
    for round in 0..20 {
        let call = admit(&mut calls, "a").unwrap();
        let heard = if round % 5 == 4 { Heard::Worked } else { failure(Outcome::Timeout) };
        end(&mut calls, call, heard);
    }
    for _ in 0..5 {
        let call = admit(&mut calls, "a").unwrap();
        end(&mut calls, call, failure(Outcome::Timeout));
    }
    assert!(matches!(admit(&mut calls, "a"), Err(Rejection::BreakerOpen { .. })));
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_call_from_before_the_probe_is_old_news() {
    let mut calls = calls(16, &[]);
    let mut old = admitted(&mut calls, 2);
    end(&mut calls, old.pop().unwrap(), failure(Outcome::MaxClients));
    tokio::time::advance(SECOND).await;
    let probe = admit(&mut calls, "a").unwrap();
    assert!(matches!(probe.1, Pass::Probe { .. }));
    end(&mut calls, probe, Heard::Worked);
    let limit = calls.ledger.counts().limit;
    end(&mut calls, old.pop().unwrap(), failure(Outcome::MaxClients));
    assert_eq!(calls.gate().unwrap().state(), BreakerState::Closed);
    assert_eq!(calls.ledger.counts().limit, limit);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_is_given_back() {
    let mut calls = calls(4, &[]);
    let call = admit(&mut calls, "a").unwrap();
    end(&mut calls, call, failure(Outcome::MaxClients));
    tokio::time::advance(SECOND).await;
    for _ in 0..3 {
        let probe = admit(&mut calls, "a").unwrap();
        end(&mut calls, probe, Heard::Nothing);
    }
    assert_eq!(calls.ledger.counts().in_use, 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_at_its_max_hears_so_and_does_not_use_up_the_probe() {
    let mut calls = calls(8, &[("a", Budget::max(2))]);
    let mut running = admitted(&mut calls, 2);
    assert_eq!(admit(&mut calls, "a").unwrap_err().reason(), "budget_exhausted");
    running.push(admit(&mut calls, "b").unwrap());
    end(&mut calls, running.pop().unwrap(), failure(Outcome::MaxClients));
    tokio::time::advance(SECOND).await;
    assert!(admit(&mut calls, "a").is_err());
    assert!(matches!(admit(&mut calls, "b"), Ok((_, Pass::Probe { .. }))));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_in_turn_and_refused_when_nothing_works() {
    let mut calls = calls(2, &[]);
    let mut running = admitted(&mut calls, 2);
    let account = calls.ledger.account(&"a".into());
    calls.ledger.enqueue(account, 1).unwrap();
    calls.ledger.enqueue(account, 2).unwrap();
    end(&mut calls, running.pop().unwrap(), Heard::Worked);
    let served = calls.settle();
    assert_eq!(served.admitted.iter().map(|(.., waiter)| *waiter).collect::<Vec<_>>(), [1]);
    running.extend(served.admitted.into_iter().map(|(account, pass, _)| (account, pass)));
    for call in running {
        end(&mut calls, call, failure(Outcome::MaxClients));
    }
    let served = calls.settle();
    let [(_, 2, rejection)] = served.refused.as_slice() else { panic!("{served:?}") };
    assert_eq!(rejection.reason(), "breaker_open");
}

#[tokio::test(start_paused = true)]
async fn an_operator_holds_it_open_or_closed() {
    let mut calls = calls(4, &[]);
    calls.force(Some(Forced::Open));
    assert!(matches!(admit(&mut calls, "a"), Err(Rejection::BreakerOpen { failure: None, .. })));
    calls.force(Some(Forced::Closed));
    for _ in 0..20 {
        let call = admit(&mut calls, "a").unwrap();
        end(&mut calls, call, failure(Outcome::MaxClients));
    }
    calls.force(None);
    assert!(matches!(admit(&mut calls, "a"), Err(Rejection::BreakerOpen { .. })));
    tokio::time::advance(SECOND).await;
    assert!(admit(&mut calls, "a").is_ok());
}
