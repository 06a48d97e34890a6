//! The callers: what each kind does, again and again.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use redis::{AsyncCommands as _, Client, Cmd};
use redis_guard::tower::{GuardLayer, RetryPolicy};
use redis_guard::{Guard, GuardedConnection, GuardedPool, PubSubEvent};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

use crate::pools::{Pools, Urls, passing};
use crate::tally::{End, Kind, Tally, Topology, Trouble};

/// Far above every timeout of a pool, and above the longest that a server is away: what takes so long
/// would never have ended.
pub(crate) const HANG: Duration = Duration::from_secs(30);
const KEYS: u64 = 64;
const CHANNEL: &str = "soak:news";
const LIST: &str = "soak:list";
/// Longer than `leak_after`, and than what a check for leaks takes to come.
const LEAK: Duration = Duration::from_millis(2_500);
/// Leases of a caller that it has forgotten, at most.
const FORGOTTEN: u32 = 4;

/// One of few.
pub(crate) fn key(nth: u64) -> String {
    format!("soak:{}", nth % KEYS)
}

/// All callers; they end when they are told so.
pub(crate) struct Crew {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Crew {
    pub(crate) fn start(
        pools: &[Pools],
        urls: &Urls,
        tally: &Arc<Tally>,
        seed: u64,
    ) -> Result<Self, BoxError> {
        let (stop, stops) = watch::channel(false);
        let mut hire = Hire {
            tasks: JoinSet::new(),
            stops,
            tally: Arc::clone(tally),
            dice: fastrand::Rng::with_seed(seed),
        };
        for pools in pools {
            hire.leases(pools);
            hire.multiplexed(pools);
            hire.shared(pools);
            hire.subscribers(pools);
            hire.service(pools, urls)?;
            hire.cancelled(pools);
            hire.churn(pools, urls);
        }
        Ok(Self { tasks: hire.tasks, stop })
    }

    /// Tells them to end; how many did not, and were aborted, or panicked.
    pub(crate) async fn end(mut self) -> usize {
        let _ = self.stop.send(true);
        let mut bad = 0;
        let ended = timeout(HANG + HANG, async {
            while let Some(ended) = self.tasks.join_next().await {
                bad += usize::from(ended.is_err());
            }
        });
        if ended.await.is_err() {
            bad += self.tasks.len();
            self.tasks.shutdown().await;
        }
        bad
    }
}

/// What one call comes to.
type Call = Result<Done, Trouble>;

enum Done {
    Served,
    Cancelled,
}

struct Hire {
    tasks: JoinSet<()>,
    stops: watch::Receiver<bool>,
    tally: Arc<Tally>,
    dice: fastrand::Rng,
}

impl Hire {
    /// A caller that does `one` every so often, whatever became of the one before.
    fn caller<C, F>(&mut self, topology: Topology, kind: Kind, every: Duration, mut one: C)
    where
        C: FnMut(fastrand::Rng) -> F + Send + 'static,
        F: Future<Output = Call> + Send,
    {
        let (mut stops, tally) = (self.stops.clone(), Arc::clone(&self.tally));
        let mut dice = self.dice.fork();
        self.tasks.spawn(async move {
            while !*stops.borrow() {
                let started = Instant::now();
                let end = match timeout(HANG, one(dice.fork())).await {
                    Ok(Ok(Done::Served)) => End::Served,
                    Ok(Ok(Done::Cancelled)) => End::Cancelled,
                    Ok(Err(trouble)) => End::Failed(trouble),
                    Err(_) => End::Hung,
                };
                let took = started.elapsed();
                if kind == Kind::Plain && matches!(end, End::Served) {
                    tally.latency(topology).add(took);
                }
                if matches!(end, End::Hung) {
                    eprintln!("HUNG: {} {}", topology.as_str(), kind.as_str());
                }
                tally.of(topology, kind).end(end, took);
                let pause = every.mul_f64(0.5 + dice.f64()).saturating_sub(took);
                tokio::select! {
                    () = sleep(pause.max(Duration::from_millis(1))) => {}
                    _ = stops.changed() => {}
                }
            }
        });
    }

