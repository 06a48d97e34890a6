//! Who is connected with a guard: the pools of a service, which share their slots as a fleet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use redis_guard::axum::status_routes;
use redis_guard::doctor::{Doctor, Report};
use redis_guard::{AsyncCommands as _, Budget, Fleet, GuardedPool};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Failure;

pub(crate) const POOLS: usize = 3;
pub(crate) const MOST: usize = 16;

/// Endpoints, how many connections each may hold, and how many are kept for it.
const ENDPOINTS: [(&str, usize, usize); 2] = [("cart", 12, 3), ("session", 8, 2)];
/// Callers of each endpoint in each pool: when all is well, and as many again in [`Storefront::rush`].
const CALLERS: usize = 5;
/// How long a caller holds its connection, and how long it is away.
const HOLDS: Duration = Duration::from_millis(60);
const AWAY: Duration = Duration::from_millis(20);

/// The doctor may find all connections of a pool in use.
const DOCTOR_TRIES: usize = 10;

/// The pools and their callers, until it is dropped.
pub(crate) struct Storefront {
    pools: Vec<GuardedPool>,
    requests: Arc<Requests>,
    tasks: JoinSet<()>,
    /// Where the first pool's page is.
    pub(crate) page: String,
}

#[derive(Default)]
struct Requests {
    served: AtomicU64,
    failed: AtomicU64,
}

/// All pools together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) live: usize,
    pub(crate) dials_refused: u64,
    pub(crate) served: u64,
    pub(crate) failed: u64,
}

impl Storefront {
    /// # Errors
    /// There is no port for the page.
    pub(crate) async fn open(url: &str) -> Result<Self, Failure> {
        let pools = (1..=POOLS).map(|nth| pool(url, nth)).collect::<Result<Vec<_>, _>>()?;
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let page = format!("http://{}/status", listener.local_addr()?);
        let routes = status_routes(pools[0].clone()).overrides().doctor();
        let service = Router::new().merge(routes);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = axum::serve(listener, service).await;
        });
        let mut storefront = Self { pools, requests: Arc::default(), tasks, page };
        storefront.rush();
        Ok(storefront)
    }

    /// More callers: as many as there are in quiet times.
    pub(crate) fn rush(&mut self) {
        for pool in &self.pools {
            for (endpoint, ..) in ENDPOINTS {
                for _ in 0..CALLERS {
                    self.tasks.spawn(call(pool.clone(), endpoint, Arc::clone(&self.requests)));
                }
            }
        }
    }

    /// How many callers there are.
    pub(crate) fn callers(&self) -> usize {
        // One of the tasks serves the page.
        self.tasks.len() - 1
    }

    /// Each has a connection, and a place in the fleet.
    pub(crate) fn is_up(&self) -> bool {
        self.pools.iter().map(GuardedPool::status).all(|status| {
            status.live > 0
                && status.fleet.is_some_and(|fleet| fleet.joined && fleet.members == POOLS)
        })
    }

    /// Each pool has all that it may open.
    pub(crate) fn is_at_its_most(&self) -> bool {
        self.pools.iter().all(|pool| pool.status().live == MOST)
    }

    pub(crate) fn now(&self) -> Now {
        let mut now = Now {
            live: 0,
            dials_refused: 0,
            served: self.requests.served.load(Ordering::Relaxed),
            failed: self.requests.failed.load(Ordering::Relaxed),
        };
        for status in self.pools.iter().map(GuardedPool::status) {
            now.live += status.live;
            now.dials_refused += status.dials.get("max_clients").copied().unwrap_or(0);
        }
        now
    }

    /// What the doctor finds over a connection that the last of the pools has.
    ///
    /// # Errors
    /// It has none for it.
    pub(crate) async fn examine(&self, doctor: &Doctor) -> Result<Report, Failure> {
        let pool = &self.pools[POOLS - 1];
        let mut tries = DOCTOR_TRIES;
        loop {
            match doctor.examine_pool(pool).await {
                Err(_) if tries > 0 => tries -= 1,
                examined => return Ok(examined?),
            }
        }
    }
}

fn pool(url: &str, nth: usize) -> Result<GuardedPool, Failure> {
    let mut builder = GuardedPool::builder(url)
        .name(format!("storefront-{nth}"))
        .client_name("storefront")
        // It stands for a process of its own.
        .own_gate(true)
        .max_connections(MOST)
        .fleet(Fleet::named("storefront"));
    for (endpoint, max, reserve) in ENDPOINTS {
        builder = builder.endpoint(endpoint, Budget::max(max).reserve(reserve));
    }
    Ok(builder.build()?)
}

/// One caller: it takes a connection, uses it, computes something, and comes back.
async fn call(pool: GuardedPool, endpoint: &'static str, requests: Arc<Requests>) {
    loop {
        let request = async {
            let mut connection = pool.acquire(endpoint).await?;
            connection.incr::<_, _, ()>(endpoint, 1).await?;
            sleep(HOLDS).await;
            Ok::<_, Failure>(())
        };
        match request.await {
            Ok(()) => requests.served.fetch_add(1, Ordering::Relaxed),
            Err(_) => requests.failed.fetch_add(1, Ordering::Relaxed),
        };
        sleep(AWAY).await;
    }
}
