//! The watch: one task a pool, which asks the server how it is and steers the limit.
//!
//! It never dials: it asks over a lane, an idle connection, or, where all are lent and callers
//! wait, over one that it waits for like they do. What it hears goes through the pure policies
//! ([`PriceLaw`], [`Lease`]) into the ledger.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::{MaybeDone, maybe_done};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Script, Value, from_redis_value};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::core::Core;
use super::lease::{unanswered, within};
use super::store::{Connection, Shared};
use crate::Outcome;
use crate::error::DialFailure;
use crate::event::Event;
use crate::policy::{
    self, Beat, Demand, Lease, PriceLaw, QUIET, Report, SCRIPT, Source, limit_in_force,
};
use crate::server::{Fleet, Observation, ServerObserver, ServerSnapshot};
use crate::status::{CloseReason, FleetStatus, LimitedBy, WatchStatus};

/// How often the demand is looked at.
const TICK: Duration = Duration::from_millis(250);

/// How long after a call the watch looks: callers who come together call once.
const PAUSE: Duration = Duration::from_millis(2);

/// How often a server is asked whose pool sets itself no limit.
const CALM: Duration = Duration::from_secs(5);

/// How long to leave a server alone that denies INFO. An operator who changes its ACL can wait.
const DENIED: Duration = Duration::from_secs(60);

/// How long an observation tells whether there is room: over the longest interval.
const FRESH: Duration = Duration::from_secs(30);

/// How long a question waits for a connection when all are lent, before it is put together anew: what
/// it reports is of then.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the watch knows, for status and metrics.
#[derive(Debug, Default)]
pub(super) struct Watched {
    latest: Option<(Arc<Observation>, Instant)>,
    rejections_seen: u64,
    trouble: Option<String>,
    source: LimitedBy,
    /// When the limit was set last.
    steered: Option<Instant>,
    fleet: Option<FleetStatus>,
}

impl Watched {
    /// True if the limit was set since then for good, and not as a step on the way up.
    pub(super) fn has_settled(&self, since: Instant) -> bool {
        let heard = self.latest.as_ref().is_some_and(|(_, at)| *at >= since);
        let steered = self.steered.is_some_and(|at| at >= since);
        heard && steered && self.saturation().is_some_and(|saturation| saturation >= QUIET)
    }

    pub(super) fn status(&self, now: Instant) -> WatchStatus {
        let latest = self.latest.as_ref();
        WatchStatus {
            observation: latest.map(|(observation, _)| Arc::clone(observation)),
            saturation: self.saturation(),
            age: latest.map(|(_, at)| now.saturating_duration_since(*at)),
            rejections_seen: self.rejections_seen,
            trouble: self.trouble.clone(),
        }
    }

    fn saturation(&self) -> Option<f64> {
        self.latest.as_ref().and_then(|(observation, _)| observation.saturation())
    }

    /// True if it would be seen whether there is room.
    fn tells_room(&self) -> bool {
        self.latest.as_ref().is_some_and(|(observation, _)| {
            observation.snapshot.rejected_connections.is_some() && observation.free().is_some()
        })
    }

    /// True if the server has told since then that it had room, and refused nobody.
    fn sees_room(&self, since: Instant) -> bool {
        self.latest.as_ref().is_some_and(|(observation, at)| {
            *at >= since
                && observation.new_rejections == Some(0)
                && observation.free().is_some_and(|free| free > 0)
        })
    }

    pub(super) fn fleet(&self) -> Option<FleetStatus> {
        self.fleet.clone()
    }

    pub(super) fn source(&self) -> LimitedBy {
        self.source
    }
}

/// Watches until the pool is closed.
pub(super) async fn run(core: Arc<Core>) {
    if !core.settings.watch {
        return;
    }
    let mut watch = Watch::new(Arc::clone(&core), Instant::now());
    while !core.lock().ledger.is_closed() {
        let next = watch.look().await;
        tokio::select! {
            // Callers who wait may call again. Not sooner, or a hungry pool would do nothing but look.
            () = tokio::time::sleep_until(next) => core.lock().heed_calls(),
            () = core.attention.notified() => tokio::time::sleep(PAUSE).await,
        }
    }
}

