//! Membership in a fleet: heartbeats, and the goodbye.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisResult, Script, Value, from_redis_value};
use tokio::time::Instant;

use crate::dial::Notice;
use crate::fleet::{self, Beat, Fleet, Membership, Report, SCRIPT};
use crate::policy::{Demand, FLOOR};
use crate::pool::node::Node;
use crate::pool::topology::place::Doubt;
use crate::telemetry::event::Event;
use crate::telemetry::status::FleetStatus;
use crate::vocabulary::reply::is_denied;

/// How long to leave a server alone that denies us what we ask. An operator who changes its ACL can
/// wait.
pub(super) const DENIED_INTERVAL: Duration = Duration::from_secs(60);

/// Our membership in a fleet.
pub(super) struct Member {
    pub(super) membership: Membership,
    script: Script,
    /// The registry's name, and its keys.
    registry: (String, [String; 3]),
    joined: bool,
    /// Our share has run out only because there was no connection to beat over.
    unasked: bool,
    /// The server knows the script by its hash.
    loaded: bool,
    /// The registry was denied us, and is left alone until then.
    not_before: Instant,
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
            registry: (fleet.name().to_owned(), fleet::registry_keys(fleet.name())),
            joined: false,
            unasked: false,
            loaded: false,
            not_before: now,
            trouble: None,
        }
    }

    /// By the script's hash, once the server has run it. `reserved`: slots that the server keeps from us,
    /// which a script cannot ask for.
    pub(super) fn command(&self, beat: &Beat, reserved: u64) -> Cmd {
        let mut command = match self.loaded {
            true => self.call("EVALSHA", self.script.get_hash(), &beat.args),
            false => self.call("EVAL", SCRIPT, &beat.args),
        };
        command.arg(reserved);
        command
    }

    fn call(&self, verb: &str, script: &str, args: &[String]) -> Cmd {
        let mut command = redis::cmd(verb);
        let (_, keys) = &self.registry;
        command.arg(script).arg(keys.len()).arg(keys).arg(args);
        command
    }

    /// A look at the registry between two beats, if it is time.
    pub(super) fn glance(&mut self, now: Instant) -> Option<Cmd> {
        self.membership.glance_due().filter(|due| *due <= now)?;
        self.membership.glance(now);
        let (_, [_, _, sums]) = &self.registry;
        let mut command = redis::cmd("HGET");
        command.arg(sums).arg("state");
        Some(command)
    }

    /// What the look found.
    pub(super) fn glanced(&mut self, reply: RedisResult<Value>) {
        // Whether the registry is in trouble is for a beat to find out.
        if let Ok(reply) = reply {
            let state = from_redis_value::<Option<Vec<u8>>>(reply).ok().flatten();
            self.membership.glanced(state.as_deref().and_then(fleet::news_of_state));
        }
    }

    /// When to beat; `None`: now.
    pub(super) fn due(&self, hungry: bool, live: usize) -> Option<Instant> {
        let due = self.membership.due(hungry, live);
        if due.is_none_or(|due| due < self.not_before) { Some(self.not_before) } else { due }
    }

    /// Where the registry is now; `None` where there can be none.
    fn find_registry(&mut self, node: &Node) -> Option<()> {
        let name = node.registry()?;
        if name != self.registry.0 {
            let keys = fleet::registry_keys(&name);
            self.registry = (name, keys);
        }
        Some(())
    }

    /// A heartbeat: what we hold and need, for the registry to say what we may have; `None` if the pool
    /// is closed. `tries`: one more connection may be dialed, to beat over.
    pub(super) fn beat(
        &mut self,
        node: &Arc<Node>,
        demand: &Demand,
        hungry: bool,
        tries: bool,
    ) -> Option<Beat> {
        self.find_registry(node)?;
        // What is reported is all there is: no dial starts that the registry does not hear of.
        let counts = node.change(|state| {
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
        // What endpoints were promised is needed, whoever else needs more.
        let min_limit = node.settings().min_limit;
        let promised = if min_limit > FLOOR { min_limit } else { 0 };
        let report = Report {
            live: counts.live,
            dialing: counts.dialing,
            base: demand.base().max(promised),
            peak: demand.peak(),
            // Before the first word one connection is all there may be.
            hungry: hungry || (!self.joined && counts.waiting > 0),
        };
        Some(self.membership.beat(Instant::now(), &report))
    }

    /// The registry has answered, or could not.
    pub(super) fn heard(&mut self, node: &Node, beat: &Beat, reply: RedisResult<Value>) {
        let reply = reply.and_then(|reply| Ok(from_redis_value::<Vec<i64>>(reply)?));
        let trouble = match reply {
            Ok(reply) if self.membership.replied(beat, &reply) => {
                self.loaded = true;
                None
            }
            Ok(_) => Some("the server hides how many connections it takes".to_owned()),
            // It has forgotten the script, and is told it with the next beat, which is now.
            Err(error) if error.code() == Some("NOSCRIPT") && self.loaded => {
                self.loaded = false;
                return self.membership.unsent();
            }
            Err(error) => {
                self.membership.failed(beat);
                if matches!(
                    Notice::of_error(&error),
                    Some((Notice::Moved | Notice::ClusterDown, _))
                ) {
                    node.resolver.doubt(&node.place.load(), Doubt::Lost);
                }
                let pause = if is_denied(&error) { DENIED_INTERVAL } else { Duration::ZERO };
                self.not_before = Instant::now() + pause;
                Some(error.to_string())
            }
        };
        self.report(node, trouble);
    }

    /// Tells if our share has run out without another beat. `unasked`: why there was no connection for one, which is
    /// nobody's failure.
    pub(super) fn report_loss(&mut self, node: &Node, now: Instant, unasked: Option<&str>) {
        if self.joined && self.membership.share(now).is_none() {
            self.unasked = unasked.is_some() && self.trouble.is_none();
            let reason = unasked.unwrap_or("no heartbeat went out in time");
            let trouble = self.trouble.clone().unwrap_or_else(|| reason.to_owned());
            self.report(node, Some(trouble));
        }
    }

    /// The server keeps no registry: what it served is another node's.
    pub(super) fn left(&mut self, node: &Node) {
        if node.lock().steering.fleet.take().is_some() {
            self.joined = false;
            node.mailbox.set_goodbye(None);
        }
    }

    fn report(&mut self, node: &Node, trouble: Option<String>) {
        let Some(fleet) = &node.settings().fleet else { return };
        let joined = self.membership.share(Instant::now()).is_some();
        // A trouble that the registry did not tell is not why a beat failed.
        self.trouble = trouble.clone().filter(|_| !self.unasked);
        let status = FleetStatus::of(fleet, self.membership.last_share(), joined, trouble);
        let (before, joined) = (std::mem::replace(&mut self.joined, status.joined), status.joined);
        let (members, reason) = (status.members, status.trouble.clone().unwrap_or_default());
        if joined {
            let leave = self.membership.leave();
            node.mailbox.set_goodbye(Some(self.call("EVAL", SCRIPT, &leave)));
        }
        node.lock().steering.fleet = Some(status);
        let server = node.address();
        let told = !self.unasked;
        self.unasked &= !joined;
        match (before, joined) {
            _ if !told => {}
            (false, true) => node.context.events.send(Event::FleetJoined { server, members }),
            (true, false) => node.context.registry_lost(server, reason),
            _ => {}
        }
    }
}

impl FleetStatus {
    fn of(
        fleet: &Fleet,
        share: Option<&fleet::Share>,
        joined: bool,
        trouble: Option<String>,
    ) -> Self {
        Self {
            name: fleet.name().to_owned(),
            joined,
            members: share.map_or(0, |share| share.members),
            share: share.filter(|_| joined).map_or(0, |share| share.limit),
            reserve: share.map_or(0, |share| share.reserve),
            pressure: share.map_or(0.0, |share| f64::from(share.pressure) / 1000.0),
            repaired: share.map_or(0, |share| share.repaired),
            trouble,
        }
    }
}
