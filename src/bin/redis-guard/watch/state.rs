//! What the watch knows: filled by the pollers' updates, drawn by the view. Nothing is awaited here.

use std::time::{Duration, SystemTime};

use redis_guard::DialFailure;
use redis_guard::doctor::{Fleets, Holders, Registry, WatchedMaster};
use redis_guard::server::{Observation, worst};
use tokio::time::Instant;

use super::server::{Condition, Link, Server};
use crate::cli::Exit;

/// A fleet after these is not shown: `--fleet` chooses.
pub(super) const MOST_FLEETS: usize = 4;

#[derive(Debug)]
pub(super) struct State {
    pub(super) now: Instant,
    pub(super) at: SystemTime,
    pub(super) interval: Duration,
    pub(super) top: usize,
    pub(super) fleet: Option<String>,
    pub(super) servers: Vec<Server>,
    /// Somebody can press keys.
    pub(super) has_keys: bool,
    /// Of several servers the one that is looked at, by its place in `servers`.
    chosen: Option<usize>,
}

/// What a poller has to tell.
#[derive(Debug)]
pub(super) enum Update {
    Connected,
    Failed {
        failure: DialFailure,
        next: Option<Instant>,
    },
    Lost {
        said: String,
        next: Option<Instant>,
    },
    Observed(Box<Result<Observation, String>>),
    /// Whether it is a sentinel, and what that watches.
    Sentinel(Option<Vec<WatchedMaster>>),
    /// Whether it is a node of a cluster, and the others, where they are told.
    Cluster(Option<Vec<String>>),
    Holders {
        answer: Box<Result<Holders, String>>,
        every: Option<Duration>,
    },
    FleetsFound(Result<Fleets, String>),
    Registries(Vec<Result<Registry, String>>),
    /// All of a round has been answered.
    Answered(u64),
}

impl State {
    pub(super) fn new(
        servers: impl Iterator<Item = String>,
        interval: Duration,
        top: usize,
        fleet: Option<String>,
    ) -> Self {
        let servers = servers.enumerate().map(|(place, address)| Server::new(place, address));
        let servers = servers.collect();
        let (now, at) = (Instant::now(), SystemTime::now());
        Self { now, at, interval, top, fleet, servers, has_keys: false, chosen: None }
    }

    pub(super) fn apply(&mut self, server: usize, update: Update) {
        (self.now, self.at) = (Instant::now(), SystemTime::now());
        self.servers[server].apply(update, self.now, self.at);
    }

    /// A new round has been called.
    pub(super) fn asked(&mut self, round: u64) {
        self.now = Instant::now();
        for server in &mut self.servers {
            if matches!(server.link, Link::Up) && server.answered < round {
                server.owes_since.get_or_insert(self.now);
            }
        }
    }

    /// Nothing more is to come in this round.
    pub(super) fn is_complete(&self, round: u64) -> bool {
        self.servers.iter().all(|server| match server.link {
            Link::Dialing => false,
            Link::Up => server.answered >= round,
            Link::Down(_) => true,
        })
    }

    /// The round is over.
    pub(super) fn close_round(&mut self) {
        (self.now, self.at) = (Instant::now(), SystemTime::now());
        self.servers.iter_mut().for_each(Server::close_round);
    }

    /// What `--once` ends with.
    pub(super) fn exit(&self) -> Exit {
        let exit = |server: &Server| match server.condition(self.now) {
            Condition::Down | Condition::Dialing | Condition::Silent(_) => Exit::NotConnected,
            Condition::Full => Exit::Failed,
            _ if server.new_rejections > Some(0) => Exit::Failed,
            _ => Exit::Fine,
        };
        self.servers.iter().map(exit).max().unwrap_or(Exit::Fine)
    }

    /// A frame has been shown.
    pub(super) fn shown(&mut self) {
        self.servers.iter_mut().for_each(|server| server.new_events.clear());
    }

    /// Looks at the next one, in the order in which they are shown, or at the one before; before the first one
    /// at all of them.
    pub(super) fn choose(&mut self, next: bool) {
        let order: Vec<usize> = self.worst_first().iter().map(|server| server.place).collect();
        let now = self.chosen.and_then(|chosen| order.iter().position(|place| *place == chosen));
        let then = match (now, next) {
            (None, true) => Some(0),
            (None, false) => None,
            (Some(now), true) => Some((now + 1).min(order.len() - 1)),
            (Some(now), false) => now.checked_sub(1),
        };
        self.chosen = then.and_then(|then| order.get(then).copied()).filter(|_| order.len() > 1);
    }

    /// The one that is looked at.
    pub(super) fn chosen(&self) -> Option<&Server> {
        self.servers.get(self.chosen?)
    }

    /// Worst first: those without a connection, then by saturation; equals as they were given.
    pub(super) fn worst_first(&self) -> Vec<&Server> {
        let (mut order, mut up): (Vec<&Server>, Vec<&Server>) =
            self.servers.iter().partition(|server| !matches!(server.link, Link::Up));
        loop {
            let seen = up.iter().enumerate().rev();
            let seen = seen.filter_map(|(index, server)| Some((index, &server.seen.as_ref()?.0)));
            match worst(seen) {
                Some((index, _)) => order.push(up.remove(index)),
                None => break,
            }
        }
        order.extend(up);
        order
    }
}
