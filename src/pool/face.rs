//! What the layers above ask of a pool: the guard, tower, the HTTP middleware, the doctor.

use std::collections::HashSet;
use std::panic::Location;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use deadpool::managed::Metrics;

use super::acquire::{acquire, acquire_within, try_acquire};
use super::cluster::Cluster;
use super::cluster::router::Router;
use super::companion::Companion;
use super::guarded_connection::GuardedConnection;
use super::guarded_pool::GuardedPool;
use super::handle::KeepOpen;
use super::maintenance::close;
use super::multiplexed::Multiplexed;
#[cfg(any(feature = "axum", feature = "doctor"))]
use super::node::Node;
use super::servers::Servers;
use super::shared::NodeShared;
use super::shared_connection::SharedConnection;
#[cfg(feature = "doctor")]
use super::status;
use crate::ledger::Ledger;
use crate::policy::LONGEST;
use crate::telemetry::status::CloseReason;
#[cfg(feature = "axum")]
use crate::telemetry::status::RequestOutcome;
use crate::vocabulary::DialFailure;
use crate::{Endpoint, Error, Rejection};

impl GuardedPool {
    pub(super) fn servers(&self) -> &Servers {
        &self.handle.servers
    }

    /// What goes by the pool's budgets beside it, while somebody holds it; or `new`, made of a ledger of
    /// those budgets.
    pub(crate) fn companion<C: Companion, W>(
        &self,
        new: impl FnOnce(Ledger<W>) -> Arc<C>,
    ) -> Arc<C> {
        let context = self.servers().context();
        let mut companion = context.companion.lock().unwrap_or_else(PoisonError::into_inner);
        let known = companion.upgrade().and_then(|known| {
            let known: Arc<dyn std::any::Any + Send + Sync> = known;
            known.downcast::<C>().ok()
        });
        known.unwrap_or_else(|| {
            let (settings, first) = (&context.settings, self.servers().first());
            let queue_limit = first.lock().ledger.queue_limit();
            let new = new(Ledger::new(settings.max_connections, queue_limit, &settings.budgets));
            let weak: Weak<C> = Arc::downgrade(&new);
            *companion = weak;
            new
        })
    }

    /// A lease, or in the caller's own error why there is none.
    pub(crate) fn acquire_at<E: From<Rejection>>(
        &self,
        endpoint: Endpoint,
        location: &'static Location<'static>,
    ) -> impl Future<Output = Result<GuardedConnection, E>> + Send + use<E> {
        let (servers, pool) = (self.servers().clone(), self.multiplexes());
        async move {
            match (servers, pool) {
                (Servers::One(node), None) => {
                    Ok(GuardedConnection::of_node(acquire(node, endpoint, location).await?))
                }
                (Servers::One(node), Some(pool)) => {
                    let lease = Multiplexed::acquire(node, &endpoint, location).await?;
                    Ok(GuardedConnection::of_multiplexed(lease, pool))
                }
                (Servers::Cluster(cluster), pool) => {
                    cluster.ready().await?;
                    cluster.admit(&endpoint)?;
                    Ok(routed(cluster, endpoint, location, pool))
                }
            }
        }
    }

    /// A lease for a caller who waits at most this time, whatever the pool's acquire timeout is, where the
    /// lease takes its connection at once.
    pub(crate) fn acquire_within_at(
        &self,
        timeout: Duration,
        endpoint: Endpoint,
        location: &'static Location<'static>,
    ) -> impl Future<Output = Result<GuardedConnection, Error>> + Send + use<> {
        let timeout = timeout.min(LONGEST);
        let pool = self.clone();
        async move {
            match pool.servers() {
                Servers::One(node) if pool.multiplexes().is_none() => {
                    let lease = acquire_within(timeout, Arc::clone(node), endpoint, location);
                    Ok(GuardedConnection::of_node(lease.await?))
                }
                _ => pool.acquire_at(endpoint, location).await,
            }
        }
    }

