//! Connections that nobody uses: whose they are, and how they came to be.

use std::collections::HashMap;

use super::holders::{Holder, Holders};

/// How many times as many connections as the median source one has to hold to stand out.
const OUT_OF_LINE: usize = 3;

/// A source has to have so many for their ages to say something.
const FEW: usize = 8;

/// Idle connections that hold a quarter of the server's slots or more.
#[derive(Debug)]
pub(super) enum Hoard<'a> {
    /// Opened, used when new, and forgotten.
    Leak {
        /// By whom.
        sources: Vec<&'a Holder>,
        /// What the other sources hold, where these stand out.
        median: Option<usize>,
    },
    /// Kept by pools that are larger than their use.
    Pools {
        /// The size of most, where most are equal.
        size: Option<usize>,
    },
}

impl<'a> Hoard<'a> {
    /// `ceiling`: the slots that there are.
    pub(super) fn find(holders: &'a Holders, ceiling: Option<u64>) -> Option<Self> {
        let ceiling = usize::try_from(ceiling?).unwrap_or(usize::MAX);
        if holders.idle.saturating_mul(4) < ceiling || holders.idle < FEW {
            return None;
        }
        let most_of_it = |some: &[&Holder]| {
            some.iter().map(|source| source.idle).sum::<usize>() * 2 >= holders.idle
        };
        let sources = &holders.all_sources;
        let (median, mut outliers) = outliers(sources);
        outliers.retain(|source| source.idle * 2 >= source.connections);
        if most_of_it(&outliers) {
            return Some(Self::Leak { sources: outliers, median: Some(median) });
        }

        let size = common_size(sources);
        let forgotten: Vec<&Holder> =
            sources.iter().filter(|source| is_forgotten(source)).collect();
        if size.is_none() && most_of_it(&forgotten) {
            return Some(Self::Leak { sources: forgotten, median: None });
        }
        (holders.idle * 2 >= holders.clients).then_some(Self::Pools { size })
    }
}

/// The median of the sources' connections, and the sources that hold far more.
pub(super) fn outliers(sources: &[Holder]) -> (usize, Vec<&Holder>) {
    // Largest first, so the lower of the two in the middle is the later one.
    let median = sources.get(sources.len() / 2).map_or(0, |source| source.connections);
    let far_more =
        |source: &&Holder| source.connections > OUT_OF_LINE * median && source.connections >= FEW;
    (median, sources.iter().filter(far_more).collect())
}

/// True where the idle connections were opened one after another, over most of the time since the
/// oldest, and none was used again: a pool opens its connections when it is needed, and uses them in
/// turn.
fn is_forgotten(source: &Holder) -> bool {
    let mut ages = source.idle_ages.clone();
    ages.sort_unstable();
    let at = |percent: usize| ages.get((ages.len().saturating_sub(1)) * percent / 100).copied();
    let (Some(young), Some(old)) = (at(10), at(90)) else { return false };
    let spread = old - young;
    ages.len() >= FEW && source.abandoned * 5 >= source.idle * 4 && spread >= 2 && spread * 2 >= old
}

/// The number of connections that four of five sources hold, of three at least.
fn common_size(sources: &[Holder]) -> Option<usize> {
    let mut sizes = HashMap::<usize, usize>::new();
    for source in sources {
        *sizes.entry(source.connections).or_default() += 1;
    }
    let (size, times) = sizes.into_iter().max_by_key(|(_, times)| *times)?;
    (sources.len() >= 3 && times * 5 >= sources.len() * 4).then_some(size)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::ClientList;

    /// Sources as (address, ages); each connection was used once, when it was a second old.
    fn holders(sources: &[(&str, Vec<u64>)]) -> Holders {
        let lines = sources.iter().flat_map(|(host, ages)| {
            ages.iter().map(move |age| {
                format!("addr={host}:1 age={age} idle={} flags=N\n", age.saturating_sub(1))
            })
        });
        let list = ClientList::parse(lines.collect::<String>());
        Holders::of(&list, None, Duration::from_secs(300), 10)
    }

    fn every(seconds: u64, count: u64) -> Vec<u64> {
        (1..=count).map(|nth| nth * seconds).collect()
    }

    #[test]
    fn one_source_far_over_the_others_leaks() {
        let holders = holders(&[
            ("10.0.0.1", vec![5000; 60]),
            ("10.0.0.2", vec![5000; 5]),
            ("10.0.0.3", vec![5000; 4]),
        ]);
        let Some(Hoard::Leak { sources, median }) = Hoard::find(&holders, Some(100)) else {
            panic!("{holders:?}")
        };
        assert_eq!((sources[0].key.as_str(), sources.len(), median), ("10.0.0.1", 1, Some(5)));
    }

    #[test]
    fn sources_that_open_one_after_another_and_forget_them_leak() {
        let holders = holders(&[("10.0.0.1", every(60, 40)), ("10.0.0.2", every(55, 37))]);
        let Some(Hoard::Leak { sources, median: None }) = Hoard::find(&holders, Some(100)) else {
            panic!("{holders:?}")
        };
        assert_eq!(sources.len(), 2);
    }

    #[test]
    fn equal_pools_are_too_large_however_their_connections_came_to_be() {
        let sources: Vec<_> = (0..24).map(|n| (format!("10.0.0.{n}"), every(60, 10))).collect();
        let sources: Vec<_> =
            sources.iter().map(|(host, ages)| (host.as_str(), ages.clone())).collect();
        let holders = holders(&sources);
        let hoard = Hoard::find(&holders, Some(300));
        assert!(matches!(hoard, Some(Hoard::Pools { size: Some(10) })), "{hoard:?}");
    }

    #[test]
    fn one_source_alone_has_nobody_to_stand_out_from() {
        let holders = holders(&[("10.0.0.1", vec![5000; 60])]);
        let hoard = Hoard::find(&holders, Some(100));
        assert!(matches!(hoard, Some(Hoard::Pools { size: None })), "{hoard:?}");
    }

    #[test]
    fn what_is_little_or_in_use_is_no_hoard() {
        let idle = holders(&[("10.0.0.1", vec![5000; 60])]);
        assert!(Hoard::find(&idle, Some(10_000)).is_none());
        assert!(Hoard::find(&idle, None).is_none(), "of how many?");
        let used = holders(&[("10.0.0.1", vec![200; 60])]);
        assert!(Hoard::find(&used, Some(100)).is_none());
        assert!(Hoard::find(&Holders::default(), Some(100)).is_none());
    }
}
