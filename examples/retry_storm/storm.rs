//! One client's way through the three phases.

use std::time::Duration;

use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use crate::Failure;
use crate::args::{Args, Start};
use crate::clients::Contender;
use crate::common::bars::BUCKET;
use crate::common::numbers::fraction;
use crate::report;
use crate::run::{Log, Others, PerPhase, Phase, Run, Success};
use crate::target::{Target, key};

/// Each task sends a request this often.
const PACE: Duration = Duration::from_millis(5);
/// What the application holds when the server fills, with a warm start, of pools that lend: each its
/// share, at least one.
const HELD: usize = 4;

/// How long a restart takes: a pool that is dropped has its last look after a second at most.
const RESTART: Duration = Duration::from_millis(1_500);

/// Which phase it is and since when; `None` when it is over.
type Stage = Option<(Phase, Instant)>;

pub(crate) async fn storm<C: Contender>(target: &mut Target, args: &Args) -> Result<Run, Failure> {
    let refused_before = target.refused()?;
    let (refused, others) = (PerPhase::default(), PerPhase::default());
    let mut driver = Driver { target, args, name: C::NAME, refused, refused_before, others };

    let application = Application::start(&pools::<C>(&driver.target.url, args)?, args.tasks);
    driver.phase(Phase::Healthy, &application).await?;
    let mut log = application.stop().await?;
    driver.target.emptied(C::NAME).await?;

    // The application is restarted, and what the process knew of the server is gone with its last pool. It dials only to warm up, or for its requests, which come later.
    sleep(RESTART).await;
    let mut pools = pools::<C>(&driver.target.url, args)?;
    if args.start == Start::Warm {
        for pool in &mut pools {
            pool.warm_up((HELD / args.pools).max(1))
                .await
                .map_err(|e| format!("{}: cannot warm up: {e}", C::NAME))?;
        }
    }
    let leaked = driver.target.fill()?;
    let application = Application::start(&pools, args.tasks);
    driver.phase(Phase::Full, &application).await?;

    let next_dial_in = pools.iter().filter_map(C::next_dial_in).min();
    drop(leaked);
    driver.phase(Phase::Recovered, &application).await?;
    drop(pools);
    log.absorb(application.stop().await?);
    driver.target.emptied(C::NAME).await?;

    let run = Run::new(C::NAME, log, driver.refused, driver.others, next_dial_in);
    eprintln!("{}", report::progress(&run));
    Ok(run)
}

/// The application's pools, as many as were asked for.
fn pools<C: Contender>(url: &str, args: &Args) -> Result<Vec<C>, Failure> {
    (1..=args.pools).map(|nth| C::open(url, nth, args.pool_size())).collect()
}

/// Leads through the phases and watches the server meanwhile.
struct Driver<'a> {
    target: &'a mut Target,
    args: &'a Args,
    name: &'static str,
    refused: PerPhase<Vec<u64>>,
    refused_before: u64,
    others: PerPhase<Others>,
}

impl Driver<'_> {
    /// One phase, from now on. Counts the refused dials in each tenth of a second of it.
    async fn phase(&mut self, phase: Phase, application: &Application) -> Result<(), Failure> {
        let length = self.args.phases[phase];
        eprintln!("{:<22} {:<10} {:>4.1} s …", self.name, phase.as_str(), length.as_secs_f64());
        let cpu = self.target.cpu()?;
        // What came before is no phase's.
        let _ = self.target.bystander.took();
        let started = Instant::now();
        application.stage.send_replace(Some((phase, started)));

        let mut ticks = interval_at(started + BUCKET, BUCKET);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for _ in 0..length.as_millis() / BUCKET.as_millis() {
            ticks.tick().await;
            // Blocks, but on the thread of `main`, which runs none of the tasks.
            let refused = self.target.refused()?;
            self.refused[phase].push(refused.saturating_sub(self.refused_before));
            self.refused_before = refused;
        }
        let cpu = self.target.cpu()? - cpu;
        self.others[phase] = Others {
            bystander: self.target.bystander.took(),
            cpu_percent: 100.0 * cpu / started.elapsed().as_secs_f64(),
        };
        Ok(())
    }
}

/// The tasks of a running application.
struct Application {
    stage: watch::Sender<Stage>,
    tasks: JoinSet<Log>,
}

impl Application {
    /// The tasks begin with the first phase, and take the pools in turn.
    fn start<C: Contender>(pools: &[C], tasks: usize) -> Self {
        let (stage, seen) = watch::channel(None);
        let tasks = (0..tasks)
            .map(|task| work(pools[task % pools.len()].clone(), task, tasks, seen.clone()))
            .collect();
        Self { stage, tasks }
    }

    /// Ends the tasks. What is in flight is dropped and not counted.
    async fn stop(mut self) -> Result<Log, Failure> {
        self.stage.send_replace(None);
        let mut all = Log::default();
        while let Some(log) = self.tasks.join_next().await {
            all.absorb(log?);
        }
        Ok(all)
    }
}

async fn work<C: Contender>(
    mut client: C,
    task: usize,
    tasks: usize,
    mut stage: watch::Receiver<Stage>,
) -> Log {
    let key = key(task);
    let mut log = Log::default();
    let Ok(Some((_, begun))) = stage.wait_for(Option::is_some).await.map(|stage| *stage) else {
        return log;
    };
    // Spread over the first interval, so that the tasks do not march in step.
    let mut next = begun + PACE.mul_f64(fraction(task, tasks));
    loop {
        sleep_until(next).await;
        let asked = Instant::now();
        let outcome = select! {
            biased;
            outcome = client.request(&key) => outcome,
            _ = stage.wait_for(Option::is_none) => return log,
        };
        let heard = Instant::now();
        next = (next + PACE).max(heard);
        let Some((phase, since)) = *stage.borrow() else { return log };
        match outcome {
            Ok(()) => log.successes.push(Success {
                phase,
                at: heard.saturating_duration_since(since),
                took: heard - asked,
            }),
            Err(failed) => {
                log.failed[phase] += 1;
                log.refusals.extend(failed.refused_within);
                if phase == Phase::Full {
                    log.error = Some(failed.message);
                }
            }
        }
    }
}
