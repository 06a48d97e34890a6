//! The fleet: who shares the server's slots by a registry in the server itself.

mod limit;
mod member;
mod record;

use crate::policy::MOST;

pub use limit::{Source, limit_in_force};
pub use member::{Beat, Membership, Report, SCRIPT, Share};
pub use record::{
    COUNT_MAX, Record, SEQ_MAX, fleet_of_key, members_pattern, news_of_state, registry_keys,
};

/// The processes that share one server's connections by agreement; for
/// [`GuardedPoolBuilder::fleet`](crate::GuardedPoolBuilder::fleet).
///
/// Each pool tells the registry, a few small keys on the server itself, how many connections it holds
/// and how many it needs, and is granted a share such that the sum of all grants never passes what
/// is free. All pools that name the same fleet on the same server are its members. One fleet a server, of
/// all services that use it: two would be foreign clients to each other, and whoever comes second gets
/// only what the first is ready to yield.
///
/// **What it needs of the server**: `EVAL`, `EVALSHA`, `INFO`, `TIME`, the commands `HGET HSET HDEL
/// HGETALL HLEN HINCRBY ZADD ZREM ZRANGEBYSCORE ZREMRANGEBYSCORE PEXPIRE TYPE DEL` on the keys
/// `{redis-guard:<name>}:*`, so as an ACL rule: `+eval +evalsha +info +time +@hash +@sortedset
/// +pexpire +type +del ~{redis-guard:*}:*`. Redis 6.2 or later, or Valkey. Without them the pool goes by
/// the price law, and `status().fleet` says why.
///
/// ```
/// use redis_guard::{Fleet, GuardedPool};
///
/// # fn main() -> Result<(), redis_guard::BuildError> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379")
///     .max_connections(50)
///     .fleet(Fleet::named("shop").reserve(50))
///     .build()?;
/// // Once the first heartbeat is answered.
/// println!("{:?}", pool.status().fleet.map(|fleet| (fleet.members, fleet.share)));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    name: String,
    reserve: usize,
}

impl Fleet {
    /// The fleet of this name: 1 to 64 bytes of printable ASCII without spaces and braces; anything else
    /// is reported by [`build`](crate::GuardedPoolBuilder::build).
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), reserve: 0 }
    }

    /// Slots to grant to nobody: what clients outside the fleet may need at once, or the largest
    /// step of an autoscaler, one connection each. Default: the larger of 2 % of `maxclients` and 16,
    /// and more in a fleet of hundreds. Members' reserves do not add up; each goes by its own. At most
    /// 1,000,000, as of everything that is counted.
    #[must_use]
    pub const fn reserve(mut self, slots: usize) -> Self {
        self.reserve = slots;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn reserved(&self) -> usize {
        self.reserve
    }

    /// What is wrong with the values, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        let Self { name, reserve } = self;
        if name.is_empty() {
            Some("its name is empty".to_owned())
        } else if name.len() > 64 {
            Some("its name is longer than 64 bytes".to_owned())
        } else if !name.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}".contains(&byte)) {
            Some("its name must be printable ASCII without spaces and braces".to_owned())
        } else if *reserve > MOST {
            Some(format!("its reserve {reserve} is above {MOST}"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleets_keys_bear_the_name_it_was_given() {
        let [members, ..] = registry_keys(Fleet::named("shop").name());
        assert_eq!(fleet_of_key(members.as_bytes()).as_deref(), Some("shop"));
    }

    #[test]
    fn a_name_of_64_bytes_and_the_largest_reserve_are_fine_and_one_more_is_not() {
        let named = |length| Fleet::named("x".repeat(length));
        assert_eq!(named(64).reserve(MOST).problem(), None);
        assert_eq!(named(65).problem().as_deref(), Some("its name is longer than 64 bytes"));
        let problem = named(1).reserve(MOST + 1).problem();
        assert_eq!(problem.as_deref(), Some("its reserve 1000001 is above 1000000"));
    }
}
