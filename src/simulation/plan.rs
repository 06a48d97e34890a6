//! What a run is about: topology, pools and callers, by its seed.

use std::time::Duration;

use fastrand::Rng;

use super::shape::{Kind, Shape};
use super::world::World;
use crate::{Backoff, Budget, GuardedPool, GuardedPoolBuilder, ReplicaReads};

#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) acquire: Duration,
    pub(super) response: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    /// Pools that share the servers.
    pub(super) pools: usize,
    pub(super) callers: usize,
    pub(super) max_connections: usize,
    pub(super) timeouts: Timeouts,
    pub(super) multiplex: bool,
    lanes: usize,
    connect: Duration,
    resp3: bool,
    watch: bool,
    idle: Duration,
    lifetime: Duration,
    leak_after: Duration,
    revoke: bool,
    queue: Option<usize>,
    default_backoff: bool,
    replica_reads: ReplicaReads,
}

impl Plan {
    pub(super) fn new(kind: Kind, rng: &mut Rng) -> Self {
        let mut millis = |from, to| Duration::from_millis(rng.u64(from..to));
        let timeouts = Timeouts { acquire: millis(100, 800), response: millis(80, 600) };
        let (connect, idle) = (millis(50, 500), millis(1_000, 5_000));
        // A sweep comes four times in the shortest of the times that it watches, and costs much to simulate.
        let (lifetime, leak_after) = (millis(1_500, 10_000), millis(1_000, 3_000));
        Self {
            kind,
            pools: rng.usize(1..=3),
            callers: rng.usize(2..=12),
            // Two for the lanes, one that is reserved, and one for whoever comes.
            max_connections: rng.usize(4..=8),
            timeouts,
            multiplex: rng.u32(..3) == 0,
            lanes: rng.usize(1..=2),
            connect,
            resp3: rng.bool(),
            watch: rng.u32(..4) > 0,
            idle,
            lifetime,
            leak_after,
            revoke: rng.u32(..4) == 0,
            queue: (rng.u32(..4) == 0).then_some(3),
            default_backoff: rng.bool(),
            replica_reads: if rng.bool() { ReplicaReads::Off } else { ReplicaReads::Prefer },
        }
    }

    /// A pool of the plan's.
    pub(super) fn pool(&self, world: &World, seed: u64) -> GuardedPool {
        let protocol = if self.resp3 { "?protocol=resp3" } else { "" };
        let url =
            |host: usize| format!("redis://{}:{}/{protocol}", world.ip(host), super::server::PORT);
        let all = |hosts: std::ops::Range<usize>| hosts.map(url).collect::<Vec<_>>();
        let shape = Shape::new(self.kind);
        let builder = match self.kind {
            Kind::Single => GuardedPool::builder(url(0)),
            Kind::Sentinel => GuardedPool::sentinel(all(shape.data()..shape.hosts()), "m")
                .connect_as(format!("redis://any/{protocol}")),
            Kind::Cluster => GuardedPool::cluster(all(0..2)).replica_reads(self.replica_reads),
        };
        self.set_up(builder, seed).build().expect("settings that are right")
    }

    fn set_up(&self, builder: GuardedPoolBuilder, seed: u64) -> GuardedPoolBuilder {
        let mut builder = builder
            .seed(seed)
            .client_name("simulated")
            .max_connections(self.max_connections)
            .endpoint("a", Budget::max(self.max_connections).reserve(1))
            .endpoint("b", Budget::max(2))
            .acquire_timeout(self.timeouts.acquire)
            .response_timeout(self.timeouts.response)
            .connect_timeout(self.connect)
            .link_timeout(Duration::from_secs(2))
            .shared_lanes(self.lanes)
            .multiplex(self.multiplex)
            .watch(self.watch)
            .idle_timeout(self.idle)
            .max_lifetime(self.lifetime)
            .leak_after(self.leak_after)
            .drain_timeout(Duration::from_secs(1));
        if self.revoke {
            builder = builder.revoke_after(Duration::from_millis(1_000));
        }
        if let Some(queue) = self.queue {
            builder = builder.queue_limit(queue);
        }
        if !self.default_backoff {
            let (base, cap) = (Duration::from_millis(20), Duration::from_millis(500));
            builder = builder.backoff(Backoff::equal_jitter(base, cap));
        }
        builder
    }
}