    /// What its leases keep it open with, if they multiplex.
    fn multiplexes(&self) -> Option<KeepOpen> {
        self.servers().context().settings.multiplex.then(|| self.handle.keep_open())
    }

    /// A lease, if one can be had right now.
    pub(super) fn try_acquire_at(
        &self,
        endpoint: Endpoint,
        location: &'static Location<'static>,
    ) -> Result<GuardedConnection, Rejection> {
        match (self.servers(), self.multiplexes()) {
            (Servers::One(node), None) => {
                Ok(GuardedConnection::of_node(try_acquire(node, &endpoint, location)?))
            }
            (Servers::One(node), Some(pool)) => {
                let lease = Multiplexed::try_acquire(Arc::clone(node), &endpoint, location)?;
                Ok(GuardedConnection::of_multiplexed(lease, pool))
            }
            (Servers::Cluster(cluster), pool) => {
                cluster.is_ready()?;
                cluster.admit(&endpoint)?;
                Ok(routed(Arc::clone(cluster), endpoint, location, pool))
            }
        }
    }

    /// A lease of the server that takes writes of this key.
    pub(crate) fn acquire_for_at(
        &self,
        endpoint: Endpoint,
        key: Vec<u8>,
        location: &'static Location<'static>,
    ) -> impl Future<Output = Result<GuardedConnection, Error>> + Send + use<> {
        let (servers, pool) = (self.servers().clone(), self.multiplexes());
        async move {
            let node = servers.primary_of(Some(&key)).await?;
            Ok(match (servers, pool) {
                (Servers::One(_), None) => {
                    GuardedConnection::of_node(acquire(node, endpoint, location).await?)
                }
                (Servers::One(_), Some(pool)) => {
                    let lease = Multiplexed::acquire(node, &endpoint, location).await?;
                    GuardedConnection::of_multiplexed(lease, pool)
                }
                (Servers::Cluster(cluster), None) => {
                    let router = Router::new(cluster, endpoint, location);
                    GuardedConnection::of_cluster(router.at_home(node).await?)
                }
                (Servers::Cluster(cluster), Some(pool)) => {
                    let router = Router::new(cluster, endpoint, location);
                    GuardedConnection::of_multiplexed_cluster(router.at_home(node).await?, pool)
                }
            })
        }
    }

    pub(crate) fn shared_at(
        &self,
        endpoint: &Endpoint,
        location: &'static Location<'static>,
    ) -> SharedConnection {
        let pool = self.handle.clone();
        match self.servers() {
            Servers::One(node) => {
                let shared = NodeShared::new(Arc::clone(node), endpoint, location);
                SharedConnection::of_node(shared, pool)
            }
            Servers::Cluster(cluster) => {
                let router = Router::new(Arc::clone(cluster), endpoint.clone(), location);
                SharedConnection::of_cluster(router, pool)
            }
        }
    }

    /// Why a caller would be refused right now, if that is so; not counted. The next dial is made
    /// for it all the same.
    pub(crate) fn refusal(&self) -> Option<Rejection> {
        self.servers().refusal()
    }

    /// Counts and announces a refusal that was decided elsewhere.
    pub(crate) fn count_rejection(&self, endpoint: &Endpoint, rejection: &Rejection) {
        let node = self.servers().first();
        let account = node.lock().ledger.account(endpoint);
        node.reject(account, rejection.clone());
    }

    /// The server refused somebody else's connection: it is full.
    pub(crate) fn heard_refusal(&self, failure: &Arc<DialFailure>) {
        self.servers().first().heard_refusal(failure);
    }

    /// Closes the idle connections that `keep` does not want, which is asked outside of the pool's lock; how
    /// many it keeps, and how many were closed. How often they were lent is not counted.
    pub(crate) fn retain_idle(&self, mut keep: impl FnMut(Metrics) -> bool) -> (usize, usize) {
        let (mut kept, mut closed) = (0, 0);
        for node in self.servers().nodes() {
            let mut unwanted = HashSet::new();
            for socket in node.idle() {
                let created = socket.opened;
                // By the coarse clock it may have been used before it was opened.
                let used = node.instant(socket.used_at()).map(|used| used.max(created).into_std());
                let created = created.into_std();
                match keep(Metrics { created, recycled: used, recycle_count: 0 }) {
                    true => kept += 1,
                    false => drop(unwanted.insert(socket.id)),
                }
            }
            // Those that somebody was lent meanwhile are in use.
            for connection in node.withdraw(|socket| unwanted.contains(&socket.id)) {
                closed += 1;
                close(connection, CloseReason::Dropped);
            }
        }
        (kept, closed)
    }

