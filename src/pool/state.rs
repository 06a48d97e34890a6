//! What is behind a node's lock: the pure machines, the counts, and what follows from a change of them.

mod succession;

use std::collections::VecDeque;
use std::panic::Location;
use std::time::SystemTime;

use deadpool::managed::Object;
use tokio::time::Instant;

use super::context::LimitChange;
use super::demotion::Demotion;
use super::leaks::{Lease, Leases};
use super::store::{Connection, DEAD_LEASES, Socket, Store};
use super::sweeps::Sweeps;
use super::topology::place::Moves;
use super::waiting::{Answer, LeasePlace, Leased, Succession, Waiting};
use super::watch::steering::Steering;
use crate::dial::Notice;
use crate::ledger::{AccountId, Fresh, Ledger, Ticket, Turn};
use crate::server::gate::{Gate, Transition, Verdict};
use crate::sync::oneshot;
use crate::telemetry::history::Counted;
use crate::telemetry::status::{CloseReason, LimitedBy, Transitions};
use crate::vocabulary::Reason;
use crate::{Endpoint, Outcome, Rejection};

#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger<Waiting>,
    /// What is idle, as many as the ledger says.
    pub(super) store: Store,
    /// What is to be dropped once the lock is gone.
    closing: Vec<Connection>,
    /// The lanes that wait for the successor of their connection.
    successions: VecDeque<oneshot::Sender<Succession>>,
    /// What is to be asked whether it works, once the lock is gone.
    doubtful: Vec<Connection>,
    sweeps: Sweeps,
    pub(super) leases: Leases,
    pub(super) gate: Gate,
    pub(super) demotion: Demotion,
    pub(super) moves: Moves,
    /// By account.
    pub(super) tallies: Vec<Tally>,
    pub(super) dials: [u64; Outcome::ALL.len()],
    /// What of both the history has.
    pub(super) recorded: Counted,
    pub(super) closed: [u64; CloseReason::ALL.len()],
    /// Error replies that say something about the server.
    pub(super) notices: [u64; Notice::ALL.len()],
    /// The second of the last one, by the coarse clock.
    noticed: Option<u64>,
    pub(super) transitions: Transitions,
    /// Leases that are held although their socket is closed.
    dead_leases: usize,
    /// A connection was lost, or refused, since the watch last looked.
    pub(super) lost: bool,
    pub(super) steering: Steering,
    /// A heartbeat is on its way, and the limit is what is held until its answer.
    pub(super) heartbeat_in_flight: bool,
    /// The limit, as it was announced last.
    announced: usize,
    /// The watch was called since it last looked.
    called: Called,
    dialer: DialerTask,
    maintenance_runs: bool,
}

/// What the watch was called for since it last looked.
#[derive(Debug, Default)]
struct Called {
    lost: bool,
    hungry: bool,
}

/// What the dialer's task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialerTask {
    None,
    Runs,
    /// It has dials in flight, and wanted no other when it last looked.
    Waits,
}

/// What happened to an endpoint's callers so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) rejected: [u64; Reason::ALL.len()],
    /// Those of them that the log has.
    pub(super) reported: [u64; Reason::ALL.len()],
    pub(super) leaks_suspected: u64,
    pub(super) leaks_resolved: u64,
}

/// A dial for one waiter.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) place: LeasePlace,
    ticket: Ticket,
    pub(super) waiting: Waiting,
}

/// Whom a change of the state concerns, once the lock is gone.
#[derive(Default)]
#[must_use]
pub(super) struct Wakes {
    pub(super) granted: Vec<(Answer, Leased)>,
    pub(super) refused: Vec<(Answer, Rejection)>,
    /// To be closed.
    pub(super) closing: Vec<Connection>,
    /// To be asked whether they work, and put back.
    pub(super) doubtful: Vec<Connection>,
    pub(super) start_dialer: bool,
    pub(super) wake_dialer: bool,
    pub(super) call_watch: bool,
    pub(super) news: News,
}

/// What there is to tell of after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(super) struct News {
    pub(super) limit: Option<LimitChange>,
    pub(super) transition: Option<Transition>,
}

