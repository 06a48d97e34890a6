//! A pool's gate: its own reasons not to dial, before the schedule that all pools of the process
//! share at one server.
//!
//! What is the pool's own: an operator's override, and failures of its credentials or configuration.
//! They neither open nor delay the others.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::Server;
use super::schedule::{Answer, Outlook};
use crate::policy::{Backoff, Breaker, BreakerState};
use crate::vocabulary::{DialFailure, Outcome};

pub(crate) use super::schedule::DialPolicy;

/// Back-off after a failure that is not about capacity (credentials, protected mode,
/// configuration). Somebody has to change something, so a dial every half minute is enough.
const SLOW: Backoff = Backoff::equal_jitter(Duration::from_secs(1), Duration::from_secs(30));

/// The cap of the back-off while the server is a replica and the pool wants a primary, in first
/// back-offs, and at most: its name may move at any moment, and writes are to be back within a second
/// of that.
const PROMOTION: u32 = 10;
const LONGEST_PROMOTION: Duration = Duration::from_secs(1);

/// After so many moves in a row to servers none of which could be used, the next one is dialed by the
/// back-off as well: those who name the servers may contradict each other for ever. Of a failover's two
/// servers, and of three replicas, each is tried at once.
const MOVES_AT_ONCE: u32 = 3;
/// A move is in a row with one that was so long before.
const MOVES_APART: Duration = Duration::from_secs(30);

/// One pool's gate at one server.
pub struct Gate {
    server: Arc<Server>,
    /// This gate's number at the server.
    id: u64,
    policy: DialPolicy,
    forced: Option<Forced>,
    /// The last dial's failure, if that is the pool's own trouble.
    own: Option<OwnFailure>,
    own_failures: u32,
    /// The moves in a row, and the last of them.
    moves: (u32, Option<Instant>),
    rng: Rng,
    /// The state that [`take_transition`](Self::take_transition) told of last.
    announced: BreakerState,
    next: RefCell<NextDial>,
}

/// What a caller who is refused is told of the schedule.
#[derive(Default)]
struct NextDial {
    /// The change of the schedule after which this was so.
    as_of: Option<u64>,
    due: Option<Instant>,
    /// A dial is in flight, which takes about that long.
    probing: Option<Duration>,
    failure: Option<Arc<DialFailure>>,
}

#[derive(Debug)]
struct OwnFailure {
    failure: Arc<DialFailure>,
    delay: Duration,
    next_dial: Instant,
    /// It was not dialed: nobody knew where the server is.
    unresolved: bool,
}

/// An operator's override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forced {
    /// No dials, and no waiting for one.
    Open,
    /// Callers always wait for the next dial; the schedule stays.
    Closed,
}

/// The right to make one dial. Hand it back with what became of it.
#[derive(Debug)]
#[must_use]
pub struct Approval {
    generation: u64,
    /// By whose schedule: the pool's server may have moved when the dial ends.
    server: Arc<Server>,
}

/// Whether a dial may start now.
#[derive(Debug)]
pub enum Decision {
    /// Now.
    Dial(Approval),
    /// Not before then, unless the schedule changes.
    WaitUntil(Instant),
    /// The breaker is forced open: not until an operator lets go of it.
    Held,
}

/// What a caller hears when nothing is live.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Wait for the next dial.
    Wait,
    /// The breaker is open.
    Refuse { retry_after: Duration, failure: Option<Arc<DialFailure>> },
    /// The last dial failed for good.
    Fail { retry_after: Duration, failure: Arc<DialFailure> },
}

/// A change of the breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) from: BreakerState,
    pub(crate) to: BreakerState,
}

impl Gate {
    /// A gate at a server that no other pool shares. `backoff`: `None` for the default one, whose cap
    /// follows the size of the fleet.
    #[must_use]
    pub fn alone(
        backoff: Option<Backoff>,
        breaker: Breaker,
        connect_timeout: Duration,
        seed: u64,
    ) -> Self {
        let server = Server::alone("", seed);
        let first_backoff = Backoff::default().base();
        let policy = DialPolicy { backoff, first_backoff, breaker, connect_timeout };
        Self::new(server, policy, seed)
    }

