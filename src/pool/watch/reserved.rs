//! Slots that a server keeps from ordinary clients, which it tells by CONFIG alone.

use redis::{Pipeline, RedisResult, Value, from_redis_value};
use tokio::time::Instant;

use super::Watch;
use super::member::DENIED_INTERVAL;
use crate::server::{PRIORITY, RESERVED, reserved_line};

/// Adds the two questions to an INFO. One name each: KeyDB takes no more.
pub(super) fn ask(commands: &mut Pipeline) {
    for setting in [RESERVED, PRIORITY] {
        commands.cmd("CONFIG").arg("GET").arg(setting);
    }
}

impl Watch {
    /// By its INFO the server may reserve slots, and it may tell us how many.
    pub(super) fn asks_reserved(&self, now: Instant) -> bool {
        let snapshot = self.seen.as_ref().map(|seen| &seen.observation.snapshot);
        snapshot.is_some_and(|snapshot| snapshot.may_reserve_slots())
            && self.reserved_untold_until.is_none_or(|until| until <= now)
    }

    /// The answers, as a line for the INFO that came with them.
    pub(super) fn heard_reserved(
        &mut self,
        told: [RedisResult<Value>; 2],
        now: Instant,
    ) -> Option<String> {
        let [reserved, priority] = told.map(|reply| {
            let pairs: Vec<(String, String)> = from_redis_value(reply.ok()?).ok()?;
            pairs.into_iter().next().map(|(_, value)| value)
        });
        let line = reserved_line(reserved.as_deref(), priority.as_deref());
        // It does not say, or not to us.
        self.reserved_untold_until = line.is_none().then_some(now + DENIED_INTERVAL);
        line
    }

    pub(super) fn reserved(&self) -> Option<u64> {
        self.seen.as_ref()?.observation.snapshot.reserved_slots
    }

    /// After an observation. Until it is known how many slots are reserved the ceiling is taken for too high,
    /// so both are asked for at once, and so is a share by the new one.
    pub(super) fn take_reserved(&mut self, before: Option<u64>, now: Instant) {
        let reserved = self.reserved();
        if reserved.is_none() && self.asks_reserved(now) {
            self.due = now;
        }
        if reserved.unwrap_or(0) != before.unwrap_or(0)
            && let Some(member) = &mut self.fleet
        {
            member.membership.unsent();
        }
    }
}