struct Watch {
    core: Arc<Core>,
    observer: ServerObserver,
    demand: Demand,
    law: PriceLaw,
    fleet: Option<Member>,
    /// Not before then, for a question without a law.
    due: Instant,
    /// When the server last told.
    heard: Option<Instant>,
    /// It did not, when it was asked last.
    failed: bool,
    /// When the pool was last seen to have lost a connection, or been refused one.
    lost: Instant,
}

/// Our membership in a fleet.
struct Member {
    lease: Lease,
    script: Script,
    keys: [String; 3],
    joined: bool,
    /// The server knows the script by its hash.
    loaded: bool,
    /// The registry was denied us, and is left alone until then.
    not_before: Instant,
}

/// The pool at one moment.
struct Sight {
    live: usize,
    dialing: usize,
    hungry: bool,
}

impl Watch {
    fn new(core: Arc<Core>, now: Instant) -> Self {
        let settings = &core.settings;
        let max = settings.max_connections;
        let law = PriceLaw::new(max, settings.seed);
        let fleet = settings.fleet.as_ref().map(|fleet| {
            let id = format!("{}:{:016x}", core.dialer.client_name, fastrand::u64(..));
            Member {
                lease: Lease::new(id, max, fleet.reserved(), now, settings.seed),
                script: Script::new(SCRIPT),
                keys: Lease::keys(fleet.name()),
                joined: false,
                loaded: false,
                not_before: now,
            }
        });
        let (observer, demand) = (ServerObserver::default(), Demand::new(now));
        Self { core, observer, demand, law, fleet, due: now, heard: None, failed: false, lost: now }
    }

    /// Looks at the pool, and asks the server if it is time; when to look again.
    async fn look(&mut self) -> Instant {
        let (now, sight) = (Instant::now(), self.see());
        let asks = self.info_due(&sight).is_none_or(|due| due <= now);
        let beat = self.beat(&sight, now);
        if asks || beat.is_some() {
            self.ask(asks, beat).await;
            self.steer();
        }
        if asks {
            // It may have been a step on the way up.
            self.core.lock().heed_calls();
        }
        let (now, sight) = (Instant::now(), self.see());
        self.steer();
        let due = [self.info_due(&sight), self.beat_due(&sight)].into_iter().flatten().min();
        due.unwrap_or(now + TICK).clamp(now + PAUSE, now + TICK)
    }

    fn see(&mut self) -> Sight {
        let now = Instant::now();
        let (sight, load, lost) = {
            let mut state = self.core.lock();
            let lost = state.watch_looks();
            let counts = state.ledger.counts();
            let (live, dialing) = (counts.live, counts.dialing);
            let hungry = state.ledger.is_hungry();
            (Sight { live, dialing, hungry }, state.ledger.load(), lost)
        };
        self.demand.observe(now, load);
        if lost {
            self.law.lost(sight.live + sight.dialing);
            if let Some(member) = &mut self.fleet {
                member.lease.lost(sight.live + sight.dialing);
            }
            // Whether it was the server's doing, it says itself.
            (self.due, self.lost) = (now, now);
        }
        sight
    }

    /// When to ask for INFO; `None`: now.
    fn info_due(&self, sight: &Sight) -> Option<Instant> {
        let leased = self.fleet.as_ref().is_some_and(|m| m.lease.share(Instant::now()).is_some());
        if self.failed || leased || !self.core.settings.adaptive_limit {
            return Some(self.due);
        }
        self.law.due(sight.live, sight.hungry).map(|due| due.min(self.due))
    }

