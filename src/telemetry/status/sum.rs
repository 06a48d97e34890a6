//! The status of a cluster: the nodes' together, and which of them comes first.

use std::collections::BTreeMap;

use super::{EndpointStatus, LimitedBy, NodeStatus, Status};
use crate::BreakerState;

impl NodeStatus {
    /// The higher, the more it needs somebody's attention; of nodes that need it alike, the fuller one.
    pub(crate) fn concern(&self) -> f64 {
        let Status { live, breaker, limited_by, waiting, watch, .. } = &self.status;
        let rank = match (breaker.state, *live) {
            (BreakerState::Open | BreakerState::HalfOpen, 0) => 6.0,
            _ if *live == 0 && breaker.last_failure.is_some() => 5.0,
            (BreakerState::Open | BreakerState::HalfOpen, _) => 4.0,
            _ if *limited_by == LimitedBy::Refused => 3.0,
            _ if *waiting > 0 => 2.0,
            _ if watch.trouble.is_some() => 1.0,
            _ => 0.0,
        };
        rank + watch.saturation.unwrap_or(0.0).clamp(0.0, 0.99)
    }
}

impl Status {
    /// Adds what the pool has at another node. HTTP requests and calls through a guard belong to no node, and
    /// are in each status as they are.
    pub(crate) fn add(&mut self, other: &Self) {
        self.max_connections += other.max_connections;
        self.limit += other.limit;
        self.live += other.live;
        self.idle += other.idle;
        self.in_use += other.in_use;
        self.dialing += other.dialing;
        self.waiting += other.waiting;
        self.closed &= other.closed;
        add(&mut self.dials, &other.dials);
        add(&mut self.connections_closed, &other.connections_closed);
        add(&mut self.server_errors, &other.server_errors);
        add(&mut self.breaker.transitions, &other.breaker.transitions);
        self.lanes.extend_from_slice(&other.lanes);
        self.leaks.extend_from_slice(&other.leaks);
        self.leaks.sort_by_key(|leak| std::cmp::Reverse(leak.idle));
        self.idle_leases.extend_from_slice(&other.idle_leases);
        self.idle_leases.sort_by_key(|leases| std::cmp::Reverse(leases.idle));
        for endpoint in &other.endpoints {
            match self.endpoints.iter_mut().find(|known| known.name == endpoint.name) {
                Some(known) => known.add(endpoint),
                None => self.endpoints.push(endpoint.clone()),
            }
        }
    }

    /// What is left of it once its node has gone: what was counted since the pool was built.
    pub(crate) fn counts_only(mut self) -> Self {
        (self.max_connections, self.limit, self.live, self.idle) = (0, 0, 0, 0);
        (self.in_use, self.dialing, self.waiting) = (0, 0, 0);
        self.lanes.clear();
        self.leaks.clear();
        self.idle_leases.clear();
        // Of the pool as a whole, which may be open.
        self.closed = true;
        for endpoint in &mut self.endpoints {
            (endpoint.max, endpoint.reserve, endpoint.waiting) = (0, 0, 0);
            (endpoint.in_use, endpoint.leases) = (0, 0);
            (endpoint.shared_in_flight, endpoint.shared_in_flight_max) = (0, 0);
        }
        self
    }
}

impl EndpointStatus {
    fn add(&mut self, other: &Self) {
        self.max += other.max;
        self.reserve += other.reserve;
        self.in_use += other.in_use;
        self.leases += other.leases;
        self.waiting += other.waiting;
        self.shared_in_flight += other.shared_in_flight;
        self.shared_in_flight_max += other.shared_in_flight_max;
        self.acquired += other.acquired;
        add(&mut self.rejected, &other.rejected);
        self.leaks_suspected += other.leaks_suspected;
        self.leaks_resolved += other.leaks_resolved;
    }
}

fn add<K: Ord + Copy>(counts: &mut BTreeMap<K, u64>, others: &BTreeMap<K, u64>) {
    for (name, count) in others {
        *counts.entry(*name).or_default() += count;
    }
}
