//! The registry of a fleet, read from outside.

use redis::RedisResult;
use serde::Serialize;

use super::Probe;
use crate::policy::Lease;

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

impl Registry {
    pub(super) async fn read(probe: &mut Probe, fleet: &str) -> RedisResult<Option<Self>> {
        let [members, ..] = Lease::keys(fleet);
        let entries: Vec<(String, String)> = probe.ask(redis::cmd("HGETALL").arg(members)).await?;
        Ok((!entries.is_empty()).then(|| Self::of(fleet, entries)))
    }

    /// `id` → `seq granted live base extra`; what is none of these is left out.
    fn of(fleet: &str, entries: Vec<(String, String)>) -> Self {
        let member = |(id, record): (String, String)| {
            let mut numbers = record.split(' ').skip(1).map(str::parse);
            let (granted, live) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            Some(RegistryMember { id, granted, live })
        };
        let mut members: Vec<RegistryMember> = entries.into_iter().filter_map(member).collect();
        members.sort_by(|one, other| {
            other.granted.cmp(&one.granted).then_with(|| one.id.cmp(&other.id))
        });
        let sum =
            |of: fn(&RegistryMember) -> u64| members.iter().map(of).fold(0, u64::saturating_add);
        let (granted, live) = (sum(|member| member.granted), sum(|member| member.live));
        Self { fleet: fleet.to_owned(), members, granted, live }
    }
}