    fn leases(&mut self, pools: &Pools) {
        let topology = pools.topology;
        for pool in [&pools.exclusive, pools.mate.as_ref().unwrap_or(&pools.exclusive)] {
            let pool = pool.clone();
            self.caller(topology, Kind::Lease, ms(10), move |dice| lease(pool.clone(), dice));
        }
        let pool = pools.exclusive.clone();
        self.caller(topology, Kind::TryAcquire, ms(20), move |mut dice| {
            let pool = pool.clone();
            async move {
                let mut connection = pool.try_acquire("try")?;
                get(&mut connection, &key(dice.u64(..))).await
            }
        });
        for pool in [&pools.exclusive, &pools.multiplexed] {
            let pool = pool.clone();
            self.leaks(topology, pool);
        }
        for pool in [&pools.exclusive, &pools.multiplexed] {
            let pool = pool.clone();
            self.caller(topology, Kind::Transaction, ms(25), move |dice| {
                transaction(pool.clone(), dice)
            });
        }
        let pool = pools.exclusive.clone();
        self.caller(topology, Kind::Blocking, ms(50), move |_| {
            let pool = pool.clone();
            async move {
                let mut connection = pool.acquire_for("blocking", LIST).await?;
                let popped: redis::Value =
                    redis::cmd("BLPOP").arg(LIST).arg(0.3).query_async(&mut connection).await?;
                drop(popped);
                Ok(Done::Served)
            }
        });
    }

    /// Forgets its leases for a while.
    fn leaks(&mut self, topology: Topology, pool: GuardedPool) {
        let forgotten = Arc::new(Mutex::new(VecDeque::new()));
        self.caller(topology, Kind::Leak, LEAK / FORGOTTEN, move |mut dice| {
            let (pool, forgotten) = (pool.clone(), Arc::clone(&forgotten));
            async move {
                {
                    let mut forgotten = forgotten.lock().await;
                    while forgotten.len() >= FORGOTTEN as usize {
                        forgotten.pop_front();
                    }
                }
                let mut connection = pool.acquire("leak").await?;
                if dice.bool() {
                    connection.make_exclusive().await?;
                }
                get(&mut connection, &key(dice.u64(..))).await?;
                forgotten.lock().await.push_back(connection);
                Ok(Done::Served)
            }
        });
    }

    fn multiplexed(&mut self, pools: &Pools) {
        for _ in 0..2 {
            let pool = pools.multiplexed.clone();
            self.caller(pools.topology, Kind::Multiplexed, ms(10), move |dice| {
                lease(pool.clone(), dice)
            });
        }
    }

    fn shared(&mut self, pools: &Pools) {
        let topology = pools.topology;
        let handle = pools.shared.shared("plain");
        self.caller(topology, Kind::Plain, ms(5), move |mut dice| {
            let mut handle = handle.clone();
            async move {
                let _: Option<String> = handle.get(key(dice.u64(..))).await?;
                Ok(Done::Served)
            }
        });
        for _ in 0..2 {
            let handle = pools.shared.shared("shared");
            self.caller(topology, Kind::Shared, ms(10), move |mut dice| {
                let mut handle = handle.clone();
                async move {
                    let mut pipeline = redis::pipe();
                    for _ in 0..3 {
                        let (key, value) = (key(dice.u64(..)), dice.u64(..));
                        pipeline.set(&key, value).ignore().get(&key);
                    }
                    let _: Vec<Option<String>> = pipeline.query_async(&mut handle).await?;
                    Ok(Done::Served)
                }
            });
        }
    }

