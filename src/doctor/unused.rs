//! Connections that nobody uses: whose they are, and how they came to be.

use std::collections::HashMap;

use super::holders::{Holder, Holders};

/// A source stands out that holds more than so many times what the median source holds: twice as many
/// may be a larger machine, or an uneven load.
const OUTLIER_FACTOR: usize = 3;

/// A source needs so many to stand out, or for their ages to say something: of fewer, one more or less
/// is a large part.
const MIN_CONNECTIONS: usize = 8;

/// Sources that can be compared whatever they are: an exporter and somebody's console beside the only
/// service make three.
const MIN_SOURCES: usize = 5;

/// Instances of one service that can be compared: fewer will do, as they have the same configuration.
const MIN_INSTANCES: usize = 3;

/// Unused connections that hold a quarter of the server's slots or more: fewer do not explain why it is
/// full, nor would it be mended by closing them.
#[derive(Debug)]
pub(super) enum Unused<'a> {
    /// Opened, used when new, and forgotten, by these sources.
    Leaked(Vec<&'a Holder>),
    /// Kept by pools that are larger than their use.
    InPools {
        /// The size of most, where most are equal.
        size: Option<usize>,
    },
    /// Not used since they were new, and too young to say whose fault that is.
    Young,
}

impl<'a> Unused<'a> {
    /// `ceiling`: the slots that there are. `pressed`: they run out, and what was abandoned counts
    /// before it has been idle for long. `still`: whoever holds them sends hardly a command meanwhile.
    pub(super) fn find(
        holders: &'a Holders,
        ceiling: Option<u64>,
        pressed: bool,
        still: bool,
    ) -> Option<Self> {
        let ceiling = usize::try_from(ceiling?).unwrap_or(usize::MAX);
        // Of those who stand still some may have worked before.
        let unused = holders.never_used + if still { holders.recent } else { 0 };
        let young = || (pressed && is_cause(unused, ceiling)).then_some(Self::Young);
        Self::find_old(holders, ceiling, pressed).or_else(young)
    }

    fn find_old(holders: &'a Holders, ceiling: usize, pressed: bool) -> Option<Self> {
        let count = |idle: usize, abandoned: usize| match pressed {
            true => idle.max(abandoned),
            false => idle,
        };
        let all_unused = count(holders.idle, holders.abandoned);
        if !is_cause(all_unused, ceiling) {
            return None;
        }
        let unused = |source: &Holder| count(source.idle, source.abandoned);
        let sources = &holders.all_sources;
        let services = Services::of(sources);
        let leaks = |source: &&Holder| {
            // The other instances, with the same configuration, have no such number.
            let stands_out =
                services.stands_out(source) && unused(source) * 2 >= source.connections;
            stands_out || (is_forgotten(source) && !services.is_one_of_equals(source))
        };
        let leaking: Vec<&Holder> = sources.iter().filter(leaks).collect();
        let leaked: usize = leaking.iter().map(|source| unused(source)).sum();
        if leaked * 2 >= all_unused {
            return Some(Self::Leaked(leaking));
        }
        (is_cause(holders.idle, ceiling) && holders.idle * 2 >= holders.clients)
            .then(|| Self::InPools { size: common_size(sources.iter().map(|it| it.connections)) })
    }
}

/// True where so many explain why the server is full.
pub(super) fn is_much(connections: usize, ceiling: Option<u64>) -> bool {
    let ceiling = ceiling.and_then(|ceiling| usize::try_from(ceiling).ok());
    ceiling.is_some_and(|ceiling| is_cause(connections, ceiling))
}

fn is_cause(connections: usize, ceiling: usize) -> bool {
    connections.saturating_mul(4) >= ceiling && connections >= MIN_CONNECTIONS
}

/// The sources that hold far more than the others of their service, or than all others, with what
/// the median of those holds.
pub(super) fn outliers(sources: &[Holder]) -> Vec<(&Holder, usize)> {
    let services = Services::of(sources);
    let all: Vec<usize> = sources.iter().map(|source| source.connections).collect();
    let of_all = |source: &Holder| {
        (all.len() >= MIN_SOURCES).then(|| far_above(source.connections, &all))?
    };
    let median = |source: &Holder| services.median_passed(source).or_else(|| of_all(source));
    sources.iter().filter_map(|source| Some((source, median(source)?))).collect()
}

/// The connections of each service's instances.
struct Services<'a>(HashMap<Option<&'a str>, Vec<usize>>);

impl<'a> Services<'a> {
    fn of(sources: &'a [Holder]) -> Self {
        let mut services = HashMap::<_, Vec<usize>>::new();
        for source in sources {
            services.entry(source.service.as_deref()).or_default().push(source.connections);
        }
        Self(services)
    }

    fn instances_of(&self, source: &'a Holder) -> Option<&[usize]> {
        let all = self.0.get(&source.service.as_deref())?;
        (all.len() >= MIN_INSTANCES).then_some(all)
    }

    fn median_passed(&self, source: &'a Holder) -> Option<usize> {
        far_above(source.connections, self.instances_of(source)?)
    }

    fn stands_out(&self, source: &'a Holder) -> bool {
        self.median_passed(source).is_some()
    }

    /// True where it has as many as the other instances: that is the size of a pool. Kept full, and renewed
    /// at the end of their lifetime, its connections look abandoned.
    fn is_one_of_equals(&self, source: &'a Holder) -> bool {
        let sizes = self.instances_of(source).map(|all| all.iter().copied());
        sizes.and_then(common_size) == Some(source.connections)
    }
}