    /// When to beat; `None` for a pool that is in no fleet.
    fn beat_due(&self, sight: &Sight) -> Option<Instant> {
        let member = self.fleet.as_ref()?;
        let due = member.lease.due(sight.hungry);
        if due.is_none_or(|due| due < member.not_before) { Some(member.not_before) } else { due }
    }

    /// Asks for INFO, beats, or both: one may come by a connection only now and then.
    async fn ask(&mut self, asks: bool, beat: Option<Beat>) {
        let mut questions = redis::pipe();
        if asks {
            // Plain INFO: before Redis 7 it takes at most one section.
            questions.cmd("INFO");
        }
        if let (Some(beat), Some(member)) = (&beat, &self.fleet) {
            questions.add_command(member.command(beat));
        }
        let mut replies = match self.send(&questions).await {
            Some(replies) => replies.map(|replies| replies.into_iter().map(Value::extract_error)),
            None => {
                // Not a failure of the server's: all connections are lent.
                if let (Some(_), Some(member)) = (&beat, &mut self.fleet) {
                    member.lease.unsent();
                }
                return;
            }
        };
        let now = Instant::now();
        let mut next = || match &mut replies {
            Ok(replies) => replies.next().unwrap_or_else(|| Err(unanswered())),
            Err(error) => Err(error.clone()),
        };
        let info = asks.then(&mut next);
        let reply = beat.is_some().then(&mut next);
        if let Some(info) = info {
            self.heard_info(info, now);
        }
        if let (Some(beat), Some(reply)) = (beat, reply) {
            self.heard_registry(&beat, reply, now);
        }
    }

    fn heard_info(&mut self, reply: RedisResult<Value>, now: Instant) {
        let info = reply.and_then(|reply| Ok(from_redis_value::<String>(reply)?));
        self.failed = info.is_err();
        match info {
            Ok(info) => self.observe(ServerSnapshot::parse(info), now),
            Err(error) => {
                let denied = is_denied(&error);
                self.due = now + if denied { DENIED } else { TICK };
                if denied || self.heard.is_some() {
                    self.law.unseen(now);
                }
                // A connection that was lost says nothing about the next one.
                if error.code().is_some() || error.is_timeout() {
                    self.report_trouble(error.to_string());
                }
            }
        }
    }

    fn observe(&mut self, snapshot: ServerSnapshot, now: Instant) {
        // The pool may have changed while the question was on its way.
        let sight = self.see();
        let observation = self.observer.observe(snapshot, now);
        (self.heard, self.due) = (Some(now), now + CALM);
        self.law.step(
            now,
            &policy::Observation {
                used: observation.snapshot.used().unwrap_or(0),
                maxclients: observation.ceiling.unwrap_or(0),
                rejected: observation.new_rejections.unwrap_or(0),
                live: sight.live + sight.dialing,
                hungry: sight.hungry,
                demand: self.demand.generous(),
            },
        );
        self.report(observation, now);
    }

    /// A heartbeat, if it is time: what we hold and need, for the registry to say what we may have.
    fn beat(&mut self, sight: &Sight, now: Instant) -> Option<Beat> {
        let due = self.beat_due(sight);
        let member = self.fleet.as_mut()?;
        if due.is_some_and(|due| due > now) {
            return None;
        }
        // What is reported is all there is: no dial starts that the registry does not hear of.
        let counts = self.core.change(|state| {
            let counts = state.ledger.counts();
            if !state.ledger.is_closed() {
                state.asking = true;
                state.ledger.void_share();
                return Some(counts);
            }
            None
        })?;
        let report = Report {
            live: counts.live,
            dialing: counts.dialing,
            base: self.demand.base(),
            peak: self.demand.peak(),
            // Before the first word one connection is all there may be.
            hungry: sight.hungry || (!member.joined && counts.waiting > 0),
        };
        Some(member.lease.beat(now, &report))
    }

