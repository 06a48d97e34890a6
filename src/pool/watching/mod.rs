//! The watch: one task a pool, which asks the server how it is and steers the limit.
//!
//! It never dials: it asks over a lane, an idle connection, or, where all are lent, over the next one
//! that comes back or is dialed. What it hears goes through the pure policies ([`PriceLaw`],
//! [`Membership`]) into the ledger.

mod member;
mod question;
mod watched;

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, RedisResult, Value, from_redis_value};
use tokio::time::Instant;

use self::member::Member;
use self::question::is_denied;
use super::core::Core;
use super::lease::{unanswered, within};
use crate::Outcome;
#[expect(unused_imports, reason = "for the docs")]
use crate::fleet::Membership;
use crate::fleet::{Beat, Source, limit_in_force};
use crate::policy::{Demand, LOW, PriceLaw, QUIET, Signal};
use crate::server::{ServerObserver, ServerSnapshot};
use crate::telemetry::status::LimitedBy;
use crate::vocabulary::DialFailure;

pub(super) use question::Passage;
pub(super) use watched::Watched;

/// How often the demand is looked at.
const TICK: Duration = Duration::from_millis(250);

/// How long after a call the watch looks: callers who come together call once.
const PAUSE: Duration = Duration::from_millis(2);

/// How often a server is asked whose pool sets itself no limit, or has it from the fleet.
const CALM: Duration = Duration::from_secs(5);

/// How long to leave a server alone that denies INFO. An operator who changes its ACL can wait.
const DENIED: Duration = Duration::from_secs(60);

/// How long a server that was short of slots is believed to be so by those who cannot ask.
const LONG: Duration = Duration::from_secs(15);

/// How long an observation tells whether there is room: over the longest interval.
const FRESH: Duration = Duration::from_secs(30);

/// How long a question waits for a connection when all are lent, before it is put together anew: what
/// it reports is of then.
const PATIENCE: Duration = Duration::from_millis(50);

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
    /// No connection was to be had for the last question.
    stuck: bool,
    /// When the pool was last seen to have lost a connection, or been refused one.
    lost: Instant,
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
        let law = PriceLaw::new(max, settings.seed).at_least(settings.min_limit);
        let fleet = settings.fleet.as_ref().map(|fleet| Member::new(&core, fleet, now));
        let (observer, demand) = (ServerObserver::default(), Demand::new(now));
        Self {
            core,
            observer,
            demand,
            law,
            fleet,
            due: now,
            heard: None,
            failed: false,
            stuck: false,
            lost: now,
        }
    }

    /// Looks at the pool, and asks the server if it is time; when to look again.
    async fn look(&mut self) -> Instant {
        let (now, sight) = (Instant::now(), self.see());
        let asks = self.info_due(&sight).is_none_or(|due| due <= now);
        let tries = self.stuck && sight.hungry && self.may_try();
        let beat = self.beat(&sight, tries, now);
        if tries && beat.is_none() {
            self.core.change(|state| state.ledger.allow_one_more());
        }
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
        self.report_loss(now);
        let due = [self.info_due(&sight), self.beat_due(&sight)].into_iter().flatten().min();
        due.unwrap_or(now + TICK).clamp(now + PAUSE, now + TICK)
    }

    /// Where all connections are lent for long and callers wait, the question would never go out: one
    /// more may be dialed, which takes it along. Where the last word was that slots are short, only
    /// once that is old.
    fn may_try(&self) -> bool {
        let now = Instant::now();
        let old = self.heard.is_none_or(|heard| now >= heard + LONG);
        let tight = self.core.lock().watch.saturation().is_some_and(|saturation| saturation > LOW);
        !self.is_leased(now) && (old || !tight)
    }

    /// True while the registry's last word holds.
    fn is_leased(&self, now: Instant) -> bool {
        self.fleet.as_ref().is_some_and(|member| member.lease.share(now).is_some())
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
        if self.failed || !self.core.settings.adaptive_limit {
            return Some(self.due);
        }
        if self.is_leased(Instant::now()) {
            return Some(self.heard.map_or(self.due, |heard| self.due.min(heard + CALM)));
        }
        self.law.due(sight.live, sight.hungry).map(|due| due.min(self.due))
    }

    /// When to beat; `None` for a pool that is in no fleet.
    fn beat_due(&self, sight: &Sight) -> Option<Instant> {
        let member = self.fleet.as_ref()?;
        let due = member.lease.due(sight.hungry, sight.live);
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
        let replies = self.send(&questions).await;
        self.stuck = replies.is_none();
        let mut replies = match replies {
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
        let observation = self.observer.observe(snapshot, now);
        // The price law has a pace of its own.
        let pause = if self.core.settings.adaptive_limit { FRESH } else { CALM };
        (self.heard, self.due) = (Some(now), now + pause);
        // The pool may have changed while the question was on its way.
        let sight = self.see();
        self.law.step(
            now,
            &Signal {
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
            Some(share) => Some(share.members),
            None => self.heard.map(|_| self.law.peers()),
        };
        let max = self.core.settings.max_connections;
        let adaptive = self.core.settings.adaptive_limit;
        let lost = self.lost;
        let relented = self.core.change(|state| {
            let sockets = state.ledger.sockets();
            let (limit, source) = limit_in_force(lease, &self.law, max, sockets, now);
            let source = match source {
                Source::Registry | Source::Kept | Source::Asking => LimitedBy::FleetLease,
                Source::PriceLaw if adaptive => LimitedBy::PriceLaw,
                Source::PriceLaw | Source::Static => LimitedBy::MaxConnections,
            };
            // A watch that begins anew on another runtime takes nothing away before it has asked.
            let limit = if self.heard.is_none() { limit.max(sockets) } else { limit };
            let share = Some(limit).filter(|_| source != LimitedBy::MaxConnections);
            (state.watch.source, state.watch.steered) = (source, Some(now));
            state.ledger.allow(share);
            if state.lost {
                // It happened while the question was on its way: the answer does not know of it.
                state.ledger.void_share();
            }
            state.asking = false;
            if let Some(peers) = peers {
                state.gate.fleet_of(peers);
            }
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
}

impl Core {
    /// Closes idle connections for as long as there are more than may be; the rest is closed as it
    /// comes back.
    fn shed_idle(&self) {
        loop {
            let mut state = self.lock();
            let idle = state.ledger.counts().idle;
            let shed = if state.ledger.is_over() {
                self.store.withdraw(idle.min(1), |_| true)
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