    fn subscribers(&mut self, pools: &Pools) {
        let topology = pools.topology;
        let handle = pools.shared.shared("publish");
        self.caller(topology, Kind::Publish, ms(50), move |mut dice| {
            let mut handle = handle.clone();
            async move {
                let _: i64 = handle.publish(CHANNEL, dice.u64(..)).await?;
                // For those who block, and no longer than a few.
                let _: i64 = handle.lpush(LIST, dice.u64(..)).await?;
                let _: () = handle.ltrim(LIST, 0, 20).await?;
                Ok(Done::Served)
            }
        });
        self.listener(pools);
        let (pool, stops) = (pools.exclusive.clone(), self.stops.clone());
        self.caller(topology, Kind::Visitor, ms(150), move |mut dice| {
            let (pool, mut stops) = (pool.clone(), stops.clone());
            async move {
                let mut visitor = match topology {
                    Topology::Cluster => pool.pubsub_for("visitor", CHANNEL).await?,
                    _ => pool.pubsub("visitor").await?,
                };
                visitor.subscribe(CHANNEL).await?;
                visitor.psubscribe("soak:n*").await?;
                if dice.bool() {
                    tokio::select! {
                        heard = visitor.next() => drop(heard.transpose()?),
                        // Nobody publishes any more.
                        _ = stops.changed() => {}
                    }
                }
                if dice.bool() {
                    visitor.unsubscribe(CHANNEL).await?;
                }
                Ok(Done::Served)
            }
        });
    }

    /// One subscriber for all the run. A call is one message.
    fn listener(&mut self, pools: &Pools) {
        let (topology, pool) = (pools.topology, pools.exclusive.clone());
        let (mut stops, tally) = (self.stops.clone(), Arc::clone(&self.tally));
        self.tasks.spawn(async move {
            let count = tally.of(topology, Kind::Subscriber);
            let mut held = None;
            while !*stops.borrow() {
                let started = Instant::now();
                let one = async {
                    let listener = match &mut held {
                        Some(listener) => listener,
                        None => {
                            let mut listener = pool.pubsub("subscriber").await?;
                            listener.subscribe(CHANNEL).await?;
                            held.insert(listener)
                        }
                    };
                    match listener.next().await {
                        Some(event) => event.map(|event| matches!(event, PubSubEvent::Gap)),
                        None => Ok(true),
                    }
                };
                let end = tokio::select! {
                    end = timeout(HANG, one) => end,
                    _ = stops.changed() => break,
                };
                let end = match end {
                    // The news that something was missed is no message.
                    Ok(Ok(true)) => continue,
                    Ok(Ok(false)) => End::Served,
                    Ok(Err(error)) => {
                        let wait = error.retry_after().unwrap_or(ms(50)).min(ms(500));
                        sleep(wait).await;
                        End::Failed(error.into())
                    }
                    Err(_) => End::Hung,
                };
                count.end(end, started.elapsed());
            }
        });
    }

    /// Through tower: the pool as a service with retries, and a guard before somebody else's calls.
    fn service(&mut self, pools: &Pools, urls: &Urls) -> Result<(), BoxError> {
        let topology = pools.topology;
        let service = ServiceBuilder::new()
            .retry(RetryPolicy::default().longest_wait(ms(100)).seed(1))
            .service(pools.shared.service("service"));
        self.caller(topology, Kind::Service, ms(15), move |mut dice| {
            let service = service.clone();
            async move {
                service.oneshot(Cmd::get(key(dice.u64(..)))).await?;
                Ok(Done::Served)
            }
        });
        let guard = match topology {
            // One of its own, before calls that dial each time.
            Topology::Single => Guard::builder()
                .name("soak-guard")
                .max_in_flight(4)
                .acquire_timeout(Duration::from_secs(1))
                .build()?,
            _ => pools.shared.guard(),
        };
        let (client, handle) = (Client::open(urls.single.as_str())?, pools.shared.shared("inner"));
        let inner = service_fn(move |cmd: Cmd| {
            let (client, mut handle) = (client.clone(), handle.clone());
            async move {
                match topology {
                    Topology::Single => {
                        let mut dialed = client.get_multiplexed_async_connection().await?;
                        cmd.query_async::<redis::Value>(&mut dialed).await
                    }
                    _ => cmd.query_async::<redis::Value>(&mut handle).await,
                }
            }
        });
        let guarded =
            ServiceBuilder::new().layer(GuardLayer::new(&guard, "guarded")).service(inner);
        let every = if topology == Topology::Single { ms(200) } else { ms(20) };
        self.caller(topology, Kind::Guarded, every, move |mut dice| {
            let guarded = guarded.clone();
            async move {
                guarded.oneshot(Cmd::get(key(dice.u64(..)))).await?;
                Ok(Done::Served)
            }
        });
        Ok(())
    }

