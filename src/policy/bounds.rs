//! What a builder takes: the bounds of its settings, and the checks that all builders share.

use std::time::Duration;

use super::{Backoff, Breaker, Budgets};

/// The longest time any setting may name: far beyond use, and clear of overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The most connections, calls, commands or waiters any setting may name. Linux lets a process, client
/// or server, have 1,048,576 files unless told otherwise (`fs.nr_open`), so there can be no more
/// sockets; and counts of this size can be multiplied with each other.
pub(crate) const MOST: usize = 1_000_000;

/// The most shared lanes. A few carry all that a server can answer, and each takes some memory from
/// the start.
pub(crate) const MOST_LANES: usize = 1024;

/// The shortest hold worth planning a queue for: one round trip and the work around it.
const SHORTEST_HOLD: Duration = Duration::from_millis(1);

/// As many as could be served within the timeout.
pub(crate) fn default_queue_limit(connections: usize, acquire_timeout: Duration) -> usize {
    let served_each = acquire_timeout.as_nanos() / SHORTEST_HOLD.as_nanos();
    let served_each = usize::try_from(served_each).unwrap_or(usize::MAX);
    connections.saturating_mul(served_each).clamp(64, 65_536)
}

/// What every builder has, whatever it guards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common<'a> {
    pub(crate) name: &'a str,
    /// What all endpoints share, and the setter's name for it.
    pub(crate) total: (&'static str, usize),
    pub(crate) budgets: &'a Budgets,
    pub(crate) acquire_timeout: Duration,
    pub(crate) queue_limit: Option<usize>,
    /// `None` for the default.
    pub(crate) backoff: Option<Backoff>,
    pub(crate) breaker: &'a Breaker,
}

/// Everything that is wrong with a builder's settings, as it is found.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    pub(crate) fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// What is wrong with one policy, if anything, under its setter's name.
    pub(crate) fn policy(&mut self, setter: &str, problem: Option<impl std::fmt::Display>) {
        self.0.extend(problem.map(|problem| format!("{setter}: {problem}")));
    }

    /// A limit from 1 to `most`; `so` is what would follow from 0.
    pub(crate) fn limit(&mut self, setter: &str, limit: usize, most: usize, so: &str) {
        if limit == 0 {
            self.add(format!("{setter} is 0, so {so}"));
        } else if limit > most {
            self.add(format!("{setter} {limit} is above {most}"));
        }
    }

    /// A time of at most a year.
    pub(crate) fn time_or_zero(&mut self, setter: &str, time: Duration) {
        if time > LONGEST {
            self.add(format!("{setter} is longer than a year"));
        }
    }

    /// A time of at most a year, and more than none.
    pub(crate) fn time(&mut self, setter: &str, time: Duration) {
        if time.is_zero() {
            self.add(format!("{setter} is zero"));
        }
        self.time_or_zero(setter, time);
    }

    pub(crate) fn common(&mut self, common: &Common<'_>) {
        let (total, most) = common.total;
        self.limit(total, most, MOST, "nobody could ever be served");
        if let Some(limit) = common.queue_limit {
            self.limit("queue_limit", limit, MOST, "nobody could ever wait");
        }
        if common.name.is_empty() || common.name.chars().any(char::is_control) {
            self.add("name is empty or has control characters");
        }
        self.time_or_zero("acquire_timeout", common.acquire_timeout);
        self.policy("backoff", common.backoff.and_then(|backoff| backoff.problem()));
        self.policy("breaker", common.breaker.problem());
        self.0.extend(common.budgets.problems(common.total));
    }

    pub(crate) fn into_vec(self) -> Vec<String> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(find: impl FnOnce(&mut Problems)) -> Vec<String> {
        let mut problems = Problems::default();
        find(&mut problems);
        problems.into_vec()
    }

    const NOTHING: [String; 0] = [];

    #[test]
    fn a_limit_is_from_one_to_the_most() {
        let found = |limit| found(|problems| problems.limit("queue_limit", limit, 5, "who waits?"));
        assert_eq!([found(1), found(5)], [NOTHING; 2]);
        assert_eq!(found(0), ["queue_limit is 0, so who waits?"]);
        assert_eq!(found(6), ["queue_limit 6 is above 5"]);
    }

    #[test]
    fn a_time_is_at_most_a_year_and_some_are_more_than_none() {
        let instant = Duration::from_nanos(1);
        let time = |time| found(|problems| problems.time("hold", time));
        let or_zero = |time| found(|problems| problems.time_or_zero("hold", time));
        assert_eq!([time(instant), time(LONGEST), or_zero(Duration::ZERO)], [NOTHING; 3]);
        assert_eq!(or_zero(LONGEST), NOTHING);
        assert_eq!(time(Duration::ZERO), ["hold is zero"]);
        let long = [time(LONGEST + instant), or_zero(LONGEST + instant)];
        assert_eq!(long, [["hold is longer than a year"]; 2]);
    }

    #[test]
    fn a_queue_is_as_long_as_can_be_served_in_time_within_bounds() {
        assert_eq!(default_queue_limit(1, Duration::from_millis(10)), 64);
        assert_eq!(default_queue_limit(10, Duration::from_secs(1)), 10_000);
        assert_eq!(default_queue_limit(100, Duration::from_secs(10)), 65_536);
        assert_eq!(default_queue_limit(usize::MAX, Duration::MAX), 65_536);
    }

    #[test]
    fn all_that_builders_share_is_checked() {
        let (budgets, breaker) = (Budgets::default(), Breaker::default());
        let right = Common {
            name: "cache",
            total: ("max_connections", 8),
            budgets: &budgets,
            acquire_timeout: Duration::ZERO,
            queue_limit: Some(MOST),
            backoff: Some(Backoff::default()),
            breaker: &breaker,
        };
        let common = |common: Common<'_>| found(|problems| problems.common(&common));
        assert_eq!(common(right), NOTHING);
        assert_eq!(common(Common { queue_limit: None, backoff: None, ..right }), NOTHING);

        let never = Breaker::default().failures(0);
        let greedy = Budgets { named: Vec::new(), default: Some(crate::Budget::max(0)) };
        let at_once = Backoff::equal_jitter(Duration::ZERO, LONGEST);
        for (wrong, setter) in [
            (Common { name: "", ..right }, "name"),
            (Common { name: "a\nb", ..right }, "name"),
            (Common { total: ("max_connections", MOST + 1), ..right }, "max_connections"),
            (Common { budgets: &greedy, ..right }, "default_budget"),
            (Common { acquire_timeout: Duration::MAX, ..right }, "acquire_timeout"),
            (Common { queue_limit: Some(0), ..right }, "queue_limit"),
            (Common { backoff: Some(at_once), ..right }, "backoff"),
            (Common { breaker: &never, ..right }, "breaker"),
        ] {
            let found = common(wrong);
            assert!(found.len() == 1 && found[0].starts_with(setter), "{setter}: {found:?}");
        }
    }
}
