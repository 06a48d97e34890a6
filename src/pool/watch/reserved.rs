//! Slots that a server keeps from ordinary clients, which it tells by CONFIG alone.

use redis::{Pipeline, RedisResult, Value, from_redis_value};
use tokio::time::Instant;

use super::member::DENIED_INTERVAL;
use crate::server::{PRIORITY, RESERVED, Seen, reserved_line};

/// When the server is asked how many slots it reserves.
#[derive(Default)]
pub(super) struct Reserved {
    /// It did not say, or not to us, and is not asked again until then.
    untold_until: Option<Instant>,
}

impl Reserved {
    /// By its INFO the server may reserve slots, and it may tell us how many.
    pub(super) fn is_asked_of(&self, seen: Option<&Seen>, now: Instant) -> bool {
        seen.is_some_and(|seen| seen.observation.snapshot.may_reserve_slots())
            && self.untold_until.is_none_or(|until| until <= now)
    }

    /// The answers, as a line for the INFO that came with them.
    pub(super) fn heard(&mut self, told: [RedisResult<Value>; 2], now: Instant) -> Option<String> {
        let [reserved, priority] = told.map(|reply| {
            let pairs: Vec<(String, String)> = from_redis_value(reply.ok()?).ok()?;
            pairs.into_iter().next().map(|(_, value)| value)
        });
        let line = reserved_line(reserved.as_deref(), priority.as_deref());
        self.untold_until = line.is_none().then_some(now + DENIED_INTERVAL);
        line
    }
}

/// Adds the two questions to an INFO. One name each: KeyDB takes no more.
pub(super) fn ask(commands: &mut Pipeline) {
    for setting in [RESERVED, PRIORITY] {
        commands.cmd("CONFIG").arg("GET").arg(setting);
    }
}

/// How many there are, as far as that is known.
pub(super) fn slots(seen: Option<&Seen>) -> Option<u64> {
    seen?.observation.snapshot.reserved_slots
}
