//! The watch: one task a node, which asks the server how it is and steers the limit.
//!
//! It never dials: it asks over a lane, an idle connection, or, where all are lent, over the next one
//! that comes back or is dialed; and it asks only if no other pool of the process does. What is heard
//! goes through the pure policies ([`PriceLaw`], [`Membership`]) into the ledger.

pub(super) mod mailbox;
mod member;
mod reserved;
mod sending;
pub(super) mod steering;
mod thaw;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisResult, Value, from_redis_value};
use tokio::time::Instant;

use self::member::{DENIED_INTERVAL, Member};
use self::reserved::Reserved;
use self::sending::{PENDING_FOR, Sent, send};
use self::thaw::thaw;
use super::node::Node;
use super::shared::lanes::Carried;
use crate::fleet::{Beat, Membership, Source, limit_in_force};
use crate::policy::{Demand, LOW, PriceLaw, QUIET, Signal};
use crate::server::{Question, Role, Seen, Server, ServerEvent, ServerSnapshot};
use crate::telemetry::event::Event;
use crate::telemetry::status::LimitedBy;
use crate::vocabulary::reply::{is_denied, unanswered};

/// How often the demand is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long after a call the watch looks: callers who come together call once.
const CALL_DELAY: Duration = Duration::from_millis(2);

/// How long after a question the next one is asked because something was lost: where all is lost one by
/// one, not for each.
const LOSS_INTERVAL: Duration = Duration::from_millis(50);

/// How often a server is asked whose pool sets itself no limit; one that has it from the fleet asks with the
/// first beat after that.
const INFO_INTERVAL: Duration = Duration::from_secs(5);

/// How long a server that was short of slots is believed to be so by those who cannot ask.
const TIGHT_LASTS: Duration = Duration::from_secs(15);

/// How long an observation tells whether there is room: over the longest interval, which is a calm fleet's.
const FRESH_FOR: Duration = Duration::from_secs(45);

/// After how long without a connection that nobody has the next command of a holder's takes a question along: longer
/// than leases of requests are held.
const HELD_AFTER: Duration = Duration::from_secs(1);

/// After how long without a word from the server one more connection is dialed to ask over, where all are lent:
/// over the longest interval of a pool in no fleet.
const DIAL_TO_ASK_AFTER: Duration = Duration::from_secs(20);

/// How old another pool's observation may be for the first step of a new pool: under the shortest
/// interval.
const NEWS_FOR: Duration = Duration::from_secs(3);

/// How long a question is somebody's beyond what it may take.
const GRACE: Duration = Duration::from_secs(1);

/// How long a pool that had no connection for its question leaves it to others: time enough for them to
/// wake, and short beside the wait that follows.
const OTHERS_TURN: Duration = Duration::from_millis(10);

/// Watches until the pool is closed.
pub(super) async fn run(node: Arc<Node>) {
    if !node.settings().watch {
        return;
    }
    let mut watch = Watch::new(Arc::clone(&node), Instant::now());
    while !node.is_closed() {
        let server = node.server();
        let mut news = pin!(server.news());
        news.as_mut().enable();
        let next = watch.look().await;
        tokio::select! {
            biased;
            // Callers who wait may call again. Not sooner, or a hungry pool would do nothing but look.
            () = tokio::time::sleep_until(next) => node.lock().heed_calls(),
            () = node.mailbox.attention.notified() => tokio::time::sleep(CALL_DELAY).await,
            () = news => {}
        }
    }
}

/// Why nothing is heard of a server that may be well.
fn why_unasked(live: usize) -> &'static str {
    match live {
        0 => "no connection is open, so nothing could be asked",
        _ => "all connections are lent and carry nothing, so nothing could be asked over them",
    }
}

struct Watch {
    node: Arc<Node>,
    /// The one that was `seen`.
    server: Arc<Server>,
    demand: Demand,
    law: PriceLaw,
    fleet: Option<Member>,
    /// Not before then, for a question without a law.
    due: Instant,
    /// The observation that was taken in last.
    seen: Option<Seen>,
    /// INFO was denied us, and is not asked for again until then.
    denied_until: Option<Instant>,
    reserved: Reserved,
    /// Since when no connection was to be had for a question.
    stuck_since: Option<Instant>,
    /// So it is the other pools' turn to ask until then.
    waits_for_others: Option<Instant>,
    /// Nothing could be asked for long.
    unasked: bool,
    /// How many connections are wanted for that, so that there is one to ask over.
    extra: Option<usize>,
    /// When the pool was last seen to have lost a connection, or been refused one.
    lost: Instant,
}

