//! The keeper of a cluster's map: one task a pool, which asks who the nodes are when somebody needs to know.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::ask::{Said, misconfigured};
use super::{Cluster, Known};
use crate::pool::tasks::Task;
use crate::vocabulary::DialFailure;

/// Questions are at least so far apart, and up to a tenth more: what is moved slot by slot is heard of with
/// every move.
const APART: Duration = Duration::from_secs(1);

/// How old what is known may become while nothing seems to have changed: nodes that join take nothing over
/// without a redirection, but replicas come and go unheard. ± 25 %.
const REGULARLY: Duration = Duration::from_secs(30);

/// The same where reads are to go to replicas, and a primary has none that is up: nothing tells of one that
/// comes.
const FOR_REPLICAS: Duration = Duration::from_secs(2);

/// Asks for as long as the pool is open.
pub(in crate::pool) fn run(cluster: Arc<Cluster>) -> Task {
    // Made before the first poll: a task may be dropped without one.
    let running = Running(cluster);
    Box::pin(async move {
        let cluster = Arc::clone(&running.0);
        tokio::select! {
            biased;
            () = keep(running) => {}
            () = cluster.keep_publishing() => {}
        }
        cluster.publish();
    })
}

/// Says that the keeper has stopped, also when its runtime is shut down under it.
struct Running(Arc<Cluster>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.keeper_runs.store(false, Ordering::Release);
        // Whoever waits starts the next one.
        self.0.known.send_modify(|_| ());
    }
}

async fn keep(running: Running) {
    let cluster = &running.0;
    let mut is_lost = false;
    let mut unserved_for: u32 = 0;
    while !cluster.is_closed() {
        let asked = Instant::now();
        let changes = cluster.changes.load(Ordering::Relaxed);
        let next = tokio::select! {
            biased;
            answer = cluster.question() => cluster.heard(answer, asked, &mut is_lost),
            () = cluster.closed() => return,
        };
        if cluster.map.load().is_empty() {
            // Nobody asks on, until somebody waits for it: the failed dial of the question itself is no reason.
            let _ = cluster.wanted.notified().now_or_never();
        }
        let has_changed = changes != cluster.changes.load(Ordering::Relaxed);
        unserved_for = match cluster.has_unserved_slots() {
            true if has_changed => 1,
            true => unserved_for.saturating_mul(2).max(1),
            false => 0,
        };
        let regularly = if cluster.expects_change() {
            Duration::ZERO
        } else if unserved_for > 0 {
            // Perhaps for good; who wants one of them asks as well.
            APART.saturating_mul(unserved_for).min(REGULARLY)
        } else if cluster.lacks_replicas() {
            FOR_REPLICAS
        } else {
            REGULARLY
        };
        let regularly = regularly.mul_f64(0.75 + 0.5 * fastrand::f64());
        tokio::select! {
            biased;
            () = cluster.wanted.notified() => {}
            () = tokio::time::sleep(regularly) => {}
            () = cluster.closed() => return,
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(next) => {}
            () = cluster.closed() => return,
        }
    }
}

impl Cluster {
    /// `None` if there is no news.
    async fn question(self: &Arc<Self>) -> Result<Option<Said>, DialFailure> {
        let epoch = self.known.borrow().epoch;
        let Some(said) = self.ask(epoch).await? else { return Ok(None) };
        if !self.can_use(&said) {
            let why = "of the nodes that it names none is at an address that can be used";
            return Err(misconfigured(&said.by, why));
        }
        if self.map.load().is_empty()
            && let Some(failure) = self.disagreement(&said).await
        {
            return Err(failure);
        }
        Ok(Some(said))
    }

    /// Whether it names a primary that can be dialed.
    fn can_use(&self, said: &Said) -> bool {
        let mut primaries = said.ranges.iter().filter_map(|range| range.nodes.first());
        primaries.any(|named| self.address(named, &said.by).is_some())
    }

    /// Takes in an answer; when to ask again at the earliest. Tells what is new, and of trouble once.
    fn heard(
        self: &Arc<Self>,
        answer: Result<Option<Said>, DialFailure>,
        asked: Instant,
        is_lost: &mut bool,
    ) -> Instant {
        let now = Instant::now();
        // From question to question, for one that a silent node delayed is urgent.
        let next = asked + APART.mul_f64(1.0 + 0.1 * fastrand::f64());
        let trouble = match answer {
            Ok(None) => return next,
            Ok(Some(said)) => {
                let changed = self.take(&said.by, &said.ranges);
                self.known.send_modify(|known| {
                    // One that does not say is no measure for the others.
                    let epoch = if said.epoch == u64::MAX { known.epoch } else { said.epoch };
                    let (at, by, next) = (Some(now), Some(said.by.address()), Some(next));
                    *known = Known { at, by, down: None, epoch, trouble: None, next };
                });
                if changed {
                    let (servers, by) = (self.servers(), said.by.address());
                    self.context.cluster_changed(servers, &by);
                }
                None
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                self.known.send_modify(|known| {
                    (known.trouble, known.next) = (Some(Arc::clone(&failure)), Some(next));
                });
                Some(failure)
            }
        };
        match (trouble, *is_lost) {
            (Some(failure), false) => self.context.cluster_lost(&failure),
            (None, true) => self.context.cluster_found(),
            _ => return next,
        }
        *is_lost = !*is_lost;
        next
    }

    /// The primaries' addresses.
    fn servers(&self) -> Vec<Arc<str>> {
        let mut servers: Vec<_> = self.primaries().iter().map(|node| node.address()).collect();
        servers.sort_unstable();
        servers
    }
}