impl Wakes {
    /// Nothing follows, as after most refusals.
    #[inline]
    pub(super) fn is_nothing(&self) -> bool {
        let Self { granted, refused, closing, doubtful, .. } = self;
        let nobody = granted.is_empty() && refused.is_empty();
        let nothing = nobody && closing.is_empty() && doubtful.is_empty();
        nothing
            && !(self.start_dialer || self.wake_dialer || self.call_watch)
            && self.news.is_none()
    }
}

impl News {
    #[inline]
    fn is_none(&self) -> bool {
        self.limit.is_none() && self.transition.is_none()
    }
}

impl State {
    pub(super) fn new(ledger: Ledger<Waiting>, max_connections: usize, gate: Gate) -> Self {
        let announced = ledger.counts().limit;
        Self {
            ledger,
            store: Store::new(max_connections),
            closing: Vec::new(),
            successions: VecDeque::new(),
            doubtful: Vec::new(),
            sweeps: Sweeps::new(Instant::now().into_std(), SystemTime::now()),
            leases: Leases::default(),
            gate,
            demotion: Demotion::default(),
            moves: Moves::default(),
            tallies: Vec::new(),
            dials: [0; Outcome::ALL.len()],
            recorded: Counted::default(),
            closed: [0; CloseReason::ALL.len()],
            notices: [0; Notice::ALL.len()],
            noticed: None,
            transitions: Transitions::new(),
            dead_leases: 0,
            lost: false,
            steering: Steering::default(),
            heartbeat_in_flight: false,
            announced,
            called: Called::default(),
            dialer: DialerTask::None,
            maintenance_runs: false,
        }
    }

    /// What follows from a change, for the node to carry out.
    pub(super) fn settle(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        self.serve(&mut wakes);
        self.retire();
        wakes.closing = std::mem::take(&mut self.closing);
        wakes.doubtful = std::mem::take(&mut self.doubtful);
        if self.ledger.counts().waiting > 0
            && let Some(rejection) = self.refusal()
        {
            let queue = self.ledger.drain_queue();
            wakes.refused = queue.into_iter().map(|(_, w)| (w.answer, rejection.clone())).collect();
            // Turned away, so they no longer show that a connection is wanted.
            self.ledger.request_dial();
        }
        let (lost, hungry) = (self.lost, self.ledger.is_hungry());
        wakes.call_watch = (lost && !self.called.lost) || (hungry && !self.called.hungry);
        self.called.lost |= lost;
        self.called.hungry |= hungry;
        if self.dialer != DialerTask::Runs && self.ledger.wants_dial() {
            match self.dialer {
                DialerTask::None => wakes.start_dialer = true,
                _ => wakes.wake_dialer = true,
            }
            self.dialer = DialerTask::Runs;
        }
        wakes.news.transition = self.gate.take_transition();
        if let Some(Transition { from, to }) = wakes.news.transition {
            *self.transitions.entry((from.as_str(), to.as_str())).or_default() += 1;
        }
        let limit = self.ledger.counts().limit;
        if limit != self.announced && !self.heartbeat_in_flight {
            let from = std::mem::replace(&mut self.announced, limit);
            let change = LimitChange { from, to: limit, limited_by: self.limited_by() };
            wakes.news.limit = Some(change);
        }
        wakes
    }

    /// Hands what is idle to those whose turn it is.
    fn serve(&mut self, wakes: &mut Wakes) {
        while let Some(turn) = self.ledger.next_turn() {
            match turn {
                Turn::Grant => {
                    let Some(connection) = self.store.take() else {
                        return self.lost_count();
                    };
                    let Some(grant) = self.ledger.next_grant() else {
                        return self.store.put_back(connection);
                    };
                    let seat = self.leases.begin(grant.account, grant.waiter.location);
                    connection.socket.lent_to(Some(seat));
                    let place = LeasePlace { account: grant.account, seat };
                    wakes.granted.push((grant.waiter.answer, Leased { connection, place }));
                }
                Turn::MakeRoom => {
                    let Some(connection) = self.store.withdraw(1, |_| true).pop() else {
                        return self.lost_count();
                    };
                    self.ledger.makes_room();
                    connection.socket.make_room();
                    self.closing.push(connection);
                }
            }
        }
    }