/// The next watch, on another runtime, knows nothing of what this one wanted; there is none for a pool that is closed.
impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(goal) = self.extra {
            self.node.change(|state| state.ledger.remove_goal(goal));
        }
        self.node.lock().heartbeat_in_flight = false;
        self.node.after_heartbeat(None);
    }
}

/// The pool at one moment.
struct Sight {
    live: usize,
    dialing: usize,
    hungry: bool,
}

impl Watch {
    fn new(node: Arc<Node>, now: Instant) -> Self {
        let settings = node.settings();
        let max = settings.max_connections;
        let law = PriceLaw::new(max, settings.seed).at_least(settings.min_limit);
        let fleet = settings.fleet.as_ref().map(|fleet| Member::new(&node, fleet, now));
        let demand = Demand::new(now);
        Self {
            server: node.server(),
            node,
            demand,
            law,
            fleet,
            due: now,
            seen: None,
            denied_until: None,
            reserved: Reserved::default(),
            stuck_since: None,
            unasked: false,
            extra: None,
            waits_for_others: None,
            lost: now,
        }
    }

    /// Looks at the pool, and asks the server if it is time; when to look again.
    async fn look(&mut self) -> Instant {
        let now = Instant::now();
        let sight = self.see(now);
        let mut heard = self.take_news(now);
        let asks = self.info_due(&sight).is_none_or(|due| due <= now);
        let server = self.node.server();
        let patience = self.node.settings().response_timeout + PENDING_FOR + GRACE;
        let may_ask = asks && self.waits_for_others.is_none_or(|until| until <= now);
        let question = if may_ask { server.question(now, patience) } else { None };
        let asked = question.is_some();
        let tries = self.stuck_since.is_some() && sight.hungry && self.may_try();
        let beat = self.beat(&sight, tries, now);
        if tries && beat.is_none() {
            self.node.change(|state| state.ledger.allow_one_more());
        }
        let has_registry = self.node.registry().is_some();
        let glance = self.fleet.as_mut().filter(|_| beat.is_none() && has_registry);
        let glance = glance.and_then(|member| member.glance(now));
        let mut lane = None;
        if asked || beat.is_some() || glance.is_some() {
            lane = self.ask(&server, question, beat, glance).await;
        }
        let now = Instant::now();
        let sight = self.see(now);
        heard |= self.take_news(now);
        if asked || heard {
            // It may have been a step on the way up.
            self.node.lock().heed_calls();
        }
        self.dial_to_ask(now);
        self.steer();
        self.node.after_heartbeat(lane);
        if let Some(member) = &mut self.fleet {
            let why = self.stuck_since.map(|_| why_unasked(sight.live));
            member.report_loss(&self.node, now, why);
        }
        let info = match self.info_due(&sight) {
            // Another pool asks, and what it hears is news.
            _ if asks && !asked => server.question_due().max(self.waits_for_others),
            due => Some(due.map_or(now, |due| due.max(server.question_due().unwrap_or(due)))),
        };
        let glance = self.membership().and_then(Membership::glance_due);
        let due = [info, self.beat_due(&sight), glance].into_iter().flatten().min();
        due.unwrap_or(now + LOOK_INTERVAL).clamp(now + CALL_DELAY, now + LOOK_INTERVAL)
    }

    /// Where all connections are lent for long and callers wait, the question would never go out: one
    /// more may be dialed, which takes it along. Where the last word was that slots are short, only
    /// once that is old. A member of a fleet has what it was granted, unless it has lost that: the one
    /// connection that is left may be a subscriber's, which takes nothing along.
    fn may_try(&self) -> bool {
        let now = Instant::now();
        let old = self.seen.as_ref().is_none_or(|seen| now >= seen.at + TIGHT_LASTS);
        let saturation = self.seen.as_ref().and_then(Seen::saturation);
        let tight = saturation.is_some_and(|saturation| saturation > LOW);
        let keeps_share =
            self.has_share(now) && !self.membership().is_some_and(Membership::has_lost);
        !keeps_share && (old || !tight)
    }

