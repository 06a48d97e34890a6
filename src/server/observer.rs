//! What changed from one snapshot of a server to the next.
//!
//! A pure state machine: `now` is passed in, nothing is awaited.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::{Role, ServerSnapshot, as_f64, ratio};

/// How long a replica that has gone is waited for, and a ceiling that was learned is believed. Time
/// for the full sync of a large replica and for an operator; after an hour, fewer replicas, or a
/// larger plan, are taken to be what somebody wanted.
const MEMORY: Duration = Duration::from_secs(3600);

/// How far back `used` is looked at when a refusal says that the server was full: a burst that was
/// refused is often gone when the next sample is taken.
const RECENT: Duration = Duration::from_secs(60);

/// Follows one server, snapshot by snapshot.
///
/// Of a field that is missing in one snapshot the last known value is compared with the next.
#[derive(Debug, Default)]
pub struct ServerObserver {
    run_id: Option<String>,
    uptime_seconds: Option<u64>,
    rejected: Option<u64>,
    reserved: Option<u64>,
    received: Option<(u64, Instant)>,
    commands: Option<(u64, Instant)>,
    /// In microseconds.
    cpu: Option<(u64, Instant)>,
    role: Option<Role>,
    used: RecentPeak,
    /// The ceiling, and when it was last seen to be there.
    ceiling: Option<(u64, Instant)>,
    online: RecentPeak,
}

/// A server at one moment, and what has changed since the moment before.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Observation {
    /// What the server said.
    pub snapshot: ServerSnapshot,
    /// How many connections it takes: its [`ceiling`](ServerSnapshot::ceiling), or where it hides that, what was
    /// in use when it refused somebody; `None` until then. Learned so, it rises when more is seen in use,
    /// and is forgotten an hour after the last refusal, as it may have been raised meanwhile.
    ///
    /// (Protected mode counts its refusals in the same field. A ceiling learned from one of them is
    /// too low, and rises with use.)
    pub ceiling: Option<u64>,
    /// Connections it has refused since the sample before. None were refused by a server that has
    /// just restarted; `None` where the server does not tell, and for the first sample.
    pub new_rejections: Option<u64>,
    /// Connections it has accepted, per second, since the sample before. `None` where the server
    /// does not tell, for the first sample, and after a restart.
    pub connections_per_second: Option<f64>,
    /// Commands it has served, per second, since the sample before. `None` where the server does not tell,
    /// for the first sample, after a restart and where its statistics were reset.
    pub commands_per_second: Option<f64>,
    /// Processor time it has used per second since the sample before: 1 is one core. `None` likewise.
    pub cpu_cores: Option<f64>,
    /// True where it has refused connections since the sample before and hardly served a command: fewer than
    /// one a second for ten clients, or ten in all. It looks idle, and is full: of those who would work
    /// nobody gets in.
    pub stands_still: bool,
    /// Replicas that follow the stream.
    pub replicas_online: Option<u64>,
    /// The most of them at a time within the last hour, in its present role.
    pub replicas_expected: Option<u64>,
    /// What happened since the sample before.
    pub events: Vec<ServerEvent>,
}

/// Something that happened to a server between two samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerEvent {
    /// It restarted, or another server answers in its place.
    Restarted,
    /// Its part in replication changed: a failover.
    #[non_exhaustive]
    RoleChanged {
        /// The role before.
        from: Role,
        /// The role now.
        to: Role,
    },
    /// Fewer replicas are online than before.
    #[non_exhaustive]
    ReplicaLost {
        /// How many are.
        online: u64,
        /// How many were, at the most, within the last hour.
        expected: u64,
    },
    /// A replica that was lost, or another in its place, is online.
    #[non_exhaustive]
    ReplicaBack {
        /// How many are.
        online: u64,
        /// How many were, at the most, within the last hour.
        expected: u64,
    },
    /// Its ceiling was lowered or raised, or was learned to be another.
    #[non_exhaustive]
    CeilingChanged {
        /// The ceiling before.
        from: u64,
        /// The ceiling now.
        to: u64,
    },
}

impl ServerObserver {
    /// Takes the next snapshot, and says what has changed.
    pub fn observe(&mut self, mut snapshot: ServerSnapshot, now: Instant) -> Observation {
        let restarted = self.has_restarted(&snapshot);
        // It is asked for beside INFO, and not each time.
        snapshot.reserved_slots = snapshot.reserved_slots.or(self.reserved.filter(|_| !restarted));
        self.reserved = snapshot.reserved_slots;
        if let Some(run_id) = &snapshot.run_id {
            self.run_id = Some(run_id.clone());
        }
        self.uptime_seconds = snapshot.uptime_seconds.or(self.uptime_seconds);
        let new_rejections = self.rejections(snapshot.rejected_connections, restarted);
        let rate = |last: &mut _, total| rate(last, total, restarted, now);
        let connections_per_second = rate(&mut self.received, snapshot.total_connections_received);
        let commands_per_second = rate(&mut self.commands, snapshot.total_commands_processed);
        let cpu = snapshot.cpu_system.zip(snapshot.cpu_user);
        let cpu = cpu
            .and_then(|(system, user)| u64::try_from(system.checked_add(user)?.as_micros()).ok());
        let cpu_cores = rate(&mut self.cpu, cpu).map(|micros| micros / 1e6);
        let stands_still = new_rejections > Some(0)
            && commands_per_second.is_some_and(|rate| rate < hardly_any(&snapshot));
        let events = [
            restarted.then_some(ServerEvent::Restarted),
            self.see_role(snapshot.role),
            self.see_replicas(snapshot.replicas_online(), now),
            self.see_ceiling(&snapshot, new_rejections, now),
        ];
        Observation {
            ceiling: self.ceiling(),
            new_rejections,
            connections_per_second,
            commands_per_second,
            cpu_cores,
            stands_still,
            replicas_online: snapshot.replicas_online(),
            replicas_expected: self.online.peak(),
            events: events.into_iter().flatten().collect(),
            snapshot,
        }
    }