    pub(crate) fn new(server: Arc<Server>, policy: DialPolicy, seed: u64) -> Self {
        Self {
            id: server.attach(),
            server,
            policy,
            forced: None,
            own: None,
            own_failures: 0,
            moves: (0, None),
            rng: Rng::with_seed(seed),
            announced: BreakerState::Closed,
            next: RefCell::default(),
        }
    }

    /// Stands before another server from now on. What failed at the one before says nothing of it, unless one
    /// move after the other fails. An override stays, and so does the known size of the fleet.
    pub(crate) fn move_to(&mut self, server: Arc<Server>, now: Instant) {
        let failure = self.failure();
        let members = self.server.look(|schedule| schedule.members());
        let id = server.attach();
        if members > 0 && server.look(|schedule| schedule.members()) == 0 {
            server.change(|schedule| schedule.fleet_of(members));
        }
        std::mem::replace(&mut self.server, server).detach(std::mem::replace(&mut self.id, id));
        (self.own, self.own_failures) = (None, 0);
        self.next = RefCell::default();
        let (moves, last) = self.moves;
        let in_a_row = last.is_some_and(|last| now < last + MOVES_APART);
        let moves = if in_a_row { moves.saturating_add(1) } else { 1 };
        self.moves = (moves, Some(now));
        if let (Some(failure), true) = (failure, moves > MOVES_AT_ONCE) {
            self.own_failures = moves - MOVES_AT_ONCE - 1;
            let backoff = self.own_backoff(failure.outcome).unwrap_or_else(|| self.backoff(now));
            self.own_failed(failure, backoff, now);
        }
    }

    /// Whether it stands before that server.
    pub(crate) fn is_at(&self, server: &Arc<Server>) -> bool {
        Arc::ptr_eq(&self.server, server)
    }

    /// The place of the server could not be found: this pool backs off as after a failed dial.
    pub(crate) fn unresolved(&mut self, failure: Arc<DialFailure>, now: Instant) {
        self.own_failed(failure, self.backoff(now), now);
        if let Some(own) = &mut self.own {
            own.unresolved = true;
        }
    }

    /// The place of the server may be known by now.
    pub(crate) fn resolved(&mut self) {
        if self.own.as_ref().is_some_and(|own| own.unresolved) {
            (self.own, self.own_failures) = (None, 0);
        }
    }

    /// The back-off after a failure that is the pool's own trouble.
    fn own_backoff(&self, outcome: Outcome) -> Option<Backoff> {
        match outcome {
            Outcome::WrongRole => {
                let first = self.policy.first_backoff;
                let cap = (first * PROMOTION).min(LONGEST_PROMOTION);
                Some(Backoff::equal_jitter(first, cap))
            }
            outcome => outcome.is_permanent().then_some(SLOW),
        }
    }

    fn own_failed(&mut self, failure: Arc<DialFailure>, backoff: Backoff, now: Instant) {
        self.own_failures = self.own_failures.saturating_add(1);
        let previous = self.own.as_ref().map_or(Duration::ZERO, |own| own.delay);
        let delay = backoff.delay(self.own_failures, previous, &mut self.rng);
        self.own = Some(OwnFailure { failure, delay, next_dial: now + delay, unresolved: false });
    }

    /// A refusal of the credentials before says nothing of those that are used from now on.
    pub(crate) fn credentials_changed(&mut self) {
        if self.own.as_ref().is_some_and(|own| own.failure.outcome == Outcome::Auth) {
            (self.own, self.own_failures) = (None, 0);
        }
    }

    /// How many we are is known, counted in pools like this one.
    pub fn fleet_of(&mut self, members: usize) {
        self.server.fleet_of(members);
    }

