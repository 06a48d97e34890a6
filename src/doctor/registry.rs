//! The registry of a fleet, read from outside.

use std::collections::{BTreeSet, HashSet};

use redis::RedisResult;
use serde::Serialize;

use super::Probe;
use crate::fleet::{Record, fleet_of_key, members_pattern, registry_keys};

/// Keys that one SCAN looks at, and how many such calls are made: 20,000 keys are a few
/// milliseconds of the server's time, in steps that nobody notices.
const SCAN_COUNT: u32 = 1_000;
const SCAN_CALLS: u32 = 20;

/// Who is in a fleet, and what each was granted; see [`Fleet`](crate::Fleet).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Registry {
    /// The fleet's name.
    pub fleet: String,
    /// Its members, those with the largest grants first.
    pub members: Vec<RegistryMember>,
    /// The sum of their grants.
    pub granted: u64,
    /// The sum of what they hold.
    pub live: u64,
    /// Those that have not been heard of in time, and are members no more.
    pub expired: usize,
    /// Entries that are no member's record; the fleet's own audit removes them.
    pub unreadable: usize,
}

/// A member of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RegistryMember {
    /// Its name: the connections' name in CLIENT LIST, and a random part.
    pub id: String,
    /// Connections it may have.
    pub granted: u64,
    /// Connections it had when it last reported.
    pub live: u64,
}

/// The fleets that have a registry on a server; see [`Probe::fleets`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fleets {
    /// Their names, in order.
    pub names: Vec<String>,
    /// False where the server has more keys than were looked at: there may be others.
    pub complete: bool,
}

impl Probe {
    /// Looks for the registries of fleets, among the first 20,000 keys or so.
    ///
    /// # Errors
    ///
    /// The server does not answer, or not this.
    pub async fn fleets(&mut self) -> RedisResult<Fleets> {
        let pattern = members_pattern();
        let (mut names, mut cursor) = (BTreeSet::new(), 0_u64);
        for _ in 0..SCAN_CALLS {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): (u64, Vec<Vec<u8>>) = self.ask(&scan).await?;
            names.extend(keys.iter().filter_map(|key| fleet_of_key(key)));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        Ok(Fleets { names: names.into_iter().collect(), complete: cursor == 0 })
    }
}

impl Registry {
    /// Three commands rather than a script or a transaction, which may be denied where these are
    /// not. Members come first: one that joins in between is not there yet, one that beats in
    /// between is not taken for expired.
    pub(super) async fn read(probe: &mut Probe, fleet: &str) -> RedisResult<Option<Self>> {
        let [members, expiries, _] = registry_keys(fleet);
        let (seconds, micros): (u64, u64) = probe.ask(&redis::cmd("TIME")).await?;
        let now = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
        let entries: Vec<(Vec<u8>, Vec<u8>)> =
            probe.ask(redis::cmd("HGETALL").arg(members)).await?;
        if entries.is_empty() {
            return Ok(None);
        }
        let mut expired = redis::cmd("ZRANGEBYSCORE");
        let expired: HashSet<Vec<u8>> =
            probe.ask(expired.arg(expiries).arg("-inf").arg(now)).await?;
        Ok(Some(Self::of(fleet, &entries, &expired)))
    }

    fn of(fleet: &str, entries: &[(Vec<u8>, Vec<u8>)], expired: &HashSet<Vec<u8>>) -> Self {
        let mut registry = Self { fleet: fleet.to_owned(), ..Self::default() };
        for (id, record) in entries {
            match Record::parse(record) {
                None => registry.unreadable += 1,
                Some(_) if expired.contains(id) => registry.expired += 1,
                Some(Record { granted, live, .. }) => {
                    let id = String::from_utf8_lossy(id).into_owned();
                    registry.members.push(RegistryMember { id, granted, live });
                }
            }
        }
        registry.members.sort_by(|one, other| {
            other.granted.cmp(&one.granted).then_with(|| one.id.cmp(&other.id))
        });
        let sum = |of: fn(&RegistryMember) -> u64| registry.members.iter().map(of).sum();
        (registry.granted, registry.live) =
            (sum(|member| member.granted), sum(|member| member.live));
        registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(entries: &[(&str, &str)], expired: &[&str]) -> Registry {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let entries: Vec<_> =
            entries.iter().map(|(id, record)| (bytes(id), bytes(record))).collect();
        Registry::of("test", &entries, &expired.iter().map(|id| bytes(id)).collect())
    }

    #[test]
    fn members_are_summed_up_largest_first() {
        let registry = registry(&[("a", "3 5 4 2 1"), ("b", "9 8 8 1 0"), ("c", "1 5 0 0 0")], &[]);
        let ids: Vec<_> = registry.members.iter().map(|member| member.id.as_str()).collect();
        assert_eq!(ids, ["b", "a", "c"]);
        assert_eq!((registry.granted, registry.live), (18, 12));
        assert_eq!((registry.expired, registry.unreadable), (0, 0));
    }

    #[test]
    fn who_has_not_been_heard_of_in_time_is_no_member() {
        let registry = registry(&[("a", "3 5 4 2 1"), ("b", "9 8 8 1 0")], &["b", "gone"]);
        assert_eq!((registry.members.len(), registry.granted, registry.expired), (1, 5, 1));
    }

    #[test]
    fn what_is_no_record_is_counted_and_left_out() {
        let registry = registry(&[("a", ""), ("b", "many"), ("c", "1 2 1 0 0")], &[]);
        assert_eq!((registry.unreadable, registry.members.len()), (2, 1));
    }
}
