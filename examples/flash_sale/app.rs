//! One app server: a pool and its callers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use redis::{Cmd, SetExpiry, SetOptions};
use redis_guard::{Fleet, GuardedPool, SharedConnection};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::orders::{First, Setup};
use crate::policy::Policy;

/// How long a caller waits for a connection: as long as the guard's own default.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the callers of a process saw.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) ok: Cell<u64>,
    pub(crate) failed: Cell<u64>,
    pub(crate) errors: RefCell<BTreeMap<String, u64>>,
}

pub(crate) struct App {
    number: usize,
    opened: Instant,
    /// When somebody first had a connection.
    first: Rc<Cell<Option<Instant>>>,
    pool: Pool,
    callers: JoinSet<()>,
}

#[derive(Clone)]
enum Pool {
    Bare(deadpool_redis::Pool),
    Guarded(GuardedPool),
    Shared(GuardedPool, SharedConnection),
}

impl App {
    /// Opens an app server; its callers begin at once. Without callers, it gets one connection and
    /// does nothing with it.
    pub(crate) fn open(
        number: usize,
        setup: &Setup,
        log: &Rc<Log>,
        local: &LocalSet,
    ) -> Result<Self, Failure> {
        let pool = Pool::open(setup)?;
        let (opened, first) = (Instant::now(), Rc::new(Cell::new(None)));
        let mut callers = JoinSet::new();
        for caller in 0..setup.callers {
            let (pool, first, log) = (pool.clone(), Rc::clone(&first), Rc::clone(log));
            let hold = Duration::from_millis(setup.hold_ms);
            let call = async move {
                // Not in step; but somebody asks at once.
                if caller > 0 {
                    sleep(hold.mul_f64(fastrand::f64())).await;
                }
                call_for_ever(pool, number, hold, &first, &log).await;
            };
            callers.spawn_local_on(call, local);
        }
        if setup.callers == 0 {
            let (mut pool, first) = (pool.clone(), Rc::clone(&first));
            let warm_up = async move {
                if pool.request(number, Duration::ZERO, &first).await.is_ok() {
                    // Whoever holds the last clone of a pool closes it.
                    drop(pool);
                }
            };
            callers.spawn_local_on(warm_up, local);
        }
        Ok(Self { number, opened, first, pool, callers })
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn live(&self) -> usize {
        match &self.pool {
            // It counts the dials in flight, too.
            Pool::Bare(pool) => pool.status().size,
            Pool::Guarded(pool) | Pool::Shared(pool, _) => pool.status().live,
        }
    }

    pub(crate) fn first(&self) -> First {
        let first = self.first.get();
        let waited = first.unwrap_or_else(Instant::now) - self.opened;
        First { app: self.number, ms: waited.as_secs_f64() * 1e3, connected: first.is_some() }
    }

    /// Sends the callers away. What they hold comes back.
    pub(crate) async fn empty(&mut self) {
        self.callers.shutdown().await;
    }

    pub(crate) async fn close(self) {
        match self.pool {
            Pool::Bare(pool) => pool.close(),
            Pool::Guarded(pool) | Pool::Shared(pool, _) => pool.close().await,
        }
    }
}

impl Pool {
    fn open(setup: &Setup) -> Result<Self, Failure> {
        let (url, max) = (setup.url.as_str(), setup.max_connections);
        if setup.policy == Policy::Deadpool {
            let pool = deadpool_redis::Config::from_url(url)
                .builder()?
                .max_size(max)
                .wait_timeout(Some(PATIENCE))
                .runtime(deadpool_redis::Runtime::Tokio1)
                .build()?;
            return Ok(Self::Bare(pool));
        }
        // Each stands for a process of its own.
        let builder = GuardedPool::builder(url).own_gate(true);
        let builder = builder.max_connections(max).acquire_timeout(PATIENCE);
        let builder = match setup.policy {
            Policy::Gate => builder.watch(false),
            Policy::Lease | Policy::LeaseShared => builder.fleet(Fleet::named(&setup.fleet)),
            Policy::Multiplex => builder.multiplex(true),
            Policy::PriceLaw | Policy::Deadpool => builder,
        };
        let pool = builder.build()?;
        if setup.policy.is_shared() {
            let connection = pool.shared("sale");
            return Ok(Self::Shared(pool, connection));
        }
        Ok(Self::Guarded(pool))
    }

    /// One request: acquire a connection, `SET`, keep it for as long as it takes. Where it is shared,
    /// nobody keeps it, or what is kept is a lease that has none.
    async fn request(
        &mut self,
        number: usize,
        hold: Duration,
        first: &Cell<Option<Instant>>,
    ) -> Result<(), String> {
        let arrived = || {
            if first.get().is_none() {
                first.set(Some(Instant::now()));
            }
        };
        let text = |error: &dyn Display| error.to_string();
        let set = order(number);
        match self {
            Self::Bare(pool) => {
                let mut connection = pool.get().await.map_err(|e| text(&e))?;
                arrived();
                set.exec_async(&mut connection).await.map_err(|e| text(&e))?;
                sleep(hold).await;
            }
            Self::Guarded(pool) => {
                let mut connection = pool.acquire("sale").await.map_err(|e| text(&e))?;
                arrived();
                set.exec_async(&mut connection).await.map_err(|e| text(&e))?;
                sleep(hold).await;
            }
            Self::Shared(_, connection) => {
                connection.send(&set).await.map_err(|e| text(&e))?;
                arrived();
                sleep(hold).await;
            }
        }
        Ok(())
    }
}

async fn call_for_ever(
    mut pool: Pool,
    number: usize,
    hold: Duration,
    first: &Cell<Option<Instant>>,
    log: &Log,
) {
    loop {
        let hold = hold.mul_f64(0.5 + fastrand::f64());
        match pool.request(number, hold, first).await {
            Ok(()) => log.ok.set(log.ok.get() + 1),
            Err(error) => {
                log.failed.set(log.failed.get() + 1);
                *log.errors.borrow_mut().entry(generalised(&error)).or_default() += 1;
                sleep(hold).await;
            }
        }
    }
}

/// The order an app server takes. Should the run be interrupted, it expires.
fn order(app: usize) -> Cmd {
    let expiring = SetOptions::default().with_expiration(SetExpiry::EX(300));
    Cmd::set_options(format!("redis-guard:flash_sale:{app}"), "sold", expiring)
}

/// The same error with other numbers is the same error.
fn generalised(error: &str) -> String {
    let mut text = String::with_capacity(error.len());
    for c in error.chars() {
        match c {
            '0'..='9' | '.' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            _ => text.push(c),
        }
    }
    text
}