    /// Asks for a dial.
    pub fn ask(&mut self, now: Instant) -> Decision {
        if let Some(decision) = self.held_back(now) {
            return decision;
        }
        match self.server.change(|schedule| schedule.ask(self.id, &self.policy, now)) {
            Answer::Dial(generation) => {
                Decision::Dial(Approval { generation, server: Arc::clone(&self.server) })
            }
            Answer::WaitUntil(due) => Decision::WaitUntil(due),
        }
    }

    /// Why this pool does not dial whatever the schedule says, if that is so; then it is the others'
    /// turn.
    pub(crate) fn held_back(&self, now: Instant) -> Option<Decision> {
        let not_before = self.own.as_ref().map(|own| own.next_dial).filter(|due| *due > now);
        let decision = match (self.is_held(), not_before) {
            (true, _) => Some(Decision::Held),
            (false, due) => due.map(Decision::WaitUntil),
        };
        if decision.is_some() {
            self.leave();
        }
        decision
    }

    /// No dial is wanted any more, so that it is another pool's turn.
    pub(crate) fn leave(&self) {
        self.server.change(|schedule| schedule.leave(self.id));
    }

    /// The dial succeeded. `room`: the server had a slot that was not ours before, so the schedule
    /// starts anew. A mere replacement says nothing about room, and leaves it as it is.
    pub fn connected(&mut self, approval: Approval, room: bool, took: Duration, now: Instant) {
        (self.own, self.own_failures) = (None, 0);
        self.moves.0 = 0;
        let Approval { generation, server } = approval;
        server.change(|schedule| schedule.connected(generation, &self.policy, room, took, now));
    }

    /// The dial failed: everybody backs off, or only this pool where it is its own trouble. `none_live`: the
    /// pool has no connection that lives, so that whoever waits for one waits for nothing else.
    pub fn failed(
        &mut self,
        approval: Approval,
        none_live: bool,
        failure: Arc<DialFailure>,
        now: Instant,
    ) {
        let Approval { generation, server } = approval;
        if let Some(backoff) = self.own_backoff(failure.outcome) {
            let current = server.change(|schedule| {
                let current = schedule.is_current(generation);
                schedule.answered(generation, now);
                current
            });
            if current {
                self.own_failed(failure, backoff, now);
            }
        } else {
            (self.own, self.own_failures) = (None, 0);
            let policy = &self.policy;
            server.change(|schedule| schedule.failed(generation, policy, none_live, failure, now));
        }
    }

    /// See [`Schedule::heard`](super::schedule::Schedule::heard).
    pub(crate) fn heard(&mut self, era: u64, failure: Arc<DialFailure>, now: Instant) {
        self.server.change(|schedule| schedule.heard(era, &self.policy, failure, now));
    }

    /// The same for what was heard just now.
    pub(crate) fn heard_now(&mut self, failure: Arc<DialFailure>, now: Instant) {
        self.server.change(|schedule| {
            schedule.heard(schedule.era(), &self.policy, failure, now);
        });
    }

    /// Something that went past the gate succeeded: its failures are no longer in a row.
    pub(crate) fn worked(&mut self, era: u64) {
        self.server.change(|schedule| schedule.worked(era));
    }

    /// Gives up the dials in flight: their outcomes are old news.
    pub(crate) fn disregard(&mut self) {
        self.server.change(|schedule| schedule.disregard());
    }

    /// True unless the dial was given up.
    pub(crate) fn is_current(&self, approval: &Approval) -> bool {
        approval.server.look(|schedule| schedule.is_current(approval.generation))
    }

    /// How many failures in a row trip the breaker.
    pub(crate) fn failures_to_trip(&self) -> u32 {
        self.policy.breaker.failures_to_trip()
    }

    /// The generation under which [`heard`](Self::heard) and [`worked`](Self::worked) count.
    pub(crate) fn era(&self) -> u64 {
        self.server.era()
    }

