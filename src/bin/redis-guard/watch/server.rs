//! What the watch knows of one server. Nothing is awaited here.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use redis_guard::doctor::{Holders, Registry, WatchedMaster};
use redis_guard::internal::words;
use redis_guard::server::{Observation, Role, ServerEvent};
use tokio::time::Instant;

use super::state::{MOST_FLEETS, Update};

/// Looks that are remembered: a minute at the default interval, as many as the widest sparkline
/// has cells.
pub(super) const HISTORY: usize = 60;

/// Events that are remembered.
const EVENTS: usize = 8;

#[derive(Debug)]
pub(super) struct Server {
    /// Among those that were given.
    pub(super) place: usize,
    pub(super) address: String,
    pub(super) link: Link,
    /// The round it has answered last, and since when it owes an answer.
    pub(super) answered: u64,
    pub(super) owes_since: Option<Instant>,
    /// What INFO said last, and when.
    pub(super) seen: Option<(Observation, Instant)>,
    /// Why INFO says nothing.
    pub(super) info_problem: Option<String>,
    /// Of a sentinel: what it watches.
    pub(super) watched_masters: Option<Vec<WatchedMaster>>,
    /// Of a node of a cluster: the addresses of the others.
    pub(super) other_nodes: Option<Vec<String>>,
    /// A second, since the look before.
    pub(super) rejections: Option<f64>,
    pub(super) churn: Option<f64>,
    pub(super) commands: Option<f64>,
    /// Since the watch began.
    pub(super) new_rejections: Option<u64>,
    pub(super) rejections_history: History,
    pub(super) churn_history: History,
    pub(super) commands_history: History,
    pub(super) holders: Option<Result<Holders, String>>,
    pub(super) holders_at: Option<Instant>,
    /// Where CLIENT LIST is asked for less often than INFO.
    pub(super) holders_every: Option<Duration>,
    pub(super) registries: Vec<Result<Registry, String>>,
    pub(super) fleets_note: Option<String>,
    pub(super) events: VecDeque<LoggedEvent>,
    /// Those since the last frame.
    pub(super) new_events: Vec<LoggedEvent>,
    fresh: bool,
}

#[derive(Clone, Debug)]
pub(super) struct LoggedEvent {
    pub(super) at: SystemTime,
    pub(super) seen: Instant,
    pub(super) kind: &'static str,
    pub(super) text: String,
    pub(super) bad: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Link {
    /// The first dial is under way.
    Dialing,
    Up,
    Down(Down),
}

/// Not connected, and why.
#[derive(Clone, Debug)]
pub(super) struct Down {
    /// How a dial failed; `None` where a connection was lost, and no dial has failed since.
    pub(super) outcome: Option<&'static str>,
    /// In whose words.
    pub(super) said: String,
    /// Dials in a row that failed.
    pub(super) failures: u32,
    pub(super) since: Instant,
    /// When the next dial is due; `None`: there will be none.
    pub(super) next: Option<Instant>,
}

/// How a server is, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Unknown,
    Fine,
    Filling,
    NearlyFull,
    Loading,
    Rejecting,
    Full,
    Silent(Duration),
    Down,
    Dialing,
}

impl Server {
    pub(super) fn new(place: usize, address: String) -> Self {
        Self {
            place,
            address,
            link: Link::Dialing,
            answered: 0,
            owes_since: None,
            seen: None,
            info_problem: None,
            watched_masters: None,
            other_nodes: None,
            rejections: None,
            churn: None,
            commands: None,
            new_rejections: None,
            rejections_history: History::default(),
            churn_history: History::default(),
            commands_history: History::default(),
            holders: None,
            holders_at: None,
            holders_every: None,
            registries: Vec::new(),
            fleets_note: None,
            events: VecDeque::new(),
            new_events: Vec::new(),
            fresh: false,
        }
    }

    pub(super) fn apply(&mut self, update: Update, now: Instant, at: SystemTime) {
        match update {
            Update::Connected => {
                if let Link::Down(down) = &self.link {
                    let away = super::style::time(now.duration_since(down.since).as_secs());
                    self.log_event("connected", format!("connected again after {away}"), false, at);
                }
                self.link = Link::Up;
            }
            Update::Failed { failure, next } => {
                let (failures, since) = match &self.link {
                    Link::Down(down) => (down.failures.saturating_add(1), down.since),
                    _ => (1, now),
                };
                let (outcome, said) = (Some(failure.outcome.as_str()), failure.message);
                self.down(Down { outcome, said, failures, since, next });
            }
            Update::Lost { said, next } => {
                self.log_event("connection_lost", format!("connection lost: {said}"), true, at);
                self.down(Down { outcome: None, said, failures: 0, since: now, next });
            }
            Update::Observed(answer) => self.observed(*answer, now, at),
            Update::Sentinel(masters) => self.watched_masters = masters,
            Update::Cluster(nodes) => self.other_nodes = nodes,
            Update::Holders { answer, every } => {
                (self.holders, self.holders_every) = (Some(*answer), every);
                self.holders_at = Some(now);
            }
            Update::FleetsFound(found) => {
                self.fleets_note = match found {
                    Ok(fleets) if fleets.names.len() > MOST_FLEETS => Some(format!(
                        "{} fleets here: choose with --fleet NAME",
                        fleets.names.len()
                    )),
                    Ok(fleets) if !fleets.complete && fleets.names.is_empty() => {
                        Some("too many keys to look for a fleet: give --fleet NAME".to_owned())
                    }
                    Ok(_) => None,
                    Err(problem) => Some(format!("no fleet can be looked for: {problem}")),
                };
            }
            Update::Registries(registries) => self.registries = registries,
            Update::Answered(round) => (self.answered, self.owes_since) = (round, None),
        }
    }

