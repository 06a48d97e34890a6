//! One client's way through the three failovers.

use std::time::Duration;

use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};

use crate::Failure;
use crate::args::{Args, POOL_SIZE};
use crate::clients::Contender;
use crate::common::numbers::fraction;
use crate::outcome::Run;
use crate::report;
use crate::run::{Record, Sample, Scenario, Times, Write};
use crate::sentinel::Switch;
use crate::set::Set;

/// Each task sends a write this often.
const PACE: Duration = Duration::from_millis(10);
/// How often the counters are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Before each failover.
const CALM: Duration = Duration::from_secs(1);
/// After the sentinels' word, until the frozen server goes on.
const ASLEEP: Duration = Duration::from_millis(1_500);
/// After the old master has become a replica.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// After the sentinels' word, where there is no old master any more.
const AFTER_DEATH: Duration = Duration::from_secs(3);
/// For the sentinels to have their word, and for the old master to become a replica.
const LIMIT: Duration = Duration::from_secs(40);

pub(crate) async fn drive<C: Contender>(mut set: Set, args: &Args) -> Result<Run, Failure> {
    let urls = set.sentinel_urls();
    let mut pools = (0..args.pools)
        .map(|nth| C::open(&urls, nth, POOL_SIZE))
        .collect::<Result<Vec<_>, Failure>>()?;
    set.master();
    for pool in &mut pools {
        let ready = pool.warm_up(POOL_SIZE).await;
        ready.map_err(|e| format!("{}: cannot connect at all: {e}", C::NAME))?;
    }

    let started = Instant::now();
    let service = Service::start(&pools, args.tasks, started);
    let mut driver = Driver { set: &mut set, pools: &pools, started, samples: Vec::new() };
    driver.look()?;
    let mut scenarios = Vec::new();
    for scenario in Scenario::ALL {
        eprintln!("{:<24} {:<18} …", C::NAME, scenario.title());
        scenarios.push(driver.scenario(scenario).await?);
    }
    let samples = driver.samples;
    let writes = service.stop().await?;
    let kept = set.keys(set.master())?;

    let record = Record { pools: args.pools, writes, samples, scenarios };
    let run = Run::new(C::NAME, C::TERMS, &record, &kept);
    eprintln!("{}", report::progress(&run));
    Ok(run)
}

/// Leads through the failovers and watches the servers meanwhile.
struct Driver<'a, C> {
    set: &'a mut Set,
    pools: &'a [C],
    started: Instant,
    samples: Vec<Sample>,
}

impl<C: Contender> Driver<'_, C> {
    async fn scenario(&mut self, scenario: Scenario) -> Result<Times, Failure> {
        let began = self.since();
        self.watch_for(CALM).await?;
        let old = self.set.master();
        let said = self.set.words_since(0).len();
        let struck = self.since();
        match scenario {
            Scenario::Planned => self.set.fail_over(),
            Scenario::Frozen => self.set.freeze(old),
            Scenario::Killed => self.set.kill(old),
        }
        let word = |set: &Set| !set.words_since(said).is_empty();
        self.watch_until("the sentinels to name a new master", word).await?;
        let mut woke = None;
        match scenario {
            Scenario::Killed => self.watch_for(AFTER_DEATH).await?,
            Scenario::Planned | Scenario::Frozen => {
                if scenario == Scenario::Frozen {
                    self.watch_for(ASLEEP).await?;
                    self.set.wake(old);
                    woke = Some(self.since());
                }
                self.watch_until("the old master to follow the new", |set| set.follows(old))
                    .await?;
                self.watch_for(AFTERWARDS).await?;
            }
        }
        let words = self.set.words_since(said);
        let at = |word: &Switch| word.at - self.started;
        Ok(Times {
            scenario,
            began,
            struck,
            word: words.iter().map(at).min().unwrap_or_default(),
            last_word: words.iter().map(at).max().unwrap_or_default(),
            woke,
            ended: self.since(),
        })
    }

    async fn watch_for(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        self.watch_until("time to pass", |_| Instant::now() >= end).await
    }

    /// Blocks now and then, but on the thread of `main`, which runs none of the tasks.
    async fn watch_until(
        &mut self,
        what: &str,
        is_so: impl Fn(&Set) -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + LIMIT;
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !is_so(self.set) {
            if timeout_at(deadline, ticks.tick()).await.is_err() {
                return Err(format!("waited {LIMIT:?} for {what}").into());
            }
            self.look()?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), Failure> {
        let servers = self.set.counts()?;
        let client = self.pools.iter().map(C::dialed).sum();
        self.samples.push(Sample { at: self.since(), servers, client });
        Ok(())
    }

    fn since(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The tasks of a running service.
struct Service {
    over: watch::Sender<bool>,
    tasks: JoinSet<Vec<Write>>,
}

impl Service {
    /// The tasks take the pools in turn.
    fn start<C: Contender>(pools: &[C], tasks: usize, started: Instant) -> Self {
        let (over, seen) = watch::channel(false);
        let tasks = (0..tasks)
            .map(|task| {
                let pool = task % pools.len();
                let mut client = pools[pool].clone();
                let mut over = seen.clone();
                // Spread over the first interval, so that the tasks do not march in step.
                let first = started + PACE.mul_f64(fraction(task, tasks));
                async move {
                    let mut writes = Vec::new();
                    select! {
                        _ = over.wait_for(|over| *over) => {}
                        () = work(&mut client, (task, pool), (started, first), &mut writes) => {}
                    }
                    writes
                }
            })
            .collect();
        Self { over, tasks }
    }

    /// Ends the tasks. What is in flight is dropped and not counted.
    async fn stop(mut self) -> Result<Vec<Write>, Failure> {
        self.over.send_replace(true);
        let mut all = Vec::new();
        while let Some(writes) = self.tasks.join_next().await {
            all.extend(writes?);
        }
        all.sort_by_key(|write: &Write| write.heard);
        Ok(all)
    }
}

/// Sends one write each [`PACE`], whatever became of the one before; if that took longer, the next
/// follows at once. Each has a key of its own, so that one can see later whether it was kept.
async fn work<C: Contender>(
    client: &mut C,
    (task, pool): (usize, usize),
    (started, first): (Instant, Instant),
    writes: &mut Vec<Write>,
) {
    let mut next = first;
    for number in 0_u64.. {
        sleep_until(next).await;
        let key = format!("failover:{task}:{number}");
        let error = client.write(&key).await.err();
        let heard = Instant::now();
        next = (next + PACE).max(heard);
        writes.push(Write { key, pool, heard: heard - started, error });
    }
}
