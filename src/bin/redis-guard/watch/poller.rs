//! One server's connection: opened once, kept, and opened again when it is lost.

use std::time::Duration;

use redis::RedisError;
use redis_guard::Backoff;
use redis_guard::doctor::{Probe, Target};
use redis_guard::server::ServerObserver;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::WatchArgs;
use super::state::{MOST_FLEETS, Update};

/// Slower than a service's at the start: nobody's request waits for it.
const BACKOFF: Backoff = Backoff::equal_jitter(Duration::from_millis(250), Duration::from_secs(5));

/// For what waiting does not mend, such as a wrong password: the server logs each of them.
const SLOW: Backoff = Backoff::equal_jitter(Duration::from_secs(5), Duration::from_secs(60));

/// A question may take this part of the server's time: one in so many.
const SHARE_OF_TIME: u32 = 100;

/// What was denied is asked for again after this: somebody may have changed the rules.
const DENIED: Duration = Duration::from_secs(60);

/// Nodes come and go this seldom.
const NODES: Duration = Duration::from_secs(60);

/// Timeouts in a row after which a connection is taken for dead.
const SILENCES: u32 = 3;

pub(super) type Sender = mpsc::Sender<(usize, Update)>;

#[derive(Debug)]
pub(super) struct Poller {
    server: usize,
    target: Target,
    interval: Duration,
    timeout: Duration,
    idle_after: Duration,
    top: usize,
    /// Whose registries are read; `None` until they have been looked for.
    fleets: Option<Vec<String>>,
    /// Survives the connection, so that a restart is seen.
    observer: ServerObserver,
    holders_due: Option<Instant>,
    registries_due: Option<Instant>,
    nodes_due: Option<Instant>,
    silences: u32,
    updates: Sender,
}

/// The connection is of no use any more, in whose words.
struct Lost(String);

impl Poller {
    pub(super) fn new(server: usize, target: Target, args: &WatchArgs, updates: Sender) -> Self {
        Self {
            server,
            target,
            interval: args.interval,
            timeout: args.access.timeout,
            idle_after: args.idle_after,
            top: args.top,
            fleets: args.fleet.clone().map(|fleet| vec![fleet]),
            observer: ServerObserver::default(),
            holders_due: None,
            registries_due: None,
            nodes_due: None,
            silences: 0,
            updates,
        }
    }

    /// Looks once whenever a round is called, until nobody listens any more.
    pub(super) async fn run(mut self, mut rounds: watch::Receiver<u64>) {
        let (mut fast, mut slow) = delays();
        while !self.updates.is_closed() {
            let mut probe = match Probe::connect(&self.target).await {
                Ok(probe) => probe,
                Err(failure) => {
                    let permanent = failure.outcome.is_permanent();
                    let delay = if permanent { slow.next() } else { fast.next() };
                    let next = Instant::now() + delay.unwrap_or(BACKOFF.cap());
                    self.tell(Update::Failed { failure, next: Some(next) }).await;
                    sleep_until(next).await;
                    continue;
                }
            };
            self.connected().await;
            let Lost(said) = loop {
                let round = *rounds.borrow_and_update();
                match self.look(&mut probe, round).await {
                    Ok(()) if self.silences == 0 => (fast, slow) = delays(),
                    Ok(()) => {}
                    Err(lost) => break lost,
                }
                if rounds.changed().await.is_err() {
                    return;
                }
            };
            drop(probe);
            let next = Instant::now() + fast.next().unwrap_or(BACKOFF.cap());
            self.tell(Update::Lost { said, next: Some(next) }).await;
            sleep_until(next).await;
        }
    }

    /// Two looks, an interval apart, and one dial.
    pub(super) async fn run_once(mut self) {
        let mut probe = match Probe::connect(&self.target).await {
            Ok(probe) => probe,
            Err(failure) => return self.tell(Update::Failed { failure, next: None }).await,
        };
        self.connected().await;
        for round in [1, 2] {
            if round == 2 {
                sleep(self.interval).await;
            }
            let looked = self.look(&mut probe, round).await;
            let late = format!("no answer in {:?}", self.timeout);
            let lost = looked.err().or((self.silences > 0).then_some(Lost(late)));
            if let Some(Lost(said)) = lost {
                return self.tell(Update::Lost { said, next: None }).await;
            }
        }
    }

    async fn connected(&mut self) {
        (self.holders_due, self.registries_due, self.nodes_due) = (None, None, None);
        self.silences = 0;
        self.tell(Update::Connected).await;
    }

