//! One client's way through the three phases.

use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::Failure;
use crate::args::Args;
use crate::clients::Contender;
use crate::common::bars::BUCKET;
use crate::common::numbers::fraction;
use crate::report;
use crate::run::{Ended, How, Keys, Log, Node, Outcome, PerPhase, Phase, Run};
use crate::set::{Counts, FULL, Set};

/// Each task sends a request this often.
const PACE: Duration = Duration::from_millis(5);
/// What has not ended by then hangs, and is given up.
pub(crate) const HUNG: Duration = Duration::from_secs(2);
/// For a client to connect before the run.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Which phase it is and since when; `None` when it is over.
type Stage = Option<(Phase, Instant)>;

pub(crate) async fn storm<C: Contender>(set: &Set, args: &Args) -> Result<Run, Failure> {
    let mut driver = Driver::new::<C>(set, args);
    let service = Service::start::<C>(set, args.tasks).await?;
    driver.phase(Phase::Healthy, &service).await;
    driver.phase(Phase::Full, &service).await;
    driver.phase(Phase::Freed, &service).await;
    let log = service.stop().await?;
    set.emptied(C::NAME).await?;

    let run = driver.run::<C>(log);
    eprintln!("{}", report::progress(&run));
    Ok(run)
}

/// Leads through the phases and watches the nodes meanwhile.
struct Driver<'a> {
    set: &'a Set,
    args: &'a Args,
    name: &'static str,
    nodes: Vec<Node>,
    /// At the last look.
    last: Vec<Counts>,
    refused: PerPhase<Vec<u64>>,
    longest_look: Duration,
}

impl<'a> Driver<'a> {
    fn new<C: Contender>(set: &'a Set, args: &'a Args) -> Self {
        let node = |(nth, (server, master))| Node {
            server,
            role: if master { "master" } else { "replica" },
            full: nth == FULL,
            dials_refused: 0,
            sockets_peak: 0,
        };
        let nodes = set.nodes().enumerate().map(node).collect();
        let (last, refused) = (set.counts(), PerPhase::default());
        Self { set, args, name: C::NAME, nodes, last, refused, longest_look: Duration::ZERO }
    }

    /// One phase, from now on. Looks at the nodes in each tenth of a second of it.
    async fn phase(&mut self, phase: Phase, service: &Service) {
        let length = self.args.phases[phase];
        eprintln!("{:<23} {:<8} {:>4.1} s …", self.name, phase.as_str(), length.as_secs_f64());
        // The node is full for the whole of that phase.
        if phase == Phase::Full {
            self.set.fill();
        }
        let started = Instant::now();
        service.stage.send_replace(Some((phase, started)));
        if phase == Phase::Freed {
            self.set.free();
        }

        let mut ticks = interval_at(started + BUCKET, BUCKET);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for _ in 0..length.as_millis() / BUCKET.as_millis() {
            let due = ticks.tick().await;
            // Blocks, but on the thread of `main`, which runs none of the tasks.
            let now = self.set.counts();
            self.longest_look = self.longest_look.max(due.elapsed());
            let mut refused = 0;
            for ((node, last), now) in self.nodes.iter_mut().zip(&self.last).zip(&now) {
                refused += now.refused - last.refused;
                node.dials_refused += now.refused - last.refused;
                node.sockets_peak = now.sockets.max(node.sockets_peak);
            }
            self.refused[phase].push(refused);
            self.last = now;
        }
    }

    fn run<C: Contender>(self, log: Log) -> Run {
        let buckets = PerPhase::of(|phase| self.refused[phase].len());
        Run {
            name: C::NAME,
            terms: C::TERMS,
            nodes: self.nodes,
            full_node: Outcome::of(Keys::Full, &log, buckets),
            others: Outcome::of(Keys::Others, &log, buckets),
            refused: self.refused,
            longest_look: self.longest_look,
            last_error: log.last_error,
            other_errors: log.other_errors,
        }
    }
}

/// A running service: one client, and the tasks that use it, on a runtime of their own. That ends with
/// them, and whatever the client has left running.
struct Service {
    stage: watch::Sender<Stage>,
    tasks: JoinSet<Log>,
    _runtime: Own,
}

struct Own(Option<Runtime>);

impl Drop for Own {
    fn drop(&mut self) {
        // It may be dropped by a task of another one, which may not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Service {
    /// The tasks begin with the first phase.
    async fn start<C: Contender>(set: &Set, tasks: usize) -> Result<Self, Failure> {
        let runtime = Runtime::new()?;
        let opening = runtime.spawn(timeout(OPEN_LIMIT, C::open(set.seeds())));
        let runtime = Own(Some(runtime));
        let client = opening.await?.map_err(|_| format!("{}: cannot connect in time", C::NAME))?;
        let client = client.map_err(|e| format!("{}: cannot connect at all: {e}", C::NAME))?;

        let (stage, seen) = watch::channel(None);
        let mut all = JoinSet::new();
        for (task, keys) in set.keys(tasks).into_iter().enumerate() {
            let keys = keys.into_iter().enumerate();
            let keys =
                keys.map(|(nth, key)| (if nth == FULL { Keys::Full } else { Keys::Others }, key));
            let mut keys: Vec<_> = keys.collect();
            // So that at any time all nodes are asked.
            let first = task % keys.len();
            keys.rotate_left(first);
            let work = work(client.clone(), keys, fraction(task, tasks), seen.clone());
            if let Own(Some(runtime)) = &runtime {
                all.spawn_on(work, runtime.handle());
            }
        }
        Ok(Self { stage, tasks: all, _runtime: runtime })
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

/// Sends one request each [`PACE`], for a key of each master in turn, whatever became of the one before.
/// One that takes longer costs the requests that it had no time for, and none is made up for: those who
/// have waited for the same thing would send theirs all at once from then on, also when all is well again.
async fn work<C: Contender>(
    mut client: C,
    keys: Vec<(Keys, String)>,
    offset: f64,
    mut stage: watch::Receiver<Stage>,
) -> Log {
    let mut log = Log::default();
    let Ok(Some((_, begun))) = stage.wait_for(Option::is_some).await.map(|stage| *stage) else {
        return log;
    };
    // Spread over the first interval, so that the tasks do not march in step.
    let mut beat = interval_at(begun + PACE.mul_f64(offset), PACE);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for (of, key) in keys.iter().cycle() {
        beat.tick().await;
        let asked = Instant::now();
        let outcome = select! {
            biased;
            outcome = timeout(HUNG, client.set(key)) => outcome,
            _ = stage.wait_for(Option::is_none) => return log,
        };
        let heard = Instant::now();
        let Some((phase, since)) = *stage.borrow() else { return log };
        let how = match outcome {
            Ok(Ok(())) => How::Succeeded,
            Ok(Err(message)) => {
                match of {
                    Keys::Others => log.other_errors.add(phase, message),
                    Keys::Full if phase == Phase::Full => log.last_error = Some(message),
                    Keys::Full => {}
                }
                How::Failed
            }
            Err(_) => How::Hung,
        };
        let at = heard.saturating_duration_since(since);
        log.ended.push(Ended { keys: *of, phase, at, took: heard - asked, how });
    }
    log
}
