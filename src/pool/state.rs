//! What is behind the lock: the pure machines, the counts, and what follows from a change of them.

use std::panic::Location;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::Grant;
use super::leak::{Leases, Seat};
use super::pubsub::Subscriber;
use super::watching::Watched;
use crate::ledger::{AccountId, Ledger};
use crate::server::gate::{Gate, Verdict};
use crate::telemetry::status::{CloseReason, RequestOutcome, Transitions};
use crate::vocabulary::Reason;
use crate::{Endpoint, Outcome, Rejection};

#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger<Waiting>,
    pub(super) leases: Leases,
    pub(super) gate: Gate,
    /// By account.
    pub(super) tallies: Vec<Tally>,
    pub(super) dials: [u64; Outcome::ALL.len()],
    pub(super) closed: [u64; CloseReason::ALL.len()],
    pub(super) transitions: Transitions,
    /// Leases that are held although their socket is closed.
    pub(super) dead_leases: usize,
    /// A connection was lost, or refused, since the watch last looked.
    pub(super) lost: bool,
    pub(super) watch: Watched,
    /// A heartbeat is on its way, and the limit is what is held until its answer.
    pub(super) asking: bool,
    /// The limit, as it was announced last.
    pub(super) announced: usize,
    /// The watch was called since it last looked.
    called: Called,
    dialer_runs: bool,
    maintenance_runs: bool,
}

/// What the watch was called for since it last looked.
#[derive(Debug, Default)]
struct Called {
    lost: bool,
    hungry: bool,
}

/// What happened to an endpoint's callers so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) rejected: [u64; Reason::ALL.len()],
    pub(super) leaks_suspected: u64,
    pub(super) leaks_resolved: u64,
    /// By how the request ended.
    pub(super) requests: [u64; RequestOutcome::ALL.len()],
}

/// Whom a change of the state concerns, once the lock is gone.
#[derive(Default)]
pub(super) struct Wakes {
    pub(super) granted: Vec<(AccountId, Seat, Answer)>,
    pub(super) refused: Vec<(Answer, Rejection)>,
    pub(super) start_dialer: bool,
    pub(super) make_room: bool,
    /// The watch should look: somebody needs a higher limit, or a connection was lost.
    pub(super) call_watch: bool,
}

impl State {
    pub(super) fn new(ledger: Ledger<Waiting>, gate: Gate) -> Self {
        let announced = ledger.counts().limit;
        Self {
            ledger,
            leases: Leases::default(),
            gate,
            tallies: Vec::new(),
            dials: [0; Outcome::ALL.len()],
            closed: [0; CloseReason::ALL.len()],
            transitions: Transitions::new(),
            dead_leases: 0,
            lost: false,
            watch: Watched::default(),
            asking: false,
            announced,
            called: Called::default(),
            dialer_runs: false,
            maintenance_runs: false,
        }
    }

    pub(super) fn settle(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        while let Some(grant) = self.ledger.next_grant() {
            let Waiting { answer, location } = grant.waiter;
            let seat = self.leases.begin(grant.account, location);
            wakes.granted.push((grant.account, seat, answer));
        }
        if self.ledger.counts().waiting > 0
            && let Some(rejection) = self.refusal()
        {
            let queue = self.ledger.drain_queue();
            wakes.refused = queue.into_iter().map(|(_, w)| (w.answer, rejection.clone())).collect();
            // Turned away, so they no longer show that a connection is wanted.
            self.ledger.ask();
        }
        wakes.make_room = self.ledger.makes_room();
        let (lost, hungry) = (self.lost, self.ledger.is_hungry());
        wakes.call_watch = (lost && !self.called.lost) || (hungry && !self.called.hungry);
        self.called.lost |= lost;
        self.called.hungry |= hungry;
        if !self.dialer_runs && self.ledger.wants_dial() {
            self.dialer_runs = true;
            wakes.start_dialer = true;
        }
        wakes
    }

    /// Why nobody can be served now, or soon, if that is so. While something is live, everybody
    /// may wait for it.
    pub(super) fn refusal(&self) -> Option<Rejection> {
        if self.ledger.is_closed() {
            return Some(Rejection::Closed);
        }
        if self.ledger.live() > 0 {
            return None;
        }
        match self.gate.verdict(Instant::now()) {
            Verdict::Wait => None,
            Verdict::Refuse { retry_after } => {
                let failure = self.gate.failure().cloned();
                Some(Rejection::BreakerOpen { retry_after, failure })
            }
            Verdict::Fail { retry_after, failure } => {
                Some(Rejection::ConnectFailed { failure, retry_after })
            }
        }
    }

    /// Why no further connection can be had for now, if that is so.
    pub(super) fn hopeless(&self, now: Instant) -> Option<Rejection> {
        if self.ledger.is_closed() {
            return Some(Rejection::Closed);
        }
        let retry_after = self.gate.next_attempt_in(now);
        // A frozen pool that is watched dials when the server has room, and not before.
        let waits = self.ledger.waits_for_room();
        if self.ledger.counts().dialing > 0 || (retry_after.is_zero() && !waits) {
            return None;
        }
        if let Some(rejection) = self.refusal() {
            return Some(rejection);
        }
        match self.gate.failure().cloned() {
            Some(failure) => Some(Rejection::ConnectFailed { failure, retry_after }),
            None if self.gate.is_held() => {
                Some(Rejection::BreakerOpen { retry_after, failure: None })
            }
            None => None,
        }
    }

    /// Counts a refused caller. The keeper of a lane is none: those for whom it asks are.
    pub(super) fn count_rejection(&mut self, account: AccountId, rejection: &Rejection) {
        if *self.ledger.account_name(account) != Endpoint::LANES {
            self.tally(account).rejected[Reason::of(rejection) as usize] += 1;
        }
    }

    pub(super) fn tally(&mut self, account: AccountId) -> &mut Tally {
        if self.tallies.len() <= account.0 {
            self.tallies.resize_with(account.0 + 1, Tally::default);
        }
        &mut self.tallies[account.0]
    }

    pub(super) fn dialer_stopped(&mut self) {
        self.dialer_runs = false;
    }

    /// True if maintenance is to be started, which is noted as done.
    pub(super) fn wants_maintenance(&mut self) -> bool {
        !self.ledger.is_closed() && !std::mem::replace(&mut self.maintenance_runs, true)
    }

    /// The watch looks now: whether anything was lost since it last did.
    pub(super) fn watch_looks(&mut self) -> bool {
        self.called.lost = false;
        std::mem::take(&mut self.lost)
    }

    /// Callers who wait may call the watch again.
    pub(super) fn heed_calls(&mut self) {
        self.called.hungry = false;
    }

    pub(super) fn maintenance_stopped(&mut self) {
        self.maintenance_runs = false;
    }
}

/// A waiter, as the ledger keeps it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) answer: Answer,
    pub(super) location: &'static Location<'static>,
}

/// How a waiter is woken: with the right to a connection, or with a socket of its own.
#[derive(Debug)]
pub(super) enum Answer {
    Grant(oneshot::Sender<Result<Grant, Rejection>>),
    Subscriber(oneshot::Sender<Result<Subscriber, Rejection>>),
}

impl Answer {
    pub(super) fn refuse(self, rejection: Rejection) {
        // Where the waiter is gone, nobody minds.
        match self {
            Self::Grant(waiter) => drop(waiter.send(Err(rejection))),
            Self::Subscriber(waiter) => drop(waiter.send(Err(rejection))),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Grant(waiter) => waiter.is_closed(),
            Self::Subscriber(waiter) => waiter.is_closed(),
        }
    }
}
