//! What could be changed so that it fits, and what each change buys.

use std::fmt;

use serde::Serialize;

use super::{Plan, Surge, default_reserve, largest, wide};
use crate::vocabulary::words;

/// File descriptors that Redis wants beside `maxclients` (`CONFIG_MIN_RESERVED_FDS`); with fewer it
/// lowers `maxclients` when it starts.
const REDIS_FILES: u64 = 32;

/// Bytes that a connection takes on the server: idle for 15 s, and just after its first command. Without
/// output that waits. Measured on Redis 7.0.15 with 2,000 of them; before 7.0 an idle one keeps 16 kB
/// for replies.
const IDLE_BYTES: u64 = 2_300;
const BUSY_BYTES: u64 = 38_000;

/// One change to a [`Plan`], and what it buys.
///
/// A change goes as far as it has to for the plan to fit, and where that is not far enough, or it
/// fits already, as far as it can. Its `Display` is one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lever {
    /// What to change.
    #[serde(flatten)]
    pub change: Change,
    /// Slots that it frees, or adds.
    pub slots: u64,
    /// Slots needed after it.
    pub needed: u64,
    /// True where the plan fits with this change alone.
    pub fits: bool,
}

/// What to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// Smaller pools: [`max_connections`](crate::GuardedPoolBuilder::max_connections).
    #[non_exhaustive]
    MaxConnections {
        /// As planned, in each process.
        from: usize,
        /// The most that fits.
        to: usize,
    },
    /// One connection for all of a process's callers: [`shared`](crate::GuardedPool::shared).
    #[non_exhaustive]
    SharedHandles {
        /// Connections as planned, in each process.
        from: usize,
    },
    /// A [`Fleet`](crate::Fleet) of all processes: pools may stay as large as they are, and are
    /// granted what is free, by need.
    #[non_exhaustive]
    Fleet {
        /// What each process gets when all want more.
        share: u64,
    },
    /// Fewer processes in each instance.
    #[non_exhaustive]
    Workers {
        /// As planned.
        from: u64,
        /// The most that fits.
        to: u64,
    },
    /// Fewer instances on top at a time.
    #[non_exhaustive]
    Surge {
        /// As planned.
        from: Surge,
        /// The most that fits.
        to: Surge,
    },
    /// A lower maximum for the autoscaler.
    #[non_exhaustive]
    Instances {
        /// As planned.
        from: u64,
        /// The most that fits.
        to: u64,
    },
    /// A lower concurrency, in a [serverless](Plan::serverless) plan.
    #[non_exhaustive]
    Concurrency {
        /// As planned.
        from: u64,
        /// The most that fits.
        to: u64,
    },
    /// A higher ceiling.
    #[non_exhaustive]
    MaxClients {
        /// As planned.
        from: u64,
        /// The least with which it fits, the default reserve growing with it.
        to: u64,
        /// What `ulimit -n` of the server has to be for that; with less it lowers `maxclients` when it
        /// starts.
        open_files: u64,
    },
}

/// All levers of a plan, the cheapest first. A change that frees nothing is none.
pub(super) fn of(plan: Plan) -> Vec<Lever> {
    let changes = [
        max_connections(plan),
        Some(Change::SharedHandles { from: plan.pool_size }),
        fleet(plan),
        Some(workers(plan)),
        surge(plan),
        instances(plan),
        max_clients(plan),
    ];
    let levers = changes.into_iter().flatten().map(|change| Lever::of(plan, change));
    levers.filter(|lever| lever.slots > 0).collect()
}

impl Lever {
    fn of(plan: Plan, change: Change) -> Self {
        let after = change.apply(plan);
        // A fleet's pools want as much as before: it is the grants that end where the slots do.
        let needed = match change {
            Change::Fleet { .. } => usable_by_fleet(plan),
            _ => after.needed(),
        };
        let slots = match change {
            Change::MaxClients { from, to, .. } => to - from,
            _ => plan.needed().saturating_sub(needed),
        };
        Self { change, slots, needed, fits: needed <= after.available() }
    }
}

impl Change {
    pub(super) const fn apply(self, plan: Plan) -> Plan {
        match self {
            Self::MaxConnections { to, .. } => plan.pool_size(to),
            Self::SharedHandles { .. } => plan.pool_size(1),
            Self::Fleet { .. } => plan,
            Self::Workers { to, .. } => plan.workers(to),
            Self::Surge { to, .. } => plan.surge(to),
            Self::Instances { to, .. } | Self::Concurrency { to, .. } => plan.instances(to),
            Self::MaxClients { to, .. } => Plan { maxclients: to, ..plan },
        }
    }
}

fn max_connections(plan: Plan) -> Option<Change> {
    let (from, to) = (plan.pool_size, plan.largest_pool_size());
    // One each is what shared handles are for: a pool of one makes callers take turns.
    (!plan.fits() && to > 1).then_some(Change::MaxConnections { from, to })
}