    fn heard_registry(&mut self, beat: &Beat, reply: RedisResult<Value>, now: Instant) {
        let Some(member) = &mut self.fleet else { return };
        let reply = reply.and_then(|reply| Ok(from_redis_value::<Vec<i64>>(reply)?));
        let trouble = match reply {
            Ok(reply) if member.lease.replied(beat, &reply) => {
                member.loaded = true;
                None
            }
            Ok(_) => Some("the server hides how many connections it takes".to_owned()),
            // It has forgotten the script, and is told it with the next beat, which is now.
            Err(error) if error.code() == Some("NOSCRIPT") && member.loaded => {
                member.loaded = false;
                return member.lease.unsent();
            }
            Err(error) => {
                member.lease.failed(beat);
                member.not_before = now + if is_denied(&error) { DENIED } else { Duration::ZERO };
                Some(error.to_string())
            }
        };
        self.report_fleet(trouble);
    }

    /// Sends commands over a connection that the pool holds anyway; `None` if none was to be had.
    async fn send(&self, commands: &Pipeline) -> Option<RedisResult<Vec<Value>>> {
        let core = &self.core;
        let limit = Some(core.settings.response_timeout);
        if let Some(mut lane) = core.lanes.connection() {
            return Some(
                within(limit, lane.send_packed_commands(commands, 0, commands.len())).await,
            );
        }
        let question = match core.put_to_idle(commands) {
            Some(question) => question,
            // All are lent, or none is there yet.
            None => core.put_to_next(commands).await?,
        };
        Some(within(limit, question.answer()).await)
    }

    /// Sets the limit by the best that is known: the registry, then the price law, then nothing but
    /// what the pool may ever have.
    fn steer(&mut self) {
        let now = Instant::now();
        let fresh = self.heard.is_some_and(|heard| now < heard + FRESH);
        let lease = self.fleet.as_ref().map(|member| &member.lease);
        let peers = match lease.and_then(|lease| lease.share(now)) {
            Some(share) => share.members,
            None => self.law.peers(),
        };
        let max = self.core.settings.max_connections;
        let adaptive = self.core.settings.adaptive_limit;
        let lost = self.lost;
        let relented = self.core.change(|state| {
            let sockets = state.ledger.sockets();
            let (limit, source) = limit_in_force(lease, &self.law, max, sockets, now);
            let source = match source {
                Source::Lease | Source::Kept | Source::Asking => LimitedBy::FleetLease,
                Source::PriceLaw if adaptive => LimitedBy::PriceLaw,
                Source::PriceLaw | Source::Static => LimitedBy::MaxConnections,
            };
            let share = Some(limit).filter(|_| source != LimitedBy::MaxConnections);
            (state.watch.source, state.watch.steered) = (source, Some(now));
            state.ledger.allow(share);
            if state.lost {
                // It happened while the question was on its way: the answer does not know of it.
                state.ledger.void_share();
            }
            state.asking = false;
            state.gate.fleet_of(peers);
            // One that hides its ceiling, or whom it refuses, has to be tried.
            state.ledger.set_watched(fresh && state.watch.tells_room());
            let saturation = state.watch.saturation().filter(|_| fresh);
            state.gate.set_roomy(saturation.is_some_and(|saturation| saturation < QUIET));
            let Some(frozen) = state.ledger.frozen() else { return false };
            let room = frozen > 0 && !state.lost && state.watch.sees_room(lost);
            let relents = room && share.is_none_or(|share| share > frozen);
            if relents {
                state.ledger.thaw();
            }
            // A server that was only suspected may be a proxy that is full and silent: its next dial
            // keeps its time.
            let told = |failure: &Arc<DialFailure>| failure.outcome == Outcome::MaxClients;
            let excused = relents && state.gate.failure().is_some_and(told);
            if excused {
                state.gate.excuse();
            }
            excused
        });
        if relented {
            self.core.schedule_changed.notify_one();
        }
        self.core.shed_idle();
        // Whoever waits for the pool to be warm may have all there is.
        self.core.progress.notify_waiters();
    }