    /// The store has less than the ledger says. It cannot be; if it was, nobody may be granted
    /// something that is not there.
    fn lost_count(&mut self) {
        debug_assert!(false, "the store is empty, and the ledger says otherwise");
        self.ledger.withdrawn(self.ledger.counts().idle);
    }

    /// Takes the connection that the account was granted; `None` where all that is free has to be asked
    /// first.
    pub(super) fn lease(
        &mut self,
        account: AccountId,
        location: &'static Location<'static>,
    ) -> Option<Leased> {
        if let Some(connection) = self.store.take() {
            // deadpool has just read the clock.
            let metrics = Object::metrics(&connection);
            let now = metrics.recycled.unwrap_or(metrics.created);
            if self.sweeps.are_late(now) {
                self.store.put_back(connection);
                self.ledger.released(account, true);
                self.swept(now, SystemTime::now());
                return None;
            }
            let seat = self.leases.begin(account, location);
            connection.socket.lent_to(Some(seat));
            return Some(Leased { connection, place: LeasePlace { account, seat } });
        }
        self.ledger.released(account, false);
        self.lost_count();
        None
    }

    /// Ends a lease whose connection is fit for the next, dead, or to be cleaned. `None` where its
    /// socket was closed under it, and its place given back then.
    pub(super) fn end_lease(&mut self, place: LeasePlace, to_store: bool) -> Option<Lease> {
        let Some(lease) = self.leases.end(place.seat) else {
            debug_assert!(self.dead_leases > 0, "a lease ended twice");
            self.dead_leases = self.dead_leases.saturating_sub(1);
            return None;
        };
        self.ledger.released(place.account, to_store);
        if lease.suspected {
            self.tally(place.account).leaks_resolved += 1;
        }
        Some(lease)
    }

    /// A socket is closed. The lease that ended with it, if one did: a budget counts sockets, so its
    /// place is free, as far as the store has room for leases that nobody lets go of. `here`: it was one of
    /// the server that dials go to, of which the others say nothing.
    pub(super) fn socket_closed(&mut self, socket: &Socket, here: bool) -> Option<Lease> {
        let (reason, closed) = (socket.reason(), socket.closed());
        self.bury(socket);
        self.ledger.died(closed);
        self.closed[reason as usize] += 1;
        if here && reason.is_loss() {
            // Not by our doing, or on a connection that broke.
            self.ledger.void_share();
            self.lost = true;
            if !socket.is_outdated() {
                self.ledger.successor_lost();
            }
        }
        let room = self.dead_leases < DEAD_LEASES;
        let lease = socket.holder().filter(|_| room).and_then(|seat| self.leases.end(seat));
        if let Some(lease) = &lease {
            self.dead_leases += 1;
            self.ledger.released(lease.account, false);
            if lease.suspected {
                self.tally(lease.account).leaks_resolved += 1;
            }
        }
        let now = Instant::now();
        if here && reason == CloseReason::Peer {
            self.gate.disconnected(now);
        } else if here && self.ledger.has_spare_slot() {
            self.gate.allow_free_dial();
        }
        if self.ledger.live() == 0 {
            self.gate.lost_all(now);
        }
        lease
    }

    /// Marks a connection dead; nobody is granted it any more. False if it was before.
    pub(super) fn bury(&mut self, socket: &Socket) -> bool {
        let buried = socket.bury();
        if socket.is_idle() {
            let dead = self.store.withdraw(usize::MAX, |idle| !idle.is_alive());
            self.ledger.withdrawn(dead.len());
            self.closing.extend(dead);
        }
        buried
    }

    /// A connection that was withdrawn, or is new, goes into the store, unless it has died.
    pub(super) fn restore(&mut self, connection: Connection) {
        if connection.socket.is_alive() {
            self.store.put(connection);
            self.ledger.restored();
        } else {
            self.closing.push(connection);
        }
    }

    /// A connection that was leased and not used goes to the next, unless it has died.
    pub(super) fn put_back(&mut self, Leased { connection, place }: Leased) {
        connection.socket.lent_to(None);
        let alive = connection.socket.is_alive();
        if self.end_lease(place, alive).is_some() && alive {
            self.store.put_back(connection);
        } else {
            self.closing.push(Object::take(connection));
        }
    }

