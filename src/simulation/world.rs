//! The world of one run: its servers, its log, what was counted, and what must hold after every step.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::server::Host;
use crate::dial::Address;
use crate::pool::{Books, Page};
use crate::server::Server;

/// For how long there may be more connections than the limit while some are idle: a sweep comes once a second.
const OVER_FOR: Duration = Duration::from_secs(3);

/// At every so-manieth step the books are summed up as well.
const THOROUGH: u64 = 8;

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Things break.
    Trouble,
    /// All is mended, and has time to be found out.
    Recovery,
    /// Nothing is begun that takes long.
    Calm,
    /// Nothing may fail any more.
    Proof,
}

/// A part of the addresses in a run. They follow from the seed like everything else, for the pool's own chance goes
/// by them; of runs at the same time no two have the same ones, for what a process knows of a server, all its pools
/// share.
pub(super) fn network(seed: u64) -> u16 {
    u16::try_from(seed % (1 << 16)).unwrap_or_default()
}

/// What all that takes part in a run shares.
pub(super) struct World {
    pub(super) seed: u64,
    /// See [`network`].
    network: [u8; 2],
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) hosts: Vec<Host>,
    began: Instant,
    log: String,
    steps: u64,
    counts: BTreeMap<&'static str, u64>,
    violation: Option<String>,
    /// Of every pool that is open, or not empty yet, by its number; and of the others.
    books: Vec<(usize, Books)>,
    closed: Vec<(usize, Books)>,
    /// Since when a pool's node has more than its limit.
    over: BTreeMap<(usize, Arc<str>), Instant>,
    /// What the process knows of each host, kept for the whole run.
    known: Vec<Arc<Server>>,
    /// Where slots are, and who is whose replica.
    pub(super) shape: super::shape::Shape,
    pub(super) weather: super::server::Weather,
    next_connection: u64,
    phase: Phase,
}

impl World {
    pub(super) fn new(seed: u64, shape: super::shape::Shape) -> Arc<Self> {
        let network = network(seed).to_be_bytes();
        let rng = Rng::with_seed(seed);
        let world = Self {
            seed,
            network,
            state: Mutex::new(State {
                rng,
                hosts: Vec::new(),
                began: Instant::now(),
                log: String::new(),
                steps: 0,
                counts: BTreeMap::new(),
                violation: None,
                books: Vec::new(),
                closed: Vec::new(),
                over: BTreeMap::new(),
                known: Vec::new(),
                shape,
                weather: super::server::Weather::default(),
                next_connection: 0,
                phase: Phase::Trouble,
            }),
        };
        {
            let mut state = world.lock();
            for at in 0..state.shape.hosts() {
                let (host, port) = (world.ip(at), super::server::PORT);
                let address = Address::Tcp { host, port };
                state.known.push(Server::shared(&address, seed));
                let mut host = Host::new();
                host.is_sentinel = state.shape.is_sentinel(at);
                state.hosts.push(host);
            }
        }
        Arc::new(world)
    }

    /// Where a host is. Of the same width for all of them, so that their order is the same in every run.
    pub(super) fn ip(&self, host: usize) -> String {
        let [high, low] = self.network;
        format!("10.{high}.{low}.{}", 101 + host)
    }

    pub(super) fn host_at(&self, address: SocketAddr) -> Option<usize> {
        let SocketAddr::V4(address) = address else { return None };
        let [10, high, low, last] = address.ip().octets() else { return None };
        let at = usize::from(last).checked_sub(101)?;
        ([high, low] == self.network && at < self.lock().hosts.len()).then_some(at)
    }

    /// Never held while the pool's code runs, but for a look at its books.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// A step: something has happened, and is written down. Then everything that must hold is looked at.
    pub(super) fn step(&self, what: std::fmt::Arguments<'_>) {
        let mut state = self.lock();
        state.write(what);
        state.check();
    }

    /// The same, and it is counted.
    pub(super) fn event(&self, kind: &'static str, what: std::fmt::Arguments<'_>) {
        let mut state = self.lock();
        state.count(kind);
        state.write(format_args!("{kind} {what}"));
        state.check();
    }

    /// Something happened that must not.
    pub(super) fn fail(&self, what: String) {
        let mut state = self.lock();
        let books: Vec<_> = state.books.iter().map(|(_, books)| books.read(true)).collect();
        state.fail(format!("{what}; {books:?}"));
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    pub(super) fn steps(&self) -> u64 {
        self.lock().steps
    }

    pub(super) fn watch(&self, books: Books) {
        let mut state = self.lock();
        let number = state.books.len() + state.closed.len();
        state.books.push((number, books));
    }

    pub(super) fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
        self.step(format_args!("{phase:?}"));
    }

