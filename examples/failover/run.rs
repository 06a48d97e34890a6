//! What is recorded of one client's run, as it was.

use std::time::Duration;

use crate::clients::Dialed;
use crate::set::Counts;

/// How a master comes to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Planned,
    Frozen,
    Killed,
}

impl Scenario {
    /// In this order: the killed one stays dead.
    pub(crate) const ALL: [Self; 3] = [Self::Planned, Self::Frozen, Self::Killed];

    /// In the JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Frozen => "frozen",
            Self::Killed => "killed",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Planned => "SENTINEL FAILOVER",
            Self::Frozen => "SIGSTOP, SIGCONT",
            Self::Killed => "kill -9",
        }
    }
}

/// One write of one task. Times are since the client's start.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) key: String,
    pub(crate) pool: usize,
    pub(crate) heard: Duration,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

/// A look at the counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) servers: Counts,
    pub(crate) client: Dialed,
}

/// When things happened in a scenario, since the client's start.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    pub(crate) scenario: Scenario,
    pub(crate) began: Duration,
    /// The failover was asked for, or the signal sent.
    pub(crate) struck: Duration,
    /// The first sentinel said `+switch-master`.
    pub(crate) word: Duration,
    /// The last one did.
    pub(crate) last_word: Duration,
    /// The frozen server went on.
    pub(crate) woke: Option<Duration>,
    pub(crate) ended: Duration,
}

/// Everything that was recorded of one client.
pub(crate) struct Record {
    pub(crate) pools: usize,
    /// In the order in which they were heard.
    pub(crate) writes: Vec<Write>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) scenarios: Vec<Times>,
}
