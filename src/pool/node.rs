//! The node: what a pool has on one server, and everything that changes it.
//!
//! The ledger and the gate are pure; this is where their decisions meet sockets, tasks and callers.
//! The rule that keeps it simple: change the state under the lock, collect whom that concerns, let
//! go of the lock, then wake them. Nothing is awaited or woken under it, and no connection dropped.
//!
//! **Lock order**: `moving`, the state, then the server's schedule or what is known of it, then the store's. The
//! other locks here are leaves: nothing is locked under them.

use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::context::{Context, Settings, leak_of};
use super::latest;
use super::leaks::{Lease, Seat};
use super::replies::Replies;
use super::shared::lanes::{Carried, Carrier, Lanes};
use super::shared::sharers::Sharers;
use super::sockets::Sockets;
use super::state::{DialerTask, News, State, Wakes};
use super::store::{Connection, Socket};
use super::tasks::{Runtime, Starters};
use super::topology::place::{Doubt, Place, Resolve};
use super::waiting::{Answer, LeasePlace, Leased, Subscribed, Succession, Waiting};
use super::watch::mailbox::Mailbox;
use crate::dial::Dialer;
use crate::ledger::{AccountId, Ledger};
use crate::server::Server;
use crate::server::gate::{Forced, Gate, Overridable};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, Notify};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::{CloseReason, Leak};
use crate::vocabulary::reply::within;
use crate::{BreakerState, Endpoint, Rejection};

#[derive(Debug)]
pub(super) struct Node {
    pub(super) context: Arc<Context>,
    pub(super) dialer: Dialer,
    pub(super) resolver: Box<dyn Resolve>,
    /// Where the last dial went, or the next one goes.
    pub(super) place: ArcSwap<Place>,
    /// Held while the server moves, before any other lock.
    pub(super) moving: Mutex<()>,
    /// `place` is another one.
    pub(super) moved: Notify,
    /// Everything that decides. A blocking mutex: held for tens of nanoseconds, never across an
    /// await, and an async one would cost more than what it guards.
    state: Mutex<State>,
    pub(super) lanes: Lanes,
    pub(super) sharers: Sharers,
    pub(super) mailbox: Mailbox,
    sockets: Sockets,
    pub(super) replies: Replies,
    pub(super) metrics: Metrics,
    /// The dialer should look: a connection is wanted, an override, or the end.
    pub(super) dialer_wanted: Notify,
    /// A dial has ended, or the limit or the schedule has changed: who waits for the pool to be warm
    /// should look.
    pub(super) warmth_changed: Notify,
    /// A dial has ended, a socket was closed, or a lease came back to a closed pool.
    drained: Notify,
    closed: latest::Sender<bool>,
    starters: Starters<Arc<Node>>,
    runtime: Runtime,
    epoch: Instant,
    /// Milliseconds since `epoch`, as of the last sweep.
    coarse: AtomicU64,
}

/// Of the coarse clock, in its milliseconds.
pub(super) const SECOND: u64 = 1_000;

impl Node {
    pub(super) fn new(
        context: Arc<Context>,
        dialer: Dialer,
        resolver: Box<dyn Resolve>,
        place: Arc<Place>,
        (mut ledger, gate): (Ledger<Waiting>, Gate),
        starters: Starters<Arc<Node>>,
    ) -> Self {
        let settings = &context.settings;
        if settings.watch && (settings.adaptive_limit || settings.fleet.is_some()) {
            // The first connection asks before there are more; a fleet's reserve has room for that one.
            let blind = if settings.fleet.is_some() { 1 } else { settings.min_limit };
            ledger.allow(Some(blind));
        }
        Self {
            lanes: Lanes::new(settings.shared_lanes),
            sharers: Sharers::default(),
            mailbox: Mailbox::default(),
            state: Mutex::new(State::new(ledger, settings.max_connections, gate)),
            metrics: Metrics::new(
                &settings.name,
                &place.target.name,
                Arc::clone(&context.counters),
            ),
            place: ArcSwap::new(place),
            moving: Mutex::new(()),
            moved: Notify::new(),
            sockets: Sockets::default(),
            replies: Replies::default(),
            dialer_wanted: Notify::new(),
            warmth_changed: Notify::new(),
            drained: Notify::new(),
            closed: latest::Sender::new(false),
            starters,
            runtime: Runtime::new(settings.runtime.clone()),
            epoch: Instant::now(),
            coarse: AtomicU64::new(0),
            context,
            dialer,
            resolver,
        }
    }