    /// What was counted, and the log.
    pub(super) fn take(&self) -> (u64, BTreeMap<&'static str, u64>, String) {
        let mut state = self.lock();
        (state.steps, std::mem::take(&mut state.counts), std::mem::take(&mut state.log))
    }

    /// At the end: all pools are closed, and nothing of them is left.
    pub(super) fn check_end(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        for (pool, books) in state.books.iter().chain(&state.closed) {
            for page in books.read(true).into_iter().flatten() {
                let counts = page.counts;
                let left =
                    counts.live + counts.dialing + counts.idle + counts.in_use + counts.waiting;
                if (left > 0 || page.sums != Some((0, 0))) && state.violation.is_none() {
                    state.violation = Some(format!("pool {pool} was closed, and has {page:?}"));
                }
            }
        }
        let held: Vec<usize> = state.hosts.iter().map(|host| host.held).collect();
        if held.iter().any(|held| *held > 0) {
            state.fail(format!("all pools are closed, and sockets are open: {held:?}"));
        }
    }
}

impl State {
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn write(&mut self, what: std::fmt::Arguments<'_>) {
        self.steps += 1;
        let now = self.now().as_micros();
        writeln!(self.log, "{}.{:06} {what}", now / 1_000_000, now % 1_000_000).expect("a string");
    }

    pub(super) fn count(&mut self, kind: &'static str) {
        *self.counts.entry(kind).or_default() += 1;
    }

    pub(super) fn fail(&mut self, what: String) {
        if self.violation.is_none() {
            self.write(format_args!("VIOLATION {what}"));
            self.violation = Some(what);
        }
    }

    pub(super) fn new_connection(&mut self) -> u64 {
        self.next_connection += 1;
        self.next_connection
    }

    /// What must hold after every step.
    fn check(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let mut counted = 0;
        let thorough = self.steps.is_multiple_of(THOROUGH);
        let mut closed = None;
        for at in 0..self.books.len() {
            let pool = self.books[at].0;
            let Some(pages) = self.books[at].1.read(thorough) else {
                return self.fail(format!("pool {pool} works on a socket under its lock"));
            };
            if !pages.is_empty() && pages.iter().all(|page| page.is_closed && page.is_drained) {
                closed = Some(at);
            }
            for page in pages {
                counted += page.counts.live + page.counts.dialing;
                if let Some(problem) = self.problem(pool, &page) {
                    return self.fail(format!("pool {pool}: {problem}: {page:?}"));
                }
            }
        }
        if let Some(at) = closed {
            // Its books are looked at once more in the end.
            let closed = self.books.remove(at);
            self.closed.push(closed);
        }
        let held: usize = self.hosts.iter().filter(|host| !host.is_sentinel).map(|h| h.held).sum();
        if held > counted {
            let pages: Vec<_> = self.books.iter().map(|(_, books)| books.read(false)).collect();
            self.fail(format!("{held} sockets are open, and {counted} are counted: {pages:?}"));
        }
        for at in 0..self.hosts.len() {
            let (dials, approved) = (self.hosts[at].dials, self.known[at].dials_approved());
            if dials > approved {
                self.fail(format!(
                    "host {at} was dialed {dials} times, and {approved} were allowed"
                ));
            }
        }
    }

    /// What is wrong with a node's books.
    fn problem(&mut self, pool: usize, page: &Page) -> Option<&'static str> {
        let counts = page.counts;
        if page.is_over && counts.idle > 0 && !page.is_closed {
            let key = (pool, Arc::clone(&page.server));
            let since = *self.over.entry(key).or_insert_with(Instant::now);
            if since.elapsed() > OVER_FOR {
                return Some("more connections than the limit, and some idle");
            }
        } else if !self.over.is_empty() {
            self.over.remove(&(pool, Arc::clone(&page.server)));
        }
        // One more for a moment: the successor of one that is to be replaced.
        if counts.live + counts.dialing > page.max_connections + 1 {
            return Some("more sockets than there may ever be");
        }
        if let Some((in_use, stored)) = page.sums {
            if in_use != counts.in_use {
                return Some("the endpoints' leases do not add up");
            }
            if stored != counts.idle {
                return Some("the store does not hold what the ledger says");
            }
        }
        if page.is_forgotten {
            return Some("somebody waits for what is idle");
        }
        page.is_stalled.then_some("a dial is wanted, and nobody makes it")
    }
}
