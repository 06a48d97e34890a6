//! The one who does the faults, on a thread of its own, one at a time, with times of quiet between.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;

use crate::args::Args;
use crate::faults::{Done, Fault, Stage};
use crate::pools::{Pools, client_name};
use crate::server::poll;
use crate::servers::Servers;
use crate::tally::{Kind, Tally, Topology};

/// How long after everything was mended a caller may still not be served: the longest back-off, and
/// some for a busy machine.
const RECOVER_WITHIN: Duration = Duration::from_secs(30);
/// How long what a pool and its servers count may differ: connections come and go.
const AGREE_WITHIN: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(10);
/// More faults than a run of a day has.
const LOG_MAX: usize = 20_000;
const FINDINGS_MAX: usize = 50;

/// What the run is at, for the sampler.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Nothing is done, everybody was served again, and some time has passed since.
    pub(crate) calm: bool,
    pub(crate) over: bool,
    pub(crate) faults: VecDeque<Done>,
    pub(crate) findings: Vec<String>,
    /// How often the pools' books were compared with the servers'.
    pub(crate) compared: u64,
}

/// What the operator and the run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) started: Instant,
    stop: AtomicBool,
    log: Mutex<Log>,
}

impl Shared {
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that should not be so.
    pub(crate) fn found(&self, what: String) {
        eprintln!("FOUND: {what}");
        let mut log = self.log();
        if log.findings.len() < FINDINGS_MAX {
            log.findings.push(what);
        }
    }
}

/// How long a fault lasts; shorter if the run is interrupted.
#[derive(Debug)]
pub(crate) struct Hold {
    time: Duration,
    shared: Arc<Shared>,
}

impl Hold {
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    pub(crate) fn hold(&self) {
        self.part(1);
    }

    pub(crate) fn part(&self, of: u32) {
        self.wait(self.time / of);
    }

    fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.stops() {
            thread::sleep(TICK);
        }
    }

    fn stops(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }
}

/// Dropped, it ends the fault that is under way, and waits for that: no server is started behind
/// our back.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Operator {
    pub(crate) fn start(
        args: &Args,
        servers: Arc<Servers>,
        pools: Vec<Pools>,
        tally: Arc<Tally>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stop: AtomicBool::new(false),
            log: Mutex::default(),
        });
        let hold = Hold { time: args.hold(), shared: Arc::clone(&shared) };
        let round = Round { args: args.clone(), servers, pools, tally, hold };
        let thread = thread::Builder::new().name("operator".to_owned()).spawn(move || {
            // The servers' support code panics where a server does not do what it should.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round.go())) {
                let words = panic.downcast_ref::<String>().cloned();
                let words = words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                let words = words.unwrap_or_default();
                round.hold.shared.found(format!("the operator has given up: {words:.2000}"));
            }
            let mut log = round.hold.shared.log();
            (log.calm, log.over) = (false, true);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits for the end of the thread, which has said that it is over.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

struct Round {
    args: Args,
    servers: Arc<Servers>,
    pools: Vec<Pools>,
    tally: Arc<Tally>,
    hold: Hold,
}

impl Round {
    fn go(&self) {
        let shared = &self.hold.shared;
        let mut dice = fastrand::Rng::with_seed(self.args.seed);
        let mut deck: Vec<Fault> = Vec::new();
        if self.recover("the start").is_some() {
            self.calm();
        }
        while shared.started.elapsed() < self.args.time && !self.hold.stops() {
            if deck.is_empty() {
                deck = Fault::all();
                if let Some(only) = &self.args.only {
                    deck.retain(|fault| fault.title().contains(only.as_str()));
                }
                dice.shuffle(&mut deck);
            }
            let Some(fault) = deck.pop() else { return };
            self.play(&fault, dice.u64(0..1 << 16));
        }
    }

    fn play(&self, fault: &Fault, dice: u64) {
        let shared = &self.hold.shared;
        let single = &self.pools[Topology::Single as usize];
        let from = shared.started.elapsed();
        fault.strike(&Stage { servers: &self.servers, single, hold: &self.hold, dice });
        if let Err(trouble) = self.servers.renew() {
            shared.found(format!("after {}: {trouble}", fault.title()));
        }
        let mended = shared.started.elapsed();
        let last = self.recover(&fault.title());
        let is_well = last.is_some();
        let recovered = shared.started.elapsed();
        let last = last.unwrap_or_default();
        let done = Done { title: fault.title(), from, mended, recovered, last };
        eprintln!(
            "{:8.1} s  {:<58} {:5.1} s, all served {:.1} s after, last {}",
            from.as_secs_f64(),
            done.title,
            (mended - from).as_secs_f64(),
            (recovered - mended).as_secs_f64(),
            done.last
        );
        {
            let mut log = shared.log();
            if log.faults.len() == LOG_MAX {
                log.faults.pop_front();
            }
            log.faults.push_back(done);
        }
        if is_well {
            self.calm();
        }
    }

    /// Waits until callers of each kind were served again, and says who was the last.
    fn recover(&self, after: &str) -> Option<String> {
        let served = || self.tally.all().map(|(_, _, count)| count.served()).collect::<Vec<_>>();
        let before = served();
        let since = Instant::now();
        let mut last = String::new();
        loop {
            let left: Vec<(Topology, Kind)> = (self.tally.all().zip(&before))
                .filter(|((_, _, count), before)| count.served() <= **before)
                .map(|((topology, kind, _), _)| (topology, kind))
                .collect();
            let Some((topology, kind)) = left.last() else { return Some(last) };
            if self.hold.stops() {
                return None;
            }
            last = format!("{} {}", topology.as_str(), kind.as_str());
            if since.elapsed() > RECOVER_WITHIN {
                for (topology, kind) in left {
                    let reasons = self.tally.of(topology, kind).reasons();
                    self.hold.shared.found(format!(
                        "{RECOVER_WITHIN:?} after {after} nobody of {} {} was served: {reasons:?}; {:#?}",
                        topology.as_str(),
                        kind.as_str(),
                        self.pools[topology as usize].statuses(),
                    ));
                }
                return None;
            }
            thread::sleep(TICK);
        }
    }

    /// A time of quiet, and what must be so in it.
    fn calm(&self) {
        self.hold.wait(self.args.settle());
        self.hold.shared.log().calm = true;
        self.hold.wait(self.args.quiet() - self.args.settle());
        self.hold.shared.log().calm = false;
        if !self.hold.stops() {
            Topology::ALL.into_iter().for_each(|topology| self.compare_books(topology));
        }
    }

    /// The pools' count of their sockets, and the servers'.
    fn compare_books(&self, topology: Topology) {
        let pools = &self.pools[topology as usize];
        let mut seen = (0, 0);
        let agreed = poll(AGREE_WITHIN, || {
            seen = (self.servers.connected(topology, &client_name(topology)), pools.sockets());
            (seen.0 == seen.1).then_some(())
        });
        self.hold.shared.log().compared += 1;
        if agreed.is_none() {
            let (counted, own) = seen;
            let statuses: Vec<_> = pools.statuses().iter().map(short).collect();
            self.hold.shared.found(format!(
                "{}: the servers count {counted} connections, the pools {own}: {statuses:#?}",
                topology.as_str()
            ));
        }
    }
}

fn short(status: &redis_guard::Status) -> String {
    let redis_guard::Status { pool, live, idle, in_use, dialing, waiting, lanes, .. } = status;
    format!(
        "{pool}: {live} live, {idle} idle, {in_use} in use, {dialing} dialing, {waiting} waiting, \
         {lanes:?}"
    )
}