    /// Takes the idle connections out of the store that `wanted` picks.
    pub(super) fn withdraw(&mut self, wanted: impl FnMut(&Socket) -> bool) -> Vec<Connection> {
        let withdrawn = self.store.withdraw(usize::MAX, wanted);
        self.ledger.withdrawn(withdrawn.len());
        withdrawn
    }

    /// A sweep; if it comes late, whatever is idle has to be asked before it is lent.
    pub(super) fn swept(&mut self, now: std::time::Instant, wall: SystemTime) {
        if self.sweeps.swept(now, wall) {
            let idle = self.withdraw(|_| true);
            self.doubtful.extend(idle);
        }
    }

    /// Closes what is idle, and `wanted` picks.
    pub(super) fn close_idle(&mut self, reason: CloseReason, wanted: impl FnMut(&Socket) -> bool) {
        let idle = self.withdraw(wanted);
        idle.iter().for_each(|connection| connection.socket.blame(reason));
        self.closing.extend(idle);
    }

    /// Closes idle connections for as long as there are more than may be.
    pub(super) fn shed_idle(&mut self) {
        while self.ledger.is_over()
            && let Some(connection) = self.store.withdraw(1, |_| true).pop()
        {
            self.ledger.withdrawn(1);
            self.ledger.shed();
            connection.socket.shed();
            self.closing.push(connection);
        }
    }

    /// A dial starts; for whom, if it is for somebody in particular.
    pub(super) fn dial_started(&mut self) -> Option<Reserved> {
        let Fresh { account, ticket, waiter: waiting } = self.ledger.dial_started()?;
        let seat = self.leases.begin(account, waiting.location);
        self.leases.exempt(seat);
        Some(Reserved { place: LeasePlace { account, seat }, ticket, waiting })
    }

    /// The dial failed: the waiter goes back to its place, or is given back if it has left, to be
    /// dropped outside the lock.
    pub(super) fn dial_failed(&mut self, reserved: Reserved) -> Option<Waiting> {
        let Reserved { place: LeasePlace { account, seat }, ticket, waiting } = reserved;
        self.leases.end(seat);
        let gone = waiting.answer.is_gone();
        let (gone, waiting) = if gone { (Some(waiting), None) } else { (None, Some(waiting)) };
        self.ledger.fresh_failed(account, ticket, waiting);
        gone
    }

    /// Counts an error reply that says something about the server; true for the first of its kind.
    pub(super) fn count_notice(&mut self, notice: Notice, second: u64) -> bool {
        // Whatever it is, the watch should ask the server, but not for each of thousands.
        self.lost |= self.noticed.replace(second) != Some(second);
        let count = &mut self.notices[notice as usize];
        *count += 1;
        *count == 1
    }

    /// The server has said that it is full, to this pool or to another of the process.
    pub(super) fn heard_refusal(&mut self) {
        // Whether there is room again the watch asks, once for all that hear it.
        self.lost |= !self.ledger.is_frozen();
        self.ledger.freeze();
        self.ledger.void_share();
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
            Verdict::Refuse { retry_after, failure } => {
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
        match self.gate.failure() {
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

    /// Who set the limit.
    pub(super) fn limited_by(&self) -> LimitedBy {
        match self.ledger.frozen() {
            Some(frozen) if self.ledger.counts().limit == frozen.max(1) => LimitedBy::Refused,
            _ => self.steering.source,
        }
    }

    /// A dial is wanted for somebody who waits, and no dialer looks for it.
    #[cfg(test)]
    pub(super) fn is_stalled(&self) -> bool {
        let somebody = self.ledger.counts().waiting > 0;
        somebody && self.ledger.wants_dial() && self.dialer != DialerTask::Runs
    }

    pub(super) fn set_dialer(&mut self, dialer: DialerTask) {
        self.dialer = dialer;
    }

    /// True if maintenance is to be started, which is noted as done.
    pub(super) fn wants_maintenance(&mut self) -> bool {
        !self.ledger.is_closed() && !std::mem::replace(&mut self.maintenance_runs, true)
    }

    pub(super) fn maintenance_stopped(&mut self) {
        self.maintenance_runs = false;
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
}
