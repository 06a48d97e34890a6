//! Membership in a fleet: heartbeats, and the goodbye.

use std::time::Duration;

use redis::{Cmd, RedisResult, Script, Value, from_redis_value};
use tokio::time::Instant;

use super::{DENIED_INTERVAL, Sight, Watch, is_denied};
use crate::fleet::{self, Beat, Fleet, Membership, Report, SCRIPT};
use crate::pool::node::Node;
use crate::telemetry::event::Event;
use crate::telemetry::status::FleetStatus;

/// Our membership in a fleet.
pub(super) struct Member {
    pub(super) membership: Membership,
    script: Script,
    keys: [String; 3],
    joined: bool,
    /// The server knows the script by its hash.
    loaded: bool,
    /// The registry was denied us, and is left alone until then.
    pub(super) not_before: Instant,
    /// Why the last beat failed, if it did.
    trouble: Option<String>,
}

impl Member {
    pub(super) fn new(node: &Node, fleet: &Fleet, now: Instant) -> Self {
        let settings = node.settings();
        let (max, seed) = (settings.max_connections, settings.seed);
        let id = format!("{}:{:016x}", node.dialer.client_name, fastrand::u64(..));
        Self {
            membership: Membership::new(id, max, fleet.reserved(), now, seed),
            script: Script::new(SCRIPT),
            keys: fleet::registry_keys(fleet.name()),
            joined: false,
            loaded: false,
            not_before: now,
            trouble: None,
        }
    }

    /// By the script's hash, once the server has run it.
    pub(super) fn command(&self, beat: &Beat) -> Cmd {
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

impl Watch {
    /// A heartbeat, if it is time: what we hold and need, for the registry to say what we may have.
    /// `tries`: one more connection may be dialed, to beat over.
    pub(super) fn beat(&mut self, sight: &Sight, tries: bool, now: Instant) -> Option<Beat> {
        let due = self.beat_due(sight);
        let member = self.fleet.as_mut()?;
        if due.is_some_and(|due| due > now) {
            return None;
        }
        // What is reported is all there is: no dial starts that the registry does not hear of.
        let counts = self.node.change(|state| {
            if state.ledger.is_closed() {
                return None;
            }
            state.heartbeat_in_flight = true;
            state.ledger.void_share();
            let mut counts = state.ledger.counts();
            if tries {
                state.ledger.allow_one_more();
                counts.dialing += 1;
            }
            Some(counts)
        })?;
        let report = Report {
            live: counts.live,
            dialing: counts.dialing,
            base: self.demand.base(),
            peak: self.demand.peak(),
            // Before the first word one connection is all there may be.
            hungry: sight.hungry || (!member.joined && counts.waiting > 0),
        };
        Some(member.membership.beat(now, &report))
    }

    pub(super) fn heard_registry(&mut self, beat: &Beat, reply: RedisResult<Value>, now: Instant) {
        let Some(member) = &mut self.fleet else { return };
        let reply = reply.and_then(|reply| Ok(from_redis_value::<Vec<i64>>(reply)?));
        let trouble = match reply {
            Ok(reply) if member.membership.replied(beat, &reply) => {
                member.loaded = true;
                None
            }
            Ok(_) => Some("the server hides how many connections it takes".to_owned()),
            // It has forgotten the script, and is told it with the next beat, which is now.
            Err(error) if error.code() == Some("NOSCRIPT") && member.loaded => {
                member.loaded = false;
                return member.membership.unsent();
            }
            Err(error) => {
                member.membership.failed(beat);
                member.not_before =
                    now + if is_denied(&error) { DENIED_INTERVAL } else { Duration::ZERO };
                Some(error.to_string())
            }
        };
        self.report_fleet(trouble);
    }

    /// Our share has run out without another beat.
    pub(super) fn report_loss(&mut self, now: Instant) {
        let Some(member) = &self.fleet else { return };
        if member.joined && member.membership.share(now).is_none() {
            let reason = || "no heartbeat went out in time".to_owned();
            let trouble = member.trouble.clone().unwrap_or_else(reason);
            self.report_fleet(Some(trouble));
        }
    }

    fn report_fleet(&mut self, trouble: Option<String>) {
        let (now, node) = (Instant::now(), &self.node);
        let (Some(member), Some(fleet)) = (&mut self.fleet, &node.settings().fleet) else { return };
        let share = member.membership.share(now).copied();
        member.trouble.clone_from(&trouble);
        let status = FleetStatus::of(fleet, share.as_ref(), trouble);
        let before = std::mem::replace(&mut member.joined, status.joined);
        match (before, status.joined) {
            (false, true) => {
                let members = status.members;
                node.context.events.send(Event::FleetJoined { members });
            }
            (true, false) => {
                let reason = status.trouble.clone().unwrap_or_default();
                tracing::warn!(pool = %node.context.name(), server = %node.address(), reason, "the fleet's registry is lost");
                node.context.events.send(Event::FleetLost { reason });
            }
            _ => {}
        }
        if status.joined {
            let leave = member.membership.leave();
            node.mailbox.set_goodbye(Some(member.call("EVAL", SCRIPT, &leave)));
        }
        node.lock().steering.fleet = Some(status);
    }
}

impl FleetStatus {
    fn of(fleet: &Fleet, share: Option<&fleet::Share>, trouble: Option<String>) -> Self {
        Self {
            name: fleet.name().to_owned(),
            joined: share.is_some(),
            members: share.map_or(0, |share| share.members),
            share: share.map_or(0, |share| share.limit),
            reserve: share.map_or(0, |share| share.reserve),
            pressure: share.map_or(0.0, |share| f64::from(share.pressure) / 1000.0),
            repaired: share.map_or(0, |share| share.repaired),
            trouble,
        }
    }
}
