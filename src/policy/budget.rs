//! How many connections an endpoint may hold.

use super::MOST;
use crate::Endpoint;

/// How many connections an endpoint may hold at a time.
///
/// `max` keeps one endpoint, or one leak, from taking the pool; `reserve` keeps connections for
/// it that nobody else may take. Both count sockets of this process's share,
/// [`max_connections`](crate::GuardedPoolBuilder::max_connections).
///
/// ```
/// use redis_guard::Budget;
///
/// let checkout = Budget::max(8).reserve(2); // at most 8, and 2 are always kept for it
/// # let _ = checkout;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    max: usize,
    reserve: usize,
    in_flight: usize,
}

/// Commands of one endpoint that may be in flight on shared connections, unless its budget says
/// otherwise: more than keep one connection busy (64 reach nine tenths of its throughput, 512 all of
/// it), and few enough that an endpoint whose commands hang is stopped while the pipeline is still
/// short.
const IN_FLIGHT: usize = 1024;

impl Budget {
    /// At most `max` connections at a time, none of them reserved. From 1 to 1,000,000; anything else
    /// is reported by [`build`](crate::GuardedPoolBuilder::build). More than the pool has is no mistake.
    #[must_use]
    pub const fn max(max: usize) -> Self {
        Self { max, reserve: 0, in_flight: IN_FLIGHT }
    }

    /// Keeps `reserve` connections for this endpoint: the others may not take the pool's last
    /// ones. More than `max`, or more than the pool has left, is reported by
    /// [`build`](crate::GuardedPoolBuilder::build). No pressure of the server takes them away, up to half of
    /// the pool ([`min_limit`](crate::GuardedPoolBuilder::min_limit)); when the pool's limit falls below the sum
    /// of all reserves for another reason, they shrink in proportion.
    #[must_use]
    pub const fn reserve(mut self, reserve: usize) -> Self {
        self.reserve = reserve;
        self
    }

    /// At most `commands` of this endpoint in flight at a time on
    /// [`shared`](crate::GuardedPool::shared) connections; the next ones wait, first come first
    /// served. A command that was given up counts until its reply has come. Default 1,024: more than keep
    /// one connection busy, and few enough that an endpoint whose commands hang is stopped early. From 1
    /// to 1,000,000; anything else is reported by [`build`](crate::GuardedPoolBuilder::build).
    #[must_use]
    pub const fn in_flight(mut self, commands: usize) -> Self {
        self.in_flight = commands;
        self
    }

    pub(crate) const fn max_in_flight(self) -> usize {
        self.in_flight
    }

    pub(crate) const fn max_connections(self) -> usize {
        self.max
    }

    pub(crate) const fn reserved(self) -> usize {
        self.reserve
    }

    /// What is wrong with the values, if anything.
    pub(crate) fn problem(self) -> Option<String> {
        let Self { max, reserve, in_flight } = self;
        if max == 0 {
            Some("max is 0, so nobody could ever be served".to_owned())
        } else if max > MOST {
            Some(format!("max {max} is above {MOST}"))
        } else if reserve > max {
            Some(format!("reserve {reserve} is above its max {max}"))
        } else if in_flight == 0 {
            Some("in_flight is 0, so no shared command could ever be sent".to_owned())
        } else if in_flight > MOST {
            Some(format!("in_flight {in_flight} is above {MOST}"))
        } else {
            None
        }
    }
}

/// The budgets of all endpoints, as a builder collects them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budgets {
    pub(crate) named: Vec<(Endpoint, Budget)>,
    /// Of each endpoint that is not named.
    pub(crate) default: Option<Budget>,
}

impl Budgets {
    /// What is kept for endpoints, in all.
    pub(crate) fn reserved(&self) -> usize {
        self.named.iter().map(|(_, budget)| budget.reserved()).fold(0, usize::saturating_add)
    }

    /// Everything that is wrong with them, where `most` is what all endpoints share, under that name.
    pub(crate) fn problems(&self, (name, most): (&str, usize)) -> Vec<String> {
        let mut problems = Vec::new();
        for (at, (endpoint, budget)) in self.named.iter().enumerate() {
            if let Some(problem) = endpoint.problem() {
                problems.push(format!("endpoint name {endpoint:?} {problem}"));
            }
            if let Some(problem) = budget.problem() {
                problems.push(format!("endpoint {endpoint:?}: {problem}"));
            }
            if self.named[..at].iter().any(|(earlier, _)| earlier == endpoint) {
                problems.push(format!("endpoint {endpoint:?} has two budgets"));
            }
        }
        if let Some(budget) = self.default {
            problems.extend(budget.problem().map(|problem| format!("default_budget: {problem}")));
            if budget.reserved() > 0 {
                // The number of endpoints that would each take it is not known.
                problems
                    .push("default_budget: only a named endpoint can have a reserve".to_owned());
            }
        }
        let reserved = self.reserved();
        if reserved > most {
            problems.push(format!("the reserves add up to {reserved}, above {name} {most}"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with these budgets, of eight connections.
    fn problems(named: &[(&'static str, Budget)], default: Option<Budget>) -> Vec<String> {
        let named = named.iter().map(|(name, budget)| ((*name).into(), *budget)).collect();
        Budgets { named, default }.problems(("max_connections", 8))
    }

    #[test]
    fn the_least_and_the_most_that_a_budget_may_have_are_taken() {
        let most = Budget::max(MOST).reserve(MOST).in_flight(MOST);
        for budget in [Budget::max(1).in_flight(1), Budget::max(2), most] {
            assert_eq!(budget.problem(), None);
        }
    }

    #[test]
    fn what_no_budget_can_be_is_said_with_its_value() {
        for (budget, said) in [
            (Budget::max(0), "max is 0"),
            (Budget::max(MOST + 1), "max 1000001"),
            (Budget::max(2).reserve(3), "reserve 3"),
            (Budget::max(2).in_flight(0), "in_flight is 0"),
            (Budget::max(2).in_flight(MOST + 1), "in_flight 1000001"),
        ] {
            let problem = budget.problem().unwrap();
            assert!(problem.starts_with(said), "{problem}");
        }
    }

    #[test]
    fn reserves_may_add_up_to_all_there_is_and_not_to_more() {
        let (a, b) = (Budget::max(5).reserve(5), Budget::max(5).reserve(3));
        assert_eq!(problems(&[("a", a), ("b", b)], Some(Budget::max(5))), [] as [String; 0]);
        let found = problems(&[("a", a), ("b", b.reserve(4))], None);
        assert_eq!(found, ["the reserves add up to 9, above max_connections 8"]);
    }

    #[test]
    fn every_problem_is_found_with_whose_it_is() {
        let named = [("a", Budget::max(0)), ("b\t", Budget::max(1)), ("a", Budget::max(1))];
        let found = problems(&named, Some(Budget::max(1).reserve(2)));
        let whose: Vec<_> = found.iter().filter_map(|found| found.split(':').next()).collect();
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(whose[0], "endpoint \"a\"");
        assert!(whose[1].starts_with(r#"endpoint name "b\t""#), "{}", whose[1]);
        assert!(whose[2].ends_with("has two budgets"), "{}", whose[2]);
        assert_eq!(whose[3..], ["default_budget"; 2]);
    }
}