    fn report(&self, observation: Observation, now: Instant) {
        let events = observation.events.clone();
        let found = {
            let mut state = self.core.lock();
            state.watch.rejections_seen += observation.new_rejections.unwrap_or(0);
            state.watch.latest = Some((Arc::new(observation), now));
            state.watch.trouble.take().is_some()
        };
        if found {
            self.core.events.send(Event::WatchFound);
        }
        for event in events {
            tracing::warn!(pool = %self.core.settings.name, server = %self.core.dialer.server, ?event, "the server changed");
            self.core.events.send(Event::Server(event));
        }
    }

    fn report_trouble(&self, reason: String) {
        let new = self.core.lock().watch.trouble.replace(reason.clone()).is_none();
        if new {
            tracing::warn!(pool = %self.core.settings.name, reason, "the server cannot be watched");
            self.core.events.send(Event::WatchLost { reason });
        }
    }

    fn report_fleet(&mut self, trouble: Option<String>) {
        let (now, core) = (Instant::now(), &self.core);
        let (Some(member), Some(fleet)) = (&mut self.fleet, &core.settings.fleet) else { return };
        let share = member.lease.share(now).copied();
        let status = FleetStatus::of(fleet, share.as_ref(), trouble);
        let before = std::mem::replace(&mut member.joined, status.joined);
        match (before, status.joined) {
            (false, true) => {
                let members = status.members;
                core.events.send(Event::FleetJoined { members });
            }
            (true, false) => {
                let reason = status.trouble.clone().unwrap_or_default();
                tracing::warn!(pool = %core.settings.name, reason, "the fleet's registry is lost");
                core.events.send(Event::FleetLost { reason });
            }
            _ => {}
        }
        if status.joined {
            let leave = member.lease.leave();
            *core.farewell() = Some(member.call("EVAL", SCRIPT, &leave));
        }
        core.lock().watch.fleet = Some(status);
    }
}

impl Member {
    /// By the script's hash, once the server has run it.
    fn command(&self, beat: &Beat) -> Cmd {
        match self.loaded {
            true => self.call("EVALSHA", self.script.get_hash(), &beat.args),
            false => self.call("EVAL", SCRIPT, &beat.args),
        }
    }

    fn call(&self, verb: &str, script: &str, args: &[String]) -> Cmd {
        let mut command = redis::cmd(verb);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(args);
        command
    }
}

impl FleetStatus {
    fn of(fleet: &Fleet, share: Option<&policy::Share>, trouble: Option<String>) -> Self {
        Self {
            name: fleet.name().to_owned(),
            joined: share.is_some(),
            members: share.map_or(0, |share| share.members),
            share: share.map_or(0, |share| share.limit),
            reserve: share.map_or(0, |share| share.reserve),
            pressure: share.map_or(0.0, |share| f64::from(share.pressure) / 1000.0),
            rubbish: share.map_or(0, |share| share.rubbish),
            trouble,
        }
    }
}

impl Core {
    /// Puts a question to a connection that nobody has.
    fn put_to_idle(self: &Arc<Self>, commands: &Pipeline) -> Option<Question> {
        let connection = self.withdraw(first()).pop()?;
        let question = Question::put(&connection, commands.clone());
        self.restore(connection);
        Some(question)
    }

    /// Puts a question to the next connection that is dialed or comes back.
    async fn put_to_next(self: &Arc<Self>, commands: &Pipeline) -> Option<Question> {
        let (sender, question) = oneshot::channel();
        *self.passage() = Some((commands.clone(), sender));
        self.watch_waits.store(true, Ordering::Release);
        // One may have come back before it could know.
        if let Some(question) = self.put_to_idle(commands) {
            return Some(question);
        }
        // Where all are lent for long and callers wait, nobody else could ever ask.
        self.change(|state| state.ledger.allow_one_more());
        tokio::time::timeout(PATIENCE, question).await.ok()?.ok()
    }

