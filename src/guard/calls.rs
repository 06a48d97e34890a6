//! The calls in flight: who may make one, and what the others' outcomes say about that.
//!
//! A pure state machine over the pool's ledger and gate, `now` passed in. A place in the ledger is
//! a call in flight; the gate's "dial" is a call beyond what is known to work.
//!
//! **Why not a textbook breaker.** A call that hears "max number of clients reached" needed one more
//! connection than the server has; those in flight beside it are on connections that work. So the
//! limit falls to *their* number instead of to zero, and one call beyond it goes out per tick of the
//! back-off, as the probe. Only when no other call is in flight, or when calls fail in a row for
//! another reason, is everybody refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::{AccountId, Admission, Ledger};
use crate::server::gate::{Approval, Decision, Forced, Gate, Transition, Verdict};
use crate::vocabulary::{DialFailure, Phase};
use crate::{BreakerState, Rejection};

#[derive(Debug)]
pub(super) struct Calls<W> {
    pub(super) ledger: Ledger<W>,
    max: usize,
    /// `None`: the breaker is a pool's.
    gate: Option<Gate>,
    /// After a probe that worked, each success raises the limit by one, until it is whole: as in
    /// TCP's slow start, so that the callers do not come back in one burst.
    growing: bool,
    /// Calls in a row that failed for another reason than a full server, while the breaker is open.
    in_a_row: u32,
}

/// How a call came in.
#[derive(Debug)]
pub(super) enum Pass {
    Regular {
        /// The gate's, when it was admitted.
        era: u64,
    },
    /// It tries whether the server has room again.
    Probe { approval: Approval, started: Instant },
}

/// What a call's end says about the server.
#[derive(Debug)]
pub(super) enum Heard {
    Worked,
    Failed(Arc<DialFailure>),
    Nothing,
}

/// Whom a change concerns, once the lock is gone.
#[derive(Debug)]
pub(super) struct Served<W> {
    pub(super) admitted: Vec<(AccountId, Pass, W)>,
    pub(super) refused: Vec<(AccountId, W, Rejection)>,
    pub(super) transition: Option<Transition>,
}

impl<W> Calls<W> {
    pub(super) fn new(ledger: Ledger<W>, gate: Option<Gate>) -> Self {
        let ledger = ledger.all_live();
        let max = ledger.counts().limit;
        Self { ledger, max, gate, growing: false, in_a_row: 0 }
    }

    pub(super) fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// Admits a call if it may go now. Reads the clock only while the limit is lowered, and where it refuses.
    pub(super) fn admit(
        &mut self,
        account: AccountId,
    ) -> (Result<Pass, Rejection>, Option<Transition>) {
        let lowered = self.ledger.counts().limit < self.max;
        let held = self.gate.as_ref().is_some_and(Gate::is_held);
        if !lowered && !held && self.ledger.acquire(account) == Admission::Granted {
            return (Ok(Pass::Regular { era: self.era() }), None);
        }
        let now = Instant::now();
        if let Some(rejection) = self.refusal_while_down(now) {
            return (Err(rejection), None);
        }
        if lowered && !held {
            if self.ledger.may_go_beyond(account)
                // Those who wait come first; see `settle`.
                && !self.ledger.has_next_beyond()
                && let Some((pass, transition)) = self.probe(now)
            {
                self.ledger.acquire_beyond(account);
                return (Ok(pass), transition);
            }
            if self.ledger.acquire(account) == Admission::Granted {
                return (Ok(Pass::Regular { era: self.era() }), None);
            }
        }
        (Err(self.refusal(account, now, Duration::ZERO)), None)
    }

    /// Why nobody may go now, while nothing works and the next probe is known to be later: so it is for all but a
    /// few of those who call during an outage.
    fn refusal_while_down(&self, now: Instant) -> Option<Rejection> {
        let gate = self.gate.as_ref().filter(|_| self.ledger.counts().limit == 0)?;
        let (retry_after, failure) = gate.refused_until_next_dial(now)?;
        Some(Rejection::BreakerOpen { retry_after, failure })
    }

    /// The right to one call whatever the limit says, once per tick of the schedule.
    fn probe(&mut self, now: Instant) -> Option<(Pass, Option<Transition>)> {
        let gate = self.gate.as_mut()?;
        match gate.ask(now) {
            Decision::Dial(approval) => {
                Some((Pass::Probe { approval, started: now }, gate.take_transition()))
            }
            Decision::WaitUntil(_) | Decision::Held => None,
        }
    }

    /// Why a call may not go now.
    pub(super) fn refusal(&self, account: AccountId, now: Instant, waited: Duration) -> Rejection {
        let failure = || self.gate.as_ref().and_then(Gate::failure);
        if let Some(gate) = self.gate.as_ref().filter(|_| self.is_down()) {
            return match gate.verdict(now) {
                Verdict::Fail { retry_after, failure } => {
                    Rejection::ConnectFailed { failure, retry_after }
                }
                Verdict::Refuse { retry_after, failure } => {
                    Rejection::BreakerOpen { retry_after, failure }
                }
                Verdict::Wait => Rejection::BreakerOpen {
                    retry_after: gate.next_attempt_in(now),
                    failure: failure(),
                },
            };
        }
        if self.ledger.is_exhausted(account) {
            return Rejection::BudgetExhausted {
                endpoint: self.ledger.account_name(account).clone(),
                max: self.ledger.account_max(account),
            };
        }
        Rejection::AcquireTimeout { waited, phase: Phase::Connection, failure: failure() }
    }