    /// True while there is nothing to recover from, and no override.
    pub(crate) fn is_calm(&self) -> bool {
        self.forced.is_none() && self.server.is_calm()
    }

    /// The dial was dropped before it ended: the probe is given back, nothing is learned.
    pub fn abandoned(&mut self, approval: Approval, now: Instant) {
        approval.server.change(|schedule| schedule.abandoned(approval.generation, now));
    }

    /// The server closed a connection, perhaps everybody's: the next dial is spread, so that a
    /// fleet does not come back in one burst.
    pub fn disconnected(&mut self, now: Instant) {
        self.server.change(|schedule| schedule.disconnected(now));
    }

    /// Nothing is live any more: the pace of growth is no reason to wait.
    pub fn lost_all(&mut self, now: Instant) {
        self.server.change(|schedule| schedule.lost_all(now));
    }

    /// We closed a connection while the server was full: its slot is there for one dial at once.
    pub(crate) fn allow_free_dial(&mut self) {
        self.server.change(|schedule| schedule.allow_free_dial(self.id));
    }

    /// True if the server has refused a pool of this process for want of a slot, and was not seen to
    /// have room since.
    pub(crate) fn is_refused(&self) -> bool {
        self.server.look(|schedule| schedule.refused().is_some())
    }

    /// The server, asked since then, had room.
    pub(crate) fn room_seen(&mut self, since: Instant) {
        self.server.change(|schedule| schedule.room_seen(since));
    }

    /// Whether the server is known to have plenty of room.
    pub(crate) fn set_roomy(&mut self, roomy: bool) {
        self.server.change(|schedule| schedule.set_roomy(roomy));
    }

    fn backoff(&self, now: Instant) -> Backoff {
        self.policy.backoff(self.server.look(|schedule| schedule.outlook(now)))
    }