    /// Lets the watch put its question, if it waits for that, to a connection that nobody has: it goes
    /// out before whatever the next holder sends, and costs that one nothing but its reply's bytes.
    pub(super) fn pass_by_watch(&self, connection: &Connection) {
        if self.watch_waits.load(Ordering::Relaxed)
            && self.watch_waits.swap(false, Ordering::AcqRel)
            && let Some((commands, sender)) = self.passage().take()
        {
            // Where the watch has lost patience, the answer is for nobody.
            let _ = sender.send(Question::put(connection, commands));
        }
    }

    fn passage(&self) -> MutexGuard<'_, Option<Passage>> {
        self.passage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn farewell(&self) -> MutexGuard<'_, Option<Cmd>> {
        self.farewell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives our share back to the fleet, once the pool is closed, over one of the last connections:
    /// otherwise the registry would keep it for us until our time is up.
    pub(super) fn say_goodbye(self: &Arc<Self>) {
        let Some(farewell) = self.farewell().take() else { return };
        // No heartbeat goes out after it.
        *self.passage() = None;
        let limit = Some(self.settings.response_timeout);
        if let Some(carrier) = self.lanes.any() {
            let core = Arc::clone(self);
            carrier.shared.sent();
            self.spawn(async move {
                let mut redis = carrier.redis.clone();
                let _ = within(limit, redis.send_packed_command(&farewell)).await;
                carrier.answered(&core);
            });
            return;
        }
        match self.withdraw(first()).pop() {
            Some(mut connection) => {
                connection.shared.blame(CloseReason::PoolClosed);
                self.spawn(async move {
                    let _ = within(limit, connection.redis.send_packed_command(&farewell)).await;
                });
            }
            // All are lent: over the first that comes back.
            None => *self.farewell() = Some(farewell),
        }
    }

    /// Closes idle connections for as long as there are more than may be; the rest is closed as it
    /// comes back.
    fn shed_idle(&self) {
        loop {
            let mut state = self.lock();
            let idle = state.ledger.counts().idle;
            let shed = if state.ledger.is_over() {
                self.store.withdraw(idle, first())
            } else {
                Vec::new()
            };
            for connection in &shed {
                state.ledger.withdrawn(1);
                state.ledger.shed();
                connection.shared.shed();
            }
            drop(state);
            if shed.is_empty() {
                return;
            }
        }
    }
}

/// Whether we lack the right to ask, or the server does not know the question.
fn is_denied(error: &RedisError) -> bool {
    match error.code() {
        Some("NOPERM" | "NOAUTH") => true,
        Some("ERR") => error.detail().is_some_and(|detail| detail.starts_with("unknown command")),
        _ => false,
    }
}

/// The watch's question, and where to it is to be put.
pub(super) type Passage = (Pipeline, oneshot::Sender<Question>);

/// Commands on their way, on a connection that may be somebody else's by now.
pub(super) struct Question(Pin<Box<MaybeDone<RedisFuture<'static, Vec<Value>>>>>);

impl Question {
    fn put(connection: &Connection, commands: Pipeline) -> Self {
        let mut redis = connection.redis.clone();
        let reply: RedisFuture<'static, Vec<Value>> =
            Box::pin(async move { redis.send_packed_commands(&commands, 0, commands.len()).await });
        let mut question = Box::pin(maybe_done(reply));
        // The first poll hands it to the connection's driver, whatever this task has done before.
        let first = std::pin::pin!(tokio::task::unconstrained(question.as_mut()));
        let _ = first.poll(&mut Context::from_waker(Waker::noop()));
        Self(question)
    }

    async fn answer(mut self) -> RedisResult<Vec<Value>> {
        self.0.as_mut().await;
        self.0.as_mut().take_output().unwrap_or_else(|| Err(unanswered()))
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}

/// Picks the first of several.
fn first() -> impl FnMut(&Shared) -> bool {
    let mut taken = false;
    move |_| !std::mem::replace(&mut taken, true)
}