    /// True if nothing is known to work, so that waiting would be in vain.
    pub(super) fn is_down(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.is_held() || self.ledger.counts().limit == 0)
    }

    /// A regular call has worked. False, and nothing is done, if somebody waits or the server is
    /// recovering, so that it has to be [looked at](Self::ended).
    #[inline]
    pub(super) fn ended_well(&mut self, account: AccountId) -> bool {
        let quiet =
            !self.growing && self.ledger.is_quiet() && self.gate.as_ref().is_none_or(Gate::is_calm);
        if quiet {
            self.ledger.released(account, true);
        }
        quiet
    }

    /// A call is over.
    pub(super) fn ended(
        &mut self,
        account: AccountId,
        pass: Pass,
        heard: Heard,
    ) -> Option<Transition> {
        self.ledger.released(account, true);
        let gate = self.gate.as_mut()?;
        match (pass, heard) {
            (Pass::Regular { .. }, Heard::Nothing) => None,
            (Pass::Regular { era }, Heard::Worked) => {
                if !gate.is_calm() {
                    gate.worked(era);
                    self.in_a_row = 0;
                }
                if self.growing {
                    self.grow();
                }
                None
            }
            (Pass::Regular { era }, Heard::Failed(failure)) => {
                let (now, full) = (Instant::now(), failure.outcome.is_full());
                let current = era == gate.era();
                gate.heard(era, failure, now);
                let transition = gate.take_transition();
                if current && gate.state() != BreakerState::Closed {
                    self.in_a_row += u32::from(!full);
                    let none_works =
                        transition.is_some() || self.in_a_row >= gate.failures_to_trip();
                    if full || none_works {
                        // A probe from before knows no better.
                        gate.disregard();
                        self.shrink(full);
                    }
                }
                transition
            }
            (Pass::Probe { approval, .. }, _) if !gate.is_current(&approval) => None,
            (Pass::Probe { approval, started }, Heard::Worked) => {
                let now = Instant::now();
                gate.connected(approval, true, now - started, now);
                let transition = gate.take_transition();
                self.in_a_row = 0;
                self.growing = true;
                self.grow();
                transition
            }
            (Pass::Probe { approval, .. }, Heard::Failed(failure)) => {
                self.growing = false;
                gate.failed(approval, false, failure, Instant::now());
                gate.take_transition()
            }
            (Pass::Probe { approval, .. }, Heard::Nothing) => {
                gate.abandoned(approval, Instant::now());
                gate.take_transition()
            }
        }
    }

    fn grow(&mut self) {
        let limit = (self.ledger.counts().limit + 1).min(self.max);
        self.growing = limit < self.max;
        self.ledger.allow(Some(limit));
    }

    /// `full`: the other calls in flight are on connections that work; otherwise none is.
    fn shrink(&mut self, full: bool) {
        let counts = self.ledger.counts();
        (self.growing, self.in_a_row) = (false, 0);
        self.ledger.allow(Some(if full { counts.limit.min(counts.in_use) } else { 0 }));
    }

    /// Serves and refuses those who wait; call after every change.
    pub(super) fn settle(&mut self) -> Served<W> {
        let mut served = Served { admitted: Vec::new(), refused: Vec::new(), transition: None };
        if self.ledger.counts().waiting == 0 {
            return served;
        }
        let era = self.era();
        while let Some(grant) = self.ledger.next_grant() {
            served.admitted.push((grant.account, Pass::Regular { era }, grant.waiter));
        }
        if self.ledger.counts().waiting > 0 {
            if self.ledger.counts().limit < self.max
                && self.ledger.has_next_beyond()
                && let Some((pass, transition)) = self.probe(Instant::now())
                && let Some(grant) = self.ledger.next_beyond()
            {
                served.transition = transition;
                served.admitted.push((grant.account, pass, grant.waiter));
            }
            if self.is_down() {
                let (now, waiting) = (Instant::now(), self.ledger.drain_queue());
                served.refused = waiting
                    .into_iter()
                    .map(|(account, waiter)| {
                        (account, waiter, self.refusal(account, now, Duration::ZERO))
                    })
                    .collect();
            }
        }
        served
    }

    /// An operator's override; a breaker that is forced closed lets all through.
    pub(super) fn force(&mut self, forced: Option<Forced>) -> Option<Transition> {
        let gate = self.gate.as_mut()?;
        gate.force(forced);
        let transition = gate.take_transition();
        let (forced, state) = (gate.is_forced(), gate.state());
        if forced && state == BreakerState::Closed {
            self.growing = false;
            self.ledger.allow(Some(self.max));
        } else if !forced && state != BreakerState::Closed {
            // What it heard under the override counts from here on.
            self.shrink(true);
        }
        transition
    }

    fn era(&self) -> u64 {
        self.gate.as_ref().map_or(0, Gate::era)
    }
}

#[cfg(test)]
mod tests;