/// The median of `all`, where `connections` are far more. `all` is in order, largest first.
fn far_above(connections: usize, all: &[usize]) -> Option<usize> {
    // The lower of the two in the middle.
    let median = *all.get(all.len() / 2)?;
    (connections >= MIN_CONNECTIONS && connections > OUTLIER_FACTOR * median).then_some(median)
}

/// True where the unused connections were opened one after another, over most of the time since the
/// oldest, and hardly one was used again: a pool opens its connections when it is needed, and uses them in
/// turn.
fn is_forgotten(source: &Holder) -> bool {
    let mut ages = source.abandoned_ages.clone();
    ages.sort_unstable();
    let at = |percent: usize| ages.get((ages.len().saturating_sub(1)) * percent / 100).copied();
    let (Some(young), Some(old)) = (at(10), at(90)) else { return false };
    let spread = old - young;
    ages.len() >= MIN_CONNECTIONS
        && source.abandoned * 5 >= source.idle * 4
        && spread >= 2
        && spread >= old / 2
}

/// The size that four of five have, of three at least.
fn common_size(sizes: impl ExactSizeIterator<Item = usize>) -> Option<usize> {
    let all = sizes.len();
    let mut times = HashMap::<usize, usize>::new();
    for size in sizes {
        *times.entry(size).or_default() += 1;
    }
    let (size, times) = times.into_iter().max_by_key(|(size, times)| (*times, *size))?;
    (all >= MIN_INSTANCES && times * 5 >= all * 4).then_some(size)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::ClientList;

    /// Sources as (address, name, ages); each connection was used once, when it was a second old.
    fn holders(sources: &[(String, &str, Vec<u64>)]) -> Holders {
        let lines = sources.iter().flat_map(|(host, name, ages)| {
            ages.iter().map(move |age| {
                let idle = age.saturating_sub(1);
                format!("addr={host}:1 name={name} age={age} idle={idle} flags=N\n")
            })
        });
        let list = ClientList::parse(lines.collect::<String>());
        Holders::of(&list, None, Duration::from_secs(300), 10)
    }

    fn source(host: usize, name: &str, ages: Vec<u64>) -> (String, &str, Vec<u64>) {
        (format!("10.0.0.{host}"), name, ages)
    }

    fn every(seconds: u64, count: u64) -> Vec<u64> {
        (1..=count).map(|nth| nth * seconds + 300).collect()
    }

    fn leaking(holders: &Holders) -> Vec<&str> {
        match Unused::find(holders, Some(100), false, false) {
            Some(Unused::Leaked(sources)) => sources.iter().map(|it| it.key.as_str()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_instance_far_over_the_others_leaks_however_it_came_to_be() {
        let holders = holders(&[
            source(1, "api", vec![5000; 60]),
            source(2, "api", vec![5000; 5]),
            source(3, "api", vec![5000; 4]),
        ]);
        assert_eq!(leaking(&holders), ["10.0.0.1 api"]);
        let found = outliers(&holders.all_sources);
        assert_eq!(found.iter().map(|(_, median)| *median).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn sources_that_open_one_after_another_and_forget_them_leak() {
        let holders = holders(&[source(1, "api", every(60, 40)), source(2, "web", every(55, 37))]);
        assert_eq!(leaking(&holders), ["10.0.0.1 api", "10.0.0.2 web"]);
    }

    #[test]
    fn a_leak_that_fills_the_server_in_a_minute_is_one_before_anything_is_idle_for_long() {
        let ages = (1..=60).map(|nth| nth + 5).collect();
        let holders = holders(&[source(1, "api", ages)]);
        assert!(Unused::find(&holders, Some(100), false, false).is_none());
        let unused = Unused::find(&holders, Some(100), true, false);
        assert!(
            matches!(&unused, Some(Unused::Leaked(sources)) if sources.len() == 1),
            "{unused:?}"
        );
    }

    #[test]
    fn equal_pools_of_a_service_are_too_large_however_their_connections_came_to_be() {
        let api = (0..8).map(|n| source(n, "api", every(60, 10)));
        let web = (8..16).map(|n| source(n, "web", every(60, 20)));
        let holders = holders(&api.chain(web).collect::<Vec<_>>());
        let unused = Unused::find(&holders, Some(300), false, false);
        assert!(matches!(unused, Some(Unused::InPools { size: None })), "{unused:?}");
    }

    #[test]
    fn a_pool_that_was_warmed_up_is_no_leak_whoever_is_beside_it() {
        let pool = source(1, "api", vec![5000; 60]);
        let console = source(2, "", vec![5000]);
        for sources in [vec![pool.clone()], vec![pool, console]] {
            let holders = holders(&sources);
            let unused = Unused::find(&holders, Some(100), false, false);
            assert!(matches!(unused, Some(Unused::InPools { .. })), "{unused:?}");
            assert!(outliers(&holders.all_sources).is_empty());
        }
    }

    #[test]
    fn what_is_little_or_in_use_is_not_found() {
        let idle = holders(&[source(1, "api", vec![5000; 60])]);
        assert!(Unused::find(&idle, Some(10_000), false, false).is_none());
        assert!(Unused::find(&idle, None, false, false).is_none(), "of how many?");
        let used = holders(&[source(1, "api", vec![200; 60])]);
        assert!(Unused::find(&used, Some(100), false, false).is_none());
        assert!(Unused::find(&Holders::default(), Some(100), true, false).is_none());
    }
}