fn fleet(plan: Plan) -> Option<Change> {
    // A frozen sandbox sends no heartbeat.
    if plan.fits() || plan.serverless {
        return None;
    }
    let free = usable_by_fleet(plan).saturating_sub(plan.beside_pools());
    let share = free.checked_div(plan.processes())?.min(wide(plan.pool_size));
    (share > 0).then_some(Change::Fleet { share })
}

/// What a fleet's grants add up to at most, with the clients that are not in it: its registry keeps
/// back a slot for each member, too, up to 4 % (`reserve` in `fleet/registry.lua`).
fn usable_by_fleet(plan: Plan) -> u64 {
    let ceiling = plan.maxclients.saturating_sub(plan.kept_by_server);
    let members = plan.processes().min(ceiling.div_ceil(25));
    let registry = default_reserve(ceiling).max(members).min(ceiling.div_ceil(4));
    plan.available().min(ceiling.saturating_sub(registry))
}

fn workers(plan: Plan) -> Change {
    let from = plan.workers;
    Change::Workers { from, to: lowered(plan, from, |workers| plan.workers(workers)) }
}

fn surge(plan: Plan) -> Option<Change> {
    let from = plan.surge;
    // Nobody chooses how long a frozen sandbox of the old version stays.
    if plan.serverless {
        return None;
    }
    let to = match from {
        Surge::Instances(surge) => {
            Surge::Instances(lowered(plan, surge, |surge| plan.surge(Surge::Instances(surge))))
        }
        Surge::Percent(percent) => {
            let percents = |percent| Surge::Percent(u32::try_from(percent).unwrap_or(u32::MAX));
            let fits = |percent| plan.surge(percents(percent)).fits();
            match if plan.fits() { 0 } else { largest(percent.into(), fits) } {
                0 => Surge::Instances(1),
                percent => percents(percent),
            }
        }
    };
    Some(Change::Surge { from, to })
}

fn instances(plan: Plan) -> Option<Change> {
    let (from, to) = (plan.instances, plan.largest_instances());
    let change = if plan.serverless {
        Change::Concurrency { from, to }
    } else {
        Change::Instances { from, to }
    };
    (to > 0).then_some(change)
}

fn max_clients(plan: Plan) -> Option<Change> {
    let from = plan.maxclients;
    let fits = |to| Plan { maxclients: to, ..plan }.fits();
    if plan.fits() || plan.needed() == u64::MAX {
        return None;
    }
    let to = largest(u64::MAX - REDIS_FILES, |to| !fits(to)).checked_add(1)?;
    let open_files = to.checked_add(REDIS_FILES)?;
    fits(to).then_some(Change::MaxClients { from, to, open_files })
}

/// The most below `from` with which it fits; 1 where nothing does, or it fits anyway.
fn lowered(plan: Plan, from: u64, with: impl Fn(u64) -> Plan) -> u64 {
    if plan.fits() { 1 } else { largest(from, |to| with(to).fits()).max(1) }
}

impl fmt::Display for Lever {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slots, needed, .. } = *self;
        let unit = if slots == 1 { "slot" } else { "slots" };
        let frees = format!("frees {} {unit}", words::count(slots));
        match self.change {
            Change::MaxConnections { from, to } => {
                let (from, to) = (words::count(wide(from)), words::count(wide(to)));
                write!(f, "max_connections {from} → {to} {frees}")?;
            }
            Change::SharedHandles { .. } => write!(
                f,
                "shared handles, 1 connection in each process: needs {}, {frees}",
                words::count(needed)
            )?,
            Change::Fleet { share } => write!(
                f,
                "fleet(..): shares by need, {} each when all want more; their sum never passes \
                 what is free",
                words::count(share)
            )?,
            Change::Workers { from, to } => {
                write!(f, "workers {} → {} {frees}", words::count(from), words::count(to))?;
            }
            Change::Surge { from, to } => write!(f, "surge {from} → {to} {frees}")?,
            Change::Instances { from, to } => {
                write!(f, "instances {} → {} {frees}", words::count(from), words::count(to))?;
            }
            Change::Concurrency { from, to } => {
                write!(f, "concurrency {} → {} {frees}", words::count(from), words::count(to))?;
            }
            Change::MaxClients { from, to, open_files } => write!(
                f,
                "maxclients {} → {} adds {} {unit}; needs ulimit -n {}, and {} to {} MB of memory",
                words::count(from),
                words::count(to),
                words::count(slots),
                words::count(open_files),
                words::count(megabytes(slots, IDLE_BYTES)),
                words::count(megabytes(slots, BUSY_BYTES)),
            )?,
        }
        if self.fits { Ok(()) } else { f.write_str(", and does not suffice") }
    }
}

fn megabytes(connections: u64, bytes: u64) -> u64 {
    connections.saturating_mul(bytes).div_ceil(1_000_000)
}
