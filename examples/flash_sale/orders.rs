//! What the program and its workers say to each other: one line of JSON each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// What a worker is for; its first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) policy: Policy,
    pub(crate) url: String,
    /// The same for all workers.
    pub(crate) fleet: String,
    pub(crate) max_connections: usize,
    /// Callers of each pool.
    pub(crate) callers: usize,
    pub(crate) hold_ms: u64,
}

/// The lines after the first. At the end of its input a worker ends, too.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// New app servers, by number.
    Open { apps: Vec<usize> },
    /// Answered with [`Word::Seen`].
    Look,
    /// Answered with [`Word::Cpu`].
    Cpu,
    /// Answered with [`Word::Done`], the last.
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    Seen(Seen),
    /// CPU time of the process so far, where it can be had.
    Cpu(Option<u64>),
    Done(Done),
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The app servers and their live connections.
    pub(crate) live: Vec<(usize, usize)>,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// What the callers were told, and how often.
    pub(crate) errors: BTreeMap<String, u64>,
    /// The app servers, and how long each waited for its first connection; without one, how long
    /// it has waited in vain.
    pub(crate) first: Vec<First>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct First {
    pub(crate) app: usize,
    pub(crate) ms: f64,
    pub(crate) connected: bool,
}
