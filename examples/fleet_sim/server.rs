//! The simulated server: slots, a pace of accepting, and the script engine.

use redis_guard::internal::registry::{news_of_state, registry_keys};

use crate::script::{Script, ServerState};
use crate::world::{SECOND, Us};

/// How long a dial takes where nobody queues.
const ROUND_TRIP: Us = 1_000;

/// What a refusal costs the server's core: one that wakes it up, and one soon after another. Measured on
/// redis-server 7.0.15, by its own count of processor time: 30 to 60 µs at 300 to 4,000 refusals a second, 10 to
/// 13 µs at 7,500 and more.
const REFUSAL_ALONE: Us = 60;
const REFUSAL_SOON: Us = 12;
const SOON: Us = 130;

/// The same of a heartbeat, with `INFO` in the same pipeline: 160 to 240 µs of one that comes alone, 110 to 160 of one
/// within a millisecond of another.
const BEAT_ALONE: Us = 200;
const BEAT_SOON: Us = 135;
/// And of a look at the registry's state: 45 to 75 µs, and 15.
const GLANCE_ALONE: Us = 60;
const GLANCE_SOON: Us = 15;
const BEATS_SOON: Us = 1_000;

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) maxclients: usize,
    pub(crate) used: usize,
    /// Slots of clients that no instance of ours holds.
    pub(crate) foreign: usize,
    pub(crate) rejected: u64,
    pub(crate) up: bool,
    /// Connections it accepts a second; `None`: as many as come.
    pub(crate) accepts: Option<u64>,
    /// When the queue of those not accepted yet is empty.
    free_at: Us,
    /// When it last refused, and how long that has kept its core busy in all.
    refused_at: Option<Us>,
    pub(crate) refusing: Us,
    /// The same of heartbeats.
    asked_at: Option<Us>,
    pub(crate) beating: Us,
    script: Script,
    keys: [String; 3],
}

impl Server {
    pub(crate) fn new(maxclients: usize) -> Self {
        Self {
            maxclients,
            used: 0,
            foreign: 0,
            rejected: 0,
            up: true,
            accepts: None,
            free_at: 0,
            refused_at: None,
            refusing: 0,
            asked_at: None,
            beating: 0,
            script: Script::load(redis_guard::internal::sim::SCRIPT),
            keys: registry_keys("fleet"),
        }
    }

    /// When a dial that starts now is looked at.
    pub(crate) fn accept_time(&mut self, now: Us) -> Us {
        let arrival = now + ROUND_TRIP;
        let Some(accepts) = self.accepts else {
            return arrival;
        };
        self.free_at = self.free_at.max(arrival) + SECOND / accepts;
        self.free_at
    }

    /// Whether there is a slot; takes it, or counts the rejection.
    pub(crate) fn accept(&mut self, now: Us) -> bool {
        let room = self.used < self.maxclients;
        if room {
            self.used += 1;
        } else {
            self.rejected += 1;
            let soon = self.refused_at.replace(now).is_some_and(|last| now - last < SOON);
            self.refusing += if soon { REFUSAL_SOON } else { REFUSAL_ALONE };
        }
        room
    }

    /// `dials` in the time since the last call of that kind, `elapsed` ago, for at most `wanted`
    /// slots. Gives the slots taken; the rest of the dials was rejected.
    pub(crate) fn accept_many(
        &mut self,
        dials: usize,
        wanted: usize,
        elapsed: Us,
        now: Us,
    ) -> usize {
        let mut looked_at = dials;
        if let Some(accepts) = self.accepts {
            let queue = now + elapsed;
            let start = self.free_at.max(now);
            let spare = queue.saturating_sub(start) * accepts / SECOND;
            looked_at = dials.min(usize::try_from(spare).unwrap_or(usize::MAX));
            self.free_at = start + SECOND / accepts * looked_at as Us;
        }
        let taken = looked_at.min(wanted).min(self.maxclients.saturating_sub(self.used));
        self.used += taken;
        if self.used >= self.maxclients {
            self.rejected += (looked_at - taken) as u64;
        }
        taken
    }

    /// Everybody is cut off, and the registry is gone.
    pub(crate) fn stop(&mut self) {
        (self.up, self.used, self.foreign) = (false, 0, 0);
        self.script.flush();
    }

    /// EVALSHA.
    pub(crate) fn eval(&mut self, now: Us, args: &[String]) -> Vec<i64> {
        self.beating += if self.is_awake(now) { BEAT_SOON } else { BEAT_ALONE };
        let state = ServerState {
            now_ms: now / 1_000,
            connected_clients: self.used as u64,
            maxclients: Some(self.maxclients as u64),
            ..ServerState::default()
        };
        self.script.run(state, &self.keys, args).expect("the script should never fail")
    }

    /// HGET: the news of the registry.
    pub(crate) fn glance(&mut self, now: Us) -> Option<u64> {
        self.beating += if self.is_awake(now) { GLANCE_SOON } else { GLANCE_ALONE };
        let sums = self.script.hash(&self.keys[2]);
        news_of_state(sums.get("state")?.as_bytes())
    }

    fn is_awake(&mut self, now: Us) -> bool {
        self.asked_at.replace(now).is_some_and(|last| now - last < BEATS_SOON)
    }
}