    /// `run_id` settles it. Without it, an uptime or a counter that fell does; with it, an uptime
    /// that fell is a clock that was set, and a counter that fell is `CONFIG RESETSTAT`.
    fn has_restarted(&self, snapshot: &ServerSnapshot) -> bool {
        if let (Some(last), Some(run_id)) = (&self.run_id, &snapshot.run_id) {
            return last != run_id;
        }
        let received = self.received.map(|(total, _)| total);
        [
            (self.uptime_seconds, snapshot.uptime_seconds),
            (self.rejected, snapshot.rejected_connections),
            (received, snapshot.total_connections_received),
        ]
        .into_iter()
        .any(|(last, now)| last.zip(now).is_some_and(|(last, now)| now < last))
    }

    fn rejections(&mut self, total: Option<u64>, restarted: bool) -> Option<u64> {
        let last = self.rejected;
        self.rejected = total.or(last.filter(|_| !restarted));
        let new = total?.saturating_sub(last?);
        Some(if restarted { 0 } else { new })
    }

    fn see_role(&mut self, role: Option<Role>) -> Option<ServerEvent> {
        let to = role?;
        let from = self.role.replace(to).filter(|from| *from != to)?;
        // Whoever is made a replica loses its own to the new master: nobody is missing.
        self.online = RecentPeak::default();
        Some(ServerEvent::RoleChanged { from, to })
    }

    fn see_replicas(&mut self, online: Option<u64>, now: Instant) -> Option<ServerEvent> {
        let online = online?;
        let (last, most) = (self.online.last(), self.online.peak());
        let expected = self.online.see(online, now, MEMORY);
        if last > Some(online) {
            Some(ServerEvent::ReplicaLost { online, expected })
        } else if last < Some(online) && last < most {
            Some(ServerEvent::ReplicaBack { online, expected })
        } else {
            None
        }
    }

    fn see_ceiling(
        &mut self,
        snapshot: &ServerSnapshot,
        new_rejections: Option<u64>,
        now: Instant,
    ) -> Option<ServerEvent> {
        let used = snapshot.used();
        let recently = used.map(|used| self.used.see(used, now, RECENT)).or(self.used.peak());
        let from = self.ceiling();
        let seen = match snapshot.ceiling() {
            Some(ceiling) => Some(ceiling),
            None if new_rejections.is_some_and(|new| new > 0) => recently,
            None => used.filter(|used| from.is_some_and(|from| *used > from)),
        };
        let believed =
            self.ceiling.filter(|(_, seen)| now.saturating_duration_since(*seen) < MEMORY);
        self.ceiling = seen.map(|ceiling| (ceiling, now)).or(believed);
        let (from, to) = (from?, self.ceiling()?);
        (from != to).then_some(ServerEvent::CeilingChanged { from, to })
    }

    fn ceiling(&self) -> Option<u64> {
        self.ceiling.map(|(ceiling, _)| ceiling)
    }
}

impl Observation {
    /// [`used`](ServerSnapshot::used) over the ceiling: 1 is full.
    #[must_use]
    pub fn saturation(&self) -> Option<f64> {
        Some(ratio(self.snapshot.used()?, self.ceiling?))
    }

    /// Slots left under the ceiling.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        Some(self.ceiling?.saturating_sub(self.snapshot.used()?))
    }

    /// True where the server restarted, or another answers in its place.
    #[must_use]
    pub fn restarted(&self) -> bool {
        self.events.contains(&ServerEvent::Restarted)
    }
}

/// What was added to a counter since it was known last, per second.
fn rate(
    known: &mut Option<(u64, Instant)>,
    total: Option<u64>,
    restarted: bool,
    now: Instant,
) -> Option<f64> {
    let last = known.filter(|_| !restarted);
    *known = total.map(|total| (total, now)).or(last);
    let (last, at) = last?;
    let new = total?.checked_sub(last)?;
    let elapsed = now.saturating_duration_since(at);
    (!elapsed.is_zero()).then(|| as_f64(new) / elapsed.as_secs_f64())
}

/// Commands a second that so many clients send who do not work: those that look at the server.
fn hardly_any(snapshot: &ServerSnapshot) -> f64 {
    (as_f64(snapshot.connected_clients.unwrap_or(0)) / 10.0).max(10.0)
}

/// Of several nodes the one with the highest saturation; one whose saturation is unknown comes
/// after all others.
#[must_use]
pub fn worst<'a, K>(
    nodes: impl IntoIterator<Item = (K, &'a Observation)>,
) -> Option<(K, &'a Observation)> {
    let rank = |observation: &Observation| observation.saturation().unwrap_or(-1.0);
    nodes.into_iter().max_by(|(_, one), (_, other)| rank(one).total_cmp(&rank(other)))
}

/// The highest of the values seen lately: what may still become that, highest and oldest first,
/// the last value at the end.
#[derive(Debug, Default)]
struct RecentPeak(Vec<(u64, Instant)>);

impl RecentPeak {
    /// Takes the next value; returns the highest within the window.
    fn see(&mut self, value: u64, now: Instant, window: Duration) -> u64 {
        self.0
            .retain(|(peak, seen)| *peak > value && now.saturating_duration_since(*seen) < window);
        self.0.push((value, now));
        self.0[0].0
    }

    fn peak(&self) -> Option<u64> {
        self.0.first().map(|(peak, _)| *peak)
    }

    fn last(&self) -> Option<u64> {
        self.0.last().map(|(last, _)| *last)
    }
}

#[cfg(test)]
mod tests;