    /// Where nothing could be asked for long, one more connection is wanted to ask over, if the limit has room
    /// for it; if not, the status says why there is no word.
    fn dial_to_ask(&mut self, now: Instant) {
        // The first word is asked for over the first caller's connection.
        let unasked = self.stuck_since.is_some_and(|since| now >= since + HELD_AFTER)
            && self.seen.as_ref().is_some_and(|seen| now >= seen.at + DIAL_TO_ASK_AFTER);
        if !unasked && !std::mem::take(&mut self.unasked) {
            return;
        }
        self.unasked = unasked;
        if unasked && self.extra.is_some() {
            return;
        }
        let before = self.extra.take();
        self.extra = self.node.change(|state| {
            if let Some(before) = before {
                state.ledger.remove_goal(before);
            }
            let counts = state.ledger.counts();
            state.steering.unasked = unasked.then(|| why_unasked(counts.live));
            // Whoever has none has no use for one.
            let wanted = unasked && counts.live > 0 && counts.live < counts.limit;
            let goal = wanted.then_some(counts.live + 1)?;
            state.ledger.add_goal(goal);
            Some(goal)
        });
    }

    /// True while the registry's last word holds.
    fn has_share(&self, now: Instant) -> bool {
        self.membership().is_some_and(|membership| membership.share(now).is_some())
    }

    /// Our membership in a fleet that can keep a registry on this server.
    fn membership(&self) -> Option<&Membership> {
        let member = self.fleet.as_ref()?;
        self.node.registry().is_some().then_some(&member.membership)
    }