    /// [`close`](Self::close) for those who do not wait: leases end when they are dropped.
    pub(crate) fn shut(&self) {
        self.servers().shut();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.servers().is_closed()
    }

    pub(crate) fn name(&self) -> &str {
        self.servers().context().name()
    }

    pub(crate) fn server(&self) -> Arc<str> {
        self.servers().first().address()
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        self.servers().context().settings.acquire_timeout
    }
}

/// A lease that takes what it needs at each node.
fn routed(
    cluster: Arc<Cluster>,
    endpoint: Endpoint,
    location: &'static Location<'static>,
    multiplexes: Option<KeepOpen>,
) -> GuardedConnection {
    match multiplexes {
        None => GuardedConnection::of_cluster(Router::new(cluster, endpoint, location)),
        Some(pool) => {
            let router = Router::new(cluster, endpoint, location);
            GuardedConnection::of_multiplexed_cluster(router, pool)
        }
    }
}

#[cfg(feature = "axum")]
impl GuardedPool {
    /// Why a request of `endpoint` would be refused at once if it asked for a connection now; counted
    /// as if it had.
    pub(crate) fn shed(&self, endpoint: &Endpoint) -> Option<Rejection> {
        let rejection = self.refusal()?;
        self.count_rejection(endpoint, &rejection);
        Some(rejection)
    }

    pub(crate) fn count_request(&self, endpoint: &Endpoint, outcome: RequestOutcome) {
        let node = self.servers().first();
        let (name, start_maintenance) = {
            let mut state = node.lock();
            let account = state.ledger.account(endpoint);
            (state.ledger.account_name(account).clone(), state.wants_maintenance())
        };
        self.servers().context().count_request(name, outcome);
        if start_maintenance {
            node.start_maintenance();
        }
    }

    /// How many connections are live, and why nobody could be served if that is so. With none live
    /// one is dialed, when the schedule says so: an instance that gets no requests because it is not
    /// ready would never be ready again.
    pub(crate) fn readiness(&self) -> (usize, Option<Rejection>) {
        let live = |node: &Arc<Node>| {
            node.change(|state| {
                let live = state.ledger.live();
                if live == 0 {
                    state.ledger.request_dial();
                }
                live
            })
        };
        let live = self.servers().nodes().iter().map(live).sum();
        (live, self.servers().refusal())
    }
}

#[cfg(feature = "doctor")]
impl GuardedPool {
    /// The server to be examined: of a cluster's the worst.
    pub(crate) fn examined(&self) -> Examined {
        Examined(status::worst(self.servers()))
    }
}

/// A server of a pool's that is to be examined.
#[cfg(feature = "doctor")]
pub(crate) struct Examined(Arc<Node>);

#[cfg(feature = "doctor")]
impl Examined {
    pub(crate) fn dialer(&self) -> &crate::dial::Dialer {
        &self.0.dialer
    }

    /// The pool at this server alone.
    #[cfg(feature = "axum")]
    pub(crate) fn status(&self) -> crate::Status {
        status::status(&self.0)
    }

    /// Where it is.
    pub(crate) fn target(&self) -> crate::dial::Target {
        self.0.target()
    }

    #[track_caller]
    pub(crate) fn acquire(
        &self,
        endpoint: Endpoint,
    ) -> impl Future<Output = Result<GuardedConnection, Rejection>> + Send {
        let (node, location) = (Arc::clone(&self.0), Location::caller());
        async move { Ok(GuardedConnection::of_node(acquire(node, endpoint, location).await?)) }
    }
}
