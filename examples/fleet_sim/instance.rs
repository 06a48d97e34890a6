//! One process of the fleet: its workload, and the policy its pool obeys.

use fastrand::Rng;
use redis_guard::Breaker;
use redis_guard::internal::sim::{
    Approval, Demand, Gate, Load, Membership, PriceLaw, limit_in_force,
};
use std::time::Duration;
use tokio::time::Instant;

use crate::world::Us;

/// How long a request keeps its connection.
const HOLD: f64 = 0.020;

/// How long a request waits for one.
const PATIENCE: f64 = 0.250;

/// How long a bare pool's rejected dial takes.
const REJECTION: f64 = 0.001;

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Every caller that finds no idle connection dials.
    Naive,
    /// The dial gate alone.
    Gate,
    PriceLaw,
    Fleet,
}

impl Policy {
    pub(crate) const ALL: [Self; 4] = [Self::Naive, Self::Gate, Self::PriceLaw, Self::Fleet];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Gate => "gate",
            Self::PriceLaw => "price-law",
            Self::Fleet => "fleet",
        }
    }
}

/// What the callers asked for and got, since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calls {
    pub(crate) arrived: f64,
    pub(crate) served: f64,
}

#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) policy: Policy,
    pub(crate) alive: bool,
    pub(crate) max_connections: usize,
    /// The mean concurrency its callers would have.
    pub(crate) offered: f64,
    pub(crate) live: usize,
    /// The dial in flight.
    pub(crate) dial: Option<(Approval, Us)>,
    /// Connections its callers would use at this moment.
    pub(crate) wanted: usize,
    /// How many it held when the server refused one more.
    pub(crate) frozen: Option<usize>,
    pub(crate) gate: Gate,
    pub(crate) demand: Demand,
    pub(crate) price: PriceLaw,
    /// `rejected` as it saw it last.
    pub(crate) rejected_seen: Option<u64>,
    pub(crate) member: Membership,
    /// How many members it takes the fleet to have.
    pub(crate) members: usize,
    /// The events that count; those made before are void.
    pub(crate) wake_at: Us,
    pub(crate) watch_at: Us,
    pub(crate) calls: Calls,
    arrivals: f64,
    served: f64,
    queue: f64,
    rng: Rng,
}

impl Instance {
    pub(crate) fn new(
        id: usize,
        policy: Policy,
        max_connections: usize,
        offered: f64,
        now: Instant,
        rng: &mut Rng,
    ) -> Self {
        Self {
            policy,
            alive: true,
            max_connections,
            offered,
            live: 0,
            dial: None,
            wanted: 0,
            frozen: None,
            gate: Gate::alone(None, Breaker::default(), CONNECT_TIMEOUT, rng.u64(..)),
            demand: Demand::new(now),
            price: PriceLaw::new(max_connections, rng.u64(..)),
            rejected_seen: None,
            member: Membership::new(format!("{id:05}"), max_connections, 0, now, rng.u64(..)),
            members: 1,
            wake_at: Us::MAX,
            watch_at: Us::MAX,
            calls: Calls::default(),
            arrivals: 0.0,
            served: 0.0,
            queue: 0.0,
            rng: rng.fork(),
        }
    }

    pub(crate) fn sockets(&self) -> usize {
        self.live + usize::from(self.dial.is_some())
    }

    /// How many sockets it may have.
    pub(crate) fn limit(&self, now: Instant) -> usize {
        match self.policy {
            Policy::Naive | Policy::Gate => self.max_connections,
            Policy::PriceLaw => self.limit_of(None, now),
            Policy::Fleet => self.limit_of(Some(&self.member), now),
        }
    }

    fn limit_of(&self, member: Option<&Membership>, now: Instant) -> usize {
        limit_in_force(member, &self.price, self.max_connections, self.sockets(), now).0
    }

    /// Callers wait, and no dial can help.
    pub(crate) fn is_hungry(&self, now: Instant) -> bool {
        self.wanted > self.live && self.sockets() >= self.limit(now)
    }

    /// The callers of `seconds`. Gives the dials that a bare pool makes for them.
    pub(crate) fn serve(&mut self, seconds: f64, now: Instant) -> usize {
        let arrived = self.poisson(self.offered * seconds / HOLD);
        let rate = self.live as f64 / HOLD;
        let waiting = self.queue + arrived;
        let served = waiting.min(rate * seconds);
        let mut left = waiting - served;
        let mut dials = 0;
        if self.policy == Policy::Naive && self.live < self.max_connections {
            let permits = (self.max_connections - self.live) as f64;
            // A call that finds no connection dials, and fails with its dial.
            dials = left.min(permits * seconds / REJECTION) as usize;
            left = 0.0;
        }
        self.queue = left.min(rate * PATIENCE);
        self.arrivals += arrived;
        self.served += served;
        self.calls.arrived += arrived;
        self.calls.served += served;

        let concurrency = self.poisson(self.offered) + self.queue.max(left.min(rate * seconds));
        self.wanted = (concurrency as usize).min(self.max_connections);
        let load = Load {
            arrivals: self.arrivals as u64,
            acquired: self.served as u64,
            in_use: self.wanted.min(self.live),
            waiting: self.queue as usize,
            peak: concurrency as usize,
        };
        self.demand.observe(now, load);
        dials
    }

    /// A Poisson variate, by the normal distribution (the sum of twelve uniform ones).
    fn poisson(&mut self, mean: f64) -> f64 {
        let normal: f64 = (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0;
        (mean + normal * mean.sqrt()).round().max(0.0)
    }
}