    /// Callers that lose interest at any point.
    fn cancelled(&mut self, pools: &Pools) {
        for nth in 0..2 {
            let pools = pools.clone();
            self.caller(pools.topology, Kind::Cancelled, ms(8), move |mut dice| {
                let pools = pools.clone();
                let patience = Duration::from_micros(dice.u64(0..3_000));
                let call = any(pools, dice);
                async move {
                    if nth == 0 {
                        return timeout(patience, call).await.unwrap_or(Ok(Done::Cancelled));
                    }
                    let task = tokio::spawn(call);
                    sleep(patience).await;
                    task.abort();
                    match task.await {
                        Ok(ended) => ended,
                        Err(error) if error.is_cancelled() => Ok(Done::Cancelled),
                        Err(error) => Err(trouble("panicked", error)),
                    }
                }
            });
        }
    }

    fn churn(&mut self, pools: &Pools, urls: &Urls) {
        let (topology, urls) = (pools.topology, urls.clone());
        self.caller(topology, Kind::Churn, ms(400), move |mut dice| {
            let pool = passing(&urls, topology).multiplex(dice.bool()).build();
            async move {
                let pool = pool.map_err(|error| trouble("build", error))?;
                let used = lease(pool.clone(), dice.fork()).await;
                let held = if dice.bool() { pool.acquire("held").await.ok() } else { None };
                if dice.bool() {
                    drop(held);
                    pool.close().await;
                }
                used
            }
        });
    }
}

/// SET and GET on a lease.
async fn lease(pool: GuardedPool, mut dice: fastrand::Rng) -> Call {
    let mut connection = match dice.bool() {
        true => pool.get().await?,
        false => pool.acquire("lease").await?,
    };
    let key = key(dice.u64(..));
    let _: () = connection.set(&key, dice.u64(..)).await?;
    get(&mut connection, &key).await
}

async fn get(connection: &mut GuardedConnection, key: &str) -> Call {
    let _: Option<String> = connection.get(key).await?;
    Ok(Done::Served)
}

async fn transaction(pool: GuardedPool, mut dice: fastrand::Rng) -> Call {
    let key = key(dice.u64(..));
    let mut connection = pool.acquire_for("transaction", &key).await?;
    let _: () = redis::cmd("WATCH").arg(&key).query_async(&mut connection).await?;
    let value: Option<u64> = connection.get(&key).await?;
    if dice.u8(..) < 64 {
        // What is left behind is the pool's to clear away.
        return Ok(Done::Served);
    }
    let mut pipeline = redis::pipe();
    pipeline.atomic().set(&key, value.unwrap_or(0).wrapping_add(1)).ignore().get(&key);
    let _: Option<(Option<u64>,)> = pipeline.query_async(&mut connection).await?;
    Ok(Done::Served)
}

/// Some call over some pool.
async fn any(pools: Pools, mut dice: fastrand::Rng) -> Call {
    match dice.u8(0..7) {
        0 => lease(pools.exclusive, dice).await,
        1 => lease(pools.multiplexed, dice).await,
        2 => transaction(pools.exclusive, dice).await,
        3 => transaction(pools.multiplexed, dice).await,
        4 => {
            let _: Option<String> = pools.shared.shared("cancelled").get(key(dice.u64(..))).await?;
            Ok(Done::Served)
        }
        5 => {
            // Over a lease that the handle takes by itself.
            let mut handle = pools.shared.shared("cancelled");
            let _: redis::Value =
                redis::cmd("BLPOP").arg("soak:nothing").arg(0.1).query_async(&mut handle).await?;
            Ok(Done::Served)
        }
        _ => {
            let mut visitor = pools.exclusive.pubsub("cancelled").boxed().await?;
            visitor.subscribe(CHANNEL).await?;
            visitor.next().await.transpose()?;
            Ok(Done::Served)
        }
    }
}

fn trouble(reason: &str, error: impl std::fmt::Display) -> Trouble {
    Trouble { reason: reason.to_owned(), text: error.to_string() }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