    /// The name under which the pool's fleet keeps its registry on the server, if the pool is in one and it can.
    pub(super) fn registry(&self) -> Option<String> {
        self.resolver.registry(self.settings().fleet.as_ref()?.name())
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.context.settings
    }

    /// Where the last dial went, or the next one goes.
    pub(super) fn target(&self) -> crate::dial::Target {
        self.place.load().target.clone()
    }

    /// Whether the server is there.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        Arc::ptr_eq(&self.place.load().server, &place.server)
    }

    pub(super) fn server(&self) -> Arc<Server> {
        Arc::clone(&self.place.load().server)
    }

    /// The server's address, without credentials.
    pub(super) fn address(&self) -> Arc<str> {
        Arc::clone(&self.place.load().target.name)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // The state machines do not panic; if one did, its counts are still the best there are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` while it is locked.
    #[cfg(test)]
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        self.state.try_lock().ok()
    }

    /// Changes the state, then serves, refuses or starts whatever follows from it.
    pub(super) fn change<R>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        let wakes = state.settle();
        drop(state);
        self.wake(wakes);
        result
    }

    /// Carries out what follows from a change, and tells of it.
    #[inline]
    pub(super) fn wake(self: &Arc<Self>, wakes: Wakes) {
        if !wakes.is_nothing() {
            let news = self.carry_out(wakes);
            self.tell(news);
        }
    }

    /// Carries out what follows from a change; what there is to tell of.
    pub(super) fn carry_out(self: &Arc<Self>, mut wakes: Wakes) -> News {
        let mut news = News::default();
        loop {
            news = News {
                limit: wakes.news.limit.or(news.limit),
                transition: wakes.news.transition.or(news.transition),
            };
            for (waiter, rejection) in std::mem::take(&mut wakes.refused) {
                waiter.refuse(rejection);
            }
            if wakes.call_watch {
                self.mailbox.attention.notify_one();
            }
            if wakes.wake_dialer {
                self.dialer_wanted.notify_one();
            }
            if wakes.start_dialer && !self.spawn((self.starters.dialer)(Arc::clone(self))) {
                self.lock().set_dialer(DialerTask::None);
            }
            for connection in std::mem::take(&mut wakes.doubtful) {
                self.spawn((self.starters.check)(Arc::clone(self), connection));
            }
            drop(std::mem::take(&mut wakes.closing));
            match self.grant(std::mem::take(&mut wakes.granted)) {
                Some(next) => {
                    wakes = next;
                    self.after_lease();
                }
                None => return news,
            }
        }
    }

    /// Tells of a change.
    pub(super) fn tell(&self, news: News) {
        if news == News::default() {
            return;
        }
        let server = self.address();
        if let Some(change) = news.limit {
            self.context.limit_changed(&server, change);
        }
        if let Some(transition) = news.transition {
            self.context.breaker_changed(&server, transition);
        }
    }

    /// Hands out what was granted. Where a waiter is gone, its connection is for the next: what follows
    /// from that.
    fn grant(self: &Arc<Self>, granted: Vec<(Answer, Leased)>) -> Option<Wakes> {
        let mut unclaimed = Vec::new();
        for (answer, leased) in granted {
            if let Answer::Lease(waiter) = answer
                && let Err(Ok(leased)) = waiter.send(Ok(leased))
            {
                unclaimed.push(leased);
            }
        }
        if unclaimed.is_empty() {
            return None;
        }
        let mut state = self.lock();
        unclaimed.into_iter().for_each(|leased| state.put_back(leased));
        Some(state.settle())
    }

    /// A connection that was leased and not used goes to the next.
    pub(super) fn take_back(self: &Arc<Self>, leased: Leased) {
        self.change(|state| state.put_back(leased));
        self.after_lease();
    }

    /// A lease whose connection is not for the next one is over.
    pub(super) fn end_lease(self: &Arc<Self>, place: LeasePlace) {
        let lease = self.change(|state| state.end_lease(place, false));
        self.report_resolved(lease.as_ref());
        self.after_lease();
    }

    /// A subscriber's connection was not wanted after all.
    pub(super) fn take_back_subscriber(self: &Arc<Self>, subscribed: Subscribed) {
        let Subscribed { socket, place, .. } = subscribed;
        socket.blame(CloseReason::Dropped);
        socket.abort();
        self.end_lease(place);
    }

    /// What a closed pool does when a lease has come back.
    pub(super) fn after_lease(self: &Arc<Self>) {
        if self.is_closed() {
            self.close_idle();
            self.drained.notify_waiters();
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.runtime.spawn(task)
    }

    /// Starts the maintenance task, which was noted as running.
    pub(super) fn start_maintenance(self: &Arc<Self>) {
        if !self.spawn((self.starters.maintenance)(Arc::clone(self))) {
            self.lock().maintenance_stopped();
        }
    }

    /// Milliseconds since the pool was built, as of the last sweep (once a second): enough to tell
    /// an idle connection by, and free on the path of a request.
    pub(super) fn coarse_now(&self) -> u64 {
        self.coarse.load(Ordering::Relaxed)
    }

    /// The same now, for those who have read the clock.
    pub(super) fn millis(&self, now: Instant) -> u64 {
        let millis = now.duration_since(self.epoch).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX)
    }

    /// The time that so many milliseconds mean.
    pub(super) fn instant(&self, millis: u64) -> Option<Instant> {
        self.epoch.checked_add(Duration::from_millis(millis))
    }

    pub(super) fn advance_coarse(&self, now: Instant) -> u64 {
        let millis = self.millis(now);
        self.coarse.store(millis, Ordering::Relaxed);
        millis
    }

    /// Counts and announces a refusal that was decided before.
    pub(super) fn reject(&self, account: AccountId, rejection: Rejection) -> Rejection {
        let endpoint = {
            let mut state = self.lock();
            state.count_rejection(account, &rejection);
            state.ledger.account_name(account).clone()
        };
        self.announce_rejection(&endpoint, &rejection);
        rejection
    }

    pub(super) fn announce_rejection(&self, endpoint: &Endpoint, rejection: &Rejection) {
        if *endpoint != Endpoint::LANES {
            self.context.rejected(endpoint, rejection, self.coarse_now() / SECOND);
        }
    }

    pub(super) fn leak(&self, lease: &Lease, now: Instant) -> Leak {
        leak_of(self.lock().ledger.account_name(lease.account), lease, now)
    }

    pub(super) fn report_leak(&self, lease: &Lease, now: Instant) {
        self.lock().tally(lease.account).leaks_suspected += 1;
        self.context.leak_suspected(self.leak(lease, now));
    }

    /// Tells of a lease that ended, if it was a suspected leak.
    pub(super) fn report_resolved(&self, lease: Option<&Lease>) {
        if let Some(lease) = lease.filter(|lease| lease.suspected) {
            self.context.leak_resolved(self.leak(lease, Instant::now()));
        }
    }

    /// A new socket, to be counted by [`State`] as live.
    pub(super) fn open_socket(
        &self,
        server: Arc<str>,
        dialed: Instant,
        now: Instant,
    ) -> Arc<Socket> {
        // ± 10 %, so that a fleet that was started together does not redial together.
        let lifetime = self.settings().max_lifetime.mul_f64(0.9 + 0.2 * fastrand::f64());
        self.sockets.add(server, dialed, now + lifetime, self.coarse_now())
    }

    /// Replaces every connection whose dial started before then, make before break and at the gate's
    /// pace: idle ones, leases when they come back, lanes and subscribers. None is closed before its
    /// successor is there, as far as there is room for two, and none while dials fail.
    pub(super) fn replace_opened_before(self: &Arc<Self>, before: Instant) {
        self.sockets.outdate_before(before);
        self.change(|state| state.ledger.retry_successors());
        self.count_outdated();
    }

    /// Counts what is to be replaced, so that the successors are dialed.
    pub(super) fn count_outdated(self: &Arc<Self>) {
        let sockets = self.sockets();
        self.change(|state| {
            // Under the lock: what ends meanwhile says so under it.
            let moving = state.moves.is_under_way();
            let outdated = sockets.iter().filter(|socket| socket.awaits_successor(moving)).count();
            state.ledger.set_outdated(outdated);
        });
    }

    /// Waits until the connection of a lane can be replaced.
    pub(super) async fn succession(self: &Arc<Self>) -> Succession {
        // Never dropped unanswered; if it was, the lane is dialed anew.
        self.change(State::await_succession).await.unwrap_or(Succession::CloseFirst)
    }

    /// A connection that was dialed: for whom it is.
    pub(super) fn opened(self: &Arc<Self>, connection: Connection) {
        self.change(|state| state.opened(connection));
        if self.is_closed() {
            self.close_idle();
        }
    }

    /// Every open connection.
    pub(super) fn sockets(&self) -> Vec<Arc<Socket>> {
        self.sockets.all()
    }

    /// A connection's socket is closed; called by the last thing the driver's task drops.
    pub(super) fn socket_closed(self: &Arc<Self>, socket: &Socket) {
        self.sockets.remove(socket);
        let place = self.place.load();
        let here = place.target.name == socket.server;
        if here && socket.reason().is_loss() {
            self.resolver.doubt(&place, Doubt::Lost);
        }
        let lease = self.change(|state| state.socket_closed(socket, here));
        self.warmth_changed.notify_waiters();
        self.drained.notify_waiters();
        self.report_resolved(lease.as_ref());
        self.context.closed(Arc::clone(&socket.server), socket.reason());
    }

    /// Closes the socket under whoever holds the connection.
    pub(super) fn revoke(self: &Arc<Self>, socket: &Socket, reason: CloseReason) {
        socket.blame(reason);
        self.change(|state| state.bury(socket));
        socket.abort();
    }

    /// Closes the socket under one lease, unless it ended meanwhile.
    pub(super) fn revoke_lease(self: &Arc<Self>, socket: &Socket, seat: Seat) {
        let revoked = self.change(|state| {
            let held = state.leases.is_out(seat) && socket.holder() == Some(seat);
            held && state.bury(socket)
        });
        if revoked {
            socket.blame(CloseReason::Revoked);
            socket.abort();
        }
    }

    /// What nobody has just now.
    pub(super) fn idle(&self) -> Vec<Arc<Socket>> {
        let mut sockets = self.sockets();
        let _state = self.lock();
        sockets.retain(|socket| socket.is_idle());
        sockets
    }

    /// Takes the idle connections out of the store that `wanted` picks.
    pub(super) fn withdraw(&self, wanted: impl FnMut(&Socket) -> bool) -> Vec<Connection> {
        self.lock().withdraw(wanted)
    }

    /// Takes one idle connection out of the store that `wanted` picks, if there is one.
    pub(super) fn withdraw_one(&self, wanted: impl Fn(&Socket) -> bool) -> Option<Connection> {
        let mut left = 1;
        self.withdraw(|socket| wanted(socket) && std::mem::take(&mut left) > 0).pop()
    }

    /// Puts a new, or a withdrawn, connection into the store. One that died meanwhile is dropped.
    pub(super) fn restore(self: &Arc<Self>, connection: Connection) {
        self.change(|state| state.restore(connection));
        if self.is_closed() {
            self.close_idle();
        }
    }

    /// Why a caller would be refused now, if that is so. The next dial is made for it all the same.
    pub(super) fn refusal(self: &Arc<Self>) -> Option<Rejection> {
        let rejection = self.lock().refusal()?;
        self.change(|state| state.ledger.request_dial());
        Some(rejection)
    }

    /// Whether a caller would be refused now.
    pub(super) fn is_refusing(&self) -> bool {
        self.lock().refusal().is_some()
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Completes when the pool is closed.
    pub(super) async fn closed(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// A dial is over, or was given up.
    pub(super) fn dial_ended(&self) {
        self.warmth_changed.notify_waiters();
        self.drained.notify_waiters();
    }

    /// Waits until `done`; looked at whenever a dial ends, a socket is closed, or a lease comes back to a
    /// closed pool.
    pub(super) async fn drained(&self, done: impl Fn(&State) -> bool) {
        loop {
            let mut drained = std::pin::pin!(self.drained.notified());
            drained.as_mut().enable();
            if done(&self.lock()) {
                return;
            }
            drained.await;
        }
    }

    /// Refuses everybody from now on, and closes what is idle. Leases stay valid.
    pub(super) fn shut(self: &Arc<Self>) {
        let beats = self.change(|state| {
            state.ledger.close();
            state.heartbeat_in_flight
        });
        // Before the lanes hear of it, which close once nothing is in flight.
        if !beats {
            self.say_goodbye(None);
        }
        self.closed.send_replace(true);
        self.close_idle();
        for socket in self.sockets() {
            if socket.is_subscriber() {
                // It would listen for ever.
                self.revoke(&socket, CloseReason::PoolClosed);
            }
        }
        self.dialer_wanted.notify_one();
        self.mailbox.attention.notify_one();
        self.warmth_changed.notify_waiters();
        self.drained.notify_waiters();
    }

    /// What a closed pool does once no heartbeat is on its way. `lane`: the one that the last went over.
    pub(super) fn after_heartbeat(self: &Arc<Self>, lane: Option<Carried>) {
        if self.lock().ledger.is_closed() {
            self.say_goodbye(lane);
            self.close_idle();
        }
    }

    /// Closes what nobody holds, of a pool that is closed. Not while a heartbeat is on its way: the goodbye might
    /// overtake it, and the registry would know us again.
    fn close_idle(self: &Arc<Self>) {
        if self.lock().heartbeat_in_flight {
            return;
        }
        self.say_goodbye(None);
        for connection in self.withdraw(|_| true) {
            connection.socket.blame(CloseReason::PoolClosed);
        }
    }

    /// Gives our share back to the fleet, once the pool is closed, over one of the last connections:
    /// otherwise the registry would keep it for us until our time is up.
    fn say_goodbye(self: &Arc<Self>, lane: Option<Carried>) {
        let Some(goodbye) = self.mailbox.take_goodbye() else { return };
        let limit = Some(self.settings().response_timeout);
        if let Some(lane) = lane.or_else(|| self.lanes.any().and_then(Carrier::carry)) {
            self.spawn(async move {
                let _ = within(limit, lane.redis().send_packed_command(&goodbye)).await;
            });
        } else if let Some(mut connection) = self.withdraw_one(|_| true) {
            connection.socket.blame(CloseReason::PoolClosed);
            self.spawn(async move {
                let _ = within(limit, connection.redis.send_packed_command(&goodbye)).await;
            });
        } else {
            // All are lent: over the first that comes back.
            self.mailbox.set_goodbye(Some(goodbye));
        }
    }
}

impl Overridable for Node {
    fn breaker_state(&self) -> BreakerState {
        self.lock().gate.state()
    }

    fn force(self: Arc<Self>, forced: Option<Forced>) {
        self.change(|state| state.gate.force(forced));
        self.dialer_wanted.notify_one();
        self.warmth_changed.notify_waiters();
    }
}