    /// A place in the histories is taken, by a gap where there was no answer.
    pub(super) fn close_round(&mut self) {
        if !std::mem::take(&mut self.fresh) {
            (self.rejections, self.churn, self.commands) = (None, None, None);
        }
        self.rejections_history.push(self.rejections);
        self.churn_history.push(self.churn);
        self.commands_history.push(self.commands);
    }

    fn down(&mut self, down: Down) {
        self.link = Link::Down(down);
        (self.owes_since, self.holders, self.holders_every) = (None, None, None);
        self.registries.clear();
    }

    fn observed(&mut self, answer: Result<Observation, String>, now: Instant, at: SystemTime) {
        // The rest may take its time: CLIENT LIST of thousands does.
        self.owes_since = None;
        let observation = match answer {
            Ok(observation) => observation,
            Err(problem) => {
                (self.info_problem, self.seen) = (Some(problem), None);
                return;
            }
        };
        self.info_problem = None;
        for event in &observation.events {
            let (kind, text, bad) = words(event);
            self.log_event(kind, text, bad, at);
        }
        let elapsed = self.seen.as_ref().map(|(_, before)| now.duration_since(*before));
        let rate = |new: u64, elapsed: Duration| as_f64(new) / elapsed.as_secs_f64().max(0.001);
        self.rejections =
            observation.new_rejections.zip(elapsed).map(|(new, time)| rate(new, time));
        self.churn = observation.connections_per_second;
        self.commands = observation.commands_per_second;
        if let Some(new) = observation.new_rejections {
            self.new_rejections = Some(self.new_rejections.unwrap_or(0).saturating_add(new));
        }
        self.seen = Some((observation, now));
        self.fresh = true;
    }

    fn log_event(&mut self, kind: &'static str, text: String, bad: bool, at: SystemTime) {
        let event = LoggedEvent { at, seen: Instant::now(), kind, text, bad };
        self.events.truncate(EVENTS - 1);
        self.events.push_front(event.clone());
        self.new_events.push(event);
    }

    /// What INFO said last, while we are connected.
    pub(super) fn current(&self) -> Option<&Observation> {
        let up = matches!(self.link, Link::Up);
        self.seen.as_ref().filter(|_| up).map(|(observation, _)| observation)
    }

    /// How long it has owed an answer, where that is long.
    pub(super) fn silent(&self, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.owes_since?);
        (silent >= Duration::from_millis(500)).then_some(silent)
    }

    pub(super) fn condition(&self, now: Instant) -> Condition {
        match self.link {
            Link::Dialing => return Condition::Dialing,
            Link::Down(_) => return Condition::Down,
            Link::Up => {}
        }
        if let Some(silent) = self.silent(now) {
            return Condition::Silent(silent);
        }
        let Some(seen) = self.current() else { return Condition::Unknown };
        if seen.free() == Some(0) {
            return Condition::Full;
        }
        if self.rejections.is_some_and(|rate| rate > 0.0) {
            return Condition::Rejecting;
        }
        if seen.snapshot.loading == Some(true) {
            return Condition::Loading;
        }
        match seen.saturation() {
            None => Condition::Unknown,
            Some(saturation) if saturation >= 0.9 => Condition::NearlyFull,
            Some(saturation) if saturation >= 0.75 => Condition::Filling,
            Some(_) => Condition::Fine,
        }
    }
}

fn words(event: &ServerEvent) -> (&'static str, String, bool) {
    match event {
        ServerEvent::Restarted => {
            ("restarted", "the server restarted, or another answers in its place".to_owned(), true)
        }
        ServerEvent::RoleChanged { from, to, .. } => {
            ("role_changed", format!("failover: {} → {}", role(*from), role(*to)), true)
        }
        ServerEvent::ReplicaLost { online, expected, .. } => {
            ("replica_lost", format!("a replica was lost: {online} of {expected} online"), true)
        }
        ServerEvent::ReplicaBack { online, expected, .. } => {
            ("replica_back", format!("a replica is back: {online} of {expected} online"), false)
        }
        ServerEvent::CeilingChanged { from, to, .. } => (
            "ceiling_changed",
            format!("maxclients {} → {}", words::count(*from), words::count(*to)),
            to < from,
        ),
        _ => ("other", format!("{event:?}"), false),
    }
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Master => "master",
        Role::Replica => "replica",
        Role::ActiveReplica => "active replica",
        _ => "–",
    }
}

/// The latest values, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(Vec<Option<f64>>);

impl History {
    pub(super) fn push(&mut self, value: Option<f64>) {
        if self.0.len() == HISTORY {
            self.0.remove(0);
        }
        self.0.push(value);
    }

    pub(super) fn values(&self) -> &[Option<f64>] {
        &self.0
    }

    pub(super) fn most(&self) -> Option<f64> {
        self.0.iter().flatten().copied().reduce(f64::max)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of connections is far below 2^52")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}