    /// What a caller hears, given that nothing is live.
    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        match (self.state(), &self.own) {
            (BreakerState::Open | BreakerState::HalfOpen, _) => match self.begins_again(now) {
                true => Verdict::Wait,
                false => self.refuse(now),
            },
            // The next dial is soon, and may find the primary.
            (BreakerState::Closed, Some(own)) if own.failure.outcome == Outcome::WrongRole => {
                Verdict::Wait
            }
            (BreakerState::Closed, Some(own)) if self.forced.is_none() && own.next_dial > now => {
                let retry_after = self.next_attempt_in(now);
                Verdict::Fail { retry_after, failure: Arc::clone(&own.failure) }
            }
            (BreakerState::Closed, _) => Verdict::Wait,
        }
    }

    /// See [`Schedule::begin_again`](super::schedule::Schedule::begin_again).
    fn begins_again(&self, now: Instant) -> bool {
        let is_due = {
            let next = self.next_dial();
            next.probing.is_none() && next.due.is_none_or(|due| due <= now)
        };
        !self.is_forced()
            && is_due
            && self.server.change(|schedule| schedule.begin_again(self.id, now))
    }

    /// The time to the next dial as a caller hears it: a probe in flight takes a round trip, and not its
    /// whole deadline. That says nothing about what holds this pool alone back.
    fn refuse(&self, now: Instant) -> Verdict {
        if self.is_held() {
            return Verdict::Refuse {
                retry_after: self.next_attempt_in(now),
                failure: self.failure(),
            };
        }
        let next = self.next_dial();
        let due = next.due.map(|due| due.saturating_duration_since(now)).unwrap_or_default();
        let (retry_after, failure) = self.told_of(&next, due, now);
        Verdict::Refuse { retry_after, failure }
    }

    /// What a caller hears while the breaker is open and the schedule allows no dial yet; `None` where it has to
    /// be asked.
    pub(crate) fn refused_until_next_dial(
        &self,
        now: Instant,
    ) -> Option<(Duration, Option<Arc<DialFailure>>)> {
        if self.is_forced() || self.server.state() == BreakerState::Closed {
            return None;
        }
        let next = self.next_dial();
        let due = next.due?.checked_duration_since(now).filter(|due| !due.is_zero())?;
        Some(self.told_of(&next, due, now))
    }

    fn told_of(
        &self,
        next: &NextDial,
        due: Duration,
        now: Instant,
    ) -> (Duration, Option<Arc<DialFailure>>) {
        let own = self.own.as_ref().map(|own| own.next_dial.saturating_duration_since(now));
        let shared = due.min(next.probing.unwrap_or(Duration::MAX));
        (shared.max(own.unwrap_or_default()), self.worst(next.failure.clone()))
    }

    /// The next dial by the schedule, which is looked at only if it has changed: this is on the path of
    /// every refusal.
    fn next_dial(&self) -> RefMut<'_, NextDial> {
        let mut next = self.next.borrow_mut();
        // Read first: a change that comes after it is seen the next time.
        let changes = self.server.changes();
        if next.as_of != Some(changes) {
            *next = self.server.look(|schedule| NextDial {
                as_of: Some(changes),
                due: schedule.due(self.id),
                probing: schedule.is_dialing().then(|| self.policy.base()),
                failure: schedule.failure().cloned(),
            });
        }
        next
    }

    /// Time to the next dial, or to the end of the one in flight. Where the breaker is forced
    /// open nobody knows; the back-off's cap is the pace at which to ask again.
    pub(crate) fn next_attempt_in(&self, now: Instant) -> Duration {
        if self.is_held() {
            let members = self.server.look(|schedule| schedule.members());
            return self.policy.backoff(Outlook::Fleet { members }).cap();
        }
        let own = self.own.as_ref().map(|own| own.next_dial);
        let due = self.server.look(|schedule| schedule.due(self.id)).max(own);
        due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    /// The breaker's state, an operator's override included.
    pub(crate) fn state(&self) -> BreakerState {
        match self.forced {
            Some(Forced::Open) => BreakerState::Open,
            Some(Forced::Closed) => BreakerState::Closed,
            None => self.server.state(),
        }
    }

    /// The change of the breaker's state since it was last asked for, whoever brought it about.
    pub(crate) fn take_transition(&mut self) -> Option<Transition> {
        let to = self.state();
        let from = std::mem::replace(&mut self.announced, to);
        (from != to).then_some(Transition { from, to })
    }

    pub(crate) fn is_forced(&self) -> bool {
        self.forced.is_some()
    }

    /// True while an operator holds it open.
    pub(crate) fn is_held(&self) -> bool {
        self.forced == Some(Forced::Open)
    }

    pub(crate) fn failures(&self) -> u32 {
        self.server.look(|schedule| schedule.failures()).max(self.own_failures)
    }

    /// The last dial's failure, if the last dial failed.
    pub(crate) fn failure(&self) -> Option<Arc<DialFailure>> {
        self.worst(self.server.look(|schedule| schedule.failure().cloned()))
    }

    /// What stands in the way: while the server refuses everybody, that it does.
    fn worst(&self, servers: Option<Arc<DialFailure>>) -> Option<Arc<DialFailure>> {
        let own = || self.own.as_ref().map(|own| Arc::clone(&own.failure));
        if self.server.is_calm() { own().or(servers) } else { servers.or_else(own) }
    }

    /// An operator's override; `None` takes it back.
    pub(crate) fn force(&mut self, forced: Option<Forced>) {
        self.forced = forced;
    }
}

/// What has a breaker that an operator can override.
pub(crate) trait Overridable: Send + Sync {
    /// The state, an override included.
    fn breaker_state(&self) -> BreakerState;
    /// Holds it there; `None` takes the override back.
    fn force(self: Arc<Self>, forced: Option<Forced>);
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.detach(self.id);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("server", &self.server)
            .field("forced", &self.forced)
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(guard_loom)]
mod interleavings;
#[cfg(test)]
mod tests;