    fn see(&mut self, now: Instant) -> Sight {
        let (sight, load, lost) = {
            let mut state = self.node.lock();
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
                member.membership.lost(sight.live + sight.dialing);
            }
            // Whether it was the server's doing, it says itself; once for all that is lost together.
            self.due = self.seen.as_ref().map_or(now, |seen| now.max(seen.sent + LOSS_INTERVAL));
            self.lost = now;
        }
        sight
    }

    /// When to ask for INFO; `None`: now.
    fn info_due(&self, sight: &Sight) -> Option<Instant> {
        if let Some(until) = self.denied_until {
            return Some(until);
        }
        if !self.node.settings().adaptive_limit {
            return Some(self.due);
        }
        if self.has_share(Instant::now()) {
            // With a beat: a server that has nothing else to do spends more on waking up than on INFO.
            let seen = self.seen.as_ref().map(|seen| seen.at + INFO_INTERVAL);
            let beside_a_beat = seen.max(self.beat_due(sight));
            return Some(beside_a_beat.map_or(self.due, |due| due.min(self.due)));
        }
        self.law.due(sight.live + sight.dialing, sight.hungry).map(|due| due.min(self.due))
    }

    /// When to beat; `None` for a pool that is in no fleet.
    fn beat_due(&self, sight: &Sight) -> Option<Instant> {
        // Where there can be no registry, there is nothing to wait for.
        self.node.registry()?;
        self.fleet.as_ref()?.due(sight.hungry, sight.live)
    }

    /// A heartbeat, if it is time.
    fn beat(&mut self, sight: &Sight, tries: bool, now: Instant) -> Option<Beat> {
        let member = self.fleet.as_mut()?;
        if member.due(sight.hungry, sight.live).is_some_and(|due| due > now) {
            return None;
        }
        member.beat(&self.node, &self.demand, sight.hungry, tries)
    }

    /// Asks for INFO, beats or glances at the registry, in one go: one may come by a connection only now and then.
    /// Returns the lane that carried it, if one did.
    async fn ask(
        &mut self,
        server: &Server,
        question: Option<Question>,
        beat: Option<Beat>,
        glance: Option<Cmd>,
    ) -> Option<Carried> {
        let mut commands = redis::pipe();
        if question.is_some() {
            // Plain INFO: before Redis 7 it takes at most one section.
            commands.cmd("INFO");
        }
        let (seen, now) = (self.seen.as_ref(), Instant::now());
        let asks_reserved = question.is_some() && self.reserved.is_asked_of(seen, now);
        if asks_reserved {
            reserved::ask(&mut commands);
        }
        if let (Some(beat), Some(member)) = (&beat, &self.fleet) {
            commands.add_command(member.command(beat, reserved::slots(seen).unwrap_or(0)));
        }
        let glanced = glance.map(|glance| commands.add_command(glance)).is_some();
        let urgent = self.stuck_since.is_some_and(|since| now >= since + HELD_AFTER);
        let sent = send(&self.node, server.address(), &commands, urgent).await;
        self.stuck_since = sent.is_none().then(|| self.stuck_since.unwrap_or(now));
        // No connection was to be had; another pool may have one.
        self.waits_for_others = self.stuck_since.map(|_| Instant::now() + OTHERS_TURN);
        let Some(Sent { replies, lane }) = sent else {
            // Not a failure of the server's: all connections are lent.
            if let (Some(_), Some(member)) = (&beat, &mut self.fleet) {
                member.membership.unsent();
            }
            return None;
        };
        let mut replies = replies.map(|replies| replies.into_iter().map(Value::extract_error));
        let now = Instant::now();
        let mut next = || match &mut replies {
            Ok(replies) => replies.next().unwrap_or_else(|| Err(unanswered())),
            Err(error) => Err(error.clone()),
        };
        let info = question.map(|question| (question, next()));
        let told = asks_reserved.then(|| [next(), next()]);
        let reply = beat.is_some().then(&mut next);
        let glanced = glanced.then(&mut next);
        if let Some((question, info)) = info {
            let reserved = told.and_then(|told| self.reserved.heard(told, now));
            self.heard_info(question, info, reserved, now);
        }
        if let (Some(beat), Some(reply), Some(member)) = (beat, reply, &mut self.fleet) {
            member.heard(&self.node, &beat, reply);
        }
        if let (Some(reply), Some(member)) = (glanced, &mut self.fleet) {
            member.glanced(reply);
        }
        lane
    }

    fn heard_info(
        &mut self,
        question: Question,
        reply: RedisResult<Value>,
        reserved: Option<String>,
        now: Instant,
    ) {
        // Bytes: a path or a name in it may be in whatever encoding.
        let info = reply.and_then(|reply| match reply {
            // In RESP3, which redis-rs takes for text only.
            Value::VerbatimString { text, .. } => Ok(text.into_bytes()),
            reply => Ok(from_redis_value::<Vec<u8>>(reply)?),
        });
        match info {
            Ok(mut info) => {
                self.denied_until = None;
                info.extend(reserved.into_iter().flat_map(String::into_bytes));
                question.answered(ServerSnapshot::parse(info), now);
            }
            Err(error) => {
                let denied = is_denied(&error);
                if denied {
                    // Another pool's user may be allowed to ask.
                    self.denied_until = Some(now + DENIED_INTERVAL);
                    drop(question);
                } else {
                    self.due = now;
                    question.failed(now);
                }
                if denied || self.seen.is_some() {
                    self.law.unseen(now);
                }
                // A connection that was lost says nothing about the next one. And where another pool's
                // user may ask, the server is watched.
                let watched = self.seen.as_ref().is_some_and(|seen| now < seen.at + FRESH_FOR);
                if (error.code().is_some() || error.is_timeout()) && !(denied && watched) {
                    self.report_trouble(error.to_string());
                }
            }
        }
    }

    /// Takes in what was observed since the last look, by whichever pool of the process; false if
    /// nothing was.
    fn take_news(&mut self, now: Instant) -> bool {
        let server = self.node.server();
        if !Arc::ptr_eq(&server, &self.server) {
            // What was seen was another one.
            (self.server, self.seen) = (Arc::clone(&server), None);
        }
        let last = self.seen.as_ref();
        let number = last.map_or(0, |seen| seen.number);
        let is_news = |seen: &Seen| seen.number != number && now < seen.at + NEWS_FOR;
        let Some(seen) = server.seen().filter(is_news) else { return false };
        if last.is_some() {
            for event in server.events_since(number) {
                if matches!(event, ServerEvent::RoleChanged { to: Role::Replica, .. }) {
                    self.node.suspect_demotion();
                }
                self.node.context.server_changed(Arc::clone(server.address()), event);
            }
        }
        let rejected = match last {
            Some(last) => seen.rejections.saturating_sub(last.rejections),
            None => seen.observation.new_rejections.unwrap_or(0),
        };
        self.step(&seen, rejected, now);
        if seen.sent < self.lost {
            // It was asked before that, and does not know of it.
            self.due = now.max(seen.sent + LOSS_INTERVAL);
        }
        let before = reserved::slots(self.seen.as_ref());
        self.seen = Some(seen);
        let reserved = reserved::slots(self.seen.as_ref());
        // Until it is known how many slots are reserved the ceiling is taken for too high, so both are asked for
        // at once, and so is a share by the new one.
        if reserved.is_none() && self.reserved.is_asked_of(self.seen.as_ref(), now) {
            self.due = now;
        }
        if let Some(member) = self.fleet.as_mut().filter(|_| reserved != before) {
            member.membership.unsent();
        }
        let found = self.node.lock().steering.trouble.take().is_some();
        if found {
            let server = Arc::clone(server.address());
            self.node.context.events.send(Event::WatchFound { server });
        }
        true
    }

    fn step(&mut self, seen: &Seen, rejected: u64, now: Instant) {
        // The price law has a pace of its own.
        let adaptive = self.node.settings().adaptive_limit;
        self.due = now + if adaptive { FRESH_FOR } else { INFO_INTERVAL };
        // The pool may have changed while the question was on its way.
        let sight = self.see(now);
        let observation = &seen.observation;
        let mut signal = Signal {
            used: observation.snapshot.used().unwrap_or(0),
            maxclients: observation.ceiling.unwrap_or(0),
            rejected,
            live: sight.live + sight.dialing,
            hungry: sight.hungry,
            demand: self.demand.generous(),
        };
        let law = &mut self.law;
        self.node.server().promise(seen, |promised| {
            // Nobody is connected to a server that hides it, whatever was promised.
            if signal.used > 0 {
                signal.used = signal.used.saturating_add(promised);
            }
            law.step(now, &signal);
            law.limit().unwrap_or(0).saturating_sub(signal.live)
        });
    }

    /// Sets the limit by the best that is known: the registry, then the price law, then nothing but
    /// what the pool may ever have.
    fn steer(&mut self) {
        let now = Instant::now();
        if self.node.registry().is_none()
            && let Some(member) = &mut self.fleet
        {
            member.left(&self.node);
        }
        let membership = self.membership();
        if let Some(peers) = self.peers(membership, now) {
            self.node.lock().gate.fleet_of(peers);
        }
        let settings = self.node.settings();
        let (max, adaptive) = (settings.max_connections, settings.adaptive_limit);
        let fresh = self.seen.as_ref().filter(|seen| now < seen.at + FRESH_FOR);
        let (seen, lost) = (self.seen.as_ref(), self.lost);
        self.node.change(|state| {
            let sockets = state.ledger.sockets();
            let (limit, source) = limit_in_force(membership, &self.law, max, sockets, now);
            let source = match source {
                Source::Registry | Source::Kept | Source::Asking => LimitedBy::FleetLease,
                Source::PriceLaw if adaptive => LimitedBy::PriceLaw,
                Source::PriceLaw | Source::Static => LimitedBy::MaxConnections,
            };
            // A watch that begins anew on another runtime takes nothing away before it has asked.
            let limit = if seen.is_none() { limit.max(sockets) } else { limit };
            let share = Some(limit).filter(|_| source != LimitedBy::MaxConnections);
            (state.steering.source, state.steering.steered) = (source, Some(now));
            state.ledger.allow(share);
            if state.lost {
                // It happened while the question was on its way: the answer does not know of it.
                state.ledger.void_share();
            }
            state.heartbeat_in_flight = false;
            // One that hides its ceiling, or whom it refuses, has to be tried.
            state.ledger.set_watched(fresh.is_some_and(Seen::tells_room));
            let saturation = fresh.filter(|seen| seen.sent >= lost).and_then(Seen::saturation);
            // One that has not seen the server leaves that to those who have.
            if seen.is_some() {
                let roomy = saturation.is_some_and(|saturation| saturation < QUIET);
                state.gate.set_roomy(roomy);
                // What a fleet shares out is somebody's to the last slot.
                state.ledger.set_roomy(roomy && source != LimitedBy::FleetLease);
            }
            if let (false, Some(seen)) = (state.lost, seen) {
                thaw(state, seen, share, lost);
            }
            state.shed_idle();
        });
        // Whoever waits for the pool to be warm may have all there is.
        self.node.warmth_changed.notify_waiters();
    }

    /// How many pools like this one share the server, as far as that is known.
    fn peers(&self, membership: Option<&Membership>, now: Instant) -> Option<usize> {
        match membership.and_then(|membership| membership.share(now)) {
            Some(share) => Some(share.members),
            None => self.seen.as_ref().map(|_| self.law.peers()),
        }
    }

    fn report_trouble(&self, reason: String) {
        let new = self.node.lock().steering.trouble.replace(reason.clone()).is_none();
        if new {
            self.node.context.watch_lost(self.node.address(), reason);
        }
    }
}
