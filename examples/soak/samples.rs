//! What the process has, over time.

use std::fs;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval};

use crate::operator::Shared;
use crate::pools::Pools;
use crate::tally::{Tally, Topology};
use crate::{Failure, HEAP};

/// What may leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) rss_kib: u64,
    /// Allocated and not yet freed.
    pub(crate) heap: usize,
    pub(crate) fds: usize,
    pub(crate) tasks: usize,
}

impl Usage {
    pub(crate) fn now() -> Result<Self, Failure> {
        let status = fs::read_to_string("/proc/self/status")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|line| line.split_whitespace().next()).ok_or("there is no VmRSS")?;
        Ok(Self {
            rss_kib: rss.parse()?,
            heap: HEAP.current_usage(),
            // The folder that is read is one itself, each time.
            fds: fs::read_dir("/proc/self/fd")?.count(),
            tasks: Handle::current().metrics().num_alive_tasks(),
        })
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    /// Since the sample before it was calm.
    pub(crate) calm: bool,
    pub(crate) usage: Usage,
    /// By the pools' own books.
    pub(crate) sockets: usize,
    /// Since the sample before.
    pub(crate) served: u64,
    pub(crate) failed: u64,
    /// The median and the 99th percentile of the plain calls since then, by topology.
    pub(crate) latency: [Option<[Duration; 2]>; Topology::ALL.len()],
}

/// Looks every so often, until the operator is done.
pub(crate) async fn watch(
    every: Duration,
    shared: &Shared,
    pools: &[Pools],
    tally: &Tally,
) -> Result<Vec<Sample>, Failure> {
    let mut samples = Vec::new();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut served, mut failed, mut was_calm) = (0, 0, false);
    loop {
        ticks.tick().await;
        let (calm, over) = {
            let log = shared.log();
            (log.calm, log.over)
        };
        if over {
            return Ok(samples);
        }
        let (served_now, failed_now) =
            (tally.sum(|count| count.served()), tally.sum(|count| count.failed() + count.hung()));
        let mut usage = Usage::now()?;
        // The records of the run itself.
        usage.heap = usage.heap.saturating_sub(samples.capacity() * size_of::<Sample>());
        samples.push(Sample {
            at: shared.started.elapsed(),
            calm: calm && was_calm,
            usage,
            sockets: pools.iter().map(Pools::sockets).sum(),
            served: served_now - served,
            failed: failed_now - failed,
            latency: Topology::ALL.map(|topology| tally.latency(topology).take()),
        });
        (served, failed, was_calm) = (served_now, failed_now, calm);
    }
}