    async fn look(&mut self, probe: &mut Probe, round: u64) -> Result<(), Lost> {
        let begun = Instant::now();
        probe.ask_again();
        let answer = probe.observe().await;
        let round_trip = begun.elapsed();
        let Some(answer) = self.heard(answer)? else { return Ok(()) };
        let answer = answer.map(|seen| self.observer.observe(seen.snapshot, Instant::now()));
        self.tell(Update::Observed(Box::new(answer))).await;
        let masters = probe.watched_masters().map(<[_]>::to_vec);
        let is_sentinel = masters.is_some();
        self.tell(Update::Sentinel(masters)).await;
        self.look_at_holders(probe, round_trip).await?;
        // A sentinel has no keys.
        if self.silences == 0 && !is_sentinel {
            self.look_at_fleets(probe, round_trip).await?;
        }
        if self.silences == 0 {
            self.look_at_nodes(probe).await?;
        }
        self.tell(Update::Answered(round)).await;
        Ok(())
    }

    /// Of a cluster's node: which others there are.
    async fn look_at_nodes(&mut self, probe: &mut Probe) -> Result<(), Lost> {
        let now = Instant::now();
        if self.nodes_due.is_some_and(|due| now < due) {
            return Ok(());
        }
        let answer = probe.cluster_nodes(&self.target).await;
        let Some(answer) = self.heard(answer)? else { return Ok(()) };
        self.nodes_due = Some(now + NODES);
        let names = |nodes: Vec<Target>| nodes.iter().map(|it| it.server().to_owned()).collect();
        // Where they are not told there is nobody to name.
        self.tell(Update::Cluster(answer.map_or(Some(Vec::new()), |nodes| nodes.map(names)))).await;
        Ok(())
    }

    async fn look_at_holders(&mut self, probe: &mut Probe, trip: Duration) -> Result<(), Lost> {
        let begun = Instant::now();
        if self.holders_due.is_some_and(|due| begun < due) {
            return Ok(());
        }
        let answer = probe.holders(self.idle_after, self.top).await;
        let pause = pause(&answer, begun.elapsed(), trip);
        self.holders_due = Some(begun + pause);
        if let Some(answer) = self.heard(answer)? {
            let every = Some(pause).filter(|pause| *pause > self.interval);
            self.tell(Update::Holders { answer: Box::new(answer), every }).await;
        }
        Ok(())
    }

    async fn look_at_fleets(&mut self, probe: &mut Probe, trip: Duration) -> Result<(), Lost> {
        let begun = Instant::now();
        if self.registries_due.is_some_and(|due| begun < due) {
            return Ok(());
        }
        let fleets = match self.fleets.clone() {
            Some(fleets) => fleets,
            None => {
                let answer = probe.fleets().await;
                let Some(found) = self.heard(answer)? else { return Ok(()) };
                let names = found.as_ref().map_or(Vec::new(), |fleets| fleets.names.clone());
                self.tell(Update::FleetsFound(found)).await;
                if names.is_empty() {
                    // The first member may come later.
                    self.registries_due = Some(begun + DENIED);
                    return Ok(());
                }
                self.fleets.insert(names).clone()
            }
        };
        let begun = Instant::now();
        let (mut registries, mut pauses) = (Vec::new(), Duration::ZERO);
        for fleet in fleets.iter().take(MOST_FLEETS) {
            let begun = Instant::now();
            let answer = probe.registry(fleet).await;
            pauses += pause(&answer, begun.elapsed(), trip * 3);
            let Some(answer) = self.heard(answer)? else { return Ok(()) };
            registries.extend(answer.transpose());
        }
        self.registries_due = Some(begun + pauses);
        self.tell(Update::Registries(registries)).await;
        Ok(())
    }

    /// An answer, or what the server says against it; `None` where it says nothing.
    fn heard<T>(
        &mut self,
        answer: Result<T, RedisError>,
    ) -> Result<Option<Result<T, String>>, Lost> {
        match answer {
            Err(error) if error.is_timeout() => {
                self.silences += 1;
                let long = self.silences >= SILENCES;
                let silence = self.timeout * self.silences;
                if long { Err(Lost(format!("no answer for {silence:?}"))) } else { Ok(None) }
            }
            Err(error) if error.is_io_error() || error.is_connection_dropped() => {
                Err(Lost(words(&error)))
            }
            Err(error) => Ok(Some(Err(words(&error)))),
            Ok(answer) => {
                self.silences = 0;
                Ok(Some(Ok(answer)))
            }
        }
    }

    /// Where nobody listens any more the process is about to end.
    async fn tell(&self, update: Update) {
        let _ = self.updates.send((self.server, update)).await;
    }
}

fn delays() -> (redis_guard::Delays, redis_guard::Delays) {
    (BACKOFF.delays(fastrand::u64(..)), SLOW.delays(fastrand::u64(..)))
}

/// How long to leave a question alone that took so long, on a way that took so long.
fn pause<T>(answer: &Result<T, RedisError>, took: Duration, trip: Duration) -> Duration {
    match answer {
        Ok(_) => took.saturating_sub(trip).saturating_mul(SHARE_OF_TIME),
        Err(_) => DENIED,
    }
}

/// The server's words, where it said something. An error may have a whole reply in it.
fn words(error: &RedisError) -> String {
    const MOST: usize = 300;
    let words = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    match words.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}
